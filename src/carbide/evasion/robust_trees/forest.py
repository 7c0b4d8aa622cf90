"""Vos & Verwer 2021, https://arxiv.org/abs/2012.10438 (GROOT): a random forest whose splits have the best worst-case Gini impurity.

Where rows may be moved across a split, their placement with the worst impurity is a closed form, for one class moving and for both.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> x = rng.uniform(size=(200, 2))
>>> RobustForestClassifier(attacker=0.1, n_estimators=5, random_state=0).fit(x, (x[:, 0] > 0.5).astype(int)).predict([[0.9, 0.1], [0.1, 0.9]]).tolist()
[1, 0]
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from carbide.evasion._threads import Threads
from carbide.evasion.robust_trees.attackers import Reach
from carbide.evasion.robust_trees.base import RobustTrees, columns_drawn
from carbide.evasion.robust_trees.grow import Grower, Tree
from carbide.evasion.robust_trees.splits import GINI, rules
from carbide.types import Array, InputError

SLOPE = 4.0  # of the logit at one half: a mean vote near it is about its probability


class RobustForestClassifier(RobustTrees):
    """A forest of robust trees; its score is ``4 (mean vote - 1/2)``, so that XGBoost serves it; probabilities rank rows as the mean vote does.

    ``attacker``: the radius of an Linf ball, a ``Box`` or a ``Spender``. ``min_leaf_weight``: the weight of rows a leaf needs; ``max_features``: share of
    the columns drawn a node, or ``sqrt``; ``bootstrap``: draw the rows of each tree. More than two classes are trained one against the rest.
    """

    def __init__(self, attacker: Any = 0.0, *, n_estimators: int = 100, max_depth: int = 8, max_bins: int = 255, min_leaf_weight: float = 1.0,
                 max_features: Any = "sqrt", bootstrap: bool = False, random_state: Any = None) -> None:  # fmt: skip
        self.attacker, self.n_estimators, self.max_depth, self.max_bins = attacker, n_estimators, max_depth, max_bins
        self.min_leaf_weight, self.max_features, self.bootstrap, self.random_state = min_leaf_weight, max_features, bootstrap, random_state

    def _check(self) -> None:
        super()._check()
        if not 0 <= self.min_leaf_weight < math.inf:
            raise InputError(f"min_leaf_weight is {self.min_leaf_weight!r}; give a number >= 0")

    def _grow(self, reach: Reach, positive: Array, weight: Array, seed: int) -> list[Tree]:
        n, d = len(positive), len(reach.count)
        asked = rules(kind=GINI, depth=self.max_depth, least=max(self.min_leaf_weight, 1e-9), gain=1e-9, features=columns_drawn(self.max_features, d))
        rng, columns, trees = np.random.default_rng(seed), np.arange(d), []
        with Threads() as threads:
            grower = Grower(reach, asked, threads)
            for number in range(self.n_estimators):
                drawn = np.bincount(rng.integers(n, size=n), minlength=n).astype(float) * weight if self.bootstrap else weight
                start = np.flatnonzero(drawn > 0).astype(np.int32)
                tree = grower.grow(positive, np.zeros(n), drawn, start, columns, seed + (number << 32))
                trees.append(tree._replace(value=np.where(tree.feature < 0, SLOPE * (tree.value - 0.5) / self.n_estimators, 0.0)))
        return trees
