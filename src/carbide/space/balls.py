"""Lp balls around clean inputs, cut by the bounds of the space: norms, membership and nearest points.

The same functions take numpy arrays and torch tensors and stay in that library, dtype and device. A ball's centre may
lie outside the bounds (test rows sometimes do): then the bounds of that row are widened to hold it.

>>> import numpy as np
>>> project(np.array([[0.9, 0.2]]), np.array([[0.5, 0.1]]), p=np.inf, eps=0.25, lower=0.0, upper=0.7).round(2)
array([[0.7, 0.2]])
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def norms(change: Any, p: float) -> Any:
    """The Lp norm ``(n,)`` of each row of ``change`` ``(n, *shape)`` for p in 0 (count), 1, 2, inf."""
    flat = abs(change.reshape(len(change), -1))
    if p == 0:
        return (flat > 0).sum(1) * 1.0
    if math.isinf(p):
        return _largest(flat)
    return flat.sum(1) if p == 1 else (flat * flat).sum(1) ** 0.5


def inside_ball(x: Any, clean: Any, *, p: float, eps: float, lower: Any = -math.inf, upper: Any = math.inf, slack: float = 1e-6) -> Any:
    """Whether each row of ``x`` ``(n, *shape)`` is finite, within ``eps + slack`` of ``clean`` and within its bounds up to ``slack``."""
    xp = library(x)
    low, high = _bounds(clean, lower, upper)
    within = (x >= low - slack) & (x <= high + slack) & xp.isfinite(x)
    return within.reshape(len(x), -1).all(1) & (norms(x - clean, p) <= eps + (0 if p == 0 else slack))


def project(x: Any, clean: Any, *, p: float, eps: Any, lower: Any = -math.inf, upper: Any = math.inf) -> Any:
    """The point of the ball within the bounds that is nearest to each row of ``x`` in Euclidean distance.

    ``x`` and ``clean`` are ``(n, *shape)``, ``eps`` is one radius or one a row ``(n,)``; ``lower`` and ``upper`` broadcast to
    ``shape``. What is not finite in ``x`` is taken from ``clean``. The result lies in the ball up to rounding.
    """
    xp = library(x)
    low, high = _bounds(clean, lower, upper)
    x = xp.where(xp.isfinite(x), x, clean)
    n, each = len(x), getattr(eps, "ndim", 0) == 1
    if math.isinf(p):
        eps = eps.reshape(n, *[1] * (x.ndim - 1)) if each else eps
        return _clip(x, _larger(low, clean - eps), _smaller(high, clean + eps))
    eps = _column(eps) if each else eps
    change = (x - clean).reshape(n, -1)
    room = (_clip(x, low, high) - clean).reshape(n, -1)  # the change that the bounds leave
    return clean + _SHRINK[p](change, room, eps).reshape(x.shape)


def _shrink_l2(change: Any, room: Any, eps: Any) -> Any:
    """``clip(s * change)`` with the s at which its norm is eps, or all the room where that is no longer than eps.

    The coordinates that the bounds cap at one s stay capped at a larger one, so solving for s with the caps known so far
    rises to the answer in a few rounds.
    """
    xp, size, target = library(change), abs(room), abs(change)
    fits = _column((size * size).sum(1) ** 0.5) <= eps
    if bool(fits.all()):
        return room
    scale = _column(target.sum(1)) * 0
    for _ in range(change.shape[1] + 1):
        capped = target * scale > size
        left = eps * eps - _column(xp.where(capped, size * size, 0 * size).sum(1))
        free = _column(xp.where(capped, 0 * size, target * target).sum(1))
        higher = (_larger(left, 0 * left) / _positive(free)) ** 0.5
        if bool((fits | (higher <= scale)).all()):
            break
        scale = _larger(scale, higher)
    return xp.where(fits, room, xp.sign(room) * _smaller(target * scale, size))


def _shrink_l1(change: Any, room: Any, eps: Any) -> Any:
    """Soft thresholding: ``clip(|change| - t, 0, |room|)`` for the least t >= 0 whose sum is at most eps.

    The sum falls in t along straight pieces: a coordinate starts to shrink at ``|change| - |room|`` and is gone at
    ``|change|``. Sorting those 2d places finds the piece on which the sum is eps, where t has a closed form.
    """
    xp, size, target = library(change), abs(room), abs(change)
    fits = _column(size.sum(1)) <= eps
    if bool(fits.all()):
        return room
    places = xp.concatenate([target - size, target], 1)
    order = xp.argsort(places, 1)
    shrinking = xp.cumsum(along(xp.concatenate([0 * size + 1, 0 * size - 1], 1), order), 1)
    places = along(places, order)
    fallen = xp.cumsum(shrinking[:, :-1] * (places[:, 1:] - places[:, :-1]), 1)
    above = _column(size.sum(1)) - fallen >= eps
    start = _larger(places[:, :1], _column(_largest(xp.where(above, places[:, 1:], 0 * fallen))))  # where the piece begins
    whole, free = target - size > start, (target - size <= start) & (target > start)
    total = _column(xp.where(whole, size, 0 * size).sum(1) + xp.where(free, target, 0 * size).sum(1))
    cut = _larger((total - eps) / _positive(_column((free * 1.0).sum(1))), start)  # nothing is free where the sum is level
    return xp.where(fits, room, xp.sign(room) * _within(target - cut, size))


def _shrink_l0(change: Any, room: Any, eps: Any) -> Any:
    """The ``floor(eps)`` coordinates whose change brings the row nearest to its target, in full."""
    gain = change * change - (change - room) * (change - room)
    order = np.argsort(-gain, axis=1, kind="stable") if library(change) is np else gain.argsort(dim=1, descending=True, stable=True)
    place = library(change).argsort(order, 1)  # of each coordinate among the gains, the largest at 0
    return room * (place + 1 <= eps)


_SHRINK: dict[float, Any] = {0: _shrink_l0, 1: _shrink_l1, 2: _shrink_l2}


def _bounds(clean: Any, lower: Any, upper: Any) -> tuple[Any, Any]:
    """The bounds as arrays of clean's library, widened per row where the clean input lies outside them."""
    if library(clean) is np:
        return np.minimum(np.asarray(lower, clean.dtype), clean), np.maximum(np.asarray(upper, clean.dtype), clean)
    return _smaller(_like(lower, clean), clean), _larger(_like(upper, clean), clean)


def library(x: Any) -> Any:
    """Numpy or torch, whichever the array belongs to; torch is only imported by those who already have a tensor."""
    if isinstance(x, np.ndarray | np.generic):
        return np
    import torch

    return torch


def along(x: Any, order: Any) -> Any:
    """The entries of each row of ``x`` ``(n, d)`` in the order ``(n, d)`` of indices."""
    return np.take_along_axis(x, order, 1) if library(x) is np else x.gather(1, order)


def _like(value: Any, x: Any) -> Any:
    import torch

    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _smaller(a: Any, b: Any) -> Any:
    return library(b).minimum(a, b)


def _larger(a: Any, b: Any) -> Any:
    return library(b).maximum(a, b)


def _clip(x: Any, low: Any, high: Any) -> Any:
    return _smaller(_larger(x, low), high)


def _within(x: Any, size: Any) -> Any:
    return _smaller(_larger(x, x * 0), size)


def _positive(x: Any) -> Any:
    return x + (x == 0)


def _largest(flat: Any) -> Any:
    if flat.shape[1] == 0:
        return flat.sum(1)
    return flat.max(1) if library(flat) is np else flat.amax(1)


def _column(x: Any) -> Any:
    return x.reshape(-1, 1)
