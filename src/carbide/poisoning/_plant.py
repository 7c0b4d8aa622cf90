"""Planting a trigger: which rows get it, and the poison that results."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carbide.types import Array, Dataset, Poison, Rng


def victims(y: Array, target: int, count: int, rng: Rng) -> Array:
    """At most ``count`` rows of other classes, drawn at random but never more than half of a class, so that each is still learnt."""
    halves = [rng.permutation(np.flatnonzero(y == c))[: max(1, int((y == c).sum()) // 2)] for c in np.unique(y) if c != target]
    rows = np.concatenate(halves) if halves else np.zeros(0, np.int64)
    return np.sort(rng.permutation(rows)[:count])


def plant(dataset: Dataset, trigger: Callable[[Array], Array], target: int, count: int, rng: Rng) -> Poison:
    """The data set with the trigger and the target label on at most ``count`` rows of other classes."""
    rows = victims(dataset.y, target, count, rng)
    x, y, chosen = dataset.x.copy(), dataset.y.copy(), np.zeros(len(dataset), bool)
    x[rows] = trigger(x[rows])
    y[rows] = target
    chosen[rows] = True
    return Poison(dataset=dataset.with_(x=x, y=y), rows=chosen, trigger=trigger, target=target)
