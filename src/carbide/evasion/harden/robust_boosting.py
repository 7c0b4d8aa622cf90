"""Andriushchenko & Hein 2019, https://arxiv.org/abs/1906.03526: boosted trees trained on an upper bound of the worst-case loss.

Every split counts a row where the attacker can bring it: within a ball, or for the money of a price table, feature by feature up and down,
by matrix between categories, with all that the path to a leaf has cost so far (the cost-aware boxes of Chen et al. 2021,
https://arxiv.org/abs/1912.01149, for each tree exactly). The trees are XGBoost's, so serving stays as it is.

>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import LpBall
>>> RobustBoosting(max_depth=3)(EstimatorRecipe(estimator=RandomForestClassifier()), LpBall(eps=0.1)).settings()["n_estimators"]
100
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
class RobustBoosting(Method):
    """Boosted trees whose splits and leaves are chosen for the worst that the attacker makes of every training row.

    ``n_estimators``, ``max_depth`` and ``learning_rate`` are those of the recipe's estimator where they are not set. ``share``: what the attacker in
    training has of the eps or the money, against every tree anew; more of it than 1 may be needed for prices far above the budget.
    """

    n_estimators: int | None = None
    max_depth: int | None = None
    learning_rate: float | None = None
    reg_lambda: float = 1.0
    min_child_weight: float = 1.0
    share: float = 1.0
    default: ClassVar[bool] = False
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.STRUCTURE
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n_estimators", "max_depth"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise InputError(f"robust_boosting: {name} is {value!r}; give a whole number >= 1")
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise InputError(f"robust_boosting: learning_rate is {self.learning_rate!r}; give a number in (0, 1]")
        for name in ("reg_lambda", "min_child_weight", "share"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"robust_boosting: {name} is {getattr(self, name)!r}; give a number >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs XGBoost, and two classes where changes have prices."""
        return refusal_of(threat, case.model.classes)

    def strengths(self) -> tuple[RobustBoosting, ...]:
        """Three shares of what the attacker may do."""
        return tuple(replace(self, share=part * self.share) for part in SHARES)

    def __call__(self, recipe: Recipe, threat: Threat) -> RobustRecipe:
        """The recipe that trains robust boosted trees.

        Raises:
            InputError: if robust trees cannot be trained against the threat.
        """
        reason = refusal_of(threat, 2)
        if reason is not None:
            raise InputError(f"robust_boosting: {reason}")
        options = {name: getattr(self, name) for name in ("n_estimators", "max_depth", "learning_rate", "reg_lambda", "min_child_weight")}
        return RobustRecipe(plain=recipe, threat=threat, kind="boosting", share=self.share, options=options)
