"""The door of the data: one function that reads every source, checks it, cuts it and says what it did.

>>> loaded = load_data("patients")
>>> len(loaded.splits.train.space.names)
30
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carbide.data.arrays import merged, splits_of_raw
from carbide.data.columns import fill_rule
from carbide.data.door import closest, existing
from carbide.data.parts import PARTS, Cutting
from carbide.data.read_frame import is_table_name, read_frame, split_member
from carbide.data.read_idx import is_idx_name, read_idx
from carbide.data.read_images import has_image_folders, read_images
from carbide.data.read_npz import read_npz
from carbide.space.files import load_space
from carbide.types import Dataset, InputError, Space, Splits, rng_for

BUILTIN = ("fraud", "patients", "images")
READER_OPTIONS = {"table": ("header", "names", "separator", "encoding", "categorical"), "idx": ("labels",), "images": ("size",), "npz": ()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """Train, validation and test rows, and ``notes``: sentences about what was read, cut, filled or looks suspicious."""

    splits: Splits
    notes: tuple[str, ...] = ()


def load_data(source: str | Path, *, label: str | int | None = None, test: str | None = None, validation: str | None = None,
              space: str | Path | Mapping[str, Any] | Space | None = None, group: str | None = None, time: str | None = None,
              drop: Sequence[str] = (), missing: Sequence[str] = (), positive: Any = None, fill: str | float | None = None,
              split: Sequence[float] = (0.6, 0.2, 0.2), rows: int | None = None, seed: int = 0, source_column: str | None = None,
              duplicates: str = "group", **reader: Any) -> Loaded:  # fmt: skip
    """Train, validation and test rows from a built-in case, a file or a folder.

    Args:
        source: ``fraud``, ``patients`` or ``images``; ``.npz``; IDX images (or MNIST's folder); ``.csv``, ``.csv.gz``, ``file.zip::member.csv``,
            ``.parquet``; a folder with one sub-folder of images a class.
        label: the label column of a table; its values are sorted and become 0, 1, ... unless ``positive`` names those of class 1.
        test, validation: files of their own for these parts; without them rows are cut by ``split`` shares.
        space: a space file (JSON) or ``Space``; columns that it does not name are left out. Inferred from training rows when None.
        group, time: columns that keep rows together, or that order them; neither stays a feature.
        drop, missing: columns to leave out; cell texts that stand for missing beside the empty one.
        fill: what missing cells become: ``median``, a number, ``drop`` (the row goes) or ``keep`` (NaN). None refuses them.
        rows: at most so many rows, drawn by the seed. source_column: who supplied each row.
        duplicates: rows with equal features stay in one part (``group``), go (``drop``) or are left alone (``keep``).
        reader: of tables ``header`` (False = none), ``names``, ``separator``, ``encoding``, ``categorical``; of IDX ``labels``; of folders ``size``.

    Raises:
        InputError: one sentence for whatever cannot be read or used.
    """
    how = Cutting(shares=tuple(split), rows=rows, duplicates=duplicates, seed=seed)  # type: ignore[arg-type]
    table_only = {"label": label, "group": group, "time": time, "positive": positive, "source_column": source_column, "drop": drop or None,
                  "missing": missing or None}  # fmt: skip
    if str(source) in BUILTIN:
        others = {"test": test, "validation": validation, "space": space, "fill": fill}
        _refuse(table_only | others | reader, f"the built-in case {source}")
        return _builtin(str(source), how)
    if validation is not None and test is None:
        raise InputError(f"validation is {validation!r}, but no test file is named; name both, or only test")
    named = {"": str(source)} if test is None else {"train": str(source), "validation": validation, "test": test}
    files = {part: str(file) for part, file in named.items() if file is not None}
    kind = _common_kind(files)
    for option in reader:
        if option not in READER_OPTIONS[kind]:
            hint = closest(option, READER_OPTIONS[kind]) if READER_OPTIONS[kind] else "; leave it out"
            raise InputError(f"option {option!r} does not go with {source}{hint}")
    known = None if space is None else space if isinstance(space, Space) else load_space(space)
    if kind == "table":
        meaning = {"label": label, "positive": positive, "group": group, "time": time, "source": source_column, "drop": _listed(drop),
                   "categorical": _listed(reader.pop("categorical", None) or ()), "fill": fill_rule(fill)}  # fmt: skip
        return _tables(files, meaning, how, known, {"missing": _listed(missing), **reader})
    _refuse(table_only, f"{source}, which is no table")
    readers = {"npz": read_npz, "idx": read_idx, "images": read_images}
    raws = {part: readers[kind](Path(file), **reader) for part, file in files.items()}
    splits, notes = splits_of_raw(merged(raws), how, space=known, name=_name(str(source)), fill=fill_rule(fill))
    return Loaded(splits=splits, notes=notes)


def _tables(files: Mapping[str, str], meaning: Mapping[str, Any], how: Cutting, space: Space | None, options: Mapping[str, Any]) -> Loaded:
    from carbide.data.tables import Meaning, splits_of_frames

    frames = {part: read_frame(file, **options) for part, file in files.items()}
    splits, notes = splits_of_frames(frames, Meaning(**meaning), how, space=space, name=_name(next(iter(files.values()))))
    return Loaded(splits=splits, notes=notes)


def _common_kind(files: Mapping[str, str]) -> str:
    kinds = {part: kind_of(file) for part, file in files.items()}
    first = next(iter(kinds.values()))
    odd = next((part for part, kind in kinds.items() if kind != first), None)
    if odd is not None:
        raise InputError(f"data {files[odd]} is of another kind ({kinds[odd]}) than the training data ({first}); give both in one format")
    return first


def kind_of(source: str) -> str:
    """What a path holds by its name and, for folders, its content: ``table``, ``npz``, ``idx`` or ``images``.

    Raises:
        InputError: if it is not there or its name says none of these.
    """
    path, _ = split_member(source)
    existing(path)
    if path.is_dir():
        try:
            if any(is_idx_name(p.name) for p in path.iterdir()):
                return "idx"
            if has_image_folders(path):
                return "images"
        except OSError as error:
            raise InputError(f"folder {path} cannot be read ({error.strerror or error}); check that you may open it and what lies in it") from error
        raise InputError(f"folder {path} holds neither IDX files nor sub-folders with images; name a file, or put one sub-folder a class into it")
    if is_table_name(path.name):
        return "table"
    if path.name.lower().endswith(".npz"):
        return "npz"
    if is_idx_name(path.name):
        return "idx"
    raise InputError(
        f"data {path} has an ending that Carbide does not read; give .csv, .csv.gz, .zip, .parquet, .npz, IDX (-ubyte, .gz) or a folder of images"
    )


def _name(source: str) -> str:
    path, inner = split_member(source)
    return (inner or path.name).rsplit("/", 1)[-1].split(".")[0] or path.name


def _listed(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str | int | float) else tuple(value)


def _refuse(given: Mapping[str, Any], whom: str) -> None:
    for option, value in given.items():
        if value is not None:
            raise InputError(f"{option} is {value!r}, but it does not go with {whom}; leave it out")


def _builtin(name: str, how: Cutting) -> Loaded:
    from carbide.data.cases import builtin

    splits = builtin(name, seed=how.seed)
    if how.rows is None:
        return Loaded(splits=splits)
    total = sum(len(getattr(splits, part)) for part in PARTS)
    if how.rows >= total:
        return Loaded(splits=splits)
    parts = {}
    for part in PARTS:
        whole: Dataset = getattr(splits, part)
        n = max(2, round(how.rows * len(whole) / total))
        parts[part] = whole.take(np.sort(rng_for(how.seed, "rows", part).permutation(len(whole))[:n]))
        if len(np.unique(parts[part].y)) < 2:
            raise InputError(f"rows is {how.rows}, which leaves the {part} part of {name} with one class only; ask for more rows")
    return Loaded(
        splits=Splits(train=parts["train"], validation=parts["validation"], test=parts["test"]), notes=(f"{how.rows} of {total} rows were drawn",)
    )
