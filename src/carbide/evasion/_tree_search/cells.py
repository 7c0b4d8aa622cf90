"""What it costs a row to move along each axis into each cell, and which value of the cell is the cheapest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from carbide.types import Array


class Cells(NamedTuple):
    """The affordable cells of every axis of one row; axis a's lie at ``start[a] : start[a] + count[a]``, ascending in value.

    ``cost``, ``value``: the cheapest allowed value of the cell and its price; ``low``, ``high``: the cell's allowed values.
    ``home`` is the clean value's cell. ``first`` and ``last`` are the numbers of the least and largest kept cell among the axis's
    cuts, ``rank`` (at ``offset[a]``) counts the kept cells up to each cut, and ``merged`` and ``flipped`` translate the cuts of features that
    share an axis.
    """

    start: Array
    count: Array
    cost: Array
    value: Array
    low: Array
    high: Array
    home: Array
    first: Array
    last: Array
    offset: Array
    rank: Array
    merged: Array
    flipped: Array
    linked: Array
    own: Array
    scratch: Array


def workspace(axes, forest) -> Cells:
    """Room for the cells of any row."""
    sizes = np.zeros(len(axes.feature), np.int64)
    linked = np.zeros(len(forest.start) - 1, np.bool_)
    for a, f in enumerate(axes.feature):
        sizes[a] = forest.start[f + 1] - forest.start[f] + 1
        for k in range(axes.link_start[a], axes.link_start[a + 1]):
            g = axes.link_target[k]
            sizes[a] += forest.start[g + 1] - forest.start[g]
            linked[f] = linked[g] = True
    offset = np.concatenate([[0], np.cumsum(sizes)])
    total, a, c = int(offset[-1]), len(sizes), len(forest.cuts)
    return Cells(start=offset[:-1].copy(), count=np.zeros(a, np.int64), cost=np.zeros(total), value=np.zeros(total), low=np.zeros(total), high=np.zeros(total),
                 home=np.zeros(a, np.int64), first=np.zeros(a, np.int64), last=np.zeros(a, np.int64), offset=offset[:-1].copy(),
                 rank=np.zeros(total, np.int64), merged=np.zeros(c, np.int64), flipped=np.zeros(c, np.bool_), linked=linked,
                 own=np.zeros(len(linked), np.int64), scratch=np.zeros(max(1, int(sizes.max(initial=1)))))  # fmt: skip


@njit(cache=True)
def price(axes, a, v, w):  # pragma: no cover - compiled
    """What moving axis a from v to w costs."""
    if v == w:
        return 0.0
    if axes.matrix[a] >= 0:
        i, j = v - axes.anchor[a], w - axes.anchor[a]
        if i != np.floor(i) or j != np.floor(j) or min(i, j) < 0 or max(i, j) >= axes.size[a]:
            return np.inf
        return axes.moves[axes.matrix[a] + int(i) * axes.size[a] + int(j)]
    rate = axes.up[a] if w > v else axes.down[a]
    if rate == 0.0:
        return axes.fixed[a]
    way = abs(w - v)
    return axes.fixed[a] + rate * (way if axes.power[a] == 1.0 else way ** axes.power[a])


@njit(cache=True)
def _grid_up(v, step, anchor):  # pragma: no cover - compiled
    if step == 0.0 or not np.isfinite(v):
        return v
    j = np.ceil((v - anchor) / step - 1e-9)
    while anchor + j * step < v:
        j += 1
    return anchor + j * step


@njit(cache=True)
def _grid_down(v, step, anchor):  # pragma: no cover - compiled
    if step == 0.0 or not np.isfinite(v):
        return v
    j = np.floor((v - anchor) / step + 1e-9)
    while anchor + j * step > v:
        j -= 1
    return anchor + j * step


@njit(cache=True)
def last_below(t, below):  # pragma: no cover - compiled
    """The largest double v with ``v / below <= t``, for ``below`` > 0."""
    v = t * below
    if not np.isfinite(v):
        return v
    while v / below > t:
        v = np.nextafter(v, -np.inf)
    while np.nextafter(v, np.inf) / below <= t:
        v = np.nextafter(v, np.inf)
    return v


@njit(cache=True)
def _mapped(t, below):  # pragma: no cover - compiled
    """The cut on the numerator that a cut on the ratio means; for a negative denominator the two sides change places."""
    if below > 0:
        return last_below(t, below)
    # v / below <= t holds from the least v with v / -below >= -t on, so the cut lies just before that v.
    v = -last_below(t, -below)
    return np.nextafter(v, -np.inf) if np.isfinite(v) else v


@njit(cache=True)
def _edges(axes, forest, row, a, cells):  # pragma: no cover - compiled
    """The cuts along axis a in this row, ascending, into ``cells.scratch``; returns their number."""
    f = axes.feature[a]
    first, last = forest.start[f], forest.start[f + 1]
    n = last - first
    cells.scratch[:n] = forest.cuts[first:last]
    if axes.link_start[a] == axes.link_start[a + 1]:
        return n
    for k in range(axes.link_start[a], axes.link_start[a + 1]):
        g, below = axes.link_target[k], row[axes.link_below[k]]
        for i in range(forest.start[g], forest.start[g + 1]):
            cells.scratch[n] = _mapped(forest.cuts[i], below)
            n += 1
    ordered = np.unique(cells.scratch[:n])
    cells.scratch[: len(ordered)] = ordered
    for i in range(first, last):
        cells.merged[i], cells.flipped[i] = np.searchsorted(ordered, forest.cuts[i]), False
    for k in range(axes.link_start[a], axes.link_start[a + 1]):
        g, below = axes.link_target[k], row[axes.link_below[k]]
        for i in range(forest.start[g], forest.start[g + 1]):
            cells.merged[i], cells.flipped[i] = np.searchsorted(ordered, _mapped(forest.cuts[i], below)), below < 0
    return len(ordered)


@njit(cache=True)
def _fill(axes, a, v, low, high, home, at, cells):  # pragma: no cover - compiled
    """One cell with allowed values in ``[low, high]`` into place ``at``; False if it holds none."""
    if home:
        cells.cost[at], cells.value[at] = 0.0, v
        cells.low[at], cells.high[at] = (min(low, v), max(high, v)) if low <= high else (v, v)
        return True
    if not low <= high:
        return False
    cells.low[at], cells.high[at], cells.cost[at] = low, high, np.inf
    if axes.matrix[a] >= 0:
        for j in range(axes.size[a]):
            w = axes.anchor[a] + j
            paid = price(axes, a, v, w) if low <= w <= high else np.inf
            if paid < cells.cost[at]:
                cells.cost[at], cells.value[at] = paid, w
    else:
        cells.value[at] = low if v < low else high
        cells.cost[at] = price(axes, a, v, cells.value[at])
    return cells.cost[at] < np.inf


@njit(cache=True)
def fill_cells(axes, forest, row, i, limit, cells, frozen):  # pragma: no cover - compiled
    """Price the cells of row i that cost less than ``limit``; where ``frozen``, axes with ratios stay at home."""
    for f in range(len(cells.own)):
        v = row[f]
        cells.own[f] = -1 if np.isnan(v) else np.searchsorted(forest.cuts[forest.start[f] : forest.start[f + 1]], v)
    for a in range(len(axes.feature)):
        v, start = row[axes.feature[a]], cells.start[a]
        cells.count[a], cells.home[a], cells.first[a], cells.last[a] = 1, 0, 0, 0
        cells.cost[start], cells.value[start], cells.low[start], cells.high[start] = 0.0, v, v, v
        held = np.isnan(v) or not np.isfinite(v)
        for k in range(axes.link_start[a], axes.link_start[a + 1]):
            below = row[axes.link_below[k]]
            held = held or frozen or below == 0 or not np.isfinite(below) or np.isnan(row[axes.link_target[k]])
        if held:
            cells.count[a] = 0  # no way to move; the trees read the clean value itself
            continue
        n = _edges(axes, forest, row, a, cells)
        edges = cells.scratch
        home = np.searchsorted(edges[:n], v)
        _reach(axes, a, v, axes.low[i, a], axes.high[i, a], edges, n, home, limit, cells)


@njit(cache=True)
def _reach(axes, a, v, low, high, edges, n, home, limit, cells):  # pragma: no cover - compiled
    """Walk outwards from the home cell while cells are affordable, then put the kept ones in order."""
    start, step, anchor = cells.start[a], axes.step[a], axes.anchor[a]
    everywhere = axes.matrix[a] >= 0  # matrix prices need not rise with distance
    least, most = home, home
    for way in (-1, 1):
        if not everywhere and not np.isfinite(axes.down[a] if way < 0 else axes.up[a]):
            continue
        j = home + way
        while 0 <= j <= n:
            under = np.nextafter(edges[j - 1], np.inf) if j > 0 else -np.inf
            over = edges[j] if j < n else np.inf
            if (way < 0 and over < low) or (way > 0 and under > high):
                break
            here = _fill(axes, a, v, _grid_up(max(low, under), step, anchor), _grid_down(min(high, over), step, anchor), False, start + j, cells)
            if here and cells.cost[start + j] >= limit:
                here = False
                if not everywhere:
                    break
            if not here:
                cells.cost[start + j] = np.inf
            least, most = min(least, j), max(most, j)
            j += way
    under = np.nextafter(edges[home - 1], np.inf) if home > 0 else -np.inf
    over = edges[home] if home < n else np.inf
    _fill(axes, a, v, _grid_up(max(low, under), step, anchor), _grid_down(min(high, over), step, anchor), True, start + home, cells)
    kept = 0
    for j in range(least, most + 1):
        if cells.cost[start + j] < np.inf:
            if j == home:
                cells.home[a] = kept
            if kept == 0:
                cells.first[a] = j
            cells.last[a] = j
            to, old = start + kept, start + j
            cells.cost[to], cells.value[to], cells.low[to], cells.high[to] = cells.cost[old], cells.value[old], cells.low[old], cells.high[old]
            kept += 1
        cells.rank[cells.offset[a] + j] = kept - 1
    cells.count[a] = kept
