"""A private additive model of a table: one smooth curve a feature, drawn from noisy gradients, and its exact account.

A feature at the share ``u`` of the way between its public bounds becomes ``w_m cos(pi m u)`` for m = 1 .. waves with weights
``w_m = m^-roughness``, so that curves pay for wiggling; together a row's waves are scaled to length at most one. A feature of v
declared values has v - 1 waves at most, which is all that there is to know of it. As in ``privacy.linear`` a noisy mean is taken
off, directions of most variance are damped where they rise above the noise, and noisy sums of gradients cut to length ``clip``
are followed, with settings from the public numbers of rows, waves and classes. With ``n`` public and rows cut to length ``r``
for their mean, ``mu^2 = (2 r / sigma_mean)^2 + 2 / sigma_moments^2 + steps (2 clip / sigma)^2`` for replacing one row; for
leaving one out, ``mu^2 = (r / sigma_mean)^2 + 1 / sigma_moments^2 + steps (clip / sigma)^2``. What is released is the sum of
curves itself: a logit is the intercept plus one number a feature, exactly.

>>> recipe = PrivateAdditiveRecipe(epsilon=1.0, delta=1e-5)
>>> round(recipe.privacy.mu, 4), recipe.privacy.words()
(0.2681, '(1, 1e-05)-differentially private under replacing one record by any other')
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.privacy.linear import PrivateLinearRecipe, Settings, cut, unit
from carbide.privacy.logistic import Scaling, check, probabilities
from carbide.privacy.private_model import PrivateModel
from carbide.privacy.scattered import noisy_directions, noisy_mean
from carbide.stats.accounting import PrivacyStatement
from carbide.types import Array, Dataset, InputError, Rng, Space

MOST = 12  # waves of a feature: more would be finer than noise ever allows
LENGTH = 0.5  # rows are stretched by one over it, so that around the centre they are about as long as one; gradients are cut in any case
DAMPED = 0.25  # the same where directions of most variance were damped, which leaves shorter rows
CLEAR = 0.18  # the length of the mean's noise above which, of more classes than two, gradients are followed slower: by as much as it is longer


@dataclass(frozen=True, kw_only=True)
class Waves:
    """Fixed maps of rows into the unit ball, one block a feature, in which no row depends on another.

    ``curve`` bends features as ``Scaling`` does; wave m of a feature weighs ``m ** -roughness``.
    """

    waves: int = 2
    roughness: float = 1.5
    curve: float = 2.0

    def __post_init__(self) -> None:
        if not 1 <= self.waves <= MOST:
            raise InputError(f"waves is {self.waves}; give a whole number from 1 to {MOST}")
        if not (math.isfinite(self.roughness) and self.roughness >= 0):
            raise InputError(f"roughness is {self.roughness}; give a number >= 0")
        Scaling(curve=self.curve)

    def blocks(self, space: Space) -> tuple[Array, Array]:
        """Of each wave its feature and its number m, both ``(D,)``; from the declared space alone."""
        width, step = (space.upper - space.lower).ravel(), space.step.ravel()
        values = np.where(step > 0, np.floor(width / np.where(step > 0, step, 1.0) + 1e-9) + 1, np.inf)
        counts = np.clip(np.minimum(self.waves, values - 1), 1, None).astype(np.int64)
        return np.repeat(np.arange(len(width)), counts), np.concatenate([np.arange(1, count + 1) for count in counts])

    def ball(self, x: Array, space: Space) -> Array:
        """Rows ``(n, D)`` of length at most one."""
        feature, m = self.blocks(space)
        share = (Scaling(curve=self.curve).ball(x, space) * math.sqrt(math.prod(space.shape)) + 1) / 2
        weights = m ** -float(self.roughness)
        return weights * np.cos(np.pi * m * share[:, feature]) / np.linalg.norm(weights)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateAdditive(PrivateModel):
    """A sum of curves: ``weights`` ``(h, D)`` of the waves and the ``intercept`` ``(h,)``; h = 1 for two classes and k for more."""

    plain: ClassVar[dict[str, type]] = {"waves": Waves}
    weights: Array
    intercept: Array
    waves: Waves

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        return probabilities(self.waves.ball(x, self.space) @ self.weights.T + self.intercept)

    def parts(self, x: Array) -> Array:
        """What each feature adds to each logit, ``(n, d, h)``: with the intercept they sum to the logits. Each is a curve of its feature alone."""
        _, m = self.waves.blocks(self.space)
        return np.add.reduceat(self.waves.ball(x, self.space)[:, :, None] * self.weights.T, np.flatnonzero(m == 1), axis=1)


@dataclass(frozen=True, kw_only=True)
class PrivateAdditiveRecipe:
    """Trains ``PrivateAdditive`` with (``epsilon``, ``delta``)-differential privacy under replacing one row; the number of rows is public.

    ``neighbours: remove`` accounts for leaving one row out instead, a weaker promise that many other tools make.
    ``waves``, ``roughness`` and ``curve`` say how the curves may run; each row's gradient is cut to length ``clip``.
    ``constant`` is the weight of the intercept. ``secret_noise`` draws the noise from the operating system: nobody can repeat it.
    """

    epsilon: float = 1.0
    delta: float = 1e-5
    waves: int = 2
    roughness: float = 1.5
    curve: float = 2.0
    clip: float = 0.1
    constant: float = 0.3
    neighbours: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        _ = self.linear, self.basis  # both check what they are given
        Scaling(constant=self.constant)

    @functools.cached_property
    def linear(self) -> PrivateLinearRecipe:
        """The training on waves: its settings, its account and its noise."""
        return PrivateLinearRecipe(epsilon=self.epsilon, delta=self.delta, clip=self.clip, neighbours=self.neighbours, secret_noise=self.secret_noise)

    @functools.cached_property
    def basis(self) -> Waves:
        """The waves."""
        return Waves(waves=self.waves, roughness=self.roughness, curve=self.curve)

    @property
    def privacy(self) -> PrivacyStatement:
        """What every model that this recipe trains promises, whatever the rows."""
        return self.linear.privacy

    def settings(self, n: int, waves: int, classes: int) -> Settings:
        """Those of the linear model for ``n`` rows, that many waves in all and classes; around a blurred mean of many classes the rate is lower."""
        found = self.linear.settings(n, waves, classes)
        blur = self.linear.noise(found).mean * math.sqrt(waves) / n
        if classes == 2 or math.isinf(blur):
            return found
        return replace(found, rate=found.rate * min(1.0, CLEAR / blur))

    def fit(self, dataset: Dataset, rng: Rng) -> PrivateAdditive:
        """A model trained on the data set with noise from the rng.

        Raises:
            InputError: if bounds were read off the rows or are not finite, or delta is not below one over the number of rows.
        """
        check(dataset, self.delta)
        source = np.random.default_rng() if self.secret_noise else rng
        ball = self.basis.ball(dataset.x, dataset.space)
        settings = self.settings(len(ball), ball.shape[1], dataset.classes)
        noise = self.linear.noise(settings)
        centre = noisy_mean(cut(ball, settings.reach), noise.mean, source).astype(np.float64)
        away = ball - centre
        directions, gains = noisy_directions(unit(away), noise.moments, source)
        length = DAMPED if settings.damping else LENGTH

        def damped(rows: Array) -> Array:
            return (rows - ((rows @ directions.T) * (1 - gains)) @ directions) / length

        rows = np.column_stack([damped(away), np.full(len(ball), self.constant)])
        found = self.linear.descend(rows, dataset.y, 1 if dataset.classes == 2 else dataset.classes, settings, noise.gradient, source)
        weights = damped(found[:, :-1])  # damping is symmetric: what it does to rows it does to weights
        return PrivateAdditive(weights=weights, intercept=self.constant * found[:, -1] - weights @ centre, waves=self.basis, privacy=self.privacy,
                               space=dataset.space, classes=dataset.classes)  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "private additive model", **asdict(self)}
