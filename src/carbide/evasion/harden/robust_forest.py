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

from dataclasses import dataclass
from typing import ClassVar

from carbide.evasion._robust_recipe import RobustTraining


@dataclass(frozen=True, kw_only=True)
class RobustForest(RobustTraining):
    """A random forest whose splits are chosen for the worst placement of the rows that the attacker moves across them.

    ``n_estimators`` and ``max_depth`` are those of the recipe's estimator where they are not set; ``share``: what the attacker in training has of the
    eps or the money, against every tree anew.
    """

    min_leaf_weight: float = 1.0
    bootstrap: bool = True
    kind: ClassVar[str] = "forest"
    weights: ClassVar[tuple[str, ...]] = ("min_leaf_weight", "share")
