"""The most profitable evasion: what a row that passes earns, less what changing it costs.

Where the price table's gain ``follows`` the changed row, a unit of it earns as much as it is worth: lowering the gain costs that besides its
price, and raising it pays. The search then works on prices that may be below 0; else profit is the row's own gain less the least price.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.trees import ensemble_of
>>> from carbide.types import Price, PriceTable, Space
>>> trees = ensemble_of(DecisionTreeClassifier().fit([[10.0, 0.0], [50.0, 0.0]], [0, 1]))
>>> space = Space.table(["amount", "age"], lower=np.zeros(2), upper=np.array([100.0, 9.0]))
>>> prices = PriceTable(prices={"amount": Price(up=0.0, down=0.0)}, gain="amount", follows=True)
>>> result = best_profit(trees, np.array([[70.0, 0.0], [5.0, 0.0]]), prices, space)
>>> result.profit.round(3).tolist(), result.status.tolist()  # up to the threshold, from above and from below
([30.0, 30.0], ['exact', 'exact'])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carbide.evasion._tree_search.search import BOXES, _How, cheapest_changes, cutoff
from carbide.models.trees import Ensemble
from carbide.space.membership import allowed
from carbide.space.prices import cost as price_of
from carbide.space.prices import price_arrays
from carbide.space.relations import targets_of
from carbide.types import Array, InputError, PriceTable, Space


@dataclass(frozen=True, kw_only=True, eq=False)
class ProfitResult:
    """What is known of each of n rows, in the price table's currency.

    ``profit`` ``(n,)``: gain less price of ``witness`` ``(n, d)``, 0 where none that pays was found (the witness is then the clean row).
    ``upper`` ``(n,)``: no evasion earns more. ``gain`` and ``price`` ``(n,)`` of the witness. ``status`` ``(n,)``: ``exact`` (profit equals
    upper), ``none`` (no evasion pays), ``unknown`` (the most profitable one earns between profit and upper). ``nodes`` ``(n,)``: boxes looked at.
    """

    profit: Array
    upper: Array
    witness: Array
    gain: Array
    price: Array
    status: Array
    nodes: Array


def best_profit(ensemble: Ensemble, x: Array, prices: PriceTable, space: Space, *, threshold: float = 0.5, boxes: int = BOXES,
                rounding: int = 0) -> ProfitResult:  # fmt: skip
    """The changes of rows ``x`` ``(n, *shape)`` that get the probability of class 1 below ``threshold`` and earn the most.

    A row that passes as it is earns its gain for nothing. ``boxes`` and ``rounding`` as in ``search``.

    Raises:
        InputError: if the table names no gain, a row lacks its gain, or the gain has no most profitable value.
    """
    rows = np.ascontiguousarray(x, np.float64).reshape(len(x), int(np.prod(x.shape[1:])))
    at = _gain(prices, space)
    gain = rows[:, at]
    if not np.isfinite(gain).all():
        raise InputError(f"gain {prices.gain} is {gain[~np.isfinite(gain)][0]} in a row; give rows that say what they earn")
    how = _How(cutoff=cutoff(ensemble, threshold, rounding), budget=gain, first=False, boxes=boxes)
    found = cheapest_changes(ensemble, rows, prices, space, how, earns=1.0 if prices.follows else 0.0)
    hit = np.isfinite(found.cost) & allowed(found.witness, rows, space)
    witness = np.where(hit[:, None], found.witness, rows)
    price = price_of(rows, witness, prices, space)
    kept = witness[:, at] if prices.follows else gain
    profit = np.where(hit, kept - price, 0.0)
    pays = profit > 0
    upper = np.maximum(np.where(found.status == "exact", np.where(hit, profit, gain - found.lower), gain - found.lower), np.maximum(profit, 0.0))
    upper = np.where(found.status == "safe", np.maximum(profit, 0.0), upper)
    status = np.where(upper > np.maximum(profit, 0.0), "unknown", np.where(pays, "exact", "none")).astype("U7")
    return ProfitResult(profit=np.where(pays, profit, 0.0), upper=upper, witness=np.where(pays[:, None], witness, rows), gain=np.where(pays, kept, 0.0),
                        price=np.where(pays, price, 0.0), status=status, nodes=found.nodes)  # fmt: skip


def _gain(prices: PriceTable, space: Space) -> int:
    """The gain's column, once it is clear that some value of it earns the most."""
    if prices.gain is None:
        raise InputError('the price table names no gain, so nothing says what a row earns; add "gain": "amount"')
    at, name = space.index(prices.gain), prices.gain
    if not prices.follows:
        return at
    if at in targets_of(space):
        raise InputError(f"gain {name} follows the changed row and is itself recomputed from other features; name one of those")
    price = prices.prices.get(name)
    if any(at in group for group in space.groups) or (price is not None and min(price.hide, price.fill) < np.inf):
        raise InputError(f"gain {name} follows the changed row, where it may be missing or of a one-hot group; name a number that is always there")
    up = price_arrays(prices, space)[0][at]
    if np.isinf(space.upper.ravel()[at]) and up < 1 and (price is None or price.matrix is None):
        endless = price is None or not price.up_steps or np.isinf(price.up_steps[-1][0])
        if endless:
            raise InputError(f"gain {name} has no upper bound and earns more than raising it costs, without end; give it an upper bound in the space")
    return at
