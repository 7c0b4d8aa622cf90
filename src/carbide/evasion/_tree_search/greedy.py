"""A first evasion for the search to improve on: one axis at a time, the move that lowers the sum most for its price.

All single moves of one point are priced together: in each tree only one axis may leave the point, so a walk down the point's
path with detours of one axis gives the sum after every single move.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MOVES = 200


@njit(cache=True)
def _all_moves(trees, cells, active, cell, low, high, change, stack):  # pragma: no cover - compiled
    """Into ``change`` (one entry a cell, at ``start[a] + a``) what moving one axis alone to that cell adds to the sum."""
    for a in active:
        change[cells.start[a] + a : cells.start[a] + a + cells.count[a] + 1] = 0.0
    for root in trees.roots:
        node = root
        while trees.axis[node] >= 0:
            node = trees.left[node] if cell[trees.axis[node]] <= trees.cut[node] else trees.right[node]
        here = trees.value[node]
        node = root
        while trees.axis[node] >= 0:  # low and high: where each axis may go without leaving this path earlier
            a, cut = trees.axis[node], trees.cut[node]
            goes_left = cell[a] <= cut
            if goes_left:
                stack[0, 0], stack[0, 1], stack[0, 2] = trees.right[node], max(low[a], cut + 1), high[a]
            else:
                stack[0, 0], stack[0, 1], stack[0, 2] = trees.left[node], low[a], min(high[a], cut)
            if stack[0, 1] <= stack[0, 2]:
                _detours(trees, cells, cell, a, here, change, stack)
            if goes_left:
                high[a] = min(high[a], cut)
                node = trees.left[node]
            else:
                low[a] = max(low[a], cut + 1)
                node = trees.right[node]
        node = root
        while trees.axis[node] >= 0:  # undo
            a = trees.axis[node]
            low[a], high[a] = 0, cells.count[a] - 1
            node = trees.left[node] if cell[a] <= trees.cut[node] else trees.right[node]
    for a in active:
        total = 0.0
        for j in range(cells.start[a] + a, cells.start[a] + a + cells.count[a]):
            total += change[j]
            change[j] = total


@njit(cache=True)
def _detours(trees, cells, cell, a, here, change, stack):  # pragma: no cover - compiled
    depth = 1
    while depth > 0:
        depth -= 1
        node, least, most = stack[depth, 0], stack[depth, 1], stack[depth, 2]
        while trees.axis[node] >= 0:
            b, cut = trees.axis[node], trees.cut[node]
            if b != a:
                node = trees.left[node] if cell[b] <= cut else trees.right[node]
            elif most <= cut:
                node = trees.left[node]
            elif least > cut:
                node = trees.right[node]
            else:
                stack[depth, 0], stack[depth, 1], stack[depth, 2] = trees.right[node], cut + 1, most
                depth += 1
                node, most = trees.left[node], cut
        at = cells.start[a] + a
        change[at + least] += trees.value[node] - here
        change[at + most + 1] -= trees.value[node] - here


@njit(cache=True)
def greedy(trees, cells, active, base, cutoff, upper, cell, work):  # pragma: no cover - compiled
    """Move ``cell`` from home to a point below the cutoff that costs less than ``upper``; returns its cost, or inf."""
    low, high, change, stack = work.low, work.high, work.change, work.stack
    cost, found = 0.0, False
    total = base
    for a in active:
        cell[a], low[a], high[a] = cells.home[a], 0, cells.count[a] - 1
    for root in trees.roots:
        node = root
        while trees.axis[node] >= 0:
            node = trees.left[node] if cell[trees.axis[node]] <= trees.cut[node] else trees.right[node]
        total += trees.value[node]
    for _ in range(MOVES):
        _all_moves(trees, cells, active, cell, low, high, change, stack)
        axis, to, score, winning = -1, -1, 0.0, False
        for a in active:
            start = cells.start[a]
            for j in range(cells.count[a]):
                extra = cells.cost[start + j] - cells.cost[start + cell[a]]
                after = total + change[start + a + j]
                if j == cell[a] or cost + extra >= upper:
                    continue
                if after < cutoff:
                    if (not found or extra < 0) and (not winning or -extra > score):
                        axis, to, score, winning = a, j, -extra, True
                elif not found and not winning and after < total:
                    worth = (total - after) / max(extra, 1e-9)
                    if worth > score:
                        axis, to, score = a, j, worth
        if axis < 0:
            break
        at = cells.start[axis]
        cost += cells.cost[at + to] - cells.cost[at + cell[axis]]
        total += change[at + axis + to]
        cell[axis] = to
        found = found or winning
    return cost if found else np.inf
