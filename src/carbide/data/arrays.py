"""Arrays from a file as train, validation and test rows: parts merged, rows cut, images scaled, gaps filled, the space found.

>>> import numpy as np
>>> from carbide.data.raw import Block
>>> raw = Raw(blocks={"": Block(x=np.arange(40.0).reshape(20, 2), y=np.arange(20) % 2)})
>>> len(splits_of_raw(raw, Cutting(), space=None, name="twenty", fill=None)[0].train)
12
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from carbide.data.columns import GAPS, fill_numbers
from carbide.data.parts import PARTS, Cutting, Rows, cut, ids_of, row_keys
from carbide.data.raw import Block, Raw, unit_images
from carbide.space.infer import infer_space
from carbide.types import Array, Dataset, InputError, Space, Splits

INFERRED = "the space (kinds, bounds, relations) was inferred from the training rows; confirm it with: carbide space infer, then name it as space:"


def merged(raws: Mapping[str, Raw]) -> Raw:
    """One Raw of several files, each of which is one part.

    Raises:
        InputError: if a file holds several parts, or features or classes differ.
    """
    if len(raws) == 1:
        return next(iter(raws.values()))
    first = raws["train"]
    for part, raw in raws.items():
        if "" not in raw.blocks:
            raise InputError(f"the {part} data already hold parts {', '.join(raw.blocks)}; give files with one part each, or leave test out")
        shape, expected = raw.blocks[""].x.shape[1:], first.blocks[""].x.shape[1:]
        if shape != expected:
            raise InputError(f"the {part} rows have shape {shape}, but training rows have {expected}; give the same features")
        if raw.class_names != first.class_names or raw.names != first.names:
            raise InputError(f"the {part} data name other classes or features than the training data; give the same ones in the same order")
    return replace(first, blocks={part: raw.blocks[""] for part, raw in raws.items()})


def splits_of_raw(raw: Raw, how: Cutting, *, space: Space | None, name: str, fill: str | float | None) -> tuple[Splits, tuple[str, ...]]:
    """The splits of arrays and sentences about what was done.

    Raises:
        InputError: if values, labels or shapes cannot be used, or the rows cannot be cut.
    """
    notes = list(raw.notes)
    whole = _joined(raw.blocks)
    _every_class(whole.y, raw, name)
    part = np.concatenate([np.full(len(block.y), key) for key, block in raw.blocks.items()])
    used = _used(whole.x, how, fill, notes)
    x, y, part = whole.x[used], whole.y[used], part[used]
    keys = row_keys(x)
    if x.ndim == 4:
        x, scaled = unit_images(x, name)
        notes += [scaled] if scaled else []
    beyond: tuple[str, ...] = ()
    chosen = cut(Rows(y=y, keys=keys, part=part), how)
    notes += chosen.notes
    if x.ndim == 4:
        bare = Space.image(x.shape[1:])
    else:
        names = raw.names or tuple(f"x{i}" for i in range(x.shape[1]))
        if len(names) != x.shape[1]:
            raise InputError(f"data {name} has {len(names)} names for {x.shape[1]} features; name each feature")
        beyond = (GAPS,) if fill == "median" and np.isnan(x).any() else ()
        x, bare = _filled(x.astype(np.float64), names, chosen.rows["train"], fill), Space.table(names)
    if space is not None and space.shape != x.shape[1:]:
        raise InputError(f"the space has shape {space.shape}, but rows of {name} have {x.shape[1:]}; give the space of these rows")
    full = Dataset(x=x, y=y, ids=ids_of(keys) if whole.ids is None else whole.ids[used], space=space or bare, classes=raw.classes, name=name, beyond=beyond,
                   source=np.full(len(y), name) if whole.source is None else whole.source[used],
                   class_names=raw.class_names or tuple(map(str, range(raw.classes))))  # fmt: skip
    if space is None and x.ndim == 2:
        full = replace(full, space=infer_space(full.take(chosen.rows["train"])))
        notes.append(INFERRED)
    parts = {p: full.take(chosen.rows[p]) for p in PARTS}
    return Splits(**parts, seen=chosen.seen), tuple(notes)


def _joined(blocks: Mapping[str, Block]) -> Block:
    several = list(blocks.values())

    def optional(arrays: list[Array | None]) -> Array | None:
        known = [a for a in arrays if a is not None]
        return np.concatenate(known) if len(known) == len(arrays) else None

    return Block(x=np.concatenate([b.x for b in several]), y=np.concatenate([b.y for b in several]), ids=optional([b.ids for b in several]),
                 source=optional([b.source for b in several]))  # fmt: skip


def _every_class(y: Array, raw: Raw, name: str) -> None:
    absent = np.flatnonzero(np.bincount(y, minlength=raw.classes) == 0)
    if len(absent):
        raise InputError(
            f"data {name} has labels up to {raw.classes - 1}, but no row of class {absent[0]}; number the classes 0, 1, 2, ... without gaps"
        )


def _used(x: Array, how: Cutting, fill: str | float | None, notes: list[str]) -> Array:
    used = how.drawn(len(x))
    if x.ndim != 2 or fill != "drop":
        return used
    whole = ~np.isnan(x[used]).any(1)
    if not whole.any():
        raise InputError("every row has a missing value, so fill: drop leaves none; give fill: median or a number")
    notes.append(f"{int((~whole).sum())} rows with missing values were left out")
    return used[whole]


def _filled(x: Array, names: tuple[str, ...], train: Array, fill: str | float | None) -> Array:
    infinite = np.isinf(x)
    if infinite.any():
        row, column = (int(i) for i in np.argwhere(infinite)[0])
        raise InputError(f"feature {names[column]} is infinite in row {row} ({int(infinite.sum())} such values); correct or leave out these rows")
    return np.column_stack([fill_numbers(x[:, j], train, names[j], fill) for j in range(x.shape[1])])
