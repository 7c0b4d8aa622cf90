"""The accountant against numerical integration, published values, simulation and the mechanisms that attain the bounds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from carbide.stats.accounting import PrivacyStatement, compose_gdp, dp_tpr, gdp_delta, gdp_epsilon, gdp_mu, gdp_tpr, noise_for
from carbide.stats.roc import tpr_at_fpr

mus = st.floats(0.05, 6)
epsilons = st.floats(0, 8)
rates = st.floats(1e-4, 0.9999)


@pytest.mark.parametrize("mu", [0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
def test_delta_is_the_integral_of_what_exceeds(mu, epsilon):
    # delta = integral of max(0, p - e^epsilon q) for p = N(mu, 1), q = N(0, 1); p exceeds from x = epsilon / mu + mu / 2 on
    start = epsilon / mu + mu / 2
    integral, error = quad(lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x), start, start + 40, epsabs=1e-13, limit=200)
    assert gdp_delta(mu, epsilon) == pytest.approx(integral, abs=max(1e-11, 10 * error))


def test_published_values():
    # The analytic Gaussian mechanism at epsilon 1, delta 1e-5, sensitivity 1 (Balle & Wang 2018) needs this noise.
    assert 1 / gdp_mu(1.0, 1e-5) == pytest.approx(3.730631634944469, rel=1e-7)
    assert noise_for(gdp_mu(1.0, 1e-5), steps=1, sensitivity=1.0) == pytest.approx(3.730631634944469, rel=1e-7)
    # at epsilon 0 delta is the total variation distance of N(0, 1) and N(mu, 1)
    assert gdp_delta(1.0, 0.0) == pytest.approx(2 * norm.cdf(0.5) - 1, rel=1e-12)


@given(mus, st.floats(1e-12, 0.4))
def test_epsilon_is_the_least_and_on_the_safe_side(mu, delta):
    epsilon = gdp_epsilon(mu, delta)
    assert gdp_delta(mu, epsilon) <= delta
    if epsilon > 1e-6:
        assert gdp_delta(mu, epsilon * (1 - 1e-6)) > delta - 1e-15


@given(epsilons, st.floats(1e-12, 0.4))
def test_mu_is_the_largest_and_on_the_safe_side(epsilon, delta):
    mu = gdp_mu(epsilon, delta)
    assert gdp_delta(mu, epsilon) <= delta < gdp_delta(mu * (1 + 1e-6), epsilon) + 1e-15


def test_extremes_stay_finite():
    assert gdp_delta(0.0, 1.0) == 0
    assert 0 <= gdp_delta(0.01, 50.0) < 1e-300
    assert gdp_delta(200.0, 1.0) == pytest.approx(1.0)
    assert gdp_epsilon(0.01, 0.5) == 0
    assert math.isfinite(gdp_epsilon(50.0, 1e-12))
    assert gdp_mu(700.0, 1e-9) > 30


def test_composition_is_that_of_the_likelihood_ratios():
    # The sum of the log likelihood ratios of independent Gaussian answers is N(mu^2 / 2, mu^2) with mu the root of the sum of squares.
    parts = np.array([0.3, 0.5, 0.2, 0.9])
    mu = compose_gdp(parts)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((400_000, 4))
    loss = (parts * (noise + parts) - parts**2 / 2).sum(1)
    epsilon = 0.7
    simulated = np.maximum(0, 1 - np.exp(epsilon - loss)).mean()
    assert gdp_delta(mu, epsilon) == pytest.approx(simulated, abs=0.002)
    assert compose_gdp([2.0] * 9) == pytest.approx(6.0)
    assert noise_for(1.5, steps=16, sensitivity=0.5) == pytest.approx(4 * 0.5 / 1.5)


def test_gaussian_rate_is_that_of_the_best_test():
    rng = np.random.default_rng(1)
    members = np.arange(1_000_000) % 2 == 0
    scores = rng.standard_normal(1_000_000) + 0.8 * members
    for fpr in (0.01, 0.2):
        assert gdp_tpr(fpr, 0.8) == pytest.approx(tpr_at_fpr(scores, members, fpr), abs=0.003)
    assert gdp_tpr(0.0, 1.0) == 0
    assert gdp_tpr(1.0, 1.0) == 1
    assert gdp_tpr(0.3, 0.0) == pytest.approx(0.3)


@given(rates, st.floats(0, 5), st.floats(0, 0.3))
def test_bound_of_epsilon_and_delta_is_attained(fpr, epsilon, delta):
    # The mechanism with four outcomes that is exactly (epsilon, delta)-DP and worst among them (Kairouz et al. 2015).
    share = (1 - delta) / (1 + math.exp(epsilon))
    inside = np.array([delta, share * math.exp(epsilon), share, 0.0])
    outside = inside[::-1]
    alarms, hits = np.concatenate([[0], np.cumsum(outside)]), np.concatenate([[0], np.cumsum(inside)])
    attained = max(
        s + (t - s) * (fpr - a) / (b - a) for a, b, s, t in zip(alarms, alarms[1:], hits, hits[1:], strict=False) if a <= fpr <= b and b > a
    )
    assert dp_tpr(fpr, epsilon, delta) == pytest.approx(attained, abs=1e-9)


@given(rates, st.floats(0.1, 4))
def test_gaussian_bound_is_the_least_of_its_epsilons(fpr, mu):
    bounds = [dp_tpr(fpr, e, gdp_delta(mu, e)) for e in np.linspace(0, 20, 2001)]
    assert min(bounds) >= gdp_tpr(fpr, mu) - 1e-9
    assert min(bounds) == pytest.approx(gdp_tpr(fpr, mu), abs=5e-3)


@given(rates, epsilons, st.floats(1e-9, 0.1))
def test_statement_takes_the_better_bound(fpr, epsilon, delta):
    mu = gdp_mu(epsilon, delta)
    loose = PrivacyStatement(epsilon=epsilon, delta=delta)
    tight = PrivacyStatement(epsilon=epsilon, delta=delta, mu=mu)
    assert fpr - 1e-12 <= tight.tpr(fpr) <= loose.tpr(fpr) <= 1
    assert PrivacyStatement.from_state(tight.to_state()) == tight


@pytest.mark.parametrize("call", [
    lambda: gdp_delta(-1, 0), lambda: gdp_delta(1, -1), lambda: gdp_epsilon(1, 0), lambda: gdp_mu(1, 1), lambda: gdp_tpr(2, 1),
    lambda: dp_tpr(float("nan"), 1, 0), lambda: noise_for(0, steps=1, sensitivity=1), lambda: PrivacyStatement(epsilon=-1, delta=0),
    lambda: PrivacyStatement(epsilon=1, delta=2), lambda: PrivacyStatement(epsilon=1, delta=0, mu=-1), lambda: gdp_delta(float("nan"), 1),
])  # fmt: skip
def test_nonsense_is_refused(call):
    with pytest.raises(ValueError, match="give"):
        call()
