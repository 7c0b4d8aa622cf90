"""Models stored without pickles: the same answers to the last bit, and nothing but Carbide's own classes comes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from carbide.models import load_saved, make_recipe, pack, save_model, unpack, wrap
from carbide.models.packing import check_allowed
from carbide.run.store import decode, encode
from carbide.types import Dataset, InputError, Space, rng_for
from tests.models.cases import BOOSTERS, SKLEARN, fitted, make_dataset


def stored(model: Any) -> Any:
    """Through the store's own encoding and back."""
    return decode(encode(model, pack=pack), unpack=unpack)


@pytest.mark.parametrize("name", SKLEARN + BOOSTERS + ("neighbors",))
@pytest.mark.parametrize("classes", [2, 3])
def test_estimators_come_back_the_same(name: str, classes: int, tmp_path: Path) -> None:
    data = make_dataset(classes=classes)
    model = wrap(fitted(name, classes), space=data.space, classes=classes).at(0.3)
    again = stored(model)
    assert np.array_equal(again.predict(data.x), model.predict(data.x))
    assert again.digest() == model.digest()
    assert again.threshold == 0.3
    save_model(model, tmp_path)
    served = load_saved(tmp_path)
    assert np.array_equal(served.predict(data.x), model.predict(data.x))
    assert served.digest() == model.digest()


TRAININGS = """
import hashlib, sys
from carbide.models import make_recipe, pack
from carbide.run.store import encode
from carbide.types import rng_for
from tests.models.cases import make_dataset
junk = [object() for _ in range(int(sys.argv[1]))]
data = make_dataset()
for name in ("random_forest", "gradient_boosting", "mlp", "nearest_neighbors", "xgboost", "lightgbm", "torch"):
    params = {"mlp": {"max_iter": 5}, "nearest_neighbors": {}}.get(name, {"n_estimators": 4})
    spec = {"torch": {"epochs": 1}} if name == "torch" else {"estimator": name, "params": params}
    model = make_recipe(spec, space=data.space, classes=2).fit(data, rng_for(0, "x"))
    blob = encode(model, pack=pack)
    print(name, len(blob), hashlib.sha256(blob).hexdigest(), model.digest())
"""


def test_equal_trainings_give_equal_bytes_in_other_processes() -> None:
    """Sizes and digests are part of results that must repeat, wherever the objects lie in memory."""
    said = [
        subprocess.run([sys.executable, "-c", TRAININGS, junk], capture_output=True, text=True, check=True, timeout=200).stdout
        for junk in ("1", "99999")
    ]
    assert said[0].count("\n") == 7
    assert said[0] == said[1]


def test_digests_see_every_change(data: Dataset) -> None:
    model = wrap(fitted("logistic_regression"), space=data.space, classes=2)
    import copy

    other = copy.deepcopy(fitted("logistic_regression"))
    other.coef_[0, 0] = np.nextafter(other.coef_[0, 0], 9)
    assert wrap(other, space=data.space, classes=2).digest() != model.digest()
    assert model.at(0.4).digest() != model.digest()
    net = nn.Sequential(nn.Linear(4, 2))
    before = wrap(net, space=data.space, classes=2).digest()
    with torch.no_grad():
        net[0].bias[0] += 1e-6
    assert wrap(net, space=data.space, classes=2).digest() != before


def test_torch_models_come_back_the_same(tmp_path: Path, data: Dataset) -> None:
    model = make_recipe({"torch": {"epochs": 1}}, space=data.space, classes=2).fit(data, rng_for(0, "net")).at(0.2)
    again = stored(model)
    assert again.digest() == model.digest()
    assert np.array_equal(again.predict(data.x), model.predict(data.x))
    names = {path.name for path in save_model(model, tmp_path)}
    assert {"model.safetensors", "factory.json"} <= names
    served = load_saved(tmp_path)
    assert served.digest() == model.digest()
    assert served.threshold == 0.2


def test_live_modules_come_back_in_this_process_only(data: Dataset) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))
    model = wrap(net, space=data.space, classes=2)
    again = stored(model)
    assert again.module is not net
    assert again.digest() == model.digest()
    packed = pack(model)
    packed["state"]["factory"] = "live:0123"
    with pytest.raises(InputError, match="give the same module again"):
        unpack(packed)


@pytest.mark.parametrize("name", ["os:system", "carbide.types:Space", "carbide.models.packing:unpack", "carbide.cli:main", "carbide:__main__", "carbide..x:Y",
                                  "carbide.models.estimators:EstimatorRecipe", "carbide.models.estimators:np", "carbide.nothing:Here", "tests.models.cases:X",
                                  "carbide.models.doors:EstimatorModel", "carbide.models.estimators:EstimatorModel.from_state", 3, None])  # fmt: skip
def test_nothing_else_is_unpacked(name: Any) -> None:
    with pytest.raises(InputError):
        unpack({"class": name, "state": {}})


@pytest.mark.parametrize(
    "packed", [None, 3, {}, {"class": "carbide.models.estimators:EstimatorModel"}, {"class": "x", "state": 1}, {"class": 1, "state": {}, "more": 2}]
)
def test_other_shapes_are_refused(packed: Any) -> None:
    with pytest.raises(InputError):
        unpack(packed)


def test_stored_bytes_are_checked_as_files_are(data: Dataset) -> None:
    packed = pack(wrap(fitted("xgboost"), space=data.space, classes=2))
    packed["state"]["blob"] = packed["state"]["blob"][:500]
    with pytest.raises(InputError, match="no whole XGBoost model"):
        unpack(packed)
    packed = pack(wrap(fitted("random_forest"), space=data.space, classes=2))
    packed["state"]["format"] = "pickle"
    with pytest.raises(InputError, match="choose xgboost, lightgbm, catboost or skops"):
        unpack(packed)


def test_only_named_factories_are_called(data: Dataset) -> None:
    packed = pack(make_recipe({"torch": {"epochs": 1}}, space=data.space, classes=2).fit(data, rng_for(0, "net")))
    packed["state"]["factory"] = "os:getcwd"
    with pytest.raises(InputError, match="nothing in this process has named"):
        unpack(packed)
    for address in ("carbide.models.nets:__import__", "carbide.models.nets:small_mlp.x", "carbide.models.nets_evil:f", "builtins:eval"):
        with pytest.raises(InputError):
            check_allowed(address)
    check_allowed("carbide.models.nets:small_mlp")


def test_what_cannot_be_stored_says_so(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot store a int"):
        pack(3)
    live = wrap(lambda x: np.zeros(len(x), int), space=data.space, classes=2)
    with pytest.raises(InputError, match="live function and cannot be stored"):
        pack(live)
    assert [path.name for path in save_model(live, tmp_path)] == ["README.md"]
    with pytest.raises(InputError, match="holds no model of Carbide"):
        load_saved(tmp_path)


def test_native_files_are_served_without_carbide(tmp_path: Path, data: Dataset) -> None:
    import lightgbm
    import skops.io
    import xgboost

    x = data.x
    save_model(wrap(fitted("xgboost"), space=data.space, classes=2), tmp_path / "x")
    served = xgboost.XGBClassifier()
    served.load_model(tmp_path / "x" / "model.json")
    assert np.array_equal(served.predict_proba(x), fitted("xgboost").predict_proba(x))
    save_model(wrap(fitted("lightgbm"), space=data.space, classes=2), tmp_path / "l")
    assert np.array_equal(lightgbm.Booster(model_file=tmp_path / "l" / "model.txt").predict(x), fitted("lightgbm").predict_proba(x)[:, 1])
    save_model(wrap(fitted("random_forest"), space=data.space, classes=2), tmp_path / "s")
    forest = skops.io.load(tmp_path / "s" / "model.skops", trusted=["sklearn.tree._tree.Tree"])
    assert np.array_equal(forest.predict_proba(x), fitted("random_forest").predict_proba(x))


def test_a_folder_keeps_one_model(tmp_path: Path, data: Dataset) -> None:
    save_model(wrap(fitted("xgboost"), space=data.space, classes=2), tmp_path)
    save_model(wrap(fitted("lightgbm"), space=data.space, classes=2), tmp_path)
    assert not (tmp_path / "model.json").exists()
    assert np.array_equal(load_saved(tmp_path).predict(data.x), fitted("lightgbm").predict_proba(data.x))


def test_damaged_folders_are_refused(tmp_path: Path, data: Dataset) -> None:
    save_model(wrap(fitted("xgboost"), space=data.space, classes=2), tmp_path)
    side = tmp_path / "carbide.npz"
    blob = side.read_bytes()
    for bad in (
        b"",
        blob[:100],
        b"x" * 300,
        encode({"kind": "other"}),
        encode([1]),
        encode({"kind": "xgboost", "model": {"class": "os:system", "state": {}}}),
    ):
        side.write_bytes(bad)
        with pytest.raises(InputError):
            load_saved(tmp_path)
    side.write_bytes(blob)
    (tmp_path / "model.json").unlink()
    with pytest.raises(InputError, match="cannot be read"):
        load_saved(tmp_path)


def test_images_keep_their_space(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    space = Space.image((1, 8, 8))
    data = Dataset(
        x=rng.random((20, 1, 8, 8)), y=np.arange(20) % 10, ids=np.arange(20).astype(str), source=np.array(["u"] * 20), space=space, classes=10
    )
    model = make_recipe({"torch": {"epochs": 1}}, space=space, classes=10).fit(data, rng_for(0, "net"))
    save_model(model, tmp_path)
    again = load_saved(tmp_path)
    assert again.space.shape == (1, 8, 8)
    assert np.array_equal(again.predict(data.x), model.predict(data.x))


def test_an_edited_forward_is_another_model_though_it_prints_the_same():
    import torch
    from torch import nn

    from carbide.models.torch_net import TorchModel
    from carbide.types import Space

    def net(body: str) -> TorchModel:
        space: dict = {"nn": nn, "torch": torch}
        exec(f"class Net(nn.Module):\n    def forward(self, x):\n        return {body}\n", space)
        return TorchModel(module=space["Net"](), space=Space.table(["a", "b"]), classes=2)

    digests = {net(body).digest() for body in ("x", "x", "x * 2.0", "x * 3.0", "torch.relu(x)")}
    assert len(digests) == 4
