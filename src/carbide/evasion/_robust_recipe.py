"""Training of robust trees in place of another recipe's trees; what comes out is an XGBoost model, so that nothing changes in serving.

The number of trees, their depth and the learning rate are those of the recipe's own estimator where the method does not set them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Self

import numpy as np

from carbide.models.estimators import EstimatorModel
from carbide.models.trees.to_xgboost import classifier_of
from carbide.registry import Method
from carbide.space.prices import as_mapping
from carbide.types import Access, Case, Dataset, FeatureBudget, InputError, LpBall, Recipe, Rng, Space, Threat

TAKEN = ("n_estimators", "max_depth", "learning_rate")  # over from the recipe's estimator
DEEPEST = 12  # what an estimator without a limit of its own is held to
SHARES = (0.25, 0.5, 1.0)  # of what the attacker may do


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

    @property
    def gives(self) -> Any:
        """An estimator of the kind that the trained model is, for who composes recipes."""
        return classifier_of()

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


@dataclass(frozen=True, kw_only=True)
class RobustTraining(Method):
    """What both methods share: ``n_estimators``, ``max_depth``, the ``share`` of the attacker's eps or money, and the checks of all numbers."""

    n_estimators: int | None = None
    max_depth: int | None = None
    share: float = 1.0
    kind: ClassVar[str]
    weights: ClassVar[tuple[str, ...]] = ("share",)  # fields that are numbers >= 0
    default: ClassVar[bool] = False
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.STRUCTURE
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("n_estimators", "max_depth"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise InputError(f"robust_{self.kind}: {name} is {value!r}; give a whole number >= 1")
        for name in self.weights:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise InputError(f"robust_{self.kind}: {name} is {getattr(self, name)!r}; give a number >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs XGBoost to serve it, and two classes where changes have prices."""
        return refusal_of(threat, case.model.classes)

    def strengths(self) -> tuple[Self, ...]:
        """Three shares of what the attacker may do."""
        return tuple(replace(self, share=part * self.share) for part in SHARES)

    def __call__(self, recipe: Recipe, threat: Threat) -> RobustRecipe:
        """The recipe that trains robust trees.

        Raises:
            InputError: if robust trees cannot be trained against the threat.
        """
        reason = refusal_of(threat, 2)
        if reason is not None:
            raise InputError(f"robust_{self.kind}: {reason}")
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "share"}
        return RobustRecipe(plain=recipe, threat=threat, kind=self.kind, share=self.share, options=options)


def attacker_of(threat: Threat, space: Space, share: float) -> Any:
    """What the estimators call the attacker of a threat; ``share`` widens or narrows what it may do.

    Raises:
        InputError: if it is an L0 ball or another kind of threat.
    """
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
