"""An ONNX graph as a plain function of rows: what it computes, not what it decides; properties are about such functions.

The runtime answers in the file's own precision. Bounds need the graph as a torch net: it is read with nothing left out
(softmax and all) and compared with the runtime on rows of the box that a property speaks of.

>>> load_function("net.onnx.txt")
Traceback (most recent call last):
    ...
carbide.types.InputError: net net.onnx.txt ends in '.txt', which names no ONNX file; give a .onnx file, plain or gzipped (.onnx.gz)
"""

from __future__ import annotations

import functools
import gzip
import io
import math
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carbide.models._answers import numbers, probe_rows
from carbide.models._files import LIMIT, by_content, one_line, read_bytes
from carbide.models._onnx_graph import check_onnx, check_widths, open_session
from carbide.models._reading import Reading, answers_of, compare_raw, exact_answers, read, trial_rows
from carbide.models.onnx_file import TYPES
from carbide.types import Array, InputError, Space, digest, rng_for

BATCH = 1024  # rows that are asked at once where the graph allows it


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxFunction:
    """A checked ONNX graph with one input of ``inputs`` numbers a row, in C order, and one output of ``outputs`` numbers."""

    blob: bytes = field(repr=False)
    name: str = "the net"

    def __post_init__(self) -> None:
        entry, dtype, row, fixed = self._entry
        check_widths(self.blob, self.name, entry, np.zeros((fixed or 1, *row), dtype))
        if len(self.session.get_outputs()) != 1:
            said = ", ".join(item.name for item in self.session.get_outputs())
            raise InputError(f"{self.name} has the outputs {said}; export it with the one that the property speaks of")
        object.__setattr__(self, "outputs", self(np.zeros((1, self.inputs))).shape[1])

    outputs: int = field(init=False, default=0)

    @functools.cached_property
    def session(self) -> Any:
        """The runtime's session, on one thread so that answers repeat."""
        return open_session(self.blob, self.name)

    @functools.cached_property
    def _entry(self) -> tuple[str, Any, tuple[int, ...], int | None]:
        """Name, dtype, row shape and fixed batch size (None = any) of the graph's one input."""
        given = self.session.get_inputs()
        if len(given) != 1 or given[0].type not in TYPES:
            said = ", ".join(f"{item.name}: {item.type}" for item in given)
            raise InputError(f"{self.name} has the inputs {said}; export it with one numeric input")
        shape = list(given[0].shape)
        if len(shape) < 2 or any(not (isinstance(size, int) and size > 0) for size in shape[1:]):
            raise InputError(f"{self.name} takes an input of shape {tuple(shape)}; export it with a batch axis first and fixed sizes after it")
        fixed = shape[0] if isinstance(shape[0], int) and shape[0] > 0 else None
        return given[0].name, TYPES[given[0].type], tuple(shape[1:]), fixed

    @property
    def row(self) -> tuple[int, ...]:
        """The shape in which the graph takes a row."""
        return self._entry[2]

    @property
    def inputs(self) -> int:
        """How many numbers a row has."""
        return math.prod(self.row)

    @property
    def dtype(self) -> Any:
        """The numpy type of the graph's input."""
        return self._entry[1]

    def __call__(self, x: Array) -> Array:
        """Outputs ``(n, outputs)`` float64 of rows ``(n, inputs)`` or ``(n, *row)``, each rounded to the graph's type first.

        Raises:
            InputError: if the graph fails, or answers NaN or infinity.
        """
        entry, dtype, row, fixed = self._entry
        rows = np.ascontiguousarray(np.reshape(x, (len(x), *row)), dtype)
        size, parts = fixed or BATCH, []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = part if fixed is None else np.concatenate([part, np.repeat(part[-1:], fixed - len(part), 0)])
            try:
                raw = self.session.run(None, {entry: filled})[0]
            except Exception as error:
                raise InputError(f"{self.name} fails on rows of shape {row} ({one_line(error)}); export the net again") from error
            out = numbers(raw, self.name)
            if out.size % len(filled):
                raise InputError(f"{self.name} answers an array of shape {out.shape} for {len(filled)} rows; export it with a batch axis")
            parts.append(out.reshape(len(filled), -1)[: len(part)].astype(np.float64))
        return np.concatenate(parts) if parts else np.zeros((0, self.outputs))

    def reading(self, lower: Array, upper: Array) -> Reading:
        """The graph as a torch net ``(n, *row) -> (n, outputs)``, compared with the runtime on rows of the box ``(inputs,)``, or why there is none."""

        def make() -> Any:
            import onnx
            import torch

            from carbide.models.onnx_net.graph import raw_net_of

            entry, dtype, row, fixed = self._entry
            sample = torch.from_numpy(probe_rows(space, rng_for(0, "sample"), fixed or 2).reshape(-1, *row).astype(dtype))
            return raw_net_of(onnx.load_model_from_string(self.blob), entry=entry, output=self.session.get_outputs()[0].name, sample=sample, row=row)

        def check(module: Any) -> Reading:
            rows = trial_rows(space, self).reshape(-1, *self.row)
            compare_raw(answers_of(module, rows), exact_answers(module, rows), self(rows), second=False)
            return Reading(module=module, rows=len(rows))

        plain = np.zeros(self.inputs)
        space = Space(shape=(self.inputs,), lower=lower, upper=upper, step=plain, mutable=plain == 0, kind=plain.astype(np.int8))
        return read(make, check)

    def digest(self) -> str:
        """A hash of the graph."""
        return digest(self.blob)


def load_function(path: str | Path) -> OnnxFunction:
    """The function of a ``.onnx`` file, plain or gzipped.

    Raises:
        InputError: if it cannot be read, is no ONNX graph, or takes or gives something else than one array of numbers a row.
    """
    path, name = Path(path), f"net {path}"
    if not path.name.lower().endswith((".onnx", ".onnx.gz")):
        raise InputError(f"{name} ends in {path.suffix!r}, which names no ONNX file; give a .onnx file, plain or gzipped (.onnx.gz)")
    blob = read_bytes(path)
    if blob[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(blob)) as packed:
                blob = packed.read(LIMIT + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{name} is no whole gzip file ({one_line(error)}); give the whole file") from error
        if len(blob) > LIMIT:
            raise InputError(f"{name} unpacks to more than {LIMIT} bytes; give a smaller net")
    if by_content(blob) != "onnx":
        raise InputError(f"{name} holds {by_content(blob)}, where an ONNX graph is expected; export the net again")
    return OnnxFunction(blob=check_onnx(blob, name, path.parent), name=name)
