"""Tree ensembles of ONNX graphs: the runtime's own answers at random rows, on thresholds, beside them and with values missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from carbide.models import load_saved, pack, save_model, unpack
from carbide.models._onnx_graph import check_onnx
from carbide.models.onnx_file import OnnxModel
from carbide.models.trees.from_onnx import last_scaled_left
from carbide.types import BLACK_BOX, TREE_BOX, Array, InputError, LpBall, Space, rng_for

D = 3
SPACE = Space.table(["a", "b", "c"], lower=np.full(D, -3.0), upper=np.full(D, 3.0))
MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


def tables(trees: int, depth: int, seed: int, *, modes: tuple[str, ...], tracks: bool, votes: int, columns: int, low: float = -1.0) -> dict[str, Any]:
    """Whole binary trees with random tests; every leaf votes for ``votes`` outputs, a random one or all ``columns``."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    cast: list[tuple[int, int, int, float]] = []

    def grow(tree: int, node: int, level: int) -> int:
        """Add a node and what is below it; the first number that is free behind them."""
        if level == depth:
            rows.append((tree, node, 0, "LEAF", 0.0, 0, 0, 0))
            for output in range(columns) if votes > 1 else [tree % columns]:
                cast.append((tree, node, output, float(rng.uniform(low, 1.0))))
            return node + 1
        at = len(rows)
        rows.append(())
        second = grow(tree, node + 1, level + 1)
        end = grow(tree, second, level + 1)
        test = modes[int(rng.integers(len(modes)))], float(np.float32(np.round(rng.normal(), 1)))
        both = (node + 1, second) if rng.random() < 0.5 else (second, node + 1)
        rows[at] = (tree, node, int(rng.integers(D)), *test, *both, int(tracks and rng.random() < 0.5))
        return end

    for tree in range(trees):
        grow(tree, 0, 0)
    names = ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true")
    nodes = {f"nodes_{name}": [row[column] for row in rows] for column, name in enumerate(names)}
    return {**nodes, "votes": list(zip(*cast, strict=True))}


def graph(given: dict[str, Any], *, classes: int, post: str = "NONE", regressor: bool = False, before: list[Any] | None = None,
          after: list[Any] | None = None, rest: list[Any] = (), **more: Any) -> bytes:  # fmt: skip
    """A graph with one ensemble; ``before`` ends in "x1", ``after`` begins at "raw" and ends in "scores"."""
    part = "target" if regressor else "class"
    trees, nodes, ids, weights = given["votes"]
    votes = {f"{part}_treeids": trees, f"{part}_nodeids": nodes, f"{part}_ids": ids, f"{part}_weights": weights}
    if not regressor:
        more = {"classlabels_int64s": list(range(classes)), **more}
    node = helper.make_node("TreeEnsembleRegressor" if regressor else "TreeEnsembleClassifier", ["x1" if before else "x"],
                            ["raw" if after else "scores"] if regressor else ["label", "raw" if after else "scores"], domain="ai.onnx.ml",
                            post_transform=post, **{k: v for k, v in given.items() if k != "votes"}, **votes, **more)  # fmt: skip
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, D])
    out = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [None, None])]
    made = helper.make_graph([*(before or []), node, *(after or [])], "g", [x], out, initializer=list(rest))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 15), helper.make_opsetid("ai.onnx.ml", 1)])
    model.ir_version = 8
    return model.SerializeToString()


def model_of(blob: bytes, classes: int, **options: Any) -> OnnxModel:
    return OnnxModel(blob=check_onnx(blob, "m", None), space=SPACE, classes=classes, **options)


def points(model: OnnxModel, *, missing: bool) -> Array:
    """Random rows, rows on every threshold, and on its neighbours in double and single precision."""
    trees, rng = model.ensemble, np.random.default_rng(3)
    inner = np.flatnonzero((trees.feature >= 0) & np.isfinite(trees.threshold))
    out = [rng.normal(size=(200, D)), np.round(rng.normal(size=(200, D)), 1).astype(np.float32).astype(float)]
    for node in inner:
        t, single = trees.threshold[node], np.float32(trees.threshold[node])
        some = [
            t,
            np.nextafter(t, np.inf),
            np.nextafter(t, -np.inf),
            single,
            np.nextafter(single, np.float32(9)),
            np.nextafter(single, np.float32(-9)),
        ]
        made = rng.normal(size=(len(some), D))
        made[:, trees.feature[node]] = some
        out.append(made)
    rows = np.concatenate(out)
    if missing:
        rows[rng.random(rows.shape) < 0.15] = np.nan
    return rows


@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("mode", [*MODES, "all"])
def test_every_test_and_the_way_of_missing_values_is_the_runtimes(mode, tracks):
    modes = MODES if mode == "all" else (mode,)
    for seed in (0, 1):
        model = model_of(graph(tables(6, 3, seed, modes=modes, tracks=tracks, votes=1, columns=1), classes=2, post="LOGISTIC"), 2)
        assert model.access == TREE_BOX, model.trees.note
        rows = points(model, missing=True)
        assert np.abs(model.ensemble.predict(rows) - model.predict(rows)).max() < 3e-7


@pytest.mark.parametrize(("classes", "post", "votes", "columns", "base", "low"), [
    (2, "LOGISTIC", 1, 1, [0.25], -1.0), (2, "NONE", 1, 1, None, 0.0), (2, "SOFTMAX", 2, 2, None, -1.0), (3, "SOFTMAX", 1, 3, [0.1, 0.2, -0.3], -1.0),
    (3, "SOFTMAX", 3, 3, None, -1.0)])  # fmt: skip
def test_every_link_is_the_runtimes(classes, post, votes, columns, base, low):
    given = tables(6, 3, 1, modes=("BRANCH_LEQ", "BRANCH_LT"), tracks=True, votes=votes, columns=columns, low=low)
    if post == "NONE":  # votes are probabilities
        given["votes"][3] = [w / 6 for w in given["votes"][3]]
    model = model_of(graph(given, classes=classes, post=post, **({} if base is None else {"base_values": base})), classes)
    assert model.answers == "probabilities"
    assert model.access == TREE_BOX, model.trees.note
    rows = points(model, missing=True)
    assert np.abs(model.ensemble.predict(rows) - model.predict(rows)).max() < 3e-7
    assert np.array_equal(unpack(pack(model)).ensemble.predict(rows), model.ensemble.predict(rows))


def test_regressors_are_read_too():
    for aggregate in ("SUM", "AVERAGE"):
        given = tables(5, 3, 1, modes=("BRANCH_LEQ",), tracks=False, votes=1, columns=1)
        model = model_of(graph(given, classes=2, regressor=True, n_targets=1, aggregate_function=aggregate), 2, answers="logits")
        assert model.access == TREE_BOX, model.trees.note
        rows = points(model, missing=False)
        assert np.abs(model.ensemble.predict(rows) - model.predict(rows)).max() < 3e-7


def test_scaling_copies_casts_and_maps_are_folded():
    given = tables(6, 3, 1, modes=("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GT"), tracks=True, votes=1, columns=1)
    scaler = [helper.make_node("Cast", ["x"], ["x0"], to=TensorProto.FLOAT),
              helper.make_node("Scaler", ["x0"], ["x1"], domain="ai.onnx.ml", offset=[0.3, -1.7, 12.5], scale=[3.1, 0.01, 7.7])]  # fmt: skip
    ends = [helper.make_node("Identity", ["raw"], ["same"]), helper.make_node("Mul", ["same", "one"], ["scores"])]
    one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
    model = model_of(graph(given, classes=2, post="LOGISTIC", before=scaler, after=ends, rest=[one]), 2)
    assert model.access == TREE_BOX, model.trees.note
    rows = points(model, missing=True) + np.array([0.0, 0.0, 12.0])
    rows = np.concatenate([rows, points(model, missing=True)])
    assert np.abs(model.ensemble.predict(rows) - model.predict(rows)).max() < 3e-7


@pytest.mark.parametrize("strict", [True, False])
def test_thresholds_behind_a_scaling_are_the_last_doubles_that_go_left(strict):
    rng = np.random.default_rng(0)
    n = 500
    t = np.concatenate([np.float32(rng.normal(size=n - 2) * 10.0 ** rng.integers(-6, 6, n - 2)).astype(float), [0.0, -0.0]])
    offset, scale = (np.float32(v) for v in (rng.normal(size=n), np.exp(rng.normal(size=n))))
    last = last_scaled_left(t, offset, scale, strict=strict)
    goes = np.less if strict else np.less_equal
    here, after = (((v.astype(np.float32) - offset) * scale).astype(float) for v in (last, np.nextafter(last, np.inf)))
    assert goes(here, t).all()
    assert not goes(after, t).any()


def more_than_trees() -> dict[str, tuple[bytes, int]]:
    given = tables(4, 2, 0, modes=("BRANCH_LEQ",), tracks=False, votes=1, columns=1)
    three = tables(4, 2, 0, modes=("BRANCH_LEQ",), tracks=False, votes=3, columns=3)
    return {
        "Abs comes before its trees": (graph(given, classes=2, post="LOGISTIC", before=[helper.make_node("Abs", ["x"], ["x1"])]), 2),
        "its trees are followed by Abs": (graph(given, classes=2, post="LOGISTIC", after=[helper.make_node("Abs", ["raw"], ["scores"])]), 2),
        "end in SUM and LOGISTIC, and more follows": (graph(given, classes=2, post="LOGISTIC", after=[helper.make_node("Softmax", ["raw"], ["scores"])]), 2),
        "factors that are not positive": (graph(given, classes=2, post="LOGISTIC", before=[
            helper.make_node("Scaler", ["x"], ["x1"], domain="ai.onnx.ml", offset=[0.0] * 3, scale=[1.0, -1.0, 1.0])]), 2),
        "followed by SOFTMAX_ZERO": (graph(three, classes=3, post="SOFTMAX_ZERO"), 3),
        "in another order": (graph(three, classes=3, post="SOFTMAX", classlabels_int64s=[2, 1, 0]), 3),
    }  # fmt: skip


@pytest.mark.parametrize("words", more_than_trees())
def test_graphs_that_do_more_are_black_boxes_and_say_why(words):
    blob, classes = more_than_trees()[words]
    model = model_of(blob, classes)
    assert model.access == BLACK_BOX
    assert any(words in note for note in model.notes), model.notes
    with pytest.raises(InputError, match=words):
        _ = model.ensemble
    assert len(model.predict(np.zeros((2, D)))) == 2


def test_a_reading_that_differs_is_not_used(monkeypatch):
    from carbide.models.trees import from_onnx

    monkeypatch.setitem(from_onnx.ORDERED, "BRANCH_LEQ", (True, True))  # as if the threshold itself went right
    model = model_of(graph(tables(4, 2, 0, modes=("BRANCH_LEQ",), tracks=False, votes=1, columns=1), classes=2, post="LOGISTIC"), 2)
    assert model.access == BLACK_BOX
    assert "differ from its answers" in model.notes[0]


def test_a_net_has_no_trees():
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [None, s]) for n, s in (("x", D), ("y", 2)))
    w = helper.make_tensor("w", TensorProto.FLOAT, [D, 2], np.arange(6.0))
    made = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])], "g", [x], [y], [w])
    net = onnx.helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)])
    net.ir_version = 8
    model = model_of(net.SerializeToString(), 2)
    assert model.trees.ensemble is None
    assert model.trees.note == ""


def test_the_exact_attack_and_its_proof_run_on_a_saved_graph(tmp_path):
    from carbide.evasion.audit.cheapest_tree import CheapestTree
    from carbide.evasion.prove.exact_tree import ExactTree

    blob = graph(tables(8, 3, 1, modes=("BRANCH_LT",), tracks=False, votes=1, columns=1), classes=2, post="LOGISTIC")
    made = model_of(blob, 2)
    save_model(made, tmp_path / "hardened")
    model, threat = load_saved(tmp_path / "hardened"), LpBall(eps=0.4)
    x = np.random.default_rng(0).normal(size=(40, D))
    y = model.predict(x).argmax(1)
    moved = CheapestTree()(model, x, y, threat, rng_for(0))
    holds = ExactTree()(model, x, y, threat, rng_for(0)).holds
    fooled = model.predict(moved).argmax(1) != y
    assert np.array_equal(fooled, ~holds)
    assert 0 < fooled.sum() < 40
    tried = x[holds][:, None] + np.random.default_rng(1).uniform(-0.4, 0.4, (int(holds.sum()), 200, D))
    tried = tried.clip(SPACE.lower, SPACE.upper)
    assert (model.predict(tried.reshape(-1, D)).argmax(1).reshape(len(tried), -1) == y[holds][:, None]).all()
