"""Relations between features: which rows keep them, and ratios recomputed from their parts.

>>> import numpy as np
>>> from carbide.types import Ratio, Space
>>> space = Space.table(["rate", "amount", "mean"], relations=(Ratio(target=0, numerator=1, denominator=2),))
>>> recompute(np.array([[9.0, 6.0, 4.0]]), space).tolist()
[[1.5, 6.0, 4.0]]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Linear, Ratio, Relation, Space

LINEAR_SLACK = 1e-9  # relative to the terms of the sum
RATIO_SLACK = 1e-6  # relative to the ratio, as tables are often written with few digits


def features_of(relation: Relation) -> tuple[int, ...]:
    """The columns that a relation speaks of."""
    return relation.features if isinstance(relation, Linear) else (relation.target, relation.numerator, relation.denominator)


def keeps(x: Array, relation: Relation) -> Array:
    """Whether each row of ``x`` ``(n, d)`` keeps one relation up to rounding; a row with NaN in it does not."""
    if isinstance(relation, Ratio):
        value, exact = x[:, relation.target], _ratio(x, relation)
        return np.abs(value - exact) <= RATIO_SLACK * np.maximum(1.0, np.abs(exact))
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
    """The rows with every ratio recomputed from its parts, in the order of the relations; a ratio over 0 is left as it is."""
    out = np.array(x, float)
    for relation in space.relations:
        if isinstance(relation, Ratio):
            exact = _ratio(out, relation)
            out[:, relation.target] = np.where(np.isfinite(exact), exact, out[:, relation.target])
    return out


def _ratio(x: Array, relation: Ratio) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact = x[:, relation.numerator] / x[:, relation.denominator]
    return np.where(np.isfinite(exact), exact, np.nan)
