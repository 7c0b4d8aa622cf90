"""What the judge asks of a poison: few enough rows, in bounds, a trigger no larger than stated; a sentence where it is not so."""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.types import Array, Backdoor, Dataset, Flips, Linear, Poison, Space, Threat


def budget(threat: Flips | Backdoor, n: int) -> int:
    """The most rows that the threat may change among ``n``."""
    return int(np.floor(threat.fraction * n + 1e-9))


def objection(poison: Any, clean: Dataset, threat: Threat) -> str | None:
    """Why a proposed poison is not what the threat allows, or None."""
    assert isinstance(threat, Flips | Backdoor)
    if not isinstance(poison, Poison):
        return f"it returned a {type(poison).__name__} instead of a Poison"
    return _of_form(poison, clean) or _of_rows(poison, clean, threat) or _of_values(poison, clean, threat)


def trigger_objection(before: Array, after: Any, clean: Dataset, threat: Backdoor) -> str | None:
    """Why triggered inputs ``(m, *shape)`` are not what the threat allows, or None; ``clean`` is the training set."""
    if not isinstance(after, np.ndarray) or after.shape != before.shape or not np.isfinite(after).all():
        return "its trigger does not map finite inputs to finite inputs of the same shape"
    changed = before != after
    if clean.space.is_image:
        pixels = changed.any(1).sum((1, 2)).max(initial=0)
        allowed = int(np.floor(threat.area * np.prod(clean.space.shape[1:]) + 1e-9))
        if pixels > allowed:
            return f"its trigger covers {pixels} pixels, and an area of {threat.area:g} allows {allowed}"
    elif (features := int(changed.reshape(len(before), -1).sum(1).max(initial=0))) > threat.features:
        return f"its trigger sets {features} features, and {threat.features} are allowed"
    return _outside(before, after, clean, clean.space)


def _of_form(poison: Poison, clean: Dataset) -> str | None:
    new, n = poison.dataset, len(clean)
    if new.x.shape != clean.x.shape or new.y.shape != clean.y.shape or new.classes != clean.classes:
        return f"it returned {len(new.y)} rows of {new.classes} classes for {n} rows of {clean.classes}"
    if new.space is not clean.space:
        return "it changed the space of the data"
    if not (np.array_equal(new.ids, clean.ids) and np.array_equal(new.source, clean.source)):
        return "it changed the ids or sources of rows"
    if not np.issubdtype(new.y.dtype, np.integer) or new.y.min(initial=0) < 0 or new.y.max(initial=0) >= clean.classes:
        return f"its labels are not whole numbers in 0..{clean.classes - 1}"
    if not np.isfinite(new.x).all():
        return "its inputs are not all finite"
    if np.shape(poison.rows) != (n,) or np.asarray(poison.rows).dtype != bool:
        return f"its rows are not {n} booleans"
    return None


def _of_rows(poison: Poison, clean: Dataset, threat: Flips | Backdoor) -> str | None:
    changed = changed_rows(poison, clean)
    allowed = budget(threat, len(clean))
    if (changed & ~poison.rows).any():
        return f"it changed {int((changed & ~poison.rows).sum())} rows that it did not name"
    if poison.rows.sum() > allowed:
        return f"it poisoned {int(poison.rows.sum())} rows, and {threat.fraction:g} of {len(clean)} rows allows {allowed}"
    if allowed and not changed.any():
        return f"it changed no row, although it may change {allowed}"
    return None


def _of_values(poison: Poison, clean: Dataset, threat: Flips | Backdoor) -> str | None:
    if isinstance(threat, Flips):
        return None if np.array_equal(poison.dataset.x, clean.x) else "it changed inputs, and only labels may change"
    if poison.target != threat.target or poison.trigger is None:
        return f"it has no trigger for class {threat.target}"
    return _outside(clean.x, poison.dataset.x, clean, clean.space)


def changed_rows(poison: Poison, clean: Dataset) -> Array:
    """Which rows ``(n,)`` differ from the clean ones."""
    return (poison.dataset.x != clean.x).reshape(len(clean), -1).any(1) | (poison.dataset.y != clean.y)


def _outside(before: Array, after: Array, train: Dataset, space: Space) -> str | None:
    """Why changed values leave the space; where a bound is infinite the training rows' own extremes stand in."""
    rows = np.flatnonzero((before != after).reshape(len(before), -1).any(1))
    old, new = before[rows].reshape(len(rows), -1).astype(float), after[rows].reshape(len(rows), -1).astype(float)
    changed = old != new
    seen = train.x.reshape(len(train), -1)
    lower = np.where(np.isfinite(space.lower.ravel()), space.lower.ravel(), seen.min(0))
    upper = np.where(np.isfinite(space.upper.ravel()), space.upper.ravel(), seen.max(0))
    step = space.step.ravel()
    origin = np.where(np.isfinite(space.lower.ravel()), space.lower.ravel(), 0.0)
    places = (new - origin) / np.where(step > 0, step, 1.0)
    for words, bad in (("which may not change", changed & ~space.mutable.ravel()),
                       ("outside its bounds", changed & ((new < lower - 1e-9) | (new > upper + 1e-9))),
                       ("off its steps", changed & (step > 0) & (np.abs(places - np.round(places)) > 1e-6))):  # fmt: skip
        if bad.any():
            row, feature = (int(i) for i in np.argwhere(bad)[0])
            return f"it sets feature {space.name(feature)} to {new[row, feature]:g}, {words}"
    return _broken(old, new, space)


def _broken(old: Array, new: Array, space: Space) -> str | None:
    """Which one-hot group or relation held before and does not hold now."""
    for group in space.groups:
        columns = list(group)
        if (_one_hot(old[:, columns]) & ~_one_hot(new[:, columns])).any():
            return f"it breaks the one-hot group of {space.name(columns[0])}"
    for relation in space.relations:
        if (_holds(relation, old) & ~_holds(relation, new)).any():
            return f"it breaks the relation {relation}"
    return None


def _one_hot(part: Array) -> Array:
    return ((part == 0) | (part == 1)).all(1) & (part.sum(1) == 1)


def _holds(relation: Any, x: Array) -> Array:
    if isinstance(relation, Linear):
        terms = x[:, list(relation.features)] * np.asarray(relation.coefficients)
        return terms.sum(1) <= relation.upper + 1e-6 * np.maximum(1.0, np.abs(terms).max(1))
    wanted = x[:, relation.numerator]
    return np.abs(x[:, relation.target] * x[:, relation.denominator] - wanted) <= 1e-6 * np.maximum(1.0, np.abs(wanted))
