"""A static scanner of pickles: it walks every opcode with a machine that makes nothing, and refuses what an ordinary model does not need.

A pickle is a program. This one may only name things out of an exact map, call the few functions in it with arguments that
are checked one by one, and set plain attributes on instances it made itself. Everything else is refused: other opcodes,
names with dots, names made at run time, states that numpy would not have written, anything after the end.

>>> import pickle
>>> try:
...     scan_pickle(pickle.dumps(print), "model.pkl")
... except ValueError as error:
...     print(str(error).partition(",")[0])
model.pkl asks for builtins.print
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from dataclasses import dataclass
from typing import Any

from carbide.models._files import one_line
from carbide.models._pickle_globals import ALLOWED, BIT_GENERATORS, CLASSES, FUNCTIONS, WRAPPER
from carbide.models._pickle_values import (
    Part,
    Refusal,
    attributes,
    check_array_state,
    check_attributes,
    check_dtype_state,
    check_keys,
    dtype_of,
    is_shape,
    plain,
)
from carbide.types import InputError

BUNCH = ("sklearn.utils._bunch", "Bunch")  # a dict whose keys are attributes too
_CONSTANTS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES",
              "BINBYTES8", "BYTEARRAY8")  # fmt: skip
_FIXED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True, kw_only=True)
class Scan:
    """What a scan found: the ``names`` asked for and the ``stream`` without frames, the very bytes that were scanned."""

    names: frozenset[tuple[str, str]]
    stream: bytes


def scan_pickle(blob: bytes, name: str) -> Scan:
    """Scan the bytes of a pickle or an unpacked joblib file.

    Raises:
        InputError: if an ordinary scikit-learn model would not have been pickled like this.
    """
    try:
        machine = _Machine(blob)
        machine.run()
    except Refusal as refusal:
        raise InputError(f"{name} {refusal}; do not load it, ask for the model in a safe format (skops, ONNX)") from refusal
    except Exception as error:  # pickletools raises many kinds on bytes that are no pickle
        raise InputError(
            f"{name} is no whole pickle ({type(error).__name__}: {one_line(error)}); save the model again, with skops if you can"
        ) from error
    return Scan(names=frozenset(machine.names), stream=machine.stream())


class _Machine:
    """The pickle machine without effects."""

    def __init__(self, blob: bytes, start: int = 0) -> None:
        self.blob = blob
        self.file = io.BytesIO(blob)
        self.file.seek(start)
        self.inner = start > 0
        self.stack: list[Part] = []
        self.memo: dict[int, Part] = {}
        self.names: set[tuple[str, str]] = set()
        self.frames: list[int] = []
        self.frame_end = 0

    def run(self) -> None:
        first = True
        for opcode, argument, place in pickletools.genops(self.file):
            kind = opcode.name
            if first and not (kind == "PROTO" and argument in (2, 3, 4, 5)):
                raise Refusal("does not begin as a pickle of protocol 2 to 5")
            if not first and kind == "PROTO":
                raise Refusal("changes its protocol on the way")
            first = False
            if kind == "STOP":
                break
            self.step(kind, argument, int(place or 0))
        if self.inner:
            if len(self.stack) != 1 or self.stack[0].kind != "array":
                raise Refusal("holds something else than an array where one is described")
            return
        if self.file.tell() != len(self.blob):
            raise Refusal(f"goes on for {len(self.blob) - self.file.tell()} bytes after its end")
        if len(self.stack) != 1 or self.stack[0].kind != "instance" or self.stack[0].value not in CLASSES:
            raise Refusal("holds something else than one scikit-learn model")

    def stream(self) -> bytes:
        """The bytes without frame marks, so that what is read is what was scanned whatever the frames claim."""
        parts, start = [], 0
        for place in self.frames:
            parts.append(self.blob[start:place])
            start = place + 9
        return b"".join([*parts, self.blob[start:]])

    def step(self, kind: str, argument: Any, place: int) -> None:
        if kind == "PROTO":
            return
        if kind == "FRAME":
            if place < self.frame_end or argument > len(self.blob) - place - 9:
                raise Refusal("has frames that overlap or end outside the file")
            self.frames.append(place)
            self.frame_end = place + 9 + argument
        elif kind in _CONSTANTS:
            if kind == "LONG1" and isinstance(argument, int) and argument.bit_length() > 512:
                raise Refusal("holds a number of more than 512 bits")
            self.push(Part("constant", bytes(argument) if isinstance(argument, bytearray) else argument))
        elif kind in _FIXED:
            self.push(Part("constant", _FIXED[kind]))
        elif kind == "MARK":
            self.push(Part("mark"))
        elif kind in _TUPLES:
            self.push(Part("tuple", items=self.take(_TUPLES[kind])))
        elif kind in _ACTIONS:
            _ACTIONS[kind](self, argument)
        else:
            raise Refusal(f"uses the opcode {kind}, which ordinary models do not need")

    def push(self, part: Part) -> None:
        self.stack.append(part)

    def take(self, count: int) -> list[Part]:
        if count == 0:
            return []
        found = self.stack[-count:]
        if len(found) != count or any(part.kind == "mark" for part in found):
            raise Refusal("takes more from the stack than is there")
        del self.stack[-count:]
        return found

    def to_mark(self) -> list[Part]:
        for place in range(len(self.stack) - 1, -1, -1):
            if self.stack[place].kind == "mark":
                found = self.stack[place + 1 :]
                del self.stack[place:]
                return found
        raise Refusal("closes a mark that is not there")

    def top(self, kind: str) -> Part:
        if not self.stack or self.stack[-1].kind != kind:
            raise Refusal(f"adds to something that is no {kind}")
        return self.stack[-1]

    def put(self, index: Any) -> None:
        place = len(self.memo) if index is None else int(index)
        if place in self.memo or place > len(self.blob) or not self.stack or self.stack[-1].kind == "mark":
            raise Refusal("overwrites what it remembers")
        self.memo[place] = self.stack[-1]

    def get(self, index: Any) -> None:
        if int(index) not in self.memo:
            raise Refusal("recalls what it never remembered")
        self.push(self.memo[int(index)])

    def put_items(self, _: Any) -> None:
        items = self.to_mark()
        self.top("list").items.extend(items)

    def put_item(self, _: Any) -> None:
        items = self.take(1)
        self.top("list").items.extend(items)

    def put_pairs(self, items: list[Part]) -> None:
        if len(items) % 2 or any(key.kind not in ("constant", "tuple") for key in items[::2]):
            raise Refusal("has a mapping with keys that are no plain values")
        if self.stack and self.stack[-1].kind == "instance" and self.stack[-1].value == BUNCH and not self.stack[-1].built:
            check_keys(str(plain(key)) for key in items[::2])
            return
        self.top("dict").items.extend(items)

    def put_members(self, _: Any) -> None:
        items = self.to_mark()
        self.top("set").items.extend(items)

    def name(self, argument: Any) -> None:
        module, _, attribute = str(argument).partition(" ")
        self.named(module, attribute)

    def stack_name(self, _: Any) -> None:
        module, attribute = self.take(2)
        if module.kind != "constant" or attribute.kind != "constant":
            raise Refusal("makes a name while it runs")
        self.named(module.value, attribute.value)

    def named(self, module: Any, attribute: Any) -> None:
        if not isinstance(module, str) or not isinstance(attribute, str) or (module, attribute) not in ALLOWED:
            text = re.sub(r"[^\w.<>:-]", "?", f"{module}.{attribute}")[:120]
            raise Refusal(f"asks for {text}, which ordinary scikit-learn models do not need")
        self.names.add((module, attribute))
        self.push(Part("name", (module, attribute)))

    def new(self, _: Any) -> None:
        cls, arguments = self.take(2)
        if cls.kind != "name" or (cls.value not in CLASSES and cls.value != WRAPPER) or arguments.kind != "tuple" or arguments.items:
            raise Refusal("makes an instance of something else than a scikit-learn class without arguments")
        self.push(Part("instance", cls.value))

    def call(self, _: Any) -> None:
        function, arguments = self.take(2)
        if function.kind != "name" or function.value not in FUNCTIONS or arguments.kind != "tuple":
            said = ".".join(function.value) if function.kind == "name" else f"a {function.kind}"
            raise Refusal(f"calls {said}, which is not to be called")
        made = getattr(self, f"call_{FUNCTIONS[function.value]}")(function.value, arguments.items)
        if made is None:
            raise Refusal(f"calls {'.'.join(function.value)} with arguments that numpy and scikit-learn would not have written")
        self.push(made)

    def call_empty_array(self, _: Any, items: list[Part]) -> Part | None:
        right = len(items) == 3 and items[0].value == ("numpy", "ndarray") and plain(items[1]) == (0,) and plain(items[2]) == b"b"
        return Part("array") if right else None

    def call_scalar(self, _: Any, items: list[Part]) -> Part | None:
        right = len(items) == 2 and items[0].kind == "dtype" and isinstance(items[1].value, bytes) and items[1].kind == "constant"
        kind = dtype_of(items[0]) if right else None
        return Part("constant", 0) if kind is not None and not kind.hasobject and kind.itemsize == len(items[1].value) else None

    def call_buffer(self, _: Any, items: list[Part]) -> Part | None:
        if len(items) != 4 or items[0].kind != "constant" or not isinstance(items[0].value, bytes) or items[1].kind != "dtype":
            return None
        kind, shape = dtype_of(items[1]), plain(items[2])
        if kind.hasobject or not is_shape(shape) or plain(items[3]) not in ("C", "F") or kind.itemsize * math.prod(shape) != len(items[0].value):
            return None
        return Part("array", built=True)

    def call_dtype(self, _: Any, items: list[Part]) -> Part | None:
        values = tuple(plain(item) for item in items)
        if len(values) != 3 or values[1:] != (False, True) or not isinstance(values[0], str) or not re.fullmatch(r"[biufcSUV]\d{1,6}|O8", values[0]):
            return None
        return Part("dtype", values[0])

    def call_encode(self, _: Any, items: list[Part]) -> Part | None:
        values = tuple(plain(item) for item in items)
        if len(values) != 2 or not isinstance(values[0], str) or values[1] != "latin1":
            return None
        return Part("constant", values[0].encode("latin1"))

    def call_no_bytes(self, _: Any, items: list[Part]) -> Part | None:
        return None if items else Part("constant", b"")

    def call_ordered(self, _: Any, items: list[Part]) -> Part | None:
        return None if items else Part("dict")

    def call_tree(self, name: Any, items: list[Part]) -> Part | None:
        numbers = [plain(item) for item in (items[0], items[2])] if len(items) == 3 else [0]
        right = len(items) == 3 and items[1].kind == "array" and items[1].built and all(type(n) is int and 0 < n < 1 << 24 for n in numbers)
        return Part("instance", name) if right else None

    def call_loss(self, name: Any, items: list[Part]) -> Part | None:
        return None if items else Part("instance", name)

    def call_cython(self, name: Any, items: list[Part]) -> Part | None:
        own = name[1].removeprefix("__pyx_unpickle_")
        right = len(items) == 3 and items[0].kind == "name" and items[0].value == (name[0], own) and type(plain(items[1])) is int
        return Part("instance", (name[0], own)) if right and plain(items[2]) in (None, ()) else None

    def call_bit_generator(self, _: Any, items: list[Part]) -> Part | None:
        if len(items) != 1:
            return None
        if items[0].kind == "constant":
            return Part("instance", ("numpy.random", items[0].value)) if items[0].value in ("MT19937", "PCG64") else None
        return Part("instance", items[0].value) if items[0].kind == "name" and items[0].value in BIT_GENERATORS else None

    def call_random(self, name: Any, items: list[Part]) -> Part | None:
        right = (
            len(items) == 1
            and items[0].kind == "instance"
            and items[0].value[0].startswith("numpy.random")
            and items[0].value[1] in ("MT19937", "PCG64")
        )
        return Part("instance", name) if right else None

    def build(self, _: Any) -> None:
        (state,) = self.take(1)
        if not self.stack or self.stack[-1].kind not in ("instance", "array", "dtype") or self.stack[-1].built:
            raise Refusal("sets the state of something that it did not just make")
        made = self.stack[-1]
        made.built = True
        if made.kind == "dtype":
            check_dtype_state(made, state)
        elif made.kind == "array":
            check_array_state(state)
        elif made.value == WRAPPER:
            self.read_array(state)
        elif made.value in CLASSES or made.value == ("sklearn.tree._tree", "Tree"):
            check_attributes(state)
        elif state.kind not in ("tuple", "dict", "constant"):
            raise Refusal("gives a random generator a state of another kind")

    def read_array(self, state: Part) -> None:
        """Pass over the numbers that joblib writes between opcodes, behind the description of their array."""
        said = attributes(state)
        kind = dtype_of(said["dtype"]) if said.get("dtype", Part("mark")).kind == "dtype" else None
        shape, order, gap = (plain(said.get(key, Part("constant"))) for key in ("shape", "order", "numpy_array_alignment_bytes"))
        known = {"subclass", "shape", "order", "dtype", "allow_mmap", "numpy_array_alignment_bytes"}
        right = kind is not None and set(said) <= known and said.get("subclass", Part("mark")).value == ("numpy", "ndarray")
        if not right or kind is None or not is_shape(shape) or order not in ("C", "F") or gap not in (None, 16):
            raise Refusal("describes an array as joblib would not")
        if kind.hasobject:
            self.scan_inside()
        else:
            if gap is not None:
                padding = self.file.read(1)
                self.file.read(padding[0] if padding else 0)
            size = kind.itemsize * math.prod(shape)
            if len(self.blob) - self.file.tell() < size:
                raise Refusal("ends inside an array")
            self.file.seek(size, io.SEEK_CUR)
        self.stack[-1] = Part("array", built=True)

    def scan_inside(self) -> None:
        """joblib writes an array of objects as a pickle inside the pickle, with a memory of its own."""
        if self.inner:
            raise Refusal("holds a pickle inside a pickle inside a pickle")
        machine = _Machine(self.blob, self.file.tell())
        machine.frame_end = self.frame_end
        machine.run()
        self.names |= machine.names
        self.frames += machine.frames
        self.frame_end = machine.frame_end
        self.file.seek(machine.file.tell())


def _pairs_of(machine: _Machine, _: Any) -> None:
    machine.put_pairs(machine.to_mark())


_ACTIONS: dict[str, Any] = {
    "TUPLE": lambda m, _: m.push(Part("tuple", items=m.to_mark())),
    "EMPTY_LIST": lambda m, _: m.push(Part("list")),
    "EMPTY_DICT": lambda m, _: m.push(Part("dict")),
    "EMPTY_SET": lambda m, _: m.push(Part("set")),
    "FROZENSET": lambda m, _: m.push(Part("set", items=m.to_mark())),
    "APPEND": _Machine.put_item,
    "APPENDS": _Machine.put_items,
    "SETITEM": lambda m, _: m.put_pairs(m.take(2)),
    "SETITEMS": _pairs_of,
    "ADDITEMS": _Machine.put_members,
    "MEMOIZE": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stack_name,
    "NEWOBJ": _Machine.new,
    "REDUCE": _Machine.call,
    "BUILD": _Machine.build,
}
