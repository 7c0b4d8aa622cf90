"""Which row goes to which part: rows asked for, repeated rows, groups, time, and the checks that follow.

>>> import numpy as np
>>> keys = row_keys(np.array([[1.0], [2.0], [1.0]]))
>>> bool(keys[0] == keys[2]), str(ids_of(keys)[2]).endswith("-2")
(True, True)
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from carbide.data.raw import PARTS
from carbide.data.splits import cut_groups, cut_time
from carbide.types import Array, InputError, rng_for

DUPLICATES = ("group", "drop", "keep")


@dataclass(frozen=True, kw_only=True)
class Cutting:
    """How rows are cut: ``shares`` of train, validation and test; ``rows`` at most (None = all); what repeated rows do."""

    shares: tuple[float, float, float] = (0.6, 0.2, 0.2)
    rows: int | None = None
    duplicates: str = "group"
    seed: int = 0

    def __post_init__(self) -> None:
        shares = np.asarray(self.shares, float)
        if shares.shape != (3,) or not np.isfinite(shares).all() or (shares <= 0).any() or abs(shares.sum() - 1) > 1e-6:
            raise InputError(f"split is {list(self.shares)}; give three shares above 0 that add up to 1, e.g. [0.6, 0.2, 0.2]")
        if self.rows is not None and (isinstance(self.rows, bool) or not isinstance(self.rows, int) or self.rows < 1):
            raise InputError(f"rows is {self.rows!r}; give a whole number >= 1")
        if self.duplicates not in DUPLICATES:
            raise InputError(f"duplicates is {self.duplicates!r}; choose {', '.join(DUPLICATES)}")
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or self.seed < 0:
            raise InputError(f"seed is {self.seed!r}; give a whole number >= 0")

    def drawn(self, n: int) -> Array:
        """The sorted indices of the rows that are used, of ``n``."""
        if self.rows is None or self.rows >= n:
            return np.arange(n)
        return np.sort(rng_for(self.seed, "rows").permutation(n)[: self.rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """What decides the cut of ``n`` rows: labels, content keys, the part a file gave them (``""`` = none), groups and times."""

    y: Array
    keys: Array
    part: Array
    group: Array | None = None
    time: Array | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """Row indices by part, sentences about what was done, and what a model that is given has ``seen`` (see ``Splits``)."""

    rows: Mapping[str, Array]
    notes: tuple[str, ...] = ()
    seen: Mapping[str, Array] | None = None


def row_keys(x: Array) -> Array:
    """Content keys ``(n,)``: 16 hex digits of the sha256 of each row's bytes."""
    flat = np.ascontiguousarray(x).reshape(len(x), -1)
    return np.array([hashlib.sha256(row.tobytes()).hexdigest()[:16] for row in flat], "<U16")


def ids_of(keys: Array) -> Array:
    """Stable ids ``(n,)``: the key, with ``-2``, ``-3`` ... for its repeats in order."""
    count: dict[str, int] = {}
    ids = []
    for key in keys.tolist():
        count[key] = count.get(key, 0) + 1
        ids.append(key if count[key] == 1 else f"{key}-{count[key]}")
    return np.array(ids)


def cut(rows: Rows, how: Cutting) -> Cut:
    """The rows of each part: as the files say, in order of time, or drawn by the seed and stratified by label.

    Raises:
        InputError: if a part would be left without rows or without two classes.
    """
    notes: list[str] = []
    keep = _without_repeats(rows, how, notes)
    loose = keep[rows.part[keep] == ""]
    given: dict[str, Array] = {part: keep[rows.part[keep] == part] for part in PARTS}
    found: dict[str, Array] = dict(given)
    if len(loose):
        found = dict(zip(PARTS, _cut_loose(rows, loose, how, how.shares, notes), strict=True))
    elif not len(given["validation"]):
        both = how.shares[0] + how.shares[1]
        found["train"], found["validation"], _ = _cut_loose(rows, given["train"], how, (how.shares[0] / both, how.shares[1] / both, 0.0), notes)
    if how.duplicates != "keep" and any(len(p) for p in given.values()):
        whole = dict(found)
        _leave_later(rows.keys, found, ("test", "validation", "train"), "are repeated in a later part and were left out of the earlier one", notes)
        _must_keep(rows, whole, found)
    if rows.group is not None:
        _leave_later(rows.group, found, PARTS, "belong to a group of an earlier part and were left out", notes)
    _check(rows.y, found)
    notes.append("rows: " + ", ".join(f"{len(found[part])} {part}" for part in PARTS))
    return Cut(rows=found, notes=tuple(notes), seen=None if len(loose) else _seen(rows, found))


def _seen(rows: Rows, found: Mapping[str, Array]) -> dict[str, Array]:
    """Which rows of validation and test are among those that were named as train, wherever the cut has put these."""
    named = seen_in(rows.keys, rows.y, rows.part == "train")
    return {part: named[found[part]] for part in ("validation", "test") if named[found[part]].any()}


def seen_in(keys: Array, y: Array, train: Array) -> Array:
    """Which rows ``(n,)`` bool are rows of ``train`` ``(n,)`` bool, or equal one of them in content key and label."""
    records = np.char.add(np.char.add(keys, "/"), y.astype(str))
    return np.isin(records, records[train])


def _without_repeats(rows: Rows, how: Cutting, notes: list[str]) -> Array:
    _, first, code = np.unique(rows.keys, return_index=True, return_inverse=True)
    repeats = len(rows.keys) - len(first)
    if not repeats:
        return np.arange(len(rows.keys))
    top = np.full(len(first), -1)
    np.maximum.at(top, code, rows.y)
    low = np.full(len(first), np.iinfo(np.int64).max)
    np.minimum.at(low, code, rows.y)
    torn = int((top != low).sum())
    words = f"{repeats} of {len(rows.keys)} rows repeat the features of another row" + (
        f" ({torn} of these rows come with different labels)" if torn else ""
    )
    if how.duplicates == "drop":
        notes.append(f"{words}; the repeats were dropped")
        return np.sort(first)
    said = {
        "keep": "they may straddle train and test, which flatters the model; give duplicates: group",
        "group": "rows with equal features are kept in one part",
    }
    notes.append(f"{words}; {said[how.duplicates]}" + (" where time allows" if how.duplicates == "group" and rows.time is not None else ""))
    return np.arange(len(rows.keys))


def _cut_loose(rows: Rows, loose: Array, how: Cutting, shares: tuple[float, float, float], notes: list[str]) -> tuple[Array, Array, Array]:
    if rows.time is not None:
        pieces = cut_time(rows.time[loose], shares)
        notes.append("rows were cut by time: every row of train is earlier than every row of validation, and those than every row of test")
    else:
        blocks = _blocks(rows, loose, how)
        pieces = cut_groups(blocks, shares, rng_for(how.seed, "split"), y=rows.y[loose])
        if rows.group is not None:
            notes.append(f"rows were cut by group: {len(np.unique(rows.group[loose]))} groups, none in two parts")
    a, b, c = (loose[piece] for piece in pieces)
    return a, b, c


def _blocks(rows: Rows, loose: Array, how: Cutting) -> Array:
    """What must stay together, as one code a row: the group, the repeats, or what is linked by either."""
    by_key = np.unique(rows.keys[loose], return_inverse=True)[1] if how.duplicates == "group" else np.arange(len(loose))
    if rows.group is None:
        return by_key
    by_group = np.unique(rows.group[loose], return_inverse=True)[1]
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = int(by_key.max()) + 1
    links = coo_array((np.ones(len(loose), np.int8), (by_key, size + by_group)), shape=(size + int(by_group.max()) + 1,) * 2)
    return connected_components(links, directed=False)[1][by_key]


def _leave_later(values: Array, found: dict[str, Array], order: tuple[str, ...], words: str, notes: list[str]) -> None:
    """Rows whose value occurs in a part earlier in ``order`` leave the later parts."""
    seen: Array = values[:0]
    for part in order:
        rows = found[part]
        again = np.isin(values[rows], seen)
        if again.any():
            found[part] = rows[~again]
            notes.append(f"{int(again.sum())} rows of {part} {words}")
        seen = np.concatenate([seen, values[found[part]]])


def _must_keep(rows: Rows, whole: Mapping[str, Array], found: Mapping[str, Array]) -> None:
    """Whether parts that had two classes as a ``whole`` have them still without what repeats in a later part."""
    for part, later in (("train", PARTS[1:]), ("validation", PARTS[2:])):
        n, left = len(whole[part]), found[part]
        if len(np.unique(rows.y[left])) >= 2 or len(np.unique(rows.y[whole[part]])) < 2:
            continue
        where = " and ".join(p for p in later if np.isin(rows.keys[whole[part]], rows.keys[whole[p]]).any())
        many = f"all {n}" if not len(left) else f"{n - len(left)} of {n}"
        kept = f"{len(left)} row(s) of one class" if len(left) else "none"
        raise InputError(f"{many} rows of {part} repeat in {where} and were left out of {part}, which keeps {kept}; take the repeats out of {where}")


def _check(y: Array, found: Mapping[str, Array]) -> None:
    for part in PARTS:
        n, classes = len(found[part]), len(np.unique(y[found[part]]))
        if n < 2 or classes < 2:
            raise InputError(
                f"the {part} part has {n} row(s) of {classes} class(es); give more rows or another split, so that each part has two classes"
            )
    absent = np.setdiff1d(np.unique(np.concatenate([y[found[part]] for part in PARTS])), y[found["train"]])
    if len(absent):
        raise InputError(f"class {absent[0]} has no row in the train part; give more rows of it, leave it out, or cut in another way")
