"""A frame of raw cells as train, validation and test rows: label, groups and time found, rows cut, columns turned into numbers.

Everything that is learned from rows (categories, medians, bounds) is learned from the training rows alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carbide.data import columns as cells
from carbide.data.door import closest
from carbide.data.parts import Cutting, Rows, cut, ids_of, row_keys
from carbide.space.infer import infer_space
from carbide.types import Array, Dataset, InputError, Kind, Space, Splits


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What the columns of a table are: the label, what keeps rows together, what is left out, how gaps are filled."""

    label: Any = None
    positive: Any = None
    group: Any = None
    time: Any = None
    source: Any = None
    drop: Sequence[Any] = ()
    categorical: Sequence[Any] = ()
    fill: str | float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows whose cut is decided: features still raw by name, label codes, ids and suppliers."""

    features: Any
    labels: cells.Labels
    ids: Array
    source: Array
    parts: dict[str, Array]
    notes: list[str] = field(default_factory=list)


def splits_of_frames(frames: dict[str, Any], meaning: Meaning, how: Cutting, *, space: Space | None, name: str) -> tuple[Splits, tuple[str, ...]]:
    """The splits of a table (one frame, or one a part) and sentences about what was done.

    Raises:
        InputError: if a column is missing, a cell cannot be used, or the rows cannot be cut.
    """
    notes: list[str] = []
    frame, part = _joined(frames, notes)
    table = _table(frame, part, meaning, how, notes, name)
    x, found = _numbers(table, meaning, space, notes)
    train = table.parts["train"]
    if space is None:
        draft = _dataset(table, x, found, name)
        space = infer_space(draft.take(train))
        notes.append(
            "the space (kinds, bounds, relations) was inferred from the training rows; confirm it with: carbide space infer, then name it as space:"
        )
        _note_outside(x, space, train, notes)
    else:
        _must_fit(x, space)
    full = _dataset(table, x, space, name)
    _note_columns(full.take(train), notes)
    parts = {part: full.take(rows) for part, rows in table.parts.items()}
    return Splits(train=parts["train"], validation=parts["validation"], test=parts["test"]), tuple(notes)


def _joined(frames: dict[str, Any], notes: list[str]) -> tuple[Any, Array]:
    import pandas

    frames = {part: _without_counter(frame, notes) for part, frame in frames.items()}
    first = next(iter(frames.values()))
    for part, frame in frames.items():
        lacking = [c for c in first.columns if c not in frame.columns]
        if lacking:
            raise InputError(f"the {part} file lacks column {lacking[0]!r}{closest(lacking[0], frame.columns)}")
        surplus = [c for c in frame.columns if c not in first.columns]
        if surplus:
            notes.append(f"columns of the {part} file that the training file lacks were left out: {', '.join(surplus)}")
    part = np.concatenate([np.full(len(frame), part) for part, frame in frames.items()])
    if len(frames) == 1:
        return first, part
    return pandas.concat([frame[first.columns] for frame in frames.values()], ignore_index=True), part


def _without_counter(frame: Any, notes: list[str]) -> Any:
    """Without a nameless first column that only counts the rows, as data frames write it."""
    first = frame.columns[0]
    if not first.startswith("Unnamed:") or frame[first].dtype.kind not in "iu" or frame.shape[1] == 1:
        return frame
    if not (np.diff(frame[first].to_numpy()) == 1).all():
        return frame
    notes.append("the first column has no name and counts the rows; it was left out")
    return frame.drop(columns=[first])


def _table(frame: Any, part: Array, meaning: Meaning, how: Cutting, notes: list[str], name: str) -> Table:
    roles = {what: cells.find(frame, column, what) for what, column in (("label", meaning.label), ("group", meaning.group), ("time", meaning.time),
                                                                         ("source_column", meaning.source)) if column is not None}  # fmt: skip
    if "label" not in roles:
        raise InputError(f"no label is named; add label: with one of the columns {', '.join(map(repr, list(frame.columns)[:12]))}")
    twin = next((what for what in ("group", "time") if roles.get(what) == roles["label"]), None)
    if twin is not None:
        raise InputError(f"{twin} is {roles['label']!r}, which is the label column; name another one, or leave {twin}: out")
    nameless = [c for c in frame.columns if c.startswith("Unnamed:")]  # what "" under drop: means
    dropped = [c for column in meaning.drop for c in (nameless if str(column).strip() == "" else [cells.find(frame, column, "drop")])]
    if roles["label"] in dropped:
        raise InputError(f"label {roles['label']!r} is also under drop:; take it out of one of them")
    kept = [c for c in frame.columns if c not in dropped and c not in roles.values()]
    if not kept:
        raise InputError(f"no feature column is left of {frame.shape[1]}; drop fewer")
    rows = how.drawn(len(frame))
    if meaning.fill == "drop":
        whole = frame[kept].iloc[rows].notna().all(axis=1).to_numpy()
        notes.append(f"{int((~whole).sum())} rows with missing cells were left out")
        rows = rows[whole]
        if not len(rows):
            raise InputError("every row has a missing cell, so fill: drop leaves none; fill: median, or drop: the emptiest columns")
    frame, part = frame.iloc[rows].reset_index(drop=True), part[rows]
    labels = cells.encode_labels(frame[roles["label"]], meaning.positive)
    _note_telling_gaps(frame[kept], labels, notes)
    group = None if "group" not in roles else _codes(frame[roles["group"]], "group")
    time = None if "time" not in roles else _times(frame[roles["time"]])
    keys = _keys(frame[kept], meaning)
    chosen = cut(Rows(y=labels.y, keys=keys, part=part, group=group, time=time), how)
    notes.extend(chosen.notes)
    out = [f"{column!r} ({what})" for what, column in roles.items() if what != "label"]
    if out:
        notes.append(f"columns that are no features: {', '.join(out)}")
    source = frame[roles["source_column"]].astype(str).to_numpy(str) if "source_column" in roles else np.full(len(frame), name)
    return Table(features=frame[kept], labels=labels, ids=ids_of(keys), source=source, parts=dict(chosen.rows), notes=notes)


def _keys(features: Any, meaning: Meaning) -> Array:
    """Content keys from the raw cells, whatever part a row is in and whatever type another file gave its column."""
    import pandas.util

    hash_array: Any = pandas.util.hash_array
    categorical = [cells.find(features, c, "categorical") for c in meaning.categorical]
    codes = []
    for column in features.columns:
        numbers = cells.as_numbers(features[column], categorical=column in categorical)
        if numbers is not None:
            codes.append(np.where(np.isnan(numbers), np.nan, numbers + 0.0).view(np.uint64))
        else:
            texts = np.array(["\0" if c is None else c for c in cells.as_texts(features[column])], dtype=object)
            codes.append(hash_array(texts, categorize=True))
    return row_keys(np.column_stack(codes))


def _codes(column: Any, what: str) -> Array:
    if column.isna().any():
        first = int(column.isna().to_numpy().argmax())
        raise InputError(f"{what} column {column.name!r} has {int(column.isna().sum())} missing cells (first: row {first}); "
                         "give each row its value, or delete these rows")  # fmt: skip
    return np.unique(np.array([cells.words(v) for v in column.tolist()]), return_inverse=True)[1]


def _times(column: Any) -> Array:
    import pandas

    missing = column.isna()
    if pandas.api.types.is_numeric_dtype(column):
        times = column.to_numpy(np.float64, na_value=np.nan)
        bad = ~np.isfinite(times)
    else:
        parsed = pandas.to_datetime(column, errors="coerce", utc=True, format="mixed")
        bad = parsed.isna().to_numpy()
        times = parsed.dt.as_unit("us").astype("int64").to_numpy() if not bad.all() else np.zeros(len(column))
    if bad.any():
        row = int(bad.argmax())
        value = "nothing" if missing.iloc[row] else repr(column.iloc[row])
        raise InputError(f"time column {column.name!r} holds {value} in row {row}, which is no time; give dates such as 2024-05-01 or numbers")
    if len(np.unique(times)) < 3:
        raise InputError(f"time column {column.name!r} holds {len(np.unique(times))} different time(s); three parts need at least three")
    return times


def _numbers(table: Table, meaning: Meaning, space: Space | None, notes: list[str]) -> tuple[Array, Space]:
    """Features as numbers in the order of the space (or of the file), and a bare space with their names and categories."""
    features, train = table.features, table.parts["train"]
    names = list(features.columns) if space is None else _in_space(features, space, notes)
    categorical = {cells.find(features, c, "categorical") for c in meaning.categorical}
    listed = {} if space is None else dict(space.categories)
    fill = cells.fill_rule(meaning.fill)
    out, categories = [], {}
    for name in names:
        values = cells.as_numbers(features[name], categorical=name in categorical or name in listed)
        if values is not None:
            out.append(cells.fill_numbers(values, train, name, fill))
            continue
        if space is not None and name not in listed:
            raise InputError(f"column {name!r} holds texts, but the space lists no categories for it; add them to the space file")
        texts = cells.fill_texts(cells.as_texts(features[name]), train, name, fill)
        coded, categories[name], unseen = cells.encode_texts(texts, train, name, listed.get(name))
        out.append(coded)
        if unseen:
            notes.append(f"{unseen} cells of column {name!r} hold a text that no training row has; they became {cells.OTHER!r}")
    if categories and space is None:
        notes.append(f"text columns became codes: {', '.join(f'{n} ({len(c) - 1} categories)' for n, c in categories.items())}")
    bare = space or _bare(tuple(names), categories)
    return np.column_stack(out), bare


def _bare(names: tuple[str, ...], categories: dict[str, tuple[str, ...]]) -> Space:
    kind = np.array([Kind.CATEGORICAL if n in categories else Kind.REAL for n in names])
    lower = np.array([0.0 if n in categories else -np.inf for n in names])
    upper = np.array([len(categories[n]) - 1.0 if n in categories else np.inf for n in names])
    return replace(Space.table(names, lower=lower, upper=upper, kind=kind), categories=categories)


def _in_space(features: Any, space: Space, notes: list[str]) -> list[str]:
    if not space.names:
        raise InputError(f"the space has shape {space.shape} and no feature names, but the data is a table; name its features")
    for name in space.names:
        cells.find(features, name, "feature of the space")
    surplus = [c for c in features.columns if c not in space.names]
    if surplus:
        notes.append(f"columns that the space does not name were left out: {', '.join(surplus)}")
    return list(space.names)


def _must_fit(x: Array, space: Space) -> None:
    slack = 1e-9 * np.maximum(1.0, np.abs(x))
    with np.errstate(invalid="ignore"):
        outside = (x < space.lower - slack) | (x > space.upper + slack)
        broken = (space.kind != Kind.REAL) & (x != np.round(x)) & ~np.isnan(x)
    for wrong, words in ((outside, "outside its bounds"), (broken, "no whole number")):
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise InputError(f"row {row} has {space.names[column]} = {x[row, column]:g}, {words} in the space "
                             f"[{space.lower[column]:g}, {space.upper[column]:g}] ({int(wrong[:, column].sum())} such rows); "
                             "correct the space or these rows")  # fmt: skip


def _dataset(table: Table, x: Array, space: Space, name: str) -> Dataset:
    return Dataset(x=np.ascontiguousarray(x, np.float64), y=table.labels.y, ids=table.ids, source=table.source, space=space,
                   classes=len(table.labels.names), class_names=table.labels.names, name=name)  # fmt: skip


def _note_outside(x: Array, space: Space, train: Array, notes: list[str]) -> None:
    rest = np.setdiff1d(np.arange(len(x)), train)
    with np.errstate(invalid="ignore"):
        outside = int(((x[rest] < space.lower) | (x[rest] > space.upper)).any(1).sum())
    if outside:
        notes.append(f"{outside} validation and test rows lie outside the bounds that the training rows give")


def _note_columns(train: Dataset, notes: list[str]) -> None:
    names = train.space.names
    with np.errstate(invalid="ignore"):
        same = [names[j] for j in range(len(names)) if len(np.unique(train.x[:, j][~np.isnan(train.x[:, j])])) <= 1]
    if same:
        notes.append(f"{len(same)} columns are constant in the training rows and tell nothing: {', '.join(same)}")
    counters = [names[j] for j in range(len(names)) if _counts_rows(train.x[:, j])]
    if counters:
        notes.append(f"columns that look like row numbers, which can give the label away when rows are sorted: {', '.join(counters)}; drop: them")


def _counts_rows(values: Array) -> bool:
    steps = np.diff(values)
    with np.errstate(invalid="ignore"):
        return (
            len(values) > 20
            and bool((values == np.round(values)).all())
            and float((steps > 0).mean()) > 0.95
            and float((np.abs(steps) <= 20).mean()) > 0.95
        )


def _note_telling_gaps(features: Any, labels: cells.Labels, notes: list[str]) -> None:
    """Say when rows with a gap are nearly all of one class that is not nearly everything anyhow."""
    gaps = features.isna().to_numpy()
    telling = []
    for j in np.flatnonzero(gaps.sum(0) >= 10):
        share = np.bincount(labels.y[gaps[:, j]], minlength=len(labels.names)) / gaps[:, j].sum()
        usual = np.bincount(labels.y, minlength=len(labels.names)) / len(labels.y)
        top = int(share.argmax())
        if share[top] > 0.95 and usual[top] < 0.9:
            telling.append((features.columns[j], labels.names[top]))
    if telling:
        more = f" or {len(telling) - 1} other columns" if len(telling) > 1 else ""
        notes.append(f"missing cells give the label away: nearly all rows that lack {telling[0][0]!r}{more} "
                     f"are of class {telling[0][1]!r}; give fill: drop or 0, and no category for missing")  # fmt: skip
