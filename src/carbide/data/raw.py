"""Arrays as a file gives them: one block a part, not yet cut, scaled or named.

>>> import numpy as np
>>> Raw(blocks={"": Block(x=np.zeros((2, 3)), y=np.array([0, 1]))}).classes
2
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from carbide.types import Array, InputError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Rows that belong to one part: ``x`` ``(n, ...)``, ``y`` ``(n,)`` int64; ``ids`` and ``source`` ``(n,)`` where the file has them."""

    x: Array
    y: Array
    ids: Array | None = None
    source: Array | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Raw:
    """The blocks of a source by part; the part ``""`` is still to be cut. ``names`` are feature names, where there are any."""

    blocks: Mapping[str, Block]
    names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        """The number of classes: the named ones, else one more than the highest label."""
        return len(self.class_names) or int(max(block.y.max() for block in self.blocks.values())) + 1


def labels_of(y: Array, n: int, name: str) -> Array:
    """Labels ``(n,)`` int64, checked.

    Raises:
        InputError: if there is not one whole number >= 0 a row, or one number is far beyond the number of rows.
    """
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (n,):
        raise InputError(f"{name} has shape {y.shape}, but there are {n} rows; give one label a row, as a number, not one-hot")
    if n == 0:
        raise InputError(f"{name} is empty; give at least a few rows")
    if y.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of type {y.dtype}; give whole numbers 0, 1, 2, ...")
    whole = np.isfinite(y) if y.dtype.kind == "f" else np.ones(n, bool)
    good = whole & (y >= 0)
    good[whole] &= y[whole] == np.floor(y[whole])
    if not good.all():
        row = int(np.flatnonzero(~good)[0])
        raise InputError(f"{name} holds {y[row]} in row {row}; give whole numbers 0, 1, 2, ...")
    if y.max() >= max(n, 2):
        raise InputError(f"{name} holds label {y.max()}, out of range for {n} rows; number the classes 0, 1, 2, ... without gaps")
    return y.astype(np.int64)


def images_of(x: Array, name: str) -> Array:
    """Images ``(n, c, h, w)`` in the dtype given, from ``(n, h, w)``, ``(n, h, w, c)`` or ``(n, c, h, w)``.

    Raises:
        InputError: if the shape is none of these.
    """
    if x.ndim == 3:
        x = x[:, None]
    elif x.ndim == 4 and x.shape[1] not in (1, 3, 4) and x.shape[3] in (1, 3, 4):
        x = np.moveaxis(x, 3, 1)
    if x.ndim != 4 or 0 in x.shape[1:]:
        raise InputError(f"{name} has shape {x.shape}; give rows (n, features) or images (n, height, width), (n, channels, height, width)")
    return x


def unit_images(x: Array, name: str) -> tuple[Array, str]:
    """Images as float32 in [0, 1] and a sentence if they were scaled; bytes are divided by 255.

    Raises:
        InputError: if other numbers leave [0, 1] or are NaN.
    """
    if x.dtype == np.uint8:
        return x.astype(np.float32) / np.float32(255), "pixels were bytes 0..255 and were divided by 255, so a model must take images in [0, 1]"
    if x.dtype.kind not in "biuf":
        raise InputError(f"{name} holds values of type {x.dtype}; give numbers")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise InputError(f"{name} holds {int((~np.isfinite(x)).sum())} values that are NaN or infinite; repair these images or leave them out")
    if x.size and (x.min() < 0 or x.max() > 1):
        raise InputError(f"{name} holds pixels from {x.min():g} to {x.max():g} as {x.dtype}; scale them to [0, 1] (uint8 is scaled for you), "
                         "and put normalisation inside the model")  # fmt: skip
    return x.astype(np.float32), ""
