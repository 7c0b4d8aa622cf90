"""A private linear model of a table whose settings follow from the public number of rows, and its exact account.

As ``privacy.logistic``, with two differences. How many noisy gradients are followed, how fast, and whether the mean and the
second moments of the rows are asked for at all is decided by ``n mu``, what the noise leaves to be seen; so nothing is tuned
on the rows. And the directions of most variance, where their second moments rise above the noise, are damped. The mean is of
rows cut to length ``r``, one for two classes. With ``n`` public, and each release a sum with Gaussian noise that one row moves
by no more than these cuts allow, ``mu^2 = (2 r / sigma_mean)^2 + 2 / sigma_moments^2 + steps (2 clip / sigma)^2`` for replacing
one row; for leaving one out, ``mu^2 = (r / sigma_mean)^2 + 1 / sigma_moments^2 + steps (clip / sigma)^2``.

>>> recipe = PrivateLinearRecipe(epsilon=1.0, delta=1e-5)
>>> [recipe.settings(n, 10).steps for n in (100, 1000, 100_000)]
[5, 40, 100]
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.privacy.logistic import ASSUMPTIONS, SEEDED, Scaling, check, gradient_sum, probabilities
from carbide.privacy.private_model import PrivateModel
from carbide.privacy.scattered import NEIGHBOURS, ROUNDING, Noise, noisy_directions, noisy_mean
from carbide.stats.accounting import PrivacyStatement, check_promise, gdp_mu, noise_for
from carbide.types import Array, Dataset, InputError, Rng

STEPS = (5, 100)  # at least, at most
PACE = 0.15  # steps by unit of what is seen: n mu, doubled where leaving a row out is all that counts
RATE = 80.0
CALM = 300.0  # what is seen above which the rate grows, as its root, up to FASTER times
FASTER = 4.0
SHARE = 0.15  # of mu squared for the mean, and for the second moments, where they are asked for
CENTRING = 0.1  # the same for the mean where there are more classes than two,
REACH = 0.7  # whose rows are cut to this length for it: few are longer, and the noise is as much shorter
BLURRED = 0.4  # the mean is asked for where its noise is expected to be shorter than this; rows have length one
HIGH = 0.1  # second moments of two classes are asked for where their noise ends below this,
TALL = 0.3  # or, of MANY features, below this;
FLAT = 0.01  # of more classes, below this, for there it is the directions of most variance that tell classes apart
MANY = 20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is decided by the numbers of rows, features and classes: ``steps``, ``rate``, and the shares of mu squared for mean and second moments.

    ``reach`` is the length that rows are cut to for their mean.
    """

    steps: int
    rate: float
    centring: float
    damping: float
    reach: float = 1.0


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateLinear(PrivateModel):
    """A linear model ``weights`` ``(h, d + 1)`` around a ``centre`` ``(d,)``, with ``directions`` ``(r, d)`` damped by ``gains`` ``(r,)``."""

    plain: ClassVar[dict[str, type]] = {"scaling": Scaling}
    weights: Array
    centre: Array
    directions: Array
    gains: Array
    scaling: Scaling

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        ball = self.scaling.ball(x, self.space)
        return probabilities(_rows(ball, self.centre, self.directions, self.gains, self.scaling) @ self.weights.T)


@dataclass(frozen=True, kw_only=True)
class PrivateLinearRecipe:
    """Trains ``PrivateLinear`` with (``epsilon``, ``delta``)-differential privacy under replacing one row; the number of rows is public.

    ``neighbours: remove`` accounts for leaving one row out instead, a weaker promise that many other tools make.
    Each row's gradient is cut to length ``clip``; the model is the mean of the last ``averaged`` share of the iterates.
    ``secret_noise`` draws the noise from the operating system: nobody can repeat it.
    """

    epsilon: float = 1.0
    delta: float = 1e-5
    clip: float = 0.1
    averaged: float = 0.25
    scaling: Scaling = Scaling(curve=1.0, constant=0.3)
    neighbours: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta, clip=self.clip)
        if self.neighbours not in NEIGHBOURS:
            raise InputError(f"neighbours is {self.neighbours!r}; choose {' or '.join(NEIGHBOURS)}")
        if not 0 < self.averaged <= 1:
            raise InputError(f"averaged is {self.averaged}; give a share in (0, 1]")

    @functools.cached_property
    def privacy(self) -> PrivacyStatement:
        """What every model that this recipe trains promises, whatever the rows."""
        assumptions = ASSUMPTIONS if self.secret_noise else (*ASSUMPTIONS, SEEDED)
        return PrivacyStatement(epsilon=self.epsilon, delta=self.delta, mu=gdp_mu(self.epsilon, self.delta),
                                adjacency=NEIGHBOURS[self.neighbours][0], assumptions=assumptions)  # fmt: skip

    @property
    def mu(self) -> float:
        """What the noise is made for: a little less than is promised, for rounding."""
        assert self.privacy.mu is not None
        return self.privacy.mu / ROUNDING

    def settings(self, n: int, d: int, classes: int = 2) -> Settings:
        """The settings for ``n`` rows of ``d`` features and of that many classes."""
        _, row, square = NEIGHBOURS[self.neighbours]
        seen = n * self.mu * 2 / row
        steps = int(np.clip(round(PACE * seen), *STEPS))
        centring, reach = (SHARE, 1.0) if classes == 2 else (CENTRING, REACH)
        blur = row * reach * math.sqrt(d / centring) / (n * self.mu)
        height = square * math.sqrt(2 * d / SHARE) / (n * self.mu)
        low = FLAT if classes > 2 else TALL if d >= MANY else HIGH
        return Settings(steps=steps, rate=RATE * min(FASTER, max(1.0, math.sqrt(seen / CALM))), reach=reach,
                        centring=centring if blur < BLURRED else 0.0, damping=SHARE if height < low else 0.0)  # fmt: skip

    def noise(self, settings: Settings) -> Noise:
        """The standard deviations of the noise."""
        _, row, square = NEIGHBOURS[self.neighbours]

        def part(share: float, sensitivity: float, steps: int = 1) -> float:
            return noise_for(self.mu * math.sqrt(share), steps=steps, sensitivity=sensitivity) if share else math.inf

        return Noise(mean=part(settings.centring, row * settings.reach), moments=part(settings.damping, square),
                     gradient=part(1 - settings.centring - settings.damping, row * self.clip, settings.steps))  # fmt: skip

    def fit(self, dataset: Dataset, rng: Rng) -> PrivateLinear:
        """A model trained on the data set with noise from the rng.

        Raises:
            InputError: if bounds were read off the rows or are not finite, or delta is not below one over the number of rows.
        """
        check(dataset, self.delta)
        source = np.random.default_rng() if self.secret_noise else rng
        ball = self.scaling.ball(dataset.x, dataset.space)
        settings = self.settings(len(ball), ball.shape[1], dataset.classes)
        noise = self.noise(settings)
        centre = noisy_mean(cut(ball, settings.reach), noise.mean, source)
        directions, gains = noisy_directions(unit(ball - centre), noise.moments, source)
        rows = _rows(ball, centre, directions, gains, self.scaling)
        weights = self.descend(rows, dataset.y, 1 if dataset.classes == 2 else dataset.classes, settings, noise.gradient, source)
        return PrivateLinear(weights=weights, centre=centre, directions=directions, gains=gains, scaling=self.scaling, privacy=self.privacy,
                             space=dataset.space, classes=dataset.classes)  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "private linear model", **asdict(self)}

    def descend(self, rows: Array, y: Array, heads: int, settings: Settings, sigma: float, noise: Rng) -> Array:
        """The mean of the last iterates ``(heads, d + 1)`` of noisy gradient descent from zero."""
        weights = np.zeros((heads, rows.shape[1]))
        total, first = np.zeros_like(weights), int(settings.steps * (1 - self.averaged))
        for step in range(settings.steps):
            noisy = gradient_sum(rows, y, weights, self.clip) + sigma * noise.standard_normal(weights.shape)
            weights = weights - settings.rate / len(rows) * noisy
            if step >= first:
                total += weights
        return total / (settings.steps - first)


def _rows(ball: Array, centre: Array, directions: Array, gains: Array, scaling: Scaling) -> Array:
    """Rows ``(n, d + 1)`` of length at most one: the direction from the centre, damped, and the constant."""
    away = unit(ball - centre)
    away = away - ((away @ directions.T) * (1 - gains)) @ directions
    return scaling.rows(away, np.zeros(away.shape[1]))


def unit(rows: Array) -> Array:
    """Rows ``(n, d)`` brought to length one, each by itself."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def cut(rows: Array, length: float) -> Array:
    """Rows ``(n, d)`` of length at most one, those longer than ``length`` shortened to it."""
    return rows if length == 1 else rows * np.minimum(1.0, length / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
