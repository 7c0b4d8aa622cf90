"""Whether an ONNX graph can be given to the runtime: what it reads, which operators it uses, where its trees point."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from carbide.models._files import one_line
from carbide.models._sound import check_depth, check_tree, damaged
from carbide.models.trees._onnx_tree_ensemble import check_tree_ensemble
from carbide.types import InputError

DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")


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
    local = {(function.domain, function.name) for function in model.functions}
    everywhere = [item for item in _messages(model) if type(item).__name__ == "NodeProto"]
    if sum(node.op_type in TREES for node in everywhere) != sum(node.op_type in TREES for node in model.graph.node):
        raise InputError(f"{name} has trees inside a branch, a loop or a function, which Carbide does not run; export the ensemble alone")
    for node in everywhere:
        if node.domain not in DOMAINS and (node.domain, node.op_type) not in local:
            raise InputError(f"{name} uses the operator {node.domain}.{node.op_type}, which is not of the standard; export without custom operators")
        if node.op_type == "EPContext" and node.domain:
            raise InputError(f"{name} uses the operator {node.op_type}, which Carbide does not run; export without compiled parts")
        if node.op_type == "TreeEnsemble":
            check_tree_ensemble(attributes_of(node), name)
        elif node.op_type in TREES:
            _check_trees(node, name)


def attributes_of(node: Any) -> dict[str, Any]:
    """A node's attributes by name: tensors as arrays, texts as strings."""
    import onnx

    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {name: _plain(value) for name, value in given.items()}


def _plain(value: Any) -> Any:
    import onnx

    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value.decode() if isinstance(value, bytes) else value


def _check_trees(node: Any, name: str) -> None:
    given = {item.name: list(item.ints) or [text.decode() for text in item.strings] for item in node.attribute}
    trees, ids = np.array(given.get("nodes_treeids", []), np.int64), np.array(given.get("nodes_nodeids", []), np.int64)
    feature, modes = np.array(given.get("nodes_featureids", []), np.int64), np.array(given.get("nodes_modes", []), str)
    yes, no = np.array(given.get("nodes_truenodeids", []), np.int64), np.array(given.get("nodes_falsenodeids", []), np.int64)
    if not len(trees) == len(ids) == len(feature) == len(modes) == len(yes) == len(no) or len(trees) == 0:
        raise damaged(name, "the tables of a tree ensemble differ in length")
    for tree in np.unique(trees):
        rows = np.flatnonzero(trees == tree)
        places = {int(i): place for place, i in enumerate(ids[rows])}
        internal = modes[rows] != "LEAF"
        if len(places) != len(rows):
            raise damaged(name, f"tree {tree} has two nodes of one number")
        left, right = (np.array([places.get(int(i), -1) for i in side[rows]], np.int64) for side in (yes, no))
        check_tree(name, left=left, right=right, feature=feature[rows], internal=internal, features=1 << 31)
        roots = np.setdiff1d(np.arange(len(rows)), np.concatenate([left[internal], right[internal]]))
        for root in roots:
            check_depth(name, left=left, right=right, internal=internal, root=int(root))
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


def check_widths(blob: bytes, name: str, entry: str, row: np.ndarray) -> None:
    """See that every tree ensemble of a checked graph gets as many features as its splits ask for.

    ``row`` is a batch for the input ``entry``; what lies before an ensemble is run on it alone to see how wide it is.

    Raises:
        InputError: if a split asks for a feature that does not reach it.
    """
    import onnx

    model = onnx.load_model_from_string(blob)
    for node in model.graph.node:  # in order, so that what comes before an ensemble has been checked
        if node.op_type not in TREES:
            continue
        given = attributes_of(node)
        asked = [f for f, mode in zip(given["nodes_featureids"], given["nodes_modes"], strict=True) if mode != "LEAF"]
        width = row.shape[-1] if node.input[0] == entry else _width_of(model, node.input[0], name, {entry: row})
        if asked and max(asked) >= width:
            raise damaged(name, f"a tree splits on feature {max(asked)}, but {width} reach it")


def _width_of(model: Any, value: str, name: str, feed: dict[str, np.ndarray]) -> int:
    """How wide an inner value is, from running the part of the graph that makes it."""
    try:
        return int(_part(model, value, name).run([value], feed)[0].shape[-1])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be run up to {value!r} ({one_line(error)}); export the model again") from error


def part_session(blob: bytes, value: str, name: str) -> Any:
    """A session of the part of a checked graph that makes an inner value.

    Raises:
        InputError: if the runtime refuses it.
    """
    import onnx

    return _part(onnx.load_model_from_string(blob), value, name)


def _part(model: Any, value: str, name: str) -> Any:
    import onnx

    needed, kept = {value}, []
    for node in reversed(model.graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= {text for item in _messages(node) if type(item).__name__ == "NodeProto" for text in item.input}
    part = onnx.ModelProto()
    part.CopyFrom(model)
    del part.graph.node[:], part.graph.output[:]
    part.graph.node.extend(kept[::-1])
    part.graph.output.append(onnx.helper.make_empty_tensor_value_info(value))
    return open_session(part.SerializeToString(), name)


def open_session(blob: bytes, name: str) -> Any:
    """A session of onnxruntime on one thread.

    Raises:
        InputError: if it is not installed or refuses the graph.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise InputError(f"{name} needs the onnx extra; install it with: pip install 'carbide[onnx]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(blob, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{name} cannot be run by onnxruntime ({one_line(error)}); export the model again") from error
