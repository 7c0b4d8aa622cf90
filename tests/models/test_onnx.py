"""ONNX graphs: answers as their sources give them, and graphs that reach outside themselves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx

from carbide.models import load_model, load_saved, pack, save_model, unpack
from carbide.types import BLACK_BOX, TREE_BOX, WHITE_BOX, Access, Dataset, InputError, Space
from tests.models.cases import fitted, make_dataset


def exported(name: str, classes: int = 2, **options: Any) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return to_onnx(fitted(name, classes), np.zeros((1, 4), np.float32), options=options or None, target_opset={"": 17, "ai.onnx.ml": 3})  # type: ignore[return-value]


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("zipmap", [True, False])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting", "logistic_regression", "mlp", "pipeline", "naive_bayes"])
def test_scikit_learn_graphs(name: str, classes: int, zipmap: bool, tmp_path: Path) -> None:
    data = make_dataset(classes=classes)
    model = load_model(saved(exported(name, classes, **({} if zipmap else {"zipmap": False})), tmp_path), space=data.space, classes=classes)
    expected = fitted(name, classes).predict_proba(data.x.astype(np.float32))
    assert np.abs(model.predict(data.x) - expected).max() < 1e-4
    assert model.access == {"random_forest": TREE_BOX, "gradient_boosting": TREE_BOX, "naive_bayes": BLACK_BOX}.get(name, WHITE_BOX)
    again = unpack(pack(model))
    assert np.array_equal(again.predict(data.x), model.predict(data.x))
    assert again.digest() == model.digest()
    save_model(model.at(0.3), tmp_path / "out")
    served = load_saved(tmp_path / "out")
    assert np.array_equal(served.predict(data.x), model.predict(data.x))
    assert served.threshold == 0.3


def linear(classes: int = 2, *, rows: Any = "n", width: int = 4, softmax: bool = False) -> onnx.ModelProto:
    """The graph of a linear classifier with weights 0, 1, 2, ..."""
    weights = numpy_helper.from_array(np.arange(width * classes, dtype=np.float32).reshape(width, classes) / 10, "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h" if softmax else "out"])]
    if softmax:
        nodes.append(helper.make_node("Softmax", ["h"], ["out"], axis=1))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, width])],
                              [helper.make_tensor_value_info("out", TensorProto.FLOAT, [rows, classes])], [weights])  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_logits_probabilities_and_fixed_batches(tmp_path: Path, data: Dataset) -> None:
    z = data.x.astype(np.float32) @ (np.arange(8, dtype=np.float32).reshape(4, 2) / 10)
    expected = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    for graph, answers in (
        (linear(), "logits"),
        (linear(softmax=True), "probabilities"),
        (linear(rows=7), "logits"),
        (linear(rows=1, softmax=True), "probabilities"),
    ):
        model = load_model(saved(graph, tmp_path), space=data.space, classes=2)
        assert model.answers == answers
        assert np.abs(model.predict(data.x) - expected).max() < 1e-6
    with pytest.raises(InputError, match="returns logits where probabilities are declared"):
        load_model(saved(linear(), tmp_path), space=data.space, classes=2, answers="probabilities")


def test_flat_graphs_take_images(tmp_path: Path) -> None:
    model = load_model(saved(linear(width=16), tmp_path), space=Space.image((1, 4, 4)), classes=2)
    assert model.predict(np.zeros((5, 1, 4, 4))).shape == (5, 2)


def test_labels_alone(tmp_path: Path, data: Dataset) -> None:
    graph = exported("random_forest", zipmap=False)
    model = load_model({"onnx": {"file": str(saved(graph, tmp_path)), "output": "label"}}, space=data.space, classes=2)
    assert model.access == Access.LABELS
    assert np.array_equal(model.predict(data.x).argmax(1), fitted("random_forest").predict(data.x.astype(np.float32)))


def test_wrong_graphs_say_what_is_wrong(tmp_path: Path, data: Dataset) -> None:
    for graph, match, kwargs in (
        (linear(width=5), r"takes rows of shape \(5,\)", {}),
        (linear(classes=3), r"shape \(3, 3\) for 3 rows, not \(3, 2\)", {}),
        (linear(), "has no output 'score'; its outputs are out", {"output": "score"}),
    ):
        with pytest.raises(InputError, match=match):
            load_model({"onnx": {"file": saved(graph, tmp_path), **kwargs}}, space=data.space, classes=2)
    two = linear()
    two.graph.input.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1]))
    with pytest.raises(InputError, match="one numeric input"):
        load_model(saved(two, tmp_path), space=data.space, classes=2)
    custom = linear()
    custom.graph.node[0].domain = "evil.corp"
    custom.opset_import.append(helper.make_opsetid("evil.corp", 1))
    with pytest.raises(InputError, match=r"operator evil\.corp\.MatMul"):
        load_model(saved(custom, tmp_path), space=data.space, classes=2)


def outside(location: str, length: int = 32) -> onnx.ModelProto:
    """The linear graph with its weights in another file."""
    model = linear()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return model


def test_data_beside_the_file_is_taken_in(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "w.bin").write_bytes((np.arange(8, dtype=np.float32) / 10).tobytes())
    model = load_model(saved(outside("w.bin"), tmp_path), space=data.space, classes=2)
    inside = tmp_path / "inside"
    inside.mkdir()
    assert np.array_equal(model.predict(data.x), load_model(saved(linear(), inside), space=data.space, classes=2).predict(data.x))
    (tmp_path / "w.bin").unlink()
    assert np.array_equal(unpack(pack(model)).predict(data.x), model.predict(data.x))


@pytest.mark.parametrize(
    "location", ["../secret.bin", "/etc/passwd", "sub/../../secret.bin", "link.bin", "sub/link.bin", "absent.bin", "", "..\\secret.bin", "c:secret"]
)
def test_data_elsewhere_is_refused(location: str, tmp_path: Path, data: Dataset) -> None:
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    (tmp_path / "secret.bin").write_bytes(b"\x00" * 32)
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "sub" / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InputError, match=r"outside its folder|which has 0"):
        load_model(saved(outside(location), folder), space=data.space, classes=2)


def test_data_beyond_the_end_is_refused(tmp_path: Path, data: Dataset) -> None:
    (tmp_path / "w.bin").write_bytes(b"\x00" * 16)
    with pytest.raises(InputError, match="which has 16"):
        load_model(saved(outside("w.bin"), tmp_path), space=data.space, classes=2)


@pytest.mark.parametrize(("attribute", "value"), [("nodes_featureids", 9), ("nodes_featureids", -1), ("nodes_truenodeids", 10**6), ("nodes_falsenodeids", 0),
                                                  ("class_ids", 99), ("class_nodeids", 10**6), ("nodes_nodeids", 1)])  # fmt: skip
def test_trees_that_point_outside_themselves_are_refused(attribute: str, value: int, tmp_path: Path, data: Dataset) -> None:
    graph = exported("random_forest", zipmap=False)
    node = next(n for n in graph.graph.node if n.op_type == "TreeEnsembleClassifier")
    held = next(a for a in node.attribute if a.name == attribute)
    held.ints[0] = value
    with pytest.raises(InputError, match=r"is damaged|no valid"):
        load_model(saved(graph, tmp_path), space=data.space, classes=2)


@pytest.mark.parametrize("steps", ["scaler", "polynomial", "pca", "bins"])
def test_trees_behind_other_steps(steps: str, tmp_path: Path, data: Dataset) -> None:
    """What reaches the trees may be wider or narrower than a row; their splits are compared with that."""
    from sklearn.decomposition import PCA
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import KBinsDiscretizer, PolynomialFeatures, StandardScaler

    first = {"scaler": StandardScaler(), "polynomial": PolynomialFeatures(), "pca": PCA(2),
             "bins": KBinsDiscretizer(3, encode="onehot-dense", quantile_method="averaged_inverted_cdf")}[steps]  # fmt: skip
    x = data.x.astype(np.float32)
    pipeline = make_pipeline(first, GradientBoostingClassifier(n_estimators=3, random_state=0)).fit(x, data.y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph: Any = to_onnx(pipeline, x[:1], target_opset={"": 17, "ai.onnx.ml": 3})
    model = load_model(saved(graph, tmp_path), space=data.space, classes=2)
    assert (model.predict(data.x).argmax(1) == pipeline.predict(x)).mean() > 0.97
    node = next(n for n in graph.graph.node if n.op_type.startswith("TreeEnsemble"))
    features = next(a for a in node.attribute if a.name == "nodes_featureids")
    features.ints[0] = 4 if steps == "scaler" else 2 if steps == "pca" else 40
    with pytest.raises(InputError, match=r"a tree splits on feature \d+, but \d+ reach it"):
        load_model(saved(graph, tmp_path), space=data.space, classes=2)
