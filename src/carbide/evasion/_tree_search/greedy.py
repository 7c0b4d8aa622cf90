"""A first evasion for the search to improve on: one axis at a time, the move that lowers the sum most for its price.

All single moves of one point are priced together: in each tree only one axis may leave the point, so a walk down the point's
path with detours of one axis gives the sum after every single move. Nothing is cut down before: what the walk does not meet costs nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from carbide.evasion._tree_search.narrow import parts, settle

MOVES = 200


@njit(cache=True)
def _all_moves(forest, place, cells, active, cell, low, high, change, stack):  # pragma: no cover - compiled
    """Into ``change`` (one entry a cell, at ``start[a] + a``) what moving one axis alone to that cell adds to the sum; returns the sum."""
    for a in active:
        change[cells.start[a] + a : cells.start[a] + a + cells.count[a] + 1] = 0.0
    total = forest.base
    for root in forest.roots:
        depth, i = 0, settle(forest.node, place, root)
        while forest.node[i, 0] >= 0:  # low and high: where each axis may go without leaving this path earlier
            a, t, left, right = parts(forest.node, place, i)
            goes_left = cell[a] <= t
            stack[depth, 0], stack[depth, 1] = a, goes_left
            if goes_left:
                stack[depth, 2], stack[depth, 3], stack[depth, 4], stack[depth, 5] = right, max(low[a], t + 1), high[a], high[a]
                high[a] = min(high[a], t)
            else:
                stack[depth, 2], stack[depth, 3], stack[depth, 4], stack[depth, 5] = left, low[a], min(high[a], t), low[a]
                low[a] = max(low[a], t + 1)
            depth, i = depth + 1, settle(forest.node, place, left if goes_left else right)
        here = forest.value[i]
        total += here
        for k in range(depth - 1, -1, -1):
            a = stack[k, 0]
            if stack[k, 1]:
                high[a] = stack[k, 5]
            else:
                low[a] = stack[k, 5]
            if stack[k, 3] <= stack[k, 4]:
                _detours(forest, place, cells.start[a] + a, cell, a, here, change, stack, k, depth)
    for a in active:
        sum_ = 0.0
        for j in range(cells.start[a] + a, cells.start[a] + a + cells.count[a]):
            sum_ += change[j]
            change[j] = sum_
    return total


@njit(cache=True)
def _detours(forest, place, at, cell, a, here, change, stack, first, top):  # pragma: no cover - compiled
    """Add the leaves that axis a alone reaches off the path; ``stack[first]`` says from where, and there is room from ``top`` on."""
    stack[top, 2], stack[top, 3], stack[top, 4] = stack[first, 2], stack[first, 3], stack[first, 4]
    depth = top + 1
    while depth > top:
        depth -= 1
        i, least, most = stack[depth, 2], stack[depth, 3], stack[depth, 4]
        i = settle(forest.node, place, i)
        while forest.node[i, 0] >= 0:
            b, t, left, right = parts(forest.node, place, i)
            if b != a:
                i = left if cell[b] <= t else right
            elif most <= t:
                i = left
            elif least > t:
                i = right
            else:
                stack[depth, 2], stack[depth, 3], stack[depth, 4] = right, t + 1, most
                depth += 1
                i, most = left, t
            i = settle(forest.node, place, i)
        change[at + least] += forest.value[i] - here
        change[at + most + 1] -= forest.value[i] - here


@njit(cache=True)
def greedy(forest, place, cells, active, cutoff, upper, cell, work):  # pragma: no cover - compiled
    """Move ``cell`` from home to a point below the cutoff that costs less than ``upper``; returns its cost, or inf."""
    low, high, change = work.low, work.high, work.change
    cost, found = 0.0, False
    for a in active:
        cell[a], low[a], high[a] = cells.home[a], 0, cells.count[a] - 1
    for _ in range(MOVES):
        total = _all_moves(forest, place, cells, active, cell, low, high, change, work.way)
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
        cell[axis] = to
        found = found or winning
    return cost if found else np.inf
