"""Columns of a frame as numbers: what kind each is, its categories and fills (from training rows only), the label's codes.

A text column becomes whole codes ``0 .. k - 1`` of its training categories in sorted order; ``k`` stands for every other text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.data.door import closest
from carbide.types import Array, InputError

OTHER = "(other)"
MISSING = "(missing)"
FILLS = ("median", "keep", "drop")
GAPS = "missing cells were filled from other rows (fill: median), which no account of single rows covers; give fill: a number, keep or drop"
MOSTLY = 0.8  # share of numbers above which a column with a few odd texts is a numeric column


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """Label codes ``(n,)`` int64 and the names of the classes."""

    y: Array
    names: tuple[str, ...]


def words(value: Any) -> str:
    """A cell as text, so that 1, 1.0, True and "1" agree."""
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    if isinstance(value, float | np.floating) and np.isfinite(value) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()


def find(frame: Any, column: Any, what: str) -> str:
    """The name of a column given by name or position.

    Raises:
        InputError: if the frame has no such column.
    """
    names = list(frame.columns)
    if isinstance(column, str) and column.strip() in names:
        return column.strip()
    if isinstance(column, int) and not isinstance(column, bool) and -len(names) <= column < len(names):
        return names[column]
    raise InputError(f"{what} {column!r} is not a column of the data{closest(column, names)}")


def encode_labels(column: Any, positive: Any) -> Labels:
    """The codes of a label column: sorted values as 0, 1, ...; or 1 for the ``positive`` value(s) and 0 for the rest.

    Raises:
        InputError: if cells are missing, a positive value never occurs, or the values are no few classes.
    """
    gone = column.isna().to_numpy()
    if gone.any():
        raise InputError(
            f"label column {column.name!r} has {int(gone.sum())} missing cells (first: row {int(gone.argmax())}); fill them or delete these rows"
        )
    cells = as_texts(column)
    found = sorted(set(cells.tolist()), key=_order)
    if len(found) < 2:
        raise InputError(f"label column {column.name!r} holds one value only ({found[0]!r}); give rows of at least two classes")
    if positive is not None:
        wanted = [words(v) for v in (positive if isinstance(positive, list | tuple | set | frozenset) else [positive])]
        strange = next((w for w in wanted if w not in found), None)
        if strange is not None or not wanted or len(wanted) >= len(found):
            raise InputError(
                f"positive is {positive!r}, but label column {column.name!r} holds {', '.join(map(repr, found[:12]))}; name some of them, not all"
            )
        rest = [f for f in found if f not in wanted]
        names = (rest[0] if len(rest) == 1 else "other", wanted[0] if len(wanted) == 1 else " or ".join(wanted))
        return Labels(y=np.isin(cells, wanted).astype(np.int64), names=names)
    if len(found) > max(2, min(len(cells) // 4, 1000)):
        raise InputError(f"label column {column.name!r} holds {len(found)} different values in {len(cells)} rows (e.g. {found[1]!r}), which are no "
                         "classes; name another column, or say which values are positive")  # fmt: skip
    code = {name: i for i, name in enumerate(found)}
    return Labels(y=np.array([code[c] for c in cells], np.int64), names=tuple(found))


def _order(text: str) -> tuple[int, float, str]:
    try:
        number = float(text)
    except ValueError:
        return 1, 0.0, text
    return (0, number, text) if number == number else (1, 0.0, text)


def as_numbers(column: Any, *, categorical: bool) -> Array | None:
    """The column as float64 ``(n,)`` with NaN where missing, or None if it is a column of texts.

    Raises:
        InputError: for dates, nested values, infinite numbers, and numeric columns with a few odd texts.
    """
    import pandas

    kinds = pandas.api.types
    if kinds.is_datetime64_any_dtype(column) or kinds.is_timedelta64_dtype(column):
        raise InputError(f"column {column.name!r} holds dates; name it under time: or drop: it, or turn it into numbers")
    if categorical:
        return None
    if kinds.is_numeric_dtype(column) and not kinds.is_complex_dtype(column):
        return _finite(column.to_numpy(np.float64, na_value=np.nan), column.name)
    code, found = _factorized(column)
    texts: Any = pandas.Series([str(v) for v in found], dtype=object)
    numbers = np.asarray(pandas.to_numeric(texts, errors="coerce"), np.float64)
    odd = np.isnan(numbers)
    if not odd.any() and len(found):
        return _finite(np.append(numbers, np.nan)[code], column.name)
    count = np.bincount(code[code >= 0], minlength=len(found))
    if len(found) and odd.sum() <= 3 and count[odd].sum() <= (1 - MOSTLY) * count.sum():
        strange = ", ".join(repr(str(found[i])) for i in np.flatnonzero(odd))
        raise InputError(f"column {column.name!r} holds numbers except {int(count[odd].sum())} cells ({strange}); name them under missing:, "
                         "or the column under categorical:")  # fmt: skip
    return None


def _factorized(column: Any) -> tuple[Array, Any]:
    import pandas

    try:
        code, found = pandas.factorize(column)
    except TypeError as error:
        raise InputError(f"column {column.name!r} holds nested values ({error}); turn it into numbers or texts, or drop: it") from error
    odd = next((v for v in found if isinstance(v, list | dict | tuple | set | np.ndarray | bytes)), None)
    if odd is not None:
        raise InputError(f"column {column.name!r} holds values of type {type(odd).__name__}; turn it into numbers or texts, or drop: it")
    return code, found


def _finite(values: Array, name: Any) -> Array:
    if np.isinf(values).any():
        raise InputError(f"column {name!r} holds {int(np.isinf(values).sum())} infinite numbers (first: row {int(np.isinf(values).argmax())}); "
                         "correct or delete these rows, or drop: the column")  # fmt: skip
    return values


def as_texts(column: Any) -> Array:
    """The column as an object array ``(n,)`` of texts, None where missing."""
    code, found = _factorized(column)
    return np.array([*(words(v) for v in found), None], dtype=object)[code]


def fill_rule(fill: Any) -> str | float | None:
    """What missing cells become: None (refuse them), ``median``, ``keep``, ``drop`` or a number.

    Raises:
        InputError: if it is anything else.
    """
    if fill is None or fill in FILLS:
        return fill
    try:
        number = float(fill)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(fill, bool) or not np.isfinite(number):
        raise InputError(f"fill is {fill!r}; choose median, keep, drop or a number")
    return number


def fill_numbers(values: Array, train: Array, name: str, fill: str | float | None) -> Array:
    """Numbers ``(n,)`` without gaps (or with NaN kept), filled from the training rows ``train`` (indices).

    Raises:
        InputError: if there are gaps and no rule, or nothing in the training rows to fill them from.
    """
    gone = np.isnan(values)
    if fill == "keep" or not gone.any():
        return values
    if fill is None:
        raise InputError(f"column {name!r} has {int(gone.sum())} missing cells (first: row {int(gone.argmax())}); give fill: median, 0, drop or keep "
                         "(keep only for models that take NaN), or drop: the column")  # fmt: skip
    if fill == "median":
        known = values[train][~gone[train]]
        if not len(known):
            raise InputError(f"column {name!r} has no value in the training rows, so no median; drop: it or give fill: 0")
        return np.where(gone, np.median(known), values)
    return np.where(gone, float(fill), values)


def fill_texts(cells: Array, train: Array, name: str, fill: str | float | None) -> Array:
    """Texts ``(n,)`` without gaps: the commonest training text for ``median``, ``(missing)`` for ``keep``, a number as text.

    Raises:
        InputError: if there are gaps and no rule.
    """
    gone = cells == None  # noqa: E711 (elementwise)
    if not gone.any():
        return cells
    if fill is None:
        raise InputError(f"text column {name!r} has {int(gone.sum())} missing cells (first: row {int(gone.argmax())}); give fill: keep (a category "
                         "of its own), median (the commonest text), 0 or drop, or drop: the column")  # fmt: skip
    stand_in = MISSING
    if fill == "median":
        known, count = np.unique(cells[train][~gone[train]].astype(str), return_counts=True)
        if not len(known):
            raise InputError(f"text column {name!r} has no value in the training rows; drop: it or give fill: keep")
        stand_in = str(known[count.argmax()])
    elif fill != "keep":
        stand_in = words(float(fill))
    filled = cells.copy()
    filled[gone] = stand_in
    return filled


def encode_texts(cells: Array, train: Array, name: str, categories: Sequence[str] | None) -> tuple[Array, tuple[str, ...], int]:
    """Codes ``(n,)`` float64, the categories (the last one is ``(other)``), and how many cells were none of them.

    Raises:
        InputError: if nearly every row has a text of its own.
    """
    if categories is None:
        found = sorted(set(cells[train].tolist()), key=_order)
        if len(found) > max(20, len(train) // 2):
            raise InputError(f"text column {name!r} has {len(found)} different texts in {len(train)} training rows, so it names rows instead of "
                             f"describing them; drop: [{name}], or name it under group: if rows of one name belong together")  # fmt: skip
        categories = (*[f for f in found if f != OTHER], OTHER)
    import pandas

    code, found = pandas.factorize(cells)
    known = {c: i for i, c in enumerate(categories)}
    place = np.array([known.get(c, -1) for c in found], np.int64)[code]
    unseen = place < 0
    if unseen.any() and OTHER not in known:
        row = int(unseen.argmax())
        raise InputError(f"column {name!r} holds {cells[row]!r} in row {row}, which the space does not list; add it or {OTHER!r} to its categories")
    return np.where(unseen, known.get(OTHER, -1), place).astype(np.float64), tuple(categories), int(unseen.sum())
