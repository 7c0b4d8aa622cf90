"""XGBoost and LightGBM boosters as classifiers with ``predict_proba``: what a model file holds once it is read.

A file holds a booster and not the scikit-learn wrapper that trained it. ``BoosterClassifier`` gives it back the two
things Carbide needs, ``predict_proba`` and ``classes_``, with the very numbers that the wrapper would answer.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.types import Array, InputError

XGBOOST_PROBABILITIES = ("binary:logistic", "multi:softprob")
XGBOOST_MARGINS = ("binary:logitraw", "binary:hinge", "multi:softmax")
LIGHTGBM_PROBABILITIES = ("binary", "multiclass", "cross_entropy")


@dataclass(frozen=True, kw_only=True, eq=False)
class BoosterClassifier:
    """A booster of ``library`` ``"xgboost"`` or ``"lightgbm"`` that answers probabilities for ``classes`` classes."""

    booster: Any
    library: str
    classes: int
    objective: str
    n_features_in_: int
    linear: bool = False

    @property
    def classes_(self) -> Array:
        """The classes ``0 .. classes - 1``, in the order of the columns."""
        return np.arange(self.classes)

    def predict_proba(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` in the library's own precision."""
        if self.library == "lightgbm":
            out = np.asarray(self.booster.predict(x, num_threads=1))
        else:
            out = self._xgboost(np.asarray(x), margins=self.objective not in XGBOOST_PROBABILITIES)
            if self.objective not in XGBOOST_PROBABILITIES:
                return _from_margins(out, self.classes)
        return np.vstack((1.0 - out, out)).T if out.ndim == 1 else out

    def _xgboost(self, x: Array, *, margins: bool) -> Array:
        if self.linear:  # XGBoost's linear booster reads its own matrices only
            from xgboost import DMatrix

            return np.asarray(self.booster.predict(DMatrix(x, nthread=1), output_margin=margins, validate_features=False))
        kind = "margin" if margins else "value"
        return np.asarray(self.booster.inplace_predict(x, iteration_range=_rounds(self.booster), validate_features=False, predict_type=kind))

    def predict(self, x: Array) -> Array:
        """The likeliest class of each row ``(n,)``."""
        return self.predict_proba(x).argmax(1)


def xgboost_classifier(booster: Any) -> BoosterClassifier:
    """An ``xgboost.Booster`` as a classifier.

    Raises:
        InputError: if its objective is not one of classification.
    """
    learner = json.loads(booster.save_config())["learner"]
    objective = learner["objective"]["name"]
    if objective not in (*XGBOOST_PROBABILITIES, *XGBOOST_MARGINS):
        raise InputError(
            f"the XGBoost model's objective is {objective!r}, which gives no class probabilities; train with binary:logistic or multi:softprob"
        )
    classes = max(2, int(learner["learner_model_param"]["num_class"]))
    linear = learner["gradient_booster"]["name"] == "gblinear"
    return BoosterClassifier(
        booster=booster, library="xgboost", classes=classes, objective=objective, n_features_in_=booster.num_features(), linear=linear
    )


def lightgbm_classifier(booster: Any) -> BoosterClassifier:
    """A ``lightgbm.Booster`` as a classifier.

    Raises:
        InputError: if its objective is not one of classification.
    """
    line = next((text for text in booster.model_to_string(num_iteration=1).splitlines() if text.startswith("objective=")), "objective=none")
    objective = line.partition("=")[2].split(" ")[0]
    if objective not in LIGHTGBM_PROBABILITIES:
        raise InputError(f"the LightGBM model's objective is {objective!r}, which gives no class probabilities; train with binary or multiclass")
    classes = max(2, int(booster.num_model_per_iteration()))
    return BoosterClassifier(booster=booster, library="lightgbm", classes=classes, objective=objective, n_features_in_=booster.num_feature())


def booster_of(estimator: Any) -> tuple[str, Any] | None:
    """``("xgboost" | "lightgbm" | "catboost", booster)`` of a fitted wrapper, booster or ``BoosterClassifier``; None for other estimators."""
    if isinstance(estimator, BoosterClassifier):
        return estimator.library, estimator.booster
    package = type(estimator).__module__.split(".")[0]
    if package == "carbide" and hasattr(estimator, "to_booster"):  # Carbide's own trees are stored as what XGBoost serves
        return "xgboost", estimator.to_booster()
    if package == "carbide" and type(estimator).__name__ == "CatBoosted":
        return "catboost", estimator
    if package == "xgboost":
        return "xgboost", estimator.get_booster() if hasattr(estimator, "get_booster") else estimator
    if package == "lightgbm":
        return "lightgbm", estimator.booster_ if hasattr(estimator, "booster_") else estimator
    return None


def booster_bytes(library: str, booster: Any) -> bytes:
    """A booster in its library's own safe format: XGBoost UBJ, LightGBM text, CatBoost JSON."""
    if library == "catboost":
        return booster.blob()
    if library == "xgboost":
        return bytes(booster.save_raw("ubj"))
    text = booster.model_to_string()
    # What follows the trees (parameters, importances) decides no answer, and a booster that was read has none of it.
    return text[: text.index("\nend of trees\n") + len("\nend of trees\n")].encode()


def _rounds(booster: Any) -> tuple[int, int]:
    """The rounds that answer: up to the best one where training stopped early."""
    best = booster.attr("best_iteration")
    return (0, int(best) + 1) if best is not None else (0, 0)


def _from_margins(out: Array, classes: int) -> Array:
    if out.ndim == 1:
        out = np.stack([np.zeros_like(out), out], 1)
    out = np.exp(out - out.max(1, keepdims=True))
    return out / out.sum(1, keepdims=True)
