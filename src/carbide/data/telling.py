"""Features that are the label under another name: each of their values stands for one class, and each class for one value.

>>> import numpy as np
>>> telling(np.array([[5.0, 1.0], [7.0, 1.0]] * 10), np.array([0, 1] * 10)).tolist()
[0]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Splits

ROWS = 20  # with fewer rows a feature may match the label by chance


def telling_features(splits: Splits) -> tuple[str, ...]:
    """The names of a table's features that tell the label of every row of all parts, one value for one class."""
    if len(splits.train.space.shape) != 1:
        return ()
    parts = (splits.train, splits.validation, splits.test)
    found = telling(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))
    return tuple(splits.train.space.name(int(f)) for f in found)


def telling(x: Array, y: Array) -> Array:
    """The columns of rows ``(n, d)`` whose values and the labels ``(n,)`` determine each other; missing is a value, too."""
    if len(y) < ROWS:
        return np.zeros(0, np.int64)
    _, first, code = np.unique(y, return_index=True, return_inverse=True)
    if len(first) < 2:
        return np.zeros(0, np.int64)
    shown = x[first]  # what each class's first row holds must stand in all its rows, and no other class may hold it
    same = ((x == shown[code]) | (np.isnan(x) & np.isnan(shown[code]))).all(0)
    return np.array([f for f in np.flatnonzero(same) if len(np.unique(shown[:, f])) == len(first)], np.int64)
