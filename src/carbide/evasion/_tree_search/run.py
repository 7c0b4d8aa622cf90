"""One row after another: price its cells, cut its trees down, start greedily, then branch and bound."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from carbide.evasion._tree_search.branch import branch, cheapest_point, evades
from carbide.evasion._tree_search.cells import fill_cells
from carbide.evasion._tree_search.greedy import greedy
from carbide.evasion._tree_search.reduce import fewer, first_trees
from carbide.evasion._tree_search.ties import LARGEST
from carbide.types import Array

IMPOSSIBLE, EXACT, ENOUGH, UNKNOWN = 0, 1, 2, 3


class Work(NamedTuple):
    """Scratch arrays of one thread."""

    least: Array
    reach: Array
    gain: Array
    new: Array
    cell: Array
    tied: Array
    room: Array
    low: Array
    high: Array
    change: Array
    stack: Array
    memo: Array


def work_space(nodes: int, axes: int, total: int, tied: int) -> Work:
    """Scratch for forests of this many nodes, axes, cells and tied axes."""
    return Work(least=np.zeros(nodes), reach=np.zeros(nodes, np.bool_), gain=np.zeros(total + 1), new=np.zeros(nodes, np.int32),
                cell=np.zeros(axes, np.int64), tied=np.zeros(tied), room=np.zeros((3, LARGEST)), low=np.zeros(axes, np.int64),
                high=np.zeros(axes, np.int64), change=np.zeros(total + axes + 1), stack=np.zeros((nodes + 2, 3), np.int64),
                memo=np.full((nodes, 2), -1, np.int64))  # fmt: skip


@njit(cache=True, nogil=True)
def run_rows(
    forest,
    axes,
    ties,
    x,
    cutoff,
    slack,
    budget,
    first,
    limit,
    stale,
    frozen,
    steep,
    worst,
    cells,
    trees,
    spare,
    work,
    cost,
    lower,
    witness,
    status,
    boxes,
):  # pragma: no cover - compiled
    """Search every row of ``x`` ``(n, d)``; results go to the arrays that come last, one entry a row."""
    width = len(axes.feature)
    best, best_tied = np.zeros(width, np.int64), np.zeros(len(ties.axes))
    for i in range(len(x)):
        row = x[i]
        fill_cells(axes, forest, row, i, budget, cells, frozen)
        first_trees(forest, axes, cells, row, trees, work.stack, work.memo, i)
        witness[i] = row
        active = np.flatnonzero(cells.count > 1)
        for a in range(width):
            best[a] = work.cell[a] = cells.home[a]
            work.low[a], work.high[a] = 0, max(cells.count[a] - 1, 0)
        for k in range(len(ties.axes)):
            best_tied[k] = row[axes.feature[ties.axes[k]]]
        if evades(trees, best, forest.base, forest.single, cutoff):
            cost[i], lower[i], status[i], boxes[i] = 0.0, 0.0, EXACT, 0
            _write(axes, cells, ties, best, best_tied, row, stale[i], witness[i])
            continue
        upper, found = budget, False
        paid = np.inf if worst else greedy(trees, cells, active, forest.base, cutoff, upper, best, work)
        if paid < upper and evades(trees, best, forest.base, forest.single, cutoff):
            for a in active:
                work.low[a] = work.high[a] = best[a]
            paid, _ = cheapest_point(ties, i, row, axes, cells, steep, worst, active, work.low, work.high, work.cell, best_tied, work.room)
            if paid < upper:
                upper, found = paid, True
        boxes[i], lower[i] = 0, 0.0
        if not (first and found):
            if found:
                _afford(cells, steep, active, upper, work)
                fewer(trees, work.low, work.high, spare, work.new, work.reach)
            else:
                spare, trees = trees, spare
            upper, lower[i], boxes[i], better = branch(spare, trees, ties, i, row, axes, cells, steep, worst, active, forest.base, forest.single, cutoff,
                                                       slack, upper, first, limit, best, best_tied, work)  # fmt: skip
            found = found or better
        if found:
            cost[i] = upper
            _write(axes, cells, ties, best, best_tied, row, stale[i], witness[i])
            status[i] = EXACT if lower[i] >= upper else (ENOUGH if first else UNKNOWN)
        else:
            cost[i] = np.inf
            status[i] = IMPOSSIBLE if lower[i] >= budget else UNKNOWN


@njit(cache=True)
def _afford(cells, steep, active, upper, work):  # pragma: no cover - compiled
    """Into ``work.low`` and ``work.high`` the cells of every axis that cost less than ``upper``."""
    for a in active:
        start, low, high = cells.start[a], 0, cells.count[a] - 1
        while low < cells.home[a] and cells.cost[start + low] >= upper:
            low += 1
        while high > cells.home[a] and cells.cost[start + high] >= upper:
            high -= 1
        work.low[a], work.high[a] = low, high


@njit(cache=True)
def _write(axes, cells, ties, cell, tied, row, stale, out):  # pragma: no cover - compiled
    """The values of a point given by its cells, with tied axes and the ratios that follow (in a ``stale`` row even if their parts stayed)."""
    out[:] = row
    for a in range(len(axes.feature)):
        if cells.count[a] > 1 and cell[a] != cells.home[a]:
            out[axes.feature[a]] = cells.value[cells.start[a] + cell[a]]
    for k in range(len(tied)):
        out[axes.feature[ties.axes[k]]] = tied[k]
    for a in range(len(axes.feature)):
        if cells.count[a] > 0 and (stale or out[axes.feature[a]] != row[axes.feature[a]]):
            for k in range(axes.link_start[a], axes.link_start[a + 1]):
                out[axes.link_target[k]] = out[axes.feature[a]] / row[axes.link_below[k]]
