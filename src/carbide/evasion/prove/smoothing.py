"""Cohen et al. 2019, https://arxiv.org/abs/1902.02918: randomized smoothing, a certificate about the model under noise.

The smoothed model answers the class that the model gives most often under Gaussian noise. If it gives that class with
probability at least p > 1/2, no L2 change below ``sigma * Phi^-1(p)`` can alter the smoothed model's answer; p is
bounded from below by sampling, as long as it takes (a union bound over looks fixed beforehand; compare Voracek 2024,
https://arxiv.org/abs/2406.17830).

>>> import numpy as np
>>> from types import SimpleNamespace
>>> from carbide.types import LpBall
>>> says = lambda x: np.stack([x[:, 0] > 0, x[:, 0] <= 0], 1).astype(float)
>>> model = SimpleNamespace(predict=says, threshold=0.5, classes=2)
>>> proof = Smoothing(sigma=0.5)(model, np.array([[0.7, 0.0]]), np.array([0]), LpBall(p=2, eps=0.4), np.random.default_rng(0))
>>> bool(proof.holds[0]), bool(proof.bound[0] <= 0.7)
(True, True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, Certificate, InputError, LpBall, Rng, Threat, decide

CHUNK = 8192  # noisy rows asked at once
FIRST = 100  # answers before the first look
LAST = 0.8  # share of a row's failure probability that the last look has; the others have the rest evenly
DOUBT = 1e-3  # a row is given up when its share of right answers is below what it needs but for this probability
GAIN = 0.01  # a row that holds is left when the rest could raise its radius by less than this share


@dataclass(frozen=True, kw_only=True)
class Smoothing(Method):
    """Certified L2 radii of the model smoothed by noise of ``sigma`` (0 = the threat's eps), from at most ``samples`` answers a row.

    Statement: with probability at least ``1 - failure`` over the sampling, for every row at once, the smoothed model gives
    the row's label to every input within the row's bound in L2, whether inside the space's bounds or not.

    Answers are looked at after 100, 200, 400 ... of them, and a row is left as soon as its bound exceeds ``reach`` times the
    threat's eps (inf = follow it to the end) or nothing more can be hoped for. Each look has its share of the row's failure
    probability, fixed beforehand, so that all looks together err no more often than stated, whenever one stops.
    """

    sigma: float = 0.0
    samples: int = 10_000
    reach: float = 1.0
    failure: float = 0.001
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.LABELS

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and np.isfinite(self.sigma)):
            raise InputError(f"smoothing: sigma is {self.sigma}; give a standard deviation > 0 in input units, or 0 for the threat's eps")
        if self.samples < 1:
            raise InputError(f"smoothing: samples is {self.samples}; give a whole number >= 1")
        if not self.reach >= 1:
            raise InputError(f"smoothing: reach is {self.reach}; give a factor >= 1")
        if not 0 < self.failure < 1:
            raise InputError(f"smoothing: failure is {self.failure}; give a probability in (0, 1)")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Gaussian noise certifies L2 changes of rows whose features are real numbers."""
        if isinstance(threat, LpBall) and threat.p != 2:
            return "Gaussian noise certifies L2 changes only; choose l2"
        space = case.model.space
        if (whole := (space.step > 0) & ~(space.lower >= space.upper)).any():  # of a column that never varies a whole number says nothing
            first = f" (first: {space.name(int(np.flatnonzero(whole)[0]))})" if whole.ndim == 1 else ""
            return (
                f"Gaussian noise makes no sense of whole numbers and categories, and the space has them{first}; say so with a space where it is wrong"
            )
        return None if isinstance(threat, LpBall) and (self.sigma or threat.eps) > 0 else "sigma is 0; give smoothing a sigma > 0"

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Certificate:
        """The certificate for rows ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``; ``bound`` is an L2 radius, 0 where it abstains.

        Raises:
            InputError: if the threat is no L2 ball or there is no noise.
        """
        sigma = self.sigma or threat.eps
        if threat.p != 2 or sigma == 0:
            raise InputError(f"smoothing: threat is {threat.words()} and sigma {sigma}; give an L2 ball and a sigma > 0")
        found = followed(lambda rows, more: _hits(model, x[rows], y[rows], more, sigma, rng), len(x), samples=self.samples, sigma=sigma,
                         eps=threat.eps, reach=self.reach, failure=self.failure / max(len(x), 1))  # fmt: skip
        return Certificate(claim=f"the model smoothed by Gaussian noise of sigma {sigma:g} gives the row's label after every {threat.words()}",
                           holds=found > threat.eps, bound=found, failure_probability=self.failure, method="smoothing", threat=threat.words(),
                           unit="input units", assumptions=(f"the smoothed model is what answers: the exact majority under noise of sigma {sigma:g}",
                                                            "the noise is independent of the model and of the attacker"))  # fmt: skip


def followed(ask: Callable[[Array, int], Array], n: int, *, samples: int, sigma: float, eps: float, reach: float, failure: float) -> Array:
    """Certified radii ``(n,)`` from ``ask(rows, more)``, which says how many of ``more`` fresh answers are right for each row.

    Each of them exceeds the true radius with probability at most ``failure``: the look after ``looks[i]`` answers has its
    exact one-sided bound at its share of the failure, most of it for the last look and the rest shared evenly by the others,
    whether it is made or not; the largest bound is kept.
    """
    looks = [min(FIRST << i, samples) for i in range(64) if (FIRST << i) < 2 * samples] or [samples]
    shares = [failure] if len(looks) == 1 else [(1 - LAST) * failure / (len(looks) - 1)] * (len(looks) - 1) + [LAST * failure]
    hits, bound, rows, seen = np.zeros(n, np.int64), np.zeros(n), np.arange(n), 0
    for look, share in track(list(zip(looks, shares, strict=True)), label="smoothing"):
        if not len(rows):
            break
        hits[rows] += ask(rows, look - seen)
        seen = look
        bound[rows] = np.maximum(bound[rows], radius(at_least(hits[rows], seen, share), sigma))
        best = radius(at_least(hits[rows] + samples - seen, samples, shares[-1]), sigma)  # if every answer to come is right
        likely = radius(1 - at_least(seen - hits[rows], seen, DOUBT), sigma)
        held = bound[rows] > eps
        done = np.where(held, (bound[rows] > reach * eps) | (best <= (1 + GAIN) * bound[rows]), (best <= eps) | (likely <= eps))
        rows = rows[~done]
    return bound


def at_least(hits: Array, n: int, failure: float) -> Array:
    """Exact one-sided lower bounds of probabilities from ``hits`` ``(m,)`` in n trials (Clopper-Pearson)."""
    from scipy.special import betaincinv

    return np.where(hits > 0, betaincinv(np.maximum(hits, 1), n - hits + 1, failure), 0.0)


def radius(p: Array, sigma: float) -> Array:
    """The L2 radius ``sigma * Phi^-1(p)`` that a probability of the right answer certifies, 0 up to one half."""
    from scipy.special import ndtri

    return np.where(p > 0.5, sigma * ndtri(np.maximum(p, 0.5)), 0.0)


def _hits(model: Any, x: Array, y: Array, samples: int, sigma: float, rng: Rng) -> Array:
    """How many of ``samples`` noisy copies of each row get its label, ``(n,)``."""
    counts, many = np.zeros(len(x), np.int64), max(1, CHUNK // samples)
    for start in range(0, len(x), many):
        part, labels = x[start : start + many], y[start : start + many]
        for done in range(0, samples, CHUNK):
            each = min(CHUNK, samples - done)
            noisy = np.repeat(part, each, axis=0) + sigma * rng.normal(size=(len(part) * each, *x.shape[1:]))
            answers = decide(model.predict(noisy), model.threshold)
            counts[start : start + many] += (answers.reshape(len(part), each) == labels[:, None]).sum(1)
    return counts
