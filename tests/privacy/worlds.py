"""Recipes whose leakage is known: one that remembers its rows, one that never looks, one that is Gaussian on the logit scale."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.types import BLACK_BOX, Access, Case, Dataset, Space, Splits


def table(n: int, seed: int = 0, *, d: int = 3, bounded: bool = True) -> Dataset:
    """Rows in the unit cube with labels that depend on the first feature."""
    x = np.random.default_rng(seed).random((n, d))
    bounds = {"lower": np.zeros(d), "upper": np.ones(d)} if bounded else {}
    space = Space.table([f"f{i}" for i in range(d)], **bounds)
    return Dataset(
        x=x, y=(x[:, 0] > 0.5).astype(np.int64), ids=np.array([f"row{seed}-{i}" for i in range(n)]), source=np.full(n, ""), space=space, classes=2
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup:
    """Answers with a confidence whose logit is ``base`` plus, for rows it holds, ``gain``, plus noise drawn once a model."""

    rows: frozenset[bytes]
    gain: float
    noise: float
    seed: int
    space: Space
    classes: int = 2
    threshold: float = 0.5
    access: Access = BLACK_BOX

    def predict(self, x):
        held = np.array([row.tobytes() in self.rows for row in x])
        logit = 1.0 + self.gain * held + self.noise * np.random.default_rng([self.seed, len(x)]).standard_normal(len(x))
        right = 1 / (1 + np.exp(-logit))
        y = (x[:, 0] > 0.5).astype(int)
        return np.where(np.arange(2)[None] == y[:, None], right[:, None], 1 - right[:, None])

    def at(self, threshold):
        return replace(self, threshold=threshold)

    def digest(self):
        return f"lookup {len(self.rows)} {self.gain} {self.noise} {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Remembers:
    """Trains ``Lookup``: the truth about a record is a Gaussian shift of ``gain / noise`` standard deviations."""

    gain: float
    noise: float = 1.0
    privacy: Any = None

    def fit(self, dataset, rng):
        return Lookup(
            rows=frozenset(row.tobytes() for row in dataset.x), gain=self.gain, noise=self.noise, seed=int(rng.integers(2**31)), space=dataset.space
        )

    def describe(self):
        return {"recipe": "remembers", "gain": self.gain, "noise": self.noise}


def case(recipe: Any, *, n: int = 120, seed: int = 0, with_recipe: bool = True) -> Case:
    """A case of ``n`` train, ``n`` validation and ``n`` test rows."""
    train, validation, test = (table(n, seed=i) for i in (1, 2, 3))
    model = recipe.fit(train, np.random.default_rng(0))
    return Case(model=model, data=Splits(train=train, validation=validation, test=test), recipe=recipe if with_recipe else None, seed=seed)
