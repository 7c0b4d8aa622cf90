"""What every recipe that is private by construction does as a method: it replaces the given recipe, and is tried at two epsilons."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

from carbide.privacy.logistic import check
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class PrivateMethod(Method):
    """Makes ``recipe`` of its own fields, which are the recipe's."""

    threats = (Membership,)
    recipe: ClassVar[type[Any]]
    epsilon: float = 1.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        self._recipe()

    def __call__(self, recipe: Recipe | None, threat: Threat) -> Recipe:
        """The private recipe; of the given one nothing is kept."""
        return self._recipe()

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Features must have finite bounds that were declared, and delta must be below one over the number of rows."""
        try:
            check(case.data.train, self.delta)
        except InputError as error:
            return str(error)
        return None

    def strengths(self) -> tuple[Method, ...]:
        """Four times the epsilon, then the epsilon asked for."""
        return (replace(self, epsilon=4 * self.epsilon), self)

    def _recipe(self) -> Recipe:
        return self.recipe(**{f.name: getattr(self, f.name) for f in fields(self)})
