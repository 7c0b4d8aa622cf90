"""Models that answer at random, asked several times: what a claim about one draw would hide.

A single draw makes a random defence look better or worse than it is, and an attacker may ask again. The judge therefore
takes the answer that most draws give, each drawn from a seed of its own, and says how far single draws lie apart.

>>> import numpy as np
>>> from carbide.models.callables import CallableModel
>>> from carbide.types import Space
>>> coin = lambda x: (np.random.random(len(x)) < 0.9).astype(int)
>>> model = CallableModel(function=coin, space=Space.table(["a"]), classes=2, answers="labels")
>>> Asked(model).predict(np.zeros((3, 1)))[:, 1].min() > 0.5
np.True_
"""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.models.examination.seeds import seeded
from carbide.types import Array, Model, decide

DRAWS = 11  # odd, so that two classes cannot tie


class Asked:
    """A model that answers at random, asked ``draws`` times with seeds of its own: what most of its answers say."""

    def __init__(self, model: Model, *, draws: int = DRAWS, seed: int = 0) -> None:
        self.model, self.times, self.seed = model, draws, seed

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def digest(self) -> str:
        """The model's, and how often it is asked."""
        return f"{self.model.digest()} asked {self.times} times from {self.seed}"

    def labels(self, x: Array) -> Array:
        """The answers ``(draws, n)``, the same in every call with the same rows."""
        found = []
        for number in range(self.times):
            with seeded(self.model, self.seed + number):
                found.append(decide(self.model.predict(x), self.model.threshold))
        return np.stack(found)

    def predict(self, x: Array) -> Array:
        """Shares of the answers ``(n, k)``; for two classes shifted so that the threshold divides them as the majority does."""
        votes = (self.labels(x)[:, :, None] == np.arange(self.model.classes)).mean(0)
        if self.model.classes != 2:
            return votes
        t = self.model.threshold
        second = t + (votes[:, 1] - 0.5) * 2 * np.where(votes[:, 1] >= 0.5, 1 - t, t)
        return np.stack([1 - second, second], 1)
