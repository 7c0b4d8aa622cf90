"""The values of the pickle scanner's machine, and which types of numbers, arrays and attributes an ordinary model has."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

DEEP = 400  # nesting of values


class Refusal(Exception):
    """Why a pickle is refused."""


@dataclass(eq=False)
class Part:
    """A value of the machine: ``kind`` and what is known of it."""

    kind: str  # constant, name, tuple, list, dict, set, dtype, array, instance, mark
    value: Any = None
    items: list[Any] = field(default_factory=list)
    built: bool = False


def plain(part: Part, depth: int = 0) -> Any:
    """The Python value of constants, tuples and dicts of them; the part itself for everything else."""
    if depth > DEEP:
        raise Refusal("is nested too deeply")
    if part.kind == "constant":
        return part.value
    if part.kind == "tuple":
        return tuple(plain(item, depth + 1) for item in part.items)
    if part.kind == "dict":
        return {plain(k, depth + 1): plain(v, depth + 1) for k, v in zip(part.items[::2], part.items[1::2], strict=True)}
    return dtype_of(part) if part.kind == "dtype" else part


def is_shape(shape: Any) -> bool:
    return isinstance(shape, tuple) and all(type(n) is int and 0 <= n < 1 << 40 for n in shape)


def dtype_of(part: Part) -> np.dtype:
    """The dtype that a description will become, made by numpy itself."""
    return part.items[0] if part.items else np.dtype(part.value)


def check_dtype_state(made: Part, state: Part) -> None:
    """A dtype's state must be, word for word, what numpy writes for a dtype it would make: its flags steer raw memory."""
    said = plain(state)
    kind = None
    if isinstance(said, tuple) and len(said) == 8 and isinstance(said[1], str) and said[1] in ("<", ">", "|", "="):
        names, fields, size = said[3], said[4], said[5]
        if names is None:
            kind = np.dtype(made.value).newbyteorder(said[1])  # type: ignore[arg-type]
        elif isinstance(names, tuple) and isinstance(fields, dict) and set(names) == set(fields):
            inner = {name: fields[name] for name in names}
            if all(isinstance(v, tuple) and len(v) == 2 and isinstance(v[0], np.dtype) and not v[0].hasobject for v in inner.values()):
                layout = {
                    "names": list(names),
                    "formats": [v[0] for v in inner.values()],
                    "offsets": [v[1] for v in inner.values()],
                    "itemsize": size,
                }
                kind = np.dtype(layout, align=said[6] != 1)  # type: ignore[call-overload]
    if kind is None or kind.__reduce__()[1:] != ((made.value, False, True), said):
        raise Refusal("describes a type of numbers as numpy would not")
    made.items = [kind]


def check_array_state(state: Part) -> None:
    if state.kind != "tuple" or len(state.items) != 5 or state.items[2].kind != "dtype":
        raise Refusal("gives an array a state of another kind")
    version, shape, kind, order, data = state.items
    if plain(version) != 1 or not is_shape(plain(shape)) or not isinstance(plain(order), bool):
        raise Refusal("gives an array a state of another kind")
    held, count = dtype_of(kind), math.prod(plain(shape))
    if held.hasobject:
        right = data.kind == "list" and len(data.items) == count
    else:
        right = data.kind == "constant" and isinstance(data.value, bytes) and len(data.value) == count * held.itemsize
    if not right:
        raise Refusal("gives an array more or less data than its shape needs")


def attributes(state: Part) -> dict[str, Part]:
    if state.kind != "dict" or len(state.items) % 2:
        raise Refusal("gives an instance a state that is no mapping")
    return {str(plain(key)): value for key, value in zip(state.items[::2], state.items[1::2], strict=True)}


def check_attributes(state: Part) -> None:
    check_keys(attributes(state))


def check_keys(keys: Iterable[str]) -> None:
    for key in keys:
        if not re.fullmatch(r"_?[A-Za-z][A-Za-z0-9_]*", key) or key.startswith("__"):
            raise Refusal(f"sets the attribute {key[:40]!r}")
