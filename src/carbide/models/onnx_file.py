"""ONNX graphs as models, run by onnxruntime on one thread; nets of known operators are read as torch nets besides, ensembles as trees.

Before the runtime sees a graph it is checked: data outside the file must lie in the file's folder, trees must not point
outside themselves, operators must be the standard's own.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carbide.models._answers import check_answers, detect, probe_rows, to_probabilities
from carbide.models._files import one_line
from carbide.models._onnx_graph import check_onnx, check_widths, open_session, part_session
from carbide.models._reading import NotRead, Readable, Reading, answers_of, compare, compare_raw, exact_answers, read, rounding_of, shown, trial_rows
from carbide.models.trees.ensemble import Ensemble
from carbide.types import BLACK_BOX, TREE_BOX, Access, Array, InputError, Space, digest, rng_for

TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxModel(Readable):
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
        return {key: value for key, value in self.__dict__.items() if key not in ("session", "reading", "trees")}

    @functools.cached_property
    def session(self) -> Any:
        """The runtime's session, on one thread so that answers repeat."""
        return open_session(self.blob, self.name)

    @property
    def access(self) -> Access:
        """Labels alone, or scores too, gradients where the graph was read as a net, and structure where it was read as trees."""
        if self.trees.ensemble is not None:
            return TREE_BOX
        return Access.LABELS if self.answers == "labels" else BLACK_BOX | shown(self.reading)

    @functools.cached_property
    def reading(self) -> Reading:
        """The graph as a torch net in its own precision, compared with the runtime."""
        return Reading() if self.trees.ensemble is not None else read_net(self)

    @functools.cached_property
    def trees(self) -> TreeReading:
        """The graph as a tree ensemble in the intermediate form, compared with the runtime, or the reason why there is none."""
        return read_trees(self)

    @property
    def ensemble(self) -> Ensemble:
        """The trees.

        Raises:
            InputError: if the graph was not read as trees.
        """
        if self.trees.ensemble is None:
            raise InputError(f"{self.name} shows no trees: {self.trees.note or 'it has none'}; use attacks that need answers only")
        return self.trees.ensemble

    @property
    def notes(self) -> tuple[str, ...]:
        """What was not read, and why, for the report."""
        return (f"its trees were not read: {self.trees.note}",) if self.trees.note else super().notes

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

    def inner(self, x: Array, value: str) -> Array:
        """What an inner value of the graph is for rows ``(n, *shape)``, as the runtime computes it."""
        return self._ask(x, part_session(self.blob, value, self.name), value)

    def _ask(self, x: Array, session: Any = None, output: str = "") -> Array:
        name, dtype, row, fixed = self._entry
        rows = np.ascontiguousarray(x.reshape(len(x), *row), dtype)
        size = fixed or self.batch
        parts = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            filled = part if fixed is None else np.concatenate([part, np.repeat(part[-1:], fixed - len(part), 0)])
            try:
                raw = (session or self.session).run([output or self.output], {name: filled})[0]
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
        moved = replace(self, threshold=threshold)
        moved.__dict__.update({key: self.__dict__[key] for key in ("reading", "trees") if key in self.__dict__})
        return moved

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


@dataclass(frozen=True, kw_only=True, eq=False)
class TreeReading:
    """A tree ensemble that agreed with its graph, or None and the reason in ``note`` (empty where the graph has no trees)."""

    ensemble: Ensemble | None = None
    note: str = ""


def read_trees(model: OnnxModel) -> TreeReading:
    """The trees of a model's graph, or the reason why there are none."""
    import onnx

    from carbide.models.trees.from_onnx import agree, differs, from_onnx, holds_trees

    graph = onnx.load_model_from_string(model.blob)
    if not holds_trees(graph.graph):
        return TreeReading()
    entry, dtype, row, _ = model._entry
    try:
        if dtype is not np.float32 or model.answers == "labels":
            raise NotRead(f"the graph takes {dtype.__name__} and answers {model.answers}")
        keys = [str(label) for label in model.labels] or [str(c) for c in range(model.classes)]
        flat = (-1, *model.space.shape)
        rows = trial_rows(model.space, model.predict)

        def read(*, runtime: bool) -> Ensemble:
            trees = from_onnx(graph, entry=entry, output=model.output, features=math.prod(row), classes=model.classes, answers=model.answers, keys=keys,
                              runtime=runtime)  # fmt: skip
            agree(trees, lambda x: model.predict(x.reshape(flat)), rows.reshape(len(rows), -1), rng_for(0, "trees"))
            return trees

        try:
            return TreeReading(ensemble=read(runtime=False))
        except NotRead:
            if not differs(graph.graph):
                raise
            return TreeReading(ensemble=read(runtime=True))
    except (NotRead, InputError) as reason:
        return TreeReading(note=str(reason))
    except (KeyError, IndexError, ValueError) as error:  # the standard leaves out little, exporters sometimes more
        return TreeReading(note=f"its tables are not those of the standard ({type(error).__name__}: {one_line(error)})")


def read_net(model: OnnxModel) -> Reading:
    """The reading of a model's graph, or the reason why there is none.

    Its logits must be the runtime's to within what rounding can do: sixteen times the difference that the net's own
    precision makes against float64 on the same rows, and a millionth, relative to the row's largest logit.
    """
    found: list[Any] = []

    def make() -> Any:
        import onnx
        import torch

        from carbide.models.onnx_net.graph import net_of

        entry, dtype, row, fixed = model._entry
        sample = probe_rows(model.space, rng_for(0, "sample"), fixed or 2).astype(dtype)
        keys = [str(label) for label in model.labels] or [str(c) for c in range(model.classes)]
        found.append(net_of(onnx.load_model_from_string(model.blob), entry=entry, output=model.output, sample=torch.from_numpy(sample), row=row,
                            answers=model.answers, keys=keys))  # fmt: skip
        return found[0].module

    def check(module: Any) -> Reading:
        rows = trial_rows(model.space, model.predict)
        logits, exact = answers_of(module, rows), exact_answers(module, rows)
        raw = found[0].raw
        if raw:
            compare_raw(logits, exact, model.inner(rows, raw).reshape(len(rows), -1), second=found[0].second)
        compare(exact, model.predict(rows), tolerance=rounding_of(logits, exact))
        return Reading(module=module, rows=len(rows))

    return read(make, check)
