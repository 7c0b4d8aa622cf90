"""Gopi, Lee & Wutschitz 2021, https://arxiv.org/abs/2106.02848: what training with sampled rows and Gaussian noise spent, numerically.

Neighbouring data sets differ by one row that is there or not. The account composes steps of different noise and sampling rate
and reports on the safe side: the true epsilon is never larger (see ``carbide.stats.loss_distribution``).

>>> spent = Spending([Steps(noise=1.0, rate=0.01, count=1000)])
>>> round(spent.epsilon(1e-5), 2), round(spent.tpr(0.01), 3)
(1.83, 0.029)
>>> round(noise_multiplier(epsilon=1.83, delta=1e-5, rate=0.01, count=1000), 2)
1.0
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from carbide.stats.accounting import ADD_OR_REMOVE, PrivacyStatement, _check_delta, _check_rate, gdp_mu
from carbide.stats.loss_distribution import PrivacyLoss, compose
from carbide.stats.rdp import Steps, rdp_epsilon

PROFILE = tuple(10.0**-k for k in np.arange(0.1, 4.01, 0.1).tolist())  # deltas at which a statement keeps epsilons, beside its own
FAR = 4.0  # times the noise of the limit of many steps at which Renyi divergences are tried for a closer start
CLOSE = 1e-4  # how close to the least noise a calibration comes, relatively


class Spending:
    """The account of ``steps``, in the order in which they were taken or any other."""

    def __init__(self, steps: Sequence[Steps]) -> None:
        if not steps:
            raise ValueError("there are no steps to account for; give at least one")
        self.steps = tuple(steps)

    def epsilon(self, delta: float) -> float:
        """The least epsilon >= 0 for which the steps are (epsilon, delta)-DP, rounded up by at most ``excess(delta)``.

        Raises:
            ValueError: if ``delta`` is not in (0, 1).
        """
        _check_delta(delta)
        return max(0.0, *(self._loss(remove, _tilt_of_delta(delta)).epsilon(delta) for remove in (True, False)))

    def delta(self, epsilon: float) -> float:
        """The least delta for which the steps are (epsilon, delta)-DP, rounded up.

        Raises:
            ValueError: if ``epsilon`` is negative.
        """
        if not epsilon >= 0:
            raise ValueError(f"epsilon is {epsilon}; give a number >= 0")
        return max(self._loss(remove, _tilt_of_epsilon(epsilon)).delta(epsilon) for remove in (True, False))

    def excess(self, delta: float) -> float:
        """By how much at most ``epsilon(delta)`` is above the true epsilon at 0.99 delta; what it is above is usually far less."""
        return max(self._loss(remove, _tilt_of_delta(delta)).excess(0.01, delta) for remove in (True, False))

    def tpr(self, fpr: float) -> float:
        """The highest true-positive rate with which a row's presence can be told at this false-positive rate.

        Raises:
            ValueError: if ``fpr`` is not in [0, 1].
        """
        _check_rate(fpr)
        return self._plain.tpr(fpr)

    def reconstruction(self, prior: float) -> float:
        """The most that a row's reconstruction can succeed with when the best blind guess succeeds with probability ``prior``.

        Hayes, Mahloujifar & Balle 2023, https://arxiv.org/abs/2302.07225, theorem 2: success is an event of probability at
        most ``prior`` when the row was not there, so the trade-off curve bounds it when it was. What counts as success (say, an
        image at most so far off) is the reader's to say; it decides the prior.

        Raises:
            ValueError: if ``prior`` is not in [0, 1].
        """
        if not 0 <= prior <= 1:
            raise ValueError(f"prior is {prior}; give the probability in [0, 1] with which the best blind guess succeeds")
        return self._plain.tpr(prior)

    def statement(self, delta: float, *, epsilon: float | None = None, assumptions: Sequence[str] = ()) -> PrivacyStatement:
        """What was spent, to go with a model; ``epsilon`` is a target that must hold (None = the least)."""
        least = self.epsilon(delta)
        if epsilon is not None and least > epsilon:
            raise ValueError(f"epsilon is {epsilon}, but the steps spend {least:.6g} at delta {delta:g}; add noise or take fewer steps")
        curve = tuple((self._curve(d), d) for d in PROFILE)
        return PrivacyStatement(epsilon=least if epsilon is None else epsilon, delta=delta, adjacency=ADD_OR_REMOVE, curve=curve,
                                assumptions=tuple(assumptions))  # fmt: skip

    @functools.cached_property
    def _plain(self) -> PrivacyLoss:
        return self._loss(True, lambda moment: 0.0)

    @functools.cached_property
    def _plain_add(self) -> PrivacyLoss:
        return self._loss(False, lambda moment: 0.0)

    def _curve(self, delta: float) -> float:
        return max(0.0, self._plain.epsilon(delta), self._plain_add.epsilon(delta))

    def _loss(self, remove: bool, tilt: Callable[[Callable[[float], float]], float]) -> PrivacyLoss:
        return compose(self.steps, remove=remove, tilt=tilt)


def noise_multiplier(*, epsilon: float, delta: float, rate: float, count: int) -> float:
    """The least noise, in standard deviations a unit of sensitivity, for which ``count`` steps are (epsilon, delta)-DP.

    It is above the least by at most a share of 1e-4, and never below.

    Raises:
        ValueError: if epsilon is not positive, delta not in (0, 1), the rate not in (0, 1] or the count below 1.
    """
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon is {epsilon}; give a number > 0")
    _check_delta(delta)
    Steps(noise=1.0, rate=rate, count=count)
    return _noise(epsilon, delta, rate, count)


@functools.lru_cache(maxsize=1024)
def _noise(epsilon: float, delta: float, rate: float, count: int) -> float:
    def spent(noise: float) -> float:
        return Spending([Steps(noise=noise, rate=rate, count=count)]).epsilon(delta)

    def bound(noise: float) -> float:
        return rdp_epsilon([Steps(noise=noise, rate=rate, count=count)], delta)

    seen = gdp_mu(epsilon, delta) / (rate * math.sqrt(count))
    start = 1 / math.sqrt(max(math.log1p(seen * seen), 1e-300))  # of the limit of many steps (Bu et al. 2019, https://arxiv.org/abs/1911.11607)
    if bound(max(1.0, FAR * start)) <= epsilon:  # else epsilon is below, or close to, what Renyi divergences of no loss at all convert to
        start = _search(bound, epsilon, 1.0, 0.02)
    return _search(spent, epsilon, start, CLOSE)


def _search(spent: Callable[[float], float], epsilon: float, start: float, close: float) -> float:
    """A noise at which ``spent`` (falling) is at most epsilon, within a share ``close`` of the least such, by interpolation of logarithms."""
    low, high, factor = (start, spent(start)), (start, math.nan), 1.02
    if low[1] <= epsilon:
        low, high = high, low
    while not (low[1] > epsilon >= high[1]):
        trial = high[0] / factor if high[1] <= epsilon else low[0] * factor
        low, high = ((trial, value), high) if (value := spent(trial)) > epsilon else (low, (trial, value))
        factor **= 1.5
    side = 1.0
    while high[0] > low[0] * (1 + close):
        a, b = (math.log(max(value, 1e-12)) for _, value in (low, high))
        share = (a - math.log(epsilon)) / (a - b) if math.isfinite(a) else 0.5
        trial = low[0] * (high[0] / low[0]) ** min(0.95, max(0.05, share)) * (1 + side * close / 3)  # a little to one side, then to the other
        trial = trial if low[0] < trial < high[0] else math.sqrt(low[0] * high[0])
        value = spent(trial)
        side = -1.0 if value <= epsilon else 1.0
        low, high = ((trial, value), high) if value > epsilon else (low, (trial, value))
    return high[0]


def _tilt_of_delta(delta: float) -> Callable[[Callable[[float], float]], float]:
    """The tilt that makes losses near the epsilon of this delta typical: Chernoff's bound on that epsilon is least there."""
    return lambda moment: _least(lambda theta: (moment(theta) - math.log(delta)) / theta)


def _tilt_of_epsilon(epsilon: float) -> Callable[[Callable[[float], float]], float]:
    """The tilt that makes losses near epsilon typical."""
    return lambda moment: _least(lambda theta: moment(theta) - theta * epsilon)


def _least(bound: Callable[[float], float]) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda log_theta: bound(math.exp(log_theta)), bounds=(-4.0, 9.0), method="bounded", options={"xatol": 0.05})
    return math.exp(float(found.x))  # type: ignore[attr-defined]
