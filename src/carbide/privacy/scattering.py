"""Bruna & Mallat 2013, https://arxiv.org/abs/1203.1513: the scattering transform, image features that nothing was learned for.

An image is convolved with Morlet wavelets of two scales and eight directions, the modulus is taken, the result is convolved
with the wavelets of the coarser scale, the modulus is taken again, and every one of these maps is averaged over 4 x 4 pixels.

>>> import numpy as np
>>> scatter(np.zeros((2, 1, 28, 28))).shape
(2, 81, 7, 7)
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from carbide.types import Array, InputError

SCALES = 2  # J: maps are averaged over 2^J pixels
ANGLES = 8
CHUNK = 16  # images transformed at once; some 250 kB each
CHANNELS = 1 + SCALES * ANGLES + SCALES * (SCALES - 1) // 2 * ANGLES**2


def out_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape of the features of one image ``(channels, height, width)``.

    Raises:
        InputError: if the image is narrower than four pixels.
    """
    channels, height, width = shape
    if min(height, width) < 2**SCALES:
        raise InputError(f"images are {height} x {width} pixels, too small for a scattering transform; give at least {2**SCALES} x {2**SCALES}")
    return channels * CHANNELS, height // 2**SCALES, width // 2**SCALES


def scatter(x: Array) -> Array:
    """Features ``(n, 81 c, h // 4, w // 4)`` float32 of images ``(n, c, h, w)``: orders 0, 1 and 2 of each channel in turn."""
    import torch

    n, c, h, w = x.shape
    out = np.empty((n * c, CHANNELS, h // 2**SCALES, w // 2**SCALES), np.float32)
    flat = x.reshape(n * c, h, w)
    with torch.inference_mode():
        for first in range(0, n * c, CHUNK):
            rows = slice(first, first + CHUNK)
            out[rows] = _scatter(torch.as_tensor(np.ascontiguousarray(flat[rows], np.float32))).numpy()
    return out.reshape(n, c * CHANNELS, *out.shape[2:])


def _scatter(x: Any) -> Any:
    """Features ``(n, 81, h // 4, w // 4)`` of images ``(n, h, w)``."""
    import torch

    (top, bottom), (left, right) = (_margins(side) for side in x.shape[1:])
    padded = torch.nn.functional.pad(x[:, None], (left, right, top, bottom), mode="reflect")
    bands, means = _bank(*padded.shape[2:])
    spectrum = torch.fft.fft2(padded)
    zeroth, first, second = [_averaged(padded, means, 0)], [], []
    for scale in range(SCALES):
        modulus = _convolved(spectrum, bands[0, scale], scale)
        first.append(_averaged(modulus, means, scale))
        if scale + 1 == SCALES:
            break  # there is no coarser wavelet
        inner = torch.fft.fft2(modulus)
        for finer in range(scale + 1, SCALES):
            twice = torch.stack([_convolved(inner[:, a : a + 1], bands[scale, finer], finer - scale) for a in range(ANGLES)], 1)
            second.append(_averaged(twice.flatten(1, 2), means, finer))
    return torch.cat([*zeroth, *first, *second], 1)


def _convolved(spectrum: Any, band: Any, octaves: int) -> Any:
    """The modulus ``(n, angles, h / 2^octaves, w / 2^octaves)`` of the map with this spectrum ``(n, 1, h, w)`` after each wavelet of a band."""
    import torch

    return torch.fft.ifft2(_folded(spectrum * band, octaves)).abs()


def _averaged(maps: Any, means: Any, scale: int) -> Any:
    """Maps ``(n, c, h, w)`` averaged over cells, which takes one matrix an axis as the low pass is a product of two."""
    down, across = means[scale]
    return down @ maps @ across.T


def _folded(spectrum: Any, octaves: int) -> Any:
    """The spectrum of the same map at every ``2^octaves``-th pixel: the mean of the aliases."""
    if octaves == 0:
        return spectrum
    k, (h, w) = 2**octaves, spectrum.shape[-2:]
    parts = [spectrum[..., i : i + h // k, j : j + w // k] for i in range(0, h, h // k) for j in range(0, w, w // k)]
    return functools.reduce(lambda a, b: a + b, parts) / k**2  # slices added are far quicker than a sum over two axes


def _padded(side: int) -> int:
    """The side of the padded image: a whole number of cells, at least a cell of room on either end."""
    return ((side + 2**SCALES) // 2**SCALES + 1) * 2**SCALES


def _margins(side: int) -> tuple[int, int]:
    room = _padded(side) - side
    return room // 2, room - room // 2


@functools.lru_cache(maxsize=4)
def _bank(height: int, width: int) -> tuple[dict[tuple[int, int], Any], list[tuple[Any, Any]]]:
    """Real spectra ``(angles, h, w)`` of the wavelets by (scale of the map, scale of the wavelet), and by scale the two matrices that average."""
    import torch

    bands: dict[tuple[int, int], Any] = {}
    for scale in range(SCALES):
        turns = [(ANGLES // 2 - 1 - a) * math.pi / ANGLES for a in range(ANGLES)]
        band = torch.as_tensor(np.stack([np.fft.fft2(_morlet(height, width, scale, angle)).real.astype(np.float32) for angle in turns]))
        bands |= {(at, scale): _folded(band, at) * 4**at for at in range(scale + 1)}  # a coarser map has fewer pixels to sum over
    means = [(_mean_matrix(height, scale), _mean_matrix(width, scale)) for scale in range(SCALES)]
    return bands, [(torch.as_tensor(down), torch.as_tensor(across)) for down, across in means]


def _mean_matrix(side: int, scale: int) -> Array:
    """The matrix ``(cells, side / 2^scale)`` of Gaussian averages at every cell of ``2^SCALES`` pixels but the two at the rim.

    On a coarser map the Gaussian's frequencies above those of the map are left out.
    """
    sigma, pixels, coarse = 0.8 * 2 ** (SCALES - 1), np.arange(side), side // 2**scale
    kernel = np.exp(-((pixels[:, None] + side * np.arange(-2, 3)) ** 2) / (2 * sigma**2)).sum(1) / (math.sqrt(2 * math.pi) * sigma)
    spectrum = np.fft.fft(kernel).real
    kept = np.concatenate([spectrum[: (coarse + 1) // 2], spectrum[side - coarse // 2 :]])
    row, step = np.fft.ifft(kept).real, 2 ** (SCALES - scale)
    return np.stack([np.roll(row, step * cell) for cell in range(1, coarse // step - 1)]).astype(np.float32)


def _morlet(height: int, width: int, scale: int, angle: float) -> Array:
    """A wave under a Gaussian less so much of the Gaussian that its sum is zero."""
    shape = {"sigma": 0.8 * 2**scale, "angle": angle, "slant": 4.0 / ANGLES}
    wave = _gabor(height, width, frequency=0.75 * math.pi / 2**scale, **shape)
    envelope = _gabor(height, width, frequency=0.0, **shape)
    return wave - wave.sum() / envelope.sum() * envelope


def _gabor(height: int, width: int, *, sigma: float, angle: float, frequency: float, slant: float) -> Array:
    """A plane wave under a Gaussian of weight one, wrapped around the torus ``(height, width)``, complex."""
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    curvature = turn @ np.diag([1.0, slant**2]) @ turn.T / (2 * sigma**2)
    out = np.zeros((height, width), complex)
    for down in range(-2, 3):
        for across in range(-2, 3):
            i, j = np.meshgrid(np.arange(height) + down * height, np.arange(width) + across * width, indexing="ij")
            decay = curvature[0, 0] * i * i + 2 * curvature[0, 1] * i * j + curvature[1, 1] * j * j
            out += np.exp(-decay + 1j * frequency * (i * math.cos(angle) + j * math.sin(angle)))
    return out * slant / (2 * math.pi * sigma**2)
