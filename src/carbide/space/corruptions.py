"""Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261: common corruptions of images at five severities.

All fifteen of the paper and its four spare ones, with its strengths: those for CIFAR-10-C where the shorter side is at most 64 pixels, those
for ImageNet-C elsewhere. What is drawn (noise, weather, directions, bends) comes in ``DRAWS`` fixed patterns, so that a
corruption is decided by its kind and the pattern's number. Frost is drawn, where the paper lays photographs over the image (``weather.py``).

>>> from carbide.types import Corruption, Space
>>> x, threat, space = np.full((1, 1, 4, 4), 0.5), Corruption(severity=3, kinds=("brightness",)), Space.image((1, 4, 4))
>>> corrupt(x, np.zeros(1), np.zeros(1), threat, space)[0, 0, 0].round(9).tolist()
[0.65, 0.65, 0.65, 0.65]
"""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np

from carbide.space.hsv import shift_hsv
from carbide.space.jpeg import jpeg
from carbide.space.spatter import spatter
from carbide.space.warps import elastic, glass_blur, motion_blur, zoom_blur
from carbide.space.weather import fog, frost, snow
from carbide.types import CORRUPTIONS, Array, Corruption, Space, rng_for

DRAWS = 3  # patterns of what is drawn
SMALL = 64  # pixels of the shorter side up to which an image gets the milder strengths
STRENGTHS: dict[str, tuple[Any, Any]] = {  # at severities 1 to 5, for small images and for large ones
    "gaussian_noise": ((0.04, 0.06, 0.08, 0.09, 0.1), (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),
    "impulse_noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),
    "speckle_noise": ((0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6)),
    "gaussian_blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),
    "defocus_blur": (((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)), ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "saturate": (((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)), ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))),
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
    "glass_blur": (((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)), ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": (((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)), ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": (((1.05, 0.01), (1.1, 0.01), (1.15, 0.01), (1.2, 0.01), (1.25, 0.01)),
                  ((1.1, 0.01), (1.15, 0.01), (1.2, 0.02), (1.24, 0.02), (1.3, 0.03))),
    "snow": (((0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9), (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9), (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
              (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8)),
             ((0.1, 0.3, 3, 0.5, 10, 4, 0.8), (0.2, 0.3, 2, 0.5, 12, 4, 0.7), (0.55, 0.3, 4, 0.9, 12, 8, 0.7), (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
              (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55))),
    "frost": (((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)), ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "fog": (((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)), ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "elastic_transform": (((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),  # of the shorter side
                          ((2.179, 0.7625, 0.1089), (2.179, 0.0871, 0.2179), (0.0545, 0.0109, 0.0218), (0.0763, 0.0109, 0.0218), (0.1307, 0.0109, 0.0218))),
    "spatter": (((0.62, 0.1, 0.7, 0.7, 0.5, 0), (0.65, 0.1, 0.8, 0.7, 0.5, 0), (0.65, 0.3, 1, 0.69, 0.5, 0), (0.65, 0.1, 0.7, 0.69, 0.6, 1),
                 (0.65, 0.1, 0.5, 0.68, 0.6, 1)),
                ((0.65, 0.3, 4, 0.69, 0.6, 0), (0.65, 0.3, 3, 0.68, 0.6, 0), (0.65, 0.3, 2, 0.68, 0.5, 0), (0.65, 0.3, 1, 0.65, 1.5, 1),
                 (0.67, 0.4, 1, 0.65, 1.5, 1))),
}  # fmt: skip
STILL = frozenset(
    {"gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "saturate", "pixelate", "jpeg_compression"}
)  # nothing is drawn


def drawn(kind: str) -> bool:
    """Whether a kind draws a pattern."""
    return kind not in STILL


def kinds_of(threat: Corruption, space: Space) -> tuple[str, ...]:
    """The kinds that the threat names and that can be rendered on images of this space."""
    gone = missing_kinds(threat, space)
    return tuple(kind for kind in threat.kinds or CORRUPTIONS if kind not in gone)


def missing_kinds(threat: Corruption, space: Space) -> dict[str, str]:
    """The kinds that the threat names and that cannot be rendered here, with the reason of each."""
    channels, found = space.shape[0], {}
    for kind in threat.kinds or CORRUPTIONS:
        if kind == "saturate" and channels != 3:
            found[kind] = f"colour is of images of 3 channels, and these have {channels}"
        if kind == "jpeg_compression" and channels not in (1, 3):
            found[kind] = f"JPEG is of images of 1 or 3 channels, and these have {channels}"
        elif kind in ("jpeg_compression", "pixelate") and importlib.util.find_spec("PIL") is None:
            found[kind] = "it needs the images extra (pillow)"
    return found


def corrupt(x: Array, kind: Array, draw: Array, threat: Corruption, space: Space) -> Array:
    """Images ``(n, channels, height, width)`` in [0, 1], each with its ``kind`` ``(n,)`` of corruption and pattern ``draw`` ``(n,)``."""
    out, kinds = x.copy(), kinds_of(threat, space)
    side = 0 if min(space.shape[1:]) <= SMALL else 1
    for number, pattern in {(int(k), int(d)) for k, d in zip(kind, draw, strict=True)}:
        rows = np.flatnonzero((kind == number) & (draw == pattern))
        name = kinds[number]
        out[rows] = _MAKERS[name](x[rows], STRENGTHS[name][side][threat.severity - 1], pattern)
    return out


@functools.lru_cache(maxsize=64)
def _normal(kind: str, shape: tuple[int, ...], pattern: int) -> Array:
    return rng_for(pattern, "corruption", kind).normal(size=shape)


@functools.lru_cache(maxsize=64)
def _uniform(kind: str, shape: tuple[int, ...], pattern: int) -> Array:
    return rng_for(pattern, "corruption", kind).uniform(size=shape)


def _gaussian(x: Array, strength: float, pattern: int) -> Array:
    return x + strength * _normal("gaussian", x.shape[1:], pattern)


def _shot(x: Array, strength: float, pattern: int) -> Array:
    from scipy.stats import poisson

    return poisson.ppf(_uniform("shot", x.shape[1:], pattern), np.clip(x, 0.0, 1.0) * strength) / strength


def _impulse(x: Array, strength: float, pattern: int) -> Array:
    place = _uniform("impulse", x.shape[1:], pattern)
    return np.where(place < strength / 2, 0.0, np.where(place > 1 - strength / 2, 1.0, x))


def _speckle(x: Array, strength: float, pattern: int) -> Array:
    return x + x * strength * _normal("speckle", x.shape[1:], pattern)


def _blur(x: Array, strength: float, pattern: int) -> Array:
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(x, (0, 0, strength, strength), mode="nearest")


def _defocus(x: Array, strength: tuple[float, float], pattern: int) -> Array:
    from scipy.ndimage import correlate, gaussian_filter

    radius, alias = strength
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (reach[:, None] ** 2 + reach[None] ** 2 <= radius**2).astype(float)
    disk = gaussian_filter(disk / disk.sum(), alias, radius=1 if radius <= 8 else 2, mode="mirror")
    return correlate(x, disk[None, None], mode="mirror")


def _bright(x: Array, strength: float, pattern: int) -> Array:
    if x.shape[1] != 3:
        return x + strength
    none = np.zeros(len(x))
    return shift_hsv(x, none, none, none + strength)


def _contrast(x: Array, strength: float, pattern: int) -> Array:
    middle = x.mean((2, 3), keepdims=True)
    return middle + strength * (x - middle)


def _saturate(x: Array, strength: tuple[float, float], pattern: int) -> Array:
    none = np.zeros(len(x))
    return shift_hsv(x, none, none + strength[1], none, gain=strength[0])


def _pixelate(x: Array, strength: float, pattern: int) -> Array:
    from PIL import Image

    height, width = x.shape[2:]
    small = (max(1, int(width * strength)), max(1, int(height * strength)))

    def one(image: Array) -> Array:
        return np.asarray(Image.fromarray(image.astype(np.float32)).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.BOX))

    return np.stack([one(image) for image in x.reshape(-1, height, width)]).reshape(x.shape).astype(np.float64)


def _jpeg(x: Array, strength: int, pattern: int) -> Array:
    return np.stack([jpeg(image, strength) for image in x])


def _drawing(how: Any) -> Any:
    """A maker of a corruption that draws for itself: the same pattern for all images."""
    return lambda x, strength, pattern: how(x, strength, rng_for(pattern, "corruption", how.__name__))


_MAKERS: dict[str, Any] = {"gaussian_noise": _gaussian, "shot_noise": _shot, "impulse_noise": _impulse, "speckle_noise": _speckle, "gaussian_blur": _blur,
                           "defocus_blur": _defocus, "brightness": _bright, "contrast": _contrast, "saturate": _saturate, "pixelate": _pixelate,
                           "jpeg_compression": _jpeg, "elastic_transform": _drawing(elastic),
                           **{how.__name__: _drawing(how) for how in (glass_blur, motion_blur, zoom_blur, snow, frost, fog, spatter)}}  # fmt: skip
