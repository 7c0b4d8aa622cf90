"""Depth-first branch and bound over boxes of cells for the least price at which a row's trees say something else.

A box is dropped when its cheapest point costs as much as the best evasion known, or when even the least leaf that each tree can
reach leaves the sum at or above the cutoff. Before that, every axis is clipped to the cells that the remaining money affords, and the
trees to the leaves that it affords. Otherwise, if the box's cheapest point evades it is the new best; if not, the box is split at the
cut that tightens the sum most.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from carbide.evasion._tree_search.narrow import cheapest_cell, grown, least_of, narrow, parts, settle
from carbide.evasion._tree_search.ties import cheapest, keeps


@njit(cache=True)
def total_at(forest, place, cell):  # pragma: no cover - compiled
    """The library's sum of the leaves that the point in these cells reaches."""
    total = forest.base
    for root in forest.roots:
        i = settle(forest.node, place, root)
        while forest.node[i, 0] >= 0:
            a, t, left, right = parts(forest.node, place, i)
            i = settle(forest.node, place, left if cell[a] <= t else right)
        total += forest.value[i]
        if forest.single:
            total = np.float64(np.float32(total))
    return total


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
def best_cut(forest, stack, first, last, cells, active, low, high, gain):  # pragma: no cover - compiled
    """The cut (axis, cell) that raises the sum most on the side that it takes the least leaf from; axis -1 if none is undecided.

    Each tree's way down to its least leaf is walked: a cut on it leaves the least of what branches off up to there.
    """
    for a in active:
        gain[cells.start[a] + low[a] : cells.start[a] + high[a]] = 0.0
    axis, cut, most = -1, -1, -1.0
    for r in range(first, last):
        i = stack.roots[r]
        here, other = stack.least[i], np.inf
        while i >= 0:
            a, t = stack.node[i, 0], stack.node[i, 1]
            left, right = least_of(forest, stack, stack.node[i, 2]), least_of(forest, stack, stack.node[i, 3])
            other = min(other, max(left, right))
            i = stack.node[i, 2] if left <= right else stack.node[i, 3]
            at = cells.start[a] + t
            gain[at] += other - here
            if gain[at] > most:
                most, axis, cut = gain[at], a, t
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
def sum_at(forest, stack, first, last, cell):  # pragma: no cover - compiled
    """The sum over a level's undecided trees of the leaves that the point in these cells reaches, in any order."""
    total = 0.0
    for r in range(first, last):
        i = stack.roots[r]
        while i >= 0:
            i = stack.node[i, 2] if cell[stack.node[i, 0]] <= stack.node[i, 1] else stack.node[i, 3]
        total += forest.value[-i - 1]
    return total


@njit(cache=True)
def branch(
    forest, place, stack, ties, i, row, axes, cells, steep, worst, active, cutoff, slack, upper, first, limit, stamp, best, best_tied, work
):  # pragma: no cover - compiled
    """Search all boxes; returns (least cost or ``upper``, lower bound, boxes looked at, whether a point was found, the stack as it grew).

    ``best`` and ``best_tied`` get the cells and tied values of the best point. ``first`` stops at the first one; ``limit``
    bounds the boxes. ``stamp`` is a number that no earlier row has seen, nor will the ``limit + 1`` after it.
    """
    cell, tied, room = work.cell, work.tied, work.room
    width = len(cells.count)
    boxes_low, boxes_high = np.empty((64, width), np.int64), np.empty((64, width), np.int64)
    bounds, parent = np.empty(64), np.empty(64, np.int64)
    node_end, root_start, root_end, base = np.zeros(66, np.int64), np.zeros(66, np.int64), np.zeros(66, np.int64), np.empty(66)
    for a in range(width):
        boxes_low[0, a], boxes_high[0, a] = 0, max(cells.count[a] - 1, 0)
    bounds[0], parent[0], base[0] = 0.0, 0, forest.base
    depth, boxes, found, lower = 1, 0, False, upper
    while depth > 0:
        if boxes >= limit:
            lower = upper
            for k in range(depth):
                lower = min(lower, bounds[k])
            return upper, lower, boxes, found, stack
        depth -= 1
        if bounds[depth] >= upper:
            continue
        boxes += 1
        low, high, level = boxes_low[depth], boxes_high[depth], parent[depth]
        cost, extra = cheapest_point(ties, i, row, axes, cells, steep, worst, active, low, high, cell, tied, room)
        if cost >= upper:
            continue
        clip(cells, worst, active, low, high, cell, upper, cost - extra)
        # The box's trees, cut out of those of the box it came from; level 0 is the forest itself.
        start, end, whole = root_end[level], node_end[level], level == 0
        many = len(forest.roots) if whole else root_end[level] - root_start[level]
        stack = grown(stack, end + (len(forest.node) if whole else end - node_end[level - 1]) + 1, start + many)
        sure, least, left = base[level], 0.0, start
        money = np.inf if worst else upper - (cost - extra)
        for r in range(many):
            root = forest.roots[r] if whole else stack.roots[root_start[level] + r]
            new, end = narrow(forest, place, whole, stack, end, root, stamp + boxes, cells, steep, low, high, money, work.way, work.spent)
            if new < 0:
                sure += forest.value[-new - 1]
            else:
                stack.roots[left] = new
                left += 1
                least += stack.least[new]
        if sure + least >= cutoff + slack:
            continue
        if sure + sum_at(forest, stack, start, left, cell) < cutoff + slack and total_at(forest, place, cell) < cutoff:
            upper, found = cost, True
            best[:], best_tied[:] = cell, tied
            if first:
                return upper, 0.0, boxes, found, stack
            continue
        axis, cut = best_cut(forest, stack, start, left, cells, active, low, high, work.gain)
        if axis < 0:
            continue
        level += 1
        if level + 1 == len(base):
            node_end, root_start, root_end, base = _longer(node_end), _longer(root_start), _longer(root_end), _longer(base)
        node_end[level], root_start[level], root_end[level], base[level] = end, start, left, sure
        if depth + 2 > len(bounds):
            boxes_low, boxes_high, bounds, parent = _longer(boxes_low), _longer(boxes_high), _longer(bounds), _longer(parent)
        near_left = cell[axis] <= cut
        boxes_low[depth + 1], boxes_high[depth + 1] = boxes_low[depth], boxes_high[depth]  # the side of the cheapest point is looked at first
        far, near = depth, depth + 1
        if near_left:
            boxes_low[far, axis], boxes_high[near, axis] = cut + 1, cut
        else:
            boxes_high[far, axis], boxes_low[near, axis] = cut, cut + 1
        bounds[far] = bounds[near] = cost
        parent[far] = parent[near] = level
        depth += 2
    return upper, upper, boxes, found, stack


@njit(cache=True)
def _longer(old):  # pragma: no cover - compiled
    new = np.empty((2 * len(old), *old.shape[1:]), old.dtype)
    new[: len(old)] = old
    return new
