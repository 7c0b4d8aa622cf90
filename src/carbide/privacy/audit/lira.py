"""Carlini et al. 2022, https://arxiv.org/abs/2112.03570: the likelihood-ratio attack (LiRA), online.

Each record is judged by itself: how does the target's confidence on it compare with models that were trained on it and
with models that were not? Both groups of confidences, on the logit scale, are taken as Gaussians; the score is the log
of their likelihood ratio. Variances are shrunk towards the pooled ones, which is all there is with few references.

>>> import numpy as np
>>> Lira(shadows=16).quick().shadows
16
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import grain, logit_confidence
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, InputError, Membership, Model, Rng

QUICK = 16


@dataclass(frozen=True, kw_only=True)
class Lira(Method):
    """Compares the target's confidence on each record with models that were and were not trained on it.

    ``shadows`` models are trained, each the target once and a reference otherwise. ``prior`` is how many references the
    pooled variance counts for when a record's own variance is shrunk towards it; with fewer than ``own`` references a
    side the pooled variance is used alone.
    """

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    trains: ClassVar[bool] = True
    shadows: int = 64
    prior: float = 8.0
    own: int = 4

    def __post_init__(self) -> None:
        if self.shadows < 4 or self.shadows % 2:
            raise InputError(f"shadows is {self.shadows}; give an even number >= 4")
        if not self.prior >= 0:
            raise InputError(f"prior is {self.prior}; give a number of references >= 0")
        if self.own < 2:
            raise InputError(f"own is {self.own}; give a number of references >= 2")

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Log likelihood ratios ``(n,)``, higher = member.

        Raises:
            InputError: if there are no shadows, or a record has no reference on one side.
        """
        if shadows is None:
            raise InputError("LiRA compares with shadow models, and there are none; add a recipe so that they can be trained")
        least = grain(shadows.answers)
        observed = logit_confidence(model.predict(dataset.x), dataset.y, least)
        references = logit_confidence(shadows.answers, dataset.y, least)
        return self._likelihood(observed, references, shadows.members) - self._likelihood(observed, references, ~shadows.members)

    def quick(self) -> Lira:
        """At most 16 models."""
        return replace(self, shadows=min(self.shadows, QUICK))

    def _likelihood(self, observed: Array, references: Array, chosen: Array) -> Array:
        """The Gaussian log-likelihood ``(n,)`` of what was observed under the chosen references ``(m, n)`` of each record."""
        count = chosen.sum(0)
        if (count == 0).any():
            raise InputError(f"record {int(np.flatnonzero(count == 0)[0])} has no reference on one side; train more shadow models")
        mean = np.where(chosen, references, 0.0).sum(0) / count
        squares = np.where(chosen, (references - mean) ** 2, 0.0).sum(0)
        freedom = np.maximum(count - 1, 0)
        pooled = squares.sum() / max(1, freedom.sum())
        shrunk = (squares + self.prior * pooled) / np.maximum(freedom + self.prior, 1e-12)
        variance = np.where(count >= self.own, shrunk, pooled) + 1e-9
        return -((observed - mean) ** 2) / (2 * variance) - 0.5 * np.log(variance)
