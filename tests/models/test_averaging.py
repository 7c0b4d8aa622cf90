"""Averaged models: the same numbers as the mean of the models, from the library, the intermediate form and a stored file."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from xgboost import XGBClassifier

from carbide.models.estimators import EstimatorModel
from carbide.models.packing import pack, unpack
from carbide.models.trees import ensemble_of
from carbide.models.trees.averaging import averaged, can_average
from carbide.types import InputError, Space

MAKERS: dict[str, Any] = {
    "xgboost": lambda s: XGBClassifier(n_estimators=8, max_depth=4, n_jobs=1, random_state=s),
    "xgboost forests": lambda s: XGBClassifier(n_estimators=3, num_parallel_tree=2, subsample=0.5, max_depth=3, n_jobs=1, random_state=s),
    "lightgbm": lambda s: LGBMClassifier(n_estimators=8, min_child_samples=5, n_jobs=1, verbose=-1, random_state=s),
    "random forest": lambda s: RandomForestClassifier(6, max_depth=5, random_state=s),
    "extra trees": lambda s: ExtraTreesClassifier(6, max_depth=5, random_state=s),
}


def data(classes: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(n, 4))
    y = np.digitize(x[:, 0] + x[:, 1] + 0.3 * rng.normal(size=n), [0.0] if classes == 2 else [-0.7, 0.7])
    return np.where(rng.random(x.shape) < 0.05, np.nan, x), y


def fitted(name: str, classes: int, models: int = 3) -> list[Any]:
    x, y = data(classes)
    rng = np.random.default_rng(7)
    return [MAKERS[name](s).fit(x[rows], y[rows]) for s in range(models) for rows in [rng.integers(len(x), size=250)]]


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", MAKERS)
def test_the_average_answers_the_mean_of_the_models(name, classes):
    models, (x, _) = fitted(name, classes), data(classes, 900)
    before = [m.predict_proba(x) for m in models]
    both = averaged(models)
    if "gb" in name or "boost" in name:  # margins: the geometric mean of the probabilities, brought to sum one
        z = np.mean(np.log(np.asarray(before, np.float64)), 0)
        mean = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    else:
        mean = np.mean(before, 0)
    np.testing.assert_allclose(both.predict_proba(x), mean, atol=1e-6)
    np.testing.assert_array_equal(both.predict(x), both.classes_[both.predict_proba(x).argmax(1)])
    np.testing.assert_array_equal(ensemble_of(both).predict(x), both.predict_proba(x))
    assert ensemble_of(both).trees == sum(ensemble_of(m).trees for m in models)
    for model, answer in zip(models, before, strict=True):  # the models themselves are left as they were
        np.testing.assert_array_equal(model.predict_proba(x), answer)


@pytest.mark.parametrize("name", MAKERS)
def test_a_stored_average_answers_the_same_bytes(name):
    x, _ = data(2)
    model = EstimatorModel(estimator=averaged(fitted(name, 2)), space=Space.table(list("abcd")), classes=2)
    again = unpack(pack(model))
    assert again.predict(x).tobytes() == model.predict(x).tobytes()
    assert again.digest() == model.digest()


@pytest.mark.parametrize("shift", [-2.5, 0.7])
@pytest.mark.parametrize("name", ["xgboost", "xgboost forests", "lightgbm"])
def test_a_shift_moves_the_margin_of_class_one(name, shift):
    models, (x, _) = fitted(name, 2), data(2)
    plain, moved = (ensemble_of(averaged(models, shift=s)).margins(x)[:, 0] for s in (0.0, shift))
    np.testing.assert_allclose(moved - plain, shift, atol=2e-6)
    forest = fitted("random forest", 2)
    with pytest.raises(InputError, match="RandomForestClassifier with 2 classes cannot be shifted"):
        averaged(forest, shift=shift)
    with pytest.raises(InputError, match="with 3 classes cannot be shifted"):
        averaged(fitted(name, 3), shift=shift)


def test_one_model_is_its_own_average():
    for name in MAKERS:
        (model,), (x, _) = fitted(name, 2, 1), data(2)
        np.testing.assert_allclose(averaged([model]).predict_proba(x), model.predict_proba(x), atol=1e-7)


def test_early_stopping_counts_only_the_best_rounds():
    x, y = data(2, 300)
    rng = np.random.default_rng(0)
    models = []
    for seed in range(3):
        rows = rng.permutation(len(x))
        watched = XGBClassifier(n_estimators=60, max_depth=5, early_stopping_rounds=3, n_jobs=1, random_state=seed)
        models.append(watched.fit(x[rows[:200]], y[rows[:200]], eval_set=[(x[rows[200:]], y[rows[200:]])], verbose=False))
    assert any(m.best_iteration + 1 < m.get_booster().num_boosted_rounds() for m in models)
    z = np.mean([np.log(m.predict_proba(x).astype(float)) for m in models], 0)
    np.testing.assert_allclose(averaged(models).predict_proba(x), np.exp(z) / np.exp(z).sum(1, keepdims=True), atol=1e-6)


def test_what_cannot_be_averaged_is_refused():
    x, y = np.nan_to_num(data(2)[0]), data(2)[1]
    histogram = HistGradientBoostingClassifier(max_iter=3).fit(x, y)
    assert not can_average(histogram)
    assert not can_average(XGBClassifier(booster="dart"))
    with pytest.raises(InputError, match="HistGradientBoostingClassifier cannot be averaged"):
        averaged([histogram, histogram])
    with pytest.raises(InputError, match="no models"):
        averaged([])
    with pytest.raises(InputError, match="differ in kind"):
        averaged([fitted("xgboost", 2)[0], fitted("lightgbm", 2)[0]])
    with pytest.raises(InputError, match="differ in kind or classes"):
        averaged([fitted("xgboost", 2)[0], fitted("xgboost", 3)[0]])
    with pytest.raises(InputError, match=r"have \[3, 6\] trees"):
        averaged([fitted("random forest", 2)[0], RandomForestClassifier(3).fit(x, y)])
