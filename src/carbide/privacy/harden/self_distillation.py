"""Tang et al. 2022, https://arxiv.org/abs/2110.08324: the model learns from what models say that never saw the row (SELENA).

Several teachers each miss some rows; a row's new label is the mean answer of the teachers that missed it, and the model is
trained on these. It answers a member as models answer it that were not trained on it. What a row's label still changes is
the teachers of other rows.

>>> from carbide.models.estimators import EstimatorRecipe
>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.types import Membership
>>> SelfDistillation()(EstimatorRecipe(estimator=RandomForestClassifier()), Membership()).describe()["recipe"]
'distilled'
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from carbide.privacy.distilled import DistilledRecipe
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class SelfDistillation(Method):
    """Trains on the answers of ``teachers`` models, each row kept from ``out`` of them; with ``bags`` a forest's own trees are its teachers."""

    threats = (Membership,)
    default: ClassVar[bool] = False
    teachers: int = 10
    out: int = 3
    bags: bool = True

    def __post_init__(self) -> None:
        if self.teachers < 2:
            raise InputError(f"teachers is {self.teachers}; give a whole number >= 2")
        if not 1 <= self.out < self.teachers:
            raise InputError(f"out is {self.out}; give a whole number from 1 to one less than the {self.teachers} teachers")

    def __call__(self, recipe: Recipe, threat: Threat) -> DistilledRecipe:
        """The recipe that trains the teachers and the student."""
        return DistilledRecipe(inner=recipe, teachers=self.teachers, out=self.out, bags=self.bags)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """There must be as many rows as teachers."""
        n = len(case.data.train)
        return f"{self.teachers} teachers need as many training rows, and there are {n}" if n < self.teachers else None

    def strengths(self) -> tuple[Method, ...]:
        """As stated, and with twice as many teachers, each row kept from a third of them."""
        return (self, replace(self, teachers=2 * self.teachers, out=max(1, 2 * self.teachers // 3)))
