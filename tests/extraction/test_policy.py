"""Output policies: decisions kept on every row, probabilities moved by less than a step, and the bits that are left."""

from __future__ import annotations

import itertools
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from carbide.extraction.harden.output_policy import OutputPolicy
from carbide.extraction.policy_model import FLOATS, PolicyModel, rounded
from carbide.extraction.prove.answer_bits import AnswerBits, bits_of
from carbide.models import pack, unpack
from carbide.models.estimators import EstimatorRecipe
from carbide.models.operating import calibrated
from carbide.types import Access, InputError, OperatingPoint, Queries, decide, rng_for
from tests.extraction.worlds import rows, softmax


@st.composite
def shares(draw, k):
    """Rows of k probabilities, with ties, zeros and ones among them."""
    n = draw(st.integers(1, 8))
    raw = draw(hnp.arrays(np.float64, (n, k), elements=st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, 1e-13, 0.335, 1e-5]))))
    raw[raw.sum(1) < 1e-12, 0] = 1.0
    return raw / raw.sum(1, keepdims=True)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), k=st.integers(2, 6), decimals=st.integers(1, 6))
def test_rounding_keeps_the_decision_sums_to_one_and_moves_less_than_a_step(data, k, decimals):
    p = data.draw(shares(k))
    threshold = data.draw(st.one_of(st.floats(0, 1), st.sampled_from([0.5, *p[:, 1].tolist()]))) if k == 2 else 0.5
    labels = decide(p, threshold)
    out = rounded(p, labels, decimals, threshold)
    np.testing.assert_array_equal(decide(out, threshold), labels)
    np.testing.assert_allclose(out.sum(1), 1, atol=1e-9)
    moved = np.abs(out - p) * 10**decimals
    assert (moved < 2 + 1e-6).all()
    far = (moved >= 1 + 1e-6).any(1)
    assert k > 2 or not far.any()
    for row, label in zip(p[far], labels[far], strict=True):
        assert not _possible_within_a_step(row, label, 10**decimals)
    np.testing.assert_array_equal(out, np.round(out * 10**decimals) / 10**decimals)
    assert ((out >= 0) & (out <= 1)).all()


def _possible_within_a_step(row, label, unit):
    """Brute force: some choice of rounding down or up sums to one and decides on the label, rounding the label up where it can."""
    low = np.floor(row * unit + 1e-9)
    for up in itertools.product((0, 1), repeat=len(row)):
        steps = low + np.array(up)
        if steps.sum() == unit and (np.abs(steps - row * unit) < 1).all() and steps.argmax() == label:
            return True
    return False


@pytest.mark.parametrize("k", [2, 3, 4])
def test_the_number_of_answers_is_the_number_of_ways(k):
    """Counted one by one for one decimal."""
    ways = sum(1 for parts in itertools.product(range(11), repeat=k) if sum(parts) == 10)
    model = PolicyModel(inner=softmax(4, k), decimals=1)
    assert model.answer_count == ways
    assert bits_of(k, 1) == round(math.log2(ways), 2)
    assert PolicyModel(inner=softmax(4, k)).answer_count == k


def test_floats_between_zero_and_one_are_counted_right():
    """The bits of 1.0 as an integer count the floats below it."""
    assert np.array(1.0).view(np.uint64) + 2 == FLOATS


@pytest.mark.parametrize("decimals", [1, 3, None])
@pytest.mark.parametrize("threshold", [0.003, 0.5, 0.99])
def test_a_policy_keeps_every_decision_at_any_threshold(decimals, threshold):
    victim = softmax(6, 2, seed=2).at(threshold)
    x = rows(victim, 3000, 1).x
    shown = PolicyModel(inner=victim, decimals=decimals)
    np.testing.assert_array_equal(decide(shown.predict(x), shown.threshold), decide(victim.predict(x), threshold))
    moved = shown.at(0.2)
    np.testing.assert_array_equal(decide(moved.predict(x), moved.threshold), decide(victim.predict(x), 0.2))


@pytest.mark.parametrize("decimals", [1, None])
def test_the_operating_point_is_that_of_the_full_scores(decimals):
    victim = softmax(6, 2, seed=2)
    validation, point = rows(victim, 2000, 1), OperatingPoint(false_positive_rate=0.01)
    plain = calibrated(victim, validation, point)
    shown = calibrated(PolicyModel(inner=victim, decimals=decimals), validation, point)
    assert shown.threshold == plain.threshold
    x = rows(victim, 2000, 2).x
    np.testing.assert_array_equal(decide(shown.predict(x), shown.threshold), decide(plain.predict(x), plain.threshold))


def test_what_labels_alone_give_is_known():
    victim = softmax(4, 3)
    shown = OutputPolicy()(victim, rows(victim, 9, 0), rng_for(0))
    assert shown.access == Access.LABELS
    x = rows(victim, 50, 1).x
    np.testing.assert_array_equal(shown.predict(x), np.eye(3)[victim.predict(x).argmax(1)])
    assert shown.digest() != victim.digest()


def test_strengths_go_from_weak_to_strong():
    victim = softmax(4, 3)
    counts = [s(victim, rows(victim, 9, 0), rng_for(0)).answer_count for s in OutputPolicy().strengths()]
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 3


def test_a_policy_is_stored_without_pickles_and_what_lies_inside_stays_reachable():
    from sklearn.linear_model import LogisticRegression

    data = rows(softmax(), 80, 1)
    inner = EstimatorRecipe(estimator=LogisticRegression()).fit(data, rng_for(0))
    model = PolicyModel(inner=inner, decimals=2).at(0.3)
    again = unpack(pack(model))
    np.testing.assert_array_equal(again.predict(data.x), model.predict(data.x))
    assert again.digest() == model.digest()
    assert again.threshold == 0.3
    assert model.estimator is inner.estimator
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict(data.x), model.predict(data.x))
    with pytest.raises(AttributeError):
        _ = model.nothing_of_the_kind


@pytest.mark.parametrize(("make", "match"), [
    (lambda: OutputPolicy(answers="noise"), "answers is 'noise'"), (lambda: OutputPolicy(decimals=0), "decimals is 0"),
    (lambda: PolicyModel(inner=softmax(), decimals=40), "decimals is 40"),
])  # fmt: skip
def test_wrong_options_are_named(make, match):
    with pytest.raises(InputError, match=match):
        make()


def test_the_bits_hold_for_every_transcript_that_was_seen():
    """The measured entropy of the answers to many rows never exceeds the certified bits a query."""
    victim = softmax(3, 3, seed=5)
    x, y = rows(victim, 4000, 1).x, rows(victim, 4000, 1).y
    for decimals in (1, 2, None):
        model = PolicyModel(inner=victim, decimals=decimals)
        threat = Queries(n=100)
        certificate = AnswerBits()(model, x, y, threat, rng_for(0))
        _, count = np.unique(model.predict(x), axis=0, return_counts=True)
        entropy = float(-(count / len(x) * np.log2(count / len(x))).sum())
        assert certificate.holds.all()
        assert 0 < entropy <= certificate.bound[0]
        assert certificate.failure_probability == 0
    assert certificate.bound[0] == pytest.approx(math.log2(3))


def test_full_floats_are_not_called_a_limit():
    victim = softmax(3, 2)
    data = rows(victim, 10, 1)
    plain = AnswerBits()(victim, data.x, data.y, Queries(n=10), rng_for(0))
    assert not plain.holds.any()
    labels = AnswerBits()(victim, data.x, data.y, Queries(n=10, answers="labels"), rng_for(0))
    assert labels.holds.all()
    assert "at most 10 bits" in labels.claim
