"""The alarm of masked gradients: an attack that needs none tries a sample of what gradients left, and the rest as soon as it breaks one.

>>> import numpy as np
>>> sample_first(np.arange(200), np.random.default_rng(0), lambda number, rows: int((rows == 7).sum()))[0] in (64, 200)
True
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from carbide.types import Array, Rng

SAMPLE = 64  # survivors of gradient attacks that are tried first


class Tried(NamedTuple):
    """How many rows an attack saw and how many of them it broke."""

    seen: int
    fell: int


def sample_first(rows: Array, rng: Rng, attack: Callable[[int, Array], int], size: int = SAMPLE) -> Tried:
    """Run ``attack(number, rows)``, which returns how many it broke, on a random sample of rows, then on the others if any fell."""
    parts = [rows]
    if len(rows) > size:
        order = rng.permutation(rows)
        parts = [np.sort(order[:size]), np.sort(order[size:])]
    fell = attack(0, parts[0])
    if len(parts) == 1 or not fell:
        return Tried(len(parts[0]), fell)
    return Tried(len(rows), fell + attack(1, parts[1]))
