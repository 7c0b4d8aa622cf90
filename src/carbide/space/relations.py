"""Relations between features: which rows keep them, and ratios and sums recomputed from their parts.

>>> import numpy as np
>>> from carbide.types import Ratio, Space
>>> space = Space.table(["rate", "amount", "mean"], relations=(Ratio(target=0, numerator=1, denominator=2),))
>>> recompute(np.array([[9.0, 6.0, 4.0]]), space).tolist()
[[1.5, 6.0, 4.0]]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Implication, Linear, Ratio, Relation, Space, Sum

LINEAR_SLACK = 1e-9  # relative to the terms of the sum
RATIO_SLACK = 1e-6  # relative to the ratio, as tables are often written with few digits


def features_of(relation: Relation) -> tuple[int, ...]:
    """The columns that a relation speaks of."""
    if isinstance(relation, Linear):
        return relation.features
    if isinstance(relation, Implication):
        return relation.cause, relation.effect
    return relation.target, *parts_of(relation)


def parts_of(relation: Ratio | Sum) -> tuple[int, ...]:
    """The columns from which a target is recomputed."""
    return relation.features if isinstance(relation, Sum) else (relation.numerator, relation.denominator)


def targets_of(space: Space) -> list[int]:
    """The columns that are recomputed from others, in the order of the relations."""
    return [r.target for r in space.relations if isinstance(r, Ratio | Sum)]


def keeps(x: Array, relation: Relation) -> Array:
    """Whether each row of ``x`` ``(n, d)`` keeps one relation up to rounding (implications exactly); a row with NaN in it does not, but a
    missing cause implies nothing."""
    if isinstance(relation, Ratio | Sum):
        value, exact = x[:, relation.target], recomputed(x, relation)
        return np.abs(value - exact) <= RATIO_SLACK * np.maximum(1.0, np.abs(exact))
    if isinstance(relation, Implication):
        cause, effect = x[:, relation.cause], x[:, relation.effect]
        asked = (cause >= relation.at_least) & (cause <= relation.at_most)
        return ~asked | ((effect >= relation.lower) & (effect <= relation.upper))
    terms = x[:, list(relation.features)] * np.asarray(relation.coefficients, float)
    return terms.sum(1) <= relation.upper + LINEAR_SLACK * (1.0 + np.abs(terms).sum(1) + abs(relation.upper))


def holds(x: Array, space: Space) -> Array:
    """Whether each row of ``x`` ``(n, d)`` keeps all relations of the space, ``(n,)`` bool."""
    good = np.ones(len(x), bool)
    for relation in space.relations:
        good &= keeps(x, relation)
    return good


def holds_where_changed(x: Array, x0: Array, space: Space) -> Array:
    """As ``holds``, but a relation none of whose features changed from ``x0`` is not asked again."""
    changed = ~((x == x0) | (np.isnan(x) & np.isnan(x0)))
    good = np.ones(len(x), bool)
    for relation in space.relations:
        good &= keeps(x, relation) | ~changed[:, list(features_of(relation))].any(1)
    return good


def recompute(x: Array, space: Space) -> Array:
    """The rows with every ratio and sum recomputed from its parts, in the order of the relations; a ratio over 0 is left as it is."""
    out = np.array(x, float)
    for relation in space.relations:
        if isinstance(relation, Ratio | Sum):
            exact = recomputed(out, relation)
            out[:, relation.target] = np.where(np.isfinite(exact), exact, out[:, relation.target])
    return out


def recomputed(x: Array, relation: Ratio | Sum) -> Array:
    """What the parts in rows ``x`` ``(n, d)`` make of the target, ``(n,)``; NaN where that is no finite number."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if isinstance(relation, Ratio):
            exact = x[:, relation.numerator] / x[:, relation.denominator]
        else:
            exact = np.zeros(len(x))
            for f, c in zip(relation.features, relation.coefficients, strict=True):
                exact = exact + c * x[:, f]
    return np.where(np.isfinite(exact), exact, np.nan)
