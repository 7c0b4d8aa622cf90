"""A model that answers in coarse steps, or labels alone, with its decisions unchanged.

>>> import numpy as np
>>> coarse(np.array([[0.62, 0.38], [0.97, 0.03]]), np.array([0, 0]), 4)
array([[0.75, 0.25],
       [1.  , 0.  ]])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.types import Access, Array, Dataset, Model, Recipe, Rng, Space, decide, digest


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseModel:
    """``inner`` with probabilities in steps of ``1 / levels``; 1 = labels alone. It hides nothing from who holds the file."""

    inner: Model
    levels: int

    @property
    def space(self) -> Space:
        """The inner model's space."""
        return self.inner.space

    @property
    def classes(self) -> int:
        """The inner model's number of classes."""
        return self.inner.classes

    @property
    def threshold(self) -> float:
        """Where the model decides: a probability at or above it, in steps too, is class 1."""
        return 0.5 if self.levels == 1 else self.inner.threshold

    @property
    def access(self) -> Access:
        """Labels, and scores where there is more than one step."""
        return Access.LABELS if self.levels == 1 else Access.LABELS | Access.SCORES

    @property
    def scorer(self) -> Model:
        """The model whose full scores set an operating point."""
        return getattr(self.inner, "scorer", self.inner)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64 in steps; each row sums to one and decides as the inner model does."""
        exact = self.inner.predict(x)
        labels = decide(exact, self.inner.threshold)
        return np.eye(self.classes)[labels] if self.levels == 1 else coarse(exact, labels, self.levels, self.inner.threshold)

    def at(self, threshold: float) -> CoarseModel:
        """The same steps over the inner model deciding at another threshold."""
        return replace(self, inner=self.inner.at(threshold))

    def digest(self) -> str:
        """A hash of the inner model and the steps."""
        return digest("coarse", self.inner.digest(), self.levels)

    def to_state(self) -> dict[str, Any]:
        """The inner model and the steps."""
        return {"inner": self.inner, "levels": self.levels}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> CoarseModel:
        """The model of ``to_state``."""
        return cls(inner=state["inner"], levels=state["levels"])


@dataclass(frozen=True, kw_only=True, eq=False)
class CoarseRecipe:
    """``inner`` whose model answers in steps of ``1 / levels``."""

    inner: Recipe
    levels: int

    def fit(self, dataset: Dataset, rng: Rng) -> CoarseModel:
        """The inner recipe's model behind coarse answers."""
        return CoarseModel(inner=self.inner.fit(dataset, rng), levels=self.levels)

    def describe(self) -> dict[str, Any]:
        """The inner recipe and the steps."""
        return {"recipe": "coarse", "inner": self.inner.describe(), "levels": self.levels}


def coarse(exact: Array, labels: Array, levels: int, threshold: float = 0.5) -> Array:
    """Probabilities ``(n, k)`` in whole steps of ``1 / levels`` that decide on ``labels`` ``(n,)``.

    Two classes: the nearest step on the label's side of the threshold, or certainty where no step lies there. More: all
    steps are rounded down, and what is left over goes to the label.
    """
    if exact.shape[1] == 2:
        steps = np.round(exact[:, 1] * levels)
        up = np.minimum(np.ceil(threshold * levels - 1e-9), levels)
        steps = np.where(labels == 1, np.maximum(steps, up), np.minimum(steps, max(up - 1, 0.0)))
        return np.stack([levels - steps, steps], 1) / levels
    steps = np.floor(exact * levels + 1e-9)
    rows = np.arange(len(steps))
    steps[rows, labels] += levels - steps.sum(1)
    return steps / levels
