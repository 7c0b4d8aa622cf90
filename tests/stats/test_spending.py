"""The numerical account against exact curves, brute force and the figures of two other libraries; never below the truth."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from carbide.stats.accounting import ADD_OR_REMOVE, PrivacyStatement, gdp_delta, gdp_epsilon, gdp_mu, gdp_tpr
from carbide.stats.rdp import Steps, rdp_epsilon
from carbide.stats.spending import Spending, noise_multiplier


def spent(noise, rate, count):
    return Spending([Steps(noise=noise, rate=rate, count=count)])


def one_step(noise, rate, epsilon):
    """Delta of one sampled step: where the density ratio exceeds exp(epsilon), from both sides."""

    def masses(place):  # above it: with the row, without it
        without = norm.sf(place / noise)
        return (1 - rate) * without + rate * norm.sf((place - 1) / noise), without

    def place(loss):
        inside = (math.exp(loss) - 1 + rate) / rate
        return noise**2 * math.log(inside) + 0.5 if inside > 0 else -math.inf

    present, absent = masses(place(epsilon))
    first = present - math.exp(epsilon) * absent
    present, absent = (1 - m for m in masses(place(-epsilon)))
    return max(first, absent - math.exp(epsilon) * present)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.3), (0.5, 0.01), (3.0, 0.9), (0.8, 1.0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0, 3.0])
def test_one_step_is_its_closed_form(noise, rate, epsilon):
    truth = one_step(noise, rate, epsilon)
    assert truth * (1 - 1e-9) <= spent(noise, rate, 1).delta(epsilon) <= truth * 1.002 + 1e-12


def test_two_steps_are_the_integral_over_the_plane():
    noise, rate = 0.9, 0.25
    x = np.linspace(-9 * noise, 1 + 9 * noise, 2001)
    cell = x[1] - x[0]
    absent = norm.pdf(x, 0, noise)
    present = (1 - rate) * absent + rate * norm.pdf(x, 1, noise)
    both, none = np.outer(present, present), np.outer(absent, absent)
    for epsilon in (0.1, 0.7, 2.0):
        truth = max(np.maximum(a - math.exp(epsilon) * b, 0).sum() * cell**2 for a, b in ((both, none), (none, both)))
        assert spent(noise, rate, 2).delta(epsilon) == pytest.approx(truth, rel=1e-3)
        assert spent(noise, rate, 2).delta(epsilon) >= truth * (1 - 1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 5), st.floats(-15, -1), st.sampled_from([1, 7, 1000, 50_000]))
def test_without_sampling_it_is_exact_and_never_below(mu, exponent, count):
    delta = 10.0**exponent
    account, exact = spent(math.sqrt(count) / mu, 1.0, count), gdp_epsilon(mu, delta)
    assert exact * (1 - 1e-9) <= account.epsilon(delta) <= exact * 1.0002 + 1e-6
    assert gdp_delta(mu, mu) * (1 - 1e-9) <= account.delta(mu) <= gdp_delta(mu, mu) * 1.002


@pytest.mark.parametrize("mu", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("fpr", [1e-4, 0.01, 0.3, 0.9])
def test_rates_without_sampling_are_those_of_the_gaussian(mu, fpr):
    account = spent(math.sqrt(20) / mu, 1.0, 20)
    assert gdp_tpr(fpr, mu) <= account.tpr(fpr) <= gdp_tpr(fpr, mu) * 1.001
    assert account.reconstruction(fpr) == account.tpr(fpr)


@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.1, 0.5])
def test_rate_of_one_sampled_step_is_that_of_the_best_test(fpr):
    noise, rate = 0.8, 0.2
    place = noise * norm.isf(fpr)  # the likelihood ratio grows with the output
    truth = (1 - rate) * fpr + rate * norm.sf((place - 1) / noise)
    assert truth * (1 - 1e-9) <= spent(noise, rate, 1).tpr(fpr) <= truth * 1.002


def test_edges_of_rates():
    account = spent(1.0, 0.1, 10)
    assert account.tpr(1.0) == 1
    assert account.tpr(0.0) < 1e-9
    assert account.tpr(0.02) >= 0.02


# dp-accounting 0.6.0 (connect-the-dots, intervals of 1e-4 and 1e-5) at delta 1e-5 and 1e-8; Opacus 1.6.0's PRVAccountant at
# 1e-5 with eps_error 0.001, which reports the upper end of its interval, 0.001 above its estimate.
PEERS = [(1.0, 0.01, 1000, 1.828243645591767, 2.6978754973674532, 1.8293687315675626),
         (0.6, 0.001, 20000, 3.044803838787577, 5.143712360850147, 3.046030860962571),
         (2.0, 1.0, 10, 7.5112759312213635, 9.697845272703434, 7.512640008118375),
         (5.0, 0.1, 5000, 6.676904088912496, 8.680847724979493, 6.678221246201894),
         (1.1, 256 / 60000, 14062, 2.381686002234757, 3.2506710020905736, 2.38274112706767),
         (0.4, 0.01, 50, 10.268884250840735, 16.753374303955365, 10.270858304900989),
         (0.8, 0.0001, 100000, 0.20574122149255591, 0.31940740397830026, 0.20671156006273722)]  # fmt: skip


@pytest.mark.parametrize(("noise", "rate", "count", "first", "second", "prv"), PEERS)
def test_epsilon_is_that_of_other_accountants(noise, rate, count, first, second, prv):
    account = spent(noise, rate, count)
    mine = account.epsilon(1e-5)
    assert mine == pytest.approx(first, rel=1e-3)
    assert mine == pytest.approx(prv - 0.001, abs=1e-3)
    assert account.epsilon(1e-8) == pytest.approx(second, rel=1e-3)
    assert mine <= rdp_epsilon(account.steps, 1e-5)


def test_different_steps_compose_in_any_order_and_grouping():
    steps = [Steps(noise=1.0, rate=0.01, count=500), Steps(noise=2.0, rate=0.05, count=300)]
    account = Spending(steps)
    assert account.epsilon(1e-5) == pytest.approx(2.3388419610345896, rel=1e-3)  # dp-accounting 0.6.0
    assert account.delta(1.0) == pytest.approx(0.012621027931726762, rel=1e-3)
    split = Spending([steps[1], Steps(noise=1.0, rate=0.01, count=200), Steps(noise=1.0, rate=0.01, count=300)])
    assert split.epsilon(1e-5) == pytest.approx(account.epsilon(1e-5), rel=1e-6)
    whole = Spending([Steps(noise=3.0), Steps(noise=1.5, count=4)])
    assert whole.epsilon(1e-5) == pytest.approx(gdp_epsilon(math.sqrt(1 / 9 + 4 / 2.25), 1e-5), rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 4), st.floats(0.001, 0.5), st.integers(1, 500))
def test_epsilon_and_delta_are_each_others_inverse(noise, rate, count):
    account = spent(noise, rate, count)
    epsilon = account.epsilon(1e-6)
    if epsilon > 0.01:
        assert account.delta(epsilon) == pytest.approx(1e-6, rel=1e-3)
    assert account.epsilon(1e-9) >= epsilon
    assert account.excess(1e-6) < 0.2 + 0.1 * epsilon


def test_what_the_grid_adds_is_within_its_bound():
    for mu in (0.3, 2.0):
        account = spent(math.sqrt(50) / mu, 1.0, 50)
        assert account.epsilon(1e-5) - account.excess(1e-5) <= gdp_epsilon(mu, 0.99e-5)


@pytest.mark.parametrize(("epsilon", "rate", "count"), [(1.0, 0.01, 1000), (3.0, 256 / 60000, 14062), (0.2, 0.2, 50), (8.0, 0.5, 40)])
def test_calibrated_noise_is_enough_and_not_much_more(epsilon, rate, count):
    noise = noise_multiplier(epsilon=epsilon, delta=1e-6, rate=rate, count=count)
    assert spent(noise, rate, count).epsilon(1e-6) <= epsilon
    assert spent(noise * (1 - 2e-4), rate, count).epsilon(1e-6) > epsilon


def test_calibrated_noise_without_sampling_is_the_gaussian_mechanisms():
    assert noise_multiplier(epsilon=1.0, delta=1e-5, rate=1.0, count=9) == pytest.approx(3 / gdp_mu(1.0, 1e-5), rel=2e-4)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.005, 1e-6), (0.001, 1e-6), (1e-4, 1e-6), (0.006, 1e-6), (0.002, 1e-9)])
def test_small_epsilons_are_calibrated_below_what_renyi_divergences_can_convert_to(epsilon, delta):
    assert noise_multiplier(epsilon=epsilon, delta=delta, rate=1.0, count=100) == pytest.approx(10 / gdp_mu(epsilon, delta), rel=2e-4)
    noise = noise_multiplier(epsilon=epsilon, delta=delta, rate=0.1, count=100)
    assert spent(noise, 0.1, 100).epsilon(delta) <= epsilon < spent(noise * 0.998, 0.1, 100).epsilon(delta)
    assert noise == pytest.approx(1 / gdp_mu(epsilon, delta), rel=2e-3)  # the limit of many steps with much noise
    assert rdp_epsilon([Steps(noise=noise, rate=0.1, count=100)], delta) > epsilon  # which is on the safe side, and too far there


def test_a_statement_bounds_what_the_account_bounds():
    account = spent(1.0, 0.02, 500)
    statement = account.statement(1e-5, assumptions=["said"])
    assert statement.epsilon == account.epsilon(1e-5)
    assert statement.adjacency == ADD_OR_REMOVE
    for fpr in (0.001, 0.01, 0.1, 0.5):
        assert account.tpr(fpr) <= statement.presence_tpr(fpr) <= 1.02 * account.tpr(fpr)
        assert statement.tpr(fpr) == statement.presence_tpr(statement.presence_tpr(fpr))
    assert PrivacyStatement.from_state(json.loads(json.dumps(statement.to_state()))) == statement
    assert account.statement(1e-5, epsilon=9.0).epsilon == 9.0
    with pytest.raises(ValueError, match=r"epsilon is 0.5, but the steps spend"):
        account.statement(1e-5, epsilon=0.5)


def test_swapping_a_record_is_two_steps_of_the_gaussian():
    # away with one record (mu), in with another (mu): a Gaussian shift of 2 mu, to which the composed bound must come
    account = spent(10.0, 1.0, 25)
    statement = account.statement(1e-5)
    for fpr in (0.01, 0.1):
        assert gdp_tpr(fpr, 1.0) <= statement.tpr(fpr) <= 1.02 * gdp_tpr(fpr, 1.0)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: Spending([]), "no steps"), (lambda: spent(1, 0.1, 1).epsilon(0), "delta is 0"), (lambda: spent(1, 0.1, 1).delta(-1), "epsilon is -1"),
    (lambda: spent(1, 0.1, 1).tpr(2), "fpr is 2"), (lambda: spent(1, 0.1, 1).reconstruction(-0.1), "prior is -0.1"),
    (lambda: noise_multiplier(epsilon=0, delta=1e-5, rate=0.1, count=1), "epsilon is 0"),
    (lambda: noise_multiplier(epsilon=1, delta=1, rate=0.1, count=1), "delta is 1"),
    (lambda: noise_multiplier(epsilon=1, delta=1e-5, rate=0, count=1), "rate is 0"),
])  # fmt: skip
def test_nonsense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
