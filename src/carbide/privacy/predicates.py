"""Predicates over rows of a table, boxes with a label, and what they hold of: arrays in, arrays out.

>>> import numpy as np
>>> box = Predicates(low=np.array([[0.0]]), high=np.array([[1.0]]), label=np.array([1]))
>>> box.holds(np.array([[0.5], [2.0], [0.5]]), np.array([1, 1, 0]))
array([[ True, False, False]])
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide.types import Array, Space


class Predicates(NamedTuple):
    """``k`` boxes ``low <= x <= high``, each ``(k, d)`` with infinite ends where nothing is asked, and the ``label`` ``(k,)`` of a row in them."""

    low: Array
    high: Array
    label: Array

    def holds(self, x: Array, y: Array) -> Array:
        """Of which rows ``x`` ``(n, d)`` with labels ``y`` ``(n,)`` each holds, ``(k, n)`` bool; a missing value is in every range."""
        said = [~((x < low) | (x > high)).any(1) & (y == label) for low, high, label in zip(*self, strict=True)]
        return np.stack(said) if said else np.zeros((0, len(x)), bool)

    def take(self, which: Array) -> Predicates:
        """Those at ``which``."""
        return Predicates(self.low[which], self.high[which], self.label[which])

    def joined(self, other: Predicates) -> Predicates:
        """These and then the others."""
        return Predicates(*(np.concatenate(pair) for pair in zip(self, other, strict=True)))

    def apart(self, most: int) -> Predicates:
        """The first ``most`` of which no two can hold of one row, in their order."""
        kept: list[int] = []
        for i in range(len(self.label)):
            meets = (self.low[kept] <= self.high[i]).all(1) & (self.high[kept] >= self.low[i]).all(1) & (self.label[kept] == self.label[i])
            if len(kept) < most and not meets.any():
                kept.append(i)
        return self.take(np.array(kept, np.int64))

    def words(self, number: int, space: Space, classes: tuple[str, ...]) -> str:
        """One of them as a sentence."""
        label = int(self.label[number])
        said = [_range(space.name(j), float(a), float(b)) for j, (a, b) in enumerate(zip(self.low[number], self.high[number], strict=True))]
        return " and ".join([*filter(None, said), f"label {classes[label] if classes else label}"])


def _range(name: str, low: float, high: float) -> str:
    """What is asked of a feature, nothing where both ends are open."""
    if low == high:
        return f"{name} = {low:.6g}"
    below, above = ("" if np.isinf(low) else f"{low:.6g} <= "), ("" if np.isinf(high) else f" <= {high:.6g}")
    return f"{below}{name}{above}" if below or above else ""
