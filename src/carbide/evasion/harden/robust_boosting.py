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

from dataclasses import dataclass
from typing import ClassVar

from carbide.evasion._robust_recipe import RobustTraining
from carbide.types import InputError


@dataclass(frozen=True, kw_only=True)
class RobustBoosting(RobustTraining):
    """Boosted trees whose splits and leaves are chosen for the worst that the attacker makes of every training row.

    ``n_estimators``, ``max_depth`` and ``learning_rate`` are those of the recipe's estimator where they are not set. ``share``: what the attacker in
    training has of the eps or the money, against every tree anew; more of it than 1 may be needed for prices far above the budget.
    """

    learning_rate: float | None = None
    reg_lambda: float = 1.0
    min_child_weight: float = 1.0
    kind: ClassVar[str] = "boosting"
    weights: ClassVar[tuple[str, ...]] = ("reg_lambda", "min_child_weight", "share")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:
            raise InputError(f"robust_boosting: learning_rate is {self.learning_rate!r}; give a number in (0, 1]")
