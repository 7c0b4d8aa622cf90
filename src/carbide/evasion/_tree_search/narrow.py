"""Trees cut down to what a box of cells, and the money that is left, leaves undecided.

A way down a tree is dropped where it leaves the box, and also where the moves that it takes on all its axes together cost more than is
left. What remains lies on a stack of nodes, level upon level: a box's trees are cut out of those of the box that it is a part of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import uncounted
from carbide.types import Array

LEFT, RIGHT, MISSING, FLIPPED = -1, -2, -3, -4  # in place of an axis: where a cut sends the row, or (FLIPPED - axis) that the sides change places
ALWAYS = np.int32(2**31 - 1)


class Stack(NamedTuple):
    """Levels of trees: ``node`` ``(s, 4)`` int32 (axis, cell, left, right: left where the axis's cell is at most this one) and ``least`` ``(s,)``,
    the least leaf below each. A number below 0 in place of a node is leaf ``-number - 1`` of the forest.

    The first level is the whole forest as the row sees it, node by node. ``roots`` ``(r,)`` are the undecided trees of all levels,
    ``memo`` ``(s, 2)`` remembers nodes of several parents.
    """

    node: Array
    least: Array
    origin: Array
    worth: Array
    roots: Array
    memo: Array


def stack_space(nodes: int, trees: int, shared: bool) -> Stack:
    """Room for some levels; ``grown`` makes more."""
    return Stack(node=np.empty((nodes, 4), np.int32), least=np.empty(nodes), origin=np.arange(nodes, dtype=np.int32), worth=np.empty(nodes), roots=np.empty(4 * trees + 4, np.int32),
                 memo=np.full((nodes if shared else 0, 2), -1, np.int64))  # fmt: skip


@njit(cache=True)
def grown(stack, nodes, roots):  # pragma: no cover - compiled
    """The stack with room for so many nodes and roots."""
    node, least, origin, worth, memo, root = stack.node, stack.least, stack.origin, stack.worth, stack.memo, stack.roots
    if len(node) < nodes:
        n, old = 2 * nodes, len(node)
        node, least = np.empty((n, 4), np.int32), np.empty(n)
        origin, worth = np.empty(n, np.int32), np.empty(n)
        node[:old], least[:old], origin[:old] = stack.node, stack.least, stack.origin
        if len(memo):
            memo = np.full((n, 2), -1)
            memo[: len(stack.memo)] = stack.memo
    if len(root) < roots:
        root = np.empty(2 * roots, np.int32)
        root[: len(stack.roots)] = stack.roots
    return Stack(node, least, origin, worth, root, memo)


@uncounted
def read(forest, place, node):  # pragma: no cover - compiled
    """Write the forest as the row sees it: nodes that it decides compare any axis with a cell beyond all or before all."""
    trees = forest.node
    for i in range(len(trees)):
        c = trees[i, 0]
        if c < 0:
            continue
        a, t, left, right = place[c, 0], place[c, 1], trees[i, 1], trees[i, 2]
        if a < 0:
            if a <= FLIPPED:
                a, left, right = np.int32(FLIPPED - a), right, left
            else:
                t = ALWAYS if a == LEFT or (a == MISSING and trees[i, 3] != 0) else np.int32(-1)
                a = np.int32(0)
        node[i, 0], node[i, 1], node[i, 2], node[i, 3] = a, t, left, right


@uncounted
def narrow(forest, stack, cells, steep, roots, to, end, low, high, room, sure, rest, limit, stamp, way, spent):  # pragma: no cover - compiled
    """Cut the trees ``roots`` down to the box ``low .. high`` and to moves worth less than ``room``, onto the stack from node ``end``, root ``to`` on.

    ``sure`` is the sum of all trees that are decided, ``rest`` that of the roots' least leaves. Returns (sum of decided trees, of the
    others' least leaves, end of roots, end of nodes); the second is inf if their sum reaches ``limit``, so that no point of the box
    evades, and the work then ends. ``way`` and ``spent`` are scratch. Nodes of several parents are cut by the box alone, as what a
    way down has cost is no property of the node.
    """
    value, shared = forest.value, forest.shared
    node, least, origin, out, memo = stack.node, stack.least, stack.origin, stack.roots, stack.memo
    cost, home, first = cells.cost, cells.home, cells.start
    added = 0.0
    a, t, left, right = 0, 0, 0, 0
    for tree in roots:
        root = np.int64(tree)
        depth, i, paid = 0, root, 0.0
        open_ = True
        result = np.int64(0)
        while open_:
            while True:  # down to a leaf or a node with two sides
                if i < 0:
                    result = i
                    break
                a, t, left, right = node[i, 0], node[i, 1], node[i, 2], node[i, 3]
                if high[a] <= t:
                    i = np.int64(left)
                    continue
                if low[a] > t:
                    i = np.int64(right)
                    continue
                over = paid
                if shared:
                    if memo[i, 1] == stamp:
                        result = memo[i, 0]
                        break
                elif room < np.inf:
                    start, at = first[a], home[a]
                    if steep[a] and at <= t:  # the near side costs nothing more
                        more = cost[start + t + 1] - cost[start + max(at, low[a])]
                    elif steep[a]:
                        more = cost[start + min(at, high[a])] - cost[start + t]
                    else:
                        below = beside = np.inf
                        for j in range(start + low[a], start + t + 1):
                            below = min(below, cost[j])
                        for j in range(start + t + 1, start + high[a] + 1):
                            beside = min(beside, cost[j])
                        more = beside - below
                    over, paid = paid + max(more, 0.0), paid + max(-more, 0.0)
                    if paid >= room:
                        i, paid = np.int64(right), over
                        continue
                    if over >= room:
                        i = np.int64(left)
                        continue
                way[depth, 0], way[depth, 1], way[depth, 2], way[depth, 3], way[depth, 4], way[depth, 5] = a, t, right, 0, high[a], i
                spent[depth] = over
                if not shared:
                    high[a] = t
                depth, i = depth + 1, np.int64(left)
            open_ = False
            while depth > 0:  # up to a node whose right side is still to come
                top = depth - 1
                a, t = way[top, 0], way[top, 1]
                if way[top, 3] == 0:
                    way[top, 3], way[top, 6] = 1, result
                    high[a] = way[top, 4]
                    way[top, 4] = low[a]
                    if not shared:
                        low[a] = t + 1
                    i, paid, open_ = way[top, 2], spent[top], True
                    break
                low[a] = way[top, 4]
                left, right = way[top, 6], result
                below = value[-left - 1] if left < 0 else least[left]
                beside = value[-right - 1] if right < 0 else least[right]
                if left != right and not (left < 0 and right < 0 and below == beside):
                    node[end, 0], node[end, 1], node[end, 2], node[end, 3] = a, t, left, right
                    least[end], origin[end] = min(below, beside), origin[way[top, 5]]
                    result, end = end, end + 1
                else:
                    result = left
                if shared:
                    memo[way[top, 5], 0], memo[way[top, 5], 1] = result, stamp
                depth = top
        if result < 0:
            sure += value[-result - 1]
        else:
            out[to] = result
            to += 1
            added += least[result]
        if root >= 0:
            rest -= least[root]
        if sure + added + rest >= limit:
            return sure, np.inf, to, end
    return sure, added, to, end
