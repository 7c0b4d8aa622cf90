"""The store that makes runs resumable: each step's result lies under the hash of its inputs, written whole.

A result is any nesting of plain values, numpy arrays, the nouns of ``carbide.types`` and, through ``pack`` and
``unpack``, models. It is written to one npz without pickles: a temporary file, fsync, rename.

>>> Store().step("two", {"a": 1}, lambda: 2)
2
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import zipfile
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import carbide.types as nouns
from carbide.types import InputError, digest

T = TypeVar("T")
NOUNS = {name: value for name, value in vars(nouns).items() if isinstance(value, type) and is_dataclass(value)}
FORMAT = 1


class Store:
    """Finished steps of one run folder (None = nothing is kept). ``pack``/``unpack`` turn models into plain values and back."""

    def __init__(self, folder: Path | None = None, *, pack: Callable[[Any], Any] | None = None, unpack: Callable[[Any], Any] | None = None,
                 version: str = "") -> None:  # fmt: skip
        self.folder = folder
        self.version = version
        self._pack, self._unpack = pack, unpack
        self._log: list[dict[str, Any]] = []
        self._touched: list[tuple[str, str]] = []
        if folder is not None:
            (folder / "steps").mkdir(parents=True, exist_ok=True)

    def step(self, name: str, inputs: Any, compute: Callable[[], T]) -> T:
        """The stored result for ``(name, inputs)``, or ``compute()``, which is stored before it is returned.

        ``inputs`` must decide the result together with the name and the version of Carbide.
        """
        if self.folder is None:
            start = time.perf_counter()
            result = compute()
            self._log.append({"step": name, "file": f"memory-{len(self._log)}", "seconds": round(time.perf_counter() - start, 4)})
            self._touched.append((name, self._log[-1]["file"]))
            return result
        path = self.folder / "steps" / f"{_slug(name)}-{digest(FORMAT, self.version, name, inputs)[:20]}.npz"
        self._touched.append((name, path.name))
        if path.exists():
            return self._read(path)
        start = time.perf_counter()
        result = compute()
        seconds = time.perf_counter() - start
        blob = encode(result, pack=self._pack)
        write_whole(path, blob)
        self._note(name, path.name, seconds)
        return decode(blob, unpack=self._unpack)

    def timings(self) -> list[dict[str, Any]]:
        """Name, file and seconds of every step ever computed in this folder, in order."""
        if self.folder is None:
            return list(self._log)
        if not (self.folder / "steps.jsonl").exists():
            return []
        found = []
        for line in (self.folder / "steps.jsonl").read_bytes().split(b"\n"):
            with contextlib.suppress(ValueError):  # a line that a kill or a full disk tore
                entry = json.loads(line)
                if isinstance(entry, dict) and {"step", "file", "seconds"} <= entry.keys():
                    found.append(entry)
        return found

    def touched(self, name: str) -> list[str]:
        """The files of the steps of this name that were asked for in this process, in order."""
        return [file for step, file in self._touched if step == name]

    def _note(self, name: str, file: str, seconds: float) -> None:
        assert self.folder is not None
        line = json.dumps({"step": name, "file": file, "seconds": round(seconds, 4)}) + "\n"
        with open(self.folder / "steps.jsonl", "a") as log:
            log.write(line)

    def _read(self, path: Path) -> Any:
        try:
            return decode(path.read_bytes(), unpack=self._unpack)
        except (zipfile.BadZipFile, ValueError, KeyError, OSError) as error:
            raise InputError(f"stored step {path} cannot be read ({error}); delete that file and run again") from error


def write_whole(path: Path, blob: bytes) -> None:
    """Write a file so that it is there whole or not at all, whatever happens in between.

    Raises:
        InputError: if the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # where it could not be made, there is nothing to take away
            temporary.unlink()
        raise InputError(f"cannot write {path} ({error.strerror or error}); free space or choose another folder with --out") from error


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def encode(value: Any, *, pack: Callable[[Any], Any] | None = None) -> bytes:
    """A value as the bytes of one npz; see the module for what can be encoded.

    Raises:
        TypeError: if something inside cannot be stored.
    """
    arrays: dict[str, np.ndarray] = {}

    def walk(item: Any) -> Any:
        if item is None or isinstance(item, bool | str):
            return item
        if isinstance(item, int | float) and not isinstance(item, np.generic):
            return item if isinstance(item, int) else {"~f": item.hex()}
        if isinstance(item, np.ndarray | np.generic):
            array = np.asarray(item)
            arrays[f"a{len(arrays)}"] = array.astype(str) if array.dtype == object else array
            return {"~a": f"a{len(arrays) - 1}", "~s": isinstance(item, np.generic)}
        if isinstance(item, bytes):
            return walk(np.frombuffer(item, np.uint8)) | {"~b": True}
        if isinstance(item, tuple):
            return {"~t": [walk(i) for i in item]}
        if isinstance(item, list):
            return [walk(i) for i in item]
        if isinstance(item, dict):
            return {"~d": [[walk(k), walk(v)] for k, v in item.items()]}
        if type(item).__name__ in NOUNS and isinstance(item, NOUNS[type(item).__name__]):
            return {"~n": type(item).__name__, "~v": {f.name: walk(getattr(item, f.name)) for f in fields(item)}}
        if pack is not None:
            return {"~m": walk(pack(item))}
        raise TypeError(f"cannot store a {type(item).__name__}")

    text = json.dumps(walk(value))
    out = io.BytesIO()
    np.savez(out, json=np.frombuffer(text.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def decode(blob: bytes, *, unpack: Callable[[Any], Any] | None = None) -> Any:
    """The value that ``encode`` made these bytes from."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as npz:
        arrays = {name: npz[name] for name in npz.files}

    def walk(item: Any) -> Any:
        if isinstance(item, list):
            return [walk(i) for i in item]
        if not isinstance(item, dict):
            return item
        if "~f" in item:
            return float.fromhex(item["~f"])
        if "~a" in item:
            array = arrays[item["~a"]]
            return array.tobytes() if item.get("~b") else array[()] if item["~s"] else array
        if "~t" in item:
            return tuple(walk(i) for i in item["~t"])
        if "~d" in item:
            return {walk(k): walk(v) for k, v in item["~d"]}
        if "~n" in item:
            return NOUNS[item["~n"]](**{k: walk(v) for k, v in item["~v"].items()})
        if unpack is None:
            raise ValueError("it holds a model, and this store has no way to unpack one")
        return unpack(walk(item["~m"]))

    return walk(json.loads(arrays["json"].tobytes().decode()))


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())[:60].strip("-")
