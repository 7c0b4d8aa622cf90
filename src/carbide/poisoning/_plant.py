"""Planting a trigger: which rows get it, and the poison that results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carbide.poisoning._checks import budget
from carbide.types import Array, Backdoor, Dataset, Poison, Rng


def victims(y: Array, target: int, count: int, rng: Rng) -> Array:
    """At most ``count`` rows of other classes, drawn at random but never more than half of a class, so that each is still learnt."""
    halves = [rng.permutation(np.flatnonzero(y == c))[: max(1, int((y == c).sum()) // 2)] for c in np.unique(y) if c != target]
    rows = np.concatenate(halves) if halves else np.zeros(0, np.int64)
    return np.sort(rng.permutation(rows)[:count])


def plant(dataset: Dataset, threat: Backdoor, trigger: Callable[[Array], Array], rng: Rng, *, count: int | None = None) -> Poison:
    """The data set with the trigger and the target label on ``count`` rows of other classes (None = all that the threat allows)."""
    rows = victims(dataset.y, threat.target, budget(threat, len(dataset)) if count is None else count, rng)
    x, y, chosen = dataset.x.copy(), dataset.y.copy(), np.zeros(len(dataset), bool)
    x[rows] = trigger(x[rows])
    y[rows] = threat.target
    chosen[rows] = True
    return Poison(dataset=dataset.with_(x=x, y=y), rows=chosen, trigger=trigger, target=threat.target)
