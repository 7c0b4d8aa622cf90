"""Steele et al. 2014, https://doi.org/10.1145/2660193.2660195: random numbers of a row that depend on the row, not on its place among others.

Numbers are the SplitMix64 mix of a key, which is made of the seed and the row's own values, and a counter: rows may come in any order, alone
or together, and each draws the same.

>>> x = np.array([[1.0, 2.0], [3.0, 4.0]])
>>> a, b = Draws(np.random.default_rng(0), x), Draws(np.random.default_rng(0), x[::-1])
>>> bool((a.uniform(np.array([0, 1]), 5, 3) == b.uniform(np.array([1, 0]), 5, 3)).all())
True
"""

from __future__ import annotations

import hashlib
import math

import numpy as np

from carbide.types import Array, Rng

GOLDEN, FIRST, SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


class Draws:
    """Uniform numbers for each row of ``x`` ``(n, d)``; one number is taken from ``rng``."""

    def __init__(self, rng: Rng, x: Array) -> None:
        seed = int(rng.integers(2**63)).to_bytes(8, "little")
        flat = np.ascontiguousarray(np.asarray(x, np.float64).reshape(len(x), -1))
        self.keys = np.array([int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8, key=seed).digest(), "little") for row in flat], np.uint64)

    def uniform(self, rows: Array, turn: int, *shape: int) -> Array:
        """Numbers in [0, 1), ``(len(rows), *shape)``; another ``turn`` draws others, the same turn the same."""
        count = np.arange(1, math.prod(shape) + 1, dtype=np.uint64)
        with np.errstate(over="ignore"):
            start = _mix(self.keys[rows] + np.uint64(turn + 1) * GOLDEN)
            z = _mix(start[:, None] + count * GOLDEN)
        return ((z >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(len(rows), *shape)


def _mix(z: Array) -> Array:
    z = (z ^ (z >> np.uint64(30))) * FIRST
    z = (z ^ (z >> np.uint64(27))) * SECOND
    return z ^ (z >> np.uint64(31))
