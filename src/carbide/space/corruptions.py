"""Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261: common corruptions of images at five severities.

Noise, blur, light and compression, with the paper's strengths: those for CIFAR-10-C where the shorter side is at most 64 pixels, those
for ImageNet-C elsewhere. Noise comes in ``DRAWS`` fixed patterns, so that a corruption is decided by its kind and the pattern's number.

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
from carbide.types import CORRUPTIONS, Array, Corruption, Space, rng_for

DRAWS = 3  # patterns of noise
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
}


def drawn(kind: str) -> bool:
    """Whether a kind draws a pattern of noise."""
    return kind.endswith("noise")


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


_MAKERS: dict[str, Any] = {"gaussian_noise": _gaussian, "shot_noise": _shot, "impulse_noise": _impulse, "speckle_noise": _speckle, "gaussian_blur": _blur,
                           "defocus_blur": _defocus, "brightness": _bright, "contrast": _contrast, "saturate": _saturate, "pixelate": _pixelate,
                           "jpeg_compression": _jpeg}  # fmt: skip
