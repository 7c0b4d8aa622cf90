"""Rebuilt training rows: the closed form gives the true row, what was never trained on is not found, and bounds of privacy hold."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

import carbide
from carbide.data.live import dataset_of
from carbide.models import wrap
from carbide.models.estimators import EstimatorModel
from carbide.models.stationary import stationary, why_not
from carbide.privacy import reconstructions
from carbide.privacy.audit.class_inversion import ClassInversion
from carbide.privacy.audit.missing_row import MissingRow
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.privacy.prove.reconstruction_bound import ReconstructionBound
from carbide.privacy.rebuilt import Rebuilt, distances, nearer_share, spread_of
from carbide.privacy.reconstructions import AUC, CONTROL, FALSE, FAR, GAIN, SHARE, audit, verify
from carbide.registry import Method
from carbide.run.store import decode, encode
from carbide.types import Case, InputError, Reconstruction, Space, Splits

OTHERS, ALONE = Reconstruction(known="others"), Reconstruction()


def rows(n: int, seed: int, *, classes: int = 2, d: int = 4):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = (x[:, :classes] + rng.gumbel(size=(n, classes))).argmax(1)
    return dataset_of(x, y, space=Space.table([f"f{i}" for i in range(d)]), classes=classes)


def case(estimator, *, n=80, **world) -> Case:
    train, validation, test = (rows(n, seed, **world) for seed in (1, 2, 3))
    model = EstimatorModel(estimator=estimator.fit(train.x, train.y), space=train.space, classes=train.classes)
    return Case(model=model, data=Splits(train=train, validation=validation, test=test))


def value(section, metric):
    return next(f for f in section.findings if f.metric == metric).value


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("cost", [0.05, 1.0, 1e4])
def test_the_closed_form_gives_the_row_and_its_label(classes, cost):
    start = case(LogisticRegression(C=cost, tol=1e-12, max_iter=10_000), classes=classes)
    train, minimum = start.data.train, stationary(start.model)
    for row in range(0, 80, 9):
        x, label = minimum.missing(np.delete(train.x, row, 0), np.delete(train.y, row))
        np.testing.assert_allclose(x, train.x[row], atol=1e-3)
        assert label == train.y[row]


def test_a_scaler_in_front_gives_the_row_away_however_short_the_training():
    start = case(make_pipeline(StandardScaler(), LogisticRegression(max_iter=20, tol=1e-2)))
    section = audit(start, OTHERS, {"missing_row": MissingRow()})
    assert value(section, SHARE) > 0.9
    assert value(section, FAR) < 1e-9
    still = case(make_pipeline(StandardScaler(with_mean=False), LogisticRegression(tol=1e-12, max_iter=10_000)))
    assert value(audit(still, OTHERS, {"missing_row": MissingRow()}), FAR) < 1e-2


def test_training_again_undoes_a_short_training():
    start = case(LogisticRegression(tol=1e-4))
    closed, again = (audit(start, OTHERS, {"missing_row": MissingRow(retrainings=n)}) for n in (0, 4))
    assert value(again, FAR) < value(closed, FAR) / 10
    assert value(again, SHARE) >= value(closed, SHARE)
    with pytest.raises(InputError, match="retrainings is -1"):
        MissingRow(retrainings=-1)


def test_the_judge_finds_rows_that_were_trained_on_and_no_others():
    start = case(LogisticRegression(tol=1e-12, max_iter=10_000))
    section = audit(start, OTHERS, {"missing_row": MissingRow()})
    assert value(section, SHARE) == 1.0
    assert value(section, FALSE) <= 0.06  # one in 80 by chance
    head = section.headline()
    assert head.metric == SHARE
    assert head.low == pytest.approx(0.9549, abs=1e-3)  # exact, 80 of 80
    assert all(i in start.data.train.ids for i in section.evidence["missing_row_ids"])
    assert str(section.evidence["missing_row_ids"][0])[:4].isalnum()
    again = decode(encode(section))
    assert all(told == recomputed for _, told, recomputed in verify(again, OTHERS))
    forged = dict(again.evidence) | {"missing_row_distance": again.evidence["missing_row_distance"] + 9}
    assert any(told != recomputed for _, told, recomputed in verify(replace(again, evidence=forged), OTHERS))


@dataclass(frozen=True, kw_only=True)
class Twin(Method):
    """Hands in a known row."""

    threats = (Reconstruction,)

    def __call__(self, model, others, threat, rng):
        return Rebuilt(x=others.x[:1], y=others.y[:1])


@dataclass(frozen=True, kw_only=True)
class Odd(Twin):
    """Hands in what is no row."""

    def __call__(self, model, others, threat, rng):
        return Rebuilt(x=np.full((1, 4), np.nan), y=np.zeros(1, int))


def test_a_row_that_was_known_is_not_rebuilt_even_where_it_is_a_twin():
    start = case(LogisticRegression())
    doubled = start.data.train.take(np.zeros(80, int))
    section = audit(replace(start, data=replace(start.data, train=doubled)), OTHERS, {"twin": Twin(), "odd": Odd()})
    assert value(section, SHARE) == 0.0
    assert [s.method for s in section.skipped] == ["odd"]


def test_what_is_no_minimum_is_refused_in_words():
    wrong = {
        "no logistic regression": DecisionTreeClassifier(),
        "L1": LogisticRegression(l1_ratio=1.0, solver="saga", max_iter=50),
        "no intercept": LogisticRegression(fit_intercept=False),
        "weighs its classes": LogisticRegression(class_weight="balanced"),
        "liblinear": LogisticRegression(solver="liblinear"),
    }
    for words, estimator in wrong.items():
        start = case(estimator)
        assert words in why_not(start.model)
        assert words in MissingRow().refuses(start, OTHERS)
    start = case(LogisticRegression())
    assert MissingRow().refuses(start, OTHERS) is None
    assert "known: others" in MissingRow().refuses(start, ALONE)
    assert "known: nothing" in ClassInversion().refuses(start, OTHERS)
    strangers = audit(replace(start, data=replace(start.data, train=rows(80, 9))), OTHERS, {"missing_row": MissingRow()})
    assert not strangers.findings
    assert "not trained on exactly the train rows" in strangers.skipped[0].reason
    scaled = case(make_pipeline(StandardScaler(), LogisticRegression()))
    strangers = audit(replace(scaled, data=replace(scaled.data, train=rows(80, 9))), OTHERS, {"missing_row": MissingRow()})
    assert "mean and spread the scaler keeps" in strangers.skipped[0].reason
    with pytest.raises(InputError, match="one row among known ones"):
        MissingRow()(start.model, None, ALONE, np.random.default_rng(0))


# The model alone ---------------------------------------------------------------------------------------------------


def pictures(n: int, seed: int, classes: int = 12, *, leak: bool = False):
    """Noise around nothing: rows of a class have nothing in common but where a model memorised them."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = np.clip(0.5 + 0.15 * rng.normal(size=(n, 1, 5, 5)), 0, 1)
    return dataset_of(x, y, space=Space.image((1, 5, 5)), classes=classes)


def image_case(fitted, n: int = 48) -> Case:
    train, validation, test = (pictures(n, seed) for seed in (fitted, 20, 30))
    estimator = LogisticRegression(C=100.0, max_iter=300).fit(train.x.reshape(n, -1), train.y)
    return Case(model=wrap(estimator, space=train.space, classes=12), data=Splits(train=pictures(n, 10), validation=validation, test=test))


def test_inversion_shows_what_was_memorised_and_nothing_of_rows_never_seen():
    seen, unseen = (audit(image_case(seed), ALONE, {"class_inversion": ClassInversion(smoothness=0.0)}) for seed in (10, 40))
    assert next(f for f in seen.findings if f.metric == AUC).low > 0.55
    blind = next(f for f in unseen.findings if f.metric == AUC)
    assert blind.low <= 0.5 <= blind.high
    for section in (seen, unseen):
        control = next(f for f in section.findings if f.metric == CONTROL)
        assert control.low <= 0.5 <= control.high
        assert all(told == again for _, told, again in verify(decode(encode(section)), ALONE))
        assert section.figures[0].kind == "gallery"
        assert {s.y.shape[1:] for s in section.figures[0].series} == {(1, 5, 5)}
    assert value(seen, GAIN) > value(unseen, GAIN)


def test_inversion_of_a_linear_model_is_its_weights():
    # of a linear model the surest input of a class with a small size prior lies along the weights that favour it
    x = np.random.default_rng(0).random((200, 3))
    data = dataset_of(x, (x[:, 0] > x[:, 1]).astype(int), space=Space.table(["a", "b", "c"], lower=np.zeros(3), upper=np.ones(3)), classes=2)
    model = wrap(LogisticRegression(C=1.0, fit_intercept=False).fit(x - 0.5, data.y), space=data.space, classes=2)
    found = ClassInversion(size=0.0)(model, None, ALONE, np.random.default_rng(0))
    np.testing.assert_allclose(found.x[1][:2], [1, 0], atol=0.05)
    np.testing.assert_allclose(found.x[0][:2], [0, 1], atol=0.05)
    shrunk = ClassInversion(size=1e6)(model, None, ALONE, np.random.default_rng(0))
    np.testing.assert_allclose(shrunk.x, 0.5, atol=0.02)


def test_rows_that_differ_in_other_ways_are_no_reconstruction():
    start = image_case(10)
    moved = start.data.test.with_(x=np.clip(start.data.test.x + 0.3, 0, 1))
    section = audit(replace(start, data=replace(start.data, test=moved)), ALONE, {"class_inversion": ClassInversion(steps=20)})
    assert not [f for f in section.findings if f.metric == AUC]
    assert "differ in other ways" in section.skipped[0].reason


def test_distances_by_hand():
    assert nearer_share(np.array([1.0, 2.0, 3.0]), np.array([2.0])) == pytest.approx(0.5)
    rng = np.random.default_rng(0)
    a, b = rng.integers(5, size=40).astype(float), rng.integers(6, size=30).astype(float)
    assert nearer_share(a, b) == pytest.approx(np.mean((a[:, None] < b) + 0.5 * (a[:, None] == b)))
    x = np.array([[0.0, 5.0], [2.0, 5.0]])
    np.testing.assert_allclose(spread_of(x), [1.0, 1.0])
    np.testing.assert_allclose(distances(x[0], x, spread_of(x)), [0.0, 2.0])


def test_privacy_bounds_reconstruction():
    # a mechanism that is mu-GDP lifts a blind guess of 1 in 1000 to Phi(Phi^-1(0.001) + mu) at most
    from scipy.stats import norm

    recipe = PrivateLogisticRecipe(epsilon=1.0, delta=1e-5)
    data = dataset_of(np.random.default_rng(0).random((60, 2)), np.arange(60) % 2, space=Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2)))
    model = recipe.fit(data, np.random.default_rng(0))
    certificate = ReconstructionBound()(model, data.x, data.y, OTHERS, np.random.default_rng(0))
    assert certificate.bound[0] == pytest.approx(min(norm.cdf(norm.ppf(0.001) + recipe.privacy.mu), recipe.privacy.tpr(0.001)))
    assert certificate.bound[0] < 0.0035
    assert any("blind guess" in words for words in certificate.assumptions)
    start = case(LogisticRegression())
    assert "no differential privacy" in ReconstructionBound().refuses(start, OTHERS)
    with pytest.raises(InputError, match="no differential privacy"):
        ReconstructionBound()(start.model, data.x, data.y, OTHERS, np.random.default_rng(0))
    with pytest.raises(InputError, match="prior is 0"):
        ReconstructionBound(prior=0.0)


def test_options_are_checked():
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"smoothness": -1.0}, {"size": float("nan")}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            ClassInversion(**wrong)
    with pytest.raises(InputError, match="at least 10"):
        reconstructions._missing(case(LogisticRegression(), n=9), OTHERS, "missing_row", MissingRow())
    tiny = image_case(10)
    few = replace(tiny.data, validation=tiny.data.validation.take(np.arange(1)))
    section = audit(replace(tiny, data=few), ALONE, {"class_inversion": ClassInversion(steps=1)})
    assert "no class has at least 5 rows" in section.skipped[0].reason


def test_from_python_to_the_page_and_the_gate(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.random((120, 1, 4, 4))
    y = (x[:, 0, :2].mean((1, 2)) > x[:, 0, 2:].mean((1, 2))).astype(int)
    model = LogisticRegression(tol=1e-10, max_iter=5000)
    report = carbide.audit(None, (x, y), threats=[OTHERS], recipe=model, quiet=True, out=tmp_path, gate={"rows_reconstructed": "<= 0"}, workers=1)
    assert not report.passed
    page = (tmp_path / "report.html").read_text()
    assert "Someone who has the model and all training data but one row rebuilds" in page
    assert "Training images rebuilt" in page
    from carbide.verify import verify_run

    assert all(check.agrees for check in verify_run(tmp_path))
