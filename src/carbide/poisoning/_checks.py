"""What the judge asks of a poison: few enough rows, in bounds, a trigger no larger than stated; a sentence where it is not so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from carbide.space.membership import allowed
from carbide.types import Array, Backdoor, Dataset, Flips, Poison, Threat


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
    if not isinstance(after, np.ndarray) or after.shape != before.shape or not np.issubdtype(after.dtype, np.floating):
        return "its trigger does not map inputs to inputs of the same shape"
    changed = _differs(after, before)
    if clean.space.is_image:
        pixels = changed.any(1).sum((1, 2)).max(initial=0)
        allowed = int(np.floor(threat.area * np.prod(clean.space.shape[1:]) + 1e-9))
        if pixels > allowed:
            return f"its trigger covers {pixels} pixels, and an area of {threat.area:g} allows {allowed}"
    elif (features := int(changed.reshape(len(before), -1).sum(1).max(initial=0))) > threat.features:
        return f"its trigger sets {features} features, and {threat.features} are allowed"
    return _outside(before, after, clean)


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
    if not np.issubdtype(new.x.dtype, np.floating):
        return "its inputs are not floating-point numbers"
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
        return None if not _differs(poison.dataset.x, clean.x).any() else "it changed inputs, and only labels may change"
    if poison.target != threat.target or poison.trigger is None:
        return f"it has no trigger for class {threat.target}"
    return _outside(clean.x, poison.dataset.x, clean)


def changed_rows(poison: Poison, clean: Dataset) -> Array:
    """Which rows ``(n,)`` differ from the clean ones."""
    return _differs(poison.dataset.x, clean.x).reshape(len(clean), -1).any(1) | (poison.dataset.y != clean.y)


def _outside(before: Array, after: Array, train: Dataset) -> str | None:
    """How many rows leave the space; where a bound is infinite the training rows' own extremes stand in."""
    space, seen = train.space, train.x
    lower = np.where(np.isfinite(space.lower), space.lower, np.nanmin(seen, axis=0))
    upper = np.where(np.isfinite(space.upper), space.upper, np.nanmax(seen, axis=0))
    bad = ~allowed(after, before, replace(space, lower=lower, upper=upper))
    return f"it takes {int(bad.sum())} rows out of the space: bounds, steps, immutable features, one-hot groups or relations" if bad.any() else None


def _differs(new: Array, old: Array) -> Array:
    """Where inputs differ; two missing values are the same."""
    return ~((new == old) | (np.isnan(new) & np.isnan(old)))
