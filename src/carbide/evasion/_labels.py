"""What attacks that see only labels share: asking, counting per row, and rows to start from."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from carbide.types import Array, Model, Rng, decide

CHUNK = 4096  # rows asked at once


@dataclass(kw_only=True, eq=False)
class Asker:
    """Asks a model for labels only; ``asked`` ``(n,)`` counts the queries made for each row."""

    model: Model
    y: Array
    asked: Array = field(init=False)

    def __post_init__(self) -> None:
        self.asked = np.zeros(len(self.y), np.int64)

    def labels(self, x: Array) -> Array:
        """The labels ``(n,)`` of any inputs, not counted for a row."""
        parts = [decide(self.model.predict(x[i : i + CHUNK]), self.model.threshold) for i in range(0, len(x), CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def wrong(self, rows: Array, x: Array) -> Array:
        """Whether each input, a change of the row with that index, is labelled wrongly; ``rows`` may repeat."""
        np.add.at(self.asked, rows, 1)
        return self.labels(x) != self.y[rows]


def donors(x: Array, labels: Array, y: Array, rows: Array, count: int, rng: Rng) -> Array:
    """For each of these rows the indices ``(len(rows), count)`` of rows labelled otherwise than the row's class, -1 where none is left.

    Half are the nearest, half are drawn.
    """
    flat = x.reshape(len(x), -1)
    found = np.full((len(rows), count), -1)
    for i, row in enumerate(rows):
        pool = np.flatnonzero(labels != y[row])
        if len(pool) == 0:
            continue
        scale = np.nanstd(flat, axis=0) + 1e-12
        near = pool[np.argsort(np.nan_to_num(((flat[pool] - flat[row]) / scale) ** 2).sum(1), kind="stable")][: (count + 1) // 2]
        drawn = rng.choice(pool, size=count - len(near), replace=True)
        found[i, : len(near)], found[i, len(near) :] = near, drawn
    return found
