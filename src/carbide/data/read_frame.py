"""Reads tables: CSV (plain, gzipped, or inside a zip as ``file.zip::member.csv``) and parquet, as pandas frames of raw cells."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from carbide.data.door import existing, member, must_look_like, read_bytes, unzipped
from carbide.types import InputError

SUFFIXES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".zip")
EMPTY = ("", "nan", "NaN")  # words such as NA and None may be values: they count as missing only when the user says so


def is_table_name(name: str) -> bool:
    """Whether a file name (without a member) says that it holds a table."""
    return name.lower().endswith(SUFFIXES)


def split_member(source: str) -> tuple[Path, str | None]:
    """A source as the path of a file and the name of a member inside it, None = not named."""
    path, _, inner = source.partition("::")
    return Path(path), inner or None


def read_frame(source: str, *, missing: Sequence[str] = (), header: bool = True, names: Sequence[str] = (), separator: str | None = None,
               encoding: str = "utf-8-sig") -> Any:  # fmt: skip
    """The raw cells of a table as a pandas frame with text column names; empty and ``missing`` cells are NaN.

    Raises:
        InputError: if the file is missing, empty, damaged, mislabelled or no table, or pandas is not installed.
    """
    if not isinstance(header, bool):
        raise InputError(f"header is {header!r}; give true (the first row names the columns) or false")
    if not isinstance(names, list | tuple) or not all(isinstance(n, str | int) and not isinstance(n, bool) for n in names):
        raise InputError(f"names is {names!r}; give a list with one name a column, e.g. [age, income, bad]")
    if not isinstance(encoding, str):
        raise InputError(f"encoding is {encoding!r}; give one such as utf-8 or latin-1")
    if separator is not None and (not isinstance(separator, str) or len(separator) != 1):
        raise InputError(f"separator is {separator!r}; give one character, e.g. ';'")
    path, inner = split_member(source)
    blob, name = read_bytes(existing(path)), path.name
    if name.lower().endswith(".zip"):
        must_look_like(blob, str(path), "a zip file", (b"PK\x03\x04", b"PK\x05\x06"))
        blob, name = member(blob, str(path), inner)
    elif inner is not None:
        raise InputError(f"{source} names a member {inner!r}, but {path.name} is no zip file; leave the member out")
    if name.lower().endswith(".gz"):
        must_look_like(blob, name, "a gzip file", (b"\x1f\x8b",))
        blob, name = unzipped(blob, name), name[:-3]
    if not blob.strip():
        raise InputError(f"data {source} is empty; give a file with rows")
    if name.lower().endswith(".parquet"):
        frame = _parquet(blob, source, missing)
    else:
        usual = "\t" if name.lower().endswith(".tsv") else ","
        frame = _csv(blob, source, missing=missing, header=header, names=names, separator=separator or usual, encoding=encoding)
    if frame.shape[0] == 0 or frame.shape[1] == 0:
        raise InputError(f"data {source} has {frame.shape[0]} rows and {frame.shape[1]} columns; give a table with rows below its header")
    return frame


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        raise InputError("tables need pandas; install it with: pip install 'carbide[tables]'") from error
    return pandas


def _csv(blob: bytes, source: str, *, missing: Sequence[str], header: bool, names: Sequence[str], separator: str, encoding: str) -> Any:
    must_look_like(blob, source, "a CSV file", ())
    pandas = _pandas()
    exact = {} if int(pandas.__version__.split(".")[0]) >= 3 else {"float_precision": "round_trip"}  # newer ones read numbers exactly anyhow
    try:
        if header and not names:  # pandas gives a repeated name a number, so that the label's copy would pass for a feature
            top = pandas.read_csv(io.BytesIO(blob), header=None, nrows=1, sep=separator, encoding=encoding, dtype=str, keep_default_na=False)
            _refuse_repeats([name for name in top.iloc[0].tolist() if name.strip()], source)
        frame = pandas.read_csv(io.BytesIO(blob), header=0 if header else None, sep=separator, encoding=encoding, keep_default_na=False,
                                na_values=[*EMPTY, *map(str, missing)], low_memory=False, **exact)  # fmt: skip
    except LookupError as error:
        raise InputError(f"encoding is {encoding!r}, which Python does not know; give one such as utf-8 or latin-1") from error
    except UnicodeError as error:
        raise InputError(
            f"{source} is not {encoding.removesuffix('-sig')} text ({error.__class__.__name__}); save it as UTF-8, or give encoding: latin-1"
        ) from error
    except (ValueError, OverflowError, RecursionError, TypeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        words = " ".join(str(error).split())[:160]
        raise InputError(f"{source} is no readable CSV ({words}); check its quotes and that each row has as many cells as the header") from error
    if not isinstance(frame.index, pandas.RangeIndex):
        raise InputError(f"{source} has rows with more cells than its header has names; give each column a name")
    frame.columns = _names(frame.columns, names, source, header)
    other = next((s for s in ";\t|" if s != separator and s in str(frame.columns[0])), None) if frame.shape[1] == 1 else None
    if other is not None:
        raise InputError(f"{source} has one column when cut at {separator!r}, and {other!r} occurs in its header; give separator: {other!r}")
    return frame


def _parquet(blob: bytes, source: str, missing: Sequence[str]) -> Any:
    must_look_like(blob, source, "a parquet file", (b"PAR1",))
    pandas = _pandas()
    try:
        import pyarrow.parquet

        _refuse_repeats(pyarrow.parquet.read_schema(io.BytesIO(blob)).names, source)
        frame = pandas.read_parquet(io.BytesIO(blob))
    except ImportError as error:
        raise InputError("parquet files need pyarrow; install it with: pip install 'carbide[tables]'") from error
    except (OSError, ValueError, TypeError, KeyError, NotImplementedError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        words = " ".join(str(error).split())[:160]
        raise InputError(f"{source} is damaged or cut short ({words}); write it again") from error
    frame = frame.reset_index(drop=True)
    frame.columns = _names(frame.columns, (), source, True)
    gone = {str(m) for m in missing}
    if gone:
        for column in frame.columns:
            if not pandas.api.types.is_numeric_dtype(frame[column]):
                frame[column] = frame[column].astype(object).where(~frame[column].astype(str).isin(gone), None)
    return frame


def _names(found: Any, given: Sequence[str], source: str, header: bool) -> list[str]:
    if given and len(given) != len(found):
        raise InputError(f"{len(given)} names are given, but {source} has {len(found)} columns; name each column")
    names = [str(n).strip() for n in (given or found)]
    if not given and not header:
        names = [f"c{i}" for i in range(len(found))]
    _refuse_repeats(names, source)
    return names


def _refuse_repeats(names: Sequence[str], source: str) -> None:
    seen: set[str] = set()
    for name in (n.strip() for n in names):
        if name in seen:
            raise InputError(f"{source} has two columns named {name!r}; give each column its own name")
        seen.add(name)
