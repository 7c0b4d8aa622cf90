"""Choquette-Choo et al. 2021, https://arxiv.org/abs/2007.14321: labels alone betray members, which lie further from the boundary.

Noisy copies of a record are asked about, in several sizes of noise, and of an image shifted copies too: how many of them
still get the record's own label? With shadow models that number is compared, record by record, with what models show that
were and were not trained on it, so that records that lie far from every boundary are not taken for members.

>>> LabelOnly(copies=8).queries(images=False)
25
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from carbide.privacy.shadows import Shadows, probed
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, InputError, Kind, Membership, Model, Rng, decide

QUICK = 16
SHIFTS = [shift for shift in itertools.product((-1, 0, 1), repeat=2) if shift != (0, 0)]
PRIOR = 4.0  # references that the pooled variance counts for
ROWS = 8192  # copies that are asked about at once


@dataclass(frozen=True, kw_only=True)
class LabelOnly(Method):
    """Asks the model for labels only, of the record and of noisy copies.

    ``sizes`` are the standard deviations of the noise in units of each feature's own, ``copies`` are drawn of each size;
    features that are not real numbers take another record's value with that probability. ``shadows`` models are trained
    where there is a recipe; with 0 the plain count is the score. A record costs ``queries`` questions.
    """

    threats = (Membership,)
    needs: ClassVar[Access] = Access.LABELS
    default: ClassVar[bool] = False
    shadows: int = 64
    copies: int = 8
    sizes: tuple[float, ...] = (0.1, 0.3, 0.6)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if self.shadows and (self.shadows < 4 or self.shadows % 2):
            raise InputError(f"shadows is {self.shadows}; give an even number >= 4, or 0 for the plain count")
        if self.copies < 1:
            raise InputError(f"copies is {self.copies}; give a whole number >= 1")
        if not self.sizes or not all(np.isfinite(size) and size > 0 for size in self.sizes):
            raise InputError(f"sizes is {self.sizes}; give at least one number > 0")

    def queries(self, *, images: bool) -> int:
        """How many questions a record costs."""
        return 1 + len(self.sizes) * self.copies + (len(SHIFTS) if images else 0)

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Scores ``(n,)``, higher = member: log likelihood ratios with shadow models, else the share of copies with the record's label."""
        seen = probed(self, model, dataset, rng)
        if shadows is None or not self.shadows or repr(self) not in shadows.probes:
            return seen
        references = shadows.probes[repr(self)]
        return _log_density(seen, references, shadows.members) - _log_density(seen, references, ~shadows.members)

    def probe(self, model: Model, records: Dataset, rng: Rng) -> Array:
        """The share ``(n,)`` of a record's questions that are answered with its label; being right itself counts for half."""
        right = np.zeros(len(records))
        asked = self.queries(images=records.space.is_image) - 1
        for copy in self._copies(records, rng):
            right += _right(model, copy, records.y)
        return 0.5 * _right(model, records.x, records.y) + 0.5 * right / asked

    def quick(self) -> LabelOnly:
        """At most 16 models and 4 copies."""
        return replace(self, shadows=min(self.shadows, QUICK), copies=min(self.copies, 4))

    def _copies(self, records: Dataset, rng: Rng) -> Iterator[Array]:
        x, space = records.x, records.space
        spread = x.std(0)
        real = space.kind == Kind.REAL
        for size, _ in itertools.product(self.sizes, range(self.copies)):
            moved = x + size * spread * rng.standard_normal(x.shape)
            if not real.all():  # a whole row at once, so that one-hot groups stay whole
                swap = rng.random(len(x)) < min(size, 1.0)
                other = np.where(swap[:, None], x[rng.permutation(len(x))], x)
                moved = np.where(real, moved, other)
            yield np.clip(moved, space.lower, space.upper).astype(x.dtype)
        for down, across in SHIFTS if space.is_image else ():
            padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
            yield padded[:, :, 1 + down : 1 + down + x.shape[2], 1 + across : 1 + across + x.shape[3]]


def _right(model: Model, x: Array, y: Array) -> Array:
    """Whether each row ``(n,)`` gets its label, asked in parts that fit into memory."""
    labels = [decide(model.predict(x[i : i + ROWS]), model.threshold) for i in range(0, len(x), ROWS)]
    return (np.concatenate(labels) == y).astype(np.float64)


def _log_density(seen: Array, references: Array, chosen: Array) -> Array:
    """Of Gaussians with each record's mean and a shrunk variance; shares move in steps, so no variance is below that of one step."""
    count = chosen.sum(0)
    if (count == 0).any():
        raise InputError(f"record {int(np.flatnonzero(count == 0)[0])} has no reference on one side; train more shadow models")
    mean = np.where(chosen, references, 0.0).sum(0) / count
    squares = np.where(chosen, (references - mean) ** 2, 0.0).sum(0)
    pooled = squares.sum() / max(1, (count - 1).sum())
    variance = (squares + PRIOR * pooled) / (count - 1 + PRIOR) + 1e-4
    return -((seen - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance)
