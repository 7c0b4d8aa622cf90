"""Croce & Hein 2020, https://arxiv.org/abs/1907.02044: the least change within bounds that meets a linear equation, in L1, L2, Linf.

What a linear classifier's boundary is to a row, this is exactly; what any classifier's is, it is to first order. Numpy arrays
and torch tensors, as in ``carbide.space.balls``.

>>> import numpy as np
>>> to_plane(np.array([[2.0, 1.0]]), np.array([1.2]), p=np.inf, down=np.zeros((1, 2)), up=np.array([[0.5, 9.0]])).round(3)
array([[0.4, 0.4]])
>>> to_plane(np.array([[2.0, 1.0]]), np.array([1.2]), p=1, down=np.zeros((1, 2)), up=np.array([[0.5, 9.0]])).round(3)
array([[0.5, 0.2]])
"""

from __future__ import annotations

import math
from typing import Any

from carbide.space.balls import along, library

CLOSE = 1e-7  # steps of Newton's method that are relatively smaller end it


def to_plane(w: Any, gap: Any, *, p: float, down: Any, up: Any) -> Any:
    """The change ``(n, d)`` of least Lp norm with ``w @ change = gap`` and ``-down <= change <= up``, for p in 1, 2, inf.

    ``w``, ``down`` and ``up`` are ``(n, d)``, the latter two >= 0 and perhaps inf; ``gap`` is ``(n,)`` of either sign. Where the bounds
    do not leave enough, the result goes as far towards the plane as they allow.
    """
    xp = library(w)
    way = xp.sign(w) * xp.sign(gap.reshape(-1, 1))
    size, goal = abs(w), abs(gap.reshape(-1, 1))
    room = xp.where(way > 0, up, xp.where(way < 0, down, 0 * w))
    return way * (_fill(size, goal, room) if p == 1 else _rise(size, goal, room, size + (size == 0) if p == 2 else 0 * size + 1))


def _fill(size: Any, goal: Any, room: Any) -> Any:
    """L1: the features with the largest weights go first, each as far as it may."""
    xp = library(size)
    order = xp.argsort(-size, 1)
    left, weight, cap = goal - _before(along(size * room, order)), along(size, order), along(room, order)
    useful = (weight > 0) & (left > 0)
    move = xp.where(useful, left, xp.zeros_like(left)) / (weight + (weight == 0))
    return along(xp.where(move < cap, move, cap), xp.argsort(order, 1))


def _rise(size: Any, goal: Any, room: Any, pace: Any) -> Any:
    """L2 and Linf: all move together, feature i by ``min(s * pace, room)``, with the least s that gets there.

    The gain ``sum(size * move)`` rises in s along straight pieces, each flatter than the last, that end where a feature has used its room
    up: Newton's method climbs them from below, one piece or more at a time, and ends on the right one.
    """
    xp = library(size)
    slope, end = size * pace, room / pace
    none, s = xp.zeros_like(size), xp.zeros_like(goal)
    for _ in range(size.shape[1]):
        free = s < end
        rate = xp.where(free, slope, none).sum(1).reshape(-1, 1)
        gained = (size * xp.where(free, none, room)).sum(1).reshape(-1, 1)
        more = xp.where(rate > 0, (goal - gained) / (rate + (rate == 0)), s + math.inf)
        done = ~(more > s * (1 + CLOSE))
        s = xp.where(done, s, more)
        if bool((done | (rate == 0)).all()):
            break
    move = s * pace
    return xp.where(move < room, move, room)


def _before(gain: Any) -> Any:
    """Sums ``(n, d)`` of what comes before each entry."""
    xp = library(gain)
    return xp.cumsum(xp.concatenate([xp.zeros_like(gain[:, :1]), gain[:, :-1]], 1), 1)
