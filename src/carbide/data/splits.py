"""Cuts of a data set into train, validation and test: by row, by group or by time.

>>> import numpy as np
>>> [len(part) for part in cut_rows(10, (0.6, 0.2, 0.2), np.random.default_rng(0))]
[6, 2, 2]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Rng


def cut_rows(n: int, shares: tuple[float, float, float], rng: Rng, *, y: Array | None = None) -> tuple[Array, Array, Array]:
    """Three disjoint sorted arrays of row indices with these shares; stratified by ``y`` ``(n,)`` when given."""
    groups = [np.arange(n)] if y is None else [np.flatnonzero(y == c) for c in np.unique(y)]
    parts: list[list[Array]] = [[], [], []]
    for rows in groups:
        order = rng.permutation(rows)
        first, second = round(shares[0] * len(order)), round((shares[0] + shares[1]) * len(order))
        for part, piece in zip(parts, (order[:first], order[first:second], order[second:]), strict=True):
            part.append(piece)
    a, b, c = (np.sort(np.concatenate(part)) for part in parts)
    return a, b, c
