"""Andriushchenko & Hein 2019, https://arxiv.org/abs/1906.03526, section 3: boosted stumps against a box, whose worst case is exact.

Stumps on one feature add up to a step function of that feature, and in a box every feature moves by itself: the worst case of the sum is
the sum over the features of the worst step that the row reaches. So a new stump is judged by what it does to the step function, not alone: a
row counts on the side where it would be worst off, and on both only where the two are as close as one round can change.
"""

from __future__ import annotations

import numpy as np

from carbide._numba import njit
from carbide.evasion.robust_trees.attackers import Reach
from carbide.evasion.robust_trees.grow import Tree
from carbide.evasion.robust_trees.leaves import refined
from carbide.evasion.robust_trees.splits import HAIR, Rules, newton_split


@njit(cache=True)
def _sides(steps, low, high, positive, ahead, behind):  # pragma: no cover - compiled
    """The worst step among the bins ``low .. k`` (``ahead``) and ``k + 1 .. high`` (``behind``), for every cut k between them."""
    worst = steps[low]
    for k in range(low, high):
        worst = min(worst, steps[k]) if positive else max(worst, steps[k])
        ahead[k] = worst
    worst = steps[high]
    for k in range(high - 1, low - 1, -1):
        worst = min(worst, steps[k + 1]) if positive else max(worst, steps[k + 1])
        behind[k] = worst


@njit(cache=True)
def _sums(reach, f, steps, positive, gradient, hessian, close, sums):  # pragma: no cover - compiled
    """Into ``sums`` ``(5, 256, 4)``: rows by the last bin they reach and by the first one; rows that reach both sides of a cut and count left,
    right or on both. Missing ones are in bin 255 of the first."""
    sums[:] = 0.0
    ahead, behind = np.zeros(256), np.zeros(256)
    for i in range(len(positive)):
        c, g, h = (0 if positive[i] else 2), gradient[i], hessian[i]
        low, high = np.int64(reach.low[f, i]), np.int64(reach.high[f, i])
        sums[0, high, c] += g
        sums[0, high, c + 1] += h
        if low == 255:
            continue
        sums[1, low, c] += g
        sums[1, low, c + 1] += h
        if low < high:
            _sides(steps, low, high, positive[i], ahead, behind)
            for k in range(low, high):
                gap = ahead[k] - behind[k] if positive[i] else behind[k] - ahead[k]
                side = 4 if abs(gap) <= close else 2 if gap < 0 else 3
                sums[side, k, c] += g
                sums[side, k, c + 1] += h


@njit(cache=True)
def _best(reach, rules, f, sums, best):  # pragma: no cover - compiled
    """The best stump on a feature into ``best``: score, cut, missing left, the two values; whether it is better than what is there."""
    left, right, ended, waiting = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4)
    for b in range(255):
        waiting += sums[1, b]
    missing, found = sums[0, 255], False
    for k in range(reach.count[f]):
        ended += sums[0, k]
        waiting -= sums[1, k]
        for side in range(2 if missing[1] + missing[3] > 0 else 1):
            for c in range(4):
                left[c] = ended[c] + sums[2, k, c] + (missing[c] if side == 0 else 0.0)
                right[c] = waiting[c] + sums[3, k, c] + (missing[c] if side == 1 else 0.0)
            score, a, b, _ = newton_split(left, right, sums[4, k], rules.ridge, rules.least)
            if score > best[0] + HAIR * abs(score):
                best[0], best[1], best[2], best[3], best[4] = score, k, 1.0 - side, a, b
                found = True
    return found


@njit(cache=True)
def stump(reach: Reach, rules: Rules, positive, weight, gradient, hessian, steps, worst, score, columns, rate, close,
          refinements):  # pragma: no cover - compiled  # fmt: skip
    """One round: the best stump as a tree, its values times ``rate``. ``gradient`` and ``hessian`` ``(n,)`` belong to ``score``. ``steps`` ``(d, 256)`` is the sum of the stumps so far by feature and bin
    (255 = missing), ``worst`` ``(d, n)`` each row's worst step of each feature and ``score`` ``(n,)`` its sum; all three are brought up to date."""
    n = len(positive)
    total, mass = 0.0, 0.0
    for i in range(n):
        total += gradient[i]
        mass += hessian[i]
    sums, best, chosen = np.empty((5, 256, 4)), np.zeros(5), -1
    best[0] = -np.inf
    for f in columns:
        if reach.count[f] > 0:
            _sums(reach, f, steps[f], positive, gradient, hessian, close, sums)
            if _best(reach, rules, f, sums, best):
                chosen = f
    none = np.zeros(0, np.int32)
    parent = total * total / (mass + rules.ridge)
    if chosen < 0 or not best[0] - parent > rules.gain + HAIR * parent:
        value = np.array([-rate * total / (mass + rules.ridge)])
        score += value[0]
        return Tree(np.full(1, -1, np.int32), np.zeros(1, np.int32), np.full((1, 2), -1, np.int32), np.zeros(1, np.bool_), value, np.array([mass]),
                    np.zeros(1), none, none)  # fmt: skip
    f, k, missing_left = chosen, np.int64(best[1]), best[2] > 0
    value = _fitted(reach, f, k, missing_left, np.array([best[3], best[4]]), positive, weight, steps[f], worst[f], score, rules.ridge, refinements)
    value *= rate
    steps[f, : k + 1] += value[0]
    steps[f, k + 1 : 255] += value[1]
    steps[f, 255] += value[0] if missing_left else value[1]
    for i in range(n):
        low, high = np.int64(reach.low[f, i]), np.int64(reach.high[f, i])
        now = steps[f, low : high + 1].min() if positive[i] else steps[f, low : high + 1].max()
        score[i] += now - worst[f, i]
        worst[f, i] = now
    return Tree(np.array([f, -1, -1], np.int32), np.array([k, 0, 0], np.int32), np.array([[1, 2], [-1, -1], [-1, -1]], np.int32),
                np.array([missing_left, False, False]), np.array([0.0, value[0], value[1]]), np.array([mass, 0.0, 0.0]),
                np.array([best[0] - parent, 0.0, 0.0]), none, none)  # fmt: skip


@njit(cache=True)
def _fitted(reach, f, k, missing_left, value, positive, weight, steps, worst, score, ridge, refinements):  # pragma: no cover - compiled
    """The two values by convex search: each row's worst case is the worse of its two sides, each with the step that it has there."""
    n = len(positive)
    ahead, behind = np.zeros(256), np.zeros(256)
    start, leaf, base = np.zeros(n + 1, np.int64), np.empty(2 * n, np.int32), np.empty(2 * n)
    at = 0
    for i in range(n):
        low, high = np.int64(reach.low[f, i]), np.int64(reach.high[f, i])
        rest = score[i] - worst[i]
        if low <= k < high and high < 255:
            _sides(steps, low, high, positive[i], ahead, behind)
            leaf[at], base[at], leaf[at + 1], base[at + 1] = 0, rest + ahead[k], 1, rest + behind[k]
            at += 2
        else:
            goes_left = missing_left if low == 255 else high <= k
            leaf[at], base[at] = (0 if goes_left else 1), score[i]
            at += 1
        start[i + 1] = at
    return refined(value, start, leaf[:at], base[:at], positive, weight, ridge, refinements)[0]
