"""A model that tells less than it knows: rounded probabilities or labels alone, its decisions unchanged.

>>> import numpy as np
>>> rounded(np.array([[0.334, 0.333, 0.333], [0.96, 0.03, 0.01]]), np.array([0, 0]), 1)
array([[0.4, 0.3, 0.3],
       [1. , 0. , 0. ]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.types import Access, Array, InputError, Model, Space, decide, digest

FLOATS = 1023 * 2**52 + 2  # float64 values in [0, 1], both zeros counted


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyModel:
    """``inner`` behind an output policy: probabilities to ``decimals`` places, or one-hot labels when it is None.

    Labels at the threshold are those of ``inner`` on every input. Whatever else ``inner`` has (logits, trees) is passed on,
    because a policy hides nothing from somebody who holds the file: only an interface that hides the scores loses them.
    """

    inner: Any
    decimals: int | None = None

    def __post_init__(self) -> None:
        if self.decimals is not None and not 1 <= self.decimals <= 12:
            raise InputError(f"decimals is {self.decimals}; give 1 to 12, or null for labels only")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("inner", "decimals"):
            raise AttributeError(name)
        return getattr(self.inner, name)

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
        """Where the inner model decides."""
        return self.inner.threshold

    @property
    def access(self) -> Access:
        """The inner model's, without scores where only labels are answered."""
        return self.inner.access if self.decimals is not None else self.inner.access & ~Access.SCORES

    @property
    def scorer(self) -> Model:
        """The model whose full scores set an operating point."""
        return getattr(self.inner, "scorer", self.inner)

    @property
    def answer_count(self) -> int:
        """How many different answers one query can get."""
        if self.decimals is None:
            return self.classes
        return math.comb(10**self.decimals + self.classes - 1, self.classes - 1)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64 as the policy shows them; each row sums to one."""
        exact = self.inner.predict(x)
        labels = decide(exact, self.threshold)
        return np.eye(self.classes)[labels] if self.decimals is None else rounded(exact, labels, self.decimals, self.threshold)

    def at(self, threshold: float) -> PolicyModel:
        """The same policy over the inner model deciding at another threshold."""
        return replace(self, inner=self.inner.at(threshold))

    def digest(self) -> str:
        """A hash of the inner model and the policy."""
        return digest("output policy", self.inner.digest(), self.decimals)

    def to_state(self) -> dict[str, Any]:
        """The inner model and the policy."""
        return {"inner": self.inner, "decimals": self.decimals}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> PolicyModel:
        """The model of ``to_state``."""
        return cls(inner=state["inner"], decimals=state["decimals"])


def rounded(probabilities: Array, labels: Array, decimals: int, threshold: float = 0.5) -> Array:
    """Probabilities ``(n, k)`` in whole steps of ``10**-decimals`` that sum to one and still decide on ``labels`` ``(n,)``.

    No probability moves by a whole step or more; only where no such rounding decides on the label (which needs three
    classes level with it) one step more goes to the label from another class. Steps left over after rounding down go to the label first, then to the
    largest remainders; with two classes class 1 is rounded to the nearest step on its side of the threshold.
    """
    unit = 10**decimals
    if probabilities.shape[1] == 2:
        ones = _two_classes(probabilities[:, 1] * unit, labels == 1, unit, threshold)
        return np.stack([unit - ones, ones], 1) / unit
    scaled = probabilities * unit
    steps = np.floor(scaled + 1e-9)
    rows = np.arange(len(steps))
    rank = scaled - steps
    level = (steps == steps[rows, labels][:, None]) & (np.arange(steps.shape[1]) < labels[:, None])  # one step more would put them before the label
    rank[level] -= 2
    rank[rows, labels] = np.inf
    order = np.argsort(-rank, axis=1, kind="stable")
    spare = np.clip(unit - steps.sum(1), 0, probabilities.shape[1])
    place = np.empty_like(order)
    place[rows[:, None], order] = np.arange(order.shape[1])
    steps += place < spare[:, None]
    top = steps.argmax(1)
    wrong = rows[top != labels]  # another class stands level with the label
    steps[wrong, labels[wrong]] += 1
    steps[wrong, top[wrong]] -= 1
    return steps / unit


def _two_classes(scaled: Array, ones: Array, unit: int, threshold: float) -> Array:
    """Steps ``(n,)`` of class 1: the nearest, or the next one where the nearest would decide otherwise."""
    steps = np.clip(np.round(scaled), 0, unit)
    for _ in range(2):
        wrong = (steps / unit >= threshold) != ones
        steps = np.clip(np.where(wrong, steps + np.where(ones, 1, -1), steps), 0, unit)
    return steps
