"""Trainings with known accounts: sound ones, and ones with a planted fault, each a function of ``(x, y, rng)`` that returns what it releases.

The accounts of noise alone are exact (mu); those of sampled batches are from the small Renyi account below, which knows nothing of Carbide's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln, logsumexp

from carbide.stats.accounting import gdp_epsilon
from carbide.types import Dataset, PrivacyClaim, Space

DELTA = 1e-5
DELTAS = (1e-5, 1e-3, 1e-2, 0.05, 0.1, 0.2)


@dataclass(frozen=True, kw_only=True)
class Mechanism:
    """A training, what it claims, and whether it is sound."""

    name: str
    train: Callable[..., Any]
    claim: PrivacyClaim
    sound: bool


def table(n: int = 60, d: int = 6, seed: int = 0) -> Dataset:
    """Rows without bounds and labels that depend on the first feature."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = (x[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(np.int64)
    return Dataset(x=x, y=y, ids=np.arange(n).astype(str), source=np.full(n, ""), space=Space.table([f"f{i}" for i in range(d)]), classes=2)


def gaussian_claim(mu: float, adjacency: str = "add") -> PrivacyClaim:
    """The claim of mu-GDP."""
    return PrivacyClaim(epsilon=gdp_epsilon(mu, DELTA), delta=DELTA, mu=mu, adjacency=adjacency)


def renyi_pairs(q: float, sigma: float, steps: int) -> tuple[tuple[float, float], ...]:
    """Pairs of epsilon and delta of Poisson-sampled Gaussian noise (Mironov et al. 2019, section 3.3; Balle et al. 2020, theorem 21)."""
    orders = np.arange(2, 256)
    spent = np.array([_renyi(q, sigma, int(a)) for a in orders]) * steps
    found = []
    for delta in DELTAS:
        epsilons = spent + np.log1p(-1 / orders) - (math.log(delta) + np.log(orders)) / (orders - 1)
        found.append((max(0.0, float(epsilons.min())), delta))
    return tuple(found)


def _renyi(q: float, sigma: float, a: int) -> float:
    k = np.arange(a + 1)
    terms = gammaln(a + 1) - gammaln(k + 1) - gammaln(a - k + 1) + k * math.log(q) + (a - k) * math.log1p(-q) + (k * k - k) / (2 * sigma**2)
    return float(logsumexp(terms)) / (a - 1)


def sampled_claim(q: float, sigma: float, steps: int, adjacency: str = "add") -> PrivacyClaim:
    """The claim of Poisson-sampled Gaussian noise, at several deltas."""
    pairs = renyi_pairs(q, sigma, steps)
    return PrivacyClaim(epsilon=pairs[0][0], delta=DELTA, pairs=pairs[1:], adjacency=adjacency)
