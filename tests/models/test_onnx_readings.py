"""ONNX graphs as torch nets: the runtime's answers, the gradients of the net that was exported, and wrong readings that are caught."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import carbide
from carbide.evasion._intervals import Box, logit_gaps
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models import load_model, load_saved, pack, save_model, unpack
from carbide.models._answers import probe_rows
from carbide.models.onnx_file import OnnxModel
from carbide.models.onnx_net import graph as reading
from carbide.models.onnx_net import layers, windows
from carbide.types import BLACK_BOX, WHITE_BOX, LpBall, Space, decide, rng_for
from tests.models.cases import make_dataset
from tests.models.onnx_zoo import IMAGES, NETS, UNBOUNDED, classes_of, exported, net, space_of
from tests.models.test_onnx import exported as from_sklearn


def model_of(name: str, **how: Any) -> Any:
    return OnnxModel(blob=exported(name, **how), space=space_of(name), classes=classes_of(name))


def rows_of(name: str, n: int = 60) -> np.ndarray:
    x = probe_rows(space_of(name), rng_for(0, "rows"), n)
    return x if name in IMAGES else 4 * x - 2


@pytest.mark.parametrize("how", [{}, {"opset": 11}, {"opset": 18}, {"whole": True}, {"fixed": 1}, {"fixed": 3}], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_nets_answer_as_the_runtime_does(name: str, how: dict[str, Any]) -> None:
    model = model_of(name, **how)
    assert model.access == WHITE_BOX, model.notes
    assert model.notes == ()
    for x in (rows_of(name), np.zeros((1, *space_of(name).shape)), 30 * rows_of(name, 5)):
        own = model.predict(x)
        logits = model.logits(model.tensor(x))
        assert logits.dtype == torch.float32
        assert np.abs(logits.double().softmax(1).numpy() - own).max() < 2e-6 * (1 + float(logits.abs().max()))
        ordered = np.sort(own, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > 1e-5
        assert (logits.argmax(1).numpy() == own.argmax(1))[clear].all()


@pytest.mark.parametrize("name", NETS)
def test_gradients_are_those_of_the_net_that_was_exported(name: str) -> None:
    model, module = model_of(name), net(name)
    x = model.tensor(rows_of(name, 12)).requires_grad_(True)
    out = module(x)
    if name == "sigmoid":
        out = torch.logit(out)
    elif name == "softmax":
        out = out.log()
    ours = model.logits(x)
    if out.shape[1] == 1:
        (slope,), (mine,) = (torch.autograd.grad(part.sum(), x) for part in (out, ours[:, 1] - ours[:, 0]))
    else:
        (slope,), (mine,) = (torch.autograd.grad(part.log_softmax(1)[:, 1].sum(), x) for part in (out, ours))
    assert float(slope.abs().max()) > 1e-4
    assert torch.allclose(mine, slope, rtol=1e-3, atol=1e-5 * float(slope.abs().max()))


@pytest.mark.parametrize("name", ["mlp", "softmax", "sigmoid"])
def test_gradients_against_finite_differences_of_the_runtime(name: str) -> None:
    model = model_of(name, double=True)
    rows = rows_of(name, 10)
    x = model.tensor(rows).requires_grad_(True)
    assert x.dtype == torch.float64
    (slope,) = torch.autograd.grad(model.logits(x).log_softmax(1)[:, 1].sum(), x)
    for j in range(4):
        step = 1e-5 * np.eye(4)[j]
        up, down = (np.log(model.predict(rows + sign * step)[:, 1]) for sign in (1, -1))
        assert np.allclose(slope[:, j].numpy(), (up - down) / 2e-5, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in NETS if name not in UNBOUNDED])
def test_interval_bounds_hold_every_answer(name: str) -> None:
    model = model_of(name)
    x = model.tensor(rows_of(name, 6)).double()
    box = Box(x - 0.05, x + 0.05)
    y = model.logits(x.float()).argmax(1)
    with torch.no_grad():
        gaps = logit_gaps(model.module, box, y, float(torch.finfo(torch.float32).eps))
        for _ in range(40):
            inside = (box.lower + (box.upper - box.lower) * torch.rand(x.shape, dtype=x.dtype).round(decimals=1)).float()
            logits = model.logits(inside).double()
            assert (logits.gather(1, y[:, None]) - logits >= gaps - 1e-9).all()
    assert torch.isfinite(gaps).all()


def test_attacks_and_certificates_run_on_a_file(tmp_path: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(exported("cnn"))
    model: Any = load_model(tmp_path / "m.onnx", space=space_of("cnn"), classes=3)
    x = rows_of("cnn", 40)
    y = decide(model.predict(x))
    found = []
    for eps in (0.03, 0.002):
        broken = decide(model.predict(APGD()(model, x, y, LpBall(eps=eps), rng_for(0, "a")))) != y
        proof = IntervalBounds()(model, x, y, LpBall(eps=eps), rng_for(0, "b"))
        assert not (broken & proof.holds).any()
        found.append((broken.sum(), proof.holds.sum()))
    assert found[0][0] > 10
    assert found[1][1] > 10
    assert any("Carbide's reading" in words for words in proof.assumptions)
    save_model(model, tmp_path / "out")
    for again in (unpack(pack(model)), load_saved(tmp_path / "out")):
        assert (again.digest(), again.access) == (model.digest(), WHITE_BOX)
        assert torch.equal(again.logits(again.tensor(x)), model.logits(model.tensor(x)))


# Graphs by hand: what exporters of other libraries and times write --------------------------------------------------


def test_a_run_on_a_file_goes_on_from_its_stored_steps(tmp_path: Any) -> None:
    data = make_dataset(60)
    blob = from_sklearn("mlp").SerializeToString()
    seen = []
    for _ in range(2):  # a model made anew from the same bytes is the same model to the store
        model = OnnxModel(blob=blob, space=data.space, classes=2)
        report = carbide.prove(model, (data.x, data.y), threats=[LpBall(eps=0.03)], space=data.space, out=tmp_path, quiet=True)
        steps = {
            path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz") if path.parent.name != "evidence" and path.parent.name != "plain"
        }
        seen.append((steps, (tmp_path / "results.json").read_bytes()))
    assert seen[0] == seen[1]
    assert len(seen[0][0]) > 2
    (bracket,) = report.results.plain.brackets
    assert bracket.certified <= bracket.attacked
    assert any("Carbide's reading" in words for words in bracket.assumptions)


def graph(nodes: list[Any], weights: dict[str, np.ndarray], *, row: tuple[int, ...], classes: int = 3, opset: int = 13, batch: Any = "n") -> bytes:
    made = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *row])],
                             [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, classes])],
                             [numpy_helper.from_array(value, name) for name, value in weights.items()])  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def some(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


N = helper.make_node


def test_a_decision_within_the_rounding_of_a_probability_is_not_certified() -> None:
    """The file's probabilities are float32: near 1 they cannot tell logits apart that float64 can."""
    blob = graph([N("MatMul", ["x", "w"], ["z"]), N("Sigmoid", ["z"], ["out"])], {"w": np.array([[20.0]], np.float32)}, row=(1,), classes=1)
    model: Any = OnnxModel(blob=blob, space=Space.table(["a"]), classes=2).at(1 - 1e-6)
    assert model.access == WHITE_BOX, model.notes
    border = math.log((1 - 1e-6) / 1e-6)
    gap = np.linspace(-2, 2, 401)
    x = ((border + gap) / 20)[:, None]
    proof = IntervalBounds()(model, x, decide(model.predict(x), model.threshold), LpBall(eps=0.0), rng_for(0, "b"))
    assert 0.4 < model.slack < 0.5
    assert np.array_equal(proof.holds, np.abs(gap) > model.slack)
    assert (decide(model.predict(x), model.threshold) != (gap >= 0)).any()  # so rounding does turn decisions
    assert model_of("mlp", double=True).slack < 1e-14


LAST = [N("GlobalAveragePool", ["h"], ["p"]), N("Flatten", ["p"], ["f"]), N("Gemm", ["f", "w", "b"], ["out"], alpha=0.5, beta=2.0)]
HEAD = {"w": some(4, 3, seed=1), "b": some(1, 3, seed=2)}
CASES: dict[str, Any] = {
    "same upper": lambda: graph([N("Conv", ["x", "k"], ["c"], auto_pad="SAME_UPPER", strides=[2, 2]),
                                 N("MaxPool", ["c"], ["h"], kernel_shape=[2, 2], auto_pad="SAME_UPPER"), *LAST], {"k": some(4, 2, 3, 2), **HEAD}, row=(2, 5, 6)),
    "same lower": lambda: graph([N("Conv", ["x", "k"], ["c"], auto_pad="SAME_LOWER", strides=[2, 2]),
                                 N("AveragePool", ["c"], ["h"], kernel_shape=[3, 3], auto_pad="SAME_LOWER"), *LAST], {"k": some(4, 2, 2, 3), **HEAD}, row=(2, 5, 6)),
    "valid": lambda: graph([N("Conv", ["x", "k"], ["c"], auto_pad="VALID"), N("AveragePool", ["c"], ["h"], kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2]), *LAST],
                           {"k": some(4, 2, 2, 2), **HEAD}, row=(2, 6, 6)),
    "old pad and clip": lambda: graph([N("Pad", ["x"], ["q"], pads=[0, 0, 1, 0, 0, 0, 2, 1], value=0.5), N("Conv", ["q", "k"], ["c"]),
                                       N("Clip", ["c"], ["h"], min=-0.25), *LAST], {"k": some(4, 2, 2, 2), **HEAD}, row=(2, 6, 6), opset=9),
    "wide padding": lambda: graph([N("Conv", ["x", "k"], ["c"]), N("AveragePool", ["c"], ["h"], kernel_shape=[2, 2], pads=[0, 1, 1, 0], count_include_pad=1), *LAST],
                                  {"k": some(4, 2, 2, 2), **HEAD}, row=(2, 6, 6)),
    "reflect": lambda: graph([N("Pad", ["x", "by"], ["q"], mode="reflect"), N("Conv", ["q", "k"], ["h"]), *LAST],
                             {"by": np.array([0, 0, 1, 2, 0, 0, 2, 1], np.int64), "k": some(4, 2, 3, 3), **HEAD}, row=(2, 6, 6)),
    "old slice and squeeze": lambda: graph([N("Slice", ["x"], ["s"], axes=[1, 2], starts=[1, -3], ends=[2, 9999]), N("Squeeze", ["s"], ["t"], axes=[1]),
                                            N("Unsqueeze", ["t"], ["u"], axes=[1]), N("Reshape", ["u", "to"], ["f"]), N("MatMul", ["f", "w"], ["m"]), N("Add", ["b", "m"], ["out"])],
                                           {"to": np.array([0, -1], np.int64), "w": some(18, 3), "b": some(3)}, row=(2, 6, 6), opset=9),
    "backwards": lambda: graph([N("Slice", ["x", "a", "z", "ax", "by"], ["s"]), N("Gather", ["s", "i"], ["g"], axis=1), N("Gemm", ["g", "w"], ["out"])],
                               {"a": np.array([-1], np.int64), "z": np.array([-(2**62)], np.int64), "ax": np.array([1], np.int64), "by": np.array([-2], np.int64),
                                "i": np.array([2, 0, -2], np.int64), "w": some(3, 3)}, row=(6,)),
    "computed shape": lambda: graph([N("Shape", ["x"], ["s"]), N("Gather", ["s", "zero"], ["n"]), N("Unsqueeze", ["n", "zeros"], ["m"]), N("Mul", ["six", "six"], ["a"]),
                                     N("Div", ["a", "two"], ["d"]), N("Concat", ["m", "d"], ["to"], axis=0), N("Reshape", ["x", "to"], ["f"]), N("Gemm", ["f", "w"], ["out"], transB=1)],
                                    {"zero": np.array(0, np.int64), "zeros": np.array([0], np.int64), "six": np.array([6], np.int64), "two": np.array([2], np.int64),
                                     "w": some(3, 18)}, row=(3, 6)),
    "pooled twice": lambda: graph([N("Conv", ["x", "k"], ["c"], group=2, dilations=[1, 2]), N("ReduceMean", ["c"], ["r"], axes=[2, 3], keepdims=0), N("GlobalMaxPool", ["c"], ["g"]),
                                   N("Flatten", ["g"], ["h"]), N("Concat", ["r", "h"], ["f"], axis=-1), N("Gemm", ["f", "w"], ["out"])],
                                  {"k": some(4, 1, 2, 2), "w": some(8, 3)}, row=(2, 6, 6)),
    "shared weights": lambda: graph([N("MatMul", ["x", "w"], ["h"]), N("Add", ["h", "b"], ["s"]), N("Relu", ["s"], ["r"]), N("Sub", ["r", "h"], ["d"]), N("Identity", ["d"], ["i"]),
                                     N("MatMul", ["i", "w"], ["m"]), N("Identity", ["m"], ["j"]), N("Add", ["j", "b"], ["p"]), N("Add", ["p", "m"], ["t"]), N("Gemm", ["t", "o"], ["out"])],
                                    {"w": some(4, 4), "b": some(4), "o": some(4, 3)}, row=(4,)),
    "extremes": lambda: graph([N("Max", ["x", "zero"], ["m"]), N("Min", ["m", "x2"], ["n"]), N("HardSigmoid", ["n"], ["h"], alpha=0.3), N("PRelu", ["h", "slope"], ["p"]),
                               N("Neg", ["p"], ["q"]), N("Pow", ["q", "two"], ["r"]), N("Gemm", ["r", "w"], ["out"])],
                              {"zero": np.array(0, np.float32), "x2": some(4), "slope": np.array([0.3], np.float32), "two": np.array(2, np.float32), "w": some(4, 3)}, row=(4,)),
    "softmax of old": lambda: graph([N("Gemm", ["x", "w"], ["z"]), N("Softmax", ["z"], ["out"])], {"w": some(4, 3)}, row=(4,), opset=11),
    "fixed reshape": lambda: graph([N("Reshape", ["x", "to"], ["f"]), N("Gemm", ["f", "w"], ["out"])], {"to": np.array([2, 12], np.int64), "w": some(12, 3)},
                                   row=(2, 6), batch=2),
    "norms": lambda: graph([N("BatchNormalization", ["x", "g", "c", "m", "v"], ["h"], epsilon=0.05), N("Transpose", ["h"], ["t"], perm=[0, 2, 1]), N("Flatten", ["t"], ["f"]),
                            N("LeakyRelu", ["f"], ["l"]), N("Gemm", ["l", "w"], ["out"])],
                           {"g": some(2), "c": some(2, seed=3), "m": some(2, seed=4), "v": some(2, seed=5) ** 2, "w": some(12, 3)}, row=(2, 6)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_graphs_by_hand(name: str) -> None:
    blob = CASES[name]()
    shape = tuple(d.dim_value for d in onnx.load_model_from_string(blob).graph.input[0].type.tensor_type.shape.dim[1:])
    space = Space.image(shape) if len(shape) == 3 else Space.table(list("abcdef")[: shape[0]])
    if len(shape) == 2:
        space = Space(
            shape=shape,
            lower=np.zeros(shape),
            upper=np.ones(shape),
            step=np.zeros(shape),
            mutable=np.ones(shape, bool),
            kind=np.zeros(shape, np.int8),
        )
    model: Any = OnnxModel(blob=blob, space=space, classes=3)
    assert model.access == WHITE_BOX, model.notes
    x = probe_rows(space, rng_for(0, "x"), 31)
    assert np.abs(model.logits(model.tensor(x)).double().softmax(1).numpy() - model.predict(x)).max() < 1e-5


def test_the_zip_map_may_name_classes_in_another_order() -> None:
    data = make_dataset(classes=3)
    made = from_sklearn("logistic_regression", 3)
    model: Any = OnnxModel(blob=made.SerializeToString(), space=data.space, classes=3, labels=(2, 0, 1))
    assert model.access == WHITE_BOX, model.notes
    x = data.x[:30]
    assert np.abs(model.logits(model.tensor(x)).double().softmax(1).numpy() - model.predict(x)).max() < 1e-5


@pytest.mark.parametrize("name", ["logistic_regression", "pipeline", "mlp"])
def test_files_of_linear_models_are_bounded_exactly(name: str) -> None:
    data = make_dataset()
    model: Any = OnnxModel(blob=from_sklearn(name).SerializeToString(), space=data.space, classes=2)
    y = decide(model.predict(data.x))
    attacked = decide(model.predict(APGD()(model, data.x, y, LpBall(eps=0.05), rng_for(0, "a")))) != y
    proof = IntervalBounds()(model, data.x, y, LpBall(eps=0.05), rng_for(0, "b"))
    assert attacked.any()
    assert not (attacked & proof.holds).any()
    if name != "mlp":
        assert (attacked | proof.holds).all()


# Wrong readings ------------------------------------------------------------------------------------------------------


def turned(reader: Any, step: Any) -> Any:
    step.attributes["transB"] = 1 - step.get("transB", 0)
    return layers._gemm(reader, step)


def other_epsilon(reader: Any, step: Any) -> Any:
    step.attributes["epsilon"] = 1e-4
    return layers._batch_norm(reader, step)


def unpadded_count(reader: Any, step: Any) -> Any:
    step.attributes["count_include_pad"] = 1 - step.get("count_include_pad", 0)
    return windows._average_pool(reader, step)


PLANTS = {
    "transposed weight": ("Gemm", "square", turned),
    "epsilon of batch norm": ("BatchNormalization", "mlp", other_epsilon),
    "epsilon after a convolution": ("BatchNormalization", "cnn", other_epsilon),
    "padding that counts": ("AveragePool", "cnn", unpadded_count),
    "slope": ("LeakyRelu", "row", layers._layer(lambda step: nn.LeakyReLU(0.21))),
    "a lost activation": ("Relu", "mlp", layers._same),
    "a lost step": ("Clip", "row", layers._same),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_wrong_reading_is_caught(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    op, name, wrong = PLANTS[plant]
    if name == "square":
        space, classes = Space.table(["a", "b", "c"]), 3
        blob = graph([N("Gemm", ["x", "w"], ["h"]), N("Tanh", ["h"], ["t"]), N("Gemm", ["t", "w"], ["out"])], {"w": some(3, 3)}, row=(3,))
    else:
        blob, space, classes = exported(name, whole=True), space_of(name), classes_of(name)
    assert OnnxModel(blob=blob, space=space, classes=classes).access == WHITE_BOX
    monkeypatch.setitem(reading.OPERATORS, op, wrong)
    model: Any = OnnxModel(blob=blob, space=space, classes=classes)
    assert model.access == BLACK_BOX
    assert model.module is None
    assert "differs from its own logits" in model.notes[0]


@pytest.mark.parametrize(("nodes", "weights", "match"), [
    ([N("CumSum", ["x", "one"], ["h"]), N("Gemm", ["h", "w"], ["out"])], {"one": np.array(1, np.int64), "w": some(4, 3)}, "the operator CumSum"),
    ([N("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), N("Sub", ["x", "m"], ["h"]), N("Gemm", ["h", "w"], ["out"])], {"w": some(4, 3)}, "rows of a batch"),
    ([N("Add", ["x", "five"], ["s"]), N("ReduceSum", ["s", "ax"], ["h"], keepdims=0), N("Gemm", ["h", "w"], ["out"])],
     {"five": some(5, 1, 4), "ax": np.array([0], np.int64), "w": some(4, 3)}, "mixes rows"),
    ([N("Transpose", ["x"], ["t"]), N("Transpose", ["t"], ["h"]), N("Gemm", ["h", "w"], ["out"])], {"w": some(4, 3)}, "turns the batch"),
    ([N("ConstantOfShape", ["s"], ["c"]), N("ReduceSum", ["c", "ax"], ["r"]), N("Add", ["x", "r"], ["h"]), N("Gemm", ["h", "w"], ["out"])],
     {"s": np.array([5000, 5000], np.int64), "ax": np.array([0, 1], np.int64), "w": some(4, 3)}, "too large"),
])  # fmt: skip
def test_what_cannot_be_read_is_a_black_box(nodes: list[Any], weights: dict[str, np.ndarray], match: str) -> None:
    model: Any = OnnxModel(blob=graph(nodes, weights, row=(4,)), space=Space.table(list("abcd")), classes=3)
    assert model.access == BLACK_BOX
    assert match in model.notes[0]


@settings(max_examples=25, deadline=None)
@given(widths=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 10**6), kinds=st.lists(st.sampled_from(["Relu", "Tanh", "Sigmoid", "Elu", "Softplus"]),
                                                                                                        min_size=4, max_size=4))  # fmt: skip
def test_any_perceptron_agrees(widths: list[int], seed: int, kinds: list[str]) -> None:
    nodes, weights, width, last = [], {}, 4, "x"
    for i, (out, kind) in enumerate(zip(widths, kinds, strict=False)):
        weights |= {f"w{i}": some(width, out, seed=seed + i), f"b{i}": some(out, seed=seed - i + 9)}
        nodes += [N("MatMul", [last, f"w{i}"], [f"m{i}"]), N("Add", [f"m{i}", f"b{i}"], [f"a{i}"]), N(kind, [f"a{i}"], [f"h{i}"])]
        width, last = out, f"h{i}"
    nodes.append(N("Gemm", [last, "w"], ["out"]))
    model: Any = OnnxModel(blob=graph(nodes, {**weights, "w": some(width, 3, seed=seed)}, row=(4,)), space=Space.table(list("abcd")), classes=3)
    assert model.access == WHITE_BOX, model.notes
