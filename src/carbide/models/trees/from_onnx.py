"""Reads the tree ensembles of ONNX graphs (ai.onnx.ml): float32 tests of six kinds, votes summed in float32, then a link.

A graph is read where rows go through nothing but casts, copies and one scaling before one ensemble, and its scores through nothing but copies,
products with one and maps by class after it. The reading is compared with the runtime before anybody uses it (``agree``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from carbide.models._reading import NotRead
from carbide.models.trees._build import Builder, last_single_left
from carbide.models.trees.ensemble import Ensemble
from carbide.types import Array, Rng

TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
FLOAT = 1  # onnx.TensorProto.FLOAT
# Which way the true branch goes: whether the threshold itself belongs below (LEQ, GT) and whether what is below is the true branch.
ORDERED = {"BRANCH_LEQ": (False, True), "BRANCH_LT": (True, True), "BRANCH_GTE": (True, False), "BRANCH_GT": (False, False)}
EQUAL = {"BRANCH_EQ": True, "BRANCH_NEQ": False}


def holds_trees(graph: Any) -> bool:
    """Whether a graph has a tree ensemble among its nodes."""
    return any(node.op_type in TREES for node in graph.node)


def from_onnx(model: Any, *, entry: str, output: str, features: int, classes: int, answers: str, keys: list[str]) -> Ensemble:
    """The trees between the graph's float32 input ``entry`` and one of its outputs, whose columns are the classes ``keys``.

    Raises:
        NotRead: if the graph does more than its trees, or these do what the intermediate form does not say.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {item.name: item for item in model.graph.initializer}
    node = _behind(output, makers, constants)
    scaling = _before(node.input[0], makers, entry)
    given = _attributes(node)
    if node.op_type == "TreeEnsembleClassifier" and output != node.output[0] and answers == "labels":
        raise NotRead("it answers labels only")
    known = [str(label) for label in given.get("classlabels_int64s") or given.get("classlabels_strings") or keys]
    if node.op_type == "TreeEnsembleClassifier" and known != keys:
        raise NotRead(f"its trees' classes are {', '.join(known[:6])}, the data's {', '.join(keys[:6])}, in another order or by other names")
    return _ensemble(node.op_type, given, features, classes, answers, scaling)


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    given = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if any(name.endswith("_as_tensor") for name in given):
        raise NotRead("its trees are in double precision")
    return {name: value.decode() if isinstance(value, bytes) else [v.decode() if isinstance(v, bytes) else v for v in value]
            if isinstance(value, list) else value for name, value in given.items()}  # fmt: skip


def _behind(value: str, makers: dict[str, Any], constants: dict[str, Any]) -> Any:
    """The ensemble whose scores an output is, through steps that change nothing."""
    import onnx

    while value in makers:
        node = makers[value]
        if node.op_type in TREES:
            if node.op_type == "TreeEnsembleClassifier" and value == node.output[0]:
                raise NotRead("it answers labels only")
            return node
        ones = [name for name in node.input if name in constants and (onnx.numpy_helper.to_array(constants[name]) == 1).all()]
        if node.op_type == "Mul" and len(ones) == 1:
            value = next(name for name in node.input if name != ones[0])
        elif node.op_type in ("Identity", "ZipMap") or (node.op_type == "Cast" and _to(node) == FLOAT):
            value = node.input[0]
        else:
            raise NotRead(f"its trees are followed by {node.op_type}")
    raise NotRead("its output does not come from its trees")


Scaling = tuple[Array, Array] | None


def _before(value: str, makers: dict[str, Any], entry: str) -> Scaling:
    """See that the ensemble gets the graph's input, and how that is scaled on the way: offsets and positive factors, float32."""
    found: Scaling = None
    while value != entry:
        node = makers.get(value)
        if node is not None and node.op_type == "Scaler" and found is None:
            offset, scale = (np.array(_attributes(node).get(name, []), np.float32) for name in ("offset", "scale"))
            if not (len(offset) and len(scale) and (scale > 0).all()):
                raise NotRead("a Scaler comes before its trees without offsets, or with factors that are not positive")
            found = offset, scale
        elif node is None or not (node.op_type == "Identity" or (node.op_type == "Cast" and _to(node) == FLOAT)):
            raise NotRead(f"{'a constant' if node is None else node.op_type} comes before its trees")
        value = node.input[0]
    return found


def last_scaled_left(thresholds: Array, offset: Array, scale: Array, *, strict: bool) -> Array:
    """The largest doubles ``(m,)`` that, cast, less ``offset`` and times ``scale`` in float32, are ``<=`` (strict: ``<``) these thresholds.

    Scaling in single precision never falls, so float32 numbers are halved in their order.
    """
    top = int(np.float32(np.finfo(np.float32).max).view(np.int32))
    low, high = np.full(len(thresholds), -top - 2, np.int64), np.full(len(thresholds), top, np.int64)  # low goes left, or is below all
    while (low < high).any():
        middle = (low + high + 1) // 2
        with np.errstate(over="ignore"):
            scaled = ((_single(middle) - offset) * scale).astype(np.float64)
        left = scaled < thresholds if strict else scaled <= thresholds
        low, high = np.where(left, middle, low), np.where(left, high, middle - 1)
    return np.where(low >= -top - 1, last_single_left(_single(np.maximum(low, -top - 1)).astype(np.float64), strict=False), -np.inf)


def _single(order: Array) -> Array:
    """The float32 numbers at places of their order, 0 and -1 being the two zeros."""
    bits = np.where(order >= 0, order, -1 - order).astype(np.int32)
    return np.where(order >= 0, 1, -1).astype(np.float32) * bits.view(np.float32)


def _to(node: Any) -> int:
    return next(item.i for item in node.attribute if item.name == "to")


def _ensemble(kind: str, given: dict[str, Any], features: int, classes: int, answers: str, scaling: Scaling) -> Ensemble:
    part = "class" if kind == "TreeEnsembleClassifier" else "target"
    voted = sorted(set(given[f"{part}_ids"]))
    post, averaged = given.get("post_transform", "NONE"), given.get("aggregate_function", "SUM")
    weights = np.array(given[f"{part}_weights"], np.float32)
    columns = classes if part == "class" else int(given.get("n_targets", 1))
    single = columns <= 2 and len(voted) == 1  # one score for two classes
    if averaged not in ("SUM", "AVERAGE") or columns > max(classes, 1):
        raise NotRead(f"its trees answer {columns} values by {averaged}")
    outputs = 1 if single else columns
    builder = Builder(width=outputs)
    trees = _trees(builder, given, part, weights, outputs, scaling)
    base = np.array(given.get("base_values") or [0.0] * outputs, np.float32)
    if single and len(base) != 1:
        raise NotRead(f"its one score has {len(base)} starting values")
    if len(base) != outputs:
        raise NotRead(f"its {outputs} scores have {len(base)} starting values")
    if base.any():  # added last, as the runtime does
        builder.end(builder.root(-1 if outputs > 1 else 0), base.astype(np.float64), 0)
    link, slope = _link(post, answers, single=single, both=part == "class" and single and bool((weights < 0).any()))
    return builder.done(base=np.zeros(outputs), classes=np.arange(classes), features=features, link=link, slope=slope, library="onnx", single=True,
                        divisor=float(trees) if averaged == "AVERAGE" else 1.0)  # fmt: skip


def _link(post: str, answers: str, *, single: bool, both: bool) -> tuple[str, float]:
    """The link and slope; without a transform a score that may be negative stands beside its own negative (``both``)."""
    if post == "LOGISTIC" and single and answers == "probabilities":
        return "sigmoid", 1.0
    if post == "SOFTMAX" and not single and answers == "probabilities":
        return "softmax", 1.0
    if post == "NONE" and answers == "probabilities":
        return "identity", 1.0
    if post == "NONE" and answers == "logits":
        return ("sigmoid", 2.0 if both else 1.0) if single else ("softmax", 1.0)
    raise NotRead(f"its trees are followed by {post} and answer {answers}")


def _trees(builder: Builder, given: dict[str, Any], part: str, weights: Array, outputs: int, scaling: Scaling) -> int:
    """Add every tree, in the order of the graph; how many there are."""
    trees, ids, modes = given["nodes_treeids"], given["nodes_nodeids"], given["nodes_modes"]
    values = np.array(given["nodes_values"], np.float32).astype(np.float64)
    below, under = (_cuts(values, np.array(given["nodes_featureids"]), scaling, strict=strict) for strict in (False, True))
    tracks = given.get("nodes_missing_value_tracks_true") or [0] * len(ids)
    yes, no = given["nodes_truenodeids"], given["nodes_falsenodeids"]
    places: dict[tuple[int, int], int] = {}
    children = {(t, child) for t, mode, *both in zip(trees, modes, yes, no, strict=True) if mode != "LEAF" for child in both}
    for tree, number in zip(trees, ids, strict=True):
        if (tree, number) not in children:
            places[tree, number] = builder.root(-1 if outputs > 1 else 0)
    if len(places) != len(set(trees)):
        raise NotRead("a tree has no root, or two")
    for at in zip(trees, ids, strict=True):
        places.setdefault(at, builder.node() if at not in places else 0)
    votes: dict[tuple[int, int], Array] = {}
    for tree, number, output, weight in zip(given[f"{part}_treeids"], given[f"{part}_nodeids"], given[f"{part}_ids"], weights, strict=True):
        votes.setdefault((tree, number), np.zeros(outputs, np.float32))[output if outputs > 1 else 0] += weight
    zero = np.zeros(outputs, np.float32)
    for i, (at, mode) in enumerate(zip(zip(trees, ids, strict=True), modes, strict=True)):
        node, feature = places[at], given["nodes_featureids"][i]
        if mode == "LEAF":
            builder.end(node, votes.get(at, zero).astype(np.float64), at[1])
            continue
        true, false = places[at[0], yes[i]], places[at[0], no[i]]
        if mode in ORDERED:
            strict, low = ORDERED[mode]
            left, right = (true, false) if low else (false, true)
            builder.test(node, feature, (under if strict else below)[i], left, right, missing_left=(true if tracks[i] else false) == left)
        elif mode in EQUAL:
            inside, outside = (true, false) if EQUAL[mode] else (false, true)
            builder.runs(node, feature, [under[i], below[i]], inside=inside, outside=outside, missing=true if tracks[i] or not EQUAL[mode] else false)
        else:
            raise NotRead(f"its trees test by {mode}")
    return len(set(trees))


def _cuts(values: Array, features: Array, scaling: Scaling, *, strict: bool) -> Array:
    """The thresholds in double precision of the graph's input."""
    if scaling is None:
        return last_single_left(values, strict=strict)
    offset, scale = (part[features] if len(part) > 1 else np.broadcast_to(part, values.shape) for part in scaling)
    return last_scaled_left(values, offset, scale, strict=strict)


def agree(trees: Ensemble, predict: Callable[[Array], Array], rows: Array, rng: Rng, *, nodes: int = 150) -> int:
    """Compare with the model's own probabilities on rows ``(n, d)``, on thresholds, beside them and with values missing; how many rows.

    Raises:
        NotRead: if a probability differs by more than sums in single precision can.
    """
    inner = np.flatnonzero((trees.feature >= 0) & np.isfinite(trees.threshold))
    chosen = rng.permutation(inner)[:nodes]
    tops = np.array([[t, np.nextafter(t, np.inf), np.float32(t)] for t in trees.threshold[chosen]]).reshape(-1)
    edges = rows[rng.integers(len(rows), size=len(tops))].copy()
    edges[np.arange(len(tops)), np.repeat(trees.feature[chosen], 3)] = tops
    lost = rows[rng.integers(len(rows), size=min(len(rows), 64))].copy()
    lost[rng.random(lost.shape) < 0.3] = np.nan
    everything = np.concatenate([rows, edges, lost])
    mine, own = trees.predict(everything), predict(everything)
    allowed = 2.0**-20 * max(1.0, trees.trees / 64)
    worst = float(np.abs(mine - own).max(initial=0.0)) if mine.shape == own.shape else np.inf
    if not worst <= allowed:
        raise NotRead(f"its trees as read differ from its answers by up to {worst:.2g} in probability, where {allowed:.2g} is allowed")
    return len(everything)
