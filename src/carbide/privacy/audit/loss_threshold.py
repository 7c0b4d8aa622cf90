"""Yeom et al. 2018, https://arxiv.org/abs/1709.01604: a low loss on a record betrays that it was trained on.

The score is the log of the probability that the model gives to the record's true class. It needs no other models, and
it misses what they would show: a record can be easy without having been trained on.

>>> import numpy as np
>>> from carbide.privacy.shadows import Recorded
>>> from carbide.types import Dataset, Space
>>> x = np.array([[0.0], [1.0]])
>>> pool = Dataset(x=x, y=np.array([0, 1]), ids=np.array(["a", "b"]), source=np.array(["", ""]), space=Space.table(["f"]), classes=2)
>>> model = Recorded(records=pool, answers=np.array([[0.5, 0.5], [0.0, 1.0]]))
>>> LossThreshold()(model, pool, np.random.default_rng(0), None).round(2).tolist()
[-0.69, 0.0]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import FLOOR, confidence
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, Membership, Model, Rng


@dataclass(frozen=True, kw_only=True)
class LossThreshold(Method):
    """Calls a record a member when the model's loss on it is low."""

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Scores ``(n,)`` in nats, at most 0, higher = member; probabilities below 1e-12 count as 1e-12."""
        return np.log(np.maximum(confidence(model.predict(dataset.x), dataset.y), FLOOR))
