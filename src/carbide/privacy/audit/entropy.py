"""Song and Mittal 2021, https://arxiv.org/abs/2003.10595: a sure answer betrays a member, a sure and wrong one a non-member.

The modified entropy is 0 for a sure and right answer and grows without end for a sure and wrong one; the plain entropy
of an answer knows nothing of the label. Both are cheap baselines that need no other models.

>>> import numpy as np
>>> modified(np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([0, 0])).round(2).tolist()
[0.02, 0.69]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import FLOOR
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, Membership, Model, Rng


@dataclass(frozen=True, kw_only=True)
class Entropy(Method):
    """Calls a record a member when the entropy of the model's answer is low; ``label`` False forgets which class is true."""

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    default: ClassVar[bool] = False
    label: bool = True

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Minus the entropy ``(n,)`` in nats, at most 0, higher = member; probabilities below 1e-12 count as 1e-12."""
        answers = model.predict(dataset.x)
        return -(modified(answers, dataset.y) if self.label else plain(answers))


def modified(answers: Array, y: Array) -> Array:
    """``-(1 - p_y) log p_y - sum over the others of p_i log(1 - p_i)`` of answers ``(n, k)`` (their equation 8)."""
    true = np.arange(answers.shape[1]) == y[:, None]
    p = np.clip(answers, FLOOR, None)
    rest = np.clip(1 - answers, FLOOR, None)
    return -np.where(true, rest * np.log(p), answers * np.log(rest)).sum(1)


def plain(answers: Array) -> Array:
    """``- sum of p_i log p_i`` of answers ``(n, k)``."""
    return -(answers * np.log(np.clip(answers, FLOOR, None))).sum(1)
