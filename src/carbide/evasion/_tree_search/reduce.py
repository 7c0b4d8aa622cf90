"""One row's own trees: only the nodes that its affordable cells leave undecided, children before parents."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from carbide.types import Array


class Row(NamedTuple):
    """A row's trees: ``axis`` ``(m,)`` (-1 = leaf; numbers of active axes), ``cut`` (left where the axis's cell <= cut), ``left``, ``right``,
    ``value`` of leaves, ``roots`` ``(t,)``; ``size[0]`` nodes are in use and every child has a smaller number than its parent.
    """

    axis: Array
    cut: Array
    left: Array
    right: Array
    value: Array
    roots: Array
    size: Array


def row_space(nodes: int, trees: int) -> Row:
    """Room for a row's trees."""
    return Row(axis=np.zeros(nodes, np.int32), cut=np.zeros(nodes, np.int32), left=np.zeros(nodes, np.int32), right=np.zeros(nodes, np.int32),
               value=np.zeros(nodes), roots=np.zeros(trees, np.int32), size=np.zeros(1, np.int64))  # fmt: skip


@njit(cache=True)
def _side(forest, axes, cells, row, node):  # pragma: no cover - compiled
    """Where the affordable cells send a node: -1 left only, 1 right only, 0 both; and the axis's own number of its cut."""
    f = forest.feature[node]
    a, t = axes.axis_of[f], np.int64(forest.cut[node])
    if a < 0 or cells.count[a] == 0:
        if cells.own[f] < 0:
            return (-1 if forest.missing_left[node] else 1), 0
        return (-1 if cells.own[f] <= t else 1), 0
    flip = False
    if cells.linked[f]:
        flip = cells.flipped[forest.start[f] + t]
        t = cells.merged[forest.start[f] + t]
    if t < cells.first[a]:
        return (-1 if flip else 1), 0
    if t >= cells.last[a]:
        return (1 if flip else -1), 0
    return (2 if flip else 0), cells.rank[cells.offset[a] + t]


@njit(cache=True)
def first_trees(forest, axes, cells, row, out, stack, memo, stamp):  # pragma: no cover - compiled
    """Fill ``out`` with the undecided nodes of the whole forest; ``memo`` ``(m, 2)`` remembers shared nodes under this stamp."""
    size = 0
    for tree in range(len(forest.roots)):
        depth, done = 1, -1
        stack[0, 0], stack[0, 1] = forest.roots[tree], -1
        while depth > 0:
            node, waiting = stack[depth - 1, 0], stack[depth - 1, 1]
            if waiting == -1:  # first visit
                side, rank = 1, np.int64(0)
                while forest.feature[node] >= 0:
                    if memo[node, 1] == stamp:
                        break
                    side, rank = _side(forest, axes, cells, row, node)
                    if side == 0 or side == 2:
                        break
                    node = forest.left[node] if side < 0 else forest.right[node]
                if memo[node, 1] == stamp:
                    done = memo[node, 0]
                    depth -= 1
                elif forest.feature[node] < 0:
                    out.axis[size], out.value[size] = -1, forest.value[node]
                    memo[node, 0], memo[node, 1] = size, stamp
                    done, size, depth = size, size + 1, depth - 1
                else:
                    stack[depth - 1, 0] = node
                    stack[depth - 1, 1] = -2 - side  # -2: plain, -4: sides changed places
                    stack[depth - 1, 2] = rank
                    child = forest.right[node] if side == 2 else forest.left[node]
                    stack[depth, 0], stack[depth, 1] = child, -1
                    depth += 1
            elif waiting <= -2:  # the left side is done
                stack[depth - 1, 1] = done
                child = forest.left[node] if waiting == -4 else forest.right[node]
                stack[depth, 0], stack[depth, 1] = child, -1
                depth, done = depth + 1, -1
            else:  # both sides are done
                left, right = np.int32(waiting), np.int32(done)
                if left == right or (out.axis[left] < 0 and out.axis[right] < 0 and out.value[left] == out.value[right]):
                    done = left
                else:
                    out.axis[size], out.cut[size] = axes.axis_of[forest.feature[node]], stack[depth - 1, 2]
                    out.left[size], out.right[size] = left, right
                    done, size = size, size + 1
                memo[node, 0], memo[node, 1] = done, stamp
                depth -= 1
        out.roots[tree] = done
    out.size[0] = size


@njit(cache=True)
def fewer(trees, low, high, out, new, reach):  # pragma: no cover - compiled
    """Fill ``out`` with the nodes of ``trees`` that the box of cells ``low .. high`` leaves undecided."""
    n = trees.size[0]
    reach[:n] = False
    for root in trees.roots:
        reach[root] = True
    for i in range(n - 1, -1, -1):
        if reach[i] and trees.axis[i] >= 0:
            a = trees.axis[i]
            if low[a] <= trees.cut[i]:
                reach[trees.left[i]] = True
            if high[a] > trees.cut[i]:
                reach[trees.right[i]] = True
    size = 0
    for i in range(n):
        if not reach[i]:
            continue
        a = trees.axis[i]
        if a < 0:
            out.axis[size], out.value[size] = -1, trees.value[i]
            new[i], size = size, size + 1
            continue
        goes_left, goes_right = low[a] <= trees.cut[i], high[a] > trees.cut[i]
        if goes_left and goes_right and new[trees.left[i]] != new[trees.right[i]]:
            out.axis[size], out.cut[size] = a, trees.cut[i]
            out.left[size], out.right[size] = new[trees.left[i]], new[trees.right[i]]
            new[i], size = size, size + 1
        else:
            new[i] = new[trees.left[i]] if goes_left else new[trees.right[i]]
    for t in range(len(trees.roots)):
        out.roots[t] = new[trees.roots[t]]
    out.size[0] = size
