"""The door of the data: one function that reads every source, checks it, cuts it and says what it did.

>>> loaded = load_data("patients")
>>> len(loaded.splits.train.space.names)
30
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from carbide.data.columns import fill_numbers, fill_rule
from carbide.data.door import closest, existing
from carbide.data.parts import PARTS, Cutting, Rows, cut, ids_of, row_keys
from carbide.data.raw import Raw, unit_images
from carbide.data.read_frame import is_table_name, read_frame, split_member
from carbide.data.read_idx import is_idx_name, read_idx
from carbide.data.read_images import has_image_folders, read_images
from carbide.data.read_npz import read_npz
from carbide.space.files import load_space
from carbide.space.infer import infer_space
from carbide.types import Dataset, InputError, Space, Splits, rng_for

BUILTIN = ("fraud", "patients", "images")
READER_OPTIONS = {"table": ("header", "names", "separator", "encoding", "categorical"), "idx": ("labels",), "images": ("size",), "npz": ()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """Train, validation and test rows, and ``notes``: sentences about what was read, cut, filled or looks suspicious."""

    splits: Splits
    notes: tuple[str, ...] = ()


def load_data(source: str | Path, *, label: str | int | None = None, test: str | None = None, validation: str | None = None,
              space: str | Path | Mapping[str, Any] | Space | None = None, group: str | None = None, time: str | None = None, drop: Sequence[str] = (),
              missing: Sequence[str] = (), positive: Any = None, fill: str | float | None = None, split: Sequence[float] = (0.6, 0.2, 0.2),
              rows: int | None = None, seed: int = 0, source_column: str | None = None, duplicates: str = "group", **reader: Any) -> Loaded:  # fmt: skip
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
    if str(source) in BUILTIN:
        given = {"label": label, "test": test, "validation": validation, "space": space, "group": group, "time": time, "positive": positive, "fill": fill,
                 "source_column": source_column} | reader  # fmt: skip
        _refuse(given | {"drop": drop or None, "missing": missing or None}, f"the built-in case {source}")
        return _builtin(str(source), how)
    files = {"": str(source)} if test is None else {"train": str(source), "validation": validation, "test": test}
    if validation is not None and test is None:
        raise InputError(f"validation is {validation!r}, but no test file is named; name both, or only test")
    kind = kind_of(str(source))
    for option in reader:
        if option not in READER_OPTIONS[kind]:
            raise InputError(
                f"option {option!r} does not go with {source}{closest(option, READER_OPTIONS[kind]) if READER_OPTIONS[kind] else '; leave it out'}"
            )
    known = None if space is None else space if isinstance(space, Space) else load_space(space)
    name = _name(str(source))
    if kind == "table":
        from carbide.data.tables import Meaning, splits_of_frames

        categorical = reader.pop("categorical", ())
        frames = {part: read_frame(file, missing=_listed(missing), **reader) for part, file in files.items() if file is not None}
        meaning = Meaning(label=label, positive=positive, group=group, time=time, source=source_column, drop=_listed(drop), categorical=_listed(categorical),
                          fill=fill_rule(fill))  # fmt: skip
        splits, notes = splits_of_frames(frames, meaning, how, space=known, name=name)
        return Loaded(splits=splits, notes=notes)
    _refuse({"label": label, "group": group, "time": time, "positive": positive, "source_column": source_column, "drop": drop or None, "missing": missing or None},
            f"{source}, which is no table")  # fmt: skip
    raws = {part: _read_arrays(file, kind, reader) for part, file in files.items() if file is not None}
    return _cut_arrays(_merged(raws), how, known, name, fill_rule(fill))


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


def _read_arrays(file: str, kind: str, options: Mapping[str, Any]) -> Raw:
    other = kind_of(file)
    if other != kind:
        raise InputError(f"data {file} is of another kind ({other}) than the training data ({kind}); give both in one format")
    if kind == "npz":
        return read_npz(Path(file))
    return read_idx(Path(file), **options) if kind == "idx" else read_images(Path(file), **options)


def _merged(raws: Mapping[str, Raw]) -> Raw:
    """One Raw of several files, each of which must be a single block."""
    if len(raws) == 1:
        return next(iter(raws.values()))
    blocks = {}
    first = raws["train"]
    for part, raw in raws.items():
        if "" not in raw.blocks:
            raise InputError(f"the {part} data already hold parts {', '.join(raw.blocks)}; give files with one part each, or leave test out")
        block = raw.blocks[""]
        if block.x.shape[1:] != first.blocks[""].x.shape[1:]:
            raise InputError(
                f"the {part} rows have shape {block.x.shape[1:]}, but training rows have {first.blocks[''].x.shape[1:]}; give the same features"
            )
        if raw.class_names != first.class_names:
            raise InputError(f"the {part} data have classes {raw.class_names}, but the training data {first.class_names}; give the same classes")
        blocks[part] = block
    return replace(first, blocks=blocks)


def _cut_arrays(raw: Raw, how: Cutting, space: Space | None, name: str, fill: str | float | None) -> Loaded:
    notes = list(raw.notes)
    x = np.concatenate([block.x for block in raw.blocks.values()])
    y = np.concatenate([block.y for block in raw.blocks.values()])
    part = np.concatenate([np.full(len(block.y), key) for key, block in raw.blocks.items()])
    used = how.drawn(len(y))
    if x.ndim == 2 and fill == "drop":
        used = used[~np.isnan(x[used]).any(1)]
        notes.append(f"{len(used)} rows without missing values were kept")
    if not len(used):
        raise InputError("every row has a missing value, so fill: drop leaves none; give fill: median or a number")
    keys = row_keys(x[used])
    chosen = cut(Rows(y=y[used], keys=keys, part=part[used]), how)
    x, y = x[used], y[used]
    images = x.ndim == 4
    if images:
        x, scaled = unit_images(x, name)
        notes += [scaled] if scaled else []
        space = space or Space.image(x.shape[1:])
        names = ()
    else:
        names = raw.names or tuple(f"x{i}" for i in range(x.shape[1]))
        if len(names) != x.shape[1]:
            raise InputError(f"data {name} has {len(names)} names for {x.shape[1]} features; name each feature")
        x = _numbers(x.astype(np.float64), names, chosen.rows["train"], fill)
    notes += chosen.notes
    classes = raw.classes
    own = {key: np.concatenate([getattr(b, key) for b in raw.blocks.values()])[used] for key in ("ids", "source")
           if all(getattr(b, key) is not None for b in raw.blocks.values())}  # fmt: skip
    draft = Dataset(x=x, y=y, ids=own.get("ids", ids_of(keys)), source=own.get("source", np.full(len(y), name)), space=space or Space.table(names), classes=classes,
                    class_names=raw.class_names or tuple(map(str, range(classes))), name=name)  # fmt: skip
    if space is None:
        space = infer_space(draft.take(chosen.rows["train"]))
        notes.append("the space (kinds, bounds, relations) was inferred from the training rows; confirm it, then name it as space:")
    elif space.shape != x.shape[1:]:
        raise InputError(f"the space has shape {space.shape}, but rows of {name} have {x.shape[1:]}; give the space of these rows")
    draft = replace(draft, space=space)
    splits = {p: draft.take(chosen.rows[p]) for p in PARTS}
    return Loaded(splits=Splits(train=splits["train"], validation=splits["validation"], test=splits["test"]), notes=tuple(notes))


def _numbers(x: Any, names: tuple[str, ...], train: Any, fill: str | float | None) -> Any:
    infinite = np.isinf(x)
    if infinite.any():
        row, column = (int(i) for i in np.argwhere(infinite)[0])
        raise InputError(f"feature {names[column]} is infinite in row {row} ({int(infinite.sum())} such values); correct or leave out these rows")
    return np.column_stack([fill_numbers(x[:, j], train, names[j], fill) for j in range(x.shape[1])])


def _builtin(name: str, how: Cutting) -> Loaded:
    from carbide.data.cases import builtin

    splits = builtin(name)
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
