"""Chen et al. 2019, https://arxiv.org/abs/1902.10660, and Vos & Verwer 2021, https://arxiv.org/abs/2012.10438: how good a robust split is.

Rows that reach both sides of a split count where they hurt: boosting takes the two orders of the children's values in turn (in each of them a
row's worse side is known, so both values are closed forms), forests the placement with the worst Gini impurity (also closed).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import inner

NEWTON, GINI = 0, 1
HAIR = 1e-9  # by which a sum must be larger to count as larger, so that the order of summing decides nothing
SCORE, CUT, MISSING_LEFT, LEFT_VALUE, RIGHT_VALUE = range(5)  # of a feature's best split, then its sums left, right and on both sides
LEFT, RIGHT, BOTH, FOUND = 5, 9, 13, 17


class Rules(NamedTuple):
    """How a tree is grown: ``kind`` NEWTON or GINI."""

    kind: int
    depth: int
    ridge: float
    least: float  # hessian (boosting) or weight (forest) that a child needs
    gain: float  # a split needs to gain more
    features: int  # drawn a node


def rules(*, kind: int, depth: int, ridge: float = 1.0, least: float = 1.0, gain: float = 0.0, features: int) -> Rules:
    """Rules with plain numbers of the types that compiled code knows."""
    return Rules(int(kind), int(depth), float(ridge), float(least), float(gain), int(features))


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
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


@inner
def _pair(gl, hl, gr, hr, ridge, least, way):  # pragma: no cover - compiled
    """The score of one order in ``newton_split``, -inf where it is no candidate; values are divided out only where products do not tell them apart."""
    if hl < least or hr < least:
        return -np.inf
    hl += ridge
    hr += ridge
    ahead, behind = gl * hr, gr * hl
    apart, doubt = (behind - ahead) * way, 1e-12 * (abs(ahead) + abs(behind))
    if apart < -doubt or (apart <= doubt and (gl / hl - gr / hr) * way >= 0):
        return -np.inf
    return gl * gl / hl + gr * gr / hr


@inner
def scan_newton(ridge, least, still, first, last, moved, low, high, found):  # pragma: no cover - compiled
    """The best cut of one feature by ``newton_split`` within the bins ``low .. high``, into ``found`` ``(17,)``; its score is -inf where there is none.

    ``still`` ``(256, 4)``: sums by bin (255 = missing) of rows that stay in it; ``first`` and ``last`` of those that are ``moved``, by the outermost
    bins that they reach (else zeros). A bin without rows is passed over: it is the same split as at the cut before.
    """
    least *= 1 - HAIR
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    for k in range(low, high + 1):
        t0, t1, t2, t3 = (
            t0 + (still[k, 0] + first[k, 0]),
            t1 + (still[k, 1] + first[k, 1]),
            t2 + (still[k, 2] + first[k, 2]),
            t3 + (still[k, 3] + first[k, 3]),
        )
    m0, m1, m2, m3 = still[255, 0], still[255, 1], still[255, 2], still[255, 3]
    f0, f1, f2, f3, b0, b1, b2, b3, e0, e1, e2, e3 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    best, cut, on, sides = -np.inf, -1, 0, 2 if m1 + m3 > 0 else 1
    for k in range(low, high):
        empty = still[k, 0] == 0 and still[k, 1] == 0 and still[k, 2] == 0 and still[k, 3] == 0
        if moved:
            empty = empty and first[k, 1] == 0 and first[k, 3] == 0 and last[k, 1] == 0 and last[k, 3] == 0
            b0, b1, b2, b3 = b0 + first[k, 0], b1 + first[k, 1], b2 + first[k, 2], b3 + first[k, 3]
            e0, e1, e2, e3 = e0 + last[k, 0], e1 + last[k, 1], e2 + last[k, 2], e3 + last[k, 3]
        if empty and k > low:
            continue
        f0, f1, f2, f3 = f0 + still[k, 0], f1 + still[k, 1], f2 + still[k, 2], f3 + still[k, 3]
        for side in range(sides):
            gl, hl, gr, hr = f0 + e0 + (f2 + e2), f1 + e1 + (f3 + e3), t0 - f0 - b0 + (t2 - f2 - b2), t1 - f1 - b1 + (t3 - f3 - b3)
            if sides == 2:
                if side == 0:
                    gl, hl = f0 + e0 + m0 + (f2 + e2 + m2), f1 + e1 + m1 + (f3 + e3 + m3)
                else:
                    gr, hr = t0 - f0 - b0 + m0 + (t2 - f2 - b2 + m2), t1 - f1 - b1 + m1 + (t3 - f3 - b3 + m3)
            if moved:
                score = _pair(gl + (b0 - e0), hl + (b1 - e1), gr + (b2 - e2), hr + (b3 - e3), ridge, least, -1)
                other = _pair(gl + (b2 - e2), hl + (b3 - e3), gr + (b0 - e0), hr + (b1 - e1), ridge, least, 1)
                if other > score + HAIR * abs(other):
                    score = other
            else:
                score = _pair(gl, hl, gr, hr, ridge, least, -1 if gl * (hr + ridge) > gr * (hl + ridge) else 1)
            if score > best + HAIR * abs(score):
                best, cut, on = score, k, side
    found[SCORE], found[CUT], found[MISSING_LEFT] = best, cut, 1.0 - on
    if cut >= 0:
        _sums_at(still, first, last, low, high, cut, on if sides == 2 else 2, found)
        found[LEFT_VALUE], found[RIGHT_VALUE] = newton_split(found[LEFT:RIGHT], found[RIGHT:BOTH], found[BOTH:FOUND], ridge, least)[1:3]


@inner
def scan_gini(least, still, first, last, low, high, found):  # pragma: no cover - compiled
    """The same by ``gini_split``."""
    left, right, both, total = np.zeros(4), np.zeros(4), np.zeros(4), np.zeros(4)
    begun, ended, fixed, missing = np.zeros(4), np.zeros(4), np.zeros(4), still[255]
    best, cut, on, some = -np.inf, -1, 0, missing[1] + missing[3] > 0
    for b in range(low, high + 1):
        for c in range(4):
            total[c] += still[b, c] + first[b, c]
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
            score, a, b = gini_split(left, right, both, least)
            if score > best + HAIR * abs(score):
                best, cut, on = score, k, side
                found[LEFT_VALUE], found[RIGHT_VALUE] = a, b
    found[SCORE], found[CUT], found[MISSING_LEFT] = best, cut, 1.0 - on
    if cut >= 0:
        _sums_at(still, first, last, low, high, cut, on if some else 2, found)


@inner
def _sums_at(still, first, last, low, high, cut, side, found):  # pragma: no cover - compiled
    """Sums left, right and on both sides of a cut into ``found``; missing values go left (``side`` 0), right (1), or there are none (2)."""
    for c in range(4):
        total, fixed, begun, ended = 0.0, 0.0, 0.0, 0.0
        for k in range(low, high + 1):
            total += still[k, c] + first[k, c]
        for k in range(low, cut + 1):
            fixed += still[k, c]
            begun += first[k, c]
            ended += last[k, c]
        found[LEFT + c] = fixed + ended + (still[255, c] if side == 0 else 0.0)
        found[RIGHT + c] = total - fixed - begun + (still[255, c] if side == 1 else 0.0)
        found[BOTH + c] = begun - ended
