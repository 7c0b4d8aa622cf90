"""Reads IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist/): plain or gzipped, images beside labels.

Two zero bytes, one for the type of the values, one for the number of dimensions, each dimension as four bytes, then the values.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from carbide.data.door import existing, must_look_like, read_bytes, unzipped
from carbide.data.raw import Block, Raw, images_of, labels_of
from carbide.types import Array, InputError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
STEMS = {"train": ("train",), "test": ("t10k", "test")}


def is_idx_name(name: str) -> bool:
    """Whether a file name says IDX."""
    plain = name.lower().removesuffix(".gz")
    return plain.endswith((".idx", "-ubyte")) or any(f"idx{d}" in plain for d in (1, 2, 3, 4))


def read_idx(path: Path, *, labels: str | None = None) -> Raw:
    """The images and labels of one IDX file (and its labels file), or of a folder with the four files of MNIST.

    Raises:
        InputError: if a file is missing, mislabelled, damaged or cut short, or rows and labels differ in number.
    """
    if not path.is_dir():
        return Raw(blocks={"": _pair(path, Path(labels) if labels else _labels_file(path))})
    files = sorted(p for p in path.iterdir() if is_idx_name(p.name))
    found = {}
    for part, stems in STEMS.items():
        images = [p for p in files if p.name.lower().startswith(stems) and "label" not in p.name.lower()]
        if len(images) > 1:
            raise InputError(f"{path} holds {len(images)} image files of the {part} part ({images[0].name}, {images[1].name}); keep one")
        if images:
            found[part] = _pair(images[0], _labels_file(images[0]))
    if "train" not in found:
        raise InputError(f"{path} holds no training images; name them like train-images-idx3-ubyte.gz")
    if "test" not in found:
        found = {"": found["train"]}
    if len({block.x.shape[1:] for block in found.values()}) > 1:
        raise InputError(
            f"{path} has training images of shape {found['train'].x.shape[1:]} and test images of {found['test'].x.shape[1:]}; give one shape"
        )
    return Raw(blocks=found)


def _labels_file(images: Path) -> Path:
    name = images.name
    for old, new in (("images-idx3", "labels-idx1"), ("images.idx3", "labels.idx1"), ("images", "labels"), ("idx3", "idx1")):
        if old in name and (there := images.with_name(name.replace(old, new))).exists():
            return there
    raise InputError(
        f"data {images} has no labels file beside it; name it like {name.replace('images', 'labels').replace('idx3', 'idx1')}, or give labels:"
    )


def _pair(images: Path, labels: Path) -> Block:
    x, y = read_array(existing(images)), read_array(existing(labels))
    if x.ndim not in (3, 4):
        raise InputError(f"{images} has {x.ndim} dimension(s); images have three (n, height, width)")
    if len(x) != len(y):
        raise InputError(f"{images} holds {len(x)} images, but {labels.name} holds {len(y)} labels; give files that belong together")
    return Block(x=images_of(x, str(images)), y=labels_of(y, len(x), str(labels)))


def read_array(path: Path) -> Array:
    """The array of one IDX file.

    Raises:
        InputError: if it is no IDX file or has other than the promised number of bytes.
    """
    blob, name = read_bytes(path), str(path)
    packed = blob.startswith(b"\x1f\x8b")
    must_look_like(unzipped(blob, name, limit=4) if packed else blob, name, "an IDX file", (b"\x00\x00",))
    head = unzipped(blob, name, limit=64) if packed else blob[:64]
    if len(head) < 4 or head[2] not in TYPES or not 1 <= head[3] <= 4 or len(head) < 4 + 4 * head[3]:
        raise InputError(f"{name} has no IDX header (its first bytes are {head[:4].hex()}); give the file as it was published")
    shape = struct.unpack(f">{head[3]}I", head[4 : 4 + 4 * head[3]])
    dtype = np.dtype(TYPES[head[2]])
    start, size = 4 + 4 * head[3], math.prod(shape) * dtype.itemsize
    data = unzipped(blob, name, limit=start + size + 1) if packed else blob
    if len(data) != start + size:
        have = "more" if len(data) > start + size else f"{len(data) - start:,}"
        raise InputError(f"{name} promises {shape} values in {size:,} bytes, but holds {have}; it is damaged or cut short, download it again")
    if size == 0:
        raise InputError(f"{name} holds no values; its shape is {shape}")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
