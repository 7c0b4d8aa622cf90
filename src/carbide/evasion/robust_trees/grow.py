"""Chen et al. 2019, https://arxiv.org/abs/1902.10660, and Vos & Verwer 2021, https://arxiv.org/abs/2012.10438: growing one tree robustly.

Every training row is in all the nodes that its attacker can bring it to. At a split, rows that reach both sides count where they hurt:
boosting takes the two orders of the children's values in turn (in each of them a row's worse side is known, so both values are closed
forms), forests the placement with the worst Gini impurity (also closed). Histograms hold the bins that a row reaches first and last, so
a split costs as much as a plain one. Features that no attacker moves are counted for the smaller child alone: the larger one has what is
left of the node's own sums, and the rows of both children besides. Leaves come with all the rows that reach them: the worst case over a tree is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from carbide.evasion.robust_trees.attackers import Reach
from carbide.evasion.robust_trees.prices import child_price, others_price, span
from carbide.types import Array

NEWTON, GINI = 0, 1
HELD = 1 << 25  # numbers of sums that are kept for nodes that wait, at most
HAIR = 1e-9  # by which a sum must be larger to count as larger, so that the order of summing decides nothing


class Rules(NamedTuple):
    """How a tree is grown: ``kind`` NEWTON or GINI."""

    kind: int
    depth: int
    ridge: float
    least: float  # hessian (boosting) or weight (forest) that a child needs
    gain: float  # a split needs to gain more
    features: int  # drawn a node


class Tree(NamedTuple):
    """A grown tree. Per node: ``feature`` (-1 = leaf), ``cut`` (left where the bin is at most this), ``children``, ``missing_left``,
    ``value``, ``cover``, ``gain``. ``rows`` and ``leaves``: the pairs of a training row and a leaf that it can be brought to."""

    feature: Array
    cut: Array
    children: Array
    missing_left: Array
    value: Array
    cover: Array
    gain: Array
    rows: Array
    leaves: Array


@njit(cache=True)
def _next(state):  # pragma: no cover - compiled
    """The next number of splitmix64."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True)
def _draw(columns, count, state):  # pragma: no cover - compiled
    """Put ``count`` columns drawn without replacement first."""
    for i in range(count):
        j = i + np.int64(_next(state) % np.uint64(len(columns) - i))
        columns[i], columns[j] = columns[j], columns[i]


@njit(cache=True)
def newton_split(left, right, both, ridge, least):  # pragma: no cover - compiled
    """The best pair of leaf values and its score for sums ``(gradient, hessian)`` of class 1 and 0 (4 numbers) of the three kinds of rows.

    With the lower value on the left, class 1 is worse off there and class 0 on the right, and the other way round; an order that its own
    values contradict is no candidate, and then one value for both sides, which splits nothing, is best. Returns score, left and right value and
    the order (-1: left lower, 1: right lower, 0: none).
    """
    best, low, high, order = -np.inf, 0.0, 0.0, 0
    for way in (-1, 1):
        p, q = (0, 2) if way < 0 else (2, 0)  # the class that counts left, and the one that counts right
        gl, hl = left[0] + left[2] + both[p], left[1] + left[3] + both[p + 1]
        gr, hr = right[0] + right[2] + both[q], right[1] + right[3] + both[q + 1]
        if hl < least * (1 - HAIR) or hr < least * (1 - HAIR):
            continue
        vl, vr = -gl / (hl + ridge), -gr / (hr + ridge)
        if (vr - vl) * way >= 0:
            continue
        score = gl * gl / (hl + ridge) + gr * gr / (hr + ridge)
        if score > best + HAIR * abs(score):
            best, low, high, order = score, vl, vr, way
    return best, low, high, order


@njit(cache=True)
def gini_split(left, right, both, least):  # pragma: no cover - compiled
    """Minus the worst weighted Gini impurity, over all placements of the rows that reach both sides, and the shares of them that go left.

    ``P N / (P + N)`` is concave and grows with its size, so it is worst where both sides have the classes in equal proportion, and where the
    placements do not get there, at the one that comes nearest.
    """
    p0, n0, p, n = left[1], left[3], both[1], both[3]
    pt, nt = p0 + right[1] + p, n0 + right[3] + n
    a, b = 0.0, 0.0  # of class 1 and of class 0 that go left
    if pt > 0 and nt > 0:
        ratio = pt / nt
        if p0 + p < ratio * n0:  # too few of class 1 on the left, whatever is done
            a, b = p, 0.0
        elif p0 > ratio * (n0 + n):
            a, b = 0.0, n
        else:  # meet the ratio, both shares alike as far as they can be
            share = 0.5
            a = ratio * (n0 + share * n) - p0
            if a < 0 or a > p:
                a = min(max(a, 0.0), p)
                b = (p0 + a) / ratio - n0
            else:
                b = share * n
            b = min(max(b, 0.0), n)
    pl, nl = p0 + a, n0 + b
    pr, nr = pt - pl, nt - nl
    if pl + nl < least * (1 - HAIR) or pr + nr < least * (1 - HAIR):
        return -np.inf, 0.0, 0.0
    worst = pl * nl / (pl + nl) + pr * nr / (pr + nr)
    return -2.0 * worst, (a / p if p > 0 else 0.0), (b / n if n > 0 else 0.0)


@njit(cache=True)
def _boxed(low, high, least, most, rows, stats, classes, still, first, last):  # pragma: no cover - compiled
    """Sums by bin of rows that stay, and of rows that move by the first and the last bin they reach; ``low`` and ``high`` are those of all rows."""
    for e in range(len(rows)):
        a, b, c, g, h = np.int64(low[rows[e]]), np.int64(high[rows[e]]), classes[e], stats[e, 0], stats[e, 1]
        if a < 255:
            a, b = max(a, least), min(b, most)
        if a == b:
            still[a, c] += g
            still[a, c + 1] += h
        else:
            first[a, c] += g
            first[a, c + 1] += h
            last[b, c] += g
            last[b, c + 1] += h


@njit(cache=True)
def _priced(reach, f, lows, highs, paid, rows, stats, classes, still, first, last):  # pragma: no cover - compiled
    """The same where what a row reaches depends on what it has paid."""
    bins, slots = reach.bin[f], reach.slot
    for e in range(len(rows)):
        row, c = rows[e], classes[e]
        if slots[row] < 0:
            b = bins[row]
            still[b, c] += stats[e, 0]
            still[b, c + 1] += stats[e, 1]
            continue
        a, b = span(reach, row, f, reach.money - others_price(reach, row, f, paid[e], lows, highs), lows[f], highs[f])
        if a == b:
            still[a, c] += stats[e, 0]
            still[a, c + 1] += stats[e, 1]
        else:
            first[a, c] += stats[e, 0]
            first[a, c + 1] += stats[e, 1]
            last[b, c] += stats[e, 0]
            last[b, c + 1] += stats[e, 1]


@njit(cache=True)
def _spans(reach, f, lows, highs, paid, rows):  # pragma: no cover - compiled
    """The first and the last bin that each row reaches, and what it has paid for other features (-1 where nothing is paid)."""
    begins, ends, rest = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64), np.full(len(rows), -1.0)
    low, high, slots, least, most = reach.low[f], reach.high[f], reach.slot, lows[f], highs[f]
    for e in range(len(rows)):
        a, b = np.int64(low[rows[e]]), np.int64(high[rows[e]])
        if reach.priced and slots[rows[e]] >= 0:
            rest[e] = others_price(reach, rows[e], f, paid[e], lows, highs)
            a, b = span(reach, rows[e], f, reach.money - rest[e], least, most)
        elif a < 255:
            a, b = max(a, least), min(b, most)
        begins[e], ends[e] = a, b
    return begins, ends, rest


@njit(cache=True)
def _scan(rules, still, first, last, low, high, best):  # pragma: no cover - compiled
    """The best cut of one feature: score, cut, missing left, two values or shares, order, into ``best`` ``(6,)``; whether it is better."""
    left, right, both, total = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4)
    for b in range(low, high + 1):
        for c in range(4):
            total[c] += still[b, c] + first[b, c]
    missing = still[255]
    some = missing[1] + missing[3] > 0
    begun, ended, fixed = np.zeros(4), np.zeros(4), np.zeros(4)
    found = False
    for k in range(low, high):
        for c in range(4):
            begun[c] += first[k, c]
            ended[c] += last[k, c]
            fixed[c] += still[k, c]
        for side in range(2 if some else 1):
            for c in range(4):
                left[c] = fixed[c] + ended[c] + (missing[c] if some and side == 0 else 0.0)
                right[c] = total[c] - fixed[c] - begun[c] + (missing[c] if some and side == 1 else 0.0)
                both[c] = begun[c] - ended[c]
            if rules.kind == NEWTON:
                score, a, b, order = newton_split(left, right, both, rules.ridge, rules.least)
            else:
                score, a, b = gini_split(left, right, both, rules.least)
                order = 0
            if score > best[0] + HAIR * abs(score):
                best[0], best[1], best[2], best[3], best[4], best[5] = score, k, 1.0 - side, a, b, order
                found = True
    return found


@njit(cache=True)
def _add_still(bins, features, rows, positive, gradient, hessian, sums):  # pragma: no cover - compiled
    """Add rows that stay where they are to the sums ``(m, 256, 4)`` of these features."""
    size = len(rows)
    classes, stats = np.empty(size, np.int64), np.empty((size, 2))
    for e in range(size):
        classes[e] = 0 if positive[rows[e]] else 2
        stats[e, 0], stats[e, 1] = gradient[rows[e]], hessian[rows[e]]
    for m in range(len(features)):
        of, out = bins[features[m]], sums[m]
        for e in range(size):
            b, c = of[rows[e]], classes[e]
            out[b, c] += stats[e, 0]
            out[b, c + 1] += stats[e, 1]


@njit(cache=True)
def _share_sums(reach, features, own, left, right, twice, positive, gradient, hessian, out):  # pragma: no cover - compiled
    """Sums of both children, into ``out`` ``(2, m, 256, 4)`` (right first), from their node's ``own``: ``twice`` are the rows that both have."""
    few, small, large = (left, 1, 0) if len(left) <= len(right) else (right, 0, 1)
    out[small] = 0.0
    _add_still(reach.bin, features, few, positive, gradient, hessian, out[small])
    out[large] = own
    out[large] -= out[small]
    _add_still(reach.bin, features, twice, positive, gradient, hessian, out[large])


@njit(cache=True)
def _room(array, size):  # pragma: no cover - compiled
    """The array, or a larger copy of it."""
    if size <= len(array):
        return array
    out = np.empty(max(size, 2 * len(array)), array.dtype)
    out[: len(array)] = array
    return out


@njit(cache=True)
def grow(reach: Reach, rules: Rules, positive, gradient, hessian, start, columns, seed):  # pragma: no cover - compiled
    """A tree on the rows ``start``; ``gradient`` and ``hessian`` ``(n,)`` of the loss at each row's worst case (a forest has weights as hessian)."""
    most = 2 ** (rules.depth + 1) - 1
    d = reach.bin.shape[0]
    state = np.zeros(1, np.uint64)
    feature, cut = np.full(most, -1, np.int32), np.zeros(most, np.int32)
    children, missing_left = np.full((most, 2), -1, np.int32), np.zeros(most, np.bool_)
    value, cover, gains = np.zeros(most), np.zeros(most), np.zeros(most)
    n = len(start)
    rows, weight, paid = np.empty(2 * n + 2, np.int32), np.empty(2 * n + 2, np.float64), np.zeros(2 * n + 2)
    rows[:n], weight[:n] = start, 1.0
    out_rows, out_leaves, written = np.empty(n, np.int32), np.empty(n, np.int32), 0
    stack = np.zeros((rules.depth + 2, 4), np.int64)  # node, first entry, entry after the last, depth
    stack[0, 1], stack[0, 2] = 0, n
    # The box of each node on the stack: what is open is always one node a depth, and its sibling.
    boxes_low, boxes_high = np.zeros((rules.depth + 2, d), np.int64), np.zeros((rules.depth + 2, d), np.int64)
    boxes_high[0] = reach.count
    still, first, last = np.zeros((256, 4)), np.zeros((256, 4)), np.zeros((256, 4))
    place_of, fixed = np.full(d, -1, np.int64), np.empty(d, np.int64)  # features that no row moves, whose prices are infinite both ways
    count = 0
    for f in range(d):
        if np.isinf(reach.up[f]) and np.isinf(reach.down[f]) and reach.table[f] < 0:
            fixed[count], place_of[f] = f, count
            count += 1
    fixed = fixed[:count]
    keeps = rules.kind == NEWTON and rules.features == d and count > 0 and (rules.depth + 2) * count * 1024 <= HELD
    held = np.zeros((rules.depth + 2 if keeps else 0, count, 256, 4))
    if keeps:
        _add_still(reach.bin, fixed, start, positive, gradient, hessian, held[0])
    none = np.zeros((256, 4))
    top, used = 1, 1
    while top > 0:
        top -= 1
        node, s, e, depth = stack[top]
        low, high = boxes_low[top].copy(), boxes_high[top].copy()
        size = e - s
        here, own = rows[s:e].copy(), paid[s:e].copy()
        share = weight[s:e].copy()
        stats, classes, total = np.empty((size, 2)), np.empty(size, np.int64), np.zeros(4)
        for i in range(size):
            c = 0 if positive[here[i]] else 2
            classes[i] = c
            stats[i, 0], stats[i, 1] = share[i] * gradient[here[i]], share[i] * hessian[here[i]]
            total[c] += stats[i, 0]
            total[c + 1] += stats[i, 1]
        cover[node] = total[1] + total[3]
        if rules.kind == NEWTON:
            if node == 0:
                value[node] = -(total[0] + total[2]) / (cover[node] + rules.ridge)
            parent = (total[0] + total[2]) ** 2 / (cover[node] + rules.ridge)
        else:
            value[node] = total[1] / cover[node] if cover[node] > 0 else 0.5
            parent = -2.0 * total[1] * total[3] / cover[node] if cover[node] > 0 else 0.0
        best, chosen = np.zeros(6), -1
        best[0] = -np.inf
        if depth < rules.depth and cover[node] >= rules.least:
            state[0] = np.uint64(seed) ^ (np.uint64(node) * np.uint64(0xD6E8FEB86659FD93))  # the draw is the node's own, whatever was drawn before
            drawn = columns.copy()
            if rules.features < d:
                _draw(drawn, rules.features, state)
            for c in range(rules.features):
                f = drawn[c]
                if high[f] > low[f] and keeps and place_of[f] >= 0:
                    if _scan(rules, held[top, place_of[f]], none, none, low[f], high[f], best):
                        chosen = f
                elif high[f] > low[f]:
                    still[:], first[:], last[:] = 0.0, 0.0, 0.0
                    if reach.priced:
                        _priced(reach, f, low, high, own, here, stats, classes, still, first, last)
                    else:
                        _boxed(reach.low[f], reach.high[f], low[f], high[f], here, stats, classes, still, first, last)
                    if _scan(rules, still, first, last, low[f], high[f], best):
                        chosen = f
        if chosen < 0 or not best[0] - parent > rules.gain + HAIR * abs(parent):
            out_rows, out_leaves = _room(out_rows, written + size), _room(out_leaves, written + size)
            out_rows[written : written + size], out_leaves[written : written + size] = here, node
            written += size
            continue
        f, k = chosen, np.int64(best[1])
        feature[node], cut[node], missing_left[node], gains[node] = f, k, best[2] > 0, best[0] - parent
        children[node, 0], children[node, 1] = used, used + 1
        if rules.kind == NEWTON:
            value[used], value[used + 1] = best[3], best[4]
        rows, weight, paid = _room(rows, s + 2 * size), _room(weight, s + 2 * size), _room(paid, s + 2 * size)
        begins, ends, rest = _spans(reach, f, low, high, own, here)
        # The right child's entries come first, so that the left one's are on top.
        at, deep, parent_at = s, keeps and depth + 1 < rules.depth, top
        middle = s
        for side in (1, 0):
            begin = at
            for i in range(size):
                a, z = begins[i], ends[i]
                split = a <= k < z
                goes = split or (missing_left[node] if a == 255 else z <= k) == (side == 0)
                if not goes:
                    continue
                w = share[i]
                if split and rules.kind == GINI:
                    part = best[3] if classes[i] == 0 else best[4]
                    w *= part if side == 0 else 1.0 - part
                    if w <= 1e-9:
                        continue
                rows[at], weight[at], paid[at] = here[i], w, own[i]
                if rest[i] >= 0:
                    paid[at] = child_price(reach, here[i], f, rest[i], low, high, low[f] if side == 0 else k + 1, k if side == 0 else high[f])
                at += 1
            middle = at if side == 1 else middle
            place = top
            stack[place, 0], stack[place, 1], stack[place, 2], stack[place, 3] = used + side, begin, at, depth + 1
            boxes_low[place], boxes_high[place] = low, high
            if side == 0:
                boxes_high[place, f] = k
            else:
                boxes_low[place, f] = k + 1
            top += 1
        used += 2
        if deep:
            both = np.empty(size, np.int32)
            doubled = 0
            for i in range(size):
                if begins[i] <= k < ends[i]:
                    both[doubled] = here[i]
                    doubled += 1
            _share_sums(reach, fixed, held[parent_at].copy(), rows[middle:at], rows[s:middle], both[:doubled], positive, gradient, hessian,
                        held[parent_at : parent_at + 2])  # fmt: skip
    return Tree(feature[:used].copy(), cut[:used].copy(), children[:used].copy(), missing_left[:used].copy(), value[:used].copy(),
                cover[:used].copy(), gains[:used].copy(), out_rows[:written].copy(), out_leaves[:written].copy())  # fmt: skip


def rules(*, kind: int, depth: int, ridge: float = 1.0, least: float = 1.0, gain: float = 0.0, features: int) -> Rules:
    """Rules with plain numbers of the types that compiled code knows."""
    return Rules(int(kind), int(depth), float(ridge), float(least), float(gain), int(features))
