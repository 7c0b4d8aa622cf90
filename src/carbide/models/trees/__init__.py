"""Tree ensembles of every library in one intermediate form.

``ensemble_of(estimator) -> Ensemble`` reads a fitted classifier; ``is_tree_ensemble(estimator)`` says whether it can,
without importing any library. ``Ensemble`` has ``margins``, ``leaves`` and ``predict``.

>>> is_tree_ensemble(object())
False
"""

from __future__ import annotations

from typing import Any

from carbide.models.trees.ensemble import Ensemble
from carbide.types import InputError

__all__ = ["Ensemble", "ensemble_of", "is_tree_ensemble"]

READABLE = {
    "sklearn": ("DecisionTreeClassifier", "ExtraTreeClassifier", "RandomForestClassifier", "ExtraTreesClassifier", "GradientBoostingClassifier",
                "HistGradientBoostingClassifier"),
    "xgboost": ("XGBClassifier", "Booster"),
    "lightgbm": ("LGBMClassifier", "Booster"),
    "catboost": ("CatBoostClassifier", "CatBoost"),
}  # fmt: skip


def library_of(estimator: Any) -> str | None:
    """The library whose trees this is, by the names of its classes; None for others and where a subclass answers by itself."""
    for cls in type(estimator).__mro__:
        top = cls.__module__.split(".")[0]
        if cls.__name__ in READABLE.get(top, ()):
            return top
        if top not in READABLE and ("predict_proba" in vars(cls) or "predict" in vars(cls)):
            return None
    return None


def is_tree_ensemble(estimator: Any) -> bool:
    """Whether ``ensemble_of`` can read this kind of fitted estimator; imports no library."""
    if isinstance(getattr(estimator, "ensemble_", None), Ensemble):
        return True
    return library_of(estimator) is not None and getattr(estimator, "booster", None) != "gblinear"


def ensemble_of(estimator: Any) -> Ensemble:
    """The trees of a fitted classifier (scikit-learn, XGBoost, LightGBM, CatBoost) in the intermediate form.

    Raises:
        InputError: if it is not fitted, no classifier of these libraries, or uses something that has no exact translation.
    """
    own = getattr(estimator, "ensemble_", None)
    if isinstance(own, Ensemble):  # Carbide's own estimators have it ready
        return own
    library = library_of(estimator)
    if library == "sklearn":
        from carbide.models.trees.from_sklearn import from_sklearn

        return from_sklearn(estimator)
    if library == "xgboost":
        from carbide.models.trees.from_xgboost import from_xgboost

        return from_xgboost(estimator)
    if library == "lightgbm":
        from carbide.models.trees.from_lightgbm import from_lightgbm

        return from_lightgbm(estimator)
    if library == "catboost":
        from carbide.models.trees.from_catboost import from_catboost

        return from_catboost(estimator)
    raise InputError(
        f"{type(estimator).__name__} is no tree ensemble that Carbide can read; give a tree classifier of scikit-learn, XGBoost, LightGBM or CatBoost"
    )
