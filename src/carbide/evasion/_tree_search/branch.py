"""Depth-first branch and bound over boxes of cells for the least price at which a row's trees say something else.

A box is dropped when its cheapest point costs as much as the best evasion known, or when even the least leaf that each tree can
reach leaves the sum at or above the cutoff. Before that, every axis is clipped to the cells that the remaining money affords.
Otherwise, if the box's cheapest point evades it is the new best; if not, the box is split at the cut that tightens the sum most.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from carbide.evasion._tree_search.reduce import fewer
from carbide.evasion._tree_search.ties import cheapest, keeps

SMALL = 48  # trees of fewer nodes are not worth cutting down again


@njit(cache=True)
def evades(trees, cell, base, single, cutoff):  # pragma: no cover - compiled
    """Whether the point in these cells is below the cutoff, summed as the library sums."""
    return total_at(trees, cell, base, single) < cutoff


@njit(cache=True)
def total_at(trees, cell, base, single):  # pragma: no cover - compiled
    """The library's sum of the leaves that the point in these cells reaches."""
    total = base
    for root in trees.roots:
        node = root
        while trees.axis[node] >= 0:
            node = trees.left[node] if cell[trees.axis[node]] <= trees.cut[node] else trees.right[node]
        total += trees.value[node]
        if single:
            total = np.float64(np.float32(total))
    return total


@njit(cache=True)
def cheapest_cell(cells, steep, a, low, high):  # pragma: no cover - compiled
    """The cheapest of axis a's cells ``low .. high``; prices that rise with distance (``steep``) need no search."""
    if steep[a]:
        return min(max(cells.home[a], low), high)
    best = low
    for j in range(low, high + 1):
        if cells.cost[cells.start[a] + j] < cells.cost[cells.start[a] + best]:
            best = j
    return best


@njit(cache=True)
def cell_with(cells, a, v, low, high):  # pragma: no cover - compiled
    """The cell of axis a in ``low .. high`` that holds the value v."""
    start = cells.start[a]
    while low < high:
        middle = (low + high) // 2
        if v <= cells.high[start + middle]:
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True)
def cheapest_point(ties, i, row, axes, cells, steep, worst, active, low, high, cell, tied, room):  # pragma: no cover - compiled
    """The cheapest allowed point of a box: its cost (inf if none) and the extra that ties add; cells in ``cell``, tied values in ``tied``.

    The cost is the sum over axes or, if ``worst``, the largest one; then there are no ties.
    """
    cost, extra = 0.0, 0.0
    for a in active:
        cell[a] = cheapest_cell(cells, steep, a, low[a], high[a])
        paid = cells.cost[cells.start[a] + cell[a]]
        cost = max(cost, paid) if worst else cost + paid
    for g in range(len(ties.axis_start) - 1):
        first, last = ties.axis_start[g], ties.axis_start[g + 1]
        alone = 0.0
        for k in range(first, last):
            a = ties.axes[k]
            room[0, k - first] = row[axes.feature[a]]
            if cells.count[a] > 0:
                at = cells.start[a] + cell[a]
                room[0, k - first] = cells.value[at]
                alone += cells.cost[at]
        if keeps(ties, g, i, room[0], row, axes):
            tied[first:last] = room[0, : last - first]
            continue
        paid = cheapest(ties, g, i, row, axes, cells, low, high, tied[first:last], room[0], room[1:])
        if not paid < np.inf:
            return np.inf, np.inf
        extra += max(0.0, paid - alone)
        for k in range(first, last):
            a = ties.axes[k]
            if cells.count[a] > 0:
                cell[a] = cell_with(cells, a, tied[k], low[a], high[a])
    return cost + extra, extra


@njit(cache=True)
def least_sum(trees, low, high, least):  # pragma: no cover - compiled
    """The sum over trees of the least leaf that the box reaches; ``least`` gets every node's least leaf."""
    for i in range(trees.size[0]):
        a = trees.axis[i]
        if a < 0:
            least[i] = trees.value[i]
        elif high[a] <= trees.cut[i]:
            least[i] = least[trees.left[i]]
        elif low[a] > trees.cut[i]:
            least[i] = least[trees.right[i]]
        else:
            least[i] = min(least[trees.left[i]], least[trees.right[i]])
    total = 0.0
    for root in trees.roots:
        total += least[root]
    return total


@njit(cache=True)
def best_cut(trees, cells, active, low, high, cell, least, reach, gain):  # pragma: no cover - compiled
    """The undecided cut (axis, cell) that raises the sum most on the side of the cheapest point; axis -1 if none is undecided."""
    n = trees.size[0]
    for a in active:
        gain[cells.start[a] + low[a] : cells.start[a] + high[a]] = -1.0
    reach[:n] = False
    for root in trees.roots:
        reach[root] = True
    for i in range(n - 1, -1, -1):
        a = trees.axis[i]
        if not reach[i] or a < 0:
            continue
        goes_left, goes_right = low[a] <= trees.cut[i], high[a] > trees.cut[i]
        if goes_left:
            reach[trees.left[i]] = True
        if goes_right:
            reach[trees.right[i]] = True
        if goes_left and goes_right:
            at = cells.start[a] + trees.cut[i]
            gain[at] = max(gain[at], 0.0) + abs(least[trees.left[i]] - least[trees.right[i]])
    axis, cut, most = -1, -1, -1.0
    for a in active:
        for j in range(low[a], high[a]):
            if gain[cells.start[a] + j] > most:
                most, axis, cut = gain[cells.start[a] + j], a, j
    return axis, cut


@njit(cache=True)
def clip(cells, worst, active, low, high, cell, upper, cost):  # pragma: no cover - compiled
    """Drop from both ends of every axis the cells that bring the box's least cost, ``cost``, up to ``upper``."""
    for a in active:
        start = cells.start[a]
        most = upper if worst else upper - cost + cells.cost[start + cell[a]]
        while low[a] < cell[a] and cells.cost[start + low[a]] >= most:
            low[a] += 1
        while high[a] > cell[a] and cells.cost[start + high[a]] >= most:
            high[a] -= 1


@njit(cache=True)
def branch(
    trees, spare, ties, i, row, axes, cells, steep, worst, active, base, single, cutoff, slack, upper, first, limit, best, best_tied, work
):  # pragma: no cover - compiled
    """Search all boxes; returns (least cost or ``upper``, lower bound, boxes looked at, whether a point was found).

    ``best`` and ``best_tied`` get the cells and tied values of the best point. ``first`` stops at the first one; ``limit``
    bounds the boxes. ``trees`` is cut down to the boxes in reach and ``spare`` is room for that.
    """
    least, reach, gain, new, cell, tied, room = work.least, work.reach, work.gain, work.new, work.cell, work.tied, work.room
    width = len(cells.count)
    stack = np.empty((64, 2, width), np.int64)
    bounds = np.empty(64)
    for a in range(width):
        stack[0, 0, a], stack[0, 1, a] = 0, max(cells.count[a] - 1, 0)
    bounds[0] = 0.0
    depth, boxes, found, lower = 1, 0, False, upper
    while depth > 0:
        if boxes >= limit:
            lower = upper
            for k in range(depth):
                lower = min(lower, bounds[k])
            return upper, lower, boxes, found
        depth -= 1
        if bounds[depth] >= upper:
            continue
        boxes += 1
        low, high = stack[depth, 0], stack[depth, 1]
        cost, extra = cheapest_point(ties, i, row, axes, cells, steep, worst, active, low, high, cell, tied, room)
        if cost >= upper:
            continue
        clip(cells, worst, active, low, high, cell, upper, cost - extra)
        if least_sum(trees, low, high, least) + base >= cutoff + slack:
            continue
        if evades(trees, cell, base, single, cutoff):
            upper, found = cost, True
            best[:], best_tied[:] = cell, tied
            if first:
                return upper, 0.0, boxes, found
            continue
        axis, cut = best_cut(trees, cells, active, low, high, cell, least, reach, gain)
        if axis < 0:
            continue
        if depth == 0 and trees.size[0] > SMALL:  # all that is left is this box
            fewer(trees, low, high, spare, new, reach)
            trees, spare = spare, trees
        if depth + 2 > len(bounds):
            stack, bounds = _longer(stack, bounds)
        near_left = cell[axis] <= cut
        stack[depth + 1] = stack[depth]  # the side of the cheapest point is looked at first
        far, near = (0, 1) if near_left else (1, 0)
        stack[depth, far, axis] = cut + 1 if near_left else cut
        stack[depth + 1, near, axis] = cut if near_left else cut + 1
        bounds[depth] = bounds[depth + 1] = cost
        depth += 2
    return upper, upper, boxes, found


@njit(cache=True)
def _longer(stack, bounds):  # pragma: no cover - compiled
    n = len(bounds)
    wider, more = np.empty((2 * n, *stack.shape[1:]), stack.dtype), np.empty(2 * n)
    wider[:n], more[:n] = stack, bounds
    return wider, more
