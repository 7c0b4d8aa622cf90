"""Dalal and Triggs 2005, https://doi.org/10.1109/CVPR.2005.177: histograms of oriented gradients, here under a ridge regression.

The features are one fixed function of one image, fitted on nothing, so a model on top of them may vote in a partition
ensemble without letting a poisoned row of one partition reach another through the features.

>>> import numpy as np
>>> gradient_histograms(np.zeros((2, 1, 8, 8))).shape
(2, 304)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from carbide.types import BLACK_BOX, Access, Array, Dataset, InputError, Rng, Space, digest

BINS = 8
FEATURES = ("gradients", "raw")


def gradient_histograms(x: Array) -> Array:
    """Fixed features ``(n, f)`` of images ``(n, c, h, w)`` in [0, 1]: block-normalised gradient histograms and a coarse picture.

    Cells are a seventh of the height (at least 2 pixels); a gradient's weight is shared by the two nearest of 8
    orientations; blocks of 2 x 2 cells overlap and have length at most 1.
    """
    grey = x.mean(1)
    n, height, width = grey.shape
    cell = max(2, round(height / 7))
    rows, columns = height // cell, width // cell
    padded = np.pad(grey, ((0, 0), (1, 1), (1, 1)), mode="edge")
    dy = padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]
    dx = padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]
    size = np.hypot(dx, dy)
    place = np.mod(np.arctan2(dy, dx), np.pi) / np.pi * BINS
    low = np.floor(place)
    share = place - low
    cells = np.zeros((n, rows, columns, BINS))
    for number in range(BINS):
        weight = size * ((low % BINS == number) * (1 - share) + ((low + 1) % BINS == number) * share)
        cells[..., number] = _pool(weight, cell, rows, columns)
    blocks = np.concatenate([cells[:, i : rows - 1 + i, j : columns - 1 + j] for i in (0, 1) for j in (0, 1)], axis=-1)
    blocks = blocks / np.sqrt((blocks**2).sum(-1, keepdims=True) + 0.01)
    coarse = _pool(grey, cell, rows, columns) / cell**2
    return np.concatenate([blocks.reshape(n, -1), coarse.reshape(n, -1)], axis=1)


def _pool(values: Array, cell: int, rows: int, columns: int) -> Array:
    """Sums over square cells."""
    cut = values[:, : rows * cell, : columns * cell]
    return cut.reshape(len(values), rows, cell, columns, cell).sum((2, 4))


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeModel:
    """Linear scores ``features(x) @ weights + bias``; ``weights`` is ``(f, k)``, ``bias`` ``(k,)``, ``scale`` ``(f,)`` divides raw features."""

    weights: Array
    bias: Array
    centre: Array
    scale: Array
    features: str
    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        """Labels and scores."""
        return BLACK_BOX

    def prepare(self, x: Array) -> Array:
        """The fixed features ``(n, f)``, the same for every model with the same ``features``."""
        return features_of(x, self.features)

    def predict_prepared(self, z: Array) -> Array:
        """Probabilities from fixed features: the scores of the one-hot regression through a softmax."""
        if self.features == "raw":
            z = (z - self.centre) / self.scale
        scores = 4.0 * (z @ self.weights + self.bias)
        scores = np.exp(scores - scores.max(1, keepdims=True))
        return scores / scores.sum(1, keepdims=True)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)``."""
        return self.predict_prepared(self.prepare(x))

    def at(self, threshold: float) -> RidgeModel:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of all that decides its answers."""
        return digest(self.weights, self.bias, self.centre, self.scale, self.features, self.threshold)

    def to_state(self) -> dict[str, Any]:
        """Plain values."""
        return {"weights": self.weights, "bias": self.bias, "centre": self.centre, "scale": self.scale, "features": self.features,
                "space": self.space, "classes": self.classes, "threshold": self.threshold}  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The model that ``to_state`` described."""
        return cls(**state)


def features_of(x: Array, features: str) -> Array:
    """The named fixed features ``(n, f)`` of inputs ``(n, *shape)``."""
    return gradient_histograms(x) if features == "gradients" else x.reshape(len(x), -1)


@dataclass(frozen=True, kw_only=True, eq=False)
class RidgeRecipe:
    """One-hot ridge regression in closed form on fixed features: ``"gradients"`` (images) or ``"raw"`` (standardised by its own rows).

    ``penalty`` is the weight of the squared norm, relative to the mean squared length of the centred features.
    """

    features: str = "gradients"
    penalty: float = 0.05

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise InputError(
                f"features is {self.features!r}; choose gradients or raw: features fitted on the training pool would carry poison across partitions"
            )
        if not self.penalty > 0:
            raise InputError(f"penalty is {self.penalty}; give a number > 0")

    def fit(self, dataset: Dataset, rng: Rng) -> RidgeModel:
        """The regression; the rng is not used.

        Raises:
            InputError: if gradients are asked of rows that are no images.
        """
        if self.features == "gradients" and not dataset.space.is_image:
            raise InputError(f"features is 'gradients', but {dataset.name} holds rows of shape {dataset.space.shape}, not images; choose raw")
        z = features_of(dataset.x, self.features)
        centre, scale = z.mean(0), np.ones(z.shape[1])
        if self.features == "raw":
            deviation = z.std(0)
            scale = np.where(deviation > 0, deviation, 1.0)
        z0 = (z - centre) / scale
        targets = np.eye(dataset.classes)[dataset.y]
        weights = _solve(z0, targets - targets.mean(0), self.penalty * max((z0**2).sum(1).mean(), 1e-12))
        bias = targets.mean(0) - (0 if self.features == "raw" else centre @ weights)
        return RidgeModel(
            weights=weights, bias=bias, centre=centre, scale=scale, features=self.features, space=dataset.space, classes=dataset.classes
        )

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "ridge", "features": self.features, "penalty": self.penalty}


def _solve(z: Array, targets: Array, penalty: float) -> Array:
    """``argmin |z w - targets|^2 + penalty |w|^2``, by whichever of the two normal equations is smaller."""
    if len(z) <= z.shape[1]:
        return z.T @ np.linalg.solve(z @ z.T + penalty * np.eye(len(z)), targets)
    return np.linalg.solve(z.T @ z + penalty * np.eye(z.shape[1]), z.T @ targets)
