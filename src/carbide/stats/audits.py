"""Nasr et al. 2023, https://arxiv.org/abs/2302.07956: epsilon tested from below, by many trainings.

An attacker says of each of many trainings which of two neighbouring data sets it saw. Differential privacy bounds the pairs of error
rates that any attacker can have by a trade-off function; counts of errors that it makes too unlikely refute it. A lower bound on mu or
epsilon is the largest value that the counts refute. The attacker's threshold must have been fixed before the counts were taken.

>>> few = Counts(false_positives=310, negatives=1000, false_negatives=305, positives=1000)  # N(0, 1) against N(1, 1) at 1/2
>>> round(mu_lower(few), 2), round(epsilon_lower(few, 1e-5), 2)
(0.91, 0.73)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.types import Array

TradeOff = Callable[[Array], Array]  # the least false-negative rate at a false-positive rate, both (n,); not increasing
FLOOR = 3.0  # no single count speaks for a hypothesis by more standard deviations than this
GAP = 5e-3  # to which the hypothesis' most favourable pair of rates is looked for, in standard deviations
WIDEST = 60.0  # epsilons and mus above this are not told apart


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Errors of an attacker: of ``negatives`` trainings without the canary, how many were called with it, and the other way round.

    ``weight`` in (0, 1) is how much the false positives count where the two are put together; it must be fixed beforehand, and
    ``best_weight`` gives the one that loses least.
    """

    false_positives: int
    negatives: int
    false_negatives: int
    positives: int
    weight: float = 0.5

    def __post_init__(self) -> None:
        for name, errors, trials in (
            ("false_positives", self.false_positives, self.negatives),
            ("false_negatives", self.false_negatives, self.positives),
        ):
            if not 0 <= errors <= trials or trials == 0:
                raise ValueError(f"{name} is {errors} of {trials}; give a count in 0..{trials} of at least 1")
        if not 0 < self.weight < 1:
            raise ValueError(f"weight is {self.weight}; give a share in (0, 1)")


def gdp_trade_off(mu: float) -> TradeOff:
    """``Phi(Phi^-1(1 - alpha) - mu)``, what mu-GDP leaves (Dong et al. 2019, equation 6)."""
    from scipy.special import ndtr, ndtri

    return lambda alpha: ndtr(-ndtri(alpha) - mu)


def dp_trade_off(epsilon: float, delta: float) -> TradeOff:
    """What (epsilon, delta) leaves (Dong et al. 2019, proposition 2.4)."""
    grow = math.exp(min(epsilon, 700.0))
    return lambda alpha: np.maximum(0.0, np.maximum(1 - delta - grow * alpha, (1 - delta - alpha) / grow))


def all_of(trade_offs: Iterable[TradeOff]) -> TradeOff:
    """What several claims about one training leave together."""
    claims = tuple(trade_offs)
    return lambda alpha: np.max([claim(alpha) for claim in claims], axis=0)


def p_value(counts: Counts, trade_off: TradeOff) -> float:
    """How likely errors as few as these are at most, for any attacker whose rates the trade-off function allows.

    Each of the two counts has its exact binomial p-value under a pair of rates on the curve; their normal scores are added with the
    weights' roots (Stouffer), and the pair that explains the counts best decides. Where Clopper-Pearson intervals of both rates have to
    fail one by one, here only their sum does, which takes about a third of the trainings for the same bound.
    """
    return _tail(_least_score(counts, trade_off), counts.weight)


def mu_lower(counts: Counts, confidence: float = 0.95) -> float:
    """The largest mu such that the training is not mu-GDP or better with this confidence; 0 where nothing is refuted."""
    return _largest(counts, gdp_trade_off, confidence)


def epsilon_lower(counts: Counts, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon such that the training is not (epsilon, delta)-private with this confidence, whatever its noise; 0 = none.

    Raises:
        ValueError: if ``delta`` is not in [0, 1].
    """
    if not 0 <= delta <= 1:
        raise ValueError(f"delta is {delta}; give a probability in [0, 1]")
    return _largest(counts, lambda epsilon: dp_trade_off(epsilon, delta), confidence)


def best_weight(fpr: float, fnr: float, negatives: int, positives: int, slope: float) -> float:
    """The weight that loses least when the rates are near these and the curve falls by ``slope`` > 0 there; within [0.02, 0.98]."""
    first = math.sqrt(max(fpr * (1 - fpr), 0.5 / negatives) / negatives) * slope
    second = math.sqrt(max(fnr * (1 - fnr), 0.5 / positives) / positives)
    return float(np.clip(first**2 / (first**2 + second**2), 0.02, 0.98))


def gdp_slope(fpr: float, mu: float) -> float:
    """How steeply the trade-off function of mu-GDP falls at ``fpr`` in (0, 1): the likelihood ratio at the threshold."""
    from scipy.special import ndtri

    return math.exp(mu * float(-ndtri(fpr)) - mu * mu / 2)


def _largest(counts: Counts, claim: Callable[[float], TradeOff], confidence: float) -> float:
    """The largest value in [0, 60] whose claim is refuted, where smaller ones are refuted too; 0 if none is."""

    def margin(value: float) -> float:
        return _least_score(counts, claim(value)) - needed

    needed = _root(lambda z: _tail(z, counts.weight) - (1 - confidence), -FLOOR, 9.0)
    if margin(0.0) <= 0:
        return 0.0
    if margin(WIDEST) > 0:
        return WIDEST
    found = _root(margin, 0.0, WIDEST)
    while found > 0 and p_value(counts, claim(found)) > 1 - confidence:  # the root lies a little on either side
        found = max(0.0, found - 1e-5 * max(1.0, found))
    return found


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function passes zero between two ends, to about 1e-5."""
    from scipy.optimize import brentq

    found: Any = brentq(falling, low, high, xtol=1e-5)
    return float(found)


def _tail(z: float, weight: float) -> float:
    """How likely a weighted sum of two normal scores, each kept above ``-FLOOR``, is at least ``z``; at most."""
    from scipy.special import ndtr

    first, second = math.sqrt(weight), math.sqrt(1 - weight)
    if z <= -FLOOR * min(first, second):
        return 1.0
    floored = ndtr(-(z + first * FLOOR) / second) + ndtr(-(z + second * FLOOR) / first)
    return float(min(1.0, ndtr(-z) + ndtr(-FLOOR) * floored))


def _least_score(counts: Counts, trade_off: TradeOff) -> float:
    """The least weighted score over all pairs of rates on the curve, from below by at most ``GAP``.

    Between two false-positive rates the first score is at least its value at the smaller and the second at least its value at the larger
    one, so a grid gives a bound; intervals that could hold the least are cut further.
    """
    from scipy.special import ndtr

    first, second = math.sqrt(counts.weight), math.sqrt(1 - counts.weight)
    edges = np.concatenate([[0.0], ndtr(np.linspace(-9, 9, 37)), [1.0]])
    starts, ends = _scores(counts, trade_off, edges)
    low, high = np.stack([edges[:-1], starts[:-1], ends[:-1]]), np.stack([edges[1:], starts[1:], ends[1:]])
    known = float(np.min(first * starts + second * ends))
    for _ in range(60):
        bound = first * low[1] + second * high[2]
        least = float(bound.min())
        open_ = bound < known - GAP
        if not open_.any():
            return min(least, known)
        low, high = low[:, open_], high[:, open_]
        at = (low[0] + high[0]) / 2
        middle = np.stack([at, *_scores(counts, trade_off, at)])
        known = min(known, float(np.min(first * middle[1] + second * middle[2])))
        low, high = np.concatenate([low, middle], 1), np.concatenate([middle, high], 1)
    return least


def _scores(counts: Counts, trade_off: TradeOff, fpr: Array) -> tuple[Array, Array]:
    """How far below expectation each count lies at these false-positive rates, as normal scores kept above ``-FLOOR``."""
    return _score(counts.false_positives, counts.negatives, fpr), _score(counts.false_negatives, counts.positives, trade_off(fpr))


def _score(errors: int, trials: int, rate: Array) -> Array:
    from scipy.special import betainc, betaincc, ndtri

    if errors == trials:
        return np.full(len(rate), -FLOOR)
    below, above = betaincc(errors + 1, trials - errors, rate), betainc(errors + 1, trials - errors, rate)  # P(X <= errors), P(X > errors)
    score = np.where(below < 0.5, -ndtri(below), ndtri(above))
    return np.maximum(score, -FLOOR)
