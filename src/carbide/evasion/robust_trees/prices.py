"""What one training row pays to enter a box of bins, and which bins it reaches with the money that is left; compiled.

What a feature costs is gathered once a feature (``Lane``): passing a whole ``Reach`` for every row takes longer than the sums themselves.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from carbide.evasion._compiled import inner
from carbide.evasion.robust_trees.attackers import Reach

SLACK = 1e-9


class Lane(NamedTuple):
    """One feature of a ``Reach``: its ``cuts`` ``(c,)``, ``count`` of them used; prices, step, bounds; ``matrix`` ``(s, s)`` where ``tabled``."""

    cuts: Any
    count: Any
    up: Any
    down: Any
    fixed: Any
    step: Any
    lower: Any
    upper: Any
    tabled: Any
    matrix: Any
    first: Any


@inner
def lane_of(reach: Reach, f):  # pragma: no cover - compiled
    """What feature ``f`` costs."""
    table = reach.table[f]
    return Lane(reach.cuts[f], reach.count[f], reach.up[f], reach.down[f], reach.fixed[f], reach.step[f], reach.lower[f], reach.upper[f],
                table >= 0, reach.matrix[max(table, 0)], reach.first[f])  # fmt: skip


@inner
def unit_of(value, scale):  # pragma: no cover - compiled
    """What one unit of a feature is in units of its price, for a row's values ``(d,)``: 1, or the size of the value that it is divided by."""
    return abs(value[scale]) if scale >= 0 else 1.0


@inner
def bin_of(cuts, count, value):  # pragma: no cover - compiled
    """The number of the first ``count`` cuts at or below the value, compared in float32."""
    value, low, high = np.float64(np.float32(value)), 0, count
    while low < high:
        middle = (low + high) // 2
        if cuts[middle] <= value:
            low = middle + 1
        else:
            high = middle
    return low


@inner
def entry_price(lane: Lane, at, x, unit, low, high):  # pragma: no cover - compiled
    """The least that moves a value ``x`` in bin ``at`` into the bins ``low .. high``; inf where nothing does."""
    if at == 255 or (low <= at <= high):
        return 0.0
    if lane.tabled:
        best, code = np.inf, np.int64(x - lane.first)
        if 0 <= code < lane.matrix.shape[0]:
            for c in range(lane.matrix.shape[0]):
                if c != code and lane.matrix[code, c] < best and low <= bin_of(lane.cuts, lane.count, lane.first + c) <= high:
                    best = lane.matrix[code, c]
        return best
    step = lane.step
    if at > high:
        rate, gap = lane.down, x - lane.cuts[high]
        gap = (np.floor(gap / step) + 1) * step if step > 0 else gap
        if x - gap < lane.lower - SLACK:
            return np.inf
    else:
        rate, gap = lane.up, lane.cuts[low - 1] - x
        gap = np.ceil(gap / step) * step if step > 0 else gap
        if x + gap > lane.upper + SLACK:
            return np.inf
    if np.isinf(rate):
        return np.inf
    return lane.fixed + rate * unit * gap


@inner
def _far(lane: Lane, rate, unit, rest):  # pragma: no cover - compiled
    """How far the money ``rest`` moves a value at ``rate`` a unit."""
    rate *= unit
    gap = rest / rate if rate > 0 else np.inf
    return np.floor(gap / lane.step) * lane.step if lane.step > 0 else gap


@inner
def span(lane: Lane, at, x, unit, money, low, high):  # pragma: no cover - compiled
    """The outermost of the bins ``low .. high`` that a movable row with value ``x`` in bin ``at`` reaches for ``money``."""
    if at == 255:
        return 255, 255
    first, last = at, at
    if lane.tabled:
        code, count = np.int64(x - lane.first), lane.matrix.shape[0]
        first, last = (at, at) if low <= at <= high else (255, -1)
        if 0 <= code < count:
            for c in range(count):
                if c != code and lane.matrix[code, c] <= money + SLACK:
                    b = bin_of(lane.cuts, lane.count, lane.first + c)
                    if low <= b <= high:
                        first, last = min(first, b), max(last, b)
    else:
        rest = money - lane.fixed + SLACK
        if rest >= 0:
            if np.isfinite(lane.down):
                gap = _far(lane, lane.down, unit, rest)
                first = min(at, bin_of(lane.cuts, lane.count, max(x - gap, min(lane.lower, x))))
            if np.isfinite(lane.up):
                gap = _far(lane, lane.up, unit, rest)
                last = max(at, bin_of(lane.cuts, lane.count, min(x + gap, max(lane.upper, x))))
    first, last = max(first, low), min(last, high)
    if first > last:  # it came here, so by rounding alone it seems that it did not
        first = last = min(max(at, low), high)
    return first, last
