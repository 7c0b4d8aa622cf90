"""Patches on images: the rectangles that an area allows, and whether what changed lies in one of them. Pixels are counted, not measured.

>>> from carbide.types import Patch, Space
>>> space = Space.image((3, 8, 8))
>>> pixels_of(Patch(area=0.1), space), shapes(6, 8, 8)
(6, ((1, 6), (2, 3), (3, 2), (6, 1)))
>>> x = np.zeros((2, 3, 8, 8)); z = x.copy(); z[:, 0, 2:4, 1:4] = 1; z[1, 2, 4, 1] = 1
>>> box_pixels(z, x).tolist()
[6, 9]
"""

from __future__ import annotations

import math

import numpy as np

from carbide.types import Array, Patch, Space

ROUNDING = 1e-9  # of a pixel: 0.07 of 100 pixels are seven


def pixels_of(threat: Patch, space: Space) -> int:
    """How many pixels of an image ``(channels, height, width)`` a patch may cover."""
    return math.floor(threat.area * math.prod(space.shape[1:]) + ROUNDING)


def shapes(pixels: int, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """The rectangles ``(tall, wide)`` of at most so many pixels that fit in an image and in no larger one of them."""
    widest = [min(width, pixels // tall) for tall in range(1, min(height, pixels) + 1)]
    return tuple((tall, wide) for tall, wide in enumerate(widest, 1) if wide > 0 and (tall == len(widest) or widest[tall] < wide))


def box_pixels(x: Array, clean: Array) -> Array:
    """The pixels ``(n,)`` int of the smallest axis-parallel rectangle that holds all that differs between images ``(n, channels, height, width)``."""
    changed = ~((x == clean) | (np.isnan(x) & np.isnan(clean))).all(1)
    return _span(changed.any(2)) * _span(changed.any(1))


def _span(hit: Array) -> Array:
    """How far it is from the first to the last True of each row ``(n, d)``, both counted; 0 without any."""
    return np.where(hit.any(1), hit.shape[1] - hit.argmax(1) - hit[:, ::-1].argmax(1), 0)


def inside_patch(x: Array, clean: Array, threat: Patch, space: Space) -> Array:
    """Whether all that differs between images ``(n, channels, height, width)`` and clean ones lies in one patch of the threat, ``(n,)`` bool."""
    return box_pixels(x, clean) <= pixels_of(threat, space)
