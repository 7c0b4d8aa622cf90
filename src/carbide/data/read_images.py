"""Reads folders of images: one sub-folder a class, PNG, JPEG, PGM and others; optionally below ``train`` and ``test``."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carbide.data.raw import PARTS, Block, Raw
from carbide.run import track
from carbide.types import Array, InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".pgm", ".ppm", ".pbm", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def has_image_folders(path: Path) -> bool:
    """Whether a folder holds classes of images, at its top or below train."""
    return bool(_classes(path)) or bool((path / "train").is_dir() and _classes(path / "train"))


def read_images(path: Path, *, size: Sequence[int] | None = None) -> Raw:
    """The images below a folder as bytes ``(n, channels, height, width)``; ``size`` ``(height, width)`` resizes them.

    Raises:
        InputError: if there are no two classes of images, an image is damaged, or sizes differ.
    """
    if size is not None and (len(size) != 2 or not all(isinstance(s, int) and 0 < s <= 10_000 for s in size)):
        raise InputError(f"size is {size!r}; give two whole numbers of pixels, [height, width]")
    tops = {part: path / part for part in PARTS if (path / part).is_dir() and _classes(path / part)} if (path / "train").is_dir() else {"": path}
    if "train" in tops and "test" not in tops:
        raise InputError(f"{path} has a train folder but no test folder with classes; add one, or put the classes right below {path}")
    names = _classes(next(iter(tops.values())))
    if len(names) < 2:
        raise InputError(f"{path} has {len(names)} sub-folder(s) with images; give one sub-folder a class, at least two")
    files = {part: _files(top, names) for part, top in tops.items()}
    opened = [(part, file, label) for part, rows in files.items() for file, label in rows]
    pictures = _open_all([file for _, file, _ in opened], size)
    blocks = {}
    for part in tops:
        rows = [i for i, (p, _, _) in enumerate(opened) if p == part]
        y = np.array([opened[i][2] for i in rows], np.int64)
        blocks[part] = Block(x=pictures[rows], y=y)
    return Raw(blocks=blocks, class_names=tuple(names))


def _classes(path: Path) -> list[str]:
    found = [p for p in path.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))] if path.is_dir() else []
    return sorted(p.name for p in found if any(f.suffix.lower() in SUFFIXES for f in p.iterdir()))


def _files(top: Path, names: list[str]) -> list[tuple[Path, int]]:
    unknown = sorted(set(_classes(top)) - set(names))
    if unknown:
        raise InputError(f"{top} has a class {unknown[0]!r} that the first part lacks; give every part the same classes")
    return [(file, label) for label, name in enumerate(names) if (top / name).is_dir()
            for file in sorted((top / name).iterdir()) if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")]  # fmt: skip


def _open_all(files: list[Path], size: Sequence[int] | None) -> Array:
    images = [_open(file, size) for file in track(files, label="reading images")]
    colour = any(image.mode != "L" for image in images)
    shapes = {image.size for image in images}
    if len(shapes) > 1:
        first = images[0].size
        odd = next(i for i, image in enumerate(images) if image.size != first)
        raise InputError(f"image {files[odd]} is {images[odd].size[0]} wide and {images[odd].size[1]} high, but {files[0]} is {first[0]} by "
                         f"{first[1]}; bring all to one size, or give size: [height, width]")  # fmt: skip
    arrays = [np.asarray(image.convert("RGB") if colour else image, np.uint8) for image in images]
    stacked = np.stack(arrays)
    return np.ascontiguousarray(np.moveaxis(stacked, 3, 1)) if colour else stacked[:, None]


def _open(file: Path, size: Sequence[int] | None) -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("image folders need pillow; install it with: pip install 'carbide[images]'") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as opened:
                mode = opened.mode
                image = opened.convert("L" if mode in ("1", "L", "LA") else "RGB")
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, KeyError, IndexError, OverflowError, MemoryError, Image.DecompressionBombError,
            Image.DecompressionBombWarning) as error:  # fmt: skip
        raise InputError(f"image {file} is damaged or no image ({error}); repair it or leave it out") from error
    if mode.startswith(("I", "F")):
        raise InputError(f"image {file} has more than 8 bits a pixel (mode {mode}); save it with 8 bits, or give the pixels as an npz file")
    return image.resize((size[1], size[0])) if size is not None else image
