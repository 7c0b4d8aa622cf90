"""Reads .npz files: arrays ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test``; nothing in them is ever unpickled.

Optional arrays: ``ids`` and ``source`` (one a row), ``names`` (one a feature), ``class_names``, ``x_validation`` and ``y_validation``.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from carbide.data.door import closest, must_look_like, read_bytes
from carbide.data.raw import PARTS, Block, Raw, images_of, labels_of
from carbide.types import Array, InputError


def read_npz(path: Path) -> Raw:
    """The arrays of an .npz file.

    Raises:
        InputError: if it is no npz, is damaged, holds Python objects, or lacks arrays or rows that fit.
    """
    blob = read_bytes(path)
    must_look_like(blob, str(path), "an npz file", (b"PK\x03\x04", b"PK\x05\x06"))
    arrays = _arrays(blob, str(path))
    if "x" in arrays:
        blocks = {"": _block(arrays, "", str(path))}
    elif "x_train" in arrays:
        blocks = {part: _block(arrays, f"_{part}", str(path)) for part in PARTS if f"x_{part}" in arrays}
    else:
        raise InputError(f"{path} has no array x{closest('x', arrays)}; save x and y, or x_train, y_train, x_test and y_test")
    shapes = {block.x.shape[1:] for block in blocks.values()}
    if len(shapes) > 1:
        raise InputError(f"{path} has parts of different row shapes {sorted(shapes)}; give every part the same features")
    return Raw(blocks=blocks, names=_texts(arrays, "names"), class_names=_class_names(arrays, blocks, str(path)))


def _arrays(blob: bytes, name: str) -> dict[str, Array]:
    try:
        with np.load(io.BytesIO(blob), allow_pickle=False) as npz:
            return {key: npz[key] for key in npz.files}
    except ValueError as error:
        if "allow_pickle" in str(error) or "Object arrays" in str(error):
            raise InputError(f"{name} holds arrays of Python objects, which could run code when read; save plain number arrays instead") from error
        raise InputError(f"{name} is damaged ({error}); save it again with numpy.savez") from error
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, RuntimeError, NotImplementedError, MemoryError, OverflowError, SyntaxError,
            TypeError, AttributeError, RecursionError, IndexError) as error:  # fmt: skip
        raise InputError(f"{name} is damaged or cut short ({type(error).__name__}: {error}); save it again with numpy.savez") from error


def _block(arrays: dict[str, Array], suffix: str, name: str) -> Block:
    x = arrays[f"x{suffix}"]
    if not isinstance(x, np.ndarray) or x.ndim not in (2, 3, 4) or x.dtype.kind not in "biuf":
        raise InputError(f"{name}: x{suffix} has shape {getattr(x, 'shape', '?')} and type {getattr(x, 'dtype', type(x).__name__)}; "
                         "give numbers as rows (n, features) or images (n, channels, height, width)")  # fmt: skip
    if f"y{suffix}" not in arrays or not isinstance(arrays[f"y{suffix}"], np.ndarray):
        raise InputError(
            f"{name} has x{suffix} but no y{suffix}{closest(f'y{suffix}', [a for a in arrays if a != f'x{suffix}'])}; save the labels as y{suffix}"
        )
    if x.ndim == 2 and x.shape[1] == 0:
        raise InputError(f"{name}: x{suffix} has no features; give at least one column")
    y = labels_of(arrays[f"y{suffix}"], len(x), f"{name}: y{suffix}")
    return Block(x=x if x.ndim == 2 else images_of(x, f"{name}: x{suffix}"), y=y, ids=_per_row(arrays, f"ids{suffix}", len(x), name),
                 source=_per_row(arrays, f"source{suffix}", len(x), name))  # fmt: skip


def _per_row(arrays: dict[str, Array], key: str, n: int, name: str) -> Array | None:
    if key not in arrays:
        return None
    if np.shape(arrays[key]) != (n,):
        raise InputError(f"{name}: {key} has shape {np.shape(arrays[key])}, but there are {n} rows; give one value a row")
    return np.asarray(arrays[key]).astype(str)


def _texts(arrays: dict[str, Array], key: str) -> tuple[str, ...]:
    return tuple(np.asarray(arrays[key]).astype(str).ravel().tolist()) if key in arrays else ()


def _class_names(arrays: dict[str, Array], blocks: dict[str, Block], name: str) -> tuple[str, ...]:
    names = _texts(arrays, "class_names")
    top = int(max(block.y.max() for block in blocks.values()))
    if names and top >= len(names):
        raise InputError(f"{name}: y holds label {top}, but there are {len(names)} class_names; name every class")
    return names
