"""Training on what models say that never saw the row: teachers on parts of the rows, and a student of their answers.

>>> import numpy as np
>>> left_out(6, teachers=4, out=2, rng=np.random.default_rng(0)).sum(0).tolist()
[2, 2, 2, 2, 2, 2]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.types import Array, Dataset, InputError, Model, Recipe, Rng

COPIES = 8  # of a row, whose labels stand for its probabilities where a recipe takes no weights


@dataclass(frozen=True, kw_only=True, eq=False)
class DistilledRecipe:
    """``inner`` trained on its own answers: those of ``out`` of ``teachers`` models that did not see the row.

    With ``bags`` an estimator that trains its parts on bootstrap samples, as a random forest does, is its own teacher: the
    answer on a row is that of the trees that did not draw it.
    """

    inner: Recipe
    teachers: int = 10
    out: int = 3
    bags: bool = True

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The student, a model of the inner recipe's kind.

        Raises:
            InputError: if there are fewer rows than teachers.
        """
        if len(dataset) < self.teachers:
            raise InputError(f"{len(dataset)} rows are too few for {self.teachers} teachers; give more rows or fewer teachers")
        soft = self._own(dataset, rng) if self.bags else None
        if soft is None:
            soft = self._taught(dataset, rng)
        return _student(self.inner, dataset, soft, rng)

    def describe(self) -> dict[str, Any]:
        """The inner recipe and how it is taught."""
        return {"recipe": "distilled", "inner": self.inner.describe(), "teachers": self.teachers, "out": self.out, "bags": self.bags}

    def _taught(self, dataset: Dataset, rng: Rng) -> Array:
        """The mean answers ``(n, k)`` of the teachers that were not trained on each row."""
        outside = left_out(len(dataset), teachers=self.teachers, out=self.out, rng=rng)
        answers = np.zeros((len(dataset), dataset.classes))
        for rows in outside:
            answers[rows] += self.inner.fit(dataset.take(~rows), rng).predict(dataset.x[rows])
        return answers / self.out

    def _own(self, dataset: Dataset, rng: Rng) -> Array | None:
        """The out-of-bag answers ``(n, k)`` of an estimator that has bags, None of others; rows in every bag get the mean answer."""
        found = bagged(getattr(self.inner, "estimator", None))
        if found is None or len(np.unique(dataset.y)) < 2:
            return None
        fitted = replace(self.inner, estimator=found).fit_estimator(dataset, rng)  # type: ignore[type-var]
        last = fitted.steps[-1][1] if hasattr(fitted, "steps") else fitted
        answers = np.zeros((len(dataset), dataset.classes))
        answers[:, np.asarray(last.classes_, np.int64)] = last.oob_decision_function_
        lost = ~np.isfinite(answers).all(1) | (answers.sum(1) < 0.5)
        answers[lost] = answers[~lost].mean(0)
        return answers


def left_out(n: int, *, teachers: int, out: int, rng: Rng) -> Array:
    """Which rows ``(teachers, n)`` each teacher does not see: every row is kept from ``out`` teachers, drawn at random."""
    order = np.argsort(rng.random((n, teachers)), axis=1)[:, :out]
    outside = np.zeros((teachers, n), bool)
    outside[order, np.arange(n)[:, None]] = True
    return outside


def bagged(estimator: Any) -> Any:
    """A clone of an estimator that keeps its out-of-bag answers, or None where it has no bags."""
    from sklearn.base import clone

    if estimator is None:
        return None
    params = estimator.get_params(deep=True)
    prefix = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    if params.get(f"{prefix}bootstrap") is not True or f"{prefix}oob_score" not in params:
        return None
    changed: Any = clone(estimator)
    return changed.set_params(**{f"{prefix}oob_score": True})


def _student(recipe: Any, dataset: Dataset, soft: Array, rng: Rng) -> Model:
    """The recipe's model of rows with soft labels ``(n, k)``: weighted rows where it takes weights, else copies."""
    n, k = soft.shape
    if hasattr(recipe, "fit_estimator") and _weighs(recipe.estimator):
        rows, labels = np.nonzero(soft > 1e-6)
        doubled = replace(dataset.take(rows), y=labels.astype(np.int64))
        return _model(recipe, doubled, recipe.fit_estimator(doubled, rng, weight=soft[rows, labels]))
    counts = _counts(soft, rng)
    rows = np.repeat(np.arange(n), COPIES)
    labels = np.repeat(np.tile(np.arange(k), n), counts.ravel())
    return recipe.fit(replace(dataset.take(rows), y=labels.astype(np.int64)), rng)


def _counts(soft: Array, rng: Rng) -> Array:
    """Whole numbers ``(n, k)`` of copies that sum to ``COPIES`` a row and are ``COPIES * soft`` on average."""
    edges = np.cumsum(soft / soft.sum(1, keepdims=True), axis=1) * COPIES
    edges[:, -1] = COPIES
    marks = np.floor(edges + rng.random((len(soft), 1)))
    marks[:, -1] = COPIES
    return np.diff(marks, axis=1, prepend=0.0).clip(0).astype(np.int64)


def _weighs(estimator: Any) -> bool:
    from sklearn.utils.validation import has_fit_parameter

    last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
    return has_fit_parameter(last, "sample_weight")


def _model(recipe: Any, dataset: Dataset, fitted: Any) -> Model:
    from carbide.models.estimators import EstimatorModel

    return EstimatorModel(estimator=fitted, space=dataset.space, classes=dataset.classes)
