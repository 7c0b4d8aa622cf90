"""Cuts of features into at most 255 bins, in the float32 in which XGBoost compares: bin ``b`` lies at or above ``cuts[b - 1]`` and below ``cuts[b]``.

Cuts lie half-way between the places where what the attacker can reach changes, so no training row reaches a cut exactly.

>>> cuts = cuts_of([np.array([0.0, 1.0, 1.0, 2.0])], most=3)
>>> cuts.tolist(), binned(np.array([0.4, 0.5, 1.7, np.nan]), cuts).tolist()
([0.5, 1.5], [0, 1, 2, 255])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carbide._numba import njit
from carbide.types import Array

MISSING = 255  # the bin of values that are missing
MOST = 255  # bins of values that are there
SAMPLE = 200_000  # values of a feature by which its cuts are placed
BLOCK = 256  # rows that lie near while all of their features are looked up


def every(n: int, parts: int = 1) -> int:
    """Of ``n`` values in each of so many parts, one in how many is looked at."""
    return max(1, n * parts // SAMPLE)


def cuts_of(parts: Sequence[Array], *, most: int) -> Array:
    """The cuts ``(c,)`` float32, c < ``most``, at quantiles of the values of all ``parts`` together."""
    values = np.concatenate([np.asarray(part)[:: every(len(part), len(parts))] for part in parts])
    with np.errstate(over="ignore"):
        distinct, counts = np.unique(values[np.isfinite(values)].astype(np.float32), return_counts=True)
    if len(distinct) < 2:
        return np.zeros(0, np.float32)
    wide = distinct.astype(np.float64)
    middle = ((wide[:-1] + wide[1:]) / 2).astype(np.float32)
    middle = np.where(middle > distinct[:-1], middle, distinct[1:])
    if len(middle) >= most:
        share = np.cumsum(counts)[:-1] / counts.sum()
        middle = middle[np.unique(np.clip(np.searchsorted(share, np.arange(1, most) / most), 0, len(middle) - 1))]
    return middle[np.isfinite(middle)]


def binned(values: Array, cuts: Array) -> Array:
    """The bin ``(n,)`` uint8 of each value, ``MISSING`` where it is NaN."""
    with np.errstate(over="ignore"):
        found = np.searchsorted(cuts, np.asarray(values, np.float64).astype(np.float32), side="right")
    return np.where(np.isnan(values), MISSING, found).astype(np.uint8)


def table_of(cuts: Sequence[Array]) -> Array:
    """The cuts of all features ``(d, 255)`` float32, filled up with inf."""
    out = np.full((len(cuts), MOST), np.inf, np.float32)
    for row, c in zip(out, cuts, strict=True):
        row[: len(c)] = c
    return out


@njit(cache=True, nogil=True)
def bin_rows(x, table, count, out, begin, end):  # pragma: no cover - compiled
    """``binned`` of all features of the rows ``begin .. end - 1`` of ``x`` ``(n, d)`` into ``out`` ``(d, n)``, without a branch that depends on them."""
    for at in range(begin, end, BLOCK):
        stop = min(at + BLOCK, end)
        for f in range(x.shape[1]):
            cuts, row = table[f], out[f]
            for i in range(at, stop):
                value, found = np.float32(x[i, f]), 0
                for step in (128, 64, 32, 16, 8, 4, 2, 1):
                    found += step if cuts[found + step - 1] <= value else 0
                row[i] = MISSING if value != value else min(found, count[f])
