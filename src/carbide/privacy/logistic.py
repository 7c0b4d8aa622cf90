"""Logistic regression trained by noisy full-batch gradient descent, and its exact account.

Rows are scaled by the public bounds of the space, centred at a noisy mean and brought to length one; each row's gradient
is cut to a fixed length, and Gaussian noise is added to every sum. Replacing one row moves the mean's sum by at most 2
and a gradient's by at most ``2 * clip``, so everything released together is Gaussian-private with a known mu:
``mu^2 = (2 / sigma_mean)^2 + steps * (2 * clip / sigma)^2``.

>>> recipe = PrivateLogisticRecipe(epsilon=1.0, delta=1e-5)
>>> round(recipe.privacy.mu, 4), recipe.privacy.words()
(0.2681, '(1, 1e-05)-differentially private under replacing one record by any other')
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.privacy.private_model import PrivateModel
from carbide.privacy.statement import refuse_seen
from carbide.stats.accounting import PrivacyStatement, check_promise, check_rows, gdp_mu, noise_for
from carbide.types import Array, Dataset, InputError, Rng, Space

ASSUMPTIONS = (
    "the bounds of the features are public knowledge and were not read off the training rows",
    "the settings of the training were fixed beforehand; choosing among trained models by validation rows is not accounted for these rows",
    "each person has one row, and the number of rows is public",
    "no step before this training looked at several rows together (cleaning, resampling, selecting features)",
    "noise in double-precision numbers counts as exact Gaussian noise",
)
SEEDED = "the seed that the noise was drawn from stays secret, or secret_noise is set (a published seed lets everybody subtract the noise)"


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Fixed maps of rows into the unit ball, in which no row depends on another.

    ``curve`` c > 0 maps the share ``u`` of the way from lower to upper bound to ``log(1 + c u) / log(1 + c)``, which spreads
    quantities that are mostly small against their bounds; 0 leaves them. ``constant`` is the weight of the intercept.
    """

    curve: float = 5.0
    constant: float = 0.1

    def __post_init__(self) -> None:
        for name in ("curve", "constant"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"{name} is {getattr(self, name)}; give a number >= 0")

    def ball(self, x: Array, space: Space) -> Array:
        """Rows ``(n, d)`` of length at most one: each feature by its public bounds to [-1, 1], bent, over the root of d."""
        width = np.where(space.upper > space.lower, space.upper - space.lower, 1.0)
        share = np.clip((x - space.lower) / width, 0.0, 1.0).reshape(len(x), -1)
        bent = np.log1p(self.curve * share) / math.log1p(self.curve) if self.curve else share
        return (2 * bent - 1) / math.sqrt(share.shape[1])

    def rows(self, ball: Array, centre: Array) -> Array:
        """Rows ``(n, d + 1)`` of length at most one: the direction from the centre ``(d,)``, and the constant."""
        away = ball - centre
        away = away / np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-12)
        return np.column_stack([away, np.full(len(away), self.constant)]) / math.sqrt(1 + self.constant**2)


@dataclass(frozen=True, kw_only=True, eq=False)
class PrivateLogistic(PrivateModel):
    """A logistic regression around a centre ``(d,)``, and what its training promises.

    ``weights`` are ``(h, d + 1)``, with h = 1 for two classes and k for more.
    """

    plain: ClassVar[dict[str, type]] = {"scaling": Scaling}
    weights: Array
    centre: Array
    scaling: Scaling

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        return probabilities(self.scaling.rows(self.scaling.ball(x, self.space), self.centre) @ self.weights.T)


@dataclass(frozen=True, kw_only=True)
class PrivateLogisticRecipe:
    """Trains ``PrivateLogistic`` with (``epsilon``, ``delta``)-differential privacy under replacing one row.

    The share ``centring`` of mu squared goes to the mean of the rows. ``steps`` noisy gradients of rows cut to length
    ``clip`` are followed at ``rate``; the model is the mean of the last ``averaged`` share of the iterates.
    ``secret_noise`` draws the noise from the operating system: nobody can repeat it.
    """

    epsilon: float = 1.0
    delta: float = 1e-5
    steps: int = 60
    rate: float = 16.0
    clip: float = 0.1
    averaged: float = 0.5
    centring: float = 0.3
    scaling: Scaling = Scaling()
    secret_noise: bool = False

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta, rate=self.rate, clip=self.clip)
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give a whole number >= 1")
        if not 0 < self.averaged <= 1:
            raise InputError(f"averaged is {self.averaged}; give a share in (0, 1]")
        if not 0 <= self.centring < 1:
            raise InputError(f"centring is {self.centring}; give a share in [0, 1)")

    @functools.cached_property
    def privacy(self) -> PrivacyStatement:
        """What every model that this recipe trains promises, whatever the rows."""
        assumptions = ASSUMPTIONS if self.secret_noise else (*ASSUMPTIONS, SEEDED)
        return PrivacyStatement(epsilon=self.epsilon, delta=self.delta, mu=gdp_mu(self.epsilon, self.delta), assumptions=assumptions)

    @property
    def sigma(self) -> float:
        """The standard deviation of the noise on each coordinate of each gradient sum."""
        assert self.privacy.mu is not None
        return noise_for(self.privacy.mu * math.sqrt(1 - self.centring), steps=self.steps, sensitivity=2 * self.clip)

    @property
    def sigma_mean(self) -> float:
        """The standard deviation of the noise on each coordinate of the sum of the rows; inf where they are not centred."""
        assert self.privacy.mu is not None
        return noise_for(self.privacy.mu * math.sqrt(self.centring), steps=1, sensitivity=2.0) if self.centring else math.inf

    def fit(self, dataset: Dataset, rng: Rng) -> PrivateLogistic:
        """A model trained on the data set with noise from the rng.

        Raises:
            InputError: if bounds were read off the rows or are not finite, or delta is not below one over the number of rows.
        """
        check(dataset, self.delta)
        noise = np.random.default_rng() if self.secret_noise else rng
        ball = self.scaling.ball(dataset.x, dataset.space)
        centre = np.zeros(ball.shape[1])
        if self.centring:
            centre = (ball.sum(0) + self.sigma_mean * noise.standard_normal(len(centre))) / len(ball)
        weights = descend(self.scaling.rows(ball, centre), dataset.y, 1 if dataset.classes == 2 else dataset.classes, self, noise)
        return PrivateLogistic(
            weights=weights, centre=centre, scaling=self.scaling, privacy=self.privacy, space=dataset.space, classes=dataset.classes
        )

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "private logistic regression", **asdict(self)}

    def stacks(self, pool: Dataset) -> bool:
        """Whether ``release_many`` can train on rows of this pool."""
        return pool.classes == 2 and not self.secret_noise

    def release_many(self, pool: Dataset, parts: Sequence[Array], rngs: Sequence[Rng]) -> Array:
        """Weights and centre ``(m, 2 d + 1)`` of one training for each of ``parts``, rows of the pool, each with its own generator."""
        from carbide.privacy._stacked_logistic import train_stack

        for size in {len(part) for part in parts}:
            check(pool.take(np.arange(size)), self.delta)
        return train_stack(self, pool, parts, rngs)


def gradient_sum(rows: Array, y: Array, weights: Array, clip: float) -> Array:
    """The sum ``(h, d + 1)`` over rows of the gradient of the log loss, each row's cut to length ``clip``."""
    logits = rows @ weights.T
    residual = probabilities(logits)
    residual[np.arange(len(y)), y] -= 1
    if len(weights) == 1:
        residual = residual[:, 1:]
    length = np.linalg.norm(residual, axis=1) * np.linalg.norm(rows, axis=1)
    return (residual * np.minimum(1.0, clip / np.maximum(length, 1e-300))[:, None]).T @ rows


def descend(rows: Array, y: Array, heads: int, recipe: PrivateLogisticRecipe, noise: Rng) -> Array:
    """The mean of the last iterates ``(heads, d + 1)`` of noisy gradient descent from zero."""
    weights = np.zeros((heads, rows.shape[1]))
    total, first = np.zeros_like(weights), int(recipe.steps * (1 - recipe.averaged))
    for step in range(recipe.steps):
        noisy = gradient_sum(rows, y, weights, recipe.clip) + recipe.sigma * noise.standard_normal(weights.shape)
        weights = weights - recipe.rate / len(rows) * noisy
        if step >= first:
            total += weights
    return total / (recipe.steps - first)


def probabilities(logits: Array) -> Array:
    """Probabilities ``(n, k)`` of logits ``(n, k)``, or of the one logit of class 1 ``(n, 1)``."""
    if logits.shape[1] == 1:
        logits = np.column_stack([np.zeros(len(logits)), logits[:, 0]])
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def check(dataset: Dataset, delta: float) -> None:
    """Whether a table can be trained on privately.

    Raises:
        InputError: if bounds were read off the rows or are not finite, or delta is not below one over the number of rows.
    """
    space = dataset.space
    refuse_seen(space)
    endless = np.flatnonzero(~(np.isfinite(space.lower) & np.isfinite(space.upper)).ravel())
    if len(endless):
        raise InputError(f"feature {space.name(int(endless[0]))} has no finite bounds, and private training scales by public bounds only; "
                         "give lower and upper bounds in the space that do not come from the training rows")  # fmt: skip
    check_rows(delta, len(dataset))
