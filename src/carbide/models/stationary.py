"""Logistic regressions whose weights are the minimum of a known sum over their training rows, and what that sum says of one row.

At the minimum the gradient is zero: the pull of all rows balances the penalty. Who knows the weights and all rows but one knows the pull of
that one. So far scikit-learn's ``LogisticRegression`` with an intercept and an L2 penalty (or none) is read, alone or behind a
``StandardScaler``, which keeps the mean of all rows besides.

>>> import numpy as np
>>> from sklearn.linear_model import LogisticRegression
>>> from carbide.models.estimators import EstimatorModel
>>> from carbide.types import Space
>>> x, y = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 1, 0, 1])
>>> model = EstimatorModel(estimator=LogisticRegression(tol=1e-10).fit(x, y), space=Space.table(["a"]), classes=2)
>>> stationary(model).missing(x[:3], y[:3])[0].round(4).tolist()
[3.0]
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.types import Array, InputError

CLOSE = 1e-12  # weights that are so near are the same
ROUNDING = 0.05  # by how much what is left over of a residual may exceed 1, beside what the training left undone


@dataclass(frozen=True, kw_only=True, eq=False)
class Stationary:
    """Weights ``(h, d)`` and intercepts ``(h,)`` at the minimum of ``cost * sum of losses + |weights|^2 / 2``; h = 1 for two classes.

    ``mean``, ``scale`` and ``variance`` ``(d,)`` are those of the scaler in front, of ``counted`` rows; 0 = there is none that keeps
    them. ``tolerance`` is how far the mean gradient may be from zero; ``estimator`` is what was trained.
    """

    weights: Array
    intercepts: Array
    cost: float
    mean: Array
    scale: Array
    variance: Array
    counted: int
    tolerance: float
    estimator: Any

    def residuals(self, z: Array, y: Array) -> Array:
        """Probabilities less one-hot labels ``(n, h)`` of scaled rows ``(n, d)``."""
        logits = z @ self.weights.T + self.intercepts
        if len(self.weights) == 1:
            return 1 / (1 + np.exp(-logits)) - y[:, None]
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True) - np.eye(len(self.weights))[y]

    def missing(self, x: Array, y: Array) -> tuple[Array, int]:
        """The training row ``(d,)`` and its label, given all others ``x`` ``(n - 1, d)`` and ``y`` ``(n - 1,)``.

        The intercept's equation gives the row's residual, the weights' equation the residual times the row (Balle et al. 2022, section
        3); with several classes least squares over them. A scaler's mean gives the row at once. The label is the one whose residual is
        nearest to the row's. Exact up to how far the training went.

        Raises:
            InputError: if these cannot be the other training rows.
        """
        z = (x - self.mean) / self.scale
        seen = self.residuals(z, y)
        left = -seen.sum(0)
        self._check(x, left)
        row = self._row(x, y)
        classes = max(2, len(left))
        tried = self.residuals(np.tile((row - self.mean) / self.scale, (classes, 1)), np.arange(classes))
        return row, int(np.abs(tried - left).max(1).argmin())

    def _row(self, x: Array, y: Array) -> Array:
        """The missing row ``(d,)`` by the equations, whatever comes out."""
        if self.counted:
            return self.counted * self.mean - x.sum(0)
        z = (x - self.mean) / self.scale
        seen = self.residuals(z, y)
        left = -seen.sum(0)
        penalty = self.weights / self.cost if math.isfinite(self.cost) else np.zeros_like(self.weights)
        return (left @ (-penalty - seen.T @ z)) / max(float(left @ left), 1e-300) * self.scale + self.mean

    def settled(self, x: Array, y: Array, times: int) -> tuple[Array, int]:
        """As ``missing``; then the training is repeated with the row that was found, up to ``times``, and what the same equations say too much
        of that known row is taken off: short trainings stop short of the minimum in the same way with either row.

        The row whose training comes nearest to the weights is kept.
        """
        from sklearn.base import clone

        aim, label = self.missing(x, y)
        row = best = aim
        least = math.inf
        for _ in range(0 if self.counted else times):
            if not np.isfinite(row).all():
                break
            again: Any = clone(self.estimator)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # how far the training goes is what is being repeated
                again.fit(np.vstack([x, row]), np.append(y, label))
            seen = _read(again)
            if seen.weights.shape != self.weights.shape:
                break
            off = float(np.linalg.norm(seen.weights - self.weights) + np.linalg.norm(seen.intercepts - self.intercepts))
            if off < least:
                best, least = row, off
            if off < CLOSE or off > 2 * least:
                break
            row = row + aim - seen._row(x, y)
        return best, label

    def _check(self, x: Array, left: Array) -> None:
        """Whether what the known rows leave over can be one row's: a scaler has counted it and its spread, else its residual is at most 1."""
        n, what = len(x) + 1, f"leave over a residual of {np.abs(left).max():.3g} where one row's is at most 1"
        wrong = np.abs(left).max() > 1 + ROUNDING + self.tolerance * n
        if self.counted:
            row = self.counted * self.mean - x.sum(0)
            spread = ((x - self.mean) ** 2).sum(0) + (row - self.mean) ** 2
            wrong = n != self.counted or not np.allclose(spread, n * self.variance, rtol=1e-3, atol=1e-9)
            what = f"with one more are not those whose mean and spread the scaler keeps, {self.counted:,} rows"
        if wrong:
            raise InputError(f"the known rows {what}: the model was not trained on exactly the train rows, or not to its minimum")


def why_not(model: Any) -> str | None:
    """Why ``stationary`` cannot read a model, in words; None = it can."""
    try:
        stationary(model)
    except InputError as error:
        return str(error)
    return None


def stationary(model: Any) -> Stationary:
    """The minimum that a model's weights are.

    Raises:
        InputError: if it is none that Carbide knows.
    """
    estimator = getattr(model, "estimator", None)
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    *before, final = steps
    if type(final).__name__ != "LogisticRegression" or any(type(step).__name__ != "StandardScaler" for step in before) or len(before) > 1:
        raise InputError(
            "the model is no logistic regression whose gradient at the minimum is known (scikit-learn's, alone or behind a StandardScaler)"
        )
    params = final.get_params()
    odd = next((said for said, wrong in (
        ("has an L1 penalty", params.get("l1_ratio") not in (None, 0, 0.0) or params.get("penalty") in ("l1", "elasticnet")),
        ("has no intercept", not params["fit_intercept"]), ("weighs its classes", params.get("class_weight") is not None),
        ("was trained by liblinear, which penalises the intercept", params["solver"] == "liblinear")) if wrong), None)  # fmt: skip
    if odd is not None:
        raise InputError(f"the logistic regression {odd}, so that the equations of its minimum are others than those known here")
    if np.asarray(final.classes_).tolist() != list(range(model.classes)):
        raise InputError(f"the logistic regression names its classes {np.asarray(final.classes_).tolist()[:5]}, not 0 to {model.classes - 1}")
    return _read(estimator)


def _read(estimator: Any) -> Stationary:
    steps = [step for _, step in getattr(estimator, "steps", [("", estimator)])]
    *before, final = steps
    params = final.get_params()
    d = final.coef_.shape[1]
    scaler = before[0] if before else None
    mean = getattr(scaler, "mean_", None)
    scale = getattr(scaler, "scale_", None)
    variance = getattr(scaler, "var_", None)
    counted = 0 if mean is None or variance is None else int(np.max(getattr(scaler, "n_samples_seen_", 0)))
    cost = math.inf if params.get("penalty", "l2") is None else float(params["C"])
    zero, one = np.zeros(d), np.ones(d)
    return Stationary(weights=np.asarray(final.coef_, float), intercepts=np.asarray(final.intercept_, float), cost=cost, mean=zero if mean is None else mean,
                      scale=one if scale is None else scale, variance=one if variance is None else variance, counted=counted,
                      tolerance=float(params["tol"]), estimator=estimator)  # fmt: skip
