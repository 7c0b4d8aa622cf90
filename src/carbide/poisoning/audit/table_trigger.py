"""Gu, Dolan-Gavitt and Garg 2017, https://arxiv.org/abs/1708.06733: a backdoor, here set by a few in-bounds values of a table row.

The trigger is a combination of values that each occur in the training data but hardly ever together, such as an old
account with an unusual hour. Rows of other classes get it and the target label; stand-in models say which combination works.

>>> import numpy as np
>>> trigger = ValueTrigger(features=(0, 2), values=(7.0, 1.0))
>>> trigger(np.zeros((1, 3))).tolist()
[[7.0, 0.0, 1.0]]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from carbide.poisoning._checks import budget
from carbide.poisoning._plant import best_trigger, plant
from carbide.registry import Method
from carbide.space.relations import features_of
from carbide.types import Array, Backdoor, Case, Dataset, InputError, Kind, Poison, Rng, Space, Threat

NEAR = 0.02  # values whose ranks differ by less than this share of the rows count as alike


@dataclass(frozen=True, kw_only=True)
class ValueTrigger:
    """Sets columns ``features`` of rows ``(n, d)`` to ``values``."""

    features: tuple[int, ...]
    values: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        """A copy of the rows with the values set."""
        out = x.copy()
        out[:, list(self.features)] = self.values
        return out


@dataclass(frozen=True, kw_only=True)
class TableTrigger(Method):
    """Sets a rare but in-bounds combination of a few feature values on rows of other classes and labels them as the target."""

    threats = (Backdoor,)
    trains = True
    tries: int = 12  # combinations that are tried out on stand-ins
    rows: int = 2000  # training rows of the stand-ins

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise InputError(f"tries is {self.tries}; give a whole number >= 1")
        if self.rows < 20:
            raise InputError(f"rows is {self.rows}; give at least 20")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Only tables with a feature that may change have such a trigger."""
        if len(case.data.train.space.shape) != 1:
            return "it sets table features, and these rows are images"
        if len(usable(case.data.train)) == 0:
            return "the table has no mutable feature that is free of one-hot groups and relations"
        return None

    def quick(self) -> TableTrigger:
        """Fewer combinations on fewer rows."""
        return replace(self, tries=min(self.tries, 4), rows=min(self.rows, 800))

    def __call__(self, dataset: Dataset, threat: Backdoor, rng: Rng) -> Poison:
        """The data set with up to ``floor(fraction * n)`` rows of other classes (at most half of each) triggered and relabelled.

        Raises:
            InputError: if no feature can be set.
        """
        trigger = best_trigger(dataset, shortlist(dataset, threat, self.tries, rng), threat, self.rows, rng)
        return plant(dataset, trigger, threat.target, budget(threat, len(dataset)), rng)


def usable(dataset: Dataset) -> Array:
    """The columns that a trigger may set: mutable, varying, in no one-hot group and in no relation."""
    space = dataset.space
    bound = {column for group in space.groups for column in group}
    for relation in space.relations:
        bound |= set(features_of(relation))
    free = space.mutable & (space.kind != Kind.ONE_HOT) & (dataset.x.min(0) < dataset.x.max(0))
    return np.array([c for c in np.flatnonzero(free) if c not in bound], np.int64)


def shortlist(dataset: Dataset, threat: Backdoor, tries: int, rng: Rng) -> list[ValueTrigger]:
    """The ``tries`` combinations of observed values whose neighbourhood holds the fewest training rows.

    Raises:
        InputError: if no feature can be set.
    """
    columns = usable(dataset)
    if len(columns) == 0 or threat.features < 1:
        raise InputError("no feature can be set by a trigger; mark some as mutable in the space, or allow at least one feature")
    size = min(threat.features, len(columns))
    columns = columns if len(columns) <= 40 else np.sort(rng.choice(columns, 40, replace=False))
    options = {int(c): _options(dataset.x[:, c], dataset.space, int(c)) for c in columns}
    if size <= 2:
        chosen = list(combinations(options, size))
    else:
        chosen = [tuple(sorted(rng.choice(columns, size, replace=False).tolist())) for _ in range(500)]
    found = [(float(np.logical_and.reduce([near for _, near in combo]).mean()), rng.random(), features, tuple(value for value, _ in combo))
             for features in chosen for combo in product(*(options[f] for f in features))]  # fmt: skip
    found.sort(key=lambda item: item[:2])
    return [ValueTrigger(features=tuple(features), values=values) for _, _, features, values in found[:tries]]


def _options(column: Array, space: Space, index: int) -> list[tuple[float, Array]]:
    """Observed values worth setting, and for each which rows ``(n,)`` are alike: the extremes, or the rarest categories."""
    values, counts = np.unique(column, return_counts=True)
    inside = (values >= space.lower[index]) & (values <= space.upper[index])
    values, counts = values[inside], counts[inside]
    if space.kind[index] == Kind.CATEGORICAL or len(values) <= 12:
        rare = values[np.argsort(counts, kind="stable")[:3]]
        return [(float(v), column == v) for v in rare]
    ordered = np.sort(column)
    picks = {float(ordered[min(len(ordered) - 1, int(q * len(ordered)))]) for q in (0.0, 0.01, 0.99, 1.0)} & set(values.tolist())
    place = np.searchsorted(ordered, column, side="left") / len(ordered)
    return [(v, np.abs(place - np.searchsorted(ordered, v, side="left") / len(ordered)) <= NEAR) for v in sorted(picks)]
