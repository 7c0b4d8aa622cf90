"""The exact search for the cheapest evasion of a tree ensemble, on plain arrays.

``search(ensemble, x, prices, space, threshold=..., budget=...)`` gives for every row the least price at which the attacker gets the
trees' probability of class 1 below the threshold, and a row that does it. ``search_ball`` asks whether a ball holds a row of another
class. Both return a ``SearchResult``; its ``lower`` is a proven lower bound, so the result is its own certificate. ``best_profit`` asks for the
evasion that earns the most less what it costs.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.trees import ensemble_of
>>> from carbide.types import Price, PriceTable, Space
>>> trees = ensemble_of(DecisionTreeClassifier().fit([[1.0, 0.0], [3.0, 0.0]], [0, 1]))
>>> prices, space = PriceTable(prices={"a": Price(down=2.0)}), Space.table(["a", "b"])
>>> result = search(trees, np.array([[5.0, 0.0]]), prices, space)
>>> round(float(result.cost[0]), 3), str(result.status[0])
(6.0, 'exact')
"""

from __future__ import annotations

from carbide.evasion._tree_search.profit import ProfitResult, best_profit
from carbide.evasion._tree_search.search import SearchResult, cutoff, search, search_ball

__all__ = ["ProfitResult", "SearchResult", "best_profit", "cutoff", "search", "search_ball"]
