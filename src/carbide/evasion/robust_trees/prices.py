"""What one training row pays to enter a box of bins, and which bins it reaches with the money that is left; compiled."""

from __future__ import annotations

import numpy as np
from numba import njit

from carbide.evasion.robust_trees.attackers import Reach

SLACK = 1e-9


@njit(cache=True)
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


@njit(cache=True)
def entry_price(reach: Reach, row, f, low, high):  # pragma: no cover - compiled
    """The least that moves feature ``f`` of a row into the bins ``low .. high``; inf where nothing does."""
    at, s = np.int64(reach.bin[f, row]), reach.slot[row]
    if at == 255 or (low <= at <= high):
        return 0.0
    x, table = reach.value[s, f], reach.table[f]
    if table >= 0:
        best, code = np.inf, np.int64(x - reach.first[f])
        if 0 <= code < reach.matrix.shape[1]:
            for c in range(reach.matrix.shape[1]):
                if c != code and reach.matrix[table, code, c] < best and low <= bin_of(reach.cuts[f], reach.count[f], reach.first[f] + c) <= high:
                    best = reach.matrix[table, code, c]
        return best
    step = reach.step[f]
    if at > high:
        rate, gap = reach.down[f], x - reach.cuts[f, high]
        gap = (np.floor(gap / step) + 1) * step if step > 0 else gap
        if x - gap < reach.lower[f] - SLACK:
            return np.inf
    else:
        rate, gap = reach.up[f], reach.cuts[f, low - 1] - x
        gap = np.ceil(gap / step) * step if step > 0 else gap
        if x + gap > reach.upper[f] + SLACK:
            return np.inf
    if np.isinf(rate):
        return np.inf
    unit = abs(reach.value[s, reach.scale[f]]) if reach.scale[f] >= 0 else 1.0
    return reach.fixed[f] + rate * unit * gap


@njit(cache=True)
def span(reach: Reach, row, f, money, low, high):  # pragma: no cover - compiled
    """The outermost of the bins ``low .. high`` that a movable row reaches in feature ``f`` for ``money``, where moves have prices."""
    at, s = np.int64(reach.bin[f, row]), reach.slot[row]
    if at == 255:
        return 255, 255
    first, last = at, at
    if reach.table[f] >= 0:
        code, count = np.int64(reach.value[s, f] - reach.first[f]), reach.matrix.shape[1]
        first, last = (at, at) if low <= at <= high else (255, -1)
        if 0 <= code < count:
            for c in range(count):
                if c != code and reach.matrix[reach.table[f], code, c] <= money + SLACK:
                    b = bin_of(reach.cuts[f], reach.count[f], reach.first[f] + c)
                    if low <= b <= high:
                        first, last = min(first, b), max(last, b)
    else:
        x, step, rest = reach.value[s, f], reach.step[f], money - reach.fixed[f] + SLACK
        unit = abs(reach.value[s, reach.scale[f]]) if reach.scale[f] >= 0 else 1.0
        if rest >= 0:
            if np.isfinite(reach.down[f]):
                rate = reach.down[f] * unit
                gap = rest / rate if rate > 0 else np.inf
                gap = np.floor(gap / step) * step if step > 0 else gap
                first = min(at, bin_of(reach.cuts[f], reach.count[f], max(x - gap, min(reach.lower[f], x))))
            if np.isfinite(reach.up[f]):
                rate = reach.up[f] * unit
                gap = rest / rate if rate > 0 else np.inf
                gap = np.floor(gap / step) * step if step > 0 else gap
                last = max(at, bin_of(reach.cuts[f], reach.count[f], min(x + gap, max(reach.upper[f], x))))
    first, last = max(first, low), min(last, high)
    if first > last:  # it came here, so by rounding alone it seems that it did not
        first = last = min(max(at, low), high)
    return first, last


@njit(cache=True)
def others_price(reach: Reach, row, f, paid, lows, highs):  # pragma: no cover - compiled
    """What a row in a box ``lows .. highs`` ``(d,)`` has ``paid`` apart from feature ``f`` and the one that moves with it."""
    if lows[f] > 0 or highs[f] < reach.count[f]:
        own = entry_price(reach, row, f, lows[f], highs[f])
    else:
        own = 0.0
    twin = reach.twin[f]
    if twin >= 0 and (lows[twin] > 0 or highs[twin] < reach.count[twin]):
        own = max(own, entry_price(reach, row, twin, lows[twin], highs[twin]))
    return max(0.0, paid - own)


@njit(cache=True)
def child_price(reach: Reach, row, f, others, lows, highs, low, high):  # pragma: no cover - compiled
    """What it has paid once feature ``f`` lies in ``low .. high``."""
    own, twin = entry_price(reach, row, f, low, high), reach.twin[f]
    if twin >= 0 and (lows[twin] > 0 or highs[twin] < reach.count[twin]):
        own = max(own, entry_price(reach, row, twin, lows[twin], highs[twin]))
    return others + own
