"""Balle & Wang 2018, https://arxiv.org/abs/1805.06530, Dong et al. 2019, https://arxiv.org/abs/1905.02383: exact accounting of Gaussian noise.

A mechanism is mu-GDP when telling two neighbouring data sets apart by its output is at least as hard as telling
``N(0, 1)`` from ``N(mu, 1)``. That one number composes exactly, converts exactly to (epsilon, delta), and bounds what
any membership attack can reach.

>>> round(gdp_delta(1.0, 1.0), 6)
0.126937
>>> round(gdp_tpr(0.01, 0.27), 4)
0.0199
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from carbide.types import InputError

ADJACENCY = "replacing one record by any other"
ADD_OR_REMOVE = "adding or removing one record"


@dataclass(frozen=True, kw_only=True)
class PrivacyStatement:
    """The training was (``epsilon``, ``delta``)-differentially private, and ``mu``-GDP where ``mu`` is not None.

    ``adjacency`` says which data sets count as neighbours; ``assumptions`` what the statement rests on. ``curve`` are further pairs
    (epsilon, delta), all of which hold too: together they bound attacks more tightly than one of them.
    """

    epsilon: float
    delta: float
    mu: float | None = None
    adjacency: str = ADJACENCY
    assumptions: tuple[str, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.epsilon >= 0:
            raise ValueError(f"epsilon is {self.epsilon}; give a number >= 0")
        if not 0 <= self.delta <= 1:
            raise ValueError(f"delta is {self.delta}; give a probability in [0, 1]")
        if self.mu is not None and not self.mu >= 0:
            raise ValueError(f"mu is {self.mu}; give a number >= 0")

    def tpr(self, fpr: float) -> float:
        """The most that any membership attack's true-positive rate can be at this false-positive rate, if another record may take its place.

        Unless neighbours differ in which record stands in one place, that is two steps: away with the one, in with the other.
        """
        return self.presence_tpr(fpr) if self.adjacency == ADJACENCY else self.presence_tpr(self.presence_tpr(fpr))

    def presence_tpr(self, fpr: float) -> float:
        """The same between two neighbouring data sets as ``adjacency`` says: with the record, and without it where it may be left out.

        It also bounds reconstruction: an attacker whose best blind guess succeeds with probability ``fpr`` succeeds with this at
        most (Hayes et al. 2023, https://arxiv.org/abs/2302.07225, theorem 2).
        """
        bound = min(dp_tpr(fpr, epsilon, delta) for epsilon, delta in ((self.epsilon, self.delta), *self.curve))
        return bound if self.mu is None else min(bound, gdp_tpr(fpr, self.mu))

    def words(self) -> str:
        """The statement in words."""
        return f"({self.epsilon:.3g}, {self.delta:.1g})-differentially private under {self.adjacency}"

    def to_state(self) -> dict[str, object]:
        """Plain values."""
        return {"epsilon": self.epsilon, "delta": self.delta, "mu": self.mu, "adjacency": self.adjacency, "assumptions": list(self.assumptions),
                **({"curve": [list(pair) for pair in self.curve]} if self.curve else {})}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict) -> PrivacyStatement:
        """The statement that ``to_state`` was taken from."""
        curve = tuple((float(epsilon), float(delta)) for epsilon, delta in state.get("curve", ()))
        return cls(**{**state, "assumptions": tuple(state["assumptions"]), "curve": curve})


def gdp_delta(mu: float, epsilon: float) -> float:
    """The least delta for which every mu-GDP mechanism is (epsilon, delta)-DP (Balle & Wang 2018, theorem 8), to 1e-15 or better.

    Raises:
        ValueError: if ``mu`` or ``epsilon`` is negative or not a number.
    """
    from scipy.special import log_ndtr

    if not (mu >= 0 and epsilon >= 0):
        raise ValueError(f"mu is {mu} and epsilon {epsilon}; give numbers >= 0")
    if mu == 0:
        return 0.0
    first = float(log_ndtr(mu / 2 - epsilon / mu))
    second = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
    return 0.0 if second >= first else math.exp(first) * -math.expm1(second - first)


def gdp_epsilon(mu: float, delta: float) -> float:
    """The least epsilon >= 0 for which every mu-GDP mechanism is (epsilon, delta)-DP, rounded up by at most 1e-9 relative.

    Raises:
        ValueError: if ``mu`` is negative or ``delta`` is not in (0, 1).
    """
    _check_delta(delta)
    if gdp_delta(mu, 0.0) <= delta:
        return 0.0
    high = 1.0
    while gdp_delta(mu, high) > delta:
        high *= 2
    return _bisect(lambda epsilon: gdp_delta(mu, epsilon) <= delta, 0.0, high)


def gdp_mu(epsilon: float, delta: float) -> float:
    """The largest mu for which every mu-GDP mechanism is (epsilon, delta)-DP, rounded down by at most 1e-9 relative.

    Raises:
        ValueError: if ``epsilon`` is negative or ``delta`` is not in (0, 1).
    """
    _check_delta(delta)
    high = 1.0
    while gdp_delta(high, epsilon) <= delta:
        high *= 2
    return -_bisect(lambda negative: gdp_delta(-negative, epsilon) <= delta, -high, 0.0)


def compose_gdp(mus: Iterable[float]) -> float:
    """The mu of GDP mechanisms run one after another, each may see what came before: the root of the sum of squares."""
    return math.sqrt(math.fsum(mu * mu for mu in mus))


def noise_for(mu: float, *, steps: int, sensitivity: float) -> float:
    """The standard deviation of Gaussian noise that makes ``steps`` answers of this L2 sensitivity mu-GDP together.

    Raises:
        ValueError: if a value is not positive.
    """
    if not (mu > 0 and steps >= 1 and sensitivity > 0):
        raise ValueError(f"mu is {mu}, steps {steps}, sensitivity {sensitivity}; give positive numbers")
    return math.sqrt(steps) * sensitivity / mu


def gdp_tpr(fpr: float, mu: float) -> float:
    """``1 - Phi(Phi^-1(1 - fpr) - mu)``: the highest true-positive rate at ``fpr`` against a mu-GDP mechanism (Dong et al. 2019).

    Raises:
        ValueError: if ``fpr`` is not in [0, 1].
    """
    from scipy.special import ndtr, ndtri

    _check_rate(fpr)
    return float(ndtr(mu + ndtri(fpr))) if 0 < fpr < 1 else fpr


def dp_tpr(fpr: float, epsilon: float, delta: float) -> float:
    """The highest true-positive rate at ``fpr`` against an (epsilon, delta)-DP mechanism: one minus its trade-off function.

    Raises:
        ValueError: if ``fpr`` is not in [0, 1].
    """
    _check_rate(fpr)
    first = delta + math.exp(min(epsilon, 700.0)) * fpr
    second = 1 - math.exp(-epsilon) * (1 - delta - fpr)
    return float(min(1.0, first, second))


def _bisect(good, low: float, high: float) -> float:
    """The point where ``good`` turns from False at ``low`` to True at ``high``, from the good side."""
    for _ in range(200):
        middle = (low + high) / 2
        if not low < middle < high or high - low <= 1e-10 * abs(high):
            break
        low, high = (low, middle) if good(middle) else (middle, high)
    return high


def check_promise(epsilon: float, delta: float, **positive: float) -> None:
    """Whether a training can be asked for (``epsilon``, ``delta``), and its other settings named are numbers > 0.

    Raises:
        InputError: with the setting, its value and the mend.
    """
    for name, value in {"epsilon": epsilon, **positive}.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; give a number > 0")
    if not 0 < delta < 1:
        raise InputError(f"delta is {delta}; give a probability in (0, 1), well below one over the number of rows")


def check_rows(delta: float, n: int) -> None:
    """Whether ``delta`` is below one over ``n`` rows.

    Raises:
        InputError: if it is not, which would allow giving one row away.
    """
    if delta * n >= 1:
        raise InputError(f"delta is {delta:g} for {n} rows, which allows giving one row away; give less than {1 / max(1, n):.1g}")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta is {delta}; give a probability in (0, 1)")


def _check_rate(fpr: float) -> None:
    if not (np.isfinite(fpr) and 0 <= fpr <= 1):
        raise ValueError(f"fpr is {fpr}; give a rate in [0, 1]")
