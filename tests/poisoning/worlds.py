"""Small data sets and fast recipes for the tests of this room."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from carbide.models.estimators import EstimatorRecipe
from carbide.types import BLACK_BOX, Access, Case, Dataset, OperatingPoint, Recipe, Space, Splits, digest


def forest(trees: int = 40) -> EstimatorRecipe:
    """A random forest."""
    return EstimatorRecipe(estimator=RandomForestClassifier(trees, n_jobs=1))


def logistic() -> EstimatorRecipe:
    """A standardised logistic regression."""
    return EstimatorRecipe(estimator=make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)))


@dataclass(frozen=True, kw_only=True, eq=False)
class NearestModel:
    """The label of the nearest training row; ties go to the first row."""

    x: Any
    y: Any
    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        return BLACK_BOX

    def predict(self, x: Any) -> Any:
        x = x.reshape(len(x), -1)
        far = (x**2).sum(1)[:, None] - 2 * x @ self.x.T + (self.x**2).sum(1)
        return np.eye(self.classes)[self.y[far.argmin(1)]]

    def at(self, threshold: float) -> NearestModel:
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        return digest(self.x, self.y, self.threshold)


@dataclass(frozen=True)
class NearestRecipe:
    """One nearest neighbour, written out: fast, and moved by every row."""

    def fit(self, dataset: Dataset, rng: Any) -> NearestModel:
        return NearestModel(x=dataset.x.reshape(len(dataset), -1), y=dataset.y, space=dataset.space, classes=dataset.classes)

    def describe(self) -> dict[str, Any]:
        return {"recipe": "nearest"}


def nearest() -> NearestRecipe:
    """One nearest neighbour."""
    return NearestRecipe()


def stump(depth: int = 2) -> EstimatorRecipe:
    """One tree."""
    return EstimatorRecipe(estimator=DecisionTreeClassifier(max_depth=depth))


def dataset(x: np.ndarray, y: np.ndarray, space: Space | None = None, *, classes: int | None = None, suppliers: int = 20) -> Dataset:
    """Rows with ids and suppliers."""
    n = len(y)
    space = space or Space.table([f"f{i}" for i in range(x.shape[1])])
    return Dataset(x=x, y=y.astype(np.int64), ids=np.array([f"row {i}" for i in range(n)]), source=np.array([f"supplier {i % suppliers}" for i in range(n)]),
                   space=space, classes=classes or int(y.max()) + 1)  # fmt: skip


def cut(data: Dataset, seed: int = 0) -> Splits:
    """60, 20 and 20 percent of the shuffled rows."""
    order = np.random.default_rng(seed).permutation(len(data))
    a, b = int(0.6 * len(data)), int(0.8 * len(data))
    return Splits(train=data.take(order[:a]), validation=data.take(order[a:b]), test=data.take(order[b:]))


@functools.cache
def cancer() -> Splits:
    """Breast cancer: 569 rows of 30 real features."""
    x, y = load_breast_cancer(return_X_y=True)
    return cut(dataset(x, 1 - y))


@functools.cache
def digits() -> Splits:
    """Digits as 1x8x8 images."""
    x, y = load_digits(return_X_y=True)
    return cut(dataset((x / 16).reshape(-1, 1, 8, 8), y, Space.image((1, 8, 8))))


@dataclass(frozen=True, kw_only=True, eq=False)
class NoModel:
    """Stands for the model under test where the judge trains its own."""

    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        return BLACK_BOX

    def predict(self, x: Any) -> Any:
        raise NotImplementedError

    def at(self, threshold: float) -> NoModel:
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        return "no model"


def case(data: Splits, recipe: Recipe | None, point: OperatingPoint | None = None, seed: int = 0) -> Case:
    """A case for the judge."""
    return Case(model=NoModel(space=data.train.space, classes=data.train.classes), data=data, recipe=recipe, operating_point=point, seed=seed)
