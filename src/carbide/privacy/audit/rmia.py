"""Zarifzadeh et al. 2024, https://arxiv.org/abs/2312.03262: the robust membership inference attack (RMIA).

How much likelier than other models does the target find a record, and does that ratio exceed, by a factor ``gamma``, the ratio of
other records? The score is the share of the others that it exceeds. Few reference models are enough, because records are compared
with each other and not only with their own past.

>>> Rmia(shadows=16, gamma=2.0).gamma
2.0
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import confidence, grain
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, InputError, Membership, Model, Rng

QUICK = 16


@dataclass(frozen=True, kw_only=True)
class Rmia(Method):
    """Compares how much likelier the target finds a record than reference models do with the same of all other records.

    ``shadows`` models are trained. The probability of a record under models at large is the mean over those that were trained on
    it and those that were not, half each; with ``offline`` in [0, 1] it is guessed from the second alone, as
    ``((1 + offline) p + 1 - offline) / 2``. With ``gamma`` 1 the score is a rank; a larger one asks for clearer differences.
    Probabilities are kept off zero by half the step in which the references answer.
    """

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False
    shadows: int = 64
    gamma: float = 1.0
    offline: float | None = None

    def __post_init__(self) -> None:
        if self.shadows < 4 or self.shadows % 2:
            raise InputError(f"shadows is {self.shadows}; give an even number >= 4")
        if not (np.isfinite(self.gamma) and self.gamma >= 1):
            raise InputError(f"gamma is {self.gamma}; give a factor >= 1")
        if self.offline is not None and not 0 <= self.offline <= 1:
            raise InputError(f"offline is {self.offline}; give a number in [0, 1], or leave it out to use members' references too")

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Scores ``(n,)`` in [0, 1], the share of the other records whose ratio is exceeded; higher = member.

        Raises:
            InputError: if there are no shadows, fewer than two records, or a record has no reference on a side that is needed.
        """
        if shadows is None:
            raise InputError("RMIA compares with reference models, and there are none; add a recipe so that they can be trained")
        if len(dataset) < 2:
            raise InputError(f"RMIA compares records with each other, and there is {len(dataset)}; give at least 2")
        least = grain(shadows.answers)
        references = np.maximum(confidence(shadows.answers, dataset.y), least)
        ratio = np.maximum(confidence(model.predict(dataset.x), dataset.y), least) / self._at_large(references, shadows.members)
        order = np.sort(ratio)
        beaten = np.searchsorted(order, ratio / self.gamma, side="right") - (self.gamma == 1.0)  # itself does not count
        return beaten / (len(ratio) - 1)

    def quick(self) -> Rmia:
        """At most 16 models."""
        return replace(self, shadows=min(self.shadows, QUICK))

    def _at_large(self, references: Array, members: Array) -> Array:
        """The probability ``(n,)`` of each record under models at large, by references ``(m, n)``."""
        outside = _mean(references, ~members)
        if self.offline is not None:
            return ((1 + self.offline) * outside + 1 - self.offline) / 2
        return (_mean(references, members) + outside) / 2


def _mean(references: Array, chosen: Array) -> Array:
    count = chosen.sum(0)
    if (count == 0).any():
        raise InputError(f"record {int(np.flatnonzero(count == 0)[0])} has no reference on one side; train more shadow models")
    return np.where(chosen, references, 0.0).sum(0) / count
