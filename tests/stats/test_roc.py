"""Curves against scikit-learn, brute force and populations whose curve is known."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score, roc_curve

from carbide.stats.roc import auc, enough, roc, roc_intervals, tpr_at_fpr, tpr_curve, tpr_gain_interval

small = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=2, max_size=40).filter(lambda rows: len({m for _, m in rows}) == 2)


def split(rows):
    return np.array([s for s, _ in rows], float), np.array([m for _, m in rows])


@given(small)
def test_area_and_points_are_those_of_sklearn(rows):
    scores, members = split(rows)
    assert auc(scores, members) == pytest.approx(roc_auc_score(members, scores), abs=1e-12)
    fpr, tpr, thresholds = roc_curve(members, scores, drop_intermediate=False)
    curve = roc(scores, members)
    np.testing.assert_allclose(curve.fpr, fpr)
    np.testing.assert_allclose(curve.tpr, tpr)
    np.testing.assert_array_equal(curve.thresholds[1:], thresholds[1:])


@given(small)
def test_area_is_the_share_of_ordered_pairs(rows):
    scores, members = split(rows)
    inside, outside = scores[members][:, None], scores[~members][None]
    assert auc(scores, members) == pytest.approx(((inside > outside) + 0.5 * (inside == outside)).mean(), abs=1e-12)
    assert auc(-scores, members) == pytest.approx(1 - auc(scores, members), abs=1e-12)
    assert auc(np.exp(scores), members) == auc(scores, members)


@given(small, st.floats(0, 1))
def test_rate_is_that_of_the_best_threshold_or_coin(rows, fpr):
    scores, members = split(rows)
    points = [((scores[~members] >= t).mean(), (scores[members] >= t).mean()) for t in [np.inf, *np.unique(scores)[::-1]]]
    allowed = [tpr for alarm, tpr in points if alarm <= fpr + 1e-12]
    assert tpr_at_fpr(scores, members, fpr, interpolate=False) == pytest.approx(max(allowed))
    coin = max(allowed)
    for (a, s), (b, t) in itertools.pairwise(points):
        if a <= fpr and b > fpr + 1e-12:  # a rate within rounding of the next point is that point
            coin = s + (t - s) * (fpr - a) / (b - a)
    assert tpr_at_fpr(scores, members, fpr) == pytest.approx(coin, abs=1e-9)


def test_known_population():
    rng = np.random.default_rng(0)
    scores, members = rng.standard_normal(400_000), np.arange(400_000) % 2 == 0
    scores[members] += 1.0
    assert auc(scores, members) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.003)
    for fpr in (0.001, 0.01, 0.1):
        truth = norm.cdf(1 + norm.ppf(fpr))
        assert tpr_at_fpr(scores, members, fpr) == pytest.approx(truth, abs=5 * np.sqrt(truth / 200_000) + 0.1 * truth)
    np.testing.assert_allclose(tpr_curve(scores, members, np.array([0.01, 0.1])), [tpr_at_fpr(scores, members, f) for f in (0.01, 0.1)])


def test_all_scores_equal_is_guessing():
    members = np.arange(10) < 4
    assert auc(np.zeros(10), members) == 0.5
    assert tpr_at_fpr(np.zeros(10), members, 0.3) == pytest.approx(0.3)
    assert tpr_at_fpr(np.zeros(10), members, 0.3, interpolate=False) == 0


def test_claims_need_ten_non_members_past_the_threshold():
    assert enough(1000, 0.01)
    assert not enough(999, 0.01)
    assert enough(10_000, 0.001)
    assert not enough(9_999, 0.001)


def population(rng, targets, records, *, leak=0.5, spread=0.5):
    """Half-in designs whose leak varies with the target and the record; equal in law for every size."""
    members = rng.random((targets, records)) < 0.5
    strength = leak + spread * rng.standard_normal(targets)[:, None] + spread * rng.standard_normal(records)[None]
    return members * strength + rng.standard_normal((targets, records)), members


def test_intervals_cover_the_truth_of_targets_and_records():
    rng = np.random.default_rng(1)
    truth = auc(*population(rng, 1500, 1500))
    hits = naive = 0
    worlds = 120
    for _ in range(worlds):
        scores, members = population(rng, 16, 60)
        low, high = roc_intervals(scores, members, (), rng, draws=150).auc
        hits += low <= truth <= high
        assert high - low < 0.35
        flat = roc_intervals(scores.reshape(1, -1), members.reshape(1, -1), (), rng, draws=60).auc
        naive += flat.low <= truth <= flat.high
    assert hits >= 0.91 * worlds
    assert naive < hits - 5  # drawing cells one by one forgets the clusters


def test_intervals_of_rates_hold_the_estimate_and_repeat():
    scores, members = population(np.random.default_rng(2), 12, 200)
    first = roc_intervals(scores, members, (0.05, 0.2), np.random.default_rng(3))
    again = roc_intervals(scores, members, (0.05, 0.2), np.random.default_rng(3))
    assert first == again
    for fpr, (low, high) in zip((0.05, 0.2), first.tpr, strict=True):
        assert low < tpr_at_fpr(scores, members, fpr) < high
    wide = roc_intervals(scores, members, (0.05,), np.random.default_rng(3), confidence=0.999)
    assert wide.tpr[0].low <= first.tpr[0].low
    assert wide.tpr[0].high >= first.tpr[0].high


def test_one_target_draws_records_only():
    rng = np.random.default_rng(4)
    scores = rng.standard_normal((1, 400))
    members = rng.random((1, 400)) < 0.5
    low, high = roc_intervals(scores, members, (), rng).auc
    error = np.sqrt(1 / 12 * (1 / members.sum() + 1 / (~members).sum()))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.25)


@settings(max_examples=25)
@given(st.integers(1, 4), st.integers(4, 12), st.integers(0, 1000))
def test_intervals_are_rates(targets, records, seed):
    rng = np.random.default_rng(seed)
    members = np.zeros((targets, records), bool)
    members[:, : records // 2] = True
    found = roc_intervals(rng.integers(0, 3, (targets, records)), members, (0.1, 1.0), rng, draws=30)
    for low, high in (found.auc, *found.tpr):
        assert 0 <= low <= high <= 1
    assert found.tpr[1] == (1.0, 1.0)


@pytest.mark.parametrize(("scores", "members", "words"), [
    ([1.0, np.nan], [True, False], "1 scores are NaN"),
    ([1.0, 2.0], [True, True], "2 of 2 rows are members"),
    ([1.0, 2.0, 3.0], [True, False], "shape"),
])  # fmt: skip
def test_what_has_no_curve_is_refused(scores, members, words):
    with pytest.raises(ValueError, match=words):
        roc(np.array(scores), np.array(members))


def test_rates_outside_are_refused():
    with pytest.raises(ValueError, match="fpr is 2"):
        tpr_at_fpr(np.array([1.0, 2.0]), np.array([True, False]), 2)
    with pytest.raises(ValueError, match="axes"):
        roc_intervals(np.zeros(3), np.array([True, False, True]), (), np.random.default_rng(0))


def test_paired_gain_is_the_difference_of_draws_of_the_same_targets_and_records():
    rng = np.random.default_rng(5)
    members = rng.random((6, 80)) < 0.5
    one, two = rng.normal(size=(2, 6, 80)) + members * np.array([1.5, 0.5])[:, None, None]
    found = tpr_gain_interval(one, two, members, 0.1, np.random.default_rng(3), draws=60)
    draw, gains = np.random.default_rng(int(np.random.default_rng(3).integers(2**63))), []
    for _ in range(60):
        t, r = draw.integers(6, size=6), draw.integers(80, size=80)
        cells = np.ix_(t, r)
        gains.append(tpr_at_fpr(one[cells], members[cells], 0.1) - tpr_at_fpr(two[cells], members[cells], 0.1))
    assert [found.low, found.high] == pytest.approx(np.percentile(gains, [2.5, 97.5]).tolist())


def test_paired_gain_decides_what_two_intervals_leave_open():
    rng = np.random.default_rng(6)
    members = rng.random((8, 300)) < 0.5
    strength = rng.exponential(1.5, 300)  # records differ much, alike for both sides
    noise = rng.normal(size=(8, 300))
    one, two = noise + 1.1 * strength * members, noise + 0.9 * strength * members
    apart = [roc_intervals(s, members, (0.05,), np.random.default_rng(0)).tpr[0] for s in (one, two)]
    assert apart[0].low < apart[1].high
    assert tpr_gain_interval(one, two, members, 0.05, np.random.default_rng(0)).low > 0
    same = tpr_gain_interval(one, one * 2, members, 0.05, np.random.default_rng(0))
    assert (same.low, same.high) == (0.0, 0.0)
