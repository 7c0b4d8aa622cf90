"""Cohen et al. 2019, https://arxiv.org/abs/1902.02918: randomized smoothing, a certificate about the model under noise.

The smoothed model answers the class that the model gives most often under Gaussian noise. If it gives that class with
probability at least p > 1/2, no L2 change below ``sigma * Phi^-1(p)`` can alter the smoothed model's answer; p is
bounded from below by sampling.

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

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, Certificate, InputError, LpBall, Rng, Threat, decide

CHUNK = 8192  # noisy rows asked at once


@dataclass(frozen=True, kw_only=True)
class Smoothing(Method):
    """Certified L2 radii of the model smoothed by noise of ``sigma`` (0 = the threat's eps), from ``samples`` answers a row.

    Statement: with probability at least ``1 - failure`` over the sampling, for every row at once, the smoothed model gives
    the row's label to every input within the row's bound in L2, whether inside the space's bounds or not.
    ``guesses`` answers choose the class before it is tested on fresh ones.
    """

    sigma: float = 0.0
    samples: int = 1000
    guesses: int = 50
    failure: float = 0.001
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.LABELS

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and np.isfinite(self.sigma)):
            raise InputError(f"smoothing: sigma is {self.sigma}; give a standard deviation > 0 in input units, or 0 for the threat's eps")
        if self.samples < 1 or self.guesses < 1:
            raise InputError(f"smoothing: samples is {self.samples} and guesses {self.guesses}; give whole numbers >= 1")
        if not 0 < self.failure < 1:
            raise InputError(f"smoothing: failure is {self.failure}; give a probability in (0, 1)")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Gaussian noise certifies L2 changes of rows whose features are real numbers."""
        if isinstance(threat, LpBall) and threat.p != 2:
            return "Gaussian noise certifies L2 changes only; choose l2"
        if (case.model.space.step > 0).any():
            return "Gaussian noise makes no sense of whole numbers and categories, and the space has them"
        return None if isinstance(threat, LpBall) and (self.sigma or threat.eps) > 0 else "sigma is 0; give smoothing a sigma > 0"

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Certificate:
        """The certificate for rows ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``; ``bound`` is an L2 radius, 0 where it abstains.

        Raises:
            InputError: if the threat is no L2 ball or there is no noise.
        """
        from scipy.special import betaincinv, ndtri

        sigma = self.sigma or threat.eps
        if threat.p != 2 or sigma == 0:
            raise InputError(f"smoothing: threat is {threat.words()} and sigma {sigma}; give an L2 ball and a sigma > 0")
        n = len(x)
        guess = self._votes(model, x, self.guesses, sigma, rng, "smoothing: guesses").argmax(1)
        rows = np.flatnonzero(guess == y)  # the others cannot hold, so nothing is spent on them
        hits = self._votes(model, x[rows], self.samples, sigma, rng, "smoothing: samples")[np.arange(len(rows)), guess[rows]]
        bound = np.zeros(n)
        # Each row may fail with failure / n, so that all rows together fail with at most failure (one-sided Clopper-Pearson).
        p = np.where(hits > 0, betaincinv(np.maximum(hits, 1), self.samples - hits + 1, self.failure / max(n, 1)), 0.0)
        bound[rows] = np.where(p > 0.5, sigma * ndtri(np.maximum(p, 0.5)), 0.0)
        return Certificate(claim=f"the model smoothed by Gaussian noise of sigma {sigma:g} gives the row's label after every {threat.words()}",
                           holds=bound > threat.eps, bound=bound, failure_probability=self.failure, method="smoothing", threat=threat.words(),
                           unit="input units", assumptions=(f"the smoothed model is what answers: the exact majority under noise of sigma {sigma:g}",
                                                            "the noise is independent of the model and of the attacker"))  # fmt: skip

    def _votes(self, model: Any, x: Array, samples: int, sigma: float, rng: Rng, label: str) -> Array:
        """How often each class is answered under noise, ``(n, classes)``."""
        counts = np.zeros((len(x), model.classes), np.int64)
        many = max(1, CHUNK // samples)
        for start in track(range(0, len(x), many), label=label):
            part = x[start : start + many]
            for done in range(0, samples, CHUNK):
                each = min(CHUNK, samples - done)
                noisy = np.repeat(part, each, axis=0) + sigma * rng.normal(size=(len(part) * each, *x.shape[1:]))
                answers = decide(model.predict(noisy), model.threshold)
                np.add.at(counts, (np.repeat(np.arange(start, start + len(part)), each), answers), 1)
        return counts
