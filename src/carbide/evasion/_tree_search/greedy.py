"""A first evasion for the search to improve on, and a price that none falls below.

Prices may span many decades, and a greedy that may spend much spends it. So the decades are halved for the least money that leaves the trees
any way below the cutoff, and from there on up a greedy may spend more and more. It moves one axis at a time, the way that lowers the sum
most for its price. All single moves of a point are priced together: in each tree only one axis may leave the point, so a walk down the
point's path with detours of one axis gives the sum after every single move.
"""

from __future__ import annotations

import math

import numpy as np

from carbide.evasion._compiled import uncounted
from carbide.evasion._tree_search.branch import clip
from carbide.evasion._tree_search.narrow import narrow

MOVES = 200
MORE = 8.0  # how much more money the greedy gets where it found nothing
TRIES = 100  # stamps that a start may use


@uncounted
def _all_moves(value, node, roots, base, cells, active, cell, low, high, change, way):  # pragma: no cover - compiled
    """Into ``change`` (one entry a cell, at ``start[a] + a``) what moving one axis alone to that cell adds to the sum; returns the sum."""
    offset, total = cells.start, base
    for a in active:
        change[offset[a] + a + low[a] : offset[a] + a + high[a] + 2] = 0.0
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


@uncounted
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
            for j in range(low[a], high[a] + 1):
                after += change[start + a + j]
                extra = price[start + j] - now
                if j == cell[a] or cost + extra >= upper:
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


@uncounted
def span(cells, worst, active, upper):  # pragma: no cover - compiled
    """The least price above 0 of any move, and more than all moves cost together, at most ``upper``."""
    least, total = np.inf, 0.0
    for a in active:
        most = 0.0
        for at in range(cells.start[a], cells.start[a] + cells.count[a]):
            most = max(most, cells.cost[at])
            if cells.cost[at] > 0:
                least = min(least, cells.cost[at])
        total = max(total, most) if worst else total + most
    top = min(2 * total if total > 0 else 1.0, upper)
    return min(least, top), top


@uncounted
def _reach(forest, stack, cells, steep, worst, active, edge, money, stamp, work):  # pragma: no cover - compiled
    """The trees that less than ``money`` leaves undecided, onto the stack: their last root, and the sum of the others; -1 if no point gets below ``edge``."""
    low, high, trees, nodes = work.low, work.high, len(forest.roots), len(forest.node)
    for a in active:
        low[a], high[a] = 0, cells.count[a] - 1
    clip(cells, worst, active, low, high, cells.home, money, 0.0)
    sure, least, to, _ = narrow(forest, stack, cells, steep, stack.roots[:trees], trees, nodes, low, high, np.inf if worst else money, forest.base,
                                -np.inf, edge, stamp, work.way, work.spent)  # fmt: skip
    return to if sure + least < edge else -1, sure


@uncounted
def reaches(forest, stack, cells, steep, worst, active, edge, upper, near, stamp, work):  # pragma: no cover - compiled
    """A price that no point below ``edge`` falls below, one at most ``near`` times as large that the trees' least leaves allow, and stamps used.

    The stack must have room for the forest twice.
    """
    known, (money, top), tries = 0.0, span(cells, worst, active, upper), 1
    if _reach(forest, stack, cells, steep, worst, active, edge, money, stamp + 1, work)[0] < 0:
        known, money = money, top
        while money > near * known and tries < TRIES // 2:
            middle, tries = math.sqrt(known * money), tries + 1
            if _reach(forest, stack, cells, steep, worst, active, edge, middle, stamp + tries, work)[0] < 0:
                known = middle
            else:
                money = middle
    return known, money, tries


@uncounted
def start(forest, stack, cells, steep, active, cutoff, slack, upper, stamp, cell, work):  # pragma: no cover - compiled
    """A cheap point below the cutoff into ``cell``; returns its cost (inf if none below ``upper`` was found) and a price that no evasion falls below."""
    trees, edge, trial, top = len(forest.roots), cutoff + slack, work.trial, span(cells, False, active, upper)[1]
    known, money, tries = reaches(forest, stack, cells, steep, False, active, edge, upper, 2.0, stamp, work)
    cost = np.inf
    while tries < TRIES:
        tries += 1
        to, sure = _reach(forest, stack, cells, steep, False, active, edge, money, stamp + tries, work)
        found = np.inf
        if to >= 0:
            found = _greedy(forest.value, stack.node, stack.roots[trees:to], sure, cells, active, cutoff, money, trial, work.low, work.high, work)
        if found < money:
            better = found < cost * (1 - 1e-6)
            if found < cost:
                cost = found
                for a in range(len(cell)):
                    cell[a] = trial[a]
            if not better:
                break
            money = cost
        elif cost < np.inf or money >= top:
            break
        else:
            money = min(MORE * money, top)
    return cost, known
