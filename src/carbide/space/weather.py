"""Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261: snow, frost and fog, for images in [0, 1].

Fog is a plasma fractal (Fournier, Fussell & Carpenter 1982, https://doi.org/10.1145/358523.358553) whose roughness falls by ``decay`` from scale to
scale. The paper lays photographs of frost over the image; here the frost is drawn: ridges of a plasma, so figures differ a little from the paper's.
Every function takes images ``(n, channels, height, width)`` and a source of randomness, which is the same for all of them; it leaves the cutting
to [0, 1] to its caller.

>>> from carbide.types import rng_for
>>> fog(np.full((1, 1, 4, 4), 0.5), (1.0, 2.0), rng_for(0)).max().round(9) <= 0.5
np.True_
"""

from __future__ import annotations

import numpy as np

from carbide.space.warps import motion_blur, zoomed
from carbide.types import Array, Rng

ROUGH = 1.4  # decay of the plasma that frost grows along
WIDEST = 100.0  # half the range of the plasma's first draws is this number squared; later ones are smaller by the square of the decay
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


def plasma(height: int, width: int, decay: float, rng: Rng) -> Array:
    """A landscape ``(height, width)`` in [0, 1] of midpoint displacement (diamonds and squares) on a torus whose side is a power of two."""
    side = 1 << max(1, int(np.ceil(np.log2(max(height, width)))))
    land, step, rough = np.zeros((side, side)), side, WIDEST

    def displaced(four: Array) -> Array:
        return four / 4 + rough * rng.uniform(-rough, rough, size=four.shape)

    while step >= 2:
        half, corners = step // 2, land[::step, ::step]
        down, right = np.roll(corners, -1, 0), np.roll(corners, -1, 1)
        centres = displaced(corners + down + right + np.roll(down, -1, 1))
        land[half::step, half::step] = centres
        land[::step, half::step] = displaced(centres + np.roll(centres, 1, 0) + corners + right)
        land[half::step, ::step] = displaced(centres + np.roll(centres, 1, 1) + corners + down)
        step, rough = half, rough / decay
    land = land - land.min()
    return (land / land.max())[:height, :width]


def fog(x: Array, strength: tuple[float, float], rng: Rng) -> Array:
    """A plasma of ``strength`` (how thick, decay) before the image; the brightest pixel of an image stays as bright as it was."""
    thick, decay = strength
    brightest = x.max((1, 2, 3), keepdims=True)
    return (x + thick * plasma(x.shape[2], x.shape[3], decay, rng)) * brightest / (brightest + thick)


def frost(x: Array, strength: tuple[float, float], rng: Rng) -> Array:
    """Ridges of ice: ``strength`` holds how much of the image and how much of the ice is seen."""
    seen, ice = strength
    ridges = 1 - np.abs(2 * plasma(x.shape[2], x.shape[3], ROUGH, rng) - 1)
    return seen * x + ice * ridges


def snow(x: Array, strength: tuple[float, ...], rng: Rng) -> Array:
    """Flakes blown slantwise before a whitened image.

    ``strength``: mean and deviation of the flakes' brightness, their zoom, the least brightness that is a flake, radius and sigma of the wind's
    blur in pixels, and how much of the image keeps its colours.
    """
    mean, deviation, zoom, least, radius, sigma, kept = strength
    flakes = zoomed(rng.normal(mean, deviation, size=(1, 1, *x.shape[2:])), zoom)
    flakes = np.where(flakes < least, 0.0, np.clip(flakes, 0.0, 1.0))
    flakes = motion_blur(flakes, (radius, sigma), rng, angles=(-135.0, -45.0))
    grey = np.einsum("nchw,c->nhw", x, GREY)[:, None] if x.shape[1] == 3 else x.mean(1, keepdims=True)
    pale = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5)
    return pale + flakes + flakes[:, :, ::-1, ::-1]
