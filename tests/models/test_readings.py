"""Scikit-learn's linear models and perceptrons as torch nets: the same answers, true gradients, and nothing that is only nearly the model."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Perceptron, RidgeClassifier, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import FunctionTransformer, MaxAbsScaler, MinMaxScaler, PowerTransformer, RobustScaler, StandardScaler
from sklearn.svm import LinearSVC

import carbide
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models import _sklearn_layers as layers
from carbide.models import load_saved, pack, save_model, unpack, wrap
from carbide.types import BLACK_BOX, WHITE_BOX, Access, Dataset, InputError, LpBall, Space, decide, rng_for
from tests.models.cases import fitted, make_dataset

SCORES: dict[str, Any] = {
    "logistic": lambda: LogisticRegression(),
    "no intercept": lambda: LogisticRegression(fit_intercept=False, C=100.0),
    "sgd": lambda: SGDClassifier(loss="log_loss", random_state=0),
    "lda": lambda: LinearDiscriminantAnalysis(),
    "relu": lambda: MLPClassifier((7, 5), max_iter=30, random_state=0),
    "tanh": lambda: MLPClassifier((5,), activation="tanh", max_iter=30, random_state=0),
    "logistic mlp": lambda: MLPClassifier((5,), activation="logistic", max_iter=30, random_state=0),
    "identity mlp": lambda: MLPClassifier((3,), activation="identity", max_iter=30, random_state=0),
    "standard": lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    "no mean": lambda: make_pipeline(StandardScaler(with_mean=False), LogisticRegression()),
    "min max": lambda: make_pipeline(MinMaxScaler((-1, 2), clip=True), LogisticRegression()),
    "robust": lambda: make_pipeline(RobustScaler(), MLPClassifier((4,), max_iter=20, random_state=0)),
    "max abs": lambda: make_pipeline(MaxAbsScaler(), LogisticRegression()),
    "pca": lambda: make_pipeline(StandardScaler(), PCA(3, whiten=True), LogisticRegression()),
    "svd": lambda: make_pipeline(TruncatedSVD(2, random_state=0), LogisticRegression()),
    "selected": lambda: make_pipeline(SimpleImputer(), VarianceThreshold(), SelectKBest(k=2), "passthrough", FunctionTransformer(), LogisticRegression()),
    "columns": lambda: make_pipeline(ColumnTransformer([("a", StandardScaler(), [2, 0]), ("b", MinMaxScaler(), slice(1, 2))], remainder="passthrough"),
                                     LogisticRegression()),
    "union": lambda: make_pipeline(FeatureUnion([("a", PCA(2)), ("b", make_pipeline(StandardScaler(), MaxAbsScaler()))]), LogisticRegression()),
    "search": lambda: GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {"logisticregression__C": [0.1, 1.0]}, cv=2),
}  # fmt: skip
LABELS: dict[str, Any] = {
    "svc": lambda: make_pipeline(StandardScaler(), LinearSVC(random_state=0)),
    "hinge": lambda: SGDClassifier(random_state=0),
    "ridge": lambda: RidgeClassifier(),
    "perceptron": lambda: Perceptron(random_state=0),
}


def trained(make: Any, data: Dataset) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make().fit(data.x, data.y)


def wild(rng: np.random.Generator, n: int = 400) -> np.ndarray:
    """Rows near, far and very far."""
    return rng.standard_normal((n, 4)) * 10.0 ** rng.uniform(-3, 2, size=(n, 1)) + 0.5


def open_space() -> Space:
    return Space.table(["a", "b", "c", "d"])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", SCORES)
def test_logits_say_what_the_estimator_says(name: str, classes: int) -> None:
    data = make_dataset(classes=classes)
    model: Any = wrap(trained(SCORES[name], data), space=open_space(), classes=classes)
    assert model.access == WHITE_BOX, model.notes
    assert model.notes == ()
    assert model.module(model.tensor(data.x)).dtype == torch.float64
    for x in (data.x, wild(rng_for(0, name)), np.zeros((1, 4)), np.eye(4) * 1e3):
        own = model.estimator.predict_proba(x)
        logits = model.logits(model.tensor(x))
        assert np.abs(logits.softmax(1).numpy() - own).max() < 1e-9
        ordered = np.sort(own, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > 1e-9
        assert (logits.argmax(1).numpy() == own.argmax(1))[clear].all()
        assert np.array_equal(model.predict(x), own)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LABELS)
def test_decisions_without_probabilities(name: str, classes: int) -> None:
    data = make_dataset(classes=classes)
    model: Any = wrap(trained(LABELS[name], data), space=data.space, classes=classes)
    assert model.access == Access.LABELS | Access.GRADIENTS | Access.WEIGHTS
    x = wild(rng_for(0, name))
    assert np.array_equal(model.predict(x).argmax(1), model.estimator.predict(x))
    assert np.array_equal(model.logits(model.tensor(x)).argmax(1).numpy(), model.estimator.predict(x))
    again = unpack(pack(model))
    assert (again.digest(), again.access) == (model.digest(), model.access)
    with pytest.raises(InputError, match="answers labels only"):
        model.at(0.3)


@pytest.mark.parametrize("name", ["logistic", "sgd", "tanh", "columns", "min max"])
def test_gradients_are_those_of_the_estimator(name: str) -> None:
    data = make_dataset(classes=3)
    model: Any = wrap(trained(SCORES[name], data), space=data.space, classes=3)
    inner = 0.25 + data.x[:20] / 2  # away from where a scaler that clips has its kinks
    x = model.tensor(inner).requires_grad_(True)
    (slope,) = torch.autograd.grad(model.logits(x).log_softmax(1)[:, 1].sum(), x)
    for j in range(4):
        step = np.eye(4)[j] * 1e-5
        up, down = (np.log(model.estimator.predict_proba(inner + sign * step)[:, 1]) for sign in (1, -1))
        assert np.allclose(slope[:, j].numpy(), (up - down) / 2e-5, rtol=1e-4, atol=1e-5)


def test_where_every_class_is_impossible_there_is_no_reading() -> None:
    """Scores below about -710 all round to probability 0, and then scikit-learn answers all classes alike, which no softmax does."""
    data = make_dataset(classes=3)
    estimator = trained(SCORES["sgd"], data)
    estimator.coef_ *= 100
    assert (np.ptp(estimator.predict_proba(wild(rng_for(0, "far"), 4000)), axis=1) == 0).any()
    model: Any = wrap(estimator, space=open_space(), classes=3)
    assert model.access == BLACK_BOX
    assert "differs from its own answers" in model.notes[0]
    estimator.coef_ /= 100
    assert wrap(estimator, space=data.space, classes=3).access == WHITE_BOX


def test_names_of_classes_in_another_order(three: Dataset) -> None:
    words = np.array(["low", "mid", "high"])
    estimator = trained(SCORES["relu"], three.with_(y=words[three.y]))
    model: Any = wrap(estimator, space=three.space, classes=3, labels=words.tolist())
    assert model.access == WHITE_BOX
    assert np.abs(model.logits(model.tensor(three.x)).softmax(1).numpy() - model.predict(three.x)).max() < 1e-9
    lacking = wrap(trained(SCORES["logistic"], make_dataset()), space=three.space, classes=3)
    assert lacking.access == BLACK_BOX
    assert "2 of the 3 classes" in lacking.notes[0]


def test_images_are_flattened() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((60, 1, 3, 3))
    y = (x.mean((1, 2, 3)) > 0.5).astype(int)
    model: Any = wrap(LogisticRegression().fit(x.reshape(60, -1), y), space=Space.image((1, 3, 3)), classes=2)
    assert np.abs(model.logits(model.tensor(x)).softmax(1).numpy() - model.predict(x)).max() < 1e-9


@pytest.mark.parametrize("name", ["standard", "svc"])
def test_attack_and_certificate_meet_at_the_distance_of_a_linear_model(name: str, data: Dataset) -> None:
    """Linf distance to a plane: ``|w x + b| / |w|_1``; the attack needs it, the certificate reaches it."""
    estimator = trained({**SCORES, **LABELS}[name], data)
    model: Any = wrap(estimator, space=open_space(), classes=2)
    w = estimator[-1].coef_[0] / estimator[0].scale_
    distance = np.abs(estimator.decision_function(data.x)) / np.abs(w).sum()
    y = decide(model.predict(data.x))
    eps = float(np.median(distance))
    moved = APGD()(model, data.x, y, LpBall(eps=eps), rng_for(0, "a"))
    assert np.abs(moved - data.x).max() <= eps + 1e-9
    assert np.array_equal(decide(model.predict(moved)) != y, distance < eps * (1 - 1e-6))
    proof = IntervalBounds(halvings=20)(model, data.x, y, LpBall(eps=eps), rng_for(0, "b"))
    assert np.array_equal(proof.holds, distance > eps * (1 + 1e-6))
    near = distance < 4 * eps
    assert np.allclose(proof.bound[near], distance[near], rtol=1e-4)
    assert any("random rows" in words for words in proof.assumptions)


def test_a_report_of_a_linear_model_and_of_one_that_is_not_read(data: Dataset) -> None:
    report = carbide.prove(fitted("pipeline"), (data.x[:30], data.y[:30]), threats=[LpBall(eps=0.05)], quiet=True)
    (bracket,) = report.results.plain.brackets
    assert bracket.certified == bracket.attacked
    assert not any("gradients were not used" in line for line in report.results.not_tested)
    other = carbide.audit(fitted("naive_bayes"), (data.x[:30], data.y[:30]), threats=[LpBall(eps=0.05)], quiet=True)
    said = [line for line in other.results.not_tested if "gradients were not used" in line]
    assert said == ["evasion: gradients were not used: GaussianNB is not among the classifiers that Carbide reads as nets"]
    silent = carbide.audit(fitted("naive_bayes"), (data.x, data.y), threats=[{"extraction": {"queries": 20}}], quiet=True)
    assert not any("gradients" in line for line in silent.results.not_tested)


def transposed(final: Any) -> tuple:
    good = layers._logistic(final)[0]
    return (layers.Dense(weight=good.weight[:, ::-1].copy(), bias=good.bias),)


def moved_a_little(final: Any) -> tuple:
    good = layers._logistic(final)[0]
    return (layers.Dense(weight=good.weight, bias=good.bias + np.array([0.0, 1e-7])),)


@pytest.mark.parametrize("plant", [transposed, moved_a_little])
def test_a_wrong_reading_is_caught(plant: Any, data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers.FINALS, "LogisticRegression", plant)
    model: Any = wrap(trained(SCORES["standard"], data), space=data.space, classes=2)
    assert model.access == BLACK_BOX
    assert model.module is None
    assert model.assumptions == ()
    assert "differs from its own answers" in model.notes[0]
    with pytest.raises(InputError, match="has no gradients"):
        model.tensor(data.x)


def test_wrong_decisions_are_caught_without_probabilities(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layers.FINALS, "LinearSVC", transposed)
    model: Any = wrap(trained(LABELS["svc"], data), space=data.space, classes=2)
    assert model.access == Access.LABELS
    assert "otherwise than the model" in model.notes[0]


def test_an_estimator_that_answers_by_itself_is_not_taken_for_its_class(data: Dataset) -> None:
    class Sharper(LogisticRegression):
        def predict_proba(self, x: Any) -> Any:
            p = super().predict_proba(x) ** 2
            return p / p.sum(1, keepdims=True)

    assert wrap(Sharper().fit(data.x, data.y), space=data.space, classes=2).access == BLACK_BOX
    patched: Any = trained(SCORES["logistic"], data)
    honest = patched.predict_proba
    patched.predict_proba = lambda x: 0.9 * honest(x) + 0.05
    model: Any = wrap(patched, space=data.space, classes=2)
    assert model.access == BLACK_BOX
    assert "differs" in model.notes[0]


def test_a_model_that_fails_far_out_is_a_black_box(data: Dataset) -> None:
    failing: Any = trained(SCORES["logistic"], data)
    honest = failing.predict_proba

    def near(x: Any) -> Any:
        if np.abs(x).max() > 50:
            raise RuntimeError("too far")
        return honest(x)

    failing.predict_proba = near
    model: Any = wrap(failing, space=open_space(), classes=2)
    assert model.access == BLACK_BOX
    assert "RuntimeError: too far" in model.notes[0]
    assert wrap(failing, space=data.space, classes=2).access == WHITE_BOX


@pytest.mark.parametrize(("make", "match"), [
    (lambda: make_pipeline(PowerTransformer(), LogisticRegression()), "PowerTransformer"),
    (lambda: make_pipeline(FunctionTransformer(np.sin), LogisticRegression()), "calls a function"),
    (lambda: make_pipeline(SimpleImputer(missing_values=-1), LogisticRegression()), "imputer"),
    (lambda: SGDClassifier(loss="modified_huber", random_state=0), "modified_huber"),
    (lambda: make_pipeline(FeatureUnion([("a", PCA(2))], transformer_weights={"a": 2.0}), LogisticRegression()), "FeatureUnion"),
])  # fmt: skip
def test_what_is_not_known_stays_a_black_box(make: Any, match: str, data: Dataset) -> None:
    model: Any = wrap(trained(make, data), space=data.space, classes=2)
    assert model.access == BLACK_BOX
    assert match in model.notes[0]


def test_without_torch_it_is_a_black_box(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    model: Any = wrap(fitted("logistic_regression"), space=data.space, classes=2)
    assert model.access == BLACK_BOX
    assert "torch is not installed" in model.notes[0]


def test_stored_models_are_read_again(tmp_path: Any, data: Dataset) -> None:
    model: Any = wrap(fitted("mlp"), space=data.space, classes=2)
    assert model.access == WHITE_BOX
    moved = model.at(0.3)
    assert moved.reading is model.reading
    save_model(moved, tmp_path)
    for again in (unpack(pack(moved)), load_saved(tmp_path)):
        assert again.access == WHITE_BOX
        assert again.digest() == moved.digest()
        assert torch.equal(again.logits(again.tensor(data.x)), model.logits(model.tensor(data.x)))


def test_features_far_from_zero_are_tried_where_they_lie() -> None:
    """Without bounds in the space, the scaler says where the rows are."""
    rng = np.random.default_rng(0)
    x = rng.normal([1e6, -3e4, 0.0, 1e-3], [10.0, 1e3, 1.0, 1e-4], size=(200, 4))
    y = (x[:, 0] > 1e6).astype(int)
    model: Any = wrap(make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y), space=open_space(), classes=2)
    assert model.access == WHITE_BOX, model.notes
    assert np.abs(model.logits(model.tensor(x)).softmax(1).numpy() - model.predict(x)).max() < 1e-9
