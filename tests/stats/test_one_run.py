"""Privacy from one run: bounds on the right guesses are those of a linear programme, hold in simulation, and come closer with the whole curve."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import binom, norm

from carbide.stats.accounting import gdp_epsilon
from carbide.stats.audits import all_of, dp_trade_off, gdp_trade_off
from carbide.stats.one_run import LEAST, one_run_epsilon, one_run_mu, one_run_p_value, tail_bound


@pytest.mark.parametrize(("epsilon", "delta"), [(1.0, 0.0), (0.5, 1e-3)])
def test_one_run_holds_for_randomised_response_on_every_canary(epsilon, delta):
    rng, m, runs = np.random.default_rng(3), 200, 3000
    right = rng.binomial(m, 1 / (1 + math.exp(-epsilon)), size=runs)  # the exact worst case without delta
    p = {int(v): one_run_p_value(int(v), m, m, epsilon, delta) for v in np.unique(right)}
    share = np.mean([p[int(v)] <= 0.05 for v in right])
    assert share <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)
    assert (
        one_run_p_value(150, m, m, epsilon, 1e-3)
        >= one_run_p_value(150, m, m, epsilon, 0.0)
        == pytest.approx(binom.sf(149, m, 1 / (1 + math.exp(-epsilon))))
    )


def test_one_run_comes_close_with_many_canaries():
    epsilon, m = 2.0, 100_000
    right = round(m / (1 + math.exp(-epsilon)))
    assert 0.97 * epsilon < one_run_epsilon(right, m, m, 0.0) < epsilon
    few = round(1000 / (1 + math.exp(-epsilon)))
    assert one_run_epsilon(few, 1000, 1000, 1e-5) < one_run_epsilon(few, 1000, 1000, 0.0)
    assert one_run_epsilon(50, 100, 100, 1e-5) == 0.0 == one_run_mu(50, 100, 100)


def programme(correct, guesses, canaries, lines):
    """The largest tail of probabilities ``(g + 1,)`` that flips of one coin allow, where 1 - f's inverse is the largest of some lines."""
    i = np.arange(guesses + 1)
    rows = [slope * (i >= t) * i / canaries - (i >= t - 1) * (guesses - i) / canaries for t in range(1, guesses + 1) for slope, _ in lines]
    ends = [-at for _ in range(1, guesses + 1) for _, at in lines]
    found = linprog(-(i >= correct).astype(float), A_ub=np.array(rows), b_ub=ends, A_eq=np.ones((1, guesses + 1)), b_eq=[1.0])
    return -found.fun


@pytest.mark.parametrize(("correct", "guesses", "canaries"), [(9, 10, 10), (8, 10, 10), (10, 10, 40), (7, 9, 20), (14, 20, 20), (5, 10, 10)])
def test_the_bound_is_the_solution_of_the_linear_programme(correct, guesses, canaries):
    for epsilon, delta in ((0.5, 0.0), (1.0, 0.01), (0.2, 0.05)):
        grow = math.exp(epsilon)
        lines = [(grow, 1 - delta - grow), (1 / grow, -delta / grow)]  # f(1 - r) of (epsilon, delta)
        bound = tail_bound(correct, guesses, canaries, dp_trade_off(epsilon, delta))
        assert bound == pytest.approx(max(LEAST, programme(correct, guesses, canaries, lines)), rel=3e-3)


def right_guesses(mu, canaries, guesses, runs, rng):
    """Right guesses ``(runs,)`` of the best attacker on one N(0, 1) or N(mu, 1) for every canary, surest ones first."""
    coins = rng.random((runs, canaries)) < 0.5
    scores = rng.normal(size=coins.shape) + mu * coins - mu / 2
    order = np.argsort(scores, axis=1)
    low, high = order[:, : guesses // 2], order[:, -(guesses // 2) :]
    return np.take_along_axis(coins, high, 1).sum(1) + (~np.take_along_axis(coins, low, 1)).sum(1)


@pytest.mark.parametrize(("mu", "canaries", "guesses"), [(1.0, 200, 60), (0.5, 100, 100), (2.0, 300, 60)])
def test_gaussian_noise_is_seldom_accused_and_the_curve_comes_closer_than_epsilon(mu, canaries, guesses):
    right = right_guesses(mu, canaries, guesses, 2000, np.random.default_rng(4))
    values, counts = np.unique(right, return_counts=True)
    bounds = np.array([one_run_mu(int(v), guesses, canaries) for v in values])
    beyond = counts[bounds > mu].sum()
    assert binom.sf(beyond - 1, len(right), 0.05) > 1e-3, f"{beyond} of {len(right)} bounds exceed mu"
    typical = int(np.median(right))
    tight, loose = gdp_epsilon(one_run_mu(typical, guesses, canaries), 1e-5), one_run_epsilon(typical, guesses, canaries, 1e-5)
    assert 1.25 * loose < tight < gdp_epsilon(mu, 1e-5)


def test_the_tail_is_bounded_and_more_is_less_likely():
    mu, g = 1.0, 30
    exact = binom.sf(np.arange(g + 1) - 1, g, norm.cdf(mu / 2))  # every canary guessed by its own sign
    bounds = np.array([tail_bound(c, g, g, gdp_trade_off(mu)) for c in range(g + 1)])
    assert (bounds >= exact - LEAST).all()
    assert (np.diff(bounds) <= 0).all()
    both = all_of([gdp_trade_off(mu), dp_trade_off(0.1, 0.01)])
    assert tail_bound(24, g, g, both) <= min(tail_bound(24, g, g, gdp_trade_off(mu)), tail_bound(24, g, g, dp_trade_off(0.1, 0.01)))


def test_counts_are_ordered():
    for function in (lambda: one_run_p_value(5, 4, 10, 1.0, 0.0), lambda: one_run_mu(5, 4, 10), lambda: tail_bound(5, 4, 10, gdp_trade_off(1.0))):
        with pytest.raises(ValueError, match="correct is 5 of 4"):
            function()
