"""Brännvall 2026, https://arxiv.org/abs/2603.11799: LiRA with a Bayesian variance (BaVarIA), as a Student-t predictive.

The variance of each record's confidences has an inverse-gamma prior around the pooled one, so that few references do not
pretend to know it: the target's confidence is compared with two Student-t distributions, whose tails say how little is
known. How much the prior counts is read from the spread of the records' own variances (Smyth 2004,
https://doi.org/10.2202/1544-6115.1027). The prior of the mean is flat here; the paper's may be another one.

>>> Bavaria(shadows=64).quick().shadows
16
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import FLOORS, grain, logit, odds
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, InputError, Membership, Model, Rng

QUICK = 16
MOST = 1e6  # references that a prior may count for: records whose variances do not differ at all


class Predictive(NamedTuple):
    """Location and scale ``(n,)`` of Student-t distributions, and their degrees of freedom ``(n,)``."""

    location: Array
    scale: Array
    freedom: Array


@dataclass(frozen=True, kw_only=True)
class Bavaria(Method):
    """Compares the target's confidence with Student-t predictions of what members and non-members show.

    ``shadows`` models are trained. ``prior`` is how many references the pooled variance counts for (None = estimated from
    the records). With ``offline`` only models that were not trained on a record are compared with.
    """

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False
    shadows: int = 64
    prior: float | None = None
    offline: bool = False

    def __post_init__(self) -> None:
        if self.shadows < 6 or self.shadows % 2:
            raise InputError(f"shadows is {self.shadows}; give an even number >= 6")
        if self.prior is not None and not self.prior > 0:
            raise InputError(f"prior is {self.prior}; give a number of references > 0, or leave it out to have it estimated")

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Log likelihood ratios ``(n,)``, offline the normal quantile of what non-members show; higher = member.

        Raises:
            InputError: if there are no shadows, or a record has no reference on a side.
        """
        if shadows is None or not len(shadows):
            raise InputError("BaVarIA compares with shadow models, and there are none; add a recipe so that they can be trained")
        true, others = odds(shadows.answers, dataset.y)
        seen = odds(model.predict(dataset.x), dataset.y)
        least = grain(shadows.answers)
        if self.offline:
            return _quantile(logit(*seen, least), self._predict(logit(true, others, least), ~shadows.members))
        fits = []
        for floor in [least, *(floor for floor in FLOORS if floor > least)]:
            references = logit(true, others, floor)
            fits.append((floor, self._predict(references, shadows.members), self._predict(references, ~shadows.members)))
        floor, inside, outside = max(fits, key=lambda fit: _separation(fit[1], fit[2]))
        return _log_density(logit(*seen, floor), inside) - _log_density(logit(*seen, floor), outside)

    def quick(self) -> Bavaria:
        """At most 16 models."""
        return replace(self, shadows=min(self.shadows, QUICK))

    def _predict(self, references: Array, chosen: Array) -> Predictive:
        """The posterior predictive ``t`` with ``prior + count - 1`` degrees of freedom (a flat prior of the mean)."""
        count = chosen.sum(0)
        if (count == 0).any():
            raise InputError(f"record {int(np.flatnonzero(count == 0)[0])} has no reference on one side; train more shadow models")
        mean = np.where(chosen, references, 0.0).sum(0) / count
        squares = np.where(chosen, (references - mean) ** 2, 0.0).sum(0)
        freedom = count - 1
        pooled = squares.sum() / max(1, freedom.sum()) + 1e-9
        prior = self.prior if self.prior is not None else prior_freedom(squares, freedom)
        variance = (squares + prior * pooled) / (freedom + prior)
        return Predictive(location=mean, scale=np.sqrt(variance * (1 + 1 / count)), freedom=freedom + prior)


def prior_freedom(squares: Array, freedom: Array) -> float:
    """The degrees of freedom of an inverse-gamma prior that explains how the records' log variances spread (Smyth 2004, section 6.2).

    ``squares`` ``(n,)`` are sums of squares with ``freedom`` ``(n,)``. Chance alone spreads a log variance by
    ``trigamma(freedom / 2)``; the rest is ``trigamma(prior / 2)``. At least 1, at most a million where nothing is left.
    """
    from scipy.special import digamma, polygamma

    known = (freedom > 0) & (squares > 0)
    if known.sum() < 3:
        return MOST
    half = freedom[known] / 2
    log = np.log(squares[known] / freedom[known]) - digamma(half) + np.log(half)
    rest = np.var(log, ddof=1) - np.mean(polygamma(1, half))
    return float(np.clip(2 * _inverse_trigamma(rest), 1.0, MOST)) if rest > 0 else MOST


def _inverse_trigamma(value: float) -> float:
    """Newton's method on ``1 / trigamma``, which is nearly straight."""
    from scipy.special import polygamma

    x = 0.5 + 1 / value
    for _ in range(60):
        here = float(polygamma(1, x))
        step = here * (1 - here / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-10 * x:
            break
    return x


def _log_density(observed: Array, p: Predictive) -> Array:
    from scipy.special import gammaln

    z = (observed - p.location) / p.scale
    return gammaln((p.freedom + 1) / 2) - gammaln(p.freedom / 2) - 0.5 * np.log(np.pi * p.freedom) - np.log(p.scale) \
        - (p.freedom + 1) / 2 * np.log1p(z**2 / p.freedom)  # fmt: skip


def _quantile(observed: Array, p: Predictive) -> Array:
    """The normal quantile of the share of non-members below the target, from whichever tail is thin."""
    from scipy.stats import norm, t

    z = (observed - p.location) / p.scale
    return np.where(z > 0, -norm.ppf(np.maximum(t.sf(z, p.freedom), 1e-300)), norm.ppf(np.maximum(t.cdf(z, p.freedom), 1e-300)))


def _separation(inside: Predictive, outside: Predictive) -> float:
    """The mean squared distance of the two locations in scales."""
    return float(np.mean((inside.location - outside.location) ** 2 / ((inside.scale**2 + outside.scale**2) / 2)))
