"""Nori et al. 2021, https://proceedings.mlr.press/v139/nori21a.html: a private additive model, whose curves can be read; here of cosine waves.

The recipe is replaced by a sum of one curve a feature that is differentially private by construction. The paper boosts noisy
histograms, feature after feature; here all curves are found together from noisy gradients over smooth waves, of which few say what
many bins would, and the bounds are the declared ones, so that none of the budget goes to where bins begin and end. Classes may be many.

>>> from carbide.types import Membership
>>> PrivateAdditiveModel(epsilon=2.0)(None, Membership()).describe()["epsilon"]
2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from carbide.privacy.additive import PrivateAdditiveRecipe
from carbide.privacy.harden._private import PrivateMethod


@dataclass(frozen=True, kw_only=True)
class PrivateAdditiveModel(PrivateMethod):
    """Trains a sum of curves, one a feature, with an accounted (epsilon, delta) instead of the recipe's model.

    The account is for replacing one row (``neighbours: remove``: for leaving one out). A feature's curve has ``waves`` cosines, of which
    number m weighs ``m ** -roughness``; ``clip`` is the length that each row's gradient is cut to.
    """

    recipe: ClassVar[type[Any]] = PrivateAdditiveRecipe
    default: ClassVar[bool] = False
    waves: int = 2
    roughness: float = 1.5
    clip: float = 0.1
    neighbours: str = "replace"
    secret_noise: bool = False
