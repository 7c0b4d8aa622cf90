"""Tong et al. 2019, https://arxiv.org/abs/1708.08327: train without what the attacker can move.

The honest cheap baseline: a model that never looks at a feature cannot be evaded through it. Every feature that some
attacker could change for the budget is left out of the training, ratios of such features too. What is left is safe by
construction and often says little; a defence that does not beat it is not worth its trouble.

>>> import numpy as np
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> space = Space.table(["amount", "limit", "age"])
>>> table = PriceTable(prices={"amount": Price(down=1.0), "age": Price(up=0.0, fixed=80.0)})
>>> movable(space, FeatureBudget(money=50, prices=table))
(0,)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._blind import BlindRecipe
from carbide.registry import Method
from carbide.space.prices import group_moves, matrices, price_arrays
from carbide.space.relations import parts_of
from carbide.types import Case, Dataset, FeatureBudget, InputError, Model, Ratio, Recipe, Rng, Space, Sum, Threat


@dataclass(frozen=True, kw_only=True)
class DropMutable(Method):
    """Trains without the features that the attacker can change for at most the budget: the baseline to beat."""

    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget,)
    trains: ClassVar[bool] = True

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a feature that cannot be moved."""
        assert isinstance(threat, FeatureBudget)
        space = case.data.train.space
        return "every feature can be changed for the budget, so none would be left" if len(movable(space, threat)) == space.shape[0] else None

    def __call__(self, recipe: Recipe, threat: FeatureBudget) -> DropMutableRecipe:
        """The recipe that trains without these features."""
        return DropMutableRecipe(inner=recipe, threat=threat)


@dataclass(frozen=True, kw_only=True, eq=False)
class DropMutableRecipe:
    """Training of ``inner`` without the features that the threat's attacker can move; which they are is read from the data's space."""

    inner: Recipe
    threat: FeatureBudget

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The inner recipe's model on the features that stay.

        Raises:
            InputError: if no feature stays.
        """
        columns = movable(dataset.space, self.threat)
        if len(columns) == dataset.space.shape[0]:
            raise InputError(f"all {len(columns)} features can be changed for {self.threat.prices.currency}{self.threat.money:g}, so none would be left; "
                             "give a smaller budget or another defence")  # fmt: skip
        return BlindRecipe(inner=self.inner, columns=columns).fit(dataset, rng)

    def describe(self) -> dict[str, Any]:
        """The inner recipe, the budget and the prices."""
        from carbide.space.prices import as_mapping

        return {"recipe": "drop mutable", "inner": dict(self.inner.describe()), "money": self.threat.money, "prices": as_mapping(self.threat.prices)}


def movable(space: Space, threat: FeatureBudget) -> tuple[int, ...]:
    """The columns that some change within the budget can move, ratios of them included."""
    up, down, fixed = price_arrays(threat.prices, space)
    unit = np.minimum(up, down)
    least = fixed + np.where(np.isfinite(unit), unit, 0) * space.step  # a real feature moves by as little as it likes
    moved = np.isfinite(unit) & (least <= threat.money)
    for f, matrix in matrices(threat.prices, space).items():
        moves = matrix[~np.eye(len(matrix), dtype=bool)]
        moved[f] = moves.size > 0 and moves.min() <= threat.money
    for number, moves in group_moves(threat.prices, space).items():
        near = (moves <= threat.money) & ~np.eye(len(moves), dtype=bool)
        moved[list(space.groups[number])] = near.any(0) | near.any(1)
    for name, price in threat.prices.prices.items():
        moved[space.index(name)] |= bool(min(price.hide, price.fill) <= threat.money and space.mutable.ravel()[space.index(name)])
    for relation in space.relations:
        if isinstance(relation, Ratio | Sum):
            moved[relation.target] |= moved[list(parts_of(relation))].any()
    return tuple(np.flatnonzero(moved).tolist())
