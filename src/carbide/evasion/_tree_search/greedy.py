"""A first evasion for the search to improve on: one axis at a time, the move that lowers the sum most for its price.

All single moves of one point are priced together: in each tree only one axis may leave the point, so a walk down the point's
path with detours of one axis gives the sum after every single move. Nothing is cut down before: what the walk does not meet costs nothing.
"""

from __future__ import annotations

import numpy as np
from numba import njit

MOVES = 200


@njit(cache=True)
def _all_moves(forest, node, cells, active, cell, low, high, change, way):  # pragma: no cover - compiled
    """Into ``change`` (one entry a cell, at ``start[a] + a``) what moving one axis alone to that cell adds to the sum; returns the sum."""
    offset, count, value, total = cells.start, cells.count, forest.value, forest.base
    for a in active:
        change[offset[a] + a : offset[a] + a + count[a] + 1] = 0.0
    for root in forest.roots:
        path, i = 0, np.int64(root)
        while i >= 0:  # low and high: where each axis may go without leaving this path earlier
            a, t = node[i, 0], node[i, 1]
            goes_left = cell[a] <= t
            if goes_left:
                way[path, 2], way[path, 3], way[path, 4], way[path, 5] = node[i, 3], max(low[a], t + 1), high[a], high[a]
                high[a] = min(high[a], t)
            else:
                way[path, 2], way[path, 3], way[path, 4], way[path, 5] = node[i, 2], low[a], min(high[a], t), low[a]
                low[a] = max(low[a], t + 1)
            way[path, 0], way[path, 1] = a, goes_left
            path, i = path + 1, np.int64(node[i, 2] if goes_left else node[i, 3])
        here = value[-i - 1]
        total += here
        for k in range(path - 1, -1, -1):
            a = way[k, 0]
            if way[k, 1]:
                high[a] = way[k, 5]
            else:
                low[a] = way[k, 5]
            if way[k, 3] > way[k, 4]:
                continue
            at = offset[a] + a
            way[path, 2], way[path, 3], way[path, 4] = way[k, 2], way[k, 3], way[k, 4]
            depth = path + 1
            while depth > path:  # the leaves that axis a alone reaches from here on
                depth -= 1
                i, least, most = way[depth, 2], way[depth, 3], way[depth, 4]
                while i >= 0:
                    b, t = np.int64(node[i, 0]), np.int64(node[i, 1])
                    if b != a:
                        i = np.int64(node[i, 2] if cell[b] <= t else node[i, 3])
                    elif most <= t:
                        i = np.int64(node[i, 2])
                    elif least > t:
                        i = np.int64(node[i, 3])
                    else:
                        way[depth, 2], way[depth, 3], way[depth, 4] = node[i, 3], t + 1, most
                        depth += 1
                        i, most = np.int64(node[i, 2]), t
                change[at + least] += value[-i - 1] - here
                change[at + most + 1] -= value[-i - 1] - here
    return total


@njit(cache=True)
def greedy(forest, node, cells, active, cutoff, upper, cell, work):  # pragma: no cover - compiled
    """Move ``cell`` from home to a point below the cutoff that costs less than ``upper``; returns its cost, or inf."""
    low, high, change, price, offset = work.low, work.high, work.change, cells.cost, cells.start
    cost, found = 0.0, False
    for a in active:
        cell[a], low[a], high[a] = cells.home[a], 0, cells.count[a] - 1
    for _ in range(MOVES):
        total = _all_moves(forest, node, cells, active, cell, low, high, change, work.way)
        axis, to, score, winning = -1, -1, 0.0, False
        for a in active:
            start, after = offset[a], total
            now = price[start + cell[a]]
            for j in range(high[a] + 1):
                after += change[start + a + j]
                extra = price[start + j] - now
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
        cost += price[offset[axis] + to] - price[offset[axis] + cell[axis]]
        cell[axis] = to
        found = found or winning
    return cost if found else np.inf
