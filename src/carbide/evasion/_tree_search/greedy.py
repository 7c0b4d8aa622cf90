"""A first evasion for the search to improve on: one axis at a time, the move that lowers the sum most for its price.

All single moves of one point are priced together: in each tree only one axis may leave the point, so a walk down the point's
path with detours of one axis gives the sum after every single move. Prices may span many decades, and a greedy that may spend much spends
it; so it is tried again with less and less money, in the trees that this money leaves undecided.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from carbide.evasion._tree_search.branch import clip
from carbide.evasion._tree_search.narrow import grown, narrow

MOVES = 200
LESS, MORE = 1 / 16, 3.0  # steps down to where nothing can be had, and from there up
TRIES = 60  # at most; fewer than the stamps that a row may use


@njit(cache=True)
def _all_moves(value, node, roots, base, cells, active, cell, low, high, change, way):  # pragma: no cover - compiled
    """Into ``change`` (one entry a cell, at ``start[a] + a``) what moving one axis alone to that cell adds to the sum; returns the sum."""
    offset, count, total = cells.start, cells.count, base
    for a in active:
        change[offset[a] + a : offset[a] + a + count[a] + 1] = 0.0
    for root in roots:
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
def _greedy(value, node, roots, base, cells, active, cutoff, upper, cell, low, high, work):  # pragma: no cover - compiled
    """Move ``cell`` from home within ``low .. high`` to a point below the cutoff that costs less than ``upper``; returns its cost, or inf."""
    change, price, offset = work.change, cells.cost, cells.start
    cost, found, tiny = 0.0, False, 1e-9 if upper == np.inf else 1e-6 * upper
    for a in active:
        cell[a] = cells.home[a]
    for _ in range(MOVES):
        total = _all_moves(value, node, roots, base, cells, active, cell, low, high, change, work.way)
        axis, to, score, winning = -1, -1, 0.0, False
        for a in active:
            start, after = offset[a], total
            now = price[start + cell[a]]
            for j in range(high[a] + 1):
                after += change[start + a + j]
                extra = price[start + j] - now
                if j == cell[a] or j < low[a] or cost + extra >= upper:
                    continue
                if after < cutoff:
                    if (not found or extra < 0) and (not winning or -extra > score):
                        axis, to, score, winning = a, j, -extra, True
                elif not found and not winning and after < total:
                    worth = (total - after) / max(extra, tiny)
                    if worth > score:
                        axis, to, score = a, j, worth
        if axis < 0:
            break
        cost += price[offset[axis] + to] - price[offset[axis] + cell[axis]]
        cell[axis] = to
        found = found or winning
    return cost if found else np.inf


@njit(cache=True)
def greedy(forest, stack, cells, active, cutoff, upper, cell, work):  # pragma: no cover - compiled
    """Move ``cell`` from home to a point below the cutoff that costs less than ``upper``; returns its cost, or inf."""
    for a in active:
        work.low[a], work.high[a] = 0, cells.count[a] - 1
    return _greedy(forest.value, stack.node, forest.roots, forest.base, cells, active, cutoff, upper, cell, work.low, work.high, work)


@njit(cache=True)
def cheaper(forest, stack, cells, steep, active, cutoff, slack, cost, stamp, cell, work):  # pragma: no cover - compiled
    """Point ``cell`` below the cutoff, of this ``cost``, made cheaper; returns (its cost, what no evasion costs less than, the stack as it grew)."""
    trial, tries, least = work.trial, 0, 0.0
    money, rising = cost * LESS, False
    while tries < TRIES and money < cost:
        tries += 1
        found, stack = _within(forest, stack, cells, steep, active, cutoff, slack, money, stamp + tries, trial, work)
        if found < 0:
            least, rising = money, True
        elif found < money:
            cost = found
            cell[:] = trial
            if rising:
                break
        money = money * MORE if rising else min(money, cost) * LESS
    while tries < TRIES:
        tries += 1
        found, stack = _within(forest, stack, cells, steep, active, cutoff, slack, cost, stamp + tries, trial, work)
        if not 0 <= found < cost * (1 - 1e-6):
            break
        cost = found
        cell[:] = trial
    return cost, least, stack


@njit(cache=True)
def _within(forest, stack, cells, steep, active, cutoff, slack, money, stamp, cell, work):  # pragma: no cover - compiled
    """What a greedy that may spend less than ``money`` spends (inf where it finds nothing), -1 where nobody can; and the stack as it grew."""
    low, high, trees, nodes = work.low, work.high, len(forest.roots), len(forest.node)
    for a in active:
        cell[a], low[a], high[a] = cells.home[a], 0, cells.count[a] - 1
    clip(cells, False, active, low, high, cell, money, 0.0)
    stack = grown(stack, 2 * nodes + 1, 2 * trees)
    sure, least, to, _ = narrow(forest, stack, cells, steep, stack.roots[:trees], trees, nodes, low, high, money, forest.base, -np.inf,
                                cutoff + slack, stamp, work.way, work.spent)  # fmt: skip
    if sure + least >= cutoff + slack:
        return -1.0, stack
    return _greedy(forest.value, stack.node, stack.roots[trees:to], sure, cells, active, cutoff, money, cell, low, high, work), stack
