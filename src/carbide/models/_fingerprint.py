"""A hash of a fitted estimator that depends on its state alone: not on memory addresses, sharing or bytes between the fields of a record."""

from __future__ import annotations

import copyreg
import hashlib
import types
from typing import Any

import numpy as np


def fingerprint(value: Any) -> str:
    """The sha256 hex digest of an object, walked as pickle would walk it.

    Raises:
        TypeError: if something inside has no state that can be walked (an open file, a lock, a generator).
    """
    return _Walk().digest(value).hex()


class _Walk:
    """One walk: parts already hashed are remembered by address, which their owner keeps alive."""

    def __init__(self) -> None:
        self.done: dict[int, tuple[Any, bytes]] = {}
        self.above: dict[int, int] = {}

    def digest(self, value: Any) -> bytes:
        plain = _plain(value)
        if plain is not None:
            return hashlib.sha256(plain).digest()
        key = id(value)
        if key in self.done:
            return self.done[key][1]
        if key in self.above:  # a cycle: how far up it leads says all
            return hashlib.sha256(f"up:{len(self.above) - self.above[key]}".encode()).digest()
        self.above[key] = len(self.above)
        found = hashlib.sha256(b"".join(self.digest(part) for part in _parts(value))).digest()
        del self.above[key]
        self.done[key] = (value, found)
        return found


def _plain(value: Any) -> bytes | None:
    """The bytes of a value without parts, None for one with parts."""
    if value is None or value is Ellipsis or isinstance(value, bool | int | float | complex | str | bytes):
        return f"{type(value).__name__}:{value!r}".encode()
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        data: Any = np.ascontiguousarray(value)
        names = data.dtype.names
        body = data.tobytes() if names is None else b"".join(np.ascontiguousarray(data[n]).tobytes() for n in names)
        said = data.dtype.str if names is None else [(n, data.dtype[n].str) for n in names]
        return f"{'array' if isinstance(value, np.ndarray) else 'scalar'}:{said}:{value.shape}:".encode() + body
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType | np.ufunc):
        return _name(value)
    return None


def _name(value: Any) -> bytes:
    said = f"name:{getattr(value, '__module__', None)}:{getattr(value, '__qualname__', getattr(value, '__name__', '?'))}".encode()
    code = getattr(value, "__code__", None)
    if code is not None and "<" in value.__qualname__:  # a lambda's or local function's name says nothing, so its body counts
        said += code.co_code + repr(code.co_names).encode() + repr([c for c in code.co_consts if not hasattr(c, "co_code")]).encode()
    return said


def _parts(value: Any) -> list[Any]:
    if isinstance(value, np.ndarray):
        return ["objects", repr(value.shape), *value.ravel().tolist()]
    if isinstance(value, np.random.RandomState):  # its pickled form also holds a seed drawn from the operating system
        return ["random state", value.get_state(legacy=False)]
    if isinstance(value, np.random.Generator):
        return ["generator", value.bit_generator.state]
    if type(value).__name__ in ("KDTree", "BallTree") and type(value).__module__.startswith("sklearn.neighbors."):
        return [type(value), *value.__getstate__()[:7]]  # the rest counts its queries
    if isinstance(value, dict) and type(value).__module__ in ("builtins", "collections"):
        return ["dict", *(part for item in value.items() for part in item)]
    if type(value) in (list, tuple):
        return [type(value).__name__, *value]
    if type(value) in (set, frozenset):
        return ["set", *sorted(value, key=repr)]
    reduce = copyreg.dispatch_table.get(type(value))
    reduced: Any = reduce(value) if reduce else value.__reduce_ex__(4)
    return (
        [type(value), "reduced", reduced] if isinstance(reduced, str) else [type(value), *(list(p) if hasattr(p, "__next__") else p for p in reduced)]
    )
