"""Andriushchenko & Hein 2019, https://arxiv.org/abs/1906.03526: all leaf values of a tree together, by convex search.

The worst-case logistic loss of a tree is convex in its leaf values: each row's worst case is the least (class 1) or the largest
(class 0) of the values of the leaves that it can be brought to. Newton steps with each row held at its worst leaf are
taken for as long as they lower the loss itself, else halved.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

HALVINGS = 4


@njit(cache=True)
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


@njit(cache=True)
def worst_place(value, start, leaf, base, positive):  # pragma: no cover - compiled
    """The place ``(n,)`` in ``leaf`` that hurts each row most: the least ``base + value`` for class 1, the largest for class 0; -1 = in no leaf."""
    out = np.full(len(positive), -1, np.int64)
    for i in range(len(positive)):
        best = 0.0
        for e in range(start[i], start[i + 1]):
            now = base[e] + value[leaf[e]]
            if out[i] < 0 or (now < best if positive[i] else now > best):
                out[i], best = e, now
    return out


@njit(cache=True)
def robust_loss(value, leaf, base, worst, positive, weight, ridge):  # pragma: no cover - compiled
    """The weighted logistic loss of the worst cases and the penalty of the leaves."""
    total = 0.0
    for i in range(len(positive)):
        if worst[i] >= 0:
            margin = base[worst[i]] + value[leaf[worst[i]]]
            margin = margin if positive[i] else -margin
            total += weight[i] * (math.log1p(math.exp(-margin)) if margin > -30 else -margin)
    return total + ridge / 2 * (value * value).sum()


@njit(cache=True)
def refined(value, start, leaf, base, positive, weight, ridge, steps):  # pragma: no cover - compiled
    """Leaf values ``(m,)`` after at most ``steps`` Newton steps, and the place of each row's worst leaf under them.

    Row i can be brought to the leaves ``leaf[start[i]:start[i + 1]]``, with ``base`` as its score without this tree.
    """
    worst = worst_place(value, start, leaf, base, positive)
    loss = robust_loss(value, leaf, base, worst, positive, weight, ridge)
    for _ in range(steps):
        slope, bend = ridge * value, np.full(len(value), max(ridge, 1e-12))
        for i in range(len(positive)):
            if worst[i] >= 0:
                at = leaf[worst[i]]
                p = 1.0 / (1.0 + math.exp(-(base[worst[i]] + value[at])))
                slope[at] += weight[i] * (p - (1.0 if positive[i] else 0.0))
                bend[at] += weight[i] * p * (1.0 - p)
        size, better = 1.0, False
        for _ in range(HALVINGS):
            trial = value - size * slope / bend
            now = worst_place(trial, start, leaf, base, positive)
            reached = robust_loss(trial, leaf, base, now, positive, weight, ridge)
            if reached < loss:
                better = reached < loss - 1e-4 * abs(loss)
                value, worst, loss = trial, now, reached
                break
            size /= 4
        if not better:
            break
    return value, worst
