"""Chen & Gu 2020, https://arxiv.org/abs/2006.12792: the least Linf change by searching directions of signs with labels only.

A direction is a sign for each feature, its worth the least radius at which the row is labelled wrongly. Flip blocks of
signs, large ones first; a flip that is still wrong at the present radius is kept, and its radius is found by halving.
"""

from __future__ import annotations

import numpy as np

from carbide.evasion._labels import Asker
from carbide.space.repair import repair
from carbide.types import Array, Rng, Space

HALVINGS = 8


def search_rays(ask: Asker, clean: Array, space: Space, rows: Array, starts: list[Array], *, eps: float, queries: int, rng: Rng) -> Array:
    """For these rows of ``clean`` ``(n, *shape)`` the closest wrong inputs found ``(len(rows), *shape)``; the clean row where none was.

    ``starts`` are inputs ``(len(rows), *shape)`` whose direction from the row is tried first. A row is done at radius ``eps``.
    """
    search = _Search(ask, clean[rows], space, rows, eps, queries)
    ones = np.ones_like(search.signs)
    for start in [clean[rows] + 1, clean[rows] - 1, *starts]:
        signs = np.where((start - clean[rows]).reshape(len(rows), -1) >= 0, ones, -ones)
        search.attempt(search.active(), signs)
    d = search.signs.shape[1]
    order = np.arange(d)
    while len(search.active()):
        size = (d + 1) // 2
        while True:
            for begin in range(0, d, size):
                active = search.active()
                if len(active) == 0:
                    return search.best()
                signs = search.signs.copy()
                signs[:, order[begin : begin + size]] *= -1
                search.attempt(active, signs)
            if size == 1:
                break
            size = (size + 1) // 2
        order = rng.permutation(d)
    return search.best()


class _Search:
    def __init__(self, ask: Asker, clean: Array, space: Space, rows: Array, eps: float, queries: int) -> None:
        self.ask, self.clean, self.space, self.rows, self.eps, self.queries = ask, clean, space, rows, eps, queries
        n = len(rows)
        self.signs = np.ones((n, int(np.prod(clean.shape[1:]))))
        span = (space.upper - space.lower)[np.isfinite(space.upper - space.lower)]
        self.top = float(max(span.max() if span.size else 0.0, 4 * eps))
        self.radius = np.full(n, np.inf)
        self.plain = not (space.groups or space.relations or (space.step > 0).any() or not space.mutable.all())

    def active(self) -> Array:
        """Rows that are neither done nor out of queries."""
        return np.flatnonzero((self.radius > self.eps) & (self.ask.asked[self.rows] < self.queries))

    def point(self, i: Array, signs: Array, radius: Array) -> Array:
        """The allowed inputs at these radii along directions ``signs`` ``(len(i), d)``."""
        clean = self.clean[i]
        moved = clean + (radius[:, None] * signs).reshape(clean.shape)
        if self.plain:
            return np.clip(moved, np.minimum(self.space.lower, clean), np.maximum(self.space.upper, clean))
        return repair(moved, clean, self.space)

    def wrong(self, i: Array, signs: Array, radius: Array) -> Array:
        """Whether those inputs are labelled wrongly."""
        return self.ask.wrong(self.rows[i], self.point(i, signs, radius))

    def attempt(self, i: Array, signs: Array) -> None:
        """Keep the direction for rows that are wrong there at their present radius, and find the new radius."""
        if len(i) == 0:
            return
        present = np.minimum(self.radius[i], self.top)
        good = self.wrong(i, signs[i], present)
        i, high = i[good], present[good]
        if len(i) == 0:
            return
        self.signs[i] = signs[i]
        done = self.wrong(i, signs[i], np.full(len(i), self.eps))
        self.radius[i[done]] = self.eps
        i, high = i[~done], high[~done]
        low = np.full(len(i), self.eps)
        for _ in range(HALVINGS if len(i) else 0):
            middle = (low + high) / 2
            hit = self.wrong(i, signs[i], middle)
            high, low = np.where(hit, middle, high), np.where(hit, low, middle)
        self.radius[i] = high

    def best(self) -> Array:
        """The inputs at the best radii."""
        found = np.isfinite(self.radius)
        every = np.arange(len(self.rows))
        x = self.point(every, self.signs, np.where(found, self.radius, 0.0))
        return np.where(found.reshape(-1, *[1] * (x.ndim - 1)), x, self.clean)
