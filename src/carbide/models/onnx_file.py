"""ONNX graphs as black-box models, run by onnxruntime on one thread.

Before the runtime sees a graph it is checked: data outside the file must lie in the file's folder, trees must not point
outside themselves, operators must be the standard's own.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carbide.models._answers import check_answers, detect, probe_rows, to_probabilities
from carbide.models._files import one_line
from carbide.models._onnx_graph import check_onnx, check_widths, open_session
from carbide.types import BLACK_BOX, Access, Array, InputError, Space, digest, rng_for

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel:
    """A checked ONNX graph; ``output`` names the output that is read and ``answers`` says what it holds (``auto`` = find out)."""

    blob: bytes = field(repr=False)
    space: Space
    classes: int
    output: str = ""
    answers: str = "auto"
    labels: tuple[Any, ...] = ()
    name: str = "the ONNX model"
    batch: int = 4096
    threshold: float = 0.5

    def __post_init__(self) -> None:
        name, dtype, row, fixed = self._entry
        check_widths(self.blob, self.name, name, np.zeros((fixed or 1, *row), dtype))
        object.__setattr__(self, "output", self._choose_output())
        if check_answers(self.answers) == "auto":
            raw = self._ask(probe_rows(self.space, rng_for(0, "probe")))
            object.__setattr__(self, "answers", detect(raw, classes=self.classes, name=self.name) if not self.labels or raw.ndim == 2 else "labels")
        self.predict(probe_rows(self.space, rng_for(0, "probe")))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "session"}

    @functools.cached_property
    def session(self) -> Any:
        """The runtime's session, on one thread so that answers repeat."""
        return open_session(self.blob, self.name)

    @property
    def access(self) -> Access:
        """Labels alone, or scores too."""
        return Access.LABELS if self.answers == "labels" else BLACK_BOX

    @functools.cached_property
    def _entry(self) -> tuple[str, Any, tuple[int, ...], int | None]:
        """Name, dtype, row shape and fixed batch size of the graph's one input."""
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in TYPES:
            said = ", ".join(f"{item.name}: {item.type}" for item in inputs)
            raise InputError(f"{self.name} has the inputs {said}; export it with one numeric input for whole rows")
        shape, want = list(inputs[0].shape), self.space.shape
        row = [size if isinstance(size, int) and size > 0 else None for size in shape[1:]]
        for candidate in (want, (int(np.prod(want)),)):
            if len(row) == len(candidate) and all(size in (None, n) for size, n in zip(row, candidate, strict=True)):
                fixed = shape[0] if shape and isinstance(shape[0], int) and shape[0] > 0 else None
                return inputs[0].name, TYPES[inputs[0].type], candidate, fixed
        raise InputError(
            f"{self.name} takes rows of shape {tuple(shape[1:])}, but a row of the data has shape {want}; give the data and space it was trained with"
        )

    def _choose_output(self) -> str:
        outputs = {item.name: item for item in self.session.get_outputs()}
        if self.output:
            if self.output not in outputs:
                raise InputError(f"{self.name} has no output {self.output!r}; its outputs are {', '.join(outputs)}")
            return self.output

        def rank(item: Any) -> tuple[bool, bool, bool]:
            scores = item.type.startswith("seq(map") or (item.type in TYPES and "int" not in item.type)
            return (not scores, "prob" not in item.name.lower(), "label" in item.name.lower())

        return min(outputs.values(), key=rank).name

    def _ask(self, x: Array) -> Array:
        name, dtype, row, fixed = self._entry
        rows = np.ascontiguousarray(x.reshape(len(x), *row), dtype)
        size = fixed or self.batch
        parts = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = part if fixed is None else np.concatenate([part, np.repeat(part[-1:], fixed - len(part), 0)])
            try:
                raw = self.session.run([self.output], {name: filled})[0]
            except Exception as error:
                raise InputError(f"{self.name} fails on rows of shape {row} ({one_line(error)}); export the model again") from error
            parts.append(self._array(raw)[: len(part)])
        return np.concatenate(parts)

    def _array(self, raw: Any) -> Array:
        """An output as an array; maps from class to score become columns in the order of the classes."""
        if isinstance(raw, list):
            keys = [str(label) for label in self.labels] or [str(c) for c in range(self.classes)]
            if not all(isinstance(item, dict) and {str(k) for k in item} <= set(keys) for item in raw):
                found = sorted({str(k) for item in raw if isinstance(item, dict) for k in item})[:6]
                raise InputError(f"{self.name} answers for the classes {', '.join(found)}, not {', '.join(keys[:6])}; name its classes under labels:")
            by_name = [{str(k): v for k, v in item.items()} for item in raw]
            return np.array([[item.get(key, 0.0) for key in keys] for item in by_name])
        return np.asarray(raw)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        return to_probabilities(self._ask(x), rows=len(x), classes=self.classes, answers=self.answers, name=self.name, labels=self.labels)

    def at(self, threshold: float) -> OnnxModel:
        """The same model deciding at another threshold.

        Raises:
            InputError: if it answers labels only, whose threshold nobody can move.
        """
        if self.answers == "labels" and threshold != self.threshold:
            raise InputError(f"{self.name} answers labels only, so its threshold cannot be set to {threshold:g}; leave out operating_point")
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the graph and of how it is read."""
        return digest(self.blob, self.output, self.answers, self.classes, list(self.labels), self.threshold)

    def to_state(self) -> dict[str, Any]:
        """The graph's bytes and how it is read."""
        return {"blob": self.blob, "space": self.space, "classes": self.classes, "output": self.output, "answers": self.answers,
                "labels": list(self.labels), "name": self.name, "batch": self.batch, "threshold": self.threshold}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> OnnxModel:
        """The model of ``to_state``; the graph is checked again."""
        return cls(**{**state, "blob": check_onnx(state["blob"], "a stored model", None), "labels": tuple(state["labels"])})
