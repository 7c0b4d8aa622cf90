"""The cheapest change of a table row that is wrong if the model and its ratios were linear: a linear program, exact for linear models.

>>> from carbide.types import FeatureBudget, Linear, Price, PriceTable, Space
>>> space = Space.table(["least", "most"], lower=np.zeros(2), upper=np.full(2, 9.0), relations=(Linear(features=(0, 1), coefficients=(1.0, -1.0), upper=0.0),))
>>> prices = PriceTable(prices={"least": Price(down=1.0), "most": Price(down=2.0)})
>>> market = Market(np.array([[5.0, 5.0]]), FeatureBudget(money=9, prices=prices), space)
>>> cheapest_change(market, np.array([[0.0, -1.0]]), market.clean, np.array([0]), np.array([2.0])).tolist()
[[3.0, 3.0]]
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linprog

from carbide.evasion._market import Market
from carbide.types import Array, Linear


def cheapest_change(market: Market, gradient: Array, x: Array, rows: Array, wanted: Array) -> Array:
    """Changes ``(m, d)`` of the rows with the choices of ``x`` ``(m, d)``: the cheapest that rise by ``wanted`` ``(m,)`` to first order.

    ``gradient`` ``(m, d)``, of features that are no ratios, is that at ``x``, and so are the ratios' slopes. Without linear relations a sort
    solves it; where the linear program has no solution that sort's answer, which may break relations, is given.
    """
    held = np.where(market.smooth, market.clean[rows], x)
    out = market.cheapest(np.where(market.smooth, gradient, 0.0), rows, wanted) + held - market.clean[rows]
    linear = [r for r in market.space.relations if isinstance(r, Linear)]
    if not (linear and market.priced):
        return out
    columns = np.flatnonzero(market.smooth)
    normals = [market.normal(r, x)[:, columns] for r in linear]
    over = np.stack([x[:, list(r.features)] @ np.asarray(r.coefficients) - r.upper for r in linear], 1)
    for i, row in enumerate(rows):
        normal = np.stack([n[i] for n in normals])
        used = (normal != 0).any(1)
        away = np.nan_to_num(x[i, columns] - held[i, columns])
        matrix = np.concatenate([-gradient[i, columns][None], normal[used]])
        limit = np.concatenate([[-wanted[i]], (normal @ away - over[i])[used]])
        change = _solve(market, int(row), columns, matrix, limit)
        if change is not None:
            out[i] = held[i]
            out[i, columns] += change
    return out


def _solve(market: Market, row: int, columns: Array, matrix: Array, limit: Array) -> Array | None:
    """The cheapest change of these columns with ``matrix @ change <= limit``, in units of each column's room; None where there is none."""
    rise, fall = (market.high - market.clean)[row, columns], (market.clean - market.low)[row, columns]
    price = np.concatenate(
        [np.where(np.isfinite(unit[columns]), unit[columns], 0.0) * room for unit, room in ((market.up, rise), (market.down, fall))]
    )
    both = np.concatenate([matrix * rise, -matrix * fall], 1)
    scale = np.maximum(np.abs(both).max(1), 1e-300)
    found = linprog(price + 1e-9 * market.limit, A_ub=both / scale[:, None], b_ub=limit / scale, bounds=(0.0, 1.0))
    if found.status != 0:
        return None
    m = len(columns)
    return found.x[:m] * rise - found.x[m:] * fall
