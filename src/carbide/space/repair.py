"""Brings any proposed input back among the inputs that exist: fixed features, bounds, steps, one-hot groups, relations.

Every repair moves a feature towards the clean row, never beyond it, so that a repaired change is no larger than the
proposed one except where a one-hot group or a derived feature must follow.

>>> import numpy as np
>>> from carbide.types import Kind, Space
>>> space = Space.table(["count", "fixed"], lower=np.array([0.0, 0.0]), upper=np.array([9.0, 9.0]), kind=np.array([Kind.INTEGER, Kind.REAL]),
...                     mutable=np.array([True, False]))
>>> repair(np.array([[5.7, 8.0]]), np.array([[2.0, 1.0]]), space)
array([[5., 1.]])
"""

from __future__ import annotations

import numpy as np

from carbide.space.membership import allowed
from carbide.space.relations import parts_of, recomputed
from carbide.types import Array, Linear, Ratio, Space, Sum

SLACK = 1e-9


def repair(x: Array, clean: Array, space: Space) -> Array:
    """For each proposed row ``(n, *shape)`` a nearby row that lies in the space if the clean row does; see the module."""
    shape = x.shape
    x, clean = x.reshape(len(x), -1).astype(np.float64), clean.reshape(len(clean), -1).astype(np.float64)
    lower, upper = np.fmin(space.lower.ravel(), clean), np.fmax(space.upper.ravel(), clean)
    x = np.where(np.isfinite(x) & space.mutable.ravel(), np.clip(np.where(np.isfinite(x), x, clean), lower, upper), clean)
    x = _on_grid(x, clean, space)
    for group in space.groups:
        _one_hot_(x, clean, list(group))
    for relation in space.relations:
        if isinstance(relation, Linear):
            _pull_back_(x, clean, relation, space)
    for relation in space.relations:
        if isinstance(relation, Ratio | Sum):
            _derive_(x, clean, relation)
    if space.groups or space.relations:  # relations that pull in different directions: give the row up
        x = np.where(allowed(x, clean, space)[:, None], x, clean)
    return x.reshape(shape)


def _on_grid(x: Array, clean: Array, space: Space) -> Array:
    """Values of stepped features rounded towards the clean value, which is itself allowed wherever it lies."""
    step = space.step.ravel()
    if not (step > 0).any():
        return x
    size = np.where(step > 0, step, 1.0)
    base = np.where(np.isfinite(space.lower), space.lower, 0.0).ravel()
    place = (x - base) / size
    rounded = base + size * np.where(x > clean, np.floor(place + SLACK), np.ceil(place - SLACK))
    passed = np.where(x > clean, rounded < clean, rounded > clean)
    rounded = np.where(passed | (x == clean), clean, rounded)
    return np.where(step > 0, rounded, x)


def _one_hot_(x: Array, clean: Array, group: list[int]) -> None:
    changed = (x[:, group] != clean[:, group]).any(1)
    part = x[:, group]
    winner = np.zeros_like(part)
    winner[np.arange(len(x)), part.argmax(1)] = 1.0
    x[:, group] = np.where(changed[:, None], winner, clean[:, group])


def _pull_back_(x: Array, clean: Array, relation: Linear, space: Space) -> None:
    """Where the relation is violated, move its features back to the clean row just far enough, or wholly if steps forbid that."""
    columns, weights = list(relation.features), np.asarray(relation.coefficients)
    start, wish = clean[:, columns], x[:, columns]
    excess = wish @ weights - relation.upper
    bad = excess > SLACK
    if not bad.any():
        return
    gain = (wish - start) @ weights
    share = np.clip(1 - np.where(bad, excess, 0.0) / np.where(bad & (gain > 0), gain, 1.0), 0.0, 1.0)
    trial = x.copy()
    trial[:, columns] = start + share[:, None] * (wish - start)
    trial = _on_grid(trial, clean, space)
    still = bad & (trial[:, columns] @ weights - relation.upper > SLACK)
    x[bad] = np.where(np.isin(np.arange(x.shape[1]), columns) & still[:, None], clean, trial)[bad]


def _derive_(x: Array, clean: Array, relation: Ratio | Sum) -> None:
    parts = list(parts_of(relation))
    if isinstance(relation, Ratio):
        void = x[:, relation.denominator] == 0
        x[np.ix_(void, parts)] = clean[np.ix_(void, parts)]
    moved = (x[:, parts] != clean[:, parts]).any(1)
    x[:, relation.target] = np.where(moved, recomputed(x, relation), clean[:, relation.target])
