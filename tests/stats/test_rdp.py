"""Renyi accounting against numerical integration, closed forms and the figures of two other libraries."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad

from carbide.stats.accounting import gdp_delta, gdp_epsilon
from carbide.stats.rdp import Steps, rdp_delta, rdp_epsilon, renyi


def divergence(order, noise, rate, *, remove=True):
    """One direction of the divergence by adaptive quadrature."""

    def integrand(x):
        log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
        power = order if remove else 1 - order  # E_Q (P/Q)^order, or E_P (Q/P)^order = E_Q (P/Q)^(1 - order)
        return math.exp(-0.5 * (x / noise) ** 2 + power * log_ratio) / (noise * math.sqrt(2 * math.pi))

    points = [0.0, order, order / 2]
    value, _ = quad(integrand, -12 * noise, order + 12 * noise, points=points, limit=500, epsabs=0, epsrel=1e-11)
    return math.log(value) / (order - 1)


@pytest.mark.parametrize(("noise", "rate"), [(1.0, 0.01), (0.7, 0.2), (2.5, 0.5), (4.0, 0.001)])
@pytest.mark.parametrize("order", [1.1, 1.5, 2.0, 4.7, 8.0, 21.3])
def test_divergence_is_the_integral_and_the_larger_direction(noise, rate, order):
    expected = divergence(order, noise, rate)
    assert renyi(order, noise=noise, rate=rate) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert expected >= divergence(order, noise, rate, remove=False) - 1e-12


# Opacus 1.6.0, opacus.accountants.analysis.rdp.compute_rdp of one step at (q 0.01, noise 1) and (q 0.2, noise 0.7).
OPACUS = [
    (1.5, 0.00012725374351154145, 0.12776656197417535),
    (2.0, 0.00017181342207453428, 0.23734273796409944),
    (4.7, 0.0004361716422072538, 2.7542487959297373),
    (32.0, 11.246275937048072, 30.9917059600417),
    (64.0, 27.32173187455178, 63.671137903014795),
]


@pytest.mark.parametrize(("order", "first", "second"), OPACUS)
def test_divergence_is_that_of_opacus(order, first, second):
    assert renyi(order, noise=1.0, rate=0.01) == pytest.approx(first, rel=1e-6)
    assert renyi(order, noise=0.7, rate=0.2) == pytest.approx(second, rel=1e-6)


# dp-accounting 0.6.0, RdpAccountant: epsilon at delta 1e-5 and 1e-8.
CASES = [(1.0, 0.01, 1000, 2.101366525420273, 3.088439443572703), (0.6, 0.001, 20000, 3.8604966787239263, 5.974047450678118),
         (2.0, 1.0, 10, 8.079406222420491, 10.19607253667372), (5.0, 0.1, 5000, 7.194270729894047, 9.137523986444442),
         (0.4, 0.01, 50, 12.647087202139526, 19.244866681117657)]  # fmt: skip


@pytest.mark.parametrize(("noise", "rate", "count", "first", "second"), CASES)
def test_epsilon_is_that_of_dp_accounting(noise, rate, count, first, second):
    steps = [Steps(noise=noise, rate=rate, count=count)]
    assert rdp_epsilon(steps, 1e-5) == pytest.approx(first, rel=1e-3)
    assert rdp_epsilon(steps, 1e-8) == pytest.approx(second, rel=1e-3)


@settings(max_examples=25)
@given(st.floats(0.2, 4), st.floats(1e-9, 1e-2), st.integers(1, 50))
def test_without_sampling_it_is_above_the_exact_account(mu, delta, count):
    steps = [Steps(noise=math.sqrt(count) / mu, count=count)]
    epsilon = rdp_epsilon(steps, delta)
    assert gdp_epsilon(mu, delta) <= epsilon
    assert rdp_delta(steps, epsilon) <= delta * (1 + 1e-9)
    assert rdp_delta(steps, 1.0) >= gdp_delta(mu, 1.0)


def test_steps_add_up():
    one, other = Steps(noise=1.0, rate=0.02, count=100), Steps(noise=2.0, rate=0.3, count=7)
    halves = [Steps(noise=1.0, rate=0.02, count=60), other, Steps(noise=1.0, rate=0.02, count=40)]
    assert rdp_epsilon([one, other], 1e-6) == pytest.approx(rdp_epsilon(halves, 1e-6), rel=1e-12)
    assert rdp_epsilon([one], 1e-6) < rdp_epsilon([one, other], 1e-6)


@pytest.mark.parametrize(("call", "words"), [
    (lambda: Steps(noise=0), "noise is 0"), (lambda: Steps(noise=1, rate=0), "rate is 0"), (lambda: Steps(noise=1, rate=1.5), "rate is 1.5"),
    (lambda: Steps(noise=1, count=0), "count is 0"), (lambda: Steps(noise=1, count=True), "count is True"), (lambda: renyi(1, noise=1, rate=0.1), "order is 1"),
    (lambda: rdp_epsilon([Steps(noise=1)], 0), "delta is 0"), (lambda: rdp_delta([Steps(noise=1)], -1), "epsilon is -1"),
])  # fmt: skip
def test_nonsense_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
