"""Andriushchenko et al. 2020, https://arxiv.org/abs/1912.00049: random search by squares, with scores only.

A square of the image, or a group of a table's features, is set to a new change of full size; what lowers the margin stays. The squares
shrink as the search goes on. No gradient is used, so nothing that hides gradients hides from it.

>>> import numpy as np
>>> from types import SimpleNamespace
>>> from carbide.types import Access, LpBall, Space
>>> space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
>>> score = lambda x: np.stack([1 - x.mean(1), x.mean(1)], 1)
>>> model = SimpleNamespace(predict=score, threshold=0.5, space=space, access=Access.LABELS | Access.SCORES)
>>> x = Square(queries=50)(model, np.array([[0.6, 0.5]]), np.array([1]), LpBall(eps=0.1), np.random.default_rng(0))
>>> bool(x.mean() < 0.5)
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._scores import Scorer
from carbide.evasion._windows import Windows
from carbide.registry import Method
from carbide.space.balls import project
from carbide.space.repair import repair
from carbide.types import Access, Array, InputError, LpBall, Rng, Space, Threat

LARGEST = 0.8  # the share of the features that the first squares cover
HALVED = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # queries of 10,000 after which that share is halved
TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Square(Method):
    """Random search with about ``queries`` scores a row: squares of images, groups of a table's features, in Linf, L2 and L1."""

    queries: int = 1000
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.SCORES
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 28

    def __post_init__(self) -> None:
        if self.queries < 10:
            raise InputError(f"square: queries is {self.queries}; give at least 10 scores a row")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Squares change many features at once."""
        return "its squares change many features at once; choose linf, l2 or l1" if isinstance(threat, LpBall) and threat.p == 0 else None

    def quick(self) -> Square:
        """A fifth of the queries."""
        return replace(self, queries=max(10, self.queries // 5))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """The input ``(n, *shape)`` of least margin found for each row ``x`` with label ``y`` ``(n,)``, within the threat."""
        clean = np.array(x, np.float64)
        search = _Search(Scorer(model, y), clean, model.space, threat, rng)
        search.ask(np.arange(len(clean)), clean)
        if len(search.left()):
            search.ask(search.left(), search.start())
        for turn in range(2, self.queries):
            rows = search.left()
            if len(rows) == 0:
                break
            share = LARGEST / 2 ** sum(turn * 10_000 > mark * self.queries for mark in HALVED)
            search.ask(rows, search.step(rows, share))
        return search.best


class _Search:
    """The best change of each row so far, ``(n, channels, places)``, and how the next one is drawn."""

    def __init__(self, scorer: Scorer, clean: Array, space: Space, threat: LpBall, rng: Rng) -> None:
        self.scorer, self.clean, self.space, self.threat, self.rng = scorer, clean, space, threat, rng
        self.best, self.margin, self.wrong = clean.copy(), np.full(len(clean), np.inf), np.zeros(len(clean), bool)
        self.plain = not (space.groups or space.relations or (space.step > 0).any() or not space.mutable.all())
        self.windows = Windows(space, rng)

    def left(self) -> Array:
        """The rows that nothing has broken."""
        return np.flatnonzero(~self.wrong)

    def ask(self, rows: Array, x: Array) -> None:
        """Score inputs for these rows and keep what lowers the margin."""
        margin, wrong = self.scorer.margins(rows, x)
        better = (margin < self.margin[rows]) | wrong
        self.best[rows[better]], self.margin[rows[better]] = x[better], margin[better]
        self.wrong[rows] |= wrong

    def allowed(self, rows: Array, change: Array) -> Array:
        """The inputs that these changes ``(n, channels, places)`` come to within the threat."""
        clean = self.clean[rows]
        moved = clean + change.reshape(clean.shape)
        near = project(moved, clean, p=self.threat.p, eps=self.threat.eps, lower=self.space.lower, upper=self.space.upper)
        return near if self.plain else repair(near, clean, self.space)

    def start(self) -> Array:
        """Vertical stripes of full size for Linf, a chessboard of small hills for L2 and L1; every sign drawn."""
        rows = self.left()
        if math.isinf(self.threat.p):
            return self.allowed(rows, self.threat.eps * self.windows.stripes(len(rows)))
        return self.allowed(rows, self._full(self.windows.tiles(len(rows))))

    def step(self, rows: Array, share: float) -> Array:
        """The best inputs with one square drawn anew."""
        change = (self.best[rows] - self.clean[rows]).reshape(len(rows), self.windows.channels, -1)
        if math.isinf(self.threat.p):
            mask, _ = self.windows.draw(len(rows), share)
            return self.allowed(rows, np.where(mask[:, None], self.threat.eps * self.windows.signs(mask), change))
        (here, hill), (there, _) = self.windows.draw(len(rows), share, least=3), self.windows.draw(len(rows), share, least=3)
        return self.allowed(rows, self._moved(change, here, hill, there))

    def _moved(self, change: Array, here: Array, hill: Array, there: Array) -> Array:
        """What is spent in two windows, and what is not spent at all, goes to a hill of drawn sign in the first (L2 and L1)."""
        p, eps = self.threat.p, self.threat.eps
        inside, both = change * here[:, None], change * (here | there)[:, None]
        spare = np.maximum(eps**p - (np.abs(change) ** p).sum((1, 2), keepdims=True), 0) / self.windows.channels
        budget = (spare + (np.abs(both) ** p).sum(2, keepdims=True)) ** (1 / p)
        new = hill[:, None] * self.rng.choice([-1.0, 1.0], size=(len(change), self.windows.channels, 1)) + inside / (_size(inside, p) + TINY)
        new = new * budget / (_size(new, p) + TINY)
        return self._full(np.where(here[:, None], new, np.where(there[:, None], 0.0, change)))

    def _full(self, change: Array) -> Array:
        """The changes scaled to norm eps."""
        whole = (np.abs(change) ** self.threat.p).sum((1, 2), keepdims=True) ** (1 / self.threat.p)
        return change * self.threat.eps / (whole + TINY)


def _size(change: Array, p: float) -> Array:
    """The norm of each channel, ``(n, channels, 1)``."""
    return (np.abs(change) ** p).sum(2, keepdims=True) ** (1 / p)
