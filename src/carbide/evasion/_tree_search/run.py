"""One row after another: price its cells, start greedily, then branch and bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import uncounted
from carbide.evasion._tree_search.branch import branch, cheapest_point, total_at
from carbide.evasion._tree_search.cells import fill_cells, followed
from carbide.evasion._tree_search.dual import Dual, dual_space
from carbide.evasion._tree_search.greedy import TRIES, reaches, span, start
from carbide.evasion._tree_search.layout import Axes, Forest, Ties
from carbide.evasion._tree_search.narrow import grown, read
from carbide.evasion._tree_search.ties import LARGEST
from carbide.types import Array

MORE = 1.2  # a goal that was too low, times this, is the next
IMPOSSIBLE, EXACT, ENOUGH, UNKNOWN = 0, 1, 2, 3


class Work(NamedTuple):
    """Scratch arrays of one thread."""

    gain: Array
    cell: Array
    tied: Array
    trial: Array
    room: Array
    memo: Array
    answer: Array
    added: Array
    low: Array
    high: Array
    change: Array
    way: Array
    spent: Array
    dual: Dual


def work_space(forest: Forest, axes: Axes, ties: Ties, total: int) -> Work:
    """Scratch for these trees and axes with so many cells in all."""
    width, longest = max(1, len(axes.feature)), len(forest.node) + 2
    return Work(gain=np.zeros(total + 1), cell=np.zeros(width, np.int64), tied=np.zeros(len(ties.axes)), trial=np.zeros(width, np.int64), room=np.zeros((3, LARGEST)),
                memo=np.zeros((2, len(ties.axes)), np.int64), answer=np.zeros(len(ties.axes)), added=np.zeros(len(ties.axis_start)),
                low=np.zeros(width, np.int64), high=np.zeros(width, np.int64), change=np.zeros(total + width + 1),
                way=np.empty((longest, 7), np.int64), spent=np.empty(longest),
                dual=dual_space(longest, width, total))  # fmt: skip


@njit(cache=True, nogil=True)
def run_rows(
    forest, axes, ties, x, begin, end, cutoff, slack, budget, first, limit, plain, stale, frozen, steep, worst, cells, stack, work, cost, lower,
    witness, status, boxes
):  # pragma: no cover - compiled  # fmt: skip
    """Search the rows ``begin .. end`` of ``x`` ``(n, d)`` for less than their ``budget`` ``(n,)``; results go to the arrays that come last, one entry a row."""
    stack = grown(stack, 2 * len(forest.node) + 1, 2 * len(forest.roots))
    stack.roots[: len(forest.roots)] = forest.roots
    width, place, stamp = len(axes.feature), cells.place, 0
    best, best_tied = np.zeros(max(1, width), np.int64), np.zeros(len(ties.axes))
    for i in range(begin, end):
        row = x[i]
        offset = fill_cells(axes, forest, row, i, budget[i], cells, frozen)  # below 0 where the attacker earns by a change alone
        room = budget[i] - offset
        read(forest, place, stack.node)
        witness[i], work.memo[:] = row, -1
        active = np.flatnonzero(cells.count > 1)
        for a in range(width):
            best[a] = work.cell[a] = work.dual.at[a] = cells.home[a]  # axes that cannot move stay there, whatever the row before did
            work.low[a], work.high[a] = 0, max(cells.count[a] - 1, 0)
        for k in range(len(ties.axes)):
            best_tied[k] = row[axes.feature[ties.axes[k]]]
        if total_at(forest, stack.node, best) < cutoff:
            cost[i], lower[i], status[i], boxes[i] = offset, offset, EXACT, 0
            _write(axes, cells, ties, best, best_tied, row, i, stale[i], witness[i])
            continue
        boxes[i], lower[i], found, most = 0, 0.0, False, room
        if not room > 0:
            cost[i], lower[i], status[i] = np.inf, budget[i], IMPOSSIBLE
            continue
        if len(ties.axes) == 0:  # a finite price that no evasion reaches
            most = span(cells, worst, active, room)[1]
        upper = goal = most
        if worst:
            least, goal, _ = reaches(forest, stack, cells, steep, True, active, cutoff + slack, most, 1.05, stamp, work)
        else:
            paid, least = start(forest, stack, cells, steep, active, cutoff, slack, most, stamp, best, work)
            if paid < most:
                paid = _priced(forest, stack, ties, i, row, axes, cells, steep, active, cutoff, best, best_tied, work)
            if paid < most:
                upper, goal, found = paid, paid, True
        stamp += TRIES + 1
        while not (first and found):  # costs that are no sums are looked for below a goal, and then below a larger one
            paid, bound, looked, better, stack = branch(forest, stack, ties, i, row, axes, cells, steep, worst, active, cutoff, slack, goal,
                                                        first, limit - boxes[i], plain, stamp, best, best_tied, work)  # fmt: skip
            stamp += looked + 1
            boxes[i] += looked
            if better:
                upper, found = paid, True
            lower[i] = max(bound, min(least, upper))
            if not worst or better or bound < goal or goal >= most:
                break
            goal = min(MORE * goal, most)
        if found:
            cost[i] = upper + offset
            _write(axes, cells, ties, best, best_tied, row, i, stale[i], witness[i])
            status[i] = EXACT if lower[i] >= upper else (ENOUGH if first else UNKNOWN)
            lower[i] += offset
        else:
            cost[i] = np.inf
            status[i] = IMPOSSIBLE if lower[i] >= most else UNKNOWN
            lower[i] = budget[i] if lower[i] >= most else lower[i] + offset


@uncounted
def _priced(forest, stack, ties, i, row, axes, cells, steep, active, cutoff, cell, tied, work):  # pragma: no cover - compiled
    """What the point in these cells costs with all relations, its tied values in ``tied``; inf if it cannot be had or does not evade."""
    if not total_at(forest, stack.node, cell) < cutoff:
        return np.inf
    for a in active:
        work.low[a] = work.high[a] = cell[a]
    return cheapest_point(ties, i, row, axes, cells, steep, False, active, work.low, work.high, work.cell, tied, work)[0]


@uncounted
def _write(axes, cells, ties, cell, tied, row, i, stale, out):  # pragma: no cover - compiled
    """The values of a point given by its cells, with tied axes and the targets that follow (in a ``stale`` row even if their parts stayed)."""
    for f in range(len(row)):
        out[f] = row[f]
    for a in range(len(axes.feature)):
        if cells.count[a] > 0:
            out[axes.feature[a]] = cells.value[cells.start[a] + (cell[a] if cells.count[a] > 1 else 0)]
    for k in range(len(tied)):
        out[axes.feature[ties.axes[k]]] = tied[k]
    for a in range(len(axes.feature)):
        if cells.count[a] > 0 and (stale or out[axes.feature[a]] != row[axes.feature[a]]):
            for k in range(axes.link_start[a], axes.link_start[a + 1]):
                out[axes.link_target[k]] = followed(axes, row, i, k, out[axes.feature[a]])


@njit(cache=True)
def passes(forest, x, cutoff):  # pragma: no cover - compiled
    """Whether the forest's sum at each row ``(n, d)`` is below the cutoff."""
    good, feature = np.zeros(len(x), np.bool_), np.empty(len(forest.cuts), np.int64)
    for f in range(len(forest.start) - 1):
        feature[forest.start[f] : forest.start[f + 1]] = f
    for i in range(len(x)):
        total = forest.base
        for root in forest.roots:
            at = np.int64(root)
            while at >= 0:
                c = forest.node[at, 0]
                v = x[i, feature[c]]
                left = forest.node[at, 3] != 0 if np.isnan(v) else v <= forest.cuts[c]
                at = np.int64(forest.node[at, 1] if left else forest.node[at, 2])
            total += forest.value[-at - 1]
            if forest.single:
                total = np.float64(np.float32(total))
        good[i] = total < cutoff
    return good
