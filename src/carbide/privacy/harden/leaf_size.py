"""Yeom et al. 2018, https://arxiv.org/abs/1709.01604: what overfitting tells about members is taken away, here by larger leaves.

A leaf with one training row in it answers with that row's label. Leaves of at least ``leaf`` rows answer with an average
in which no row weighs more than one part in ``leaf``; shallow trees have few leaves to begin with.

>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import Membership
>>> hardened = LeafSize(leaf=20)(EstimatorRecipe(estimator=RandomForestClassifier()), Membership())
>>> hardened.estimator.min_samples_leaf
20
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from carbide.privacy.harden._estimators import estimator_of, places, with_estimator
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, SinglingOut, Threat

GRID = ((5, None), (10, None), (20, None), (20, 4))


@dataclass(frozen=True, kw_only=True)
class LeafSize(Method):
    """Grows trees with at least ``leaf`` training rows in a leaf and at most ``depth`` levels (None = as the recipe says).

    Leaves that a library measures by the sum of the loss's second derivatives get ``leaf / 4``, the most that so many
    rows can weigh.
    """

    threats = (Membership, SinglingOut)
    leaf: int = 20
    depth: int | None = None

    def __post_init__(self) -> None:
        if self.leaf < 1:
            raise InputError(f"leaf is {self.leaf}; give a whole number of rows >= 1")
        if self.depth is not None and self.depth < 1:
            raise InputError(f"depth is {self.depth}; give a whole number of levels >= 1")

    def __call__(self, recipe: Recipe, threat: Threat) -> Recipe:
        """The recipe with larger leaves.

        Raises:
            InputError: if the recipe trains no trees.
        """
        return with_estimator(recipe, self._change)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The recipe must train trees."""
        estimator = estimator_of(case.recipe)
        return None if estimator is not None and places(estimator, self._leaves()) else "the recipe trains no trees with a leaf size"

    def strengths(self) -> tuple[Method, ...]:
        """Leaves of 5, 10 and 20 rows, then shallow trees too."""
        return tuple(replace(self, leaf=leaf, depth=depth) for leaf, depth in GRID)

    def _leaves(self) -> dict[str, Any]:
        return {"min_samples_leaf": self.leaf, "min_child_samples": self.leaf, "min_child_weight": self.leaf / 4}

    def _change(self, estimator: Any) -> Any:
        found = places(estimator, self._leaves())
        if not found:
            raise InputError(f"{type(estimator).__name__} has no leaf size; leaf_size is for trees, forests and boosting")
        if any(key.endswith("min_child_samples") for key in found):  # LightGBM has both, and counts rows by this one
            found = {key: value for key, value in found.items() if not key.endswith("min_child_weight")}
        depth = {} if self.depth is None else places(estimator, {"max_depth": self.depth})
        return estimator.set_params(**found, **depth)
