"""TreeEnsemble of ai.onnx.ml 5: the runtime's own answers in every form of its tables, and tables that point outside themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from carbide.models._onnx_graph import check_onnx
from carbide.models.onnx_file import OnnxModel
from carbide.models.trees._onnx_tree_ensemble import as_regressor
from carbide.types import BLACK_BOX, TREE_BOX, Array, InputError, LpBall, rng_for
from tests.models.test_onnx_trees import MODES, SPACE, D, points

MEMBER = 6


def tables(trees: int, depth: int, seed: int, *, modes: tuple[int, ...], tracks: bool, targets: int, low: float = -1.0,
           sets: tuple[int, int] = (0, 3)) -> dict[str, Any]:  # fmt: skip
    """Random trees, uneven in depth, the last one leaf; every tree votes for one target and inner nodes stand in random order."""
    rng = np.random.default_rng(seed)
    nodes: list[dict[str, Any]] = []
    leaves: list[tuple[int, float]] = []
    roots = []

    def leaf(target: int) -> tuple[int, int]:
        leaves.append((target, float(np.float32(rng.uniform(low, 1.0)))))
        return len(leaves) - 1, 1

    def grow(target: int, level: int) -> tuple[int, int]:
        if level == depth or (level > 0 and rng.random() < 0.2):
            return leaf(target)
        at = len(nodes)
        nodes.append({})
        true, false = grow(target, level + 1), grow(target, level + 1)
        nodes[at] = {"mode": int(rng.choice(modes)), "split": np.round(rng.normal(), 1), "feature": int(rng.integers(D)), "true": true, "false": false,
                     "tracks": int(tracks and rng.random() < 0.5), "set": rng.integers(*sets, size=int(rng.integers(1, 5)))}  # fmt: skip
        return at, 0

    for tree in range(trees):
        roots.append(grow(tree % targets, 0)[0])
    only = leaf(0)
    roots.append(len(nodes))
    nodes.append({"mode": 0, "split": 0.0, "feature": 1, "true": only, "false": only, "tracks": 0, "set": np.zeros(0)})
    order = rng.permutation(len(nodes))  # where node i goes to
    placed = [nodes[i] for i in np.argsort(order)]
    to = lambda side: [int(order[node[side][0]]) if node[side][1] == 0 else node[side][0] for node in placed]  # noqa: E731
    out = {"tree_roots": [int(order[root]) for root in roots], "n_targets": targets, "nodes_featureids": [node["feature"] for node in placed],
           "nodes_modes": np.array([node["mode"] for node in placed], np.uint8), "nodes_splits": np.array([node["split"] for node in placed], np.float32),
           "nodes_truenodeids": to("true"), "nodes_falsenodeids": to("false"), "nodes_trueleafs": [node["true"][1] for node in placed],
           "nodes_falseleafs": [node["false"][1] for node in placed], "nodes_missing_value_tracks_true": [node["tracks"] for node in placed],
           "leaf_targetids": [target for target, _ in leaves], "leaf_weights": np.array([weight for _, weight in leaves], np.float32)}  # fmt: skip
    if MEMBER in modes:
        held = [np.append(node["set"], np.nan) for node in placed if node["mode"] == MEMBER]
        out["membership_values"] = np.concatenate([np.zeros(0), *held]).astype(np.float32)
    return out


def graph(given: dict[str, Any], *, after: list[Any] = (), rest: list[Any] = ()) -> bytes:
    """A graph with one TreeEnsemble; ``after`` begins at "raw" and ends in "scores"."""
    attributes = {key: numpy_helper.from_array(value, key) if isinstance(value, np.ndarray) else value for key, value in given.items()}
    node = helper.make_node("TreeEnsemble", ["x"], ["raw" if after else "scores"], domain="ai.onnx.ml", **attributes)
    kind = TensorProto.DOUBLE if given["nodes_splits"].dtype == np.float64 else TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", kind, [None, D])
    out = [helper.make_tensor_value_info("scores", kind, [None, given.get("n_targets", 1)])]
    made = helper.make_graph([node, *after], "g", [x], out, initializer=list(rest))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 5)])
    model.ir_version = 9
    return model.SerializeToString()


def regressor(given: dict[str, Any]) -> bytes:
    """A graph with the same trees as a TreeEnsembleRegressor."""
    old = as_regressor(given)
    assert set(old.pop("nodes_members")) == {()}
    assert set(old["nodes_modes"]) <= {*MODES, "LEAF"}
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["scores"], domain="ai.onnx.ml", **old)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, width]) for name, width in (("x", D), ("scores", 1)))
    made = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    )
    made.ir_version = 9
    return made.SerializeToString()


def model_of(blob: bytes, classes: int = 2, **options: Any) -> OnnxModel:
    return OnnxModel(blob=check_onnx(blob, "m", None), space=SPACE, classes=classes, **options)


def same(model: OnnxModel, *, missing: bool = True) -> None:
    """The reading answers as the runtime does, on every threshold and beside it."""
    assert model.access == TREE_BOX, model.trees.note
    rows = points(model, missing=missing)
    assert np.abs(model.ensemble.predict(rows) - model.predict(rows)).max() < 3e-7


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("mode", [*range(7), "all"])
def test_every_test_and_the_way_of_missing_values_is_the_runtimes(mode, tracks):
    for seed in (0, 1):
        modes = tuple(range(7)) if mode == "all" else (mode,)
        same(model_of(graph(tables(6, 4, seed, modes=modes, tracks=tracks, targets=1)), answers="logits"))


@pytest.mark.parametrize("sets", [(0, 31), (-3, 4), (2, 40), (2**24 - 4, 2**24 + 4)])
def test_sets_are_asked_as_the_runtime_does(sets):
    """It looks at whole parts where a set holds other numbers than 0 to 30."""
    for seed in (0, 1):
        given = tables(8, 3, seed, modes=(MEMBER,), tracks=True, targets=1, sets=sets)
        model = model_of(graph(given), answers="logits")
        same(model)
        near = np.random.default_rng(seed).choice(given["membership_values"][:-1], (400, D)) + np.random.default_rng(1).uniform(-1.2, 1.2, (400, D))
        assert np.abs(model.ensemble.predict(near) - model.predict(near)).max() < 3e-7


def test_the_same_trees_as_a_regressor_answer_the_same():
    """Both runtimes on one set of trees; sets, which the older operator does not know, left out."""
    given = tables(6, 4, 3, modes=tuple(range(6)), tracks=True, targets=1)
    older, newer = model_of(regressor(given), answers="logits"), model_of(graph(given), answers="logits")
    rows = points(newer, missing=True)
    assert np.array_equal(older.predict(rows), newer.predict(rows))
    assert np.array_equal(older.ensemble.predict(rows), newer.ensemble.predict(rows))


def constant(*values: float) -> Any:
    return helper.make_tensor("c", TensorProto.FLOAT, [len(values)], values)


ADD = helper.make_node("Add", ["raw", "c"], ["sum"])
ENDS: dict[str, tuple[int, dict[str, Any], list[Any], list[Any]]] = {
    "its own softmax, which the runtime numbers otherwise": (3, {"post_transform": 2}, [], []),
    "votes are probabilities": (3, {}, [], []),
    "a sum, then softmax": (3, {}, [ADD, helper.make_node("Softmax", ["sum"], ["scores"], axis=1)], [constant(0.5, -0.25, 1.0)]),
    "a sum, then sigmoid": (1, {}, [ADD, helper.make_node("Sigmoid", ["sum"], ["scores"])], [constant(-0.3)]),
    "sigmoid alone": (1, {}, [helper.make_node("Sigmoid", ["raw"], ["scores"])], []),
    "its own sigmoid, which the runtime leaves out": (1, {"post_transform": 2}, [], []),
    "two sums": (1, {}, [ADD, helper.make_node("Add", ["c", "sum"], ["twice"]), helper.make_node("Sigmoid", ["twice"], ["scores"])], [constant(0.7)]),
}  # fmt: skip


@pytest.mark.parametrize("words", ENDS)
def test_every_end_is_the_runtimes(words):
    targets, more, after, rest = ENDS[words]
    given = tables(9, 4, 5, modes=(0, 1, MEMBER), tracks=True, targets=targets, low=0.0 if words.startswith("votes") else -1.0)
    if words.startswith("votes"):
        trees = len(given["tree_roots"]) - 1  # the last is a leaf
        given["leaf_weights"] = np.float32(given["leaf_weights"] / trees)
        given = complete(given)
    same(model_of(graph({**given, **more}, after=after, rest=rest), max(targets, 2)))


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """One tree for each of three targets with the same tests, so that votes add up to 1: leaves of a target are its share of the leaf."""
    leaves = len(given["leaf_weights"])
    shares = np.random.default_rng(0).dirichlet(np.ones(3), leaves).astype(np.float32)
    many = len(given["nodes_modes"])
    out = dict(given)
    for key in ("nodes_featureids", "nodes_trueleafs", "nodes_falseleafs", "nodes_missing_value_tracks_true"):
        out[key] = given[key] * 3
    for key in ("nodes_modes", "nodes_splits"):
        out[key] = np.tile(given[key], 3)
    out["membership_values"] = np.tile(given["membership_values"], 3)
    for side in ("true", "false"):
        ends = given[f"nodes_{side}leafs"]
        out[f"nodes_{side}nodeids"] = [
            i + k * (leaves if end else many) for k in range(3) for i, end in zip(given[f"nodes_{side}nodeids"], ends, strict=True)
        ]
    trees = len(given["tree_roots"])
    out["tree_roots"] = [root + k * many for k in range(3) for root in given["tree_roots"]]
    out["leaf_targetids"] = [k for k in range(3) for _ in range(leaves)]
    out["leaf_weights"] = np.concatenate([shares[:, k] / trees for k in range(3)]).astype(np.float32)
    return out


def not_read() -> dict[str, bytes]:
    given = tables(4, 3, 0, modes=(0,), tracks=False, targets=1)
    double = {**given, "nodes_splits": given["nodes_splits"].astype(np.float64), "leaf_weights": given["leaf_weights"].astype(np.float64)}
    return {
        "answer 1 values by MAX": graph({**given, "aggregate_function": 3}),
        "end in AVERAGE and NONE, and more follows": graph(
            {**given, "aggregate_function": 0}, after=[helper.make_node("Add", ["raw", "c"], ["scores"])], rest=[constant(0.5)]
        ),
        "followed by PROBIT": graph({**given, "post_transform": 4, "leaf_weights": np.full_like(given["leaf_weights"], 0.1)}),
        "takes float64": graph(double),
    }


@pytest.mark.parametrize("words", not_read())
def test_what_is_not_read_is_a_black_box_and_says_why(words):
    model = model_of(not_read()[words], answers="logits")
    assert model.access == BLACK_BOX
    assert any(words in note for note in model.notes), model.notes


def put(key: str, place: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        given[key] = np.array(given[key]) if isinstance(given[key], np.ndarray) else list(given[key])
        given[key][place] = value

    return change


def cut(key: str) -> Callable[[dict[str, Any]], None]:
    def change(given: dict[str, Any]) -> None:
        given[key] = given[key][:-1]

    return change


def loop(given: dict[str, Any]) -> None:
    """The first inner node below another is its own child."""
    at = next(i for i, leaf in enumerate(given["nodes_trueleafs"]) if leaf == 0)
    put("nodes_truenodeids", at, at)(given)


DAMAGES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    **{f"{key} is short": (cut(key), "differ in length") for key in ("nodes_splits", "nodes_featureids", "nodes_modes", "nodes_truenodeids",
        "nodes_falsenodeids", "nodes_trueleafs", "nodes_falseleafs", "nodes_missing_value_tracks_true", "leaf_weights")},
    "a branch beyond the nodes": (put("nodes_falsenodeids", 0, 10**6), "leads out of its tables"),
    "a branch before the nodes": (put("nodes_truenodeids", 0, -1), "leads out of its tables"),
    "a flag of leaves that is 2": (put("nodes_trueleafs", 0, 2), "leads out of its tables"),
    "a root beyond the nodes": (put("tree_roots", 0, 10**6), "a tree begins at node 1000000"),
    "a negative feature": (put("nodes_featureids", 0, -1), "splits on feature -1"),
    "a vote for no target": (put("leaf_targetids", 0, 1), "a leaf votes for output 1 of 1"),
    "a mode that is none": (put("nodes_modes", 0, 7), "has the mode 7"),
    "a sum that is none": (lambda given: given.update(aggregate_function=4), "has the aggregate_function 4"),
    "a transform that is none": (lambda given: given.update(post_transform=-1), "has the post_transform -1"),
    "a set too many": (lambda given: given.update(membership_values=np.append(given["membership_values"], np.float32(np.nan))), "ask for a set"),
    "an empty set": (lambda given: given.update(membership_values=np.append(np.float32(np.nan), given["membership_values"])[:-1]), "an empty set"),
    "no sets": (lambda given: given.pop("membership_values"), "ask for a set"),
    "two types": (lambda given: given.update(leaf_weights=given["leaf_weights"].astype(np.float64)), "of the types float32, float64"),
    "a node below itself": (loop, "in two ways"),
    "a tree that is a part of another": (lambda given: given["tree_roots"].append(given["tree_roots"][0]), "in two ways"),
}  # fmt: skip


@pytest.mark.parametrize("words", DAMAGES)
def test_tables_that_point_outside_themselves_are_refused(words):
    given = tables(6, 4, 0, modes=(0, MEMBER), tracks=True, targets=1)
    change, said = DAMAGES[words]
    change(given)
    with pytest.raises(InputError, match=said):
        check_onnx(graph(given), "m", None)


def test_a_split_on_a_feature_that_does_not_reach_the_trees_is_refused():
    given = tables(6, 4, 0, modes=(0,), tracks=True, targets=1)
    put("nodes_featureids", 0, D)(given)
    with pytest.raises(InputError, match=f"a tree splits on feature {D}, but {D} reach it"):
        model_of(graph(given), answers="logits")


@pytest.mark.parametrize("older", [False, True])
def test_trees_that_the_runtime_cannot_descend_are_refused(older):
    """It builds trees by recursion; a chain of 12,000 nodes takes the process down."""

    def chain(levels: int) -> bytes:
        given = {"tree_roots": [0], "n_targets": 1, "nodes_featureids": [0] * levels, "nodes_modes": np.zeros(levels, np.uint8),
                 "nodes_splits": np.arange(levels, 0, -1, dtype=np.float32), "nodes_truenodeids": [*range(1, levels), 0], "nodes_falsenodeids": [1] * levels,
                 "nodes_trueleafs": [0] * (levels - 1) + [1], "nodes_falseleafs": [1] * levels, "leaf_targetids": [0, 0],
                 "leaf_weights": np.array([1.0, 0.5], np.float32)}  # fmt: skip
        return regressor(given) if older else graph(given)

    assert model_of(chain(1000), answers="logits").predict(np.zeros((1, D)))[0, 1] == pytest.approx(1 / (1 + np.exp(-1.0)))
    with pytest.raises(InputError, match="a tree of more than 1000 levels"):
        check_onnx(chain(1001), "m", None)


def test_the_exact_attack_and_its_proof_run_on_sets():
    from carbide.evasion.audit.cheapest_tree import CheapestTree
    from carbide.evasion.prove.exact_tree import ExactTree

    model, threat = model_of(graph(tables(9, 4, 2, modes=(0, MEMBER), tracks=False, targets=1)), answers="logits"), LpBall(eps=0.4)
    x: Array = np.round(np.random.default_rng(0).normal(size=(60, D))).clip(-3, 3)
    y = model.predict(x).argmax(1)
    moved, holds = CheapestTree()(model, x, y, threat, rng_for(0)), ExactTree()(model, x, y, threat, rng_for(0)).holds
    fooled = model.predict(moved).argmax(1) != y
    assert np.array_equal(fooled, ~holds)
    assert 0 < fooled.sum() < 60
