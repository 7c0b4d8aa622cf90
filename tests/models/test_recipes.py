"""Recipes: what a plan's entry trains, the same each time, and what is said about entries that are wrong."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from carbide.models import check_model, make_recipe
from carbide.models.nets import small_mlp
from carbide.models.recipes import ESTIMATORS
from carbide.types import Dataset, InputError, Recipe, Space, digest, rng_for
from tests.models.cases import make_dataset


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("classes", [2, 3])
def test_every_estimator_trains_the_same_twice(name: str, classes: int) -> None:
    if name == "catboost":
        pytest.importorskip("catboost", reason="CatBoost is not installed; pip install 'carbide[catboost]'")
    data = make_dataset(200, classes=classes)
    small: dict[str, Any] = {"mlp": {"max_iter": 150}, "hist_gradient_boosting": {"max_iter": 10}}.get(name, {})
    if name in ("xgboost", "lightgbm", "random_forest", "extra_trees", "gradient_boosting", "catboost"):
        small = {"n_estimators": 10}
    recipe = make_recipe({"estimator": name, "params": small}, space=data.space, classes=classes)
    assert isinstance(recipe, Recipe)
    first, second, other = (recipe.fit(data, rng_for(seed, "t")) for seed in (0, 0, 1))
    assert first.digest() == second.digest()
    assert np.array_equal(first.predict(data.x), second.predict(data.x))
    assert (first.predict(data.x).argmax(1) == data.y).mean() > 0.7
    assert check_model(first, data) == []
    assert other.predict(data.x).shape == (len(data), classes)
    json.dumps(recipe.describe(), allow_nan=False)
    copied = pickle.loads(pickle.dumps(recipe))
    assert digest(copied.describe()) == digest(recipe.describe())


def test_params_from_a_file_and_by_other_names(tmp_path: Path) -> None:
    space = make_dataset(4).space
    (tmp_path / "p.json").write_text('{"eta": 0.2, "max_depth": 2, "num_boost_round": 7, "lambda": 3, "nthread": 1}')
    recipe = make_recipe({"estimator": "xgboost", "params": "p.json"}, space=space, classes=2, base=tmp_path)
    params = recipe.estimator.get_params()  # type: ignore[attr-defined]
    assert (params["learning_rate"], params["max_depth"], params["n_estimators"], params["reg_lambda"], params["n_jobs"]) == (0.2, 2, 7, 3, 1)
    light = make_recipe({"estimator": "lightgbm", "params": {"min_data_in_leaf": 3, "lambda_l2": 1.5, "max_bin": 63}}, space=space, classes=2)
    said = light.estimator.get_params()  # type: ignore[attr-defined]
    assert (said["min_child_samples"], said["reg_lambda"], said["max_bin"], said["deterministic"]) == (3, 1.5, 63, True)


def test_jobs_are_one_unless_said() -> None:
    space = make_dataset(4).space
    for name in ("xgboost", "lightgbm", "random_forest"):
        assert make_recipe(name, space=space, classes=2).estimator.n_jobs == 1  # type: ignore[attr-defined]
    assert make_recipe({"estimator": "random_forest", "params": {"n_jobs": 2}}, space=space, classes=2).estimator.n_jobs == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(("spec", "match"), [
    ({"estimator": "forest"}, "estimator 'forest' is not known; choose xgboost, lightgbm"),
    ({"estimator": "random_forest", "params": {"trees": 3}}, "has no parameter 'trees'; its parameters are bootstrap"),
    ({"estimator": "random_forest", "params": {"n_estimators": -3}}, "n_estimators"),
    ({"estimator": "random_forest", "params": {"criterion": "best"}}, "criterion"),
    ({"estimator": "random_forest", "params": 3}, "params is 3"),
    ({"estimator": "random_forest", "params": "absent.json"}, "params absent.json cannot be read"),
    ({"estimator": "xgboost", "params": {"eta": 0.1, "learning_rate": 0.2}}, "learning_rate twice"),
    ({"estimator": "xgboost", "params": {"early_stopping_rounds": 3}}, "needs a second data set to stop by"),
    ({"estimator": "xgboost", "depth": 3}, "recipe has no key 'depth'"),
    ({}, "recipe has the keys none"),
    ({"torch": 3}, "recipe torch is 3"),
    ({"torch": {"epoch": 3}}, "recipe torch has no key 'epoch'; its keys are factory"),
    ({"torch": {"epochs": 0}}, "epochs is 0"),
    ({"torch": {"epochs": 1.5}}, "epochs is 1.5"),
    ({"torch": {"rate": "fast"}}, "rate is 'fast'"),
    ({"torch": {"rate": float("nan")}}, "rate is nan"),
    ({"torch": {"options": 3}}, "options is 3"),
    ({"torch": {"options": {"depth": 3}}}, "failed with options"),
    ({"torch": {"factory": "carbide.models.nets:absent"}}, "cannot be imported"),
    ({"torch": {"factory": "no.such:thing"}}, "cannot be imported"),
    ({"torch": {"factory": "nocolon"}}, "no address of a function"),
    ({"torch": {"factory": "carbide.models.nets:small_cnn"}}, "fails on rows of shape"),
    ({"torch": {"factory": "carbide.models.nets:small_mlp", "options": {"inputs": 4, "classes": 5}}}, "for 3 rows and 2 classes"),
    (3, "the recipe is a int"),
    (RandomForestClassifier, "is the class RandomForestClassifier"),
])  # fmt: skip
def test_wrong_recipes_say_what_is_wrong(spec: Any, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        make_recipe(spec, space=make_dataset(4).space, classes=2)
    assert "\n" not in str(caught.value)


def test_what_a_library_refuses_at_the_fit_is_one_sentence(data: Dataset) -> None:
    for spec in ({"estimator": "xgboost", "params": {"max_depth": -3}}, {"estimator": "lightgbm", "params": {"num_leaves": -1}}):
        with pytest.raises(InputError, match="cannot be trained on data") as caught:
            make_recipe(spec, space=data.space, classes=2).fit(data, rng_for(0, "x"))
        assert "\n" not in str(caught.value)


def test_live_estimators_are_cloned_not_fitted(data: Dataset) -> None:
    estimator = RandomForestClassifier(3)
    model = make_recipe(estimator, space=data.space, classes=2).fit(data, rng_for(0, "x"))
    assert not hasattr(estimator, "estimators_")
    expected = clone(estimator).set_params(random_state=int(rng_for(0, "x").integers(2**31))).fit(data.x, data.y)
    assert np.array_equal(model.predict(data.x), expected.predict_proba(data.x))
    with pytest.raises(InputError, match="gives no probabilities"):
        make_recipe(LinearSVC(), space=data.space, classes=2)
    with pytest.raises(InputError, match="does not say how it is trained"):
        make_recipe(small_mlp(inputs=4, classes=2), space=data.space, classes=2)


@pytest.mark.parametrize("name", ["xgboost", "lightgbm", "random_forest", "logistic_regression"])
def test_classes_without_rows_keep_their_place(name: str) -> None:
    data = make_dataset(200, classes=3)
    rows = data.take(data.y != 1)
    model = make_recipe({"estimator": name}, space=data.space, classes=3).fit(rows, rng_for(0, "x"))
    found = model.predict(rows.x)
    assert np.array_equal(found[:, 1], np.zeros(len(rows)))
    assert (found.argmax(1) == rows.y).mean() > 0.9
    alone = data.take(data.y == 2)
    constant = make_recipe({"estimator": name}, space=data.space, classes=3).fit(alone, rng_for(0, "x"))
    assert np.array_equal(constant.predict(data.x), np.tile([0.0, 0.0, 1.0], (len(data), 1)))


@pytest.mark.parametrize("name", ["xgboost", "random_forest", "logistic_regression"])
def test_row_weights_count(name: str, data: Dataset) -> None:
    recipe = make_recipe({"estimator": name}, space=data.space, classes=2)
    weight = np.where(data.y == 1, 1.0, 1e-6)
    plain = recipe.fit(data, rng_for(0, "x")).predict(data.x)[:, 1]
    heavy = recipe.fit_estimator(data, rng_for(0, "x"), weight=weight).predict_proba(data.x)[:, 1]  # type: ignore[attr-defined]
    assert heavy.mean() > plain.mean()


def test_descriptions_tell_recipes_apart() -> None:
    space = make_dataset(4).space
    specs: list[Any] = ["random_forest", {"estimator": "random_forest", "params": {"max_depth": 3}}, "extra_trees", LogisticRegression(class_weight={0: 1, 1: 2}),
                        LogisticRegression(class_weight={0: 1, 1: 3}), {"torch": {}}, {"torch": {"epochs": 3}}, {"torch": {"options": {"width": 3}}},
                        {"torch": {"factory": lambda: small_mlp(inputs=4, classes=2)}}, {"torch": {"factory": lambda: small_mlp(inputs=4, classes=2, width=3)}}]  # fmt: skip
    said = [digest(make_recipe(spec, space=space, classes=2).describe()) for spec in specs]
    assert len(set(said)) == len(said)


def test_default_nets_fit_the_space() -> None:
    image = make_recipe({"torch": {"epochs": 1}}, space=Space.image((3, 9, 7)), classes=4)
    assert image.describe()["factory"] == "carbide.models.nets:small_cnn"
    table = make_recipe({"torch": {"epochs": 1, "options": {"width": 8}}}, space=make_dataset(4).space, classes=2)
    assert table.describe()["options"] == {"inputs": 4, "classes": 2, "width": 8}
