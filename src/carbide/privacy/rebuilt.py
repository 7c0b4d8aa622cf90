"""What an attack rebuilds of training rows, and how near that is: rows in, numbers out.

>>> import numpy as np
>>> nearer_share(np.array([1.0, 2.0]), np.array([3.0, 1.5]))
0.75
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide.types import Array


class Rebuilt(NamedTuple):
    """Rows ``(m, *shape)`` that an attack made and the classes ``(m,)`` int64 that it says they are of."""

    x: Array
    y: Array


def spread_of(x: Array) -> Array:
    """The unit of distance: of tables the standard deviation of each feature ``(d,)``, of images one for all pixels."""
    flat = x.reshape(len(x), -1).astype(float)
    if x.ndim > 2:
        return np.full(flat.shape[1], max(float(flat.std()), 1e-12))
    deviation = flat.std(0)
    return np.where(deviation > 0, deviation, 1.0)


def distances(one: Array, rows: Array, unit: Array) -> Array:
    """Euclidean distances ``(n,)`` of a row ``(*shape)`` to rows ``(n, *shape)`` in units ``(d,)`` of each feature."""
    return np.linalg.norm((rows.reshape(len(rows), -1) - one.reshape(1, -1)) / unit, axis=1)


def nearer_share(inside: Array, outside: Array) -> float:
    """How often one of the distances ``inside`` ``(a,)`` is below one of those ``outside`` ``(b,)``, ties counting half."""
    ordered = np.sort(outside)
    below, equal = np.searchsorted(ordered, inside, side="right"), np.searchsorted(ordered, inside, side="left")
    return float(1 - (below + equal).mean() / (2 * len(outside)))
