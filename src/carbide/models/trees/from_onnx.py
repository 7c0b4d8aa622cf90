"""Reads the tree ensembles of ONNX graphs (ai.onnx.ml): float32 tests of seven kinds, votes summed in float32, then a link.

A graph is read where rows go through nothing but casts, copies and one scaling before one ensemble, and its scores through nothing but copies,
products with one, added constants, one link and maps by class after it. The reading is compared with the runtime before anybody uses it (``agree``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carbide.models._onnx_graph import attributes_of
from carbide.models._reading import NotRead
from carbide.models.trees._build import Builder, last_single_left
from carbide.models.trees._onnx_tree_ensemble import as_regressor
from carbide.models.trees.ensemble import Ensemble
from carbide.types import Array, Rng

TREES = ("TreeEnsembleClassifier", "TreeEnsembleRegressor", "TreeEnsemble")
AFTER = {"Sigmoid": "LOGISTIC", "Softmax": "SOFTMAX"}  # nodes of the graph that do what a transform of the ensemble does
FLOAT = 1  # onnx.TensorProto.FLOAT
# Which way the true branch goes: whether the threshold itself belongs below (LEQ, GT) and whether what is below is the true branch.
ORDERED = {"BRANCH_LEQ": (False, True), "BRANCH_LT": (True, True), "BRANCH_GTE": (True, False), "BRANCH_GT": (False, False)}
MASK = 30  # sets up to here are tested as they are even where the runtime looks at whole parts
EQUAL = {"BRANCH_EQ": True, "BRANCH_NEQ": False, "BRANCH_MEMBER": True}


def holds_trees(graph: Any) -> bool:
    """Whether a graph has a tree ensemble among its nodes."""
    return any(node.op_type in TREES for node in graph.node)


def differs(graph: Any) -> bool:
    """Whether the graph has an operator that onnxruntime may take otherwise than the standard."""
    return any(node.op_type == "TreeEnsemble" for node in graph.node)


def from_onnx(model: Any, *, entry: str, output: str, features: int, classes: int, answers: str, keys: list[str], runtime: bool = False) -> Ensemble:
    """The trees between the graph's float32 input ``entry`` and one of its outputs, whose columns are the classes ``keys``.

    ``runtime``: TreeEnsemble as onnxruntime 1.32 takes it, not as the standard says. A value is in a set if its whole part is, where the set is not of
    0 to 30; the transforms 1 and 2 are logistic and softmax, which the standard numbers the other way round.

    Raises:
        NotRead: if the graph does more than its trees, or these do what the intermediate form does not say.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {item.name: item for item in model.graph.initializer}
    node, ending = _behind(output, makers, constants)
    scaling = _before(node.input[0], makers, entry)
    given = _given(node, runtime=runtime)
    if node.op_type == "TreeEnsembleClassifier" and output != node.output[0] and answers == "labels":
        raise NotRead("it answers labels only")
    known = [str(label) for label in given.get("classlabels_int64s") or given.get("classlabels_strings") or keys]
    if node.op_type == "TreeEnsembleClassifier" and known != keys:
        raise NotRead(f"its trees' classes are {', '.join(known[:6])}, the data's {', '.join(keys[:6])}, in another order or by other names")
    return _ensemble(node.op_type, given, features, classes, answers, scaling, ending, whole=runtime)


@dataclass(kw_only=True)
class Ending:
    """What follows the trees: constants ``added`` (float32, one after the other), then the transform ``post`` (None = the ensemble's own)."""

    added: list[Array] = field(default_factory=list)
    post: str | None = None


def _given(node: Any, *, runtime: bool) -> dict[str, Any]:
    given = attributes_of(node)
    if any(name.endswith("_as_tensor") for name in given):
        raise NotRead("its trees are in double precision")
    return as_regressor(given, runtime=runtime) if node.op_type == "TreeEnsemble" else given


def _behind(value: str, makers: dict[str, Any], constants: dict[str, Any]) -> tuple[Any, Ending]:
    """The ensemble whose scores an output is, and what is done to them on the way."""
    import onnx

    ending = Ending()
    while value in makers:
        node = makers[value]
        if node.op_type in TREES:
            if node.op_type == "TreeEnsembleClassifier" and value == node.output[0]:
                raise NotRead("it answers labels only")
            return node, ending
        known = {name: onnx.numpy_helper.to_array(constants[name]) for name in node.input if name in constants}
        following = next((name for name in node.input if name not in known), value)
        if node.op_type == "Add" and len(known) == 1:
            ending.added.insert(0, next(iter(known.values())).astype(np.float32))
        elif node.op_type in AFTER and ending.post is None and not ending.added and attributes_of(node).get("axis", -1) in (-1, 1):
            ending.post = AFTER[node.op_type]
        elif not (node.op_type in ("Identity", "ZipMap") or (node.op_type == "Cast" and _to(node) == FLOAT)
                  or (node.op_type == "Mul" and len(known) == 1 and all((one == 1).all() for one in known.values()))):  # fmt: skip
            raise NotRead(f"its trees are followed by {node.op_type}")
        value = following
    raise NotRead("its output does not come from its trees")


Scaling = tuple[Array, Array] | None


def _before(value: str, makers: dict[str, Any], entry: str) -> Scaling:
    """See that the ensemble gets the graph's input, and how that is scaled on the way: offsets and positive factors, float32."""
    found: Scaling = None
    while value != entry:
        node = makers.get(value)
        if node is not None and node.op_type == "Scaler" and found is None:
            offset, scale = (np.array(attributes_of(node).get(name, []), np.float32) for name in ("offset", "scale"))
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


def _ensemble(kind: str, given: dict[str, Any], features: int, classes: int, answers: str, scaling: Scaling, ending: Ending, *,
              whole: bool) -> Ensemble:  # fmt: skip
    part = "class" if kind == "TreeEnsembleClassifier" else "target"
    voted = sorted(set(given[f"{part}_ids"]))
    own, averaged = given.get("post_transform", "NONE"), given.get("aggregate_function", "SUM")
    if part == "target" and own == "LOGISTIC" and answers == "logits" and given.get("n_targets", 1) == 1:
        own = "NONE"  # runtimes leave a single target as it is
    post = ending.post or own
    weights = np.array(given[f"{part}_weights"], np.float32)
    columns = classes if part == "class" else int(given.get("n_targets", 1))
    single = columns <= 2 and len(voted) == 1  # one score for two classes
    if averaged not in ("SUM", "AVERAGE") or columns > max(classes, 1):
        raise NotRead(f"its trees answer {columns} values by {averaged}")
    outputs = 1 if single else columns
    if (ending.post or ending.added) and (own != "NONE" or averaged != "SUM" or (single and part == "class")):
        raise NotRead(f"its trees end in {averaged} and {own}, and more follows")
    builder = Builder(width=outputs)
    trees = _trees(builder, given, part, weights, outputs, scaling, whole=whole)
    base = np.array(given.get("base_values") or [0.0] * outputs, np.float32)
    if single and len(base) != 1:
        raise NotRead(f"its one score has {len(base)} starting values")
    if len(base) != outputs:
        raise NotRead(f"its {outputs} scores have {len(base)} starting values")
    for constant in [base, *ending.added]:
        if constant.size not in (1, outputs):
            raise NotRead(f"{constant.size} values are added to its {outputs} scores")
        if constant.any():  # added last, as the runtime does
            builder.end(builder.root(-1 if outputs > 1 else 0), np.broadcast_to(constant.reshape(-1).astype(np.float64), (outputs,)), 0)
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


def _trees(builder: Builder, given: dict[str, Any], part: str, weights: Array, outputs: int, scaling: Scaling, *, whole: bool) -> int:
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
            cuts = [under[i], below[i]] if mode != "BRANCH_MEMBER" else _around(given["nodes_members"][i], feature, scaling, whole=whole)
            builder.runs(node, feature, cuts, inside=inside, outside=outside, missing=true if tracks[i] or not EQUAL[mode] else false)
        else:
            raise NotRead(f"its trees test by {mode}")
    return len(set(trees))


def _around(members: tuple[float, ...], feature: int, scaling: Scaling, *, whole: bool) -> list[float]:
    """The last doubles before and of each value of a set, ascending; ``whole``: of each value whose whole part is in the set."""
    first = last = np.array(members, np.float32)
    if whole and not ((first >= 0) & (first <= MASK)).all():
        after, before = np.nextafter(first + 1, np.float32(0)), np.nextafter(first - 1, np.float32(0))
        first, last = np.where(first <= 0, np.minimum(first, before), first), np.where(first >= 0, np.maximum(first, after), first)
    features = np.full(len(first), feature)
    under, below = _cuts(first.astype(np.float64), features, scaling, strict=True), _cuts(last.astype(np.float64), features, scaling, strict=False)
    return np.column_stack([under, below]).ravel().tolist()


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
