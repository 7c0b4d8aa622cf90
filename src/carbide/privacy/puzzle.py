"""What an attacker has who guesses a sensitive feature: every person with every value, and what is believed without the model.

>>> import numpy as np
>>> surest(np.array([[0.2, 0.7], [0.5, 0.5]]), np.array([[0.9, 0.1], [0.4, 0.6]])).tolist()
[1, 1]
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from carbide.privacy.signals import FLOOR
from carbide.types import Array, Model


@dataclass(frozen=True, kw_only=True, eq=False)
class Puzzle:
    """``n`` people with each of ``v`` values in turn, ``x`` ``(n, v, d)``; what they really have is not here.

    ``y`` ``(n,)`` are their labels, None = not known. Beliefs without the model: ``shares`` ``(v,)`` of each value, ``blind`` ``(n, v)`` given
    the other features, ``imputed`` ``(n, v)`` given the label too where it is known. ``references`` ``(r, n, v, k)`` are the answers of
    models that were trained on other rows, for attacks that ask for them.
    """

    x: Array
    y: Array | None
    shares: Array
    blind: Array
    imputed: Array
    references: Array | None = None

    def ask(self, model: Model) -> Array:
        """The model's answers ``(n, v, k)``."""
        n, v = self.x.shape[:2]
        return model.predict(self.x.reshape(n * v, -1)).reshape(n, v, -1)

    def confidence(self, answers: Array) -> Array:
        """The probability ``(..., n, v)`` of the label in answers ``(..., n, v, k)``; of the likeliest class where no label is known."""
        if self.y is None:
            return answers.max(-1)
        return np.take_along_axis(answers, np.broadcast_to(self.y[:, None, None], (*answers.shape[:-1], 1)), axis=-1)[..., 0]

    @functools.cached_property
    def prior(self) -> Array:
        """Logarithms of the beliefs ``imputed`` ``(n, v)``."""
        return np.log(np.maximum(self.imputed, FLOOR))


def surest(scores: Array, imputed: Array) -> Array:
    """The value ``(n,)`` with the highest score ``(n, v)``; among equal scores the one that is believed most without the model."""
    best = scores >= scores.max(1, keepdims=True)
    return np.where(best, imputed, -1.0).argmax(1)
