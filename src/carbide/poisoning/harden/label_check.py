"""Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068: out-of-fold label check (confident learning).

Before the recipe trains, models that did not see a row say how likely its label is; rows whose label is confidently
another are taken out or relabelled. Catches flipped labels; weak against backdoors, whose rows agree with each other.

>>> from carbide.poisoning.ridge import RidgeRecipe
>>> LabelCheck(action="relabel")(RidgeRecipe(features="raw"), Flips(fraction=0.1)).describe()["action"]
'relabel'
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.models.estimators import EstimatorRecipe
from carbide.poisoning.confident import Suspects, suspects
from carbide.registry import Method
from carbide.run import spread
from carbide.types import Array, Backdoor, Dataset, Flips, InputError, Model, Recipe, Rng, Threat

ACTIONS = ("remove", "relabel")
CHECKERS = ("forest", "recipe")


@dataclass(frozen=True, kw_only=True)
class LabelCheck(Method):
    """Takes out (or relabels) training rows whose labels out-of-fold models are confident are wrong, then trains as before."""

    threats = (Flips, Backdoor)
    trains = True
    action: str = "remove"
    checker: str = "forest"
    folds: int = 5
    least: int = 20  # rows that a class keeps in any case
    most: float = 0.5  # share of a class that may be taken out

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise InputError(f"action is {self.action!r}; choose {' or '.join(ACTIONS)}")
        if self.checker not in CHECKERS:
            raise InputError(f"checker is {self.checker!r}; choose {' or '.join(CHECKERS)}")
        if self.folds < 2:
            raise InputError(f"folds is {self.folds}; give a whole number >= 2")
        if self.least < 1:
            raise InputError(f"least is {self.least}; give a whole number >= 1")
        if not 0 <= self.most < 1:
            raise InputError(f"most is {self.most}; give a share in [0, 1)")

    def __call__(self, recipe: Recipe, threat: Threat) -> LabelCheckRecipe:
        """The recipe that checks the labels first."""
        checker = recipe if self.checker == "recipe" else forest_recipe()
        return LabelCheckRecipe(inner=recipe, checker=checker, action=self.action, folds=self.folds, least=self.least, most=self.most)

    def strengths(self) -> tuple[LabelCheck, ...]:
        """Take out, then relabel what the forest says; then what the recipe itself says."""
        return (self, replace(self, action="relabel"), replace(self, checker="recipe"))


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelCheckRecipe:
    """Training of ``inner`` after the labels were checked by ``folds`` models of ``checker``, each on the rows of the other folds."""

    inner: Recipe
    checker: Recipe
    action: str = "remove"
    folds: int = 5
    least: int = 20
    most: float = 0.5

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The inner recipe's model on the checked rows."""
        inner, check = (np.random.default_rng(seed) for seed in rng.integers(2**63, size=2))
        return self.inner.fit(self.cleaned(dataset, check), inner)

    def cleaned(self, dataset: Dataset, rng: Rng) -> Dataset:
        """The data set without the suspects, or with what they probably are."""
        found = self.check(dataset, rng)
        return dataset.with_(y=found.labels) if self.action == "relabel" else dataset.take(~found.rows)

    def check(self, dataset: Dataset, rng: Rng) -> Suspects:
        """The suspects among the rows."""
        return suspects(dataset.y, self.probabilities(dataset, rng), least=self.least, most=self.most)

    def probabilities(self, dataset: Dataset, rng: Rng) -> Array:
        """Out-of-fold class probabilities ``(n, classes)``; every class is dealt evenly to the folds.

        Raises:
            InputError: if there are fewer rows than folds.
        """
        if len(dataset) < 2 * self.folds:
            raise InputError(f"folds is {self.folds}, but there are only {len(dataset)} training rows; give at most {max(2, len(dataset) // 2)}")
        fold = fold_of(dataset.y, self.folds, rng)
        seeds = rng.integers(2**63, size=self.folds).tolist()
        work = [_Fold(recipe=self.checker, train=dataset.take(fold != i), rest=dataset.x[fold == i], seed=seeds[i]) for i in range(self.folds)]
        out = np.zeros((len(dataset), dataset.classes))
        for i, part in enumerate(spread(_score, work, label="label check folds")):
            out[fold == i] = part
        return out

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "label check", "inner": dict(self.inner.describe()), "checker": dict(self.checker.describe()), "action": self.action,
                "folds": self.folds, "least": self.least, "most": self.most}  # fmt: skip


def forest_recipe() -> EstimatorRecipe:
    """The cheap checker: extremely randomised trees, whose leaves of three rows keep a wrong label from vouching for itself."""
    from sklearn.ensemble import ExtraTreesClassifier

    return EstimatorRecipe(estimator=ExtraTreesClassifier(100, min_samples_leaf=3))


def fold_of(y: Array, folds: int, rng: Rng) -> Array:
    """The fold ``(n,)`` of each row, every class spread evenly and at random."""
    order = np.argsort(y + rng.random(len(y)) * 0.5, kind="stable")
    fold = np.empty(len(y), np.int64)
    fold[order] = np.arange(len(y)) % folds
    return fold


@dataclass(frozen=True, kw_only=True, eq=False)
class _Fold:
    """One fold's training and the rows that it has to judge."""

    recipe: Recipe
    train: Dataset
    rest: Array
    seed: int


def _score(fold: _Fold) -> Array:
    return fold.recipe.fit(fold.train, np.random.default_rng(fold.seed)).predict(fold.rest)
