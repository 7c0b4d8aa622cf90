"""Neighbouring data sets that a private training should not tell apart, and a careless one does.

Differential privacy speaks of every pair of neighbours, so the attacker may choose the worst: mislabelled rows, rows in opposite corners of
the space, rows far outside where nothing bounds them; among the user's rows, among rows that pull nowhere and hide nothing, among rows that
even out what the steps leave behind, among equal rows, or among rows that all pull against the one that changes.

>>> import numpy as np
>>> from carbide.types import PrivacyClaim, Space
>>> box = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
>>> rows = Dataset(x=np.random.default_rng(0).random((8, 2)), y=np.arange(8) % 2, ids=np.arange(8).astype(str), source=np.full(8, ""), space=box, classes=2)
>>> pairs = candidates(rows, PrivacyClaim(epsilon=1.0, delta=1e-6), np.random.default_rng(0))
>>> [pair.name for pair in pairs][:2]
['rows that pull nowhere, opposite corners', 'your rows, opposite corners']
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from carbide.types import Array, Dataset, PrivacyClaim, Rng

NEAR = 3.0  # standard deviations from the mean where a corner lies, of features without bounds
FAR = 1000.0  # times as far where a far row lies
SETTLING, TURNED = 0.25, 0.85  # share of rows that settle, and of features in which they lie along the canary
STARTS = 5  # of the search for the corner in whose direction the rows vary least


@dataclass(frozen=True, kw_only=True, eq=False)
class Neighbours:
    """Two data sets that differ in one record: the rows ``outside`` and ``inside`` of one pool; the canary is among ``inside`` only.

    ``ways`` ``(2, d)`` is the direction in which the canary lies, in the features' own units and by the width of each, of length one.
    """

    name: str
    pool: Dataset
    outside: Array
    inside: Array
    ways: Array

    @property
    def probes(self) -> Array:
        """The rows whose answers say most about which data set it was: the canary, its opposite if there is one, a few others."""
        own = np.setxor1d(self.outside, self.inside)
        others = np.intersect1d(self.outside, self.inside)[:6]
        return self.pool.x[np.concatenate([own, others])]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Frame:
    """Where corners lie: ``middle``, ``reach`` and which features have no bounds, ``(d,)`` each."""

    middle: Array
    reach: Array
    endless: Array

    def corner(self, signs: Array, *, far: bool = False) -> Array:
        return self.middle + signs * self.reach * np.where(self.endless & far, FAR, 1.0)


def candidates(dataset: Dataset, claim: PrivacyClaim, rng: Rng, *, fine: bool = False) -> list[Neighbours]:
    """Pairs of neighbours worth trying against a claim, for rows ``(n, *shape)`` of a data set with at least three rows.

    The first leaves the most of a sound training's trace. With ``fine`` there are designs whose gain shows in tens of thousands of trainings.
    """
    frame = _frame(dataset)
    u = _quiet_signs((dataset.x.reshape(len(dataset), -1) - frame.middle) / frame.reach, rng)
    turned = np.stack([np.where(rng.permutation(len(u)) < len(u) // 2, -1.0, 1.0) for _ in range(len(dataset) // 2 + 1)])
    found = [_pair(claim, dataset, name, x, y, canary, other, frame) for name, x, y, canary, other in _designs(dataset, frame, u, u * turned)]
    if not fine:
        return found
    x, y = _settling(len(dataset) - 1, frame, u, u * turned, rng)
    return [_pair(claim, dataset, "rows that settle, opposite corners", x, y, (frame.corner(u), 1), (frame.corner(-u), 1), frame), *found]


def crowd(dataset: Dataset, count: int, rng: Rng) -> Dataset:
    """``count`` canaries for one training: rows in random corners of the space with random labels."""
    frame = _frame(dataset)
    x = np.stack([frame.corner(rng.choice([-1.0, 1.0], frame.middle.size)) for _ in range(count)]).reshape(count, *dataset.space.shape)
    return Dataset(x=x.astype(dataset.x.dtype), y=rng.integers(dataset.classes, size=count), ids=np.array([f"canary {i}" for i in range(count)]),
                   source=np.full(count, "crafted"), space=dataset.space, classes=dataset.classes, class_names=dataset.class_names, name=dataset.name)  # fmt: skip


def _designs(data: Dataset, frame: _Frame, u: Array, v: Array) -> Iterator[tuple[str, Array, Array, tuple[Array, int], tuple[Array, int]]]:
    """Name, the other rows and labels, the canary and what stands in its place where one record is replaced.

    The canary lies in the direction ``u`` ``(d,)``. Rows that pull nowhere are pairs in opposite corners ``v`` ``(n / 2, d)`` at right angles
    to it, of one label: their pulls cancel, nobody's gradient is short of its clipping, and nothing draws the canary's trace back.
    """
    flat = data.x.reshape(len(data), -1)
    odd = int(np.argmax((np.abs(flat - flat.mean(0)) / frame.reach).sum(1)))
    rest, labels, n = np.delete(flat, odd, 0), np.delete(data.y, odd), len(data) - 1
    zeros, blank = np.zeros(n, np.int64), np.tile(np.where(frame.endless, 0.0, frame.middle), (n, 1))
    quiet = np.stack([frame.corner(v[i // 2] * (1 - 2 * (i % 2))) for i in range(n)])
    for far in (False, True) if frame.endless.any() else (False,):
        canary, other, word = (frame.corner(u, far=far), 1), (frame.corner(-u, far=far), 1), "far corners" if far else "opposite corners"
        yield f"rows that pull nowhere, {word}", quiet, zeros, canary, other
        yield f"your rows, {word}", rest, labels, canary, other
        yield f"blank rows, {word}", blank, np.arange(n) % 2, canary, other
        yield f"equal rows against the canary, {word}", np.tile(canary[0], (n, 1)), zeros, canary, (canary[0], 0)
    if frame.endless.any():
        yield "equal rows against a far canary", np.tile(frame.corner(u), (n, 1)), zeros, (frame.corner(u, far=True), 1), (frame.corner(u), 0)
    yield "your rows, one label changed", rest, labels, (flat[odd], (int(data.y[odd]) + 1) % data.classes), (flat[odd], int(data.y[odd]))


def _settling(n: int, frame: _Frame, u: Array, v: Array, rng: Rng) -> tuple[Array, Array]:
    """Rows ``(n, d)`` that pull nowhere, some of which draw back along the canary ``u`` ``(d,)`` once they are told apart well, and labels.

    The mean of the last iterates holds less of the last steps than of the others. Rows whose gradient is cut at first, and which pull
    towards a corner at right angles to the canary, leave the clipping halfway; from then on they shrink what all steps left so far along
    the canary, and every step ends up with about the same share of the mean.
    """
    signs, y = np.stack([v[i // 2] * (1 - 2 * (i % 2)) for i in range(n)]), np.zeros(n, np.int64)
    for i in range(0, int(SETTLING * n) // 4 * 4, 4):
        along = rng.permutation(len(u)) < round(TURNED * len(u))
        pair = np.stack([np.where(along, u, v[-1]), np.where(along, -u, v[-1])])
        signs[i : i + 4], y[i : i + 2] = np.concatenate([pair, -pair]), 1
    return np.stack([frame.corner(row) for row in signs]), y


def _pair(claim: PrivacyClaim, data: Dataset, name: str, x: Array, y: Array, canary: tuple[Array, int], other: tuple[Array, int],
          frame: _Frame) -> Neighbours:  # fmt: skip
    n = len(x)
    rows = np.concatenate([x, canary[0][None], other[0][None]]).reshape(n + 2, *data.space.shape)
    pool = Dataset(x=rows.astype(data.x.dtype), y=np.concatenate([y, [canary[1], other[1]]]).astype(np.int64), ids=np.arange(n + 2).astype(str),
                   source=np.full(n + 2, "crafted"), space=data.space, classes=data.classes, class_names=data.class_names, name=data.name)  # fmt: skip
    rest = np.arange(n)
    away = canary[0] - (other[0] if claim.adjacency == "replace" and (canary[0] != other[0]).any() else np.zeros_like(canary[0]))
    inner = (away if claim.adjacency == "replace" and (canary[0] != other[0]).any() else canary[0] - frame.middle) / frame.reach
    ways = np.stack([way / max(float(np.linalg.norm(way)), 1e-300) for way in (away, inner)])
    return Neighbours(
        name=name, pool=pool, ways=ways, inside=np.append(rest, n), outside=np.append(rest, n + 1) if claim.adjacency == "replace" else rest
    )


def _frame(dataset: Dataset) -> _Frame:
    flat = dataset.x.reshape(len(dataset), -1)
    lower, upper = dataset.space.lower.ravel(), dataset.space.upper.ravel()
    endless = ~(np.isfinite(lower) & np.isfinite(upper))
    spread = flat.std(0)
    with np.errstate(invalid="ignore"):
        middle = np.where(endless, flat.mean(0), (lower + upper) / 2)
        reach = np.where(endless, NEAR * np.where(spread > 0, spread, 1.0), (upper - lower) / 2)
    return _Frame(middle=middle, reach=np.where(reach > 0, reach, 1e-12), endless=endless)


def _quiet_signs(share: Array, rng: Rng) -> Array:
    """Signs ``(d,)`` whose direction the rows, scaled to [-1, 1], say least about: a descent by single flips from a few starts."""
    d = share.shape[1]
    if d > 256:
        return rng.choice([-1.0, 1.0], d)
    moments, best, least = share.T @ share / len(share), np.ones(d), np.inf
    for _ in range(STARTS):
        signs = rng.choice([-1.0, 1.0], d)
        value = signs @ moments @ signs
        while True:
            flipped = value - 4 * signs * (moments @ signs) + 4 * np.diag(moments)
            place = int(flipped.argmin())
            if flipped[place] >= value - 1e-12:
                break
            signs[place], value = -signs[place], flipped[place]
        if value < least:
            best, least = signs, value
    return best
