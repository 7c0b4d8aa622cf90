"""Chen, Jordan & Wainwright 2020, https://arxiv.org/abs/1904.02144: HopSkipJump, the least L2 change with labels only.

Go to the boundary by halving the way to the clean row, estimate the boundary's normal from the labels of random
neighbours, step along it as far as stays wrong, and begin again.
"""

from __future__ import annotations

import numpy as np

from carbide.evasion._labels import Asker
from carbide.types import Array, Rng, Space

HALVINGS = 10
TRIES = 3  # wrong starts taken to the boundary before the nearest is worked on
FIRST, MOST = 32, 256  # neighbours asked at the first step, and at most


def search_hops(ask: Asker, clean: Array, space: Space, rows: Array, starts: list[Array], *, eps: float, queries: int, rng: Rng) -> Array:
    """For these rows of ``clean`` ``(n, *shape)`` the closest wrong inputs found ``(len(rows), *shape)``; the clean row where none was.

    ``starts`` are inputs ``(len(rows), *shape)`` to begin at, in order. A row is done within ``eps``.
    """
    shape, base = clean.shape[1:], clean[rows].reshape(len(rows), -1)
    lower, upper = np.minimum(space.lower.ravel(), base), np.maximum(space.upper.ravel(), base)
    free = space.mutable.ravel()

    def wrong(i: Array, x: Array) -> Array:
        return ask.wrong(rows[i], x.reshape(len(i), *shape))

    def halve(i: Array, x: Array) -> Array:
        low, high = np.zeros(len(i)), np.ones(len(i))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            hit = wrong(i, base[i] + middle[:, None] * (x - base[i]))
            high, low = np.where(hit, middle, high), np.where(hit, low, middle)
        return base[i] + high[:, None] * (x - base[i])

    best, tried = base.copy(), np.zeros(len(rows), np.int64)
    nearest = np.full(len(rows), np.inf)
    for start in starts:
        i = np.flatnonzero((tried < TRIES) & (nearest > eps) & (ask.asked[rows] < queries))
        x = np.clip(np.where(free, start.reshape(len(rows), -1), base), lower, upper)[i]
        hit = wrong(i, x) if len(i) else np.zeros(0, bool)
        i = i[hit]
        if len(i) == 0:
            continue
        x = halve(i, x[hit])
        tried[i] += 1
        size = np.linalg.norm(x - base[i], axis=1)
        best[i[size < nearest[i]]] = x[size < nearest[i]]
        nearest[i] = np.minimum(nearest[i], size)
    found = np.isfinite(nearest)
    for turn in range(1, 10_000):
        away = np.linalg.norm(best - base, axis=1)
        i = np.flatnonzero(found & (away > eps) & (ask.asked[rows] < queries))
        if len(i) == 0:
            break
        normal = _normal(wrong, i, best, away, lower, upper, free, min(MOST, int(FIRST * np.sqrt(turn))), turn, rng)
        step = away[i] / np.sqrt(turn)
        ahead, waiting = best[i].copy(), np.ones(len(i), bool)
        for _ in range(HALVINGS):
            k = np.flatnonzero(waiting)
            if len(k) == 0:
                break
            trial = np.clip(best[i[k]] + step[k, None] * normal[k], lower[i[k]], upper[i[k]])
            hit = wrong(i[k], trial)
            ahead[k[hit]], waiting[k[hit]], step[k] = trial[hit], False, step[k] / 2
        closer = halve(i, ahead)
        better = np.linalg.norm(closer - base[i], axis=1) < away[i]
        best[i[better]] = closer[better]
    return best.reshape(len(rows), *shape)


def _normal(wrong, i: Array, best: Array, away: Array, lower: Array, upper: Array, free: Array, count: int, turn: int, rng: Rng) -> Array:
    """Unit directions ``(len(i), d)`` into the wrong side, from the labels of ``count`` random neighbours a row."""
    d = best.shape[1]
    reach = away[i] / (np.sqrt(d) if turn > 1 else 10.0)
    noise = rng.normal(size=(len(i), count, d)) * free
    noise /= np.linalg.norm(noise, axis=2, keepdims=True)
    around = np.clip(best[i, None] + reach[:, None, None] * noise, lower[i, None], upper[i, None])
    moved = (around - best[i, None]) / reach[:, None, None]
    sign = np.where(wrong(np.repeat(i, count), around.reshape(-1, d)).reshape(len(i), count), 1.0, -1.0)
    mean = sign.mean(1, keepdims=True)
    weight = np.where(np.abs(mean) == 1, sign, sign - mean)
    direction = (weight[:, :, None] * moved).sum(1)
    return direction / np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-12)
