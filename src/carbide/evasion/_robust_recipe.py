"""Training of robust trees in place of another recipe's trees; what comes out is an XGBoost model, so that nothing changes in serving.

The number of trees, their depth and the learning rate are those of the recipe's own estimator where the method does not set them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.models.estimators import EstimatorModel
from carbide.models.trees.to_xgboost import classifier_of
from carbide.space.prices import as_mapping
from carbide.types import Dataset, FeatureBudget, InputError, LpBall, Recipe, Rng, Space, Threat

TAKEN = ("n_estimators", "max_depth", "learning_rate")  # over from the recipe's estimator
DEEPEST = 12  # what an estimator without a limit of its own is held to


@dataclass(frozen=True, kw_only=True, eq=False)
class RobustRecipe:
    """Training of a robust ``kind`` (``boosting`` or ``forest``) against the threat in place of ``plain``; ``options`` are the estimator's."""

    plain: Recipe
    threat: Threat
    kind: str
    share: float
    options: Mapping[str, Any]

    def fit(self, dataset: Dataset, rng: Rng) -> EstimatorModel:
        """The robust trees as an XGBoost model.

        Raises:
            InputError: if a class has no rows, XGBoost is missing or the rows cannot be trained on.
        """
        from carbide.evasion.robust_trees import RobustBoostingClassifier, RobustForestClassifier

        counts = np.bincount(dataset.y, minlength=dataset.classes)
        if not counts.all():
            raise InputError(f"robust trees need rows of every class, but {dataset.name} has none of class {int(counts.argmin())}; give more rows")
        cls = RobustBoostingClassifier if self.kind == "boosting" else RobustForestClassifier
        estimator = cls(attacker_of(self.threat, dataset.space, self.share), **self.settings(), random_state=int(rng.integers(2**31)))
        estimator.fit(dataset.x.reshape(len(dataset), -1), dataset.y)
        return EstimatorModel(estimator=classifier_of(estimator.to_booster()), space=dataset.space, classes=dataset.classes)

    def settings(self) -> dict[str, Any]:
        """The estimator's parameters: those that are set, and what ``plain`` says of the others."""
        found = {key: value for key, value in self.options.items() if value is not None}
        given = getattr(getattr(self.plain, "estimator", None), "get_params", dict)()
        for key in TAKEN:
            if key in self.options and key not in found and isinstance(given.get(key), int | float) and given[key] > 0:
                found[key] = given[key]
        if "max_depth" in found:
            found["max_depth"] = min(int(found["max_depth"]), DEEPEST)
        return found

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        prices = as_mapping(self.threat.prices) if isinstance(self.threat, FeatureBudget) else None
        return {"recipe": f"robust {self.kind}", "plain": dict(self.plain.describe()), "threat": self.threat.words(), "prices": prices, "share": self.share,
                **self.settings()}  # fmt: skip


def attacker_of(threat: Threat, space: Space, share: float) -> Any:
    """What the estimators call the attacker of a threat; ``share`` widens or narrows what it may do.

    Raises:
        InputError: if it is an L0 ball or another kind of threat.
    """
    from dataclasses import replace

    from carbide.evasion.robust_trees import Box, Spender

    if isinstance(threat, FeatureBudget):
        return Spender(threat=threat, space=space, share=share)
    if not isinstance(threat, LpBall):
        raise InputError(f"robust trees know no {type(threat).__name__}; give a FeatureBudget or an LpBall")
    return Box.of(replace(threat, eps=share * threat.eps), space)


def refusal_of(threat: Threat, classes: int) -> str | None:
    """Why robust trees cannot be trained against the threat, in one sentence; None = they can."""
    import importlib.util

    if importlib.util.find_spec("xgboost") is None:
        return "its trees are served by XGBoost, which is not installed; install it with: pip install 'carbide[xgboost]'"
    if isinstance(threat, LpBall) and threat.p == 0:
        return "an L0 ball reaches every value of a feature; choose p 1, 2 or inf"
    if isinstance(threat, FeatureBudget) and classes != 2:
        return f"it needs two classes, and the data has {classes}"
    return None
