"""Bounds from counts of errors: exact where there is a closed form, valid and powerful in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from carbide.stats.accounting import gdp_epsilon
from carbide.stats.audits import (
    Counts,
    all_of,
    best_weight,
    dp_trade_off,
    epsilon_lower,
    gdp_slope,
    gdp_trade_off,
    mu_lower,
    p_value,
)  # fmt: skip
from carbide.stats.intervals import clopper_pearson


def drawn(mu, n, at, rng):
    """Errors of a threshold on N(0, 1) against N(mu, 1), the exact Gaussian mechanism."""
    fpr, fnr = norm.sf(at), norm.cdf(at - mu)
    weight = best_weight(fpr, fnr, n, n, gdp_slope(fpr, mu))
    return Counts(false_positives=int(rng.binomial(n, fpr)), negatives=n, false_negatives=int(rng.binomial(n, fnr)), positives=n, weight=weight)


@pytest.mark.parametrize(("mu", "n", "at"), [(1.0, 200, 0.5), (0.3, 100, 0.15), (2.0, 150, 1.0), (1.0, 300, 2.0), (3.0, 60, 0.5)])
def test_a_true_claim_is_refuted_no_more_often_than_stated(mu, n, at):
    rng, level, runs = np.random.default_rng(0), 0.05, 200
    p = np.array([p_value(drawn(mu, n, at, rng), gdp_trade_off(mu)) for _ in range(runs)])
    for cut in (level, 0.2, 0.5):
        assert binom.sf((p <= cut).sum() - 1, runs, cut) > 1e-3, f"{(p <= cut).mean():.3f} of the runs are below {cut}"


def test_the_bound_exceeds_the_truth_as_seldom_as_stated_and_comes_close():
    rng, mu, n, runs = np.random.default_rng(1), 1.0, 2000, 12
    bounds = np.array([mu_lower(drawn(mu, n, mu / 2, rng)) for _ in range(runs)])
    assert binom.sf((bounds > mu).sum() - 1, runs, 0.05) > 1e-3
    assert 0.9 < bounds.mean() < mu
    large = mu_lower(drawn(mu, 200_000, mu / 2, rng))
    assert 0.985 < large < mu + 0.005
    assert gdp_epsilon(large, 1e-5) > 0.97 * gdp_epsilon(mu, 1e-5)


def test_the_assumption_free_bound_holds_for_randomised_response():
    epsilon, n, rng, runs = 1.5, 400, np.random.default_rng(2), 60
    wrong = 1 / (1 + math.exp(epsilon))
    bounds = [epsilon_lower(Counts(false_positives=int(rng.binomial(n, wrong)), negatives=n, false_negatives=int(rng.binomial(n, wrong)), positives=n), 0.0)
              for _ in range(runs)]  # fmt: skip
    assert binom.sf(np.sum(np.array(bounds) > epsilon) - 1, runs, 0.05) > 1e-3
    assert np.mean(bounds) > 0.8 * epsilon


def test_it_needs_fewer_trainings_than_two_intervals():
    n, errors = 1000, 309
    high = clopper_pearson(errors, n).high
    boxed = norm.isf(high) * 2
    assert boxed < mu_lower(Counts(false_positives=errors, negatives=n, false_negatives=errors, positives=n)) < 2 * norm.isf(errors / n)


def test_p_values_by_brute_force():
    counts = Counts(false_positives=3, negatives=12, false_negatives=2, positives=9)
    root = math.sqrt(0.5)
    alphas = np.linspace(1e-6, 1 - 1e-6, 200_001)
    for claim in (gdp_trade_off(0.7), dp_trade_off(0.5, 0.01), all_of([gdp_trade_off(0.7), dp_trade_off(0.5, 0.01)])):
        z = [np.maximum(-3, norm.isf(binom.cdf(k, n, rate))) for k, n, rate in ((3, 12, alphas), (2, 9, claim(alphas)))]
        assert p_value(counts, claim) == pytest.approx(norm.sf(np.min(root * (z[0] + z[1]))), abs=2e-3)


def test_no_errors_and_all_errors():
    none = Counts(false_positives=0, negatives=500, false_negatives=0, positives=500)
    assert 4 < mu_lower(none) < 8
    assert 4 < epsilon_lower(none, 1e-5) < math.log(500 / 0.69)
    assert mu_lower(Counts(false_positives=500, negatives=500, false_negatives=250, positives=500)) == 0.0
    assert epsilon_lower(Counts(false_positives=250, negatives=500, false_negatives=250, positives=500), 0.0) == 0.0
    assert p_value(Counts(false_positives=300, negatives=500, false_negatives=300, positives=500), gdp_trade_off(0.0)) > 0.5


def test_trade_off_functions():
    alpha = np.array([0.0, 0.01, 0.3, 1.0])
    assert gdp_trade_off(1.0)(alpha)[1:3] == pytest.approx(norm.cdf(norm.isf(alpha[1:3]) - 1))
    assert dp_trade_off(1.0, 0.1)(alpha) == pytest.approx(np.maximum(0, np.maximum(0.9 - math.e * alpha, (0.9 - alpha) / math.e)))
    assert (all_of([gdp_trade_off(1.0), dp_trade_off(0.1, 0.0)])(alpha) >= dp_trade_off(0.1, 0.0)(alpha)).all()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"false_positives": 11}, "false_positives is 11 of 10"), ({"positives": 0, "false_negatives": 0}, "of 0"), ({"weight": 1.0}, "weight is 1.0")],
)
def test_counts_are_checked(wrong, words):
    with pytest.raises(ValueError, match=words):
        Counts(**{"false_positives": 1, "negatives": 10, "false_negatives": 1, "positives": 10} | wrong)
    with pytest.raises(ValueError, match="delta is 2"):
        epsilon_lower(Counts(false_positives=1, negatives=10, false_negatives=1, positives=10), 2.0)
