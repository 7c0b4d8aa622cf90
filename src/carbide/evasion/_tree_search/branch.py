"""Depth-first branch and bound over boxes of cells for the least price at which a row's trees say something else.

A box is dropped when its cheapest point costs as much as the best evasion known, or when even the least leaf that each tree can
reach leaves the sum at or above the cutoff. Before that, every axis is clipped to the cells that the remaining money affords, and the
trees to the leaves that it affords. Otherwise, if the box's cheapest point evades it is the new best; if not, the box is split at the
cut that tightens the sum most. A row that takes many boxes gets the bound of ``dual`` as well, which costs as much as many boxes do but
often spares thousands.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import uncounted
from carbide.evasion._tree_search.cells import cell_of
from carbide.evasion._tree_search.dual import lift, restart
from carbide.evasion._tree_search.narrow import grown, narrow
from carbide.evasion._tree_search.ties import cheapest, keeps
from carbide.types import Array

FIRST, LATER = 40, 4  # rounds of the dual bound in the first box that has it, and in later ones


@uncounted
def total_at(forest, node, cell):  # pragma: no cover - compiled
    """The library's sum of the leaves that the point in these cells reaches in the row's trees ``node``."""
    total, value, single = forest.base, forest.value, forest.single
    for root in forest.roots:
        i = np.int64(root)
        while i >= 0:
            i = np.int64(node[i, 2] if cell[node[i, 0]] <= node[i, 1] else node[i, 3])
        total += value[-i - 1]
        if single:
            total = np.float64(np.float32(total))
    return total


@uncounted
def cheapest_point(ties, i, row, axes, cells, steep, worst, active, low, high, cell, tied, work):  # pragma: no cover - compiled
    """The cheapest allowed point of a box: its cost (inf if none) and the extra that ties add; cells in ``cell``, tied values in ``tied``.

    The cost is the sum over axes or, if ``worst``, the largest one; then there are no ties.
    """
    cost, extra, price, home, start = 0.0, 0.0, cells.cost, cells.home, cells.start
    for a in active:
        cell[a] = min(max(home[a], low[a]), high[a])
        if not steep[a]:  # prices need not rise with distance
            cell[a] = low[a]
            for j in range(low[a] + 1, high[a] + 1):
                if price[start[a] + j] < price[start[a] + cell[a]]:
                    cell[a] = j
        paid = price[start[a] + cell[a]]
        cost = max(cost, paid) if worst else cost + paid
    if len(ties.axes) > 0:
        extra = _tied(ties, i, row, axes, cells, low, high, cell, tied, work)
    return cost + extra, extra


@uncounted
def _tied(ties, i, row, axes, cells, low, high, cell, tied, work):  # pragma: no cover - compiled
    """What ties add to the cost of the cheapest point, whose cells and tied values are set; inf where they allow none.

    Each group's last answer is remembered, with the part of the box that it is about: most boxes only split other axes.
    """
    extra, members, memo, answer, added, count = 0.0, ties.axes, work.memo, work.answer, work.added, cells.count
    for g in range(len(ties.axis_start) - 1):
        first, last = ties.axis_start[g], ties.axis_start[g + 1]
        same = True
        for k in range(first, last):
            same = same and memo[0, k] == low[members[k]] and memo[1, k] == high[members[k]]
        if not same:
            for k in range(first, last):
                memo[0, k], memo[1, k] = low[members[k]], high[members[k]]
            added[g] = _group(ties, g, i, row, axes, cells, low, high, cell, answer[first:last], work.room)
        if not added[g] < np.inf:
            return np.inf
        extra += added[g]
        for k in range(first, last):
            tied[k] = answer[k]
            if count[members[k]] > 0:
                a, at = members[k], cells.start[members[k]]
                cell[a] = cell_of(cells.high, at + low[a], at + high[a], tied[k]) - at
    return extra


@uncounted
def _group(ties, g, i, row, axes, cells, low, high, cell, answer, room):  # pragma: no cover - compiled
    """What group g's ties add to the cost of its axes' cheapest cells; the values go to ``answer``."""
    first, last, start = ties.axis_start[g], ties.axis_start[g + 1], cells.start
    alone = 0.0
    for k in range(first, last):
        a = ties.axes[k]
        answer[k - first] = row[axes.feature[a]]
        if cells.count[a] > 0:
            answer[k - first] = cells.value[start[a] + cell[a]]
            alone += cells.cost[start[a] + cell[a]]
    if keeps(ties, g, i, answer, row, axes):
        return 0.0
    paid = cheapest(ties, g, i, row, axes, cells, low, high, answer, room[0], room[1:])
    return max(0.0, paid - alone)


@uncounted
def best_cut(forest, stack, first, last, cells, active, low, high, cell, money, gain):  # pragma: no cover - compiled
    """The cut (axis, cell) that raises the sum most on the side that it takes the least leaf from; axis -1 if none is undecided.

    Each tree's way down to its least leaf is walked: a cut on it leaves the least of what branches off up to there. Cuts whose far side
    takes much of the ``money`` count for up to twice as much.
    """
    node, least, value, roots, offset, price = stack.node, stack.least, forest.value, stack.roots, cells.start, cells.cost
    for a in active:
        gain[offset[a] + low[a] : offset[a] + high[a]] = 0.0
    axis, cut, most = -1, -1, -1.0
    for r in range(first, last):
        i = np.int64(roots[r])
        here, other = least[i], np.inf
        while i >= 0:
            a, t, left, right = node[i, 0], node[i, 1], node[i, 2], node[i, 3]
            below = value[-left - 1] if left < 0 else least[left]
            beside = value[-right - 1] if right < 0 else least[right]
            other = min(other, max(below, beside))
            i = np.int64(left if below <= beside else right)
            at = offset[a] + t
            gain[at] += other - here
            far = price[at + 1] if cell[a] <= t else price[at]
            score = gain[at] * (1.0 + (far - price[offset[a] + cell[a]]) / money)
            if score > most:
                most, axis, cut = score, a, t
    return axis, cut


@uncounted
def clip(cells, worst, active, low, high, cell, upper, cost):  # pragma: no cover - compiled
    """Drop from both ends of every axis the cells that bring the box's least cost, ``cost``, up to ``upper``."""
    price, offset = cells.cost, cells.start
    for a in active:
        start = offset[a]
        most = upper if worst else upper - cost + price[start + cell[a]]
        while low[a] < cell[a] and price[start + low[a]] >= most:
            low[a] += 1
        while high[a] > cell[a] and price[start + high[a]] >= most:
            high[a] -= 1


@uncounted
def sum_at(forest, stack, first, last, cell):  # pragma: no cover - compiled
    """The sum over a level's undecided trees of the leaves that the point in these cells reaches, in any order."""
    node, value, roots, total = stack.node, forest.value, stack.roots, 0.0
    for r in range(first, last):
        i = np.int64(roots[r])
        while i >= 0:
            i = np.int64(node[i, 2] if cell[node[i, 0]] <= node[i, 1] else node[i, 3])
        total += value[-i - 1]
    return total


class Queue(NamedTuple):
    """Boxes that wait, the next one last: their ends ``low`` and ``high`` ``(q, a)``, what their points cost at least, whether the cheapest of
    them is known not to evade, and the level of the stack that they are a part of. A level's trees are the nodes ``node_start .. node_end`` and roots ``root_start .. root_end`` of the stack;
    ``base`` is the sum of those that are decided, ``rest`` that of the others' least leaves."""

    low: Array
    high: Array
    bound: Array
    stands: Array
    parent: Array
    node_start: Array
    node_end: Array
    root_start: Array
    root_end: Array
    base: Array
    rest: Array


@njit(cache=True)
def branch(
    forest, stack, ties, i, row, axes, cells, steep, worst, active, cutoff, slack, upper, first, limit, plain, stamp, best, best_tied, work
):  # pragma: no cover - compiled
    """Search all boxes; returns (least cost or ``upper``, lower bound, boxes looked at, whether a point was found, the stack as it grew).

    ``best`` and ``best_tied`` get the cells and tied values of the best point. ``first`` stops at the first one; ``limit`` bounds the boxes,
    of which the first ``plain`` go without the dual bound. ``stamp`` is a number that no earlier row has seen, nor will the ``limit + 1`` after it.
    """
    width = max(1, len(cells.count))
    queue = Queue(np.empty((64, width), np.int64), np.empty((64, width), np.int64), np.empty(64), np.zeros(64, np.bool_), np.empty(64, np.int64),
                  np.empty(66, np.int64), np.empty(66, np.int64), np.empty(66, np.int64), np.empty(66, np.int64), np.empty(66), np.empty(66))  # fmt: skip
    queue.low[0], queue.high[0] = 0, 0
    for a in active:
        queue.high[0, a] = cells.count[a] - 1
    queue.bound[0], queue.parent[0], queue.base[0], queue.rest[0] = 0.0, 0, forest.base, -np.inf
    queue.node_start[0], queue.node_end[0], queue.root_start[0], queue.root_end[0] = 0, len(forest.node), 0, len(forest.roots)
    depth, boxes, found, lower, taught, done = 1, 0, False, upper, False, False
    while not done:
        upper, lower, depth, boxes, found, taught, done = _search(
            forest, stack, ties, i, row, axes, cells, steep, worst, active, cutoff, slack, upper, first, limit, plain, stamp, best, best_tied, work, queue,
            depth, boxes, found, taught)  # fmt: skip
        if not done:
            level = queue.parent[depth - 1]
            stack = grown(stack, *_needed(queue, level))
            queue = _roomier(queue, depth, level)
    return upper, lower, boxes, found, stack


@uncounted
def _needed(queue, level):  # pragma: no cover - compiled
    """How many nodes and roots the stack must hold to cut a box out of this level."""
    return 2 * queue.node_end[level] - queue.node_start[level] + 1, 2 * queue.root_end[level] - queue.root_start[level]


@uncounted
def _search(
    forest, stack, ties, i, row, axes, cells, steep, worst, active, cutoff, slack, upper, first, limit, plain, stamp, best, best_tied, work, queue,
    depth, boxes, found, taught
):  # pragma: no cover - compiled  # fmt: skip
    """Search the ``depth`` boxes of the queue until it or the stack needs more room for the next one; returns what ``branch`` knows, and whether that was all."""
    cell, tied, dual = work.cell, work.tied, work.dual
    lows, highs, bounds, stands, parent = queue.low, queue.high, queue.bound, queue.stands, queue.parent
    while depth > 0:
        if boxes >= limit:
            lower = upper
            for k in range(depth):
                lower = min(lower, bounds[k])
            return upper, lower, depth, boxes, found, taught, True
        level = parent[depth - 1]
        nodes, trees = _needed(queue, level)
        if len(stack.node) < nodes or len(stack.roots) < trees or level + 2 >= len(queue.base) or depth + 1 > len(bounds):
            return upper, 0.0, depth, boxes, found, taught, False
        depth -= 1
        if bounds[depth] >= upper:
            continue
        boxes += 1
        low, high = lows[depth], highs[depth]
        cost, extra = cheapest_point(ties, i, row, axes, cells, steep, worst, active, low, high, cell, tied, work)
        if cost >= upper:
            continue
        clip(cells, worst, active, low, high, cell, upper, cost - extra)
        start, end = queue.root_end[level], queue.node_end[level]  # the box's trees are cut out of those of the box it came from
        roots = stack.roots[queue.root_start[level] : start]
        money = np.inf if worst else upper - (cost - extra)
        new = end
        sure, least, left, end = narrow(forest, stack, cells, steep, roots, start, end, low, high, money, queue.base[level], queue.rest[level],
                                        cutoff + slack, stamp + boxes, work.way, work.spent)  # fmt: skip
        if sure + least >= cutoff + slack:
            continue
        if not stands[depth] and sure + sum_at(forest, stack, start, left, cell) < cutoff + slack and total_at(forest, stack.node, cell) < cutoff:
            upper, found = cost, True
            _keep(cell, tied, best, best_tied)
            if first:
                return upper, 0.0, depth, boxes, found, taught, True
            continue
        same = len(tied) == 0  # whether the half that holds the cheapest point has no other that is as cheap: ties may choose anew there
        tight, rounds = cost, 0 if worst or upper == np.inf or boxes <= plain else LATER
        if rounds > 0:
            same = False  # the dual bound may clip off the point that was tried
            if not taught:
                restart(dual, upper, sure + 2 * sum_at(forest, stack, start, left, cell) - cutoff - slack - least)
                rounds, taught = FIRST, True
            tight = max(cost, lift(forest, stack, new, end, start, left, cells, active, low, high, sure - cutoff - slack, upper, rounds, dual))
            if tight >= upper:
                continue
            cost, _ = cheapest_point(ties, i, row, axes, cells, steep, worst, active, dual.at, dual.at, cell, tied, work)
            if cost < upper and sure + sum_at(forest, stack, start, left, cell) < cutoff + slack and total_at(forest, stack.node, cell) < cutoff:
                upper, found = cost, True
                _keep(cell, tied, best, best_tied)
                if first:
                    return upper, 0.0, depth, boxes, found, taught, True
                if tight >= upper:
                    continue
            cheapest_point(ties, i, row, axes, cells, steep, worst, active, low, high, cell, tied, work)
        axis, cut = best_cut(forest, stack, start, left, cells, active, low, high, cell, upper if worst else money, work.gain)
        if axis < 0:
            continue
        level += 1
        queue.node_start[level], queue.node_end[level], queue.root_start[level], queue.root_end[level] = new, end, start, left
        queue.base[level], queue.rest[level] = sure, least
        if not low[axis] <= cut < high[axis]:  # clipped off since the trees were narrowed
            bounds[depth], stands[depth], parent[depth] = tight, same, level
            depth += 1
            continue
        for a in range(len(low)):  # all axes: nodes that are decided ask the first one, whether it can move or not
            lows[depth + 1, a], highs[depth + 1, a] = low[a], high[a]
        far, near = depth, depth + 1  # the side of the cheapest point is looked at first
        if cell[axis] <= cut:
            lows[far, axis], highs[near, axis] = cut + 1, cut
        else:
            highs[far, axis], lows[near, axis] = cut, cut + 1
        bounds[far] = bounds[near] = tight
        stands[far], stands[near] = False, same
        parent[far] = parent[near] = level
        depth += 2
    return upper, upper, depth, boxes, found, taught, True


@uncounted
def _keep(cell, tied, best, best_tied):  # pragma: no cover - compiled
    """Note the best point so far."""
    for a in range(len(cell)):
        best[a] = cell[a]
    for k in range(len(tied)):
        best_tied[k] = tied[k]


@njit(cache=True)
def _roomier(queue, depth, level):  # pragma: no cover - compiled
    """The queue with room for two boxes more than ``depth`` - 1, and for two levels more than ``level``."""
    low, high, bound, stands, parent = queue.low, queue.high, queue.bound, queue.stands, queue.parent
    if depth + 1 > len(bound):
        low, high, bound, stands, parent = _longer(low), _longer(high), _longer(bound), _longer(stands), _longer(parent)
    if level + 2 < len(queue.base):
        return Queue(low, high, bound, stands, parent, queue.node_start, queue.node_end, queue.root_start, queue.root_end, queue.base, queue.rest)
    return Queue(low, high, bound, stands, parent, _longer(queue.node_start), _longer(queue.node_end), _longer(queue.root_start), _longer(queue.root_end),
                 _longer(queue.base), _longer(queue.rest))  # fmt: skip


@njit(cache=True)
def _longer(old):  # pragma: no cover - compiled
    new = np.empty((2 * len(old), *old.shape[1:]), old.dtype)
    new[: len(old)] = old
    return new
