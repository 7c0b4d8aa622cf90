"""The check of a model against its data, and functions as models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from carbide.models import check_model, wrap
from carbide.models._answers import detect, to_probabilities
from carbide.types import BLACK_BOX, Access, Dataset, InputError, Space
from tests.models.cases import fitted, make_dataset


def model_of(function: Any, data: Dataset, **options: Any) -> Any:
    return wrap(function, space=data.space, classes=data.classes, **options)


def test_good_models_pass_without_a_word(data: Dataset, three: Dataset) -> None:
    for name in ("random_forest", "xgboost", "lightgbm", "logistic_regression"):
        assert check_model(wrap(fitted(name), space=data.space, classes=2), data) == []
        assert check_model(wrap(fitted(name, 3), space=three.space, classes=3), three) == []


def test_shapes_and_classes_must_agree(data: Dataset, three: Dataset) -> None:
    model = wrap(fitted("random_forest"), space=data.space, classes=2)
    with pytest.raises(InputError, match="the model has 2 classes, but data has 3"):
        check_model(model, three)
    narrow = Dataset(x=data.x[:, :2], y=data.y, ids=data.ids, source=data.source, space=Space.table(["a", "b"]), classes=2)
    with pytest.raises(InputError, match=r"inputs of shape \(4,\), but a row of data has shape \(2,\)"):
        check_model(model, narrow)
    from dataclasses import replace

    with pytest.raises(InputError, match="feature 0 is 'a', the data's is 'b'"):
        check_model(model, replace(data, space=Space.table(["b", "a", "c", "d"])))
    with pytest.raises(InputError, match="has no rows"):
        check_model(model, data.take(np.arange(0)))


def test_wrong_answers_are_refused(data: Dataset) -> None:
    def sometimes(x: np.ndarray) -> np.ndarray:
        out = np.tile([0.5, 0.5], (len(x), 1))
        out[x[:, 0] > 0.9] = np.nan
        return out

    with pytest.raises(InputError, match="NaN or infinity"):
        check_model(model_of(sometimes, data, answers="probabilities"), data)
    with pytest.raises(InputError, match="returns logits where probabilities are declared"):
        model_of(lambda x: np.stack([x[:, 0], -x[:, 0]], 1), data, answers="probabilities").predict(data.x)
    with pytest.raises(InputError, match=r"shape \(120, 3\) for 120 rows, not \(120, 2\)"):
        model_of(lambda x: np.full((len(x), 3), 1 / 3), data, answers="probabilities").predict(data.x)
    with pytest.raises(InputError, match="answers the label 7"):
        model_of(lambda x: np.full(len(x), 7), data, answers="labels").predict(data.x)
    with pytest.raises(InputError, match="no array"):
        model_of(lambda x: [[1], [1, 2]], data, answers="probabilities").predict(data.x)
    with pytest.raises(InputError, match=r"failed on rows.*ZeroDivisionError"):
        model_of(lambda x: 1 / 0, data)
    with pytest.raises(InputError, match="not numbers"):
        model_of(lambda x: np.array(["a"] * len(x)), data, answers="probabilities").predict(data.x)


def test_answers_that_change_are_warned_of(data: Dataset) -> None:
    rng = np.random.default_rng(0)

    def noisy(x: np.ndarray) -> np.ndarray:
        p = np.clip((x.sum(1) > 2) * 0.8 + 0.1 * rng.random(len(x)), 0, 1)
        return np.stack([1 - p, p], 1)

    assert ["answers the same rows differently" in warning for warning in check_model(model_of(noisy, data), data)] == [True]


def test_a_model_that_writes_into_its_inputs_is_refused(data: Dataset) -> None:
    def writes(x: np.ndarray) -> np.ndarray:
        x *= 2
        return np.tile([0.5, 0.5], (len(x), 1))

    copied = data.with_(x=data.x.copy())
    with pytest.raises(InputError, match="changes its inputs in place"):
        check_model(model_of(writes, data), copied)


def test_labels_in_another_order_are_warned_of(data: Dataset, three: Dataset) -> None:
    good = fitted("random_forest")
    (warning,) = check_model(model_of(lambda x: good.predict_proba(x)[:, ::-1], data), data)
    assert "order [1, 0]" in warning
    assert "labels" in warning
    better = fitted("random_forest", 3)
    turned = model_of(lambda x: better.predict_proba(x)[:, [1, 2, 0]], three)
    (warning,) = check_model(turned, three)
    # Output column j holds class (1, 2, 0)[j]; read in the order said, column order[c] is class c.
    assert "order [2, 0, 1]" in warning


def test_a_rare_class_at_a_high_threshold_is_no_wrong_order(data: Dataset) -> None:
    rare = np.flatnonzero(data.y == 1)[:4]
    rows = np.concatenate([np.flatnonzero(data.y == 0), rare])
    model = wrap(fitted("random_forest"), space=data.space, classes=2).at(0.99)
    assert check_model(model, data.take(rows)) == []


@pytest.mark.parametrize(("raw", "classes", "kind"), [
    (np.array([0, 1, 1]), 2, "labels"), (np.array([2, 0]), 3, "labels"), (np.array([0.0, 1.0, 1.0]), 2, "labels"), (np.array([True, False]), 2, "labels"),
    (np.array([0.2, 0.7]), 2, "probabilities"), (np.array([[0.2], [0.7]]), 2, "probabilities"), (np.array([-3.0, 2.0]), 2, "logits"),
    (np.array([[0.2, 0.8]]), 2, "probabilities"), (np.array([[0.2, 0.9]]), 2, "logits"), (np.array([[-0.1, 1.1]]), 2, "logits"),
    (np.array([[0.2, 0.3, 0.5]]), 3, "probabilities"), ([[1, 0], [0, 1]], 2, "probabilities"),
])  # fmt: skip
def test_answers_are_told_apart(raw: Any, classes: int, kind: str) -> None:
    assert detect(raw, classes=classes, name="it") == kind


def test_answers_become_probabilities() -> None:
    def turned(raw: Any, answers: str, classes: int = 2) -> np.ndarray:
        return to_probabilities(raw, rows=len(raw), classes=classes, answers=answers, name="it")

    assert turned(np.array([0.2, 0.7]), "probabilities").tolist() == [[0.8, 0.2], [1 - 0.7, 0.7]]
    assert np.allclose(turned(np.array([np.log(3.0)]), "logits"), [[0.25, 0.75]])
    assert np.allclose(turned(np.array([[1000.0, 1000.0 + np.log(3.0)]]), "logits"), [[0.25, 0.75]])
    assert turned([1, 0], "labels").tolist() == [[0, 1], [1, 0]]
    assert to_probabilities(["b", "a"], rows=2, classes=2, answers="labels", name="it", labels=("a", "b")).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(InputError, match="the label 'c'"):
        to_probabilities(["c", "a"], rows=2, classes=2, answers="labels", name="it", labels=("a", "b"))


def test_access_follows_the_answers(data: Dataset) -> None:
    assert model_of(lambda x: np.zeros(len(x), int), data).access == Access.LABELS
    assert model_of(lambda x: np.tile([0.5, 0.5], (len(x), 1)), data).access == BLACK_BOX
    assert model_of(lambda x: np.tile([3.0, -1.0], (len(x), 1)), data).answers == "logits"


def test_digests_of_functions_see_text_and_answers(data: Dataset) -> None:
    made = [model_of(lambda x, k=k: np.tile([k, 1 - k], (len(x), 1)), data).digest() for k in (0.25, 0.5)]
    assert made[0] != made[1]
    fair = [model_of(lambda x, k=k: np.tile([k, 1 - k], (len(x), 1)), data).digest() for k in (0.25, 0.25)]
    assert fair[0] == fair[1]


def test_a_probe_stays_in_the_space() -> None:
    from carbide.models._answers import probe_rows
    from carbide.types import Kind

    space = Space.table(["r", "i", "p", "q", "u"], lower=np.array([-1, 3, 0, 0, -np.inf]), upper=np.array([1, 9, 1, 1, np.inf]),
                        kind=np.array([Kind.REAL, Kind.INTEGER, Kind.ONE_HOT, Kind.ONE_HOT, Kind.REAL]), groups=((2, 3),))  # fmt: skip
    x = probe_rows(space, np.random.default_rng(0), 50)
    assert ((x >= space.lower) & (x <= space.upper)).all()
    assert (x[:, 1] == np.round(x[:, 1])).all()
    assert (x[:, 2:4].sum(1) == 1).all()
    assert make_dataset(3).space.names == ("a", "b", "c", "d")


@pytest.mark.parametrize(("classes", "decimals"), [(3, 2), (10, 2), (10, 3), (40, 2)])
def test_probabilities_rounded_to_a_few_decimals_are_taken_and_normalised(classes: int, decimals: int) -> None:
    exact = np.random.default_rng(0).dirichlet(np.ones(classes), size=500)
    told = np.round(exact, decimals)
    assert (np.abs(told.sum(1) - 1) > 1e-3).any(), "the case shows nothing"
    for raw in (told, told.astype(np.float32)):
        assert detect(raw, classes=classes, name="it") == "probabilities"
        found = to_probabilities(raw, rows=500, classes=classes, answers="probabilities", name="it")
        np.testing.assert_allclose(found.sum(1), 1, atol=1.01e-3)
        np.testing.assert_array_equal(found.argmax(1), told.argmax(1))
        assert np.abs(found - exact).max() <= classes * 0.5 * 10.0**-decimals * 1.1 + 1e-6
        alone = np.concatenate([to_probabilities(raw[i : i + 1], rows=1, classes=classes, answers="probabilities", name="it") for i in range(500)])
        np.testing.assert_array_equal(alone, found)


@pytest.mark.parametrize("odd", [[[0.3, 0.3, 0.3]], [[0.5, 0.52, 0.0]], [[0.0, 0.0, 0.0]], [[0.331, 0.331, 0.331]], [[0.7, 0.8, 0.9]]])
def test_what_rounding_does_not_explain_is_no_distribution(odd: list[list[float]]) -> None:
    with pytest.raises(InputError, match="no distribution where probabilities are declared"):
        to_probabilities(odd, rows=1, classes=3, answers="probabilities", name="it")
    with pytest.raises(InputError, match="returns logits where probabilities are declared"):
        to_probabilities([[2.0, -1.0, 0.01]], rows=1, classes=3, answers="probabilities", name="it")


def test_models_that_answer_labels_beside_a_reading_have_no_memory_layout() -> None:
    from sklearn.linear_model import RidgeClassifier
    from sklearn.svm import LinearSVC

    from carbide.models.examination.calls import examine_calls

    rng = np.random.default_rng(0)
    x = rng.uniform(size=(60, 3))
    y = (x.sum(1) > 1.5).astype(int) + (x[:, 0] > 0.8)
    for estimator in (LinearSVC(), RidgeClassifier()):
        model = wrap(estimator.fit(x, y), space=Space.table(["a", "b", "c"]), classes=3)
        assert getattr(model, "module", None) is not None, "without a reading nothing is shown"
        assert examine_calls(model, x) == []
