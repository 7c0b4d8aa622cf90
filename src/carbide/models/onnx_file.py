"""ONNX graphs as black-box models, run by onnxruntime on one thread.

Before the runtime sees a graph it is checked: data outside the file must lie in the file's folder, trees must not point
outside themselves, operators must be the standard's own.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carbide.models._answers import check_answers, detect, probe_rows, to_probabilities
from carbide.models._files import one_line
from carbide.models._sound import check_tree, damaged
from carbide.types import BLACK_BOX, Access, Array, InputError, Space, digest, rng_for

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
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
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            return onnxruntime.InferenceSession(self.blob, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise InputError(f"{self.name} cannot be run by onnxruntime ({one_line(error)}); export the model again") from error

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


def check_onnx(blob: bytes, name: str, folder: Path | None) -> bytes:
    """The bytes of a checked graph, with data from files beside it (in ``folder``, None = not allowed) taken in.

    Raises:
        InputError: if it is no valid graph, reads data outside its folder, or could read outside its own memory.
    """
    try:
        import onnx
        from onnx.external_data_helper import load_external_data_for_model
    except ImportError as error:
        raise InputError(f"{name} needs the onnx extra; install it with: pip install 'carbide[onnx]'") from error
    try:
        model = onnx.load_model_from_string(blob)
        outside = [tensor for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data]
        _check_external(outside, folder, name)
        if outside:
            load_external_data_for_model(model, str(folder))
        onnx.checker.check_model(model)
        _check_nodes(model, name)
        return model.SerializeToString(deterministic=True) if outside else blob
    except InputError:
        raise
    except Exception as error:  # protobuf, checker and numpy each raise their own kinds on broken graphs
        raise InputError(f"{name} is no valid ONNX graph ({one_line(error)}); export the model again") from error


def _messages(message: Any) -> Iterator[Any]:
    """Every message inside a protobuf message, itself included."""
    waiting = [message]
    while waiting:
        item = waiting.pop()
        yield item
        for description, value in item.ListFields():
            if description.message_type is not None:
                waiting += list(value) if hasattr(value, "__len__") and not hasattr(value, "ListFields") else [value]


def _tensors(model: Any) -> list[Any]:
    return [item for item in _messages(model) if type(item).__name__ == "TensorProto"]


def _check_external(tensors: list[Any], folder: Path | None, name: str) -> None:
    for tensor in tensors:
        said = {entry.key: entry.value for entry in tensor.external_data}
        location = said.get("location", "")
        if folder is None:
            raise InputError(f"{name} reads the file {location!r}; save it with its data inside")
        path = (folder / location).resolve()
        if (
            not location
            or Path(location).is_absolute()
            or "\\" in location
            or ":" in location
            or not path.is_relative_to(folder.resolve())
            or (folder / location).is_symlink()
        ):
            raise InputError(f"{name} reads the file {location!r} outside its folder; save it with its data inside or beside it")
        size = path.stat().st_size if path.is_file() else -1
        offset, length = int(said.get("offset", "0") or 0), int(said.get("length", "0") or 0)
        if size < 0 or offset < 0 or length < 0 or offset + length > size:
            raise InputError(f"{name} reads bytes {offset} to {offset + length} of {location!r}, which has {max(size, 0)}; give the whole file")


def _check_nodes(model: Any, name: str) -> None:
    for node in (item for item in _messages(model) if type(item).__name__ == "NodeProto"):
        local = {(function.domain, function.name) for function in model.functions}
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
            raise InputError(f"{name} uses the operator {node.domain}.{node.op_type}, which is not of the standard; export without custom operators")
        if node.op_type in ("EPContext", "TreeEnsemble") and node.domain:
            raise InputError(
                f"{name} uses the operator {node.op_type}, which Carbide does not run; export with ai.onnx.ml opset 3 and no compiled parts"
            )
        if node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor"):
            _check_trees(node, model, name)


def _check_trees(node: Any, model: Any, name: str) -> None:
    given = {item.name: list(item.ints) or [text.decode() for text in item.strings] for item in node.attribute}
    trees, ids = np.array(given.get("nodes_treeids", []), np.int64), np.array(given.get("nodes_nodeids", []), np.int64)
    feature, modes = np.array(given.get("nodes_featureids", []), np.int64), np.array(given.get("nodes_modes", []), str)
    yes, no = np.array(given.get("nodes_truenodeids", []), np.int64), np.array(given.get("nodes_falsenodeids", []), np.int64)
    if not len(trees) == len(ids) == len(feature) == len(modes) == len(yes) == len(no) or len(trees) == 0:
        raise damaged(name, "the tables of a tree ensemble differ in length")
    width = _input_width(model)
    for tree in np.unique(trees):
        rows = np.flatnonzero(trees == tree)
        places = {int(i): place for place, i in enumerate(ids[rows])}
        internal = modes[rows] != "LEAF"
        if len(places) != len(rows):
            raise damaged(name, f"tree {tree} has two nodes of one number")
        left, right = (np.array([places.get(int(i), -1) for i in side[rows]], np.int64) for side in (yes, no))
        check_tree(name, left=left, right=right, feature=feature[rows], internal=internal, features=width)
    kind = "class" if node.op_type.endswith("Classifier") else "target"
    outputs = np.array(given.get(f"{kind}_ids", []), np.int64)
    names = given.get("classlabels_int64s") or given.get("classlabels_strings") or []
    count = len(names) if kind == "class" else next((item.i for item in node.attribute if item.name == "n_targets"), 1)
    if len(outputs) and (outputs.min() < 0 or outputs.max() >= max(count, 1)):
        raise damaged(name, f"a leaf votes for output {int(outputs.max())} of {count}")
    known = {(int(a), int(b)) for a, b in zip(trees, ids, strict=True)}
    votes = zip(given.get(f"{kind}_treeids", []), given.get(f"{kind}_nodeids", []), strict=True)
    if not {(int(a), int(b)) for a, b in votes} <= known:  # type: ignore[arg-type]
        raise damaged(name, "a vote belongs to no node")


def _input_width(model: Any) -> int:
    """The features of a row that reaches a tree: known where the graph says so, else unbounded but positive."""
    sizes = [dim.dim_value for item in model.graph.input for dim in item.type.tensor_type.shape.dim[1:] if dim.dim_value > 0]
    return int(np.prod(sizes)) if sizes else 1 << 31
