"""Every library's trees in the intermediate form: the same leaves and the same probabilities, at random points and on every edge."""

from __future__ import annotations

import subprocess
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import (
    AdaBoostClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier
from xgboost import XGBClassifier

from carbide.models.trees import Ensemble, ensemble_of, is_tree_ensemble
from carbide.models.trees._build import last_single_left
from carbide.types import Array, InputError

LGB = {"n_estimators": 10, "verbose": -1, "min_child_samples": 5, "n_jobs": 1}
MAKERS: dict[str, Any] = {
    "decision tree": lambda: DecisionTreeClassifier(max_depth=5, random_state=0),
    "extra tree": lambda: ExtraTreeClassifier(max_depth=5, random_state=0),
    "random forest": lambda: RandomForestClassifier(10, random_state=0),
    "extra trees": lambda: ExtraTreesClassifier(10, random_state=0),
    "gradient boosting": lambda: GradientBoostingClassifier(n_estimators=10, random_state=0),
    "gradient boosting from zero": lambda: GradientBoostingClassifier(n_estimators=5, init="zero", random_state=0),
    "exponential boosting": lambda: GradientBoostingClassifier(n_estimators=10, loss="exponential", random_state=0),
    "histogram boosting": lambda: HistGradientBoostingClassifier(max_iter=10, min_samples_leaf=5, random_state=0),
    "xgboost": lambda: XGBClassifier(n_estimators=15, max_depth=4, n_jobs=1),
    "xgboost dart": lambda: XGBClassifier(n_estimators=15, max_depth=3, booster="dart", rate_drop=0.3, n_jobs=1),
    "xgboost forests": lambda: XGBClassifier(n_estimators=4, num_parallel_tree=3, subsample=0.5, max_depth=4, n_jobs=1),
    "xgboost deep": lambda: XGBClassifier(n_estimators=5, max_depth=9, min_child_weight=0, n_jobs=1),
    "lightgbm": lambda: LGBMClassifier(**LGB),
    "lightgbm zero as missing": lambda: LGBMClassifier(**LGB, zero_as_missing=True),
    "lightgbm no missing": lambda: LGBMClassifier(**LGB, use_missing=False),
    "lightgbm forest": lambda: LGBMClassifier(**LGB, boosting_type="rf", bagging_fraction=0.5, bagging_freq=1),
    "lightgbm slope": lambda: LGBMClassifier(**LGB, sigmoid=2.0),
}
NO_MISSING = ("gradient boosting", "gradient boosting from zero", "exponential boosting")
TWO_ONLY = ("exponential boosting", "lightgbm slope")


def fitted(name: str, classes: int, *, missing: bool) -> tuple[Any, Array]:
    rng = np.random.default_rng([len(name), classes, missing])
    x = np.round(rng.normal(size=(300, 4)), 1)  # rounded, so that zeros and ties occur
    y = np.digitize(x[:, 0] + x[:, 1] * x[:, 2], [0.0] if classes == 2 else [-0.4, 0.4])
    if missing:
        x[rng.random(x.shape) < 0.15] = np.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MAKERS[name]().fit(x, y), x


def edges(trees: Ensemble, x: Array, rng: np.random.Generator, *, missing: bool, most: int = 250) -> Array:
    """Random rows, and rows with one value on a threshold or on its neighbours in double and single precision, or by zero."""
    inner = np.flatnonzero((trees.feature >= 0) & np.isfinite(trees.threshold))
    rows = [rng.normal(size=(300, x.shape[1])) * 2]
    for node in rng.permutation(inner)[:most]:
        t, single = trees.threshold[node], np.float32(trees.threshold[node])
        beside = [t, np.nextafter(t, np.inf), np.nextafter(t, -np.inf), single, np.nextafter(single, np.float32(np.inf)),
                  np.nextafter(single, np.float32(-np.inf)), 0.0, -0.0, 1e-35, -1e-35, float(np.float32(1e-35)), 1e-36, 2e-35]  # fmt: skip
        made = x[rng.integers(len(x), size=len(beside))].copy()
        made[:, trees.feature[node]] = np.array(beside, float)
        rows.append(made)
    out = np.concatenate(rows)
    if missing:
        out[rng.random(out.shape) < 0.1] = np.nan
    return out


def library_leaves(estimator: Any, x: Array) -> Array | None:
    """The library's own leaf indices ``(n, trees)``; None where it has no way to say them."""
    if hasattr(estimator, "booster_"):
        return np.asarray(estimator.booster_.predict(x, pred_leaf=True)).reshape(len(x), -1)
    if isinstance(estimator, GradientBoostingClassifier) or hasattr(estimator, "apply"):
        return np.asarray(estimator.apply(x)).reshape(len(x), -1)
    return None


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_agrees_with_the_library_everywhere(name, classes, missing):
    if (missing and name in NO_MISSING) or (classes == 3 and name in TWO_ONLY):
        pytest.skip("the library does not support this")
    estimator, x = fitted(name, classes, missing=missing)
    assert is_tree_ensemble(estimator)
    trees = ensemble_of(estimator)
    points = edges(trees, x, np.random.default_rng(1), missing=missing)
    leaves = library_leaves(estimator, points)
    if leaves is not None:
        assert np.array_equal(trees.leaves(points), leaves)
    given, mine = estimator.predict_proba(points), trees.predict(points)
    exact = name != "xgboost dart" and (classes == 2 or trees.library == "sklearn")
    assert np.abs(given - mine).max() <= (0.0 if exact else 3e-7 if trees.single else 4e-16)
    assert np.array_equal(estimator.classes_, trees.classes)


@pytest.mark.parametrize("name", ["xgboost", "xgboost forests"])
def test_xgboost_margins_are_summed_in_single_precision(name):
    estimator, x = fitted(name, 2, missing=True)
    assert np.array_equal(estimator.predict(x, output_margin=True), ensemble_of(estimator).margins(x)[:, 0].astype(np.float32))


@pytest.mark.parametrize("strict", [True, False])
def test_single_precision_thresholds_are_translated_to_the_last_double(strict):
    rng = np.random.default_rng(0)
    t = np.concatenate([rng.normal(size=2000) * 10.0 ** rng.integers(-40, 38, 2000), [0.0, -0.0, 1.0, -1.0, 2.0**-149, 3.4028234663852886e38, 1e-45]])
    if strict:
        t = t.astype(np.float32).astype(float)
    last = last_single_left(t, strict=strict)
    with np.errstate(over="ignore"):
        here, after = last.astype(np.float32), np.nextafter(last, np.inf).astype(np.float32)
    goes = np.less if strict else np.less_equal
    assert goes(here.astype(float), t).all()
    assert not goes(after.astype(float), t).any()


def test_lightgbm_categories_are_chains_of_tests():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 40, 600), rng.normal(size=600)]).astype(float)
    y = (np.isin(x[:, 0], (3, 4, 5, 11, 33)) ^ (x[:, 1] > 0.5)).astype(int)
    model = LGBMClassifier(n_estimators=10, verbose=-1, min_child_samples=5, min_data_per_group=5, cat_smooth=1.0, n_jobs=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x, y, categorical_feature=[0])
    trees = ensemble_of(model)
    points = np.array([[c, v] for c in [*np.arange(-2, 45, 0.25), np.nan, 1e9, -1e9] for v in (-1.0, 0.4, 0.6)])
    assert "cat_threshold" in model.booster_.model_to_string()
    assert np.array_equal(trees.leaves(points), model.booster_.predict(points, pred_leaf=True))
    assert np.array_equal(trees.predict(points), model.predict_proba(points))


def test_xgboost_categories_are_chains_of_tests():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.integers(0, 12, 600), rng.normal(size=600)]).astype(float)
    y = (np.isin(x[:, 0], (3, 4, 5, 11)) ^ (x[:, 1] > 0.5)).astype(int)
    model = XGBClassifier(n_estimators=8, max_depth=3, enable_categorical=True, feature_types=["c", "q"], max_cat_to_onehot=2, n_jobs=1)
    model.fit(x, y)
    points = np.array([[c, v] for c in [*range(12), np.nan] for v in (-1.0, 0.4, 0.6, np.nan)], float)
    trees = ensemble_of(model)
    assert np.array_equal(trees.leaves(points), model.apply(points))
    assert np.array_equal(trees.predict(points), model.predict_proba(points))


@pytest.mark.parametrize("learned_right", [False, True])
def test_xgboost_learns_where_missing_categories_go(learned_right):
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.integers(0, 12, 900), rng.normal(size=900)]).astype(float)
    y = (np.isin(x[:, 0], (3, 4, 5, 11)) ^ (x[:, 1] > 0.5)).astype(int)
    lost = np.flatnonzero((np.isin(x[:, 0], (3, 4, 5, 11)) == learned_right) & (rng.random(900) < 0.4))
    x[lost, 0] = np.nan
    model = XGBClassifier(n_estimators=8, max_depth=3, enable_categorical=True, feature_types=["c", "q"], max_cat_to_onehot=2, n_jobs=1).fit(x, y)
    points = np.array([[c, v] for c in [*range(12), np.nan] for v in (-1.0, 0.4, 0.6, np.nan)], float)
    trees = ensemble_of(model)
    assert np.array_equal(trees.leaves(points), model.apply(points))
    assert np.array_equal(trees.predict(points), model.predict_proba(points))


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("classes", [2, 3])
def test_histogram_boosting_reads_categories(classes, missing):
    """Columns with categories come first in its trees; unknown ones, and values between, go where missing ones go."""
    rng = np.random.default_rng(2)
    x = np.column_stack([rng.normal(size=900), rng.integers(-3, 40, 900), rng.normal(size=900), rng.choice([0.5, 2.0, 7.25], 900)])
    y = (np.isin(x[:, 1], (-3, 0, 3, 4, 5, 11, 33)) ^ (x[:, 2] > 0.5)) + (x[:, 3] == 2.0) * (classes - 2)
    if missing:
        x[rng.random(900) < 0.1, 1], x[rng.random(900) < 0.1, 3] = np.nan, np.nan
    model = HistGradientBoostingClassifier(max_iter=12, min_samples_leaf=5, categorical_features=[1, 3]).fit(x, y.astype(int))
    assert any(p.nodes["is_categorical"].any() for stage in model._predictors for p in stage)
    trees = ensemble_of(model)
    some = [*np.arange(-6, 44, 0.5), -0.0, np.nextafter(4, 5), np.nextafter(4, 3), 1e9, -1e9, np.nan]
    grid = np.array([[a, b, c, d] for a in (-1.0, 0.3) for b in some for c in (0.4, 0.6) for d in (0.5, 1.0, 2.0, 7.25, np.nan)])
    points = np.concatenate([x, grid])
    assert np.array_equal(trees.predict(points), model.predict_proba(points))


def test_early_stopping_keeps_the_trees_that_predict_uses():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    y = (x[:, 0] + rng.normal(size=400) > 0).astype(int)
    stopped = XGBClassifier(n_estimators=80, early_stopping_rounds=3, learning_rate=0.8, n_jobs=1)
    stopped.fit(x[:200], y[:200], eval_set=[(x[200:], y[200:])], verbose=False)
    assert stopped.best_iteration < 79
    assert ensemble_of(stopped).trees == stopped.best_iteration + 1
    assert np.array_equal(ensemble_of(stopped).predict(x), stopped.predict_proba(x))


def test_boosters_are_read_as_their_classifiers():
    for name in ("xgboost", "lightgbm"):
        estimator, x = fitted(name, 2, missing=False)
        booster = estimator.get_booster() if name == "xgboost" else estimator.booster_
        assert is_tree_ensemble(booster)
        assert np.array_equal(ensemble_of(booster).predict(x), ensemble_of(estimator).predict(x))


class Halved(RandomForestClassifier):
    """A forest that answers otherwise than its trees."""

    def predict_proba(self, X):
        return np.full((len(X), 2), 0.5)


def test_what_is_no_readable_ensemble_is_refused():
    x, y = np.random.default_rng(0).normal(size=(80, 2)), np.arange(80) % 2
    others = [
        LogisticRegression().fit(x, y),
        Halved(2).fit(x, y),
        AdaBoostClassifier(n_estimators=2).fit(x, y),
        XGBClassifier(booster="gblinear"),
        None,
    ]
    for other in others:
        assert not is_tree_ensemble(other)
    for other in (others[0], others[1], others[4]):
        with pytest.raises(InputError, match="no tree ensemble that Carbide can read"):
            ensemble_of(other)
    for unfitted in (RandomForestClassifier(), XGBClassifier(), LGBMClassifier(), HistGradientBoostingClassifier()):
        with pytest.raises(InputError, match="not fitted"):
            ensemble_of(unfitted)
    refused = {
        "linear leaves": LGBMClassifier(**LGB, linear_tree=True).fit(x, y),
        "missing is -1": XGBClassifier(n_estimators=2, missing=-1.0).fit(x, y),
        "gblinear": XGBClassifier(n_estimators=2, booster="gblinear").fit(x, y),
        "init is LogisticRegression": GradientBoostingClassifier(n_estimators=2, init=LogisticRegression()).fit(x, y),
        "outputs": RandomForestClassifier(2).fit(x, np.column_stack([y, y])),
    }
    for words, estimator in refused.items():
        with pytest.raises(InputError, match=words):
            ensemble_of(estimator)


def test_asking_imports_no_library():
    code = ("import sys; from carbide.models.trees import is_tree_ensemble; is_tree_ensemble(object()); "
            "sys.exit(any(m in sys.modules for m in ('sklearn', 'xgboost', 'lightgbm')))")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_wrong_width_is_refused_and_digests_tell_trees_apart():
    estimator, x = fitted("random forest", 2, missing=False)
    trees = ensemble_of(estimator)
    with pytest.raises(InputError, match="rows have 2 values"):
        trees.predict(x[:, :2])
    assert trees.predict(x[:0]).shape == (0, 2)
    assert trees.digest() == ensemble_of(estimator).digest()
    assert trees.digest() != ensemble_of(fitted("extra trees", 2, missing=False)[0]).digest()


def test_children_come_after_their_parents():
    for name in ("lightgbm zero as missing", "histogram boosting", "decision tree"):
        trees = ensemble_of(fitted(name, 2, missing=name != "decision tree")[0])
        inner = trees.feature >= 0
        assert (trees.children[inner] > np.flatnonzero(inner)[:, None]).all()
        assert (trees.children[~inner] == -1).all()
        assert (np.diff(trees.roots) > 0).all()
