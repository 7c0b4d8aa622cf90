"""Song, Chaudhuri & Sarwate 2013, https://doi.org/10.1109/GlobalSIP.2013.6736861: noisy gradient descent, here with settings that need no tuning.

The recipe is replaced by a linear model that is differentially private by construction. How it is trained follows from the
public number of rows and features, so that no setting has to be chosen on the rows, which would cost privacy too.

>>> from carbide.types import Membership
>>> PrivateLinearModel(epsilon=2.0)(None, Membership()).describe()["epsilon"]
2.0
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

from carbide.privacy.linear import PrivateLinearRecipe
from carbide.privacy.logistic import check
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class PrivateLinearModel(Method):
    """Trains a linear model with an accounted (epsilon, delta), its settings fixed by the number of rows, instead of the recipe's model.

    The account is for replacing one row (``neighbours: remove``: for leaving one out); ``clip`` is the length that each row's gradient is cut to.
    """

    threats = (Membership,)
    default: ClassVar[bool] = False
    epsilon: float = 1.0
    delta: float = 1e-5
    clip: float = 0.1
    neighbours: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        self._recipe()

    def __call__(self, recipe: Recipe | None, threat: Threat) -> Recipe:
        """The private recipe; of the given one nothing is kept."""
        return self._recipe()

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Features must have finite bounds, and delta must be below one over the number of rows."""
        try:
            check(case.data.train, self.delta)
        except InputError as error:
            return str(error)
        return None

    def strengths(self) -> tuple[Method, ...]:
        """Four times the epsilon, then the epsilon asked for."""
        return (replace(self, epsilon=4 * self.epsilon), self)

    def _recipe(self) -> PrivateLinearRecipe:
        return PrivateLinearRecipe(**{f.name: getattr(self, f.name) for f in fields(self)})
