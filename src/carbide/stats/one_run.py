"""Steinke et al. 2023, https://arxiv.org/abs/2305.08846, Mahloujifar et al. 2024, https://arxiv.org/abs/2410.22235: privacy from one run.

Each of many canaries goes into one training by the fall of a coin, and the attacker guesses a fixed number of the coins. Under a claim so
many right guesses have at most a certain probability: by (epsilon, delta) alone, or by the whole trade-off function, which is closer.
Both bound the probability of one and the same event, so the smaller may be taken.

>>> one_run_p_value(90, 100, 1000, 1.0, 1e-5) < 1e-3
True
>>> one_run_p_value(78, 100, 1000, 1.0, 1e-5) > tail_bound(78, 100, 1000, gdp_trade_off(0.3))
True
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from carbide.stats.audits import WIDEST, TradeOff, dp_trade_off, gdp_trade_off

LEAST = 1e-12  # probabilities below this are not told apart


def one_run_p_value(correct: int, guesses: int, canaries: int, epsilon: float, delta: float) -> float:
    """How likely ``correct`` or more right ``guesses`` are at most, under (epsilon, delta), when each of ``canaries`` was in by a coin's fall.

    Steinke, Nasr and Jagielski 2023, theorem 5.2. All canaries go through one training; the attacker may abstain on some.

    Raises:
        ValueError: if the counts are not ordered.
    """
    from scipy.special import expit
    from scipy.stats import binom

    _ordered(correct, guesses, canaries)
    rate = float(expit(epsilon))
    beyond = float(binom.sf(correct - 1, guesses, rate))
    if delta == 0 or correct == 0:
        return min(1.0, beyond)
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, rate))
    return float(min(1.0, beyond + 2 * delta * canaries * np.max(below / np.arange(1, correct + 1))))


def tail_bound(correct: int, guesses: int, canaries: int, trade_off: TradeOff) -> float:
    """How likely ``correct`` or more right ``guesses`` are at most under a symmetric convex trade-off function, to one part in a thousand.

    The recursion of Mahloujifar, Melis and Chaudhuri 2024. With p_i the probability of i right guesses, flipping the coin of a
    random canary shows ``sum_{i >= t} i p_i / m <= 1 - f(sum_{i >= t - 1} (g - i) p_i / m)`` for every t, with g guesses on m canaries. The
    largest tail that leaves the p_i room to add up to one is the bound.

    Raises:
        ValueError: if the counts are not ordered.
    """
    _ordered(correct, guesses, canaries)
    if correct == 0 or _room(1.0, correct, guesses, canaries, trade_off):
        return 1.0
    low, high = math.log(LEAST), 0.0
    if not _room(LEAST, correct, guesses, canaries, trade_off):
        return LEAST
    while high - low > 1e-3:
        middle = (low + high) / 2
        low, high = (middle, high) if _room(math.exp(middle), correct, guesses, canaries, trade_off) else (low, middle)
    return math.exp(high)


def one_run_epsilon(correct: int, guesses: int, canaries: int, delta: float, confidence: float = 0.95) -> float:
    """The largest epsilon that so many right guesses in one run refute with this confidence, by either bound; 0 = none."""
    level = 1 - confidence

    def refuted(epsilon: float) -> bool:
        if one_run_p_value(correct, guesses, canaries, epsilon, delta) <= level:
            return True
        return delta > 0 and correct > 0 and not _room(level, correct, guesses, canaries, dp_trade_off(epsilon, delta))

    return _largest(refuted)


def one_run_mu(correct: int, guesses: int, canaries: int, confidence: float = 0.95) -> float:
    """The largest mu such that so many right guesses in one run refute mu-GDP with this confidence; 0 = none.

    Raises:
        ValueError: if the counts are not ordered.
    """
    _ordered(correct, guesses, canaries)
    return _largest(lambda mu: correct > 0 and not _room(1 - confidence, correct, guesses, canaries, gdp_trade_off(mu)))


def _room(tail: float, correct: int, guesses: int, canaries: int, trade_off: TradeOff) -> bool:
    """Whether ``correct`` right guesses or more may have this probability.

    ``right`` and ``wrong`` are the least that ``sum i p_i / m`` and ``sum (g - i) p_i / m`` over ``i >= t`` can be, from t = correct down.
    All of the tail at ``correct`` leaves the most room: moving mass up raises ``right``, ``right + wrong`` and ``right - wrong (t - 1) / (g - t + 1)``,
    and every step down keeps this order.
    """
    right, wrong = tail * correct / canaries, tail * (guesses - correct) / canaries
    for count in range(correct - 1, -1, -1):
        needed = max(wrong, float(trade_off(np.array(1 - right))))  # the inverse of 1 - f, as f is its own inverse
        right, wrong = right + count / (guesses - count) * (needed - wrong), needed
        if right + wrong > guesses / canaries:
            return False
    return True


def _largest(refuted: Callable[[float], bool]) -> float:
    """The largest value in [0, 60] that is refuted, to 1e-5; 0 if none is."""
    low, high = 0.0, WIDEST
    if not refuted(low):
        return 0.0
    while high - low > 1e-5:
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _ordered(correct: int, guesses: int, canaries: int) -> None:
    if not 0 <= correct <= guesses <= canaries or guesses == 0:
        raise ValueError(
            f"correct is {correct} of {guesses} guesses on {canaries} canaries; give correct <= guesses <= canaries, and a guess at least"
        )
