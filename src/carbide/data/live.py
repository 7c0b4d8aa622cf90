"""Arrays and frames that a program already holds, as data sets: the same checks as for files.

>>> import numpy as np
>>> parts = splits_of((np.eye(10), np.arange(10) % 2), space=None, seed=0)
>>> len(parts.train), len(parts.validation), len(parts.test)
(6, 2, 2)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from carbide.data.splits import cut_rows
from carbide.types import Array, Dataset, InputError, Space, Splits


def dataset_of(x: Any, y: Any, *, space: Space | None = None, classes: int | None = None, name: str = "data") -> Dataset:
    """Rows ``(n, d)`` or images ``(n, c, h, w)`` and labels ``(n,)`` as a data set; a table's space is inferred.

    Raises:
        InputError: for NaN, non-numbers, shapes that do not fit, labels that are no whole numbers >= 0, one class only.
    """
    names = tuple(str(c) for c in x.columns) if hasattr(x, "columns") else ()
    rows = _numbers(x)
    labels = _labels(y, len(rows))
    k = int(labels.max()) + 1 if classes is None else classes
    if labels.max() >= k:
        raise InputError(f"y holds label {labels.max()}, but there are {k} classes; give labels in 0..{k - 1}")
    if rows.ndim not in (2, 4):
        raise InputError(f"x has shape {rows.shape}; give rows (n, features) or images (n, channels, height, width)")
    space = space or _space(rows, names)
    if rows.shape[1:] != space.shape:
        raise InputError(f"x has rows of shape {rows.shape[1:]}, but the space has shape {space.shape}; give the space of these rows")
    return Dataset(x=rows, y=labels, ids=row_ids(rows), source=np.full(len(rows), "given"), space=space, classes=max(k, 2), name=name,
                   class_names=tuple(str(c) for c in range(max(k, 2))))  # fmt: skip


def splits_of(data: Any, *, space: Space | None, seed: int) -> Splits:
    """Splits from ``(x, y)``, a ``Dataset``, or ``{"train": (x, y), "test": (x, y)[, "validation": (x, y)]}``.

    Raises:
        InputError: if the form is another one or a part is wrong.
    """
    if isinstance(data, tuple) and len(data) == 2:
        data = dataset_of(*data, space=space)
    if isinstance(data, Dataset):
        cuts = cut_rows(len(data), (0.6, 0.2, 0.2), np.random.default_rng(seed), y=data.y)
        train, validation, test = (data.take(rows) for rows in cuts)
        return _checked(Splits(train=train, validation=validation, test=test))
    if isinstance(data, Mapping) and {"train", "test"} <= set(data) <= {"train", "validation", "test"}:
        return _checked(_from_parts(data, space, seed))
    raise InputError(f"data is a {type(data).__name__}; give (x, y), Splits, a path, or a mapping with train and test")


def _from_parts(data: Mapping[str, Any], space: Space | None, seed: int) -> Splits:
    k = max(int(_labels(part[1], len(part[1])).max()) for part in data.values()) + 1
    train = data["train"] if isinstance(data["train"], Dataset) else dataset_of(*data["train"], space=space, classes=k)
    rest = {name: part if isinstance(part, Dataset) else dataset_of(*part, space=train.space, classes=train.classes)
            for name, part in data.items() if name != "train"}  # fmt: skip
    if "validation" not in rest:
        first, second, _ = cut_rows(len(train), (0.8, 0.2, 0.0), np.random.default_rng(seed), y=train.y)
        train, rest["validation"] = train.take(first), train.take(second)
    return Splits(train=train, validation=rest["validation"], test=rest["test"])


def _checked(splits: Splits) -> Splits:
    for name in ("train", "validation", "test"):
        part: Dataset = getattr(splits, name)
        if len(part) < 2 or len(np.unique(part.y)) < 2:
            raise InputError(f"the {name} part has {len(part)} rows of {len(np.unique(part.y))} class(es); give more rows, of at least two classes")
    return splits


def row_ids(x: Array) -> Array:
    """Stable ids ``(n,)`` from the rows' content; a repeated row gets a counter."""
    seen: dict[str, int] = {}
    found = []
    for row in np.ascontiguousarray(x, dtype=np.float64).reshape(len(x), -1):
        key = hashlib.sha256(row.tobytes()).hexdigest()[:16]
        count = seen[key] = seen.get(key, 0) + 1
        found.append(key if count == 1 else f"{key}-{count}")
    return np.array(found)


def _numbers(x: Any) -> Array:
    try:
        if np.ma.is_masked(x):
            raise InputError("x has masked values, whose mask would be lost; fill or drop them first")
        rows = np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)
        if rows.dtype.kind == "c":
            raise InputError(f"x holds complex numbers ({rows.dtype}); give their parts as features of their own")
        rows = rows.astype(np.float32 if rows.dtype == np.float32 else np.float64)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"x holds what is no number ({error}); turn text columns into numbers first") from error
    if rows.ndim == 0 or len(rows) == 0:
        raise InputError("x holds no rows; give at least a few")
    if not np.isfinite(rows).all():
        raise InputError(f"x holds {int((~np.isfinite(rows)).sum())} values that are NaN or infinite; fill or drop them first")
    return rows


def _labels(y: Any, n: int) -> Array:
    if np.ma.is_masked(y):
        raise InputError("y has masked values, whose mask would be lost; drop these rows first")
    labels = np.asarray(y.detach().cpu() if hasattr(y, "detach") else y)
    if labels.shape != (n,):
        raise InputError(f"y has shape {labels.shape}, but x has {n} rows; give one label a row")
    if labels.dtype.kind not in "biuf" or (labels != np.floor(labels)).any() or labels.min() < 0:
        raise InputError(f"y holds {labels[:3].tolist()}...; give whole numbers 0, 1, 2, ...")
    return labels.astype(np.int64)


def _space(rows: Array, names: tuple[str, ...]) -> Space:
    if rows.ndim == 4:
        if rows.min() < 0 or rows.max() > 1:
            raise InputError(f"images hold values in [{rows.min():g}, {rows.max():g}]; scale them to [0, 1] and put normalisation inside the model")
        return Space.image(rows.shape[1:])
    low, high = rows.min(0), rows.max(0)
    kind = np.where((rows == np.floor(rows)).all(0), 1, 0)
    return Space.table(names or tuple(f"x{i}" for i in range(rows.shape[1])), lower=low, upper=high, kind=kind)
