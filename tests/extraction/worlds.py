"""Victims whose copies are known: linear models with given weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carbide.data.live import dataset_of
from carbide.types import BLACK_BOX, Access, Dataset, Space, Splits


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax:
    """Class probabilities ``softmax(x @ w + b)``; ``w`` is ``(d, k)``."""

    w: np.ndarray
    b: np.ndarray
    threshold: float = 0.5
    access: Access = BLACK_BOX

    @property
    def space(self):
        d = len(self.w)
        return Space.table([f"f{i}" for i in range(d)], lower=np.full(d, -9.0), upper=np.full(d, 9.0))

    @property
    def classes(self):
        return self.w.shape[1]

    def predict(self, x):
        z = x @ self.w + self.b
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    def at(self, threshold):
        return replace(self, threshold=threshold)

    def digest(self):
        return f"softmax {self.w.tolist()} {self.b.tolist()} {self.threshold} {self.access}"


def softmax(d=5, k=2, seed=0, **more):
    """A random victim of d features and k classes."""
    rng = np.random.default_rng(seed)
    return Softmax(w=rng.normal(size=(d, k)), b=rng.normal(size=k) / 3, **more)


def rows(victim, n, seed) -> Dataset:
    """Normal rows with the victim's own labels, one in ten changed."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, len(victim.w)))
    y = victim.predict(x).argmax(1)
    wrong = rng.uniform(size=n) < 0.1
    y = np.where(wrong, (y + 1) % victim.classes, y)
    return dataset_of(x, y, space=victim.space, classes=victim.classes)


def splits(victim, sizes=(200, 200, 400)) -> Splits:
    """Three disjoint parts."""
    train, validation, test = (rows(victim, n, seed + 1) for seed, n in enumerate(sizes))
    return Splits(train=train, validation=validation, test=test)
