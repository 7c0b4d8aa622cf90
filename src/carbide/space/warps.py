"""Hendrycks & Dietterich 2019, https://arxiv.org/abs/1903.12261: blurs and bends that move pixels: motion, zoom, frosted glass, elastic.

Every function takes images ``(n, channels, height, width)``, a strength of the paper's and a source of randomness, which is the same for all
of the images (the zoom draws nothing).

>>> from carbide.types import rng_for
>>> round(float(motion_blur(np.full((1, 1, 5, 5), 0.5), (6, 1.0), rng_for(0)).min()), 9)
0.5
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Rng


def motion_blur(x: Array, strength: tuple[float, float], rng: Rng, *, angles: tuple[float, float] = (-45.0, 45.0)) -> Array:
    """A streak to one side of each pixel: ``strength`` is (radius, sigma) in pixels, the direction is drawn from ``angles`` in degrees.

    The weights are half a normal density over 2 radius + 1 pixels on a line, rounded to whole pixels; beyond the rim the rim's pixel is read.
    """
    from scipy.ndimage import correlate

    radius, sigma = strength
    angle, reach = np.deg2rad(rng.uniform(*angles)), np.arange(int(2 * radius) + 1)
    weights = np.exp(-(reach**2) / (2 * sigma**2))
    down, across = (np.ceil(reach * part - 0.5).astype(int) for part in (np.sin(angle), np.cos(angle)))
    kernel = np.zeros((4 * int(radius) + 1,) * 2)
    np.add.at(kernel, (down + 2 * int(radius), across + 2 * int(radius)), weights / weights.sum())
    return correlate(x, kernel[None, None], mode="nearest")


def zoomed(x: Array, factor: float) -> Array:
    """The middle of the images, larger by ``factor`` of at least 1, read bilinearly, at the same size."""
    from scipy.ndimage import zoom

    inner: Array = x[:, :, *(slice((side - part) // 2, (side - part) // 2 + part) for side in x.shape[2:] for part in [int(np.ceil(side / factor))])]
    large: Array = np.asarray(zoom(inner, (1, 1, factor, factor), order=1))
    return large[:, :, *(slice((got - side) // 2, (got - side) // 2 + side) for got, side in zip(large.shape[2:], x.shape[2:], strict=True))]


def zoom_blur(x: Array, strength: tuple[float, float], rng: Rng) -> Array:
    """The mean of the image and of its zooms by 1, 1 + step, ... up to ``strength`` = (largest zoom, step)."""
    largest, step = strength
    factors = 1 + step * np.arange(round((largest - 1) / step) + 1)
    return (x + sum(zoomed(x, float(factor)) for factor in factors)) / (len(factors) + 1)


def shuffled(height: int, width: int, reach: int, rounds: int, rng: Rng) -> Array:
    """Where each pixel of an image seen through glass comes from ``(height width,)``: neighbours at most ``reach`` apart change places, one after another."""
    place = list(range(height * width))
    for _ in range(rounds):
        rows, columns = range(height - reach, reach, -1), range(width - reach, reach, -1)
        moves = rng.integers(-reach, reach, size=(len(rows), len(columns), 2)).tolist()
        for row, line in zip(rows, moves, strict=True):
            for column, (down, across) in zip(columns, line, strict=True):
                here, there = row * width + column, (row + down) * width + column + across
                place[here], place[there] = place[there], place[here]
    return np.array(place)


def glass_blur(x: Array, strength: tuple[float, int, int], rng: Rng) -> Array:
    """Blurred, shuffled, blurred again: ``strength`` is (sigma, reach, rounds)."""
    from scipy.ndimage import gaussian_filter

    sigma, reach, rounds = strength
    soft = gaussian_filter(x, (0, 0, sigma, sigma), mode="nearest")
    moved = soft.reshape(*x.shape[:2], -1)[:, :, shuffled(x.shape[2], x.shape[3], reach, rounds, rng)].reshape(x.shape)
    return gaussian_filter(moved, (0, 0, sigma, sigma), mode="nearest")


def elastic(x: Array, strength: tuple[float, float, float], rng: Rng) -> Array:
    """An affine change, then a smooth field of shifts: ``strength`` is (height of the shifts, their sigma, the affine change), in shorter sides.

    The affine change moves three points about the middle, each by a uniform draw; both are read bilinearly, over the rim by reflection.
    """
    from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates

    size = x.shape[2:]
    height, sigma, bend = (min(size) * part for part in strength)
    middle, reach = np.array(size) // 2, max(1, min(size) // 3)
    points = np.array([middle + reach, middle + (reach, -reach), middle - reach], float)
    moved = points + rng.uniform(-bend, bend, size=points.shape)
    back = np.linalg.solve(np.column_stack([moved, np.ones(3)]), points)  # an output's place, 1 -> the place that is read
    fields = [
        height * gaussian_filter(rng.uniform(-1, 1, size=size), sigma, mode="reflect", truncate=3.0) if height else np.zeros(size) for _ in size
    ]
    places = np.indices(size) + np.stack(fields)

    def one(image: Array) -> Array:
        turned = affine_transform(image, back[:2].T, offset=back[2], order=1, mode="mirror")
        return map_coordinates(turned, places, order=1, mode="reflect")

    return np.stack([one(image) for image in x.reshape(-1, *size)]).reshape(x.shape)
