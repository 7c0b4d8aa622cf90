"""What enters through the model door: every kind of file, entry and live object, and what is said about wrong ones."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carbide.models import load_model, wrap
from carbide.models._xgboost_file import read_document
from carbide.models.nets import small_cnn, small_mlp
from carbide.models.skops_file import dump_skops
from carbide.types import Access, Dataset, InputError, Model, Space
from tests.models.cases import BOOSTERS, SKLEARN, fitted, make_dataset


def refuses(match: str, source: Any, *, space: Space | None = None, classes: int = 2, **options: Any) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_model(source, space=space or make_dataset(4).space, classes=classes, **options)
    assert "\n" not in str(caught.value)


def test_importing_the_models_is_light() -> None:
    code = "import sys, carbide.models; bad = {'torch', 'sklearn', 'xgboost', 'lightgbm', 'onnx', 'skops', 'httpx'} & set(sys.modules); sys.exit(len(bad))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("name", SKLEARN + BOOSTERS + ("neighbors",))
@pytest.mark.parametrize("classes", [2, 3])
def test_live_estimators_answer_as_they_do(name: str, classes: int) -> None:
    data = make_dataset(classes=classes)
    estimator = fitted(name, classes)
    model = wrap(estimator, space=data.space, classes=classes)
    assert isinstance(model, Model)
    assert np.array_equal(model.predict(data.x), np.asarray(estimator.predict_proba(data.x), np.float64))
    assert model.predict(data.x[:0]).shape == (0, classes)


@pytest.mark.parametrize("name", BOOSTERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_bare_boosters_answer_as_their_wrappers(name: str, classes: int) -> None:
    data = make_dataset(classes=classes)
    estimator = fitted(name, classes)
    booster = estimator.booster_ if name == "lightgbm" else estimator.get_booster()
    model = wrap(booster, space=data.space, classes=classes)
    assert np.array_equal(model.predict(data.x), np.asarray(estimator.predict_proba(data.x), np.float64))


@pytest.mark.parametrize(("objective", "tolerance"), [("binary:logitraw", 1e-6), ("multi:softmax", 1e-6), ("binary:hinge", None)])
def test_boosters_of_other_objectives_answer_probabilities(objective: str, tolerance: float | None) -> None:
    import xgboost

    data = make_dataset(classes=3 if objective == "multi:softmax" else 2)
    params = {"objective": objective, "max_depth": 2, **({"num_class": 3} if data.classes == 3 else {})}
    booster = xgboost.train(params, xgboost.DMatrix(data.x, data.y), num_boost_round=3)
    found = wrap(booster, space=data.space, classes=data.classes).predict(data.x)
    margin = booster.predict(xgboost.DMatrix(data.x), output_margin=True).astype(float)
    margin = margin if margin.ndim == 2 else np.stack([np.zeros(len(margin)), margin], 1)
    expected = np.exp(margin) / np.exp(margin).sum(1, keepdims=True)
    assert np.abs(found - expected).max() <= (tolerance or 1e-6)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_xgboost_files(suffix: str, tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / f"m.{suffix}"
    fitted("xgboost").save_model(path)
    expected = fitted("xgboost").predict_proba(data.x)
    for source in (path, str(path), {"xgboost": str(path)}, {"xgboost": {"file": path}}):
        assert np.array_equal(load_model(source, space=data.space, classes=2).predict(data.x), expected)
    assert np.array_equal(load_model({"xgboost": path.name}, space=data.space, classes=2, base=tmp_path).predict(data.x), expected)


@pytest.mark.parametrize("suffix", ["json", "ubj"])
def test_a_split_at_no_number_is_damage(suffix: str, tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / f"m.{suffix}"
    fitted("xgboost").save_model(path)
    blob = path.read_bytes()
    tree = read_document(blob, "it")["learner"]["gradient_booster"]["model"]["trees"][0]
    value = float(np.asarray(tree["split_conditions"])[0])
    if suffix == "json":
        text = str(json.loads(blob)["learner"]["gradient_booster"]["model"]["trees"][0]["split_conditions"][0])
        start = blob.index(b'"split_conditions":[') + len(b'"split_conditions":[')
        end = min(blob.index(b",", start), blob.index(b"]", start))
        assert float(blob[start:end]) == pytest.approx(float(text))
        path.write_bytes(blob[:start] + b"NaN" + blob[end:])
    else:
        start = blob.index(np.array(value, ">f4").tobytes(), blob.index(b"split_conditions"))
        path.write_bytes(blob[:start] + np.array(np.nan, ">f4").tobytes() + blob[start + 4 :])
    with pytest.raises(InputError, match=r"damaged.*a split has no number as its threshold"):
        load_model({"xgboost": str(path)}, space=data.space, classes=2)


def test_early_stopping_is_kept(tmp_path: Path, data: Dataset) -> None:
    from xgboost import XGBClassifier

    rng = np.random.default_rng(1)
    noise = rng.integers(2, size=len(data))
    estimator = XGBClassifier(n_estimators=60, early_stopping_rounds=2, n_jobs=1).fit(
        data.x[:60], noise[:60], eval_set=[(data.x[60:], noise[60:])], verbose=False
    )
    assert estimator.best_iteration < estimator.get_booster().num_boosted_rounds() - 1
    path = tmp_path / "m.json"
    estimator.save_model(path)
    assert np.array_equal(load_model(path, space=data.space, classes=2).predict(data.x), estimator.predict_proba(data.x))


def test_lightgbm_files(tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / "m.txt"
    fitted("lightgbm").booster_.save_model(path)
    model = load_model({"lightgbm": str(path)}, space=data.space, classes=2)
    assert np.array_equal(model.predict(data.x), fitted("lightgbm").predict_proba(data.x))


def test_lightgbm_with_categories(tmp_path: Path) -> None:
    from lightgbm import LGBMClassifier

    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(40, size=400), rng.random(400)], 1).astype(float)
    y = (x[:, 0] % 3 == 0).astype(int)
    estimator = LGBMClassifier(n_estimators=5, num_leaves=6, n_jobs=1, verbose=-1, min_child_samples=5, max_cat_to_onehot=1).fit(
        x, y, categorical_feature=[0]
    )
    text = estimator.booster_.model_to_string()
    assert "cat_threshold" in text
    path = tmp_path / "m.txt"
    path.write_text(text)
    space = Space.table(["c", "r"])
    assert np.array_equal(load_model(path, space=space, classes=2).predict(x), estimator.predict_proba(x))
    words = text.split("cat_boundaries=")[1].split("\n")[0]
    path.write_text(text.replace(f"cat_boundaries={words}", "cat_boundaries=" + " ".join(["0", "9999", *words.split(" ")[2:]])))
    refuses("categories do not fit", path, space=space)


def test_xgboost_with_categories(tmp_path: Path) -> None:
    import json

    import xgboost

    rng = np.random.default_rng(0)
    x = np.stack([rng.integers(20, size=400), rng.random(400)], 1).astype(float)
    y = (x[:, 0] % 3 == 0).astype(int)
    matrix = xgboost.DMatrix(x, y, feature_types=["c", "float"], enable_categorical=True)
    booster = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1, "nthread": 1}, matrix, num_boost_round=3)
    path = tmp_path / "m.json"
    booster.save_model(path)
    space = Space.table(["c", "r"])
    assert np.abs(load_model(path, space=space, classes=2).predict(x)[:, 1] - booster.predict(matrix)).max() == 0
    document = json.loads(path.read_text())
    document["learner"]["gradient_booster"]["model"]["trees"][0]["categories_sizes"][0] = 10**6
    path.write_text(json.dumps(document))
    refuses("categories do not fit", path, space=space)


@pytest.mark.parametrize("name", [*SKLEARN, "neighbors"])
def test_skops_files(name: str, tmp_path: Path, data: Dataset) -> None:
    import skops.io

    path = tmp_path / "m.skops"
    skops.io.dump(fitted(name), path)
    model = load_model({"sklearn": str(path)}, space=data.space, classes=2)
    assert np.array_equal(model.predict(data.x), fitted(name).predict_proba(data.x))


def test_skops_with_other_types_lists_them(tmp_path: Path) -> None:
    import skops.io
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    path = tmp_path / "m.skops"
    skops.io.dump(make_pipeline(FunctionTransformer(pickle.dumps), fitted("logistic_regression")), path)
    refuses(r"types that may run code.*pickle\.dumps", path)


def test_trees_that_point_outside_themselves_are_refused(tmp_path: Path) -> None:
    """A wrong child or feature index would make scikit-learn read foreign memory at the first prediction."""
    for field, value in (("left_child", 10**6), ("right_child", -7), ("feature", 4), ("feature", -3), ("left_child", 0)):
        forest = pickle.loads(pickle.dumps(fitted("random_forest")))
        tree = forest.estimators_[2].tree_
        state = tree.__getstate__()
        state["nodes"][field][0] = value
        tree.__setstate__(state)
        path = tmp_path / "m.skops"
        path.write_bytes(dump_skops(forest))
        refuses("damaged", path)


def test_histogram_trees_are_checked_too(tmp_path: Path) -> None:
    for field, value in (("left", 10**6), ("feature_idx", 17), ("right", 0)):
        boosted = pickle.loads(pickle.dumps(fitted("hist_gradient_boosting")))
        boosted._predictors[0][0].nodes[field][0] = value
        path = tmp_path / "m.skops"
        path.write_bytes(dump_skops(boosted))
        refuses("damaged", path)


def test_files_are_told_apart_by_content(tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / "m.json"
    path.write_text(fitted("lightgbm").booster_.model_to_string())
    refuses("holds lightgbm, where xgboost is expected", path)
    fitted("xgboost").save_model(path)
    blob = path.read_bytes()
    (tmp_path / "m.txt").write_bytes(blob)
    refuses("holds xgboost, where lightgbm", tmp_path / "m.txt")
    (tmp_path / "m.skops").write_bytes(pickle.dumps([1]))
    refuses("ends in '.skops' but holds pickle", tmp_path / "m.skops")
    (tmp_path / "m.onnx").write_bytes(blob)
    refuses("holds xgboost, where onnx", tmp_path / "m.onnx")
    (tmp_path / "m.weird").write_bytes(blob)
    refuses("names no format", tmp_path / "m.weird")
    refuses("names no format", {"xgboost": str(tmp_path / "m.weird")})
    refuses("cannot be read", tmp_path / "absent.json")
    refuses("is a folder", {"xgboost": str(tmp_path)})
    (tmp_path / "m.json").write_bytes(b"")
    refuses("is empty", tmp_path / "m.json")
    (tmp_path / "m.json").write_bytes(blob[: len(blob) // 2])
    refuses("no whole XGBoost model", tmp_path / "m.json")


def test_regressors_and_rankers_are_refused(tmp_path: Path, data: Dataset) -> None:
    import xgboost
    from lightgbm import LGBMRegressor
    from sklearn.linear_model import LinearRegression
    from xgboost import XGBRegressor

    refuses("is no classifier", LinearRegression().fit(data.x, data.y))
    booster = XGBRegressor(n_estimators=2).fit(data.x, data.y).get_booster()
    refuses("gives no class probabilities", booster)
    booster.save_model(tmp_path / "m.json")
    refuses("gives no class probabilities", tmp_path / "m.json")
    refuses("gives no class probabilities", LGBMRegressor(n_estimators=2, verbose=-1).fit(data.x, data.y).booster_)
    assert xgboost.__version__


def test_unfitted_estimators_and_classes_are_refused() -> None:
    from sklearn.linear_model import LogisticRegression
    from xgboost import XGBClassifier

    refuses("LogisticRegression is not fitted", LogisticRegression())
    refuses("XGBClassifier is not fitted", XGBClassifier())
    refuses("is the class LogisticRegression", LogisticRegression)
    refuses("the model is a int", 3)


def test_features_and_classes_must_fit(data: Dataset, three: Dataset) -> None:
    narrow = Space.table(["a", "b"])
    for name in ("logistic_regression", "xgboost", "lightgbm"):
        refuses("trained on 4 features, but a row of the data has 2", fitted(name), space=narrow)
    refuses("has classes", fitted("logistic_regression", 3), classes=2)
    model = wrap(fitted("logistic_regression"), space=data.space, classes=3)
    assert np.array_equal(model.predict(data.x)[:, 2], np.zeros(len(data)))


def test_columns_in_another_order_are_refused(data: Dataset) -> None:
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from xgboost import XGBClassifier

    frame = pd.DataFrame(data.x, columns=["b", "a", "c", "d"])
    for estimator in (LogisticRegression().fit(frame, data.y), XGBClassifier(n_estimators=2).fit(frame, data.y)):
        refuses("trained with 'b' as feature 0, the data has 'a' there", estimator)
        space = Space.table(["b", "a", "c", "d"])
        assert np.abs(wrap(estimator, space=space, classes=2).predict(data.x) - estimator.predict_proba(frame)).max() < 1e-12


def test_labels_of_other_names(data: Dataset) -> None:
    from sklearn.linear_model import LogisticRegression

    names = np.array(["sound", "broken"])[data.y]
    estimator = LogisticRegression().fit(data.x, names)
    refuses("name them in the order of the data's classes under labels", estimator)
    model = wrap(estimator, space=data.space, classes=2, labels=["sound", "broken"])
    assert np.array_equal(model.predict(data.x), estimator.predict_proba(data.x)[:, ::-1])
    refuses("does not name", estimator, labels=["sound", "other"])
    refuses("labels names 3 classes", estimator, labels=["sound", "broken", "x"])
    refuses("labels is 'sound'", estimator, labels="sound")


def test_estimators_without_probabilities_answer_labels(data: Dataset) -> None:
    from sklearn.svm import LinearSVC

    estimator = LinearSVC().fit(data.x, data.y)
    model = wrap(estimator, space=data.space, classes=2)
    assert model.access == Access.LABELS | Access.GRADIENTS | Access.WEIGHTS
    assert np.array_equal(model.predict(data.x).argmax(1), estimator.predict(data.x))
    with pytest.raises(InputError, match="threshold cannot be set"):
        model.at(0.3)
    assert model.at(0.5).threshold == 0.5


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_torch_weights(suffix: str, tmp_path: Path, data: Dataset) -> None:
    from safetensors.torch import save_file

    net = small_mlp(inputs=4, classes=2)
    path = tmp_path / f"net{suffix}"
    if suffix == ".safetensors":
        save_file(net.state_dict(), path)
    else:
        torch.save({"epoch": 3, "state_dict": net.state_dict()} if suffix == ".pth" else net.state_dict(), path)
    entry = {"torch": {"factory": "carbide.models.nets:small_mlp", "options": {"inputs": 4, "classes": 2}, "weights": str(path)}}
    model = load_model(entry, space=data.space, classes=2)
    expected = torch.softmax(net(torch.tensor(data.x, dtype=torch.float32)).double(), 1).detach().numpy()
    assert np.abs(model.predict(data.x) - expected).max() < 1e-12
    assert Access.GRADIENTS in model.access
    entry["torch"]["options"] = {"inputs": 4, "classes": 2, "width": 5}
    refuses("of shape", entry)
    entry["torch"]["options"] = {"inputs": 4, "nonsense": 2}
    refuses("failed with options", entry)
    entry["torch"]["factory"] = "carbide.models.nets:absent"
    refuses("cannot be imported", entry)
    del entry["torch"]["factory"]
    refuses("holds weights alone", entry)


def test_torch_pickles_are_refused(tmp_path: Path) -> None:
    net = small_mlp(inputs=4, classes=2)
    given = {"factory": "carbide.models.nets:small_mlp", "options": {"inputs": 4, "classes": 2}}
    path = tmp_path / "net.pt"
    torch.save(net, path)
    refuses("without running code", path, **given)
    refuses("without running code", path, trust=True, **given)
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False)
    refuses("holds pickle", path, **given)
    torch.jit.script(net).save(path)
    refuses("holds a TorchScript archive", path, **given)
    torch.save([1, 2], path)
    refuses("holds a list and not named tensors", path, **given)
    state = net.state_dict()
    state["0.weight"][0, 0] = float("nan")
    torch.save(state, path)
    refuses("holds NaN in 0.weight", path, **given)


def test_torch_modules_are_put_into_inference_mode(data: Dataset) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    model = wrap(net, space=data.space, classes=2)
    assert np.array_equal(model.predict(data.x), model.predict(data.x))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not net.training


def test_torch_outputs_are_told_apart(data: Dataset) -> None:
    net = small_mlp(inputs=4, classes=2)
    assert wrap(net, space=data.space, classes=2).outputs == "logits"
    soft = nn.Sequential(net, nn.Softmax(1))
    model = wrap(soft, space=data.space, classes=2)
    assert model.outputs == "probabilities"
    assert np.abs(model.predict(data.x) - wrap(net, space=data.space, classes=2).predict(data.x)).max() < 1e-6
    refuses("returns logits where probabilities are declared", net, answers="probabilities")
    refuses("a torch module answers logits or probabilities", net, answers="labels")
    refuses(r"for 3 rows and 3 classes", net, classes=3)
    refuses("fails on rows of shape", small_mlp(inputs=5, classes=2))
    refuses("fails on rows of shape", small_cnn())
    broken = small_mlp(inputs=4, classes=2)
    with torch.no_grad():
        broken[0].weight[0, 0] = float("inf")
        broken[2].weight[0, 0] = 0
    refuses("NaN or infinity", broken)


def test_a_module_that_counts_its_calls_is_refused(data: Dataset) -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_mlp(inputs=4, classes=2)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.net(x)

    refuses("changes its buffers", Counts())


@pytest.mark.parametrize("suffix", [".pt2"])
def test_exported_programs_run_without_torch_loading_them(suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.out = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.norm(self.conv(x)))
            h = nn.functional.max_pool2d(h + 0.5 * h.tanh(), 2)
            return self.out(h.view(h.shape[0], -1))

    net = Net().eval()
    path = tmp_path / f"net{suffix}"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    monkeypatch.setattr(torch.export, "load", lambda *a, **k: pytest.fail("torch.export.load was called"))
    monkeypatch.setattr(torch, "load", lambda *a, **k: pytest.fail("torch.load was called"))
    model = load_model(path, space=Space.image((1, 8, 8)), classes=10)
    x = torch.rand(5, 1, 8, 8, requires_grad=True)
    assert torch.equal(model.module(x), net(x))
    (ours,) = torch.autograd.grad(model.logits(x).sum(), x)
    (theirs,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.equal(ours, theirs)


def test_exported_programs_with_other_operations_are_refused(tmp_path: Path) -> None:
    import json
    import zipfile

    net = small_mlp(inputs=4, classes=2).eval()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),), dynamic_shapes=({0: torch.export.Dim("n")},)), path)
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    (model,) = [name for name in members if "/models/" in name]
    (weights,) = [name for name in members if name.endswith("weights_config.json")]

    def changed(name: str, change: Any) -> Path:
        document = json.loads(members[name])
        change(document)
        out = tmp_path / "changed.pt2"
        with zipfile.ZipFile(out, "w") as archive:
            for member, blob in members.items():
                archive.writestr(member, json.dumps(document) if member == name else blob)
        return out

    def target(text: str) -> Any:
        return lambda d: d["graph_module"]["graph"]["nodes"][0].update(target=text)

    for text in (
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.load",
        "_operator.methodcaller",
        "os.system",
        "torch.ops.aten.relu.absent",
    ):
        refuses("not on Carbide's list", changed(model, target(text)))
    refuses("as a pickle", changed(weights, lambda d: d["config"]["0.weight"].update(use_pickle=True)))
    refuses("no whole exported program", changed(weights, lambda d: d["config"]["0.weight"]["tensor_meta"]["sizes"][0].update(as_int=10**6)))
    refuses("no whole exported program", changed(weights, lambda d: d["config"]["0.weight"]["tensor_meta"]["storage_offset"].update(as_int=10**6)))


def test_a_program_in_training_mode_is_refused(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (torch.zeros(2, 4),)), path)
    refuses("exported in training mode", path)


def test_entries_of_a_plan(data: Dataset) -> None:
    refuses("name exactly one of", {})
    refuses("name exactly one of", {"xgboost": "a.json", "onnx": "b.onnx"})
    refuses("option 'colour' is not known", {"xgboost": {"file": "a.json", "colour": 1}})
    refuses("names no file", {"xgboost": {}})
    refuses("is 3; give a text or a mapping", {"xgboost": 3})
    refuses("no address of a function", {"callable": "nothing"})
    refuses("cannot be imported", {"callable": "no.such.module:function"})
    refuses("is 'x'; give a probability", fitted("logistic_regression"), threshold="x")
    assert load_model(fitted("logistic_regression"), space=data.space, classes=2, threshold=0.3).threshold == 0.3


def always_one(x: np.ndarray) -> np.ndarray:
    """A function that plans of the tests name."""
    return np.ones(len(x), int)


def test_callables_by_address(data: Dataset) -> None:
    from carbide.models import pack, unpack

    model = load_model({"callable": "tests.models.test_doors:always_one"}, space=data.space, classes=2)
    assert model.predict(data.x)[:, 1].all()
    assert unpack(pack(model)).digest() == model.digest()


def test_models_of_carbide_pass_through(data: Dataset) -> None:
    model = wrap(fitted("xgboost"), space=data.space, classes=2)
    assert wrap(model, space=data.space, classes=2) is model
    refuses("use them together", model, classes=3)


@pytest.mark.parametrize("name", ["random_forest", "gradient_boosting", "hist_gradient_boosting", "xgboost", "lightgbm"])
def test_trees_from_files_show_their_structure(name: str, tmp_path: Path, data: Dataset) -> None:
    from carbide.models import load_saved, save_model

    save_model(wrap(fitted(name), space=data.space, classes=2), tmp_path)
    model = load_saved(tmp_path)
    native = next(tmp_path.glob("model.*"))
    read = load_model(native, space=data.space, classes=2)
    for found in (model, read):
        assert Access.STRUCTURE in found.access
        assert np.array_equal(found.ensemble.predict(data.x).argmax(1), found.predict(data.x).argmax(1))


def test_linear_boosters_show_none(tmp_path: Path, data: Dataset) -> None:
    fitted("gblinear").save_model(tmp_path / "m.json")
    assert Access.STRUCTURE not in load_model(tmp_path / "m.json", space=data.space, classes=2).access
    assert Access.STRUCTURE not in wrap(fitted("gblinear"), space=data.space, classes=2).access
