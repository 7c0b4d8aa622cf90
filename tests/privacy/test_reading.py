"""Folds, thresholds set apart, groups and the control on disjoint data: exact designs, known rates, coverage by simulation."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from carbide.plan import make_ask
from carbide.privacy._reading import apart, by_group, groups_of, share_interval, threshold
from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.judge import audit, metric_apart, metric_at, verify
from carbide.privacy.shadows import Shadows, design, train_shadows
from carbide.privacy.trials import set_up
from carbide.stats.roc import auc, roc_intervals
from carbide.types import InputError, Membership, Splits
from tests.privacy.worlds import Remembers, case, table

T = Membership()


@given(st.integers(3, 12), st.integers(1, 4), st.integers(0, 20))
def test_every_ring_leaves_every_row_out_once(folds, rings, seed):
    y = np.random.default_rng(seed).integers(0, 3, 30)
    members = design(y, folds * rings, np.random.default_rng(seed), folds=folds)
    assert ((~members).reshape(rings, folds, 30).sum(1) == 1).all()
    assert np.ptp((~members).sum(1)) <= 1
    shadows = Shadows(members=members, answers=np.zeros((*members.shape, 2)), folds=folds)
    if rings > 1:
        assert (shadows.without(folds).members.sum(0) == (folds - 1) * (rings - 1)).all()


def test_folds_of_single_rows_leave_one_out_and_are_played():
    start = case(Remembers(gain=3.0), n=12)
    game = set_up(start, {"lira": Lira(shadows=4)}, folds=24)
    assert len(game.shadows) == 48
    assert ((~game.shadows.members).sum(1) == 1).all()
    section = audit(case(Remembers(gain=3.0), n=60), Membership(folds=120), {"loss_threshold": LossThreshold()})
    area = next(f for f in section.findings if f.metric == "membership AUC")
    assert area.low <= norm.cdf(3 / np.sqrt(2)) <= area.high
    assert "all but one of 120 parts" in section.headline().note
    control = next(f for f in section.findings if f.metric == "negative control AUC")
    assert control.low <= 0.5 <= control.high


@pytest.mark.parametrize(("count", "folds", "words"), [(7, 3, "shadows is 7"), (0, 3, "shadows is 0"), (31, 31, "folds is 31"), (1, 1, "folds is 1")])
def test_folds_that_do_not_fit_are_refused(count, folds, words):
    with pytest.raises(InputError, match=words):
        design(np.zeros(30, int), count, np.random.default_rng(0), folds=folds)


def test_folds_are_asked_for_in_a_plan():
    made = make_ask({"membership": {"folds": 10}}, space=table(4).space, base=None, prices=None)
    assert made.threat == Membership(folds=10)
    assert made.words() == "telling who was in the training set, 10 folds"
    for value, words in (("half", "folds is 'half'"), (1, "folds is 1")):
        with pytest.raises(InputError, match=words):
            make_ask({"membership": {"folds": value}}, space=table(4).space, base=None, prices=None)


@pytest.mark.parametrize("folds", [2, 4])
def test_setting_the_ring_aside_removes_the_bias_of_a_finite_population(folds):
    # record by record: with the target alone set aside, its own label shows in the counts and means of the references
    honest, naive = [], []
    for world in range(150):
        rng = np.random.default_rng(world)
        members = design(np.zeros(4, int), 4 * folds, rng, folds=folds)
        values = rng.standard_normal(members.shape)  # nothing to learn
        shadows = Shadows(members=members, answers=np.stack([values, values], 2), folds=folds)
        for t in range(len(members)):
            rest = shadows.without(t)
            honest.append((_gap(values[t], rest.answers[..., 0], rest.members), members[t]))
            keep = np.arange(len(members)) != t
            naive.append((_gap(values[t], values[keep], members[keep]), members[t]))
    areas = [auc(np.concatenate([s for s, _ in found]), np.concatenate([m for _, m in found])) for found in (honest, naive)]
    assert areas[0] == pytest.approx(0.5, abs=0.012)
    assert abs(areas[1] - 0.5) > 0.014


def _gap(seen, references, members):
    inside = np.where(members, references, 0).sum(0) / members.sum(0)
    outside = np.where(~members, references, 0).sum(0) / np.maximum(1, (~members).sum(0))
    return (seen - outside) ** 2 - (seen - inside) ** 2


def world_of(rng, targets=16, records=120, shift=1.0):
    members = design(np.zeros(records, int), targets, rng)
    scores = shift * members + rng.standard_normal(members.shape) + 0.3 * rng.standard_normal(records)
    return scores, members


def test_thresholds_from_other_records_keep_their_rate_and_their_interval_covers():
    held, rates, truth = [], [], norm.cdf((norm.ppf(0.05) * np.sqrt(1.09) + 1) / np.sqrt(1.09))
    half = np.arange(120) < 60
    for world in range(60):
        rng = np.random.default_rng(world)
        found = apart(*world_of(rng), half, 0.05, rng)
        rates.append(found.fpr)
        held.append(found.interval.low <= truth <= found.interval.high)
    assert np.mean(rates) == pytest.approx(0.05, abs=0.006)
    assert np.mean(held) >= 0.9


def test_auc_intervals_cover_with_a_mask_and_without():
    held = {"all": [], "outside": []}
    for world in range(60):
        rng = np.random.default_rng(world)
        scores, members = world_of(rng, records=60)
        whole = roc_intervals(scores, members, (), rng, draws=200).auc
        held["all"].append(whole.low <= norm.cdf(1 / np.sqrt(2 * 1.09)) <= whole.high)
        sides = np.broadcast_to(np.arange(60) < 30, members.shape)
        part = roc_intervals(scores, sides, (), rng, draws=200, among=~members).auc
        held["outside"].append(part.low <= 0.5 <= part.high)
    assert min(np.mean(h) for h in held.values()) >= 0.9


def test_a_mask_of_everything_changes_nothing():
    scores, members = world_of(np.random.default_rng(0))
    one, other = (roc_intervals(scores, members, (0.05,), np.random.default_rng(1), among=a) for a in (None, np.ones_like(members)))
    assert one == other


def test_nobody_called_is_no_certainty():
    none = share_interval(np.zeros((8, 40), bool), np.ones((8, 40), bool), np.random.default_rng(0))
    assert none.low == 0
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert share_interval(np.ones((8, 40), bool), np.ones((8, 40), bool), np.random.default_rng(0)).low > 0.85


def test_thresholds_by_brute_force():
    rng = np.random.default_rng(0)
    scores, members = rng.integers(0, 9, 60).astype(float), rng.random(60) < 0.5
    for fpr in (0.0, 0.1, 0.5, 1.0):
        allowed = [s for s in [*np.unique(scores), np.inf] if (scores[~members] >= s).mean() <= fpr]
        assert threshold(scores, members, fpr) == min(allowed)


def test_the_group_that_leaks_is_named_first():
    rng = np.random.default_rng(1)
    records = table(100)
    members = design(records.y, 30, rng)
    leaky = (records.y == 1)[None] & members
    scores = 4.0 * leaky + rng.standard_normal(members.shape)
    found = by_group(scores, members, groups_of(records, np.r_[np.ones(85), np.zeros(15)]), 0.01, rng)
    assert found.names[0] == "class 1"
    assert found.names[-1] == "class 0"
    assert set(found.names) == {"class 0", "class 1", "usually right", "usually wrong"}
    assert found.hits[0] > 0.8
    assert found.hits[-1] < 0.03
    assert (found.intervals[:, 0] <= found.hits).all()
    assert (found.hits <= found.intervals[:, 1]).all()


def test_groups_of_a_handful_or_of_everybody_are_not_spoken_of():
    records = replace(table(60), source=np.array(["a"] * 55 + ["b"] * 5))
    names = set(groups_of(records, np.ones(60)))
    assert names == {"class 0", "class 1", "from a"}


def test_the_section_tells_the_threshold_set_apart_the_groups_and_the_disjoint_control():
    section = audit(case(Remembers(gain=2.0), seed=3), T, {"loss_threshold": LossThreshold()})
    by_name = {f.metric: f for f in section.findings}
    other = by_name[metric_apart(0.01)]
    assert other.low <= norm.cdf(norm.ppf(0.01) + 2) <= other.high
    assert "of the non-members" in other.note
    control = by_name["negative control AUC on disjoint data"]
    assert control.low <= 0.5 <= control.high
    assert [f.title for f in section.figures][-1] == "Who leaks most"
    assert all(told == again for _, told, again in verify(section, None, None, T))
    forged = dict(section.evidence) | {"half": ~section.evidence["half"] & (np.arange(240) % 3 > 0)}
    assert any(told != again for _, told, again in verify(replace(section, evidence=forged), None, None, T))
    assert other.metric != metric_at(0.01)


def test_rows_that_differ_in_other_ways_are_no_leak():
    # test rows are all hard, train rows all easy: the given model seems to leak, and it does not
    start = case(Remembers(gain=0.0, noise=0.5), n=120)
    drifted = start.data.test.with_(y=1 - start.data.test.y)
    section = audit(replace(start, data=Splits(train=start.data.train, validation=start.data.validation, test=drifted)), T,
                    {"loss_threshold": LossThreshold()})  # fmt: skip
    metrics = {f.metric for f in section.findings}
    assert "membership AUC of this model" not in metrics
    assert any("rows differ in other ways" in s.reason for s in section.skipped)
    assert "membership AUC" in metrics


def test_rows_in_both_parts_are_counted_in_words():
    start = case(Remembers(gain=1.0), n=60)
    test = start.data.test
    mixed = replace(test, x=np.concatenate([start.data.train.x[:7], test.x[7:]]), y=np.concatenate([start.data.train.y[:7], test.y[7:]]))
    section = audit(replace(start, data=replace(start.data, test=mixed)), T, {"lira": Lira(shadows=24)})
    assert "7 rows stand in train and in test" in section.headline().note


def test_a_model_whose_training_rows_are_not_known_is_refused():
    start = case(Remembers(gain=1.0), n=60, with_recipe=False)
    nobody = replace(start.data, train=start.data.train.take(np.arange(0)))
    with pytest.raises(InputError, match="was not trained on all 60 distinct rows, so there is nobody to tell apart"):
        audit(replace(start, data=nobody), T, {"loss_threshold": LossThreshold()})
    with pytest.raises(InputError, match="was trained on all 60 distinct rows"):
        audit(replace(start, data=replace(start.data, test=start.data.train)), T, {"loss_threshold": LossThreshold()})


def test_shadows_of_folds_go_by_their_own_rows():
    pool = table(30)
    shadows = train_shadows(Remembers(gain=50.0, noise=0.0), pool, 10, 3, folds=5)
    sure = np.take_along_axis(shadows.answers, np.broadcast_to(pool.y[:, None], (10, 30, 1)), 2)[..., 0] > 0.99
    np.testing.assert_array_equal(sure, shadows.members)


def test_the_threshold_of_a_half_is_the_other_halfs():
    half = np.array([True] * 4 + [False] * 4)
    scores = np.array([[1.0, 2.0, 3.0, 4.0, 10.0, 20.0, 30.0, 40.0]])
    members = np.array([[False, True, False, True, False, True, False, True]])
    found = apart(scores, members, half, 0.0, np.random.default_rng(0))
    # the first half's least threshold without a false positive is 4, which calls everyone of the second; the second's is 40, which calls nobody
    assert (found.tpr, found.fpr) == (0.5, 0.5)
