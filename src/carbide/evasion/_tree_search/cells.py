"""What it costs a row to move along each axis into each cell, and which value of the cell is the cheapest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide.evasion._compiled import uncounted
from carbide.evasion._tree_search.layout import Axes, Forest, Ties
from carbide.evasion._tree_search.narrow import FLIPPED, LEFT, MISSING, RIGHT
from carbide.space.prices import REACH
from carbide.types import Array


class Cells(NamedTuple):
    """The affordable cells of every axis of one row; axis a's lie at ``start[a] : start[a] + count[a]``, ascending in value.

    ``cost``, ``value``: the cheapest allowed value of the cell and its price; ``low``, ``high``: the cell's allowed values, only of axes
    that are ``tied``. ``home`` is the clean value's cell. ``place`` ``(c, 2)`` int32 says of every cut of the forest where it sends the row or,
    where that is open, its axis and the last cell at or below it. ``rank``, ``mapped``, ``edge`` and ``above`` are scratch for one axis.
    """

    start: Array
    count: Array
    cost: Array
    value: Array
    low: Array
    high: Array
    home: Array
    tied: Array
    place: Array
    rank: Array
    mapped: Array
    edge: Array
    above: Array


def workspace(axes: Axes, ties: Ties, forest: Forest) -> Cells:
    """Room for the cells of any row."""
    own = np.diff(forest.start)
    sizes = own[axes.feature] + 1
    np.add.at(sizes, np.repeat(np.arange(len(sizes)), np.diff(axes.link_start)), own[axes.link_target])
    offset = np.concatenate([[0], np.cumsum(sizes)])
    total, a, c, longest = int(offset[-1]), len(sizes), len(forest.cuts), int(sizes.max(initial=1)) + 1
    tied = np.zeros(a, np.bool_)
    tied[ties.axes] = True
    return Cells(start=offset[:-1].copy(), count=np.zeros(a, np.int64), cost=np.empty(total), value=np.empty(total), low=np.empty(total),
                 high=np.empty(total), home=np.zeros(a, np.int64), tied=tied, place=np.empty((c, 2), np.int32), rank=np.empty(longest, np.int64),
                 mapped=np.empty(longest), edge=np.empty(longest), above=np.empty(longest))  # fmt: skip


@uncounted
def cell_of(cuts, first, last, v):  # pragma: no cover - compiled
    """The first of ``first .. last`` whose cut is at least v, or ``last``; numpy's own search takes longer to begin than a short one to end."""
    while first < last:
        middle = (first + last) // 2
        if cuts[middle] < v:
            first = middle + 1
        else:
            last = middle
    return first


@uncounted
def price(axes, a, v, w):  # pragma: no cover - compiled
    """What moving axis a from v to w costs."""
    if v == w:
        return 0.0
    if axes.matrix[a] >= 0:
        i, j = v - axes.anchor[a], w - axes.anchor[a]
        if i != np.floor(i) or j != np.floor(j) or min(i, j) < 0 or max(i, j) >= axes.size[a]:
            return np.inf
        return axes.moves[axes.matrix[a] + int(i) * axes.size[a] + int(j)]
    side = 2 * a if w > v else 2 * a + 1
    if axes.stair[side + 1] > axes.stair[side]:
        for k in range(axes.stair[side], axes.stair[side + 1]):
            if abs(w - v) <= axes.stair_by[k] * (1 + REACH):
                return axes.fixed[a] + axes.stair_paid[k]
        return np.inf
    return rated(v, w, axes.up[a] if w > v else axes.down[a], axes.fixed[a], axes.power[a])


@uncounted
def rated(v, w, rate, fixed, power):  # pragma: no cover - compiled
    """What moving from v to another value w costs at a rate."""
    if rate == 0.0:
        return fixed
    way = abs(w - v)
    return fixed + rate * (way if power == 1.0 else way**power)


@uncounted
def _grid_up(v, step, anchor):  # pragma: no cover - compiled
    if step == 0.0 or not np.isfinite(v):
        return v
    j = np.ceil((v - anchor) / step - 1e-9)
    while anchor + j * step < v:
        j += 1
    return anchor + j * step


@uncounted
def _grid_down(v, step, anchor):  # pragma: no cover - compiled
    if step == 0.0 or not np.isfinite(v):
        return v
    j = np.floor((v - anchor) / step + 1e-9)
    while anchor + j * step > v:
        j -= 1
    return anchor + j * step


@uncounted
def last_below(t, below):  # pragma: no cover - compiled
    """The largest double v with ``v / below <= t``, for ``below`` > 0."""
    v = t * below
    if not np.isfinite(v):
        return v
    step = np.nextafter(np.abs(v), np.inf) - np.abs(v)
    low = high = v
    if v / below > t:
        while low / below > t:
            high, low, step = low, low - step, 2 * step
    else:
        while high / below <= t:
            low, high, step = high, high + step, 2 * step
    while True:
        middle = low + (high - low) / 2
        if not low < middle < high:
            return low
        if middle / below <= t:
            low = middle
        else:
            high = middle


@uncounted
def last_under(t, slope, rest):  # pragma: no cover - compiled
    """The largest double v with ``slope * v + rest <= t``, for ``slope`` > 0.

    Sums are rounded at the scale of ``rest``, so v may lie many doubles from ``(t - rest) / slope``: bracketed by doubling, then halved.
    """
    v = (t - rest) / slope
    if not np.isfinite(v):
        return v
    step = max(np.nextafter(np.abs(v), np.inf) - np.abs(v), 2.0**-54 * np.abs(rest) / slope)
    low = high = v
    if slope * v + rest > t:
        while slope * low + rest > t:
            high, low, step = low, low - step, 2 * step
    else:
        while slope * high + rest <= t:
            low, high, step = high, high + step, 2 * step
    while True:
        middle = low + (high - low) / 2
        if not low < middle < high:
            return low
        if slope * middle + rest <= t:
            low = middle
        else:
            high = middle


@uncounted
def slope_of(axes, row, k):  # pragma: no cover - compiled
    """Which way target k goes when its axis rises: the sign of the denominator or of the coefficient."""
    return row[axes.link_below[k]] if axes.link_below[k] >= 0 else axes.link_slope[k]


@uncounted
def followed(axes, row, i, k, v):  # pragma: no cover - compiled
    """The value of target k of row i where its axis is at v."""
    return v / row[axes.link_below[k]] if axes.link_below[k] >= 0 else axes.link_slope[k] * v + axes.link_rest[i, k]


@uncounted
def _mapped(axes, row, i, k, t):  # pragma: no cover - compiled
    """The cut on the axis that a cut t on its target k means; where the target falls as the axis rises the two sides change places."""
    below = slope_of(axes, row, k)
    if axes.link_below[k] < 0:
        if below > 0:
            return last_under(t, below, axes.link_rest[i, k])
        # slope * v + rest <= t holds from the least v with -slope * v - rest >= -t on, so the cut lies just before that v.
        v = -last_under(t, -below, axes.link_rest[i, k])
        return np.nextafter(v, -np.inf) if np.isfinite(v) else v
    if below > 0:
        return last_below(t, below)
    # v / below <= t holds from the least v with v / -below >= -t on, so the cut lies just before that v.
    v = -last_below(t, -below)
    return np.nextafter(v, -np.inf) if np.isfinite(v) else v


@uncounted
def _edges(axes, forest, row, i, a, cells):  # pragma: no cover - compiled
    """The cuts along axis a in this row, ascending, into ``cells.edge``, the next doubles into ``above``; returns their number."""
    edge, above, mapped = cells.edge, cells.above, cells.mapped
    f = axes.feature[a]
    n = forest.start[f + 1] - forest.start[f]
    for j in range(n):
        edge[j], above[j] = forest.cuts[forest.start[f] + j], forest.above[forest.start[f] + j]
    for k in range(axes.link_start[a], axes.link_start[a + 1]):  # merge the ratio's cuts, from the back
        g, below = axes.link_target[k], slope_of(axes, row, k)
        first, last = forest.start[g], forest.start[g + 1]
        m = 0
        for j in range(first, last):
            mapped[m] = _mapped(axes, row, i, k, forest.cuts[j if below > 0 else first + last - 1 - j])
            m += 1
        own, j, to = n - 1, m - 1, n + m - 1
        while j >= 0:
            if own >= 0 and edge[own] > mapped[j]:
                edge[to] = edge[own]
                own -= 1
            else:
                edge[to] = mapped[j]
                j -= 1
            to -= 1
        n, kept = n + m, 0
        for j in range(n):
            if kept == 0 or edge[j] != edge[kept - 1]:
                edge[kept] = edge[j]
                kept += 1
        n = kept
        for j in range(n):
            above[j] = np.nextafter(edge[j], np.inf)
    return n


@uncounted
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


@uncounted
def fill_cells(axes, forest, row, i, limit, cells, frozen):  # pragma: no cover - compiled
    """Price the cells of row i that cost less than ``limit``, and place every cut; where ``frozen``, axes with targets stay at home.

    Returns what the cheapest cells cost: 0, or less where an axis earns. All prices are above that, and ``home`` is where it is met.
    """
    offset = 0.0
    for f in range(len(forest.start) - 1):
        if axes.axis_of[f] < 0:
            _decide(forest, row, f, cells)
    width = len(axes.feature)
    for turn in range(2 * width):  # axes that earn first: what they bring, the others may spend
        a = turn % width
        if (axes.earns[a] != 0) != (turn < width):
            continue
        v, start, f = row[axes.feature[a]], cells.start[a], axes.feature[a]
        cells.count[a], cells.home[a] = 1, 0
        cells.cost[start], cells.value[start], cells.low[start], cells.high[start] = 0.0, v, v, v
        held = np.isnan(v) or not np.isfinite(v)
        for k in range(axes.link_start[a], axes.link_start[a + 1]):
            below = slope_of(axes, row, k)
            held = held or frozen or below == 0 or not np.isfinite(below) or np.isnan(row[axes.link_target[k]])
            held = held or not np.isfinite(axes.link_rest[i, k])
        if held:
            cells.count[a] = 0  # no way to move; the trees read the clean value itself
            _decide(forest, row, f, cells)
            for k in range(axes.link_start[a], axes.link_start[a + 1]):
                _decide(forest, row, axes.link_target[k], cells)
            continue
        n = _edges(axes, forest, row, i, a, cells)
        home = cell_of(cells.edge, 0, n, v)
        low, high = axes.low[i, a], axes.high[i, a]
        if axes.earns[a] != 0:
            least, most, gained = _earning(axes, a, v, low, high, n, home, limit, cells)
            offset += gained
        elif axes.straight[a] and not cells.tied[a] and low <= v <= high:
            least, most = _straight(axes, a, v, low, high, n, home, limit - offset, cells)
        else:
            least, most = _reach(axes, a, v, low, high, n, home, limit - offset, cells)
        _place(axes, forest, row, i, a, least, most, n, cells)
    return offset


@uncounted
def _decide(forest, row, f, cells):  # pragma: no cover - compiled
    """Place the cuts of a feature that does not move."""
    first, last = forest.start[f], forest.start[f + 1]
    if np.isnan(row[f]):
        cells.place[first:last, 0] = MISSING
        return
    own = cell_of(forest.cuts, first, last, row[f])
    cells.place[first:own, 0], cells.place[own:last, 0] = RIGHT, LEFT


@uncounted
def _place(axes, forest, row, i, a, least, most, n, cells):  # pragma: no cover - compiled
    """Place the cuts of axis a and its ratios, of whose cells ``least .. most`` were kept, numbered by ``cells.rank``."""
    f, place, rank = axes.feature[a], cells.place, cells.rank
    alone = axes.link_start[a] == axes.link_start[a + 1]
    j = 0
    for c in range(forest.start[f], forest.start[f + 1]):
        while not alone and cells.edge[j] != forest.cuts[c]:
            j += 1
        place[c, 0] = RIGHT if j < least else LEFT if j >= most else a
        place[c, 1] = rank[j]
        j += alone
    for k in range(axes.link_start[a], axes.link_start[a + 1]):
        g, below = axes.link_target[k], slope_of(axes, row, k)
        first, last = forest.start[g], forest.start[g + 1]
        j = 0
        for m in range(first, last):
            c = m if below > 0 else first + last - 1 - m
            edge = _mapped(axes, row, i, k, forest.cuts[c])
            while cells.edge[j] != edge:
                j += 1
            if j < least or j >= most:
                place[c, 0] = RIGHT if (j < least) == (below > 0) else LEFT
            else:
                place[c, 0] = a if below > 0 else FLIPPED - a
            place[c, 1] = rank[j]


@uncounted
def _straight(axes, a, v, low, high, n, home, limit, cells):  # pragma: no cover - compiled
    """As ``_reach`` for an axis of real values whose prices are linear on either side."""
    start, edge, above, fixed = cells.start[a], cells.edge, cells.above, axes.fixed[a]
    least, most, rate = home, home, axes.down[a]
    if np.isfinite(rate):
        while least > 0 and edge[least - 1] >= low and not fixed + rate * (v - edge[least - 1]) >= limit:
            least -= 1
    rate = axes.up[a]
    if np.isfinite(rate):
        while most < n and above[most] <= high and not fixed + rate * (above[most] - v) >= limit:
            most += 1
    to, rate = start, axes.down[a]
    for j in range(least, home):
        cells.cost[to], cells.value[to] = fixed + rate * (v - edge[j]), edge[j]
        to += 1
    cells.cost[to], cells.value[to] = 0.0, v
    rate = axes.up[a]
    for j in range(home, most):
        to += 1
        cells.cost[to], cells.value[to] = fixed + rate * (above[j] - v), above[j]
    cells.count[a], cells.home[a] = most - least + 1, home - least
    for j in range(least, most + 1):
        cells.rank[j] = j - least
    return least, most


@uncounted
def _reach(axes, a, v, low, high, n, home, limit, cells):  # pragma: no cover - compiled
    """Walk outwards from the home cell while cells are affordable, then put the kept ones in order; returns the first and last kept."""
    start, step, anchor, edges = cells.start[a], axes.step[a], axes.anchor[a], cells.edge
    everywhere = axes.matrix[a] >= 0  # matrix prices need not rise with distance
    least, most = home, home
    for way in (-1, 1):
        if not everywhere and not np.isfinite(axes.down[a] if way < 0 else axes.up[a]):
            continue
        j = home + way
        while 0 <= j <= n:
            under = cells.above[j - 1] if j > 0 else -np.inf
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
    under = cells.above[home - 1] if home > 0 else -np.inf
    over = edges[home] if home < n else np.inf
    _fill(axes, a, v, _grid_up(max(low, under), step, anchor), _grid_down(min(high, over), step, anchor), True, start + home, cells)
    kept, first, last = 0, home, home
    for j in range(least, most + 1):
        if cells.cost[start + j] < np.inf:
            if j == home:
                cells.home[a] = kept
            if kept == 0:
                first = j
            last = j
            to, old = start + kept, start + j
            cells.cost[to], cells.value[to], cells.low[to], cells.high[to] = cells.cost[old], cells.value[old], cells.low[old], cells.high[old]
            kept += 1
        cells.rank[j] = kept - 1
    cells.count[a] = kept
    return first, last


@uncounted
def _earning(axes, a, v, low, high, n, home, limit, cells):  # pragma: no cover - compiled
    """As ``_reach`` for an axis whose value the attacker earns: every cell at its best value; returns the first and last cell and the least cost.

    The least price less earnings of a cell is met at its ends or at a stair's end.
    """
    start, step, anchor, edges = cells.start[a], axes.step[a], axes.anchor[a], cells.edge
    best = np.inf
    for j in range(n + 1):
        under, over = cells.above[j - 1] if j > 0 else -np.inf, edges[j] if j < n else np.inf
        least, most, at = _grid_up(max(low, under), step, anchor), _grid_down(min(high, over), step, anchor), start + j
        cells.cost[at], cells.low[at], cells.high[at] = np.inf, least, most
        if j == home:
            cells.cost[at], cells.value[at], cells.low[at], cells.high[at] = 0.0, v, min(least, v), max(most, v)
            _try(axes, a, v, v, at, cells)
        if not least <= most:
            best = min(best, cells.cost[at])
            continue
        _try(axes, a, v, least, at, cells)
        _try(axes, a, v, most, at, cells)
        if axes.matrix[a] >= 0:
            for m in range(axes.size[a]):
                if least <= anchor + m <= most:
                    _try(axes, a, v, anchor + m, at, cells)
        for k in range(axes.stair[2 * a], axes.stair[2 * a + 2]):
            w = v + axes.stair_by[k] if k < axes.stair[2 * a + 1] else v - axes.stair_by[k]
            if np.isfinite(w):
                w = _grid_down(w, step, anchor) if w > v else _grid_up(w, step, anchor)
                if least <= w <= most:
                    _try(axes, a, v, w, at, cells)
        best = min(best, cells.cost[at])
    kept, first, last, cheapest = 0, 0, 0, np.inf
    for j in range(n + 1):
        old = start + j
        if (cells.cost[old] < limit and cells.cost[old] < np.inf) or cells.cost[old] == best:
            if cells.cost[old] < cheapest:
                cheapest, cells.home[a] = cells.cost[old], kept
            if kept == 0:
                first = j
            last, to = j, start + kept
            cells.cost[to], cells.value[to], cells.low[to], cells.high[to] = cells.cost[old] - best, cells.value[old], cells.low[old], cells.high[old]
            kept += 1
        cells.rank[j] = kept - 1
    cells.count[a] = kept
    return first, last, best


@uncounted
def _try(axes, a, v, w, at, cells):  # pragma: no cover - compiled
    """Take w as the cell's value if it costs less, earnings taken off, than what is known."""
    paid = price(axes, a, v, w) - axes.earns[a] * (w - v)
    if np.isfinite(w) and paid < cells.cost[at]:
        cells.cost[at], cells.value[at] = paid, w
