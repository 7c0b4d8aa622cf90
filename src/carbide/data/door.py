"""What every reader of user data shares: paths, first bytes, closest names, and the errors they lead to.

>>> closest("Amuont", ["amount", "hour"])
"; did you mean 'amount'?"
"""

from __future__ import annotations

import difflib
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from carbide.types import InputError

CHUNK = 1 << 24
MAGIC = {b"PK\x03\x04": "a zip file", b"PAR1": "a parquet file", b"\x1f\x8b": "a gzip file", b"\x93NUMPY": "a single numpy array (npy)",
         b"\x89PNG": "a PNG image", b"\x80\x04": "a pickle", b"\x80\x05": "a pickle", b"%PDF": "a PDF file"}  # fmt: skip


def closest(name: Any, names: Iterable[Any]) -> str:
    """A hint that names the most similar of the names, or the first few of them."""
    known = [str(n) for n in names]
    lowered: dict[str, str] = {n.lower().strip(): n for n in known}
    found = difflib.get_close_matches(str(name).lower().strip(), list(lowered), n=1, cutoff=0.6)
    if found:
        return f"; did you mean {lowered[found[0]]!r}?"
    return f"; there are {', '.join(map(repr, known[:12]))}{', ...' if len(known) > 12 else ''}"


def existing(path: Path) -> Path:
    """The path, which must exist.

    Raises:
        InputError: if it does not.
    """
    try:
        there = path.exists()
    except (OSError, ValueError) as error:
        raise InputError(f"data {str(path)!r} is no usable path ({error}); give a file or a folder") from error
    if there:
        return path
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = (
        closest(path.name, siblings)
        if difflib.get_close_matches(path.name, siblings, n=1)
        else "; check the path, or name a built-in case: fraud, patients, images"
    )
    raise InputError(f"data {path} is not there{hint}")


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: if it cannot be read or is empty.
    """
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise InputError(f"data {path} cannot be read ({error.strerror or error}); check that it is a file and that you may read it") from error
    if not blob:
        raise InputError(f"data {path} is empty; give a file with rows")
    return blob


def unzipped(blob: bytes, name: str, *, limit: int | None = None) -> bytes:
    """The content of gzip bytes, at most ``limit`` bytes of it.

    Raises:
        InputError: if they are no gzip or end too early.
    """
    out = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(blob)) as file:
            while (limit is None or out.tell() < limit) and (piece := file.read(CHUNK if limit is None else min(CHUNK, limit - out.tell()))):
                out.write(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{name} is damaged or cut short ({error}); download or compress it again") from error
    return out.getvalue()


def member(blob: bytes, name: str, inner: str | None) -> tuple[bytes, str]:
    """The bytes and the name of one table inside a zip file; ``inner`` may be left out when there is only one.

    Raises:
        InputError: if the zip file is damaged or the member is not there, not named or not readable.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            tables = [n for n in archive.namelist() if not n.startswith("__MACOSX") and n.lower().endswith((".csv", ".csv.gz", ".parquet"))]
            if inner is None:
                if len(tables) != 1:
                    raise InputError(f"{name} holds {len(tables)} tables ({', '.join(tables[:4]) or 'none'}); name one as {name}::MEMBER")
                inner = tables[0]
            if inner not in archive.namelist():
                raise InputError(f"{name} has no member {inner!r}{closest(inner, tables)}")
            return archive.read(inner), inner
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError, OverflowError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is no readable zip file ({error}); download or pack it again without a password") from error


def must_look_like(blob: bytes, name: str, expected: str, magics: tuple[bytes, ...]) -> None:
    """Check the first bytes of a file; no ``magics`` = anything but the known ones.

    Raises:
        InputError: if they are those of another format.
    """
    if magics and blob.startswith(magics):
        return
    other = next((words for magic, words in MAGIC.items() if blob.startswith(magic)), None)
    if magics or other:
        raise InputError(
            f"{name} should be {expected}, but it is {other or f'something else (it begins with {blob[:4].hex()})'}; name the file by what it is"
        )
