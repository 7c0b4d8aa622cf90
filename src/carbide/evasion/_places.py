"""Where a patch may lie on an image, and which places look worst before any pixel is optimised.

A place is four integers ``top, left, tall, wide``. Two cheap looks rank places: what the pixels under a patch could do to first order,
summed over the patch (exact for linear models), and the model's answers where a tile of the image is painted white or black.

>>> mask(torch.tensor([[1, 0, 1, 2]]), 3, 3)[0, 0].int().tolist()
[[0, 0, 0], [1, 1, 0], [0, 0, 0]]
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from carbide.space.patches import shapes

SHAPES = 12  # proportions that are looked at, from the squarest to the longest


def mask(places: Tensor, height: int, width: int) -> Tensor:
    """The pixels ``(m, 1, height, width)`` bool of places ``(m, 4)``."""
    top, left, tall, wide = (places[:, i, None] for i in range(4))
    down, across = (torch.arange(size, device=places.device) for size in (height, width))
    rows, columns = (down >= top) & (down < top + tall), (across >= left) & (across < left + wide)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def proportions(pixels: int, height: int, width: int) -> tuple[tuple[int, int], ...]:
    """At most ``SHAPES`` of the largest rectangles ``(tall, wide)`` of so many pixels, the squarest first."""
    found = sorted(shapes(pixels, height, width), key=lambda s: (abs(math.log(s[0] / s[1])), s))
    if len(found) <= SHAPES:
        return tuple(found)
    return tuple(found[round(i * (len(found) - 1) / (SHAPES - 1))] for i in range(SHAPES))


def steepest(gain: Tensor, sizes: tuple[tuple[int, int], ...], count: int) -> Tensor:
    """The places ``(n, count, 4)`` of these sizes with the largest sums of ``gain`` ``(n, height, width)``, one from each neighbourhood."""
    found, sums = [], []
    whole = nn.functional.pad(gain.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    for tall, wide in sizes:
        total = whole[:, tall:, wide:] - whole[:, :-tall, wide:] - whole[:, tall:, :-wide] + whole[:, :-tall, :-wide]
        near = (max(1, tall // 2), max(1, wide // 2))
        best, where = nn.functional.max_pool2d(total[:, None], near, near, ceil_mode=True, return_indices=True)
        where = where.flatten(1)
        sums.append(best.flatten(1))
        found.append(torch.stack([where // total.shape[2], where % total.shape[2], torch.full_like(where, tall), torch.full_like(where, wide)], 2))
    every, value = torch.cat(found, 1), torch.cat(sums, 1)
    order = value.argsort(dim=1, descending=True, stable=True)[:, :count]
    return every.gather(1, order[:, :, None].expand(-1, -1, 4))


def tiles(size: tuple[int, int], height: int, width: int, count: int) -> Tensor:
    """At most about ``count`` places ``(m, 4)`` of one size that lie evenly: they cover the image, or overlap by half, where so many can."""
    tall, wide = size
    down, across = -(-height // tall), -(-width // wide)
    denser = min(2.0, math.sqrt(count / (down * across)))
    down, across = (min(span + 1, max(1, math.floor(denser * n))) for n, span in ((down, height - tall), (across, width - wide)))
    tops, lefts = (torch.linspace(0, span, n).round().long() for span, n in ((height - tall, down), (width - wide, across)))
    top, left = torch.meshgrid(tops, lefts, indexing="ij")
    return torch.stack([top.flatten(), left.flatten(), torch.full_like(top, tall).flatten(), torch.full_like(top, wide).flatten()], 1)
