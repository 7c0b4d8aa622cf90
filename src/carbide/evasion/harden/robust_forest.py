"""Vos & Verwer 2021, https://arxiv.org/abs/2012.10438 (GROOT): random forests whose splits have the best worst-case Gini impurity.

Where the attacker can move rows across a split, their worst placement is a closed form, for one class moving (priced changes: only fraud moves)
and for both (balls). The forest's sum of votes is served by XGBoost, so serving stays as it is.

>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import LpBall
>>> RobustForest()(EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=30)), LpBall(eps=0.1)).settings()["n_estimators"]
30
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from carbide.evasion._robust_recipe import RobustRecipe, refusal_of
from carbide.registry import Method
from carbide.types import Access, Case, FeatureBudget, InputError, LpBall, Recipe, Threat

SHARES = (0.25, 0.5, 1.0)


@dataclass(frozen=True, kw_only=True)
class RobustForest(Method):
    """A random forest whose splits are chosen for the worst placement of the rows that the attacker moves across them.

    ``n_estimators`` and ``max_depth`` are those of the recipe's estimator where they are not set; ``share``: what the attacker in training has of the
    eps or the money, against every tree anew.
    """

    n_estimators: int | None = None
    max_depth: int | None = None
    min_leaf_weight: float = 1.0
    bootstrap: bool = True
    share: float = 1.0
    default: ClassVar[bool] = False
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.STRUCTURE
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n_estimators", "max_depth"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise InputError(f"robust_forest: {name} is {value!r}; give a whole number >= 1")
        for name in ("min_leaf_weight", "share"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"robust_forest: {name} is {getattr(self, name)!r}; give a number >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs XGBoost to serve it, and two classes where changes have prices."""
        return refusal_of(threat, case.model.classes)

    def strengths(self) -> tuple[RobustForest, ...]:
        """Three shares of what the attacker may do."""
        return tuple(replace(self, share=part * self.share) for part in SHARES)

    def __call__(self, recipe: Recipe, threat: Threat) -> RobustRecipe:
        """The recipe that trains a robust forest.

        Raises:
            InputError: if robust trees cannot be trained against the threat.
        """
        reason = refusal_of(threat, 2)
        if reason is not None:
            raise InputError(f"robust_forest: {reason}")
        options = {name: getattr(self, name) for name in ("n_estimators", "max_depth", "min_leaf_weight", "bootstrap")}
        return RobustRecipe(plain=recipe, threat=threat, kind="forest", share=self.share, options=options)
