"""Model files as bytes: read once, told apart by what is in them, zip archives looked through before anything opens them."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from carbide.types import InputError

LIMIT = 8 << 30  # bytes of a model file, and of an archive once unpacked
FORMATS = {"xgboost": (".json", ".ubj", ".ubjson"), "lightgbm": (".txt",),
           "catboost": (".cbm", ".json"), "skops": (".skops",), "onnx": (".onnx",), "safetensors": (".safetensors",),
           "torch": (".pt", ".pth"), "export": (".pt2",), "pickle": (".pkl", ".pickle", ".joblib")}  # fmt: skip
CATBOOST = re.compile(rb'\s*\{\s*"(ctr_data|features_info|model_info|oblivious_trees|scale_and_bias|trees)"')
SUFFIXES = sorted({suffix for suffixes in FORMATS.values() for suffix in suffixes})
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x04\x22\x4d\x18", b"ZF", b"x\x9c", b"x\x01", b"x\xda", b"x^")  # as joblib packs its pickles


def read_bytes(path: Path) -> bytes:
    """The whole file.

    Raises:
        InputError: if it is not there, is no file, is empty or far too large.
    """
    try:
        size = path.stat().st_size
        if path.is_dir():
            raise InputError(f"model {path} is a folder; name the file inside it")
        if size > LIMIT:
            raise InputError(f"model {path} has {size} bytes; Carbide reads models of at most {LIMIT} bytes")
        blob = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"model {path} cannot be read ({getattr(error, 'strerror', None) or one_line(error)}); check the path") from error
    if not blob:
        raise InputError(f"model {path} is empty; save the model again")
    return blob


def one_line(error: BaseException) -> str:
    """The first line of what a library says, short enough for one sentence."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]


def by_suffix(path: Path) -> tuple[str, ...]:
    """The formats that a file's name promises one of.

    Raises:
        InputError: if the name promises none.
    """
    kinds: tuple[str, ...] = tuple(kind for kind, suffixes in FORMATS.items() if path.suffix.lower() in suffixes)
    if not kinds:
        raise InputError(f"model {path} ends in {path.suffix or 'nothing'!r}, which names no format; use one of {', '.join(SUFFIXES)}")
    return kinds


def by_content(blob: bytes) -> str:
    """The format that a file's first bytes show: a key of ``FORMATS``, or what else it seems to be."""
    head = blob[:512]
    if head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        return _zip_kind(blob)
    if head[:1] == b"{" and head[1:2] in b"LiUIl" and b"learner" in head:
        return "xgboost"
    if head.lstrip()[:1] == b"{" and b"\x00" not in head:
        if CATBOOST.match(head):
            return "catboost"
        return "xgboost" if b'"learner"' in blob[:4096] or b'"version"' in blob[:4096] else "JSON of another kind"
    if head[:4] == b"CBM1":
        return "catboost"
    if head.startswith((b"tree\n", b"tree\r\n")):
        return "lightgbm"
    if len(blob) > 9 and blob[8:9] == b"{" and 2 <= int.from_bytes(blob[:8], "little") <= len(blob) - 8:
        return "safetensors"
    if head.startswith(_PACKED):
        return "pickle"
    if (head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05") or (head[:1] in b"(c]}" and blob.rstrip()[-1:] == b"."):
        return "pickle"
    if head[:1] == b"\x08" or head[:1] == b"\x0a" or head[:1] == b"\x3a":
        return "onnx"
    if head[:6] == b"\x93NUMPY":
        return "a numpy array"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "HDF5"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "text of another kind"
    return "unknown bytes"


def _zip_kind(blob: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError):
        return "a broken zip archive"
    if "schema.json" in names:
        return "skops"
    if any(name.endswith(("/archive_format", "models/model.json")) or name == "archive_format" for name in names):
        return "export"
    if any(PurePosixPath(name).name == "constants.pkl" or "/code/" in name for name in names):
        return "a TorchScript archive"
    if any(PurePosixPath(name).name == "data.pkl" for name in names):
        return "torch"
    if any(name.endswith(".npy") for name in names):
        return "a numpy archive"
    return "a zip archive of another kind"


def check_zip(blob: bytes, name: str) -> None:
    """Look through a zip archive before a library opens it.

    Raises:
        InputError: if it is broken, encrypted, leads out of itself, repeats a name, unpacks to too much or fails its checksums.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            entries = archive.infolist()
            _check_entries(entries, len(blob), name)
            for entry in entries:  # reading to the end compares the checksum
                with archive.open(entry) as member:
                    while member.read(1 << 20):
                        pass
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError, IndexError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is a broken archive ({one_line(error)}); save the model again and give the new file") from error


def _check_entries(entries: list[zipfile.ZipInfo], size: int, name: str) -> None:
    seen: set[str] = set()
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if entry.flag_bits & 0x41:
            raise InputError(f"{name} has the encrypted entry {entry.filename!r}; give an archive without encryption")
        if path.is_absolute() or ".." in path.parts or ":" in entry.filename or "\x00" in entry.orig_filename:
            raise InputError(f"{name} has the entry {entry.filename!r}, which leads out of the archive; save the model again")
        if entry.filename in seen:
            raise InputError(f"{name} has two entries {entry.filename!r}; save the model again")
        seen.add(entry.filename)
    total = sum(entry.file_size for entry in entries)
    if total > LIMIT or total > max(1 << 28, 1000 * size):
        raise InputError(f"{name} unpacks to {total} bytes from {size}; give a model of at most {LIMIT} bytes")


def read_json(path: Path, what: str) -> dict:
    """A JSON mapping from a file, e.g. parameters.

    Raises:
        InputError: if the file is not there or holds no mapping.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{what} {path} cannot be read ({getattr(error, 'strerror', None) or one_line(error)}); give a JSON file") from error
    if not isinstance(value, dict):
        raise InputError(f'{what} {path} holds a {type(value).__name__}, not a mapping; write it as {{"name": value}}')
    return value
