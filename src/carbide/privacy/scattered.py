"""Tramer & Boneh 2021, https://arxiv.org/abs/2011.11660: a private linear model on features that were not learned.

Images are scattered, normalised in groups of channels and brought to length one, each by itself. Then three things look at
the rows, all through Gaussian noise: the mean, around which rows are centred; the second moments, whose few directions that
rise above the noise are damped (what is common to all images would drown what tells them apart); and the gradients. With
``n`` public, replacing one row moves the sum of rows by at most 2, that of second moments by ``sqrt(2)`` and that of
gradients by ``2 clip``, so ``mu^2 = (2 / sigma_mean)^2 + 2 / sigma_moments^2 + steps (2 clip / sigma)^2``. Leaving a row out,
which is what the paper counts, moves them by 1, 1 and ``clip``: ``neighbours: remove`` accounts for that weaker promise.

>>> recipe = ScatteredRecipe(epsilon=3.0)
>>> round(recipe.privacy.mu, 4), recipe.privacy.words()
(0.7191, '(3, 1e-05)-differentially private under replacing one record by any other')
"""

from __future__ import annotations

import functools
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from carbide.privacy.logistic import ASSUMPTIONS, SEEDED, probabilities
from carbide.privacy.private_model import PrivateModel
from carbide.privacy.scattering import out_shape, scatter
from carbide.stats.accounting import ADJACENCY, PrivacyStatement, check_promise, check_rows, gdp_mu, noise_for
from carbide.types import Array, Dataset, InputError, Rng, Space

TOGETHER = 3  # channels that are normalised together; the 81 of a scattering transform make 27 groups
CONSTANT = 0.1  # the weight of the intercept
MOST = 8192  # features up to which second moments are looked at; their matrix would not fit otherwise
DIRECTIONS = 64  # damped at most
NEIGHBOURS = {"replace": (ADJACENCY, 2.0, math.sqrt(2)), "remove": ("adding or leaving out one record, their number being taken as public", 1.0, 1.0)}
FLOOR = 0.2  # of the height of the noise in the second moments: below it nothing is told from noise, and all is treated alike
ROUNDING = 1 + 1e-5  # more noise by this factor than exact numbers would need, for rows and gradients in single precision
CHUNK = 1024


@dataclass(frozen=True, kw_only=True, eq=False)
class ScatteredModel(PrivateModel):
    """A linear model of scattered images: ``centre`` ``(d,)``, damped ``directions`` ``(r, d)`` with ``gains`` ``(r,)``, ``weights`` ``(h, d + 1)``.

    All float32; h = 1 for two classes and k for more.
    """

    weights: Array
    centre: Array
    directions: Array
    gains: Array

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        out = np.empty((len(x), self.classes))
        for first in range(0, len(x), CHUNK):
            rows = damped_(centred_(features(x[first : first + CHUNK]), self.centre), self.directions, self.gains)
            out[first : first + CHUNK] = probabilities(
                (rows @ self.weights[:, :-1].T + np.float32(CONSTANT) * self.weights[:, -1]).astype(np.float64)
            )
        return out


@dataclass(frozen=True, kw_only=True)
class ScatteredRecipe:
    """Trains ``ScatteredModel`` with (``epsilon``, ``delta``)-differential privacy under replacing one row, or leaving one out.

    Of mu squared the share ``centring`` goes to the mean and ``damping`` to the second moments. ``steps`` noisy gradients of
    rows cut to length ``clip`` are followed at ``rate`` with ``momentum``; the model is the mean of the last ``averaged``
    share of the iterates. ``secret_noise`` draws the noise from the operating system: nobody can repeat it.
    """

    epsilon: float = 3.0
    delta: float = 1e-5
    steps: int = 120
    rate: float = 600.0
    clip: float = 0.05
    momentum: float = 0.9
    averaged: float = 0.25
    centring: float = 0.01
    damping: float = 0.09
    neighbours: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        check_promise(self.epsilon, self.delta, rate=self.rate, clip=self.clip)
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give a whole number >= 1")
        if not 0 < self.averaged <= 1:
            raise InputError(f"averaged is {self.averaged}; give a share in (0, 1]")
        for name in ("momentum", "centring", "damping"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; give a share in [0, 1)")
        if self.neighbours not in NEIGHBOURS:
            raise InputError(f"neighbours is {self.neighbours!r}; choose {' or '.join(NEIGHBOURS)}")
        if self.centring + self.damping >= 1:
            raise InputError(
                f"centring is {self.centring} and damping {self.damping}, which leaves nothing for gradients; give shares that sum below 1"
            )

    @functools.cached_property
    def privacy(self) -> PrivacyStatement:
        """What every model that this recipe trains promises, whatever the rows."""
        said = [words for words in ASSUMPTIONS if not words.startswith(("the bounds", "noise in"))]
        said += ["noise in floating-point numbers counts as exact Gaussian noise", *([] if self.secret_noise else [SEEDED])]
        return PrivacyStatement(epsilon=self.epsilon, delta=self.delta, mu=gdp_mu(self.epsilon, self.delta),
                                adjacency=NEIGHBOURS[self.neighbours][0], assumptions=tuple(said))  # fmt: skip

    def noise(self, features: int) -> Noise:
        """The standard deviations of the noise where images have that many features."""
        assert self.privacy.mu is not None
        _, row, square = NEIGHBOURS[self.neighbours]
        mu, damping = self.privacy.mu / ROUNDING, self.damping if features <= MOST else 0.0

        def part(share: float, sensitivity: float, steps: int = 1) -> float:
            return noise_for(mu * math.sqrt(share), steps=steps, sensitivity=sensitivity) if share else math.inf

        return Noise(mean=part(self.centring, row), moments=part(damping, square),
                     gradient=part(1 - self.centring - damping, row * self.clip, self.steps))  # fmt: skip

    def fit(self, dataset: Dataset, rng: Rng) -> ScatteredModel:
        """A model trained on the images with noise from the rng.

        Raises:
            InputError: if the rows are no images, or delta is not below one over their number.
        """
        check(dataset.space, len(dataset), self.delta)
        return self.learn(features(dataset.x), dataset, rng)

    def learn(self, rows: Array, dataset: Dataset, rng: Rng) -> ScatteredModel:
        """The model from ``features(dataset.x)``, whose memory is used up: what ``fit`` does with them."""
        source = np.random.default_rng() if self.secret_noise else rng
        noise = self.noise(rows.shape[1])
        centre = noisy_mean(rows, noise.mean, source)
        rows = centred_(rows, centre)
        directions, gains = noisy_directions(rows, noise.moments, source)
        rows = damped_(rows, directions, gains)
        weights = descend(rows, dataset.y, 1 if dataset.classes == 2 else dataset.classes, self, noise.gradient, source)
        return ScatteredModel(weights=weights, centre=centre, directions=directions, gains=gains, privacy=self.privacy, space=dataset.space,
                              classes=dataset.classes)  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "private linear model on scattered images", **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Standard deviations on each coordinate of the sum of the rows, of their second moments, of each gradient sum; inf = not asked."""

    mean: float
    moments: float
    gradient: float


def check(space: Space, n: int, delta: float) -> None:
    """Whether these images can be trained on.

    Raises:
        InputError: if the space holds no images large enough, or delta is not below one over n.
    """
    if not space.is_image:
        raise InputError(
            f"inputs have the shape {space.shape}, and a scattering transform takes images (channels, height, width); use private_logistic"
        )
    out_shape(space.shape)
    check_rows(delta, n)


def features(x: Array) -> Array:
    """Scattered images ``(n, d)`` float32 of length one, normalised in groups of channels (Wu & He 2018); no row depends on another."""
    channels, height, width = out_shape(x.shape[1:])
    out = np.empty((len(x), channels * height * width), np.float32)
    for first in range(0, len(x), CHUNK):
        maps = scatter(x[first : first + CHUNK])
        groups = maps.reshape(len(maps), channels // TOGETHER, -1)
        groups = groups - groups.mean(2, keepdims=True)
        groups /= np.sqrt((groups**2).mean(2, keepdims=True) + 1e-5)
        out[first : first + CHUNK] = groups.reshape(len(maps), -1)
    return _unit_(out)


def noisy_mean(rows: Array, sigma: float, noise: Rng) -> Array:
    """The mean ``(d,)`` of rows, their sum with Gaussian noise, shrunk towards zero by as much as the noise is expected to weigh (James & Stein)."""
    n, d = rows.shape
    if math.isinf(sigma):
        return np.zeros(d, np.float32)
    found = (rows.sum(0, dtype=np.float64) + sigma * noise.standard_normal(d)) / n
    return (found * max(0.0, 1 - d * (sigma / n) ** 2 / max(float(found @ found), 1e-300))).astype(np.float32)


def noisy_directions(rows: Array, sigma: float, noise: Rng) -> tuple[Array, Array]:
    """Directions ``(r, d)`` whose second moments rise above the noise, and the factors ``(r,)`` that bring them down to the rest.

    The noise is alike in all directions of symmetric matrices; its eigenvalues end at ``sigma sqrt(2 d)`` (Wigner 1955).
    """
    from scipy.sparse.linalg import eigsh

    n, d = rows.shape
    if math.isinf(sigma) or d < 3:
        return np.zeros((0, d), np.float32), np.zeros(0, np.float32)
    values, vectors = eigsh(noisy_moments(rows, sigma, noise) / np.float32(n), k=min(DIRECTIONS, d - 1), which="LA", v0=np.ones(d, np.float32))
    height = sigma * math.sqrt(2 * d) / n
    above = values > 1.02 * height
    level = max(
        FLOOR * height, float(values.min()) if above.all() else 0.0
    )  # where more directions rise than are looked at, down to the last of them
    return np.ascontiguousarray(vectors.T[above], np.float32), np.sqrt(level / values[above]).astype(np.float32)


def noisy_moments(rows: Array, sigma: float, noise: Rng) -> Array:
    """The sum ``(d, d)`` of the rows' outer products with symmetric noise: variance sigma^2 on the diagonal, half that beside it."""
    square = noise.standard_normal((rows.shape[1], rows.shape[1]), dtype=np.float32)
    return rows.T @ rows + np.float32(sigma / 2) * (square + square.T)


def centred_(rows: Array, centre: Array) -> Array:
    """Directions of the rows from the centre, in place."""
    rows -= centre
    return _unit_(rows)


def damped_(rows: Array, directions: Array, gains: Array) -> Array:
    """Rows with their parts along orthonormal directions multiplied by the gains, brought back to length one; in place."""
    if len(gains):
        rows -= ((rows @ directions.T) * (1 - gains)) @ directions
        _unit_(rows)
    return rows


def _unit_(rows: Array) -> Array:
    rows /= np.maximum(np.sqrt(np.einsum("nd,nd->n", rows, rows)), np.float32(1e-9))[:, None]
    return rows


def descend(rows: Array, y: Array, heads: int, recipe: ScatteredRecipe, sigma: float, noise: Rng) -> Array:
    """The mean of the last iterates ``(heads, d + 1)`` of noisy gradient descent with momentum from zero."""
    n, d = rows.shape
    weights = np.zeros((heads, d + 1), np.float32)
    speed, total = np.zeros_like(weights), np.zeros(weights.shape)
    first = int(recipe.steps * (1 - recipe.averaged))
    for step in range(recipe.steps):
        noisy = gradient_sum(rows, y, weights, recipe.clip) + np.float32(sigma) * noise.standard_normal(weights.shape, dtype=np.float32)
        speed = np.float32(recipe.momentum) * speed + noisy / np.float32(n)
        weights = weights - np.float32(recipe.rate) * speed
        if step >= first:
            total += weights
    return (total / (recipe.steps - first)).astype(np.float32)


def gradient_sum(rows: Array, y: Array, weights: Array, clip: float) -> Array:
    """The sum ``(h, d + 1)`` over rows of the gradient of the log loss, each row's cut to length ``clip``; rows and constant have length at most one.

    A row's gradient is its residual times the row, so its length is known without forming it; it is bounded by that of the residual.
    """
    total = np.zeros_like(weights)
    scale = np.float32(1 / math.sqrt(1 + CONSTANT**2))  # with the constant a row has length at most one
    for first in range(0, len(rows), CHUNK):
        part, labels = rows[first : first + CHUNK], y[first : first + CHUNK]
        residual = probabilities((part @ weights[:, :-1].T + np.float32(CONSTANT) * weights[:, -1]).astype(np.float64))
        residual[np.arange(len(labels)), labels] -= 1
        residual = (residual[:, 1:] if len(weights) == 1 else residual).astype(np.float32)
        length = np.sqrt(np.einsum("nh,nh->n", residual, residual))
        residual *= (scale * np.minimum(1.0, clip / np.maximum(length, 1e-30)))[:, None].astype(np.float32)
        total[:, :-1] += residual.T @ part
        total[:, -1] += np.float32(CONSTANT) * residual.sum(0)
    return total
