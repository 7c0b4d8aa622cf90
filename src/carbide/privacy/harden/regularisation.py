"""Shokri et al. 2017, https://arxiv.org/abs/1610.05820: regularisation leaves less of each training row in the model.

Linear models get a stronger penalty. Other estimators are swapped for a standardised logistic regression with that
penalty: on small tables the model that hardly leaks is often the more accurate one too.

>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import Membership
>>> hardened = Regularisation(c=0.1)(EstimatorRecipe(estimator=RandomForestClassifier()), Membership())
>>> hardened.estimator.steps[-1][1].C
0.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from carbide.privacy.harden._estimators import estimator_of, places, with_estimator
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat

GRID = (1.0, 0.1, 0.01)
DECAY = 1e-3  # weight decay of a network at c = 1


@dataclass(frozen=True, kw_only=True)
class Regularisation(Method):
    """Penalises large weights: ``c`` is the inverse strength as in logistic regression (1 mild, 0.01 strong).

    An estimator with ``C`` gets it, one with ``alpha`` gets its own value divided by c, a network's recipe weight decay
    0.001 / c. With ``swap`` any other estimator is replaced by a standardised logistic regression; without, it is refused.
    """

    threats = (Membership,)
    c: float = 0.1
    swap: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.c) and self.c > 0):
            raise InputError(f"c is {self.c}; give a number > 0")

    def __call__(self, recipe: Recipe, threat: Threat) -> Recipe:
        """The recipe with a stronger penalty, or with another estimator.

        Raises:
            InputError: if there is nothing that it could penalise or swap.
        """
        if _has_decay(recipe):
            return replace(recipe, decay=DECAY / self.c)  # type: ignore[type-var]
        return with_estimator(recipe, self._change)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The recipe must train an estimator or a network with weight decay."""
        if _has_decay(case.recipe):
            return None
        estimator = estimator_of(case.recipe)
        if estimator is None:
            return "the recipe trains neither an estimator nor a network with weight decay"
        return None if self.swap or _penalties(estimator, self.c) else "the estimator has neither C nor alpha, and swap is off"

    def strengths(self) -> tuple[Method, ...]:
        """c = 1, 0.1 and 0.01."""
        return tuple(replace(self, c=c) for c in GRID)

    def _change(self, estimator: Any) -> Any:
        found = _penalties(estimator, self.c)
        if found:
            return estimator.set_params(**found)
        if not self.swap:
            raise InputError(f"{type(estimator).__name__} has neither C nor alpha; set swap to replace it by a logistic regression")
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        return make_pipeline(StandardScaler(), LogisticRegression(C=self.c, max_iter=2000))


def _has_decay(recipe: Any) -> bool:
    return is_dataclass(recipe) and any(f.name == "decay" for f in fields(recipe))


def _penalties(estimator: Any, c: float) -> dict[str, Any]:
    params = estimator.get_params(deep=True)
    alphas = {key: value / c for key, value in places_of(params, "alpha").items() if isinstance(value, int | float) and value > 0}
    return {**places(estimator, {"C": c}), **alphas}


def places_of(params: dict[str, Any], name: str) -> dict[str, Any]:
    """The parameters whose last name is ``name``, with their values."""
    return {key: value for key, value in sorted(params.items()) if key.rpartition("__")[2] == name}
