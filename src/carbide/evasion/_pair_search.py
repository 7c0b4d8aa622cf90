"""Devos et al. 2021, https://arxiv.org/abs/2010.13880: questions about two rows at once, by branch and bound over pairs of leaves.

A row and a changed row that agree outside the moved features reach, in every tree, one of the pairs of leaves whose boxes allow it.
A box of pairs falls when the largest fall of the trees' sum over such pairs is no fall, when no pair in it is at all likely to cross the
cutoff, or when its cheapest move costs too much. Boxes are split until each tree has one pair left; such a box is a candidate.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import uncounted
from carbide.types import Array

DONE, CANDIDATE, LIMIT = 0, 1, 2


class Leaves(NamedTuple):
    """The leaves of all trees as boxes of cells: ``low`` and ``high`` ``(m, d)`` inclusive, ``value`` ``(m,)``, ``tree`` ``(m,)``."""

    low: Array
    high: Array
    value: Array
    tree: Array


class Moves(NamedTuple):
    """The ``k`` moved features and what moving them costs, by cells.

    ``feature`` ``(k,)``, ``axis_of`` ``(d,)`` (-1 = not moved); ``way`` ``(k,)`` 1 = up only, -1 = down only, 0 = both. ``up``, ``down``,
    ``fixed`` ``(k,)``; ``low``, ``high`` ``(k, c)`` the least and largest value of each cell; ``table`` ``(k, c, c)`` prices from cell to cell where
    ``tabled``; at most ``money`` is paid.
    """

    feature: Array
    axis_of: Array
    way: Array
    up: Array
    down: Array
    fixed: Array
    low: Array
    high: Array
    table: Array
    tabled: Array
    money: float


class Limits(NamedTuple):
    """When a box can be dropped: the largest fall is at most ``floor`` (or falls in no tree), or the sums miss the cutoff; ``trees`` of them."""

    trees: int
    floor: float
    reach: float  # the sum of the row must be able to reach this
    below: float  # and that of the changed row to lie below this


class Stack(NamedTuple):
    """Open boxes: axis a < d is the row's feature a, axis d + k the changed row's k-th moved feature; their pairs lie at ``first : last`` of the items."""

    low: Array
    high: Array
    fall: Array
    cost: Array
    first: Array
    last: Array
    left: Array
    right: Array


@njit(cache=True)
def leaf_boxes(node, value, roots, feature, cell, start, ranks, d):  # pragma: no cover - compiled
    """The leaves of a forest, in compressed cells; ``ranks[start[f] + f + c]`` is how many allowed cells of feature f lie before cell c."""
    room = 1024
    low, high = np.empty((room, d), np.int32), np.empty((room, d), np.int32)
    out, tree, n = np.empty(room), np.empty(room, np.int32), 0
    stack, here = np.empty((4096, 2 * d), np.int32), np.empty(4096, np.int64)
    for t in range(len(roots)):
        here[0], depth = roots[t], 1
        for f in range(d):
            stack[0, f], stack[0, d + f] = 0, start[f + 1] - start[f]
        while depth > 0:
            depth -= 1
            i, box = here[depth], stack[depth].copy()
            if i < 0:
                if n == room:
                    room *= 2
                    low, high, out, tree = _rows(low, room), _rows(high, room), _longer(out, room), _longer(tree, room)
                kept = True
                for f in range(d):
                    at = start[f] + 2 * f
                    low[n, f], high[n, f] = ranks[at + box[f]], ranks[at + box[d + f] + 1] - 1
                    kept = kept and low[n, f] <= high[n, f]
                if kept:
                    out[n], tree[n] = value[-i - 1], t
                    n += 1
                continue
            if depth + 2 > len(here):
                stack, here = _rows(stack, 2 * len(here)), _longer(here, 2 * len(here))
            f, c = feature[node[i, 0]], cell[node[i, 0]]
            if box[d + f] > c:
                stack[depth], here[depth] = box, node[i, 2]
                stack[depth, f] = max(box[f], c + 1)
                depth += 1
            if box[f] <= c:
                stack[depth], here[depth] = box, node[i, 1]
                stack[depth, d + f] = min(box[d + f], c)
                depth += 1
    return Leaves(low[:n].copy(), high[:n].copy(), out[:n].copy(), tree[:n].copy())


@njit(cache=True)
def _rows(old, size):  # pragma: no cover - compiled
    new = np.empty((size, old.shape[1]), old.dtype)
    new[: len(old)] = old
    return new


@njit(cache=True)
def _longer(old, size):  # pragma: no cover - compiled
    new = np.empty(size, old.dtype)
    new[: len(old)] = old
    return new


@uncounted
def gap(moves, k, a, b, c, e):  # pragma: no cover - compiled
    """The least price of moving feature k from a cell of ``a .. b`` to one of ``c .. e``."""
    if moves.tabled[k]:
        least = np.inf
        for i in range(a, b + 1):
            for j in range(c, e + 1):
                least = min(least, moves.table[k, i, j])
        return least
    if c > b:
        return moves.fixed[k] + moves.up[k] * (moves.low[k, c] - moves.high[k, b]) if moves.way[k] >= 0 else np.inf
    if e < a:
        return moves.fixed[k] + moves.down[k] * (moves.low[k, a] - moves.high[k, e]) if moves.way[k] <= 0 else np.inf
    return 0.0


@uncounted
def box_cost(moves, low, high):  # pragma: no cover - compiled
    """The least price of a move inside a box."""
    d, paid = len(moves.axis_of), 0.0
    for k in range(len(moves.feature)):
        f = moves.feature[k]
        paid += gap(moves, k, low[f], high[f], low[d + k], high[d + k])
    return paid


@uncounted
def _pair_moves(leaves, moves, low, high, p, q, k):  # pragma: no cover - compiled
    """Whether inside the box leaf p takes a row and leaf q one that feature k's move makes of it."""
    f, e = moves.feature[k], len(moves.axis_of) + k
    a, b = max(leaves.low[p, f], low[f]), min(leaves.high[p, f], high[f])
    c, g = max(leaves.low[q, f], low[e]), min(leaves.high[q, f], high[e])
    if a > b or c > g:
        return False
    return not ((moves.way[k] > 0 and a > g) or (moves.way[k] < 0 and b < c))


@uncounted
def _pair_shares(leaves, low, high, p, q, f):  # pragma: no cover - compiled
    return max(leaves.low[p, f], leaves.low[q, f], low[f]) <= min(leaves.high[p, f], leaves.high[q, f], high[f])


@njit(cache=True)
def all_pairs(leaves, moves, low, high, most):  # pragma: no cover - compiled
    """The pairs of leaves of each tree that the box and the money allow; fewer than there are (and False) beyond ``most``."""
    room, n, d = 4096, 0, len(moves.axis_of)
    left, right = np.empty(room, np.int32), np.empty(room, np.int32)
    first, total = 0, len(leaves.value)
    while first < total:
        last = first
        while last < total and leaves.tree[last] == leaves.tree[first]:
            last += 1
        for p in range(first, last):
            for q in range(first, last):
                good = True
                for f in range(d):
                    k = moves.axis_of[f]
                    good = _pair_shares(leaves, low, high, p, q, f) if k < 0 else _pair_moves(leaves, moves, low, high, p, q, k)
                    if not good:
                        break
                if not good:
                    continue
                paid = 0.0
                for k in range(len(moves.feature)):
                    f = moves.feature[k]
                    paid += gap(moves, k, leaves.low[p, f], leaves.high[p, f], leaves.low[q, f], leaves.high[q, f])
                if paid > moves.money:
                    continue
                if n == room:
                    if n >= most:
                        return left, right, False
                    room *= 2
                    left, right = _longer(left, room), _longer(right, room)
                left[n], right[n] = p, q
                n += 1
        first = last
    return left[:n].copy(), right[:n].copy(), True


@njit(cache=True)
def assess(leaves, left, right, limits):  # pragma: no cover - compiled
    """``_assess`` of all pairs, for Python."""
    return _assess(leaves, left, right, 0, len(left), limits)


@uncounted
def _assess(leaves, left, right, first, last, limits):  # pragma: no cover - compiled
    """Of a box's pairs: the largest fall of the sum, whether the box can be dropped, whether every tree has one pair."""
    fall, top, bottom, seen, single, none = 0.0, 0.0, 0.0, 0, True, True
    i = first
    while i < last:
        t, j = leaves.tree[left[i]], i
        most, high, low = -np.inf, -np.inf, np.inf
        while j < last and leaves.tree[left[j]] == t:
            u, v = leaves.value[left[j]], leaves.value[right[j]]
            most, high, low = max(most, u - v), max(high, u), min(low, v)
            j += 1
        single, none = single and j == i + 1, none and most <= 0.0
        fall, top, bottom, seen, i = fall + most, top + high, bottom + low, seen + 1, j
    dropped = seen < limits.trees or none or fall <= limits.floor or top < limits.reach or bottom >= limits.below
    return fall, dropped, single


@uncounted
def _best_cut(leaves, moves, left, right, first, last, low, high, offset, gain, touched):  # pragma: no cover - compiled
    """The cut (axis, last cell of its lower side) about which the trees' worst pairs say most."""
    d, n, i = len(moves.axis_of), 0, first
    while i < last:
        t, j, best, least = leaves.tree[left[i]], i, i, np.inf
        while j < last and leaves.tree[left[j]] == t:
            fall = leaves.value[left[j]] - leaves.value[right[j]]
            if fall > leaves.value[left[best]] - leaves.value[right[best]]:
                best = j
            least = min(least, fall)
            j += 1
        if j > i + 1:
            p, q = left[best], right[best]
            weight = leaves.value[p] - leaves.value[q] - least + 1e-12
            for axis in range(len(low)):
                f = axis if axis < d else moves.feature[axis - d]
                a, b = leaves.low[q, f], leaves.high[q, f]
                if axis < d:
                    a, b = (max(a, leaves.low[p, f]), min(b, leaves.high[p, f])) if moves.axis_of[f] < 0 else (leaves.low[p, f], leaves.high[p, f])
                for rim in range(2):
                    cut = np.int64(b) if rim else np.int64(a) - 1
                    if low[axis] <= cut < high[axis]:
                        at = offset[axis] + cut
                        if gain[at] == 0.0:
                            touched[n] = at
                            n += 1
                        gain[at] += weight
        i = j
    found, most = -1, -1.0
    for m in range(n):
        if gain[touched[m]] > most:
            found, most = touched[m], gain[touched[m]]
        gain[touched[m]] = 0.0
    axis = 0
    while offset[axis + 1] <= found:
        axis += 1
    return axis, found - offset[axis]


@njit(cache=True)
def pursue(leaves, moves, limits, stack, depth, offset, limit):  # pragma: no cover - compiled
    """Search on from the open boxes ``depth``; returns (what stopped it, depth, boxes looked at, the stack as it grew, a candidate's bounds)."""
    width, boxes = stack.low.shape[1], 0
    gain, touched = np.zeros(offset[-1]), np.empty(offset[-1], np.int64)
    low, high = np.empty(width, np.int32), np.empty(width, np.int32)
    while depth > 0:
        if boxes >= limit:
            return LIMIT, depth, boxes, stack, low, high
        boxes, depth = boxes + 1, depth - 1
        low[:], high[:] = stack.low[depth], stack.high[depth]
        first, last = stack.first[depth], stack.last[depth]
        if _assess(leaves, stack.left, stack.right, first, last, limits)[2]:
            return CANDIDATE, depth, boxes, stack, low, high
        axis, cut = _best_cut(leaves, moves, stack.left, stack.right, first, last, low, high, offset, gain, touched)
        need = last + 2 * (last - first)
        if need > len(stack.left):
            stack = Stack(stack.low, stack.high, stack.fall, stack.cost, stack.first, stack.last,
                          _longer(stack.left, 2 * need), _longer(stack.right, 2 * need))  # fmt: skip
        if depth + 2 > len(stack.fall):
            more = 2 * len(stack.fall)
            stack = Stack(_rows(stack.low, more), _rows(stack.high, more), _longer(stack.fall, more), _longer(stack.cost, more),
                          _longer(stack.first, more), _longer(stack.last, more), stack.left, stack.right)  # fmt: skip
        end, pushed = last, 0
        for side in range(2):
            stop, fall, paid = _child(leaves, moves, limits, stack, first, last, end, low, high, axis, cut, side, depth + pushed)
            if stop >= 0:
                k = depth + pushed
                stack.first[k], stack.last[k], stack.fall[k], stack.cost[k] = end, stop, fall, paid
                end, pushed = stop, pushed + 1
        if pushed == 2 and stack.fall[depth] > stack.fall[depth + 1]:
            _swap(stack, depth)  # the box that may fall further is looked at first
        to = first  # the parent's pairs are no longer needed, and lists lie in the order of the boxes
        for k in range(depth, depth + pushed):
            begin = to
            for j in range(stack.first[k], stack.last[k]):
                stack.left[to], stack.right[to] = stack.left[j], stack.right[j]
                to += 1
            stack.first[k], stack.last[k] = begin, to
        depth += pushed
    return DONE, depth, boxes, stack, low, high


@njit(cache=True)
def _child(leaves, moves, limits, stack, first, last, to, low, high, axis, cut, side, place):  # pragma: no cover - compiled
    """One half of a box into ``place`` of the stack, its pairs from ``to`` on; returns (their end or -1 if the half is dropped, fall, price)."""
    d = len(moves.axis_of)
    mine_low, mine_high = stack.low[place], stack.high[place]
    mine_low[:], mine_high[:] = low, high
    if side == 0:
        mine_high[axis] = cut
    else:
        mine_low[axis] = cut + 1
    k = axis - d if axis >= d else moves.axis_of[axis]
    if k >= 0:
        f, e = moves.feature[k], d + k
        if moves.way[k] > 0:
            mine_low[e], mine_high[f] = max(mine_low[e], mine_low[f]), min(mine_high[f], mine_high[e])
        elif moves.way[k] < 0:
            mine_high[e], mine_low[f] = min(mine_high[e], mine_high[f]), max(mine_low[f], mine_low[e])
        if mine_low[f] > mine_high[f] or mine_low[e] > mine_high[e]:
            return -1, 0.0, 0.0
    paid = box_cost(moves, mine_low, mine_high)
    if paid > moves.money:
        return -1, 0.0, 0.0
    n = to
    for j in range(first, last):
        p, q = stack.left[j], stack.right[j]
        if _pair_shares(leaves, mine_low, mine_high, p, q, axis) if k < 0 else _pair_moves(leaves, moves, mine_low, mine_high, p, q, k):
            stack.left[n], stack.right[n] = p, q
            n += 1
    fall, dropped, _ = _assess(leaves, stack.left, stack.right, to, n, limits)
    return (-1 if dropped else n), fall, paid


@njit(cache=True)
def _swap(stack, k):  # pragma: no cover - compiled
    for pair in (stack.low, stack.high):
        row = pair[k].copy()
        pair[k] = pair[k + 1]
        pair[k + 1] = row
    for line in (stack.fall, stack.cost):
        value = line[k]
        line[k] = line[k + 1]
        line[k + 1] = value
    for place in (stack.first, stack.last):
        number = place[k]
        place[k] = place[k + 1]
        place[k + 1] = number


def opened(leaves: Leaves, moves: Moves, limits: Limits, low: Array, high: Array, most: int) -> tuple[Stack, int, float, bool]:
    """The stack with the whole box in it, how many boxes are open (0 if it falls at once), its largest fall, and whether its pairs fit ``most``."""
    left, right, whole = all_pairs(leaves, moves, low, high, most)
    fall, dropped, _ = assess(leaves, left, right, limits) if whole else (np.inf, False, False)
    width, n = len(low), len(left)
    stack = Stack(low=np.empty((64, width), np.int32), high=np.empty((64, width), np.int32), fall=np.empty(64), cost=np.zeros(64),
                  first=np.zeros(64, np.int64), last=np.full(64, n, np.int64), left=np.resize(left, 3 * n + 3), right=np.resize(right, 3 * n + 3))  # fmt: skip
    stack.low[0], stack.high[0], stack.fall[0] = low, high, fall
    return stack, int(not dropped), float(fall), whole
