"""Windows that a random search changes: squares of an image, groups of a table's features, with the hills of Andriushchenko et al. 2020.

A change is ``(n, channels, places)``: an image's places are its pixels, a table's are its features that can change, in one channel.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from carbide.types import Array, Rng, Space


class Windows:
    """Draws windows of one space."""

    def __init__(self, space: Space, rng: Rng) -> None:
        self.rng, self.image = rng, space.is_image
        self.channels, self.height, self.width = space.shape if space.is_image else (1, 1, math.prod(space.shape))
        self.free = np.ones(self.height * self.width, bool) if space.is_image else space.mutable.ravel()

    def draw(self, n: int, share: float, *, least: int = 1) -> tuple[Array, Array]:
        """A window ``(n, places)`` bool of about this share of the places for each row, and a hill ``(n, places)`` of norm 1 in it."""
        return self._squares(n, share, least) if self.image else self._groups(n, share)

    def signs(self, mask: Array) -> Array:
        """Drawn signs: one for each channel of an image's window, one for each feature of a table."""
        return self.rng.choice([-1.0, 1.0], size=(len(mask), self.channels, 1 if self.image else mask.shape[1]))

    def stripes(self, n: int) -> Array:
        """Drawn signs ``(n, channels, places)``, one for each channel and column."""
        signs = self.rng.choice([-1.0, 1.0], size=(n, self.channels, 1, self.width))
        return np.broadcast_to(signs, (n, self.channels, self.height, self.width)).reshape(n, self.channels, -1).copy()

    def tiles(self, n: int) -> Array:
        """A chessboard of hills with drawn signs; for tables, drawn signs."""
        if not self.image:
            return self.stripes(n)
        side = max(1, min(self.height, self.width) // 5)
        tall, wide = -(-self.height // side), -(-self.width // side)
        signs = self.rng.choice([-1.0, 1.0], size=(n, self.channels, tall, 1, wide, 1))
        board = (signs * hill(side, side)[None, None, None, :, None, :]).reshape(n, self.channels, tall * side, wide * side)
        return board[:, :, : self.height, : self.width].reshape(n, self.channels, -1)

    def _groups(self, n: int, share: float) -> tuple[Array, Array]:
        places = np.flatnonzero(self.free)
        count = max(1, round(share * len(places)))
        mask = np.zeros((n, len(self.free)), bool)
        mask[np.arange(n)[:, None], places[self.rng.random((n, len(places))).argsort(1)[:, :count]]] = True
        return mask, mask * self.rng.choice([-1.0, 1.0], size=mask.shape) / math.sqrt(count)

    def _squares(self, n: int, share: float, least: int) -> tuple[Array, Array]:
        side = min(max(round(math.sqrt(share * self.height * self.width)), least), self.height, self.width)
        top = self.rng.integers(self.height - side + 1, size=(n, 1))
        left = self.rng.integers(self.width - side + 1, size=(n, 1))
        down, across = np.arange(self.height) - top, np.arange(self.width) - left
        mask = ((down >= 0) & (down < side))[:, :, None] & ((across >= 0) & (across < side))[:, None, :]
        shape = two_hills(side)
        shape = np.where(self.rng.random(n)[:, None, None] < 0.5, shape, shape.T)
        i, j = down.clip(0, side - 1), across.clip(0, side - 1)
        heights = shape[np.arange(n)[:, None, None], i[:, :, None], j[:, None, :]]
        return mask.reshape(n, -1), (mask * heights).reshape(n, -1)


@functools.cache
def hill(tall: int, wide: int) -> Array:
    """Rectangles around the middle piled up, steeper towards the top, scaled to L2 norm 1."""
    out, middle = np.zeros((tall, wide)), max(tall // 2, wide // 2) + 1
    for k in range(middle):
        grown = 2 * k + 1
        top, left = tall // 2 - k, wide // 2 - k
        out[max(top, 0) : max(top + grown, 0), max(left, 0) : max(left + grown, 0)] += 1 / (k + 1) ** 2
    return out / np.linalg.norm(out)


@functools.cache
def two_hills(side: int) -> Array:
    """A hill above a pit, scaled to L2 norm 1; a single hill where there is no room for both."""
    if side == 1:
        return np.ones((1, 1))
    upper = side // 2
    both = np.concatenate([hill(upper, side), -hill(side - upper, side)])
    return both / np.linalg.norm(both)
