"""Intervals hold what they claim: against scipy, and coverage by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from carbide.stats.intervals import Interval, bootstrap, clopper_pearson, difference


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.95, 0.999]))
def test_clopper_pearson_is_scipys(pair, confidence):
    k, n = pair
    exact = binomtest(k, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_clopper_pearson_covers_at_least_its_confidence():
    rng = np.random.default_rng(0)
    for p in (0.01, 0.3, 0.9):
        counts = rng.binomial(60, p, 4000)
        held = [low <= p <= high for low, high in (clopper_pearson(int(k), 60) for k in counts)]
        assert np.mean(held) >= 0.945


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="successes is 3"):
        clopper_pearson(3, 2)
    assert np.isnan(clopper_pearson(0, 0).low)


def test_bootstrap_over_clusters_is_wider_than_over_rows_and_covers():
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(150):
        centres = rng.normal(size=40)
        values = np.repeat(centres, 5) + 0.1 * rng.normal(size=200)
        clusters = np.repeat(np.arange(40), 5)
        low, high = bootstrap(lambda rows, values=values: float(values[rows].mean()), clusters, rng, draws=200)
        held += low <= 0 <= high
    rows = bootstrap(lambda r: float(values[r].mean()), np.arange(200), rng, draws=200)
    assert 0.88 <= held / 150 <= 0.99
    assert (high - low) > 1.6 * (rows.high - rows.low)


def test_the_difference_of_two_intervals():
    one, other = clopper_pearson(30, 40), clopper_pearson(0, 40)
    gap = difference(one, other, (0.75, 0.0))
    assert gap.low == pytest.approx(0.75 - np.hypot(0.75 - one.low, other.high))
    assert gap.high == pytest.approx(one.high)
    assert difference(Interval(0, 1), Interval(0, 1), (0.5, 0.5)) == pytest.approx((-np.hypot(0.5, 0.5), np.hypot(0.5, 0.5)))


@pytest.mark.parametrize(("p", "q", "n", "m"), [(0.3, 0.1, 60, 80), (0.9, 0.5, 40, 40), (0.05, 0.04, 100, 200)])
def test_the_difference_of_two_shares_is_held_as_often_as_it_claims(p, q, n, m):
    rng, held = np.random.default_rng(0), 0
    for a, b in zip(rng.binomial(n, p, 600), rng.binomial(m, q, 600), strict=True):
        gap = difference(clopper_pearson(int(a), n), clopper_pearson(int(b), m), (a / n, b / m))
        held += gap.low <= p - q <= gap.high
    assert held / 600 > 0.94
