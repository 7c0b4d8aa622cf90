"""Nori et al. 2021, https://proceedings.mlr.press/v139/nori21a.html: a private additive model, whose curves can be read; here of cosine waves.

The recipe is replaced by a sum of one curve a feature that is differentially private by construction. The paper boosts noisy
histograms, feature after feature; here all curves are found together from noisy gradients over smooth waves, of which few say what
many bins would, and the bounds are the declared ones, so that none of the budget goes to where bins begin and end. Classes may be many.

>>> from carbide.types import Membership
>>> PrivateAdditiveModel(epsilon=2.0)(None, Membership()).describe()["epsilon"]
2.0
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import ClassVar

from carbide.privacy.additive import PrivateAdditiveRecipe
from carbide.privacy.logistic import check
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class PrivateAdditiveModel(Method):
    """Trains a sum of curves, one a feature, with an accounted (epsilon, delta) instead of the recipe's model.

    The account is for replacing one row (``neighbours: remove``: for leaving one out). A feature's curve has ``waves`` cosines, of which
    number m weighs ``m ** -roughness``; ``clip`` is the length that each row's gradient is cut to.
    """

    threats = (Membership,)
    default: ClassVar[bool] = False
    epsilon: float = 1.0
    delta: float = 1e-5
    waves: int = 2
    roughness: float = 1.5
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

    def _recipe(self) -> PrivateAdditiveRecipe:
        return PrivateAdditiveRecipe(**{f.name: getattr(self, f.name) for f in fields(self)})
