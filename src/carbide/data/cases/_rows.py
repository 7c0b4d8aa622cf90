"""Names of rows that depend on their content alone, and the stratified cut."""

from __future__ import annotations

import hashlib

import numpy as np

from carbide.data.splits import cut_rows
from carbide.types import Array, Dataset, Splits, rng_for


def row_ids(x: Array, *more: Array) -> Array:
    """``(n,)`` stable names: sha256 of the row's float64 bytes (and of the same row of ``more``), 16 hex digits; repeats get a suffix."""
    rows = np.ascontiguousarray(np.column_stack([x.reshape(len(x), -1), *more]), dtype="<f8")
    names = [hashlib.sha256(row).hexdigest()[:16] for row in rows]
    seen: dict[str, int] = {}
    for i, name in enumerate(names):
        seen[name] = seen.get(name, -1) + 1
        names[i] = f"{name}-{seen[name]}" if seen[name] else name
    return np.array(names)


def stratified(data: Dataset, shares: tuple[float, float, float], seed: int) -> Splits:
    """Train, validation and test with these shares of every class."""
    train, validation, test = cut_rows(len(data), shares, rng_for(seed, "cut", data.name), y=data.y)
    return Splits(train=data.take(train), validation=data.take(validation), test=data.take(test))
