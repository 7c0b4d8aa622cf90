"""Andriushchenko & Hein 2019, https://arxiv.org/abs/1906.03526: all leaf values of a tree together, by convex search.

The worst-case logistic loss of a tree is convex in its leaf values: each row's worst case is the least (class 1) or the largest
(class 0) of the values of the leaves that it can be brought to. Newton steps with each row held at its worst leaf are
taken for as long as they lower the loss itself, else halved.
"""

from __future__ import annotations

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import inner

HALVINGS = 4
BLOCK = 512  # rows whose exponentials are taken at once, which processors do side by side
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # together the logarithm of 2; the first has 32 bits
ROUND = 6755399441055744.0  # 3 * 2**51: added to a number, it leaves the nearest whole one in the lowest bits


@njit(cache=True, nogil=True)
def by_row(rows, leaves, n):  # pragma: no cover - compiled
    """The leaves of every row: those of row i are ``leaf[start[i]:start[i + 1]]``."""
    start = np.zeros(n + 1, np.int64)
    for row in rows:
        start[row + 1] += 1
    start = np.cumsum(start)
    leaf, at = np.empty(len(rows), np.int32), start[:-1].copy()
    for e in range(len(rows)):
        leaf[at[rows[e]]] = leaves[e]
        at[rows[e]] += 1
    return start, leaf


@njit(cache=True, nogil=True)
def logistic(margin, loss, wrong, bend, whole, size):  # pragma: no cover - compiled
    """``log(1 + exp(-margin))``, minus its derivative and its second one, of the first ``size`` margins; each to a few units in the last place.

    Numbers whose powers of two are told apart by their bits (``whole``: room for them), a polynomial and the series of the area tangent: no branch
    and no call, so that processors do several at once.
    """
    bits, one = whole.view(np.int64), np.int64(1023) << np.int64(52)
    for i in range(size):
        whole[i] = min(abs(margin[i]), 700.0) * 1.4426950408889634 + ROUND
    for i in range(size):
        k = whole[i] - ROUND
        r = (k * LN2_HIGH - min(abs(margin[i]), 700.0)) + k * LN2_LOW
        low = 1 + r * (1 + r * (1 / 2 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720))))))
        high = 1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r * (1 / 3628800 + r * (1 / 39916800 + r * (1 / 479001600 + r * (1 / 6227020800))))))
        bend[i] = low + (r * r * r) * (r * r) * (r * r) * high
    for i in range(size):
        bits[i] = one - (bits[i] << np.int64(52))
    for i in range(size):
        e = bend[i] * whole[i]  # exp(-|margin|)
        s, t = e / (2 + e), 1 / (1 + e)
        q = s * s
        low = 1 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + q * (1 / 13 + q * (1 / 15 + q * (1 / 17))))))))
        high = 1 / 19 + q * (1 / 21 + q * (1 / 23 + q * (1 / 25 + q * (1 / 27 + q * (1 / 29 + q * (1 / 31 + q * (1 / 33)))))))
        q3 = q * q * q
        loss[i] = 2 * s * (low + q3 * q3 * q3 * high) + max(-margin[i], 0.0)
        wrong[i] = e * t if margin[i] >= 0 else t
        bend[i] = e * t * t


@njit(cache=True, nogil=True)
def slopes(score, positive, weight, gradient, hessian):  # pragma: no cover - compiled
    """Gradient and hessian ``(n,)`` of the weighted logistic loss by the score into the last two; returns its weighted mean."""
    margin, loss, wrong, bend, whole = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    total, mass = 0.0, 0.0
    for begin in range(0, len(score), BLOCK):
        size = min(BLOCK, len(score) - begin)
        for i in range(size):
            margin[i] = score[begin + i] if positive[begin + i] else -score[begin + i]
        logistic(margin, loss, wrong, bend, whole, size)
        for i in range(size):
            at, w = begin + i, weight[begin + i]
            gradient[at] = -w * wrong[i] if positive[at] else w * wrong[i]
            hessian[at] = w * max(bend[i], 1e-16)
            total += w * loss[i]
            mass += w
    return total / mass


@njit(cache=True, nogil=True)
def bases(score, start):  # pragma: no cover - compiled
    """The row's score at each of its leaves."""
    out = np.empty(start[-1])
    for i in range(len(score)):
        out[start[i] : start[i + 1]] = score[i]
    return out


@njit(cache=True, nogil=True)
def add_worst_(score, value, leaf, worst, rate):  # pragma: no cover - compiled
    """Add ``rate`` times the value of its worst leaf to each row's score."""
    for i in range(len(score)):
        score[i] += rate * value[leaf[worst[i]]]


@inner
def _worst_case(value, start, leaf, base, positive, weight, ridge, worst, slope, bend):  # pragma: no cover - compiled
    """The weighted logistic loss of the worst cases and the penalty of the leaves.

    Into ``worst`` ``(n,)`` goes the place in ``leaf`` that hurts each row most (the least ``base + value`` for class 1, the largest for class 0;
    -1 = in no leaf), into ``slope`` and ``bend`` ``(m,)`` the derivatives of the loss by the values with each row held there.
    """
    margin, loss, wrong, second, whole = np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK), np.empty(BLOCK)
    total = ridge / 2 * (value * value).sum()
    slope[:], bend[:] = ridge * value, max(ridge, 1e-12)
    for begin in range(0, len(positive), BLOCK):
        size = min(BLOCK, len(positive) - begin)
        for i in range(size):
            row, sign = begin + i, 1.0 if positive[begin + i] else -1.0
            place, least = -1, 0.0
            for e in range(start[row], start[row + 1]):
                now = sign * (base[e] + value[leaf[e]])
                if place < 0 or now < least:
                    place, least = e, now
            worst[row], margin[i] = place, least
        logistic(margin, loss, wrong, second, whole, size)
        for i in range(size):
            row = begin + i
            if worst[row] >= 0:
                at, w = leaf[worst[row]], weight[row]
                slope[at] += -w * wrong[i] if positive[row] else w * wrong[i]
                bend[at] += w * second[i]
                total += w * loss[i]
    return total


@njit(cache=True, nogil=True)
def refined(value, start, leaf, base, positive, weight, ridge, steps):  # pragma: no cover - compiled
    """Leaf values ``(m,)`` after at most ``steps`` Newton steps, and the place of each row's worst leaf under them.

    Row i can be brought to the leaves ``leaf[start[i]:start[i + 1]]``, with ``base`` as its score without this tree.
    """
    worst, now = np.empty(len(positive), np.int64), np.empty(len(positive), np.int64)
    slope, bend, slope_now, bend_now = np.empty(len(value)), np.empty(len(value)), np.empty(len(value)), np.empty(len(value))
    loss = _worst_case(value, start, leaf, base, positive, weight, ridge, worst, slope, bend)
    for _ in range(steps):
        size, better = 1.0, False
        for _ in range(HALVINGS):
            trial = value - size * slope / bend
            reached = _worst_case(trial, start, leaf, base, positive, weight, ridge, now, slope_now, bend_now)
            if reached < loss:
                better = reached < loss - 1e-4 * abs(loss)
                value, loss = trial, reached
                worst, now = now, worst
                slope, slope_now = slope_now, slope
                bend, bend_now = bend_now, bend
                break
            size /= 4
        if not better:
            break
    return value, worst
