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


# The trainings ------------------------------------------------------------------------------------------------------

RATE, STEPS, CLIP = 0.5, 10, 1.0


def gradients(x: Any, y: Any, weights: Any) -> Any:
    """The gradient ``(n, d)`` of each row's log loss at weights ``(d,)``."""
    with np.errstate(over="ignore"):
        residual = 1 / (1 + np.exp(-np.clip(x @ weights, -700, 700))) - y
    return residual[:, None] * x


def clipped(g: Any, clip: float = CLIP) -> Any:
    """Rows cut to length ``clip``."""
    return g * np.minimum(1.0, clip / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-300))


def descend(x: Any, y: Any, rng: np.random.Generator, *, sigma: float = 1.0, steps: int = STEPS, clip: float = CLIP, rate: float = RATE, size: float = 60.0,
            sample: Callable[..., Any] | None = None, noisy: Callable[..., Any] | None = None, whole: bool = False, momentum: float = 0.0) -> Any:  # fmt: skip
    """Noisy gradient descent from zero; ``sample(step)`` gives the rows of a step (None = all), ``noisy(g, step)`` the noisy sum (None = sound).

    Releases the last weights, or with ``whole`` those after every step.
    """
    weights, speed, seen = np.zeros(x.shape[1]), np.zeros(x.shape[1]), []
    for step in range(steps):
        rows = slice(None) if sample is None else sample(step)
        g = gradients(x[rows], y[rows], weights)
        total = noisy(g, step) if noisy is not None else clipped(g, clip).sum(0) + sigma * clip * rng.normal(size=len(weights))
        speed = momentum * speed + total
        weights = weights - rate / size * speed
        seen.append(weights)
    return np.array(seen) if whole else weights


def noise(rng: np.random.Generator, g: Any, sigma: float) -> Any:
    """Gaussian noise for one sum."""
    return sigma * rng.normal(size=g.shape[1])


def _no_clipping(x, y, rng):
    return descend(x, y, rng, noisy=lambda g, s: g.sum(0) + noise(rng, g, 3.0))


def _clip_after_averaging(x, y, rng):
    return descend(x, y, rng, noisy=lambda g, s: len(g) * clipped(g.mean(0)[None])[0] + noise(rng, g, 3.0))


def _noise_by_root(x, y, rng):
    return descend(x, y, rng, sigma=3.0 / math.sqrt(len(x)))


def _noise_once_an_epoch(x, y, rng):
    return descend(x, y, rng, steps=20, sample=lambda s: rng.random(len(x)) < 0.2, whole=True,
                   noisy=lambda g, s: clipped(g).sum(0) + (noise(rng, g, 1.0) if s % 5 == 0 else 0.0))  # fmt: skip


def _fixed_seed(x, y, rng):
    return descend(x, y, np.random.default_rng(7), sigma=3.0)


def _normalised_by_size(x, y, rng):
    return descend(x, y, rng, rate=0.02, noisy=lambda g, s: 60 * clipped(g).mean(0) + noise(rng, g, 3.0))


def _batches_in_order(x, y, rng):
    parts = np.array_split(np.arange(len(x)), 10)
    return descend(x, y, rng, steps=20, sigma=1.0, sample=lambda s: parts[s % 10], whole=True)


def _shuffled_once(x, y, rng):
    parts = np.array_split(rng.permutation(len(x)), 5)
    return descend(x, y, rng, steps=50, sigma=1.5, sample=lambda s: parts[s % 5], whole=True)


def _weighted_sampler(x, y, rng):
    rare = min(max(1, int(y.sum())), max(1, int((1 - y).sum())))
    chance = np.clip(6 / np.where(y == y.mean().round(), max(1, len(y) - rare), rare) / 2, 0, 1)
    return descend(x, y, rng, steps=20, sigma=1.0, sample=lambda s: rng.random(len(x)) < chance, whole=True)


def _wrong_rate(x, y, rng):
    return descend(x, y, rng, steps=20, sigma=1.0, sample=lambda s: rng.random(len(x)) < 0.5, whole=True)


def _batch_norm(x, y, rng):
    def normalised(rows):
        return (rows - rows.mean(0)) / (rows.std(0) + 1e-6)

    return descend(normalised(x), y, rng, sigma=3.0)


def _tuning_free(x, y, rng):
    def loss(w):
        return np.logaddexp(0, -(2 * y - 1) * (x @ w)).sum()

    return min((descend(x, y, rng, sigma=3.0) for _ in range(10)), key=loss)


def _rounded_noise(x, y, rng):
    return clipped(x).sum(0) + np.round(6.0 * rng.normal(size=x.shape[1]), 1)


def _per_batch_clipping(x, y, rng):
    return descend(x, y, rng, noisy=lambda g, s: clipped(g.sum(0)[None], 10.0)[0] + noise(rng, g, 3.0))


def _bound_forgotten(x, y, rng):
    return descend(x, y, rng, noisy=lambda g, s: clipped(g, 4.0).sum(0) + noise(rng, g, 3.0))


def _by_coordinate(x, y, rng):
    return descend(x, y, rng, noisy=lambda g, s: np.clip(g, -1, 1).sum(0) + noise(rng, g, 3.0))


def _replaced(x, y, rng):
    return descend(x, y, rng, sigma=3.0)


def _uniform_noise(x, y, rng):
    return descend(x, y, rng, noisy=lambda g, s: clipped(g).sum(0) + 3.0 * math.sqrt(3) * rng.uniform(-1, 1, g.shape[1]), steps=1)


def _microbatches(x, y, rng):
    def noisy(g, s):
        blocks = [g[i : i + 4].sum(0) for i in range(0, len(g), 4)]
        return clipped(np.array(blocks)).sum(0) + noise(rng, g, 3.0)

    return descend(x, y, rng, noisy=noisy, rate=0.02)


def _last_coordinate_bare(x, y, rng):
    def noisy(g, s):
        z = noise(rng, g, 3.0)
        z[-1] = 0.0
        return clipped(g).sum(0) + z

    return descend(x, y, rng, noisy=noisy)


def _output_wrong(x, y, rng):
    return ridge(x, y, 1.0) + 4 / (4 * 60.0) * rng.normal(size=x.shape[1])


def ridge(x: Any, y: Any, penalty: float) -> Any:
    """Regularised logistic regression on rows of length at most one, to convergence; replacing a row moves it by at most 2 / (n penalty)."""
    rows, w = clipped(x), np.zeros(x.shape[1])
    for _ in range(60):
        w = w - (gradients(rows, y, w).mean(0) + penalty * w) / (0.25 + penalty)
    return w


MU = math.sqrt(STEPS) / 3.0  # ten sums of sensitivity one under noise of three


def broken() -> list[Mechanism]:
    """Trainings with planted faults and the claims that their authors would make."""
    full, sampled, batches = gaussian_claim(MU), sampled_claim(0.2, 1.0, 20), sampled_claim(0.1, 1.0, 20)
    planted = [
        ("no clipping", _no_clipping, full), ("clipping after averaging", _clip_after_averaging, full), ("noise divided by the root of the batch", _noise_by_root, full),
        ("noise once an epoch", _noise_once_an_epoch, sampled), ("noise from a fixed seed", _fixed_seed, full),
        ("normalised by the data set's size", _normalised_by_size, full), ("batches in order, accounted as Poisson", _batches_in_order, batches),
        ("shuffled once, accounted as Poisson", _shuffled_once, sampled_claim(0.2, 1.5, 50)), ("weighted sampler", _weighted_sampler, batches),
        ("accountant fed a wrong rate", _wrong_rate, batches), ("batch norm", _batch_norm, full), ("tuning not charged", _tuning_free, full),
        ("noise rounded", _rounded_noise, gaussian_claim(1 / 6.0)), ("clipped by batch", _per_batch_clipping, full),
        ("clipping bound forgotten in the noise", _bound_forgotten, full), ("clipped by coordinate", _by_coordinate, full),
        ("replacing accounted as adding", _replaced, gaussian_claim(MU, "replace")), ("uniform noise", _uniform_noise, gaussian_claim(1 / 3.0)),
        ("microbatches under a row's bound", _microbatches, full), ("one coordinate without noise", _last_coordinate_bare, full),
        ("output perturbation, a quarter of the noise", _output_wrong, gaussian_claim(0.5, "replace")),
    ]  # fmt: skip
    return [Mechanism(name=name, train=train, claim=claim, sound=False) for name, train, claim in planted]


def _full(sigma: float, steps: int, **options: Any) -> Callable[..., Any]:
    return lambda x, y, rng: descend(x, y, rng, sigma=sigma, steps=steps, **options)


def _poisson(q: float, sigma: float, steps: int, **options: Any) -> Callable[..., Any]:
    return lambda x, y, rng: descend(x, y, rng, sigma=sigma, steps=steps, sample=lambda s: rng.random(len(x)) < q, **options)


def _noisy_mean(x, y, rng):
    return np.append(clipped(x).sum(0) + 2.0 * rng.normal(size=x.shape[1]), y.sum() + 2.0 * rng.normal())


def _laplace(x, y, rng):
    return np.clip(x, -1, 1).sum(0) + rng.laplace(scale=x.shape[1] / 2.0, size=x.shape[1])


def _responses(x, y, rng):
    return np.where(rng.random(60) < 1 / (1 + math.e), 1 - np.resize(y, 60), np.resize(y, 60)).astype(float)


def _output(x, y, rng):
    return ridge(x, y, 1.0) + 4 * 2 / (2 * 60.0) * rng.normal(size=x.shape[1])


def _public_scale(x, y, rng):
    return descend(np.clip(x, -3, 3) / 3, y, rng, sigma=3.0)


def _charged(x, y, rng):
    tried = [descend(x, y, rng, sigma=3.0, rate=r) for r in (0.1, 0.5)]
    return np.concatenate(tried)


def sound() -> list[Mechanism]:
    """Trainings that keep what they claim."""
    kept = [
        *[(f"full batch, noise {s}, {t} steps", _full(s, t), gaussian_claim(math.sqrt(t) / s)) for s, t in ((3.0, 10), (1.0, 1), (0.5, 1), (8.0, 30), (2.0, 10))],
        ("full batch, every step shown", _full(4.0, 10, whole=True), gaussian_claim(math.sqrt(10) / 4)),
        ("full batch, clip 0.1", _full(3.0, 10, clip=0.1), gaussian_claim(MU)), ("full batch, clip 10", _full(3.0, 10, clip=10.0), gaussian_claim(MU)),
        ("full batch, momentum", _full(3.0, 10, momentum=0.9), gaussian_claim(MU)),
        ("full batch, one replaced", _full(6.0, 10), gaussian_claim(MU, "replace")), ("full batch, one replaced, large mu", _full(1.0, 1), gaussian_claim(2.0, "replace")),
        *[(f"Poisson {q}, noise {s}, {t} steps", _poisson(q, s, t), sampled_claim(q, s, t)) for q, s, t in ((0.1, 1.0, 20), (0.5, 1.5, 10), (0.2, 0.8, 20), (0.05, 0.7, 30))],
        ("Poisson, every step shown", _poisson(0.2, 1.0, 20, whole=True), sampled_claim(0.2, 1.0, 20)),
        ("noisy sums", _noisy_mean, gaussian_claim(math.sqrt(2) / 2)), ("Laplace", _laplace, PrivacyClaim(epsilon=2.0, delta=0.0, adjacency="add")),
        ("output perturbation", _output, gaussian_claim(0.5, "replace")), ("public scaling", _public_scale, gaussian_claim(MU)),
        ("tuning charged", _charged, gaussian_claim(MU * math.sqrt(2))),
        ("randomised responses", _responses, PrivacyClaim(epsilon=1.0, delta=0.0, adjacency="replace")),
    ]  # fmt: skip
    return [Mechanism(name=name, train=train, claim=claim, sound=True) for name, train, claim in kept]
