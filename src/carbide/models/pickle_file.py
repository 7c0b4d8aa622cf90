"""Pickles and joblib files, for callers who trust them: scanned first, then read by an unpickler that knows the same exact map.

joblib itself is never called: what it would read is unpacked here, scanned, and read from the very bytes that were scanned.
"""

from __future__ import annotations

import bz2
import importlib
import io
import lzma
import math
import pickle
import warnings
import zlib
from typing import Any

import numpy as np

from carbide.models._files import LIMIT, one_line
from carbide.models._pickle_globals import ALLOWED, WRAPPER
from carbide.models._sound import check_estimator
from carbide.models.pickle_scan import scan_pickle
from carbide.types import InputError

_MOVED = {"__builtin__": "builtins"}


def load_pickle(blob: bytes, name: str) -> Any:
    """The scikit-learn estimator in a pickle or joblib file that the caller trusts.

    Raises:
        InputError: if the scan refuses it, trusted or not, or it is broken.
    """
    scan = scan_pickle(unpacked(blob, name), name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn warns about other versions; answers are checked at the door
            estimator = _Reader(io.BytesIO(scan.stream)).load()
            check_estimator(estimator, name)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} is no whole pickle of an estimator ({type(error).__name__}: {one_line(error)}); save the model again, with skops if you can"
        ) from error
    return estimator


def unpacked(blob: bytes, name: str) -> bytes:
    """The pickle inside a compressed joblib file, or the bytes as they are.

    Raises:
        InputError: if the compression is broken, not known or hides far too much.
    """
    try:
        if blob[:2] == b"\x1f\x8b":
            return _inflate(zlib.decompressobj(wbits=31), blob, name)
        if blob[:1] == b"x" and blob[1:2] in b"\x01\x5e\x9c\xda":
            return _inflate(zlib.decompressobj(), blob, name)
        if blob[:3] == b"BZh":
            return _inflate(bz2.BZ2Decompressor(), blob, name)
        if blob[:6] == b"\xfd7zXZ\x00" or blob[:3] == b"\x5d\x00\x00":
            return _inflate(lzma.LZMADecompressor(), blob, name)
    except (zlib.error, OSError, lzma.LZMAError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is a broken compressed file ({one_line(error)}); save the model again") from error
    if blob[:2] == b"ZF" or blob[:4] == b"\x04\x22\x4d\x18":
        raise InputError(f"{name} is packed in a way that Carbide does not read; save it with skops, or with joblib.dump without compress")
    return blob


def _inflate(machine: Any, blob: bytes, name: str) -> bytes:
    limit = min(LIMIT, max(1 << 26, 200 * len(blob)))
    out = machine.decompress(blob, limit + 1)
    if len(out) > limit:
        raise InputError(f"{name} unpacks to more than {limit} bytes; save it without compression")
    if not machine.eof or machine.unused_data:
        raise InputError(f"{name} is cut short or goes on after its end; save the model again")
    return out


class _Array:
    """What stands in a joblib file for an array whose numbers follow."""

    def read(self, file: Any) -> np.ndarray:
        state = self.__dict__
        if state["dtype"].hasobject:
            return _Reader(file).load()
        if state.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        kind, shape = state["dtype"], state["shape"]
        data = np.frombuffer(file.read(kind.itemsize * math.prod(shape)), kind)
        return data.reshape(shape[::-1]).transpose().copy("F") if state["order"] == "F" else data.reshape(shape).copy()


_Base: Any = pickle._Unpickler  # type: ignore[attr-defined]


class _Reader(_Base):
    """An unpickler that finds nothing but the names of the map and reads joblib's arrays from the stream itself."""

    dispatch = dict(_Base.dispatch)

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self.source = file

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise InputError(f"the pickle asks for {module}.{name}, which was not scanned; do not load it")
        if (module, name) == WRAPPER:
            return _Array
        return getattr(importlib.import_module(_MOVED.get(module, module)), name)

    def persistent_load(self, pid: Any) -> Any:
        raise InputError("the pickle asks for an object outside itself; do not load it")

    def load_build(self) -> None:
        super().load_build()
        if isinstance(self.stack[-1], _Array):
            self.stack[-1] = self.stack[-1].read(self.source)

    dispatch[pickle.BUILD[0]] = load_build
