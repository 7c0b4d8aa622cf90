"""Colour as hue, saturation and value: every pixel of an image moved by the same amount.

>>> red = np.array([1.0, 0.0, 0.0]).reshape(1, 3, 1, 1)
>>> shift_hsv(red, np.array([1 / 3]), np.zeros(1), np.zeros(1)).ravel().round(9).tolist()
[0.0, 1.0, 0.0]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array


def shift_hsv(x: Array, hue: Array, saturation: Array, value: Array, *, gain: float = 1.0) -> Array:
    """Images ``(n, 3, height, width)`` in [0, 1] with hue (in turns) moved by ``hue`` ``(n,)``, saturation times ``gain`` plus
    ``saturation``, and value plus ``value``; saturation and value are cut to [0, 1]. Grey has no hue, so that saturation tints it red.
    """
    hue, saturation, value = (np.asarray(v, float)[:, None, None] for v in (hue, saturation, value))
    top, low = x.max(1), x.min(1)
    spread = top - low
    safe = np.where(spread > 0, spread, 1.0)
    red, green, blue = x[:, 0], x[:, 1], x[:, 2]
    sixth = np.where(top == red, (green - blue) / safe, np.where(top == green, (blue - red) / safe + 2, (red - green) / safe + 4))
    angle = np.where(spread > 0, sixth, 0.0) + 6 * hue
    rich = np.clip(gain * spread / np.where(top > 0, top, 1.0) + saturation, 0.0, 1.0)
    top = np.clip(top + value, 0.0, 1.0)
    places = [(place + angle) % 6 for place in (5, 3, 1)]
    return np.stack([top * (1 - rich * np.clip(np.minimum(place, 4 - place), 0.0, 1.0)) for place in places], 1)
