"""Carlini et al. 2022, https://arxiv.org/abs/2112.03570: the likelihood-ratio attack (LiRA), online and offline.

Each record is judged by itself: how does the target's confidence on it compare with models that were trained on it and
with models that were not? Both groups of confidences, on the logit scale, are taken as Gaussians; the score is the log
of their likelihood ratio; offline there is only the second group, and the score says how far above it the target is. Variances are shrunk towards the pooled ones, which is all there is with few references.

>>> Lira(shadows=64).quick().shadows
16
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import FLOORS, grain, logit, odds
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, InputError, Membership, Model, Rng

QUICK = 16


class _Group(NamedTuple):
    """Mean and variance ``(n,)`` of the references of one side, and how many they are ``(n,)``."""

    mean: Array
    variance: Array
    count: Array


@dataclass(frozen=True, kw_only=True)
class Lira(Method):
    """Compares the target's confidence on each record with models that were and were not trained on it.

    ``shadows`` models are trained; each is the target once and a reference otherwise. ``prior`` is how many references
    the pooled variance counts for when a record's own variance is shrunk towards it; with fewer than ``own`` references
    a side the pooled variance is used alone. Answers of exactly 0 or 1, as forests give them, have no logit: the floor
    that keeps them finite is the one that tells members from others best among the references, never on the target.
    ``offline`` is an attacker whose references hold none of the records: with nothing to compare, the least floor is taken.
    """

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    trains: ClassVar[bool] = True
    shadows: int = 64
    prior: float = 16.0
    own: int = 4
    offline: bool = False

    def __post_init__(self) -> None:
        if self.shadows < 4 or self.shadows % 2:
            raise InputError(f"shadows is {self.shadows}; give an even number >= 4")
        if not self.prior >= 0:
            raise InputError(f"prior is {self.prior}; give a number of references >= 0")
        if self.own < 2:
            raise InputError(f"own is {self.own}; give a number of references >= 2")

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Log likelihood ratios ``(n,)``, offline standard deviations above what non-members show; higher = member.

        Raises:
            InputError: if there are no shadows, or a record has no reference on one side.
        """
        if shadows is None:
            raise InputError("LiRA compares with shadow models, and there are none; add a recipe so that they can be trained")
        true, others = odds(shadows.answers, dataset.y)
        least = grain(shadows.answers)
        if self.offline:
            outside = self._gaussian(logit(true, others, least), ~shadows.members)
            return (logit(*odds(model.predict(dataset.x), dataset.y), least) - outside.mean) / np.sqrt(outside.variance)
        floors = [least, *(floor for floor in FLOORS if floor > least)]
        fits = [(floor, *self._fit(logit(true, others, floor), shadows.members)) for floor in floors]
        floor, inside, outside = max(fits, key=lambda fit: _separation(fit[1], fit[2]))
        observed = logit(*odds(model.predict(dataset.x), dataset.y), floor)
        return _likelihood(observed, inside) - _likelihood(observed, outside)

    def quick(self) -> Lira:
        """At most 16 models."""
        return replace(self, shadows=min(self.shadows, QUICK))

    def _fit(self, references: Array, members: Array) -> tuple[_Group, _Group]:
        """The Gaussians of the references ``(m, n)`` that were trained on each record, and of those that were not."""
        return self._gaussian(references, members), self._gaussian(references, ~members)

    def _gaussian(self, references: Array, chosen: Array) -> _Group:
        count = chosen.sum(0)
        if (count == 0).any():
            raise InputError(f"record {int(np.flatnonzero(count == 0)[0])} has no reference on one side; train more shadow models")
        mean = np.where(chosen, references, 0.0).sum(0) / count
        squares = np.where(chosen, (references - mean) ** 2, 0.0).sum(0)
        freedom = count - 1
        pooled = squares.sum() / max(1, freedom.sum())
        shrunk = (squares + self.prior * pooled) / np.maximum(freedom + self.prior, 1e-12)
        return _Group(mean=mean, variance=np.where(count >= self.own, shrunk, pooled) + 1e-9, count=count)


def _separation(inside: _Group, outside: _Group) -> float:
    """The mean squared distance of the two means in standard deviations, less what chance alone would give."""
    spread = (inside.variance + outside.variance) / 2
    chance = inside.variance / inside.count + outside.variance / outside.count
    return float(np.mean(((inside.mean - outside.mean) ** 2 - chance) / spread))


def _likelihood(observed: Array, group: _Group) -> Array:
    return -((observed - group.mean) ** 2) / (2 * group.variance) - 0.5 * np.log(group.variance)
