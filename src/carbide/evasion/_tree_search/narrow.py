"""Trees cut down to what a box of cells, and the money that is left, leaves undecided.

A way down a tree is dropped where it leaves the box, and also where the moves that it takes on all its axes together cost more than is
left. What remains lies on a stack of nodes, level upon level: a box's trees are cut out of those of the box that it is a part of.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from carbide.types import Array

LEFT, RIGHT, MISSING, FLIPPED = -1, -2, -3, -4  # in place of an axis: where a cut sends the row, or (FLIPPED - axis) that the sides change places


class Stack(NamedTuple):
    """Levels of trees: ``node`` ``(s, 4)`` int32 (axis, cell, left, right: left where the axis's cell is at most this one) and ``least`` ``(s,)``,
    the least leaf below each. A number below 0 in place of a node is leaf ``-number - 1`` of the forest.

    ``roots`` ``(r,)`` are the undecided trees of all levels, ``memo`` ``(s, 2)`` remembers nodes of several parents.
    """

    node: Array
    least: Array
    roots: Array
    memo: Array


def stack_space(nodes: int, trees: int, shared: bool) -> Stack:
    """Room for some levels; ``grown`` makes more."""
    return Stack(node=np.empty((nodes, 4), np.int32), least=np.empty(nodes), roots=np.empty(4 * trees + 4, np.int32),
                 memo=np.full((nodes if shared else 0, 2), -1, np.int64))  # fmt: skip


@njit(cache=True)
def grown(stack, nodes, roots):  # pragma: no cover - compiled
    """The stack with room for so many nodes and roots."""
    node, least, memo, root = stack.node, stack.least, stack.memo, stack.roots
    if len(node) < nodes:
        n = 2 * nodes
        node, least = np.empty((n, 4), np.int32), np.empty(n)
        node[: len(stack.node)], least[: len(stack.least)] = stack.node, stack.least
        if len(memo):
            memo = np.full((n, 2), -1)
            memo[: len(stack.memo)] = stack.memo
    if len(root) < roots:
        root = np.empty(2 * roots, np.int32)
        root[: len(stack.roots)] = stack.roots
    return Stack(node, least, root, memo)


@njit(cache=True)
def settle(node, place, i):  # pragma: no cover - compiled
    """From node i of the forest on, the first leaf or node that the row's place does not decide."""
    while node[i, 0] >= 0:
        a = place[node[i, 0], 0]
        if a >= 0 or a <= FLIPPED:
            return i
        i = node[i, 1] if a == LEFT or (a == MISSING and node[i, 3] != 0) else node[i, 2]
    return i


@njit(cache=True)
def parts(node, place, i):  # pragma: no cover - compiled
    """Axis, cell, left and right child of an undecided node of the forest."""
    c = node[i, 0]
    a, t = place[c, 0], place[c, 1]
    if a <= FLIPPED:
        return FLIPPED - a, t, node[i, 2], node[i, 1]
    return a, t, node[i, 1], node[i, 2]


@njit(cache=True)
def cheapest_cell(cells, steep, a, low, high):  # pragma: no cover - compiled
    """The cheapest of axis a's cells ``low .. high``; prices that rise with distance (``steep``) need no search."""
    if steep[a]:
        return min(max(cells.home[a], low), high)
    best = low
    for j in range(low, high + 1):
        if cells.cost[cells.start[a] + j] < cells.cost[cells.start[a] + best]:
            best = j
    return best


@njit(cache=True)
def least_of(forest, stack, i):  # pragma: no cover - compiled
    """The least leaf below a node of the stack."""
    return stack.least[i] if i >= 0 else forest.value[-i - 1]


@njit(cache=True)
def narrow(forest, place, whole, stack, end, root, stamp, cells, steep, low, high, room, way, spent):  # pragma: no cover - compiled
    """Cut one tree down to the box ``low .. high`` and to moves worth less than ``room``; returns its new root and the stack's end.

    ``root`` is a node of the forest if ``whole``, else of the stack. ``way`` and ``spent`` are scratch. A tree of shared nodes is cut by the
    box alone, as what a way down has cost is no property of the node.
    """
    node, least = stack.node, stack.least
    shared, depth, i, paid = forest.shared, 0, root, 0.0
    a, t, left, right = 0, 0, 0, 0
    while True:
        result = 0
        while True:  # down to a leaf or a node with two sides
            if whole:
                i = settle(forest.node, place, i)
                if forest.node[i, 0] < 0:
                    result = -i - 1
                    break
                a, t, left, right = parts(forest.node, place, i)
            else:
                if i < 0:
                    result = i
                    break
                a, t, left, right = node[i, 0], node[i, 1], node[i, 2], node[i, 3]
            if high[a] <= t:
                i = left
                continue
            if low[a] > t:
                i = right
                continue
            over = paid
            if shared:
                if stack.memo[i, 1] == stamp:
                    result = stack.memo[i, 0]
                    break
            elif room < np.inf:
                start = cells.start[a]
                here = cells.cost[start + cheapest_cell(cells, steep, a, low[a], high[a])]
                to_left = paid + (cells.cost[start + cheapest_cell(cells, steep, a, low[a], t)] - here)
                over = paid + (cells.cost[start + cheapest_cell(cells, steep, a, t + 1, high[a])] - here)
                if to_left >= room:  # then the cheapest cell lies on the other side, and going there costs nothing more
                    i = right
                    continue
                if over >= room:
                    i = left
                    continue
                paid = to_left
            way[depth, 0], way[depth, 1], way[depth, 2], way[depth, 3], way[depth, 4], way[depth, 5] = a, t, right, 0, high[a], i
            spent[depth] = over
            if not shared:
                high[a] = t
            depth, i = depth + 1, left
        while depth > 0:  # up to a node whose right side is still to come
            top = depth - 1
            a, t = way[top, 0], way[top, 1]
            if way[top, 3] == 0:
                way[top, 3], way[top, 6] = 1, result
                high[a] = way[top, 4]
                way[top, 4] = low[a]
                if not shared:
                    low[a] = t + 1
                i, paid = way[top, 2], spent[top]
                break
            low[a] = way[top, 4]
            left, right = way[top, 6], result
            if left != right and not (left < 0 and right < 0 and forest.value[-left - 1] == forest.value[-right - 1]):
                node[end, 0], node[end, 1], node[end, 2], node[end, 3] = a, t, left, right
                least[end] = min(least_of(forest, stack, left), least_of(forest, stack, right))
                result, end = end, end + 1
            else:
                result = left
            if shared:
                stack.memo[way[top, 5], 0], stack.memo[way[top, 5], 1] = result, stamp
            depth = top
        else:
            return result, end
