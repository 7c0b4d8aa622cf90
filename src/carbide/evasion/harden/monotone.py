"""Íncer et al. 2018, https://doi.org/10.1145/3180445.3180449: scores that only rise where an attacker can move a feature one way.

Where a feature has a price in one direction only, moving it there may only raise the score of class 1: such moves then never help, whatever
the budget, and what the feature says the other way round is lost. Features that move both ways, or by a price matrix, stay free. A cheap baseline beside dropping them.

>>> import numpy as np
>>> from sklearn.ensemble import HistGradientBoostingClassifier
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import FeatureBudget, Price, PriceTable
>>> threat = FeatureBudget(money=50, prices=PriceTable(prices={"amount": Price(down=1.0)}))
>>> Monotone()(EstimatorRecipe(estimator=HistGradientBoostingClassifier()), threat).describe()["recipe"]
'monotone'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._blind import constrained, one_way
from carbide.evasion._retraining import natural_signs
from carbide.registry import Method
from carbide.space.prices import as_mapping
from carbide.types import Access, Case, Dataset, FeatureBudget, InputError, Model, Recipe, Rng, Threat

DIRECTIONS = ("against", "natural")


@dataclass(frozen=True, kw_only=True)
class Monotone(Method):
    """Trains with scores that the attacker's one-way moves can only raise; needs an estimator that takes monotone constraints.

    ``directions``: ``against`` the attacker, as said; or ``natural``, which binds scores to fall along the moves where frauds lie on the side that
    they leave: moves help then, but no short one does by chance.
    """

    directions: str = "against"
    default: ClassVar[bool] = False
    baseline: ClassVar[bool] = True
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget,)
    needs: ClassVar[Access] = Access.STRUCTURE
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.directions not in DIRECTIONS:
            raise InputError(f"monotone: directions is {self.directions!r}; choose {' or '.join(DIRECTIONS)}")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs two classes, a feature that moves one way only, and an estimator with constraints."""
        assert isinstance(threat, FeatureBudget)
        if case.model.classes != 2:
            return f"it needs two classes, and the model has {case.model.classes}"
        way = one_way(case.data.train.space, threat.prices)
        if not way.any():
            return "no feature has a price in one direction only"
        missing = bool(np.isnan(case.data.train.x).any())
        return (
            None if case.recipe is None or constrained(case.recipe, way, missing=missing) else "the recipe's estimator takes no monotone constraints"
        )

    def __call__(self, recipe: Recipe, threat: FeatureBudget) -> MonotoneRecipe:
        """The recipe that trains with the constraints."""
        return MonotoneRecipe(inner=recipe, threat=threat, directions=self.directions)


@dataclass(frozen=True, kw_only=True, eq=False)
class MonotoneRecipe:
    """Training of ``inner`` with the constraints that the threat's prices and the training rows give."""

    inner: Recipe
    threat: FeatureBudget
    directions: str

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The inner recipe's model under the constraints.

        Raises:
            InputError: if nothing can be bound.
        """
        way = one_way(dataset.space, self.threat.prices)
        signs = natural_signs(dataset, way) if self.directions == "natural" else way
        bound = constrained(self.inner, signs, missing=bool(np.isnan(dataset.x).any())) if signs.any() else None
        if bound is None:
            raise InputError("monotone: no feature can be bound (none has a price in one direction only, or the estimator takes no constraints); "
                             "choose another defence")  # fmt: skip
        return bound.fit(dataset, rng)

    def describe(self) -> dict[str, Any]:
        """The inner recipe, the prices and the directions."""
        return {"recipe": "monotone", "inner": dict(self.inner.describe()), "prices": as_mapping(self.threat.prices), "directions": self.directions}
