"""Engstrom et al. 2019, https://arxiv.org/abs/1712.02779: the worst of many distortions of an image, searched on a grid, then refined.

A rotation, a shift or a change of light has few parameters, and their loss is full of hills, so that trying them all finds more than
following gradients. The grid is tried from mild to strong, many rows and points at once; a row leaves once it breaks. Around the worst
point of a row that stands the search goes on with ever shorter steps. A grid of too many parameters gives way to the worst of as many
random points. Common corruptions are tried one and all. What is returned are parameters: the judge renders them itself.

>>> import numpy as np
>>> from types import SimpleNamespace
>>> from carbide.types import Access, Distortion, Space
>>> dark = lambda x: np.stack([x.mean((1, 2, 3)) > 0.3, x.mean((1, 2, 3)) <= 0.3], 1).astype(float)
>>> model = SimpleNamespace(predict=dark, threshold=0.5, access=Access.LABELS, space=Space.image((1, 2, 2)))
>>> GridSearch(tries=5)(model, np.full((1, 1, 2, 2), 0.5), np.array([0]), Distortion(brightness=0.4), np.random.default_rng(0))
array([[-0.2]])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._scores import Scorer
from carbide.registry import Method
from carbide.space.distortions import axes, every_corruption, missing, render, sizes
from carbide.types import Access, Array, Corruption, Distortion, InputError, Rng, Threat

MOST = 31  # points along one parameter
ROOM = 4_000_000  # numbers of the images that are rendered at once


@dataclass(frozen=True, kw_only=True)
class GridSearch(Method):
    """The worst of a grid of up to ``tries`` distortions, then ``rounds`` of shorter and shorter steps around it; every common corruption."""

    tries: int = 400
    rounds: int = 6
    threats: ClassVar[tuple[type[Threat], ...]] = (Distortion, Corruption)
    needs: ClassVar[Access] = Access.LABELS
    rank: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if self.tries < 2 or self.rounds < 0:
            raise InputError(f"grid: tries is {self.tries} and rounds {self.rounds}; give at least 2 tries and 0 rounds")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Images with finite bounds, and libraries that render the changes."""
        return distortion_refusal(case.model.space, threat)

    def quick(self) -> GridSearch:
        """A quarter of the tries, no refinement."""
        return replace(self, tries=max(2, self.tries // 4), rounds=0)

    def __call__(self, model: Any, x: Array, y: Array, threat: Distortion | Corruption, rng: Rng) -> Array:
        """Parameters ``(n, k)`` for rows ``x`` with labels ``y`` ``(n,)``, in the order of ``carbide.space.distortions.axes``: the worst found."""
        search = _Search(model, np.asarray(x, np.float64), y, threat)
        if isinstance(threat, Corruption):
            search.try_all(every_corruption(threat, model.space))
            return search.best
        points, step = lattice(threat, model.space, self.tries, rng)
        search.try_all(points)
        for _ in range(self.rounds):
            rows = search.left()
            if len(rows) == 0:
                break
            step = search.refine(rows, step)
        return search.best


def distortion_refusal(space: Any, threat: Threat) -> str | None:
    """Why the threat's changes cannot be rendered on inputs of a space, or None."""
    if not space.is_image:
        return f"distortions are of images (channels, height, width), and inputs have the shape {space.shape}"
    if not (np.isfinite(space.lower).all() and np.isfinite(space.upper).all()):
        return "distortions are of images between bounds, and the space has none; give images in [0, 1]"
    gone = missing(threat, space)
    if isinstance(threat, Distortion) and gone:
        return "; ".join(gone.values())
    return "; ".join(dict.fromkeys(gone.values())) if isinstance(threat, Corruption) and not len(every_corruption(threat, space)) else None


def lattice(threat: Distortion, space: Any, tries: int, rng: Rng) -> tuple[Array, Array]:
    """At most ``tries`` points ``(m, k)`` of the threat's range from mild to strong, without the unchanged one, and the spacing ``(k,)``.

    An even grid where three points along each parameter are within the tries, else uniform draws.
    """
    every = axes(threat, space)
    low, high, whole = (np.array([axis[i] for axis in every], float) for i in (1, 2, 3))
    count = min(MOST, int((tries + 1e-9) ** (1 / len(every))))
    count -= 1 - count % 2 if (low < 0).any() else 0  # an odd number of points has the unchanged image in its middle
    if count >= 3 or len(every) == 1:
        sides = [np.unique(np.round(s) if w else s) for s, w in zip(np.linspace(low, high, max(count, 2)).T, whole, strict=True)]
        points = np.stack(np.meshgrid(*sides, indexing="ij"), -1).reshape(-1, len(every))
        spacing = (high - low) / (max(count, 2) - 1)
    else:
        points = rng.uniform(low, high, size=(tries, len(every)))
        points = np.where(whole == 1, np.round(points), points)
        spacing = (high - low) / 4
    points = points[(points != 0).any(1)]
    return points[np.argsort(sizes(points, threat, space), kind="stable")], spacing


class _Search:
    """The worst parameters of each row so far; a row that breaks keeps the mildest that broke it."""

    def __init__(self, model: Any, x: Array, y: Array, threat: Distortion | Corruption) -> None:
        self.scorer, self.x, self.threat, self.space = Scorer(model, y), x, threat, model.space
        self.axes = axes(threat, model.space)
        self.best = np.zeros((len(x), len(self.axes)))
        self.margin, self.wrong = np.full(len(x), np.inf), np.zeros(len(x), bool)

    def left(self) -> Array:
        """The rows that nothing has broken."""
        return np.flatnonzero(~self.wrong)

    def try_all(self, points: Array) -> None:
        """Each of these points ``(m, k)`` on each row, as many at once as there is room for, until the row breaks."""
        start = 0
        while start < len(points) and len(rows := self.left()):
            some = points[start : start + max(1, ROOM // (len(rows) * self.x[0].size))]
            self.ask(rows, np.broadcast_to(some, (len(rows), *some.shape)))
            start += len(some)

    def refine(self, rows: Array, step: Array) -> Array:
        """One step either way along each parameter of these rows; the next step is half as long."""
        ways = np.concatenate([np.diag(step), -np.diag(step)]) / 2
        low, high, whole = (np.array([axis[i] for axis in self.axes], float) for i in (1, 2, 3))
        near = self.best[rows][:, None] + ways
        self.ask(rows, np.clip(np.where(whole == 1, np.round(near), near), low, high))
        return step / 2

    def ask(self, rows: Array, points: Array) -> None:
        """Points ``(len(rows), m, k)`` of these rows, keeping the first that breaks a row, else the one of least margin."""
        n, m, _ = points.shape
        many = np.repeat(rows, m)
        found = [self.scorer.margins(many[part], render(self.x[many[part]], points.reshape(n * m, -1)[part], self.threat, self.space))
                 for part in np.array_split(np.arange(n * m), max(1, -(-n * m * self.x[0].size // (2 * ROOM))))]  # fmt: skip
        margin, wrong = (np.concatenate([f[side] for f in found]).reshape(n, m) for side in (0, 1))
        chosen = np.where(wrong.any(1), wrong.argmax(1), np.nan_to_num(margin, nan=np.inf).argmin(1))
        every = np.arange(n)
        better = wrong.any(1) | (margin[every, chosen] < self.margin[rows])
        self.best[rows[better]], self.margin[rows[better]] = points[every, chosen][better], margin[every, chosen][better]
        self.wrong[rows] |= wrong.any(1)
