"""LiRA and the loss threshold against the exact likelihood ratio, a slow loop, and worlds in which there is nothing to find."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.ensemble import RandomForestClassifier

from carbide.models.estimators import EstimatorRecipe
from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.shadows import Recorded, Shadows, design, train_shadows
from carbide.privacy.signals import confidence, grain, logit, odds
from carbide.stats.roc import auc, tpr_at_fpr
from carbide.types import Dataset, InputError
from tests.privacy.worlds import Remembers, table

RNG = np.random.default_rng(0)


def recorded(records, shadows, target):
    return Recorded(records=records, answers=shadows.answers[target])


def play(method, records, shadows):
    return np.stack([method(recorded(records, shadows, t), records, RNG, shadows.without(t)) for t in range(len(shadows))])


def from_logits(logits, y):
    right = 1 / (1 + np.exp(-logits))
    return np.where(np.arange(2) == y[:, None], right[..., None], 1 - right[..., None])


@given(st.integers(2, 5), st.integers(0, 50))
def test_logits_are_those_of_the_definition(k, seed):
    rng = np.random.default_rng(seed)
    answers, y = rng.dirichlet(np.ones(k), (3, 7)), rng.integers(0, k, 7)
    p = np.stack([[row[c] for row, c in zip(model, y, strict=True)] for model in answers])
    np.testing.assert_array_equal(confidence(answers, y), p)
    np.testing.assert_allclose(logit(*odds(answers, y), 1e-12), np.log(p / (1 - p)), rtol=1e-6, atol=1e-9)


def test_saturated_answers_keep_the_precision_of_the_other_class():
    answers = np.array([[1.0, 1e-30], [1e-30, 1.0]])
    assert logit(*odds(answers, np.array([0, 0])), 1e-40).tolist() == pytest.approx([30 * np.log(10), -30 * np.log(10)])


def test_floor_of_votes_is_half_a_vote():
    votes = np.arange(101) / 100
    assert grain(np.stack([votes, 1 - votes], 1)) == pytest.approx(0.005)
    assert grain(np.array([[0.0, 1.0]])) == 0.05
    assert grain(np.array([[1e-9, 1 - 1e-9]])) == pytest.approx(5e-10)


def test_loss_threshold_is_minus_the_log_loss():
    records = table(20)
    answers = np.random.default_rng(1).dirichlet([1, 1], 20)
    expected = [np.log(row[y]) for row, y in zip(answers, records.y, strict=True)]
    np.testing.assert_allclose(LossThreshold()(Recorded(records=records, answers=answers), records, RNG, None), expected)
    zero = Recorded(records=records, answers=np.stack([1.0 - records.y, records.y], 1)[:, ::-1])
    assert np.isfinite(LossThreshold()(zero, records, RNG, None)).all()


def slow_lira(observed, references, members, prior, own):
    """The same attack, one record at a time, with scipy's Gaussian."""
    groups = {}
    for side in (True, False):
        squares = freedom = 0.0
        for i in range(len(observed)):
            values = references[members[:, i] == side, i]
            squares, freedom = squares + ((values - values.mean()) ** 2).sum(), freedom + len(values) - 1
        groups[side] = squares / freedom
    scores = []
    for i, seen in enumerate(observed):
        parts = {}
        for side in (True, False):
            values = references[members[:, i] == side, i]
            shrunk = (((values - values.mean()) ** 2).sum() + prior * groups[side]) / (len(values) - 1 + prior)
            variance = (shrunk if len(values) >= own else groups[side]) + 1e-9
            parts[side] = norm.logpdf(seen, values.mean(), np.sqrt(variance))
        scores.append(parts[True] - parts[False])
    return np.array(scores)


@pytest.mark.parametrize(("prior", "own"), [(0.0, 2), (16.0, 4), (3.0, 100)])
def test_lira_agrees_with_a_slow_loop(prior, own):
    rng = np.random.default_rng(3)
    records = table(25)
    members = design(records.y, 12, rng)
    logits = rng.normal(0, 1, (12, 25)) * rng.uniform(0.2, 1, 25) + 0.8 * members
    shadows = Shadows(members=members, answers=from_logits(logits, records.y))
    left = shadows.without(4)
    keep = np.arange(12) // 2 != 2
    method = Lira(prior=prior, own=own)
    found = method(recorded(records, shadows, 4), records, RNG, left)
    np.testing.assert_allclose(found, slow_lira(logits[4], logits[keep], members[keep], prior, own), rtol=1e-6, atol=1e-7)


def test_many_references_reach_the_exact_likelihood_ratio():
    rng = np.random.default_rng(4)
    records = table(300)
    centre, gain, spread = rng.normal(0, 1, 300), rng.uniform(0.5, 1.5, 300), rng.uniform(0.2, 0.6, 300)
    members = design(records.y, 400, rng)
    logits = centre + gain * members + spread * rng.standard_normal((400, 300))
    shadows = Shadows(members=members, answers=from_logits(logits, records.y))
    scores = np.stack([Lira(prior=4.0)(recorded(records, shadows, t), records, RNG, shadows.without(t)) for t in range(20)])
    exact = norm.logpdf(logits, centre + gain, spread)[:20] - norm.logpdf(logits, centre, spread)[:20]
    assert np.corrcoef(scores.ravel(), exact.ravel())[0, 1] > 0.99
    assert tpr_at_fpr(scores, members[:20], 0.01) == pytest.approx(tpr_at_fpr(exact, members[:20], 0.01), abs=0.03)


def test_pooled_variance_is_all_there_is_with_few_references():
    rng = np.random.default_rng(5)
    records = table(200)
    members = design(records.y, 4, rng)
    logits = rng.normal(0, 0.5, (4, 200)) + 1.0 * members
    shadows = Shadows(members=members, answers=from_logits(logits, records.y))
    scores = play(Lira(shadows=4), records, shadows)  # one reference a side
    assert np.isfinite(scores).all()
    assert auc(scores, members) > 0.75


def test_nothing_is_found_where_there_is_nothing():
    # Paired halves make the null exact: over many worlds the mean AUC is 0.5 within its own error, with few references too.
    found = []
    for world in range(60):
        rng = np.random.default_rng(world)
        records = table(60)
        shadows = Shadows(members=design(records.y, 8, rng), answers=from_logits(rng.normal(1, 1, (8, 60)), records.y))
        found.append(auc(play(Lira(shadows=8), records, shadows), shadows.members))
    assert np.mean(found) == pytest.approx(0.5, abs=3.5 * np.std(found) / np.sqrt(len(found)))
    assert np.std(found) < 0.05


def test_counting_references_tells_nothing():
    records = table(50)
    shadows = train_shadows(Remembers(gain=1.0), records, 10, 0)
    counts = np.stack([shadows.without(t).members.sum(0) for t in range(10)])
    assert auc(counts, shadows.members) == 0.5


def test_lira_beats_the_loss_on_a_forest_that_overfits():
    rng = np.random.default_rng(6)
    x = rng.normal(size=(160, 6))
    y = (x[:, 0] + 1.5 * rng.normal(size=160) > 0).astype(np.int64)
    base = table(160, d=6)
    records = Dataset(x=x, y=y, ids=base.ids, source=base.source, space=base.space, classes=2)
    shadows = train_shadows(EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=25)), records, 16, 0)
    lira, loss = (auc(play(m, records, shadows), shadows.members) for m in (Lira(shadows=16), LossThreshold()))
    assert lira > 0.9
    assert loss > 0.6
    assert (np.abs(play(Lira(shadows=16), records, shadows)) < 1e6).all()


def test_lira_needs_references():
    records = table(10)
    model = Recorded(records=records, answers=np.full((10, 2), 0.5))
    with pytest.raises(InputError, match="there are none"):
        Lira()(model, records, RNG, None)
    lone = Shadows(members=np.ones((2, 10), bool), answers=np.full((2, 10, 2), 0.5))
    with pytest.raises(InputError, match="no reference on one side"):
        Lira()(model, records, RNG, lone)


@pytest.mark.parametrize(("options", "words"), [({"shadows": 3}, "shadows is 3"), ({"shadows": 2}, "shadows is 2"), ({"prior": -1}, "prior is -1"),
                                                ({"prior": float("nan")}, "prior is nan"), ({"own": 1}, "own is 1")])  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        Lira(**options)


def test_quick_never_trains_more():
    assert Lira(shadows=8).quick().shadows == 8
    assert Lira(shadows=256).quick().shadows == 16
