"""Confidence intervals for rates and means: arrays in, numbers out.

>>> low, high = clopper_pearson(5, 10)
>>> round(low, 3), round(high, 3)
(0.187, 0.813)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from carbide.types import Array, Rng


class Interval(NamedTuple):
    """A two-sided confidence interval."""

    low: float
    high: float


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """The exact interval of a binomial rate (Clopper and Pearson 1934); ``(nan, nan)`` for no trials.

    Raises:
        ValueError: if ``successes`` is not in ``0..trials``.
    """
    from scipy.special import betaincinv

    if not 0 <= successes <= trials:
        raise ValueError(f"successes is {successes}; give a count in 0..{trials}")
    if trials == 0:
        return Interval(math.nan, math.nan)
    tail = (1 - confidence) / 2
    low = 0.0 if successes == 0 else float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0 if successes == trials else float(betaincinv(successes + 1, trials - successes, 1 - tail))
    return Interval(low, high)


class Count(NamedTuple):
    """A number, its interval, and the ``n`` rows that it is about."""

    value: float
    low: float
    high: float
    n: int


def counted(hits: Array) -> Count:
    """The share of rows ``(n,)`` bool that are hit, with its exact interval."""
    low, high = clopper_pearson(int(hits.sum()), len(hits))
    return Count(value=float(hits.mean()) if len(hits) else math.nan, low=low, high=high, n=len(hits))


def difference(one: Interval, other: Interval, values: tuple[float, float]) -> Interval:
    """The interval of the difference of two ``values`` with independent intervals (Zou & Donner 2008, doi.org/10.1002/sim.3095, equation 3)."""
    a, b = values
    return Interval(a - b - math.hypot(a - one.low, other.high - b), a - b + math.hypot(one.high - a, b - other.low))


def bootstrap(statistic: Callable[[Array], float], clusters: Array, rng: Rng, *, confidence: float = 0.95, draws: int = 500) -> Interval:
    """Percentile interval of ``statistic(rows)`` where whole clusters are drawn with replacement.

    ``clusters`` ``(n,)`` names each row's cluster; ``statistic`` takes an array of row indices (with repeats).
    """
    names, inverse = np.unique(clusters, return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    values = [statistic(np.concatenate([parts[i] for i in rng.integers(len(names), size=len(names))])) for _ in range(draws)]
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(values, [tail, 100 - tail])
    return Interval(float(low), float(high))
