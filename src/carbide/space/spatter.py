"""Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261: spatter, drops of water or specks of mud on the lens.

Where smooth noise is above a level, there is liquid. Water brightens what is behind it, most far from the rims of a drop, which are found as
Canny 1986, https://doi.org/10.1109/TPAMI.1986.4767851, finds edges; mud covers it.

>>> from carbide.types import rng_for
>>> mud = spatter(np.ones((1, 3, 8, 8)), (0.65, 0.1, 0.5, 0.5, 0.6, 1), rng_for(0))
>>> (mud.min((0, 2, 3)) * 255).round().tolist()
[63.0, 42.0, 20.0]
"""

from __future__ import annotations

import numpy as np

from carbide.space.weather import GREY
from carbide.types import Array, Rng

WATER, MUD = (175.0, 238.0, 238.0), (63.0, 42.0, 20.0)  # pale turquoise, brown
WEAK, STRONG = 50.0, 150.0  # gradients in grey levels: of an edge that touches a strong one, and of a strong one
FARTHEST = 20.0  # pixels from the nearest rim beyond which depth does not grow
LIGHT = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))  # light from one corner
SEEN = 0.8  # share of mud below which none is seen
STEEP = float(np.tan(np.pi / 8))


def spatter(x: Array, strength: tuple[float, float, float, float, float, int], rng: Rng) -> Array:
    """Images ``(n, channels, height, width)`` in [0, 1] behind liquid, the same for all; images of other than 3 channels see its grey.

    ``strength``: mean and deviation of the noise, sigma of its blur in pixels, the least that is liquid, how bright the water is or the sigma
    of the mud's blur, and whether it is mud.
    """
    from scipy.ndimage import gaussian_filter

    mean, deviation, sigma, least, last, mud = strength
    liquid = gaussian_filter(rng.normal(mean, deviation, size=x.shape[2:]), sigma, mode="nearest")
    if mud:
        cover = gaussian_filter((liquid > least).astype(float), last, mode="nearest")
        cover = np.where(cover < SEEN, 0.0, cover)
        return x * (1 - cover) + cover * _colour(MUD, x.shape[1])
    return x + last * water(np.where(liquid < least, 0.0, liquid)) * _colour(WATER, x.shape[1])


def _colour(rgb: tuple[float, ...], channels: int) -> Array:
    """``(channels, 1, 1)`` in [0, 1]."""
    seen = np.array(rgb) / 255 if channels == 3 else np.full(channels, np.dot(rgb, GREY) / 255)
    return seen[:, None, None]


def water(liquid: Array) -> Array:
    """How much light the drops of ``liquid`` ``(height, width)`` in [0, 1] send ``(height, width)``: 1 where it is most, 0 beside them."""
    from scipy.ndimage import correlate, distance_transform_edt, uniform_filter

    grey = np.floor(liquid.clip(0.0, 1.0) * 255)
    rims = edges(grey)
    far = np.asarray(distance_transform_edt(~rims)) if rims.any() else np.full(grey.shape, np.inf)
    depth = equalized(np.floor(uniform_filter(np.minimum(far, FARTHEST), 3, mode="mirror") + 1e-9).astype(int))
    lit = correlate(depth, np.array(LIGHT, float), mode="mirror").clip(0, 255)
    light = grey * np.rint(uniform_filter(lit, 3, mode="mirror"))
    return light / max(light.max(), 1.0)


def equalized(levels: Array) -> Array:
    """Whole numbers ``>= 0`` of any shape, spread over 0 to 255 so that each level's value is the share of what lies below it."""
    upto = np.bincount(levels.ravel()).cumsum()
    first = upto[upto > 0][0]
    if first == levels.size:
        return levels.astype(float)
    return np.rint((upto - first).clip(0) * 255 / (levels.size - first))[levels]


def edges(grey: Array) -> Array:
    """Canny's edges of grey levels 0 to 255: a mask ``(height, width)`` of the ridges of the gradient that are strong or reach a strong one."""
    from scipy.ndimage import label, sobel

    across, down = sobel(grey, 1, mode="nearest"), sobel(grey, 0, mode="nearest")
    size = np.abs(across) + np.abs(down)
    rim = np.pad(size, 1)

    def beside(i: int, j: int) -> Array:
        return rim[1 + i : rim.shape[0] - 1 + i, 1 + j : rim.shape[1] - 1 + j]

    flat, tall = np.abs(down) < STEEP * np.abs(across), np.abs(across) < STEEP * np.abs(down)
    falling = across * down > 0  # along the gradient, right goes with down
    one = np.where(flat, beside(0, -1), np.where(tall, beside(-1, 0), np.where(falling, beside(-1, -1), beside(-1, 1))))
    two = np.where(flat, beside(0, 1), np.where(tall, beside(1, 0), np.where(falling, beside(1, 1), beside(1, -1))))
    ridge = (size > WEAK) & (size > one) & np.where(flat | tall, size >= two, size > two)  # of two equal neighbours on an axis one is kept
    parts = np.empty(ridge.shape, np.int32)
    label(ridge, structure=np.ones((3, 3)), output=parts)
    return ridge & np.isin(parts, parts[ridge & (size > STRONG)])
