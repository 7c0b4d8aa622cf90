"""A reader of flatbuffers that never leaves its buffer: tables whose fields are found through an index, vectors and texts.

>>> Flat(b"\\x04\\x00\\x00\\x00" + b"\\x00\\x00\\x00\\x00").root().get(0)
Traceback (most recent call last):
...
ValueError: bytes 0 to 2 of an index of 0 bytes
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carbide.types import Array


@dataclass(frozen=True, eq=False)
class Flat:
    """The bytes of one flatbuffer; lists that share their bytes a great many times are no file that a library wrote."""

    blob: bytes
    taken: list[int] = field(default_factory=lambda: [0])

    def number(self, kind: str, at: int) -> Any:
        """One number of a ``struct`` format at a byte.

        Raises:
            ValueError: if it lies outside the buffer.
        """
        size = struct.calcsize(kind)
        if not 0 <= at <= len(self.blob) - size:
            raise ValueError(f"byte {at} lies outside the {len(self.blob)} that there are")
        return struct.unpack_from(f"<{kind}", self.blob, at)[0]

    def follow(self, at: int) -> int:
        """Where the reference at a byte points to."""
        return at + self.number("I", at)

    def root(self) -> Table:
        """The outermost table."""
        return Table(self, self.follow(0))


@dataclass(frozen=True, eq=False)
class Table:
    """A table of a flatbuffer; ``fields`` are numbered in the order of its schema, and one that is absent has its default."""

    flat: Flat
    at: int

    def _field(self, field: int) -> int | None:
        index = self.at - self.flat.number("i", self.at)
        size = self.flat.number("H", index)
        if size < 4:
            raise ValueError(f"bytes 0 to 2 of an index of {size} bytes")
        place = 4 + 2 * field
        offset = self.flat.number("H", index + place) if place < size else 0
        return self.at + offset if offset else None

    def get(self, field: int, kind: str = "i", default: Any = None) -> Any:
        """The number in a field."""
        at = self._field(field)
        return default if at is None else self.flat.number(kind, at)

    def table(self, field: int) -> Table | None:
        """The table that a field points to."""
        at = self._field(field)
        return None if at is None else Table(self.flat, self.flat.follow(at))

    def vector(self, field: int, kind: str) -> Array:
        """The numbers ``(n,)`` of a numpy type that a field points to; none where it is absent.

        Raises:
            ValueError: if they reach beyond the buffer.
        """
        at = self._field(field)
        if at is None:
            return np.zeros(0, kind)
        start = self.flat.follow(at)
        n, size = self.flat.number("I", start), np.dtype(kind).itemsize
        if start + 4 + n * size > len(self.flat.blob):
            raise ValueError(f"a list of {n} reaches beyond the end")
        self.flat.taken[0] += n * size
        if self.flat.taken[0] > 16 * len(self.flat.blob):
            raise ValueError("its lists overlap")
        return np.frombuffer(self.flat.blob, kind, n, start + 4)

    def text(self, field: int) -> str:
        """The text that a field points to, empty where it is absent."""
        return self.vector(field, "u1").tobytes().decode()

    def tables(self, field: int) -> list[Table]:
        """The tables of a list."""
        at = self._field(field)
        offsets = self.vector(field, "<u4")
        first = 0 if at is None else self.flat.follow(at) + 4
        return [Table(self.flat, first + 4 * i + int(offset)) for i, offset in enumerate(offsets)]
