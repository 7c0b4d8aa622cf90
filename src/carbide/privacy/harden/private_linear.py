"""Song, Chaudhuri & Sarwate 2013, https://doi.org/10.1109/GlobalSIP.2013.6736861: noisy gradient descent, here with settings that need no tuning.

The recipe is replaced by a linear model that is differentially private by construction. How it is trained follows from the
public number of rows and features, so that no setting has to be chosen on the rows, which would cost privacy too.

>>> from carbide.types import Membership
>>> PrivateLinearModel(epsilon=2.0)(None, Membership()).describe()["epsilon"]
2.0
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from carbide.privacy.harden._private import PrivateMethod
from carbide.privacy.linear import PrivateLinearRecipe


@dataclass(frozen=True, kw_only=True)
class PrivateLinearModel(PrivateMethod):
    """Trains a linear model with an accounted (epsilon, delta), its settings fixed by the number of rows, instead of the recipe's model.

    The account is for replacing one row (``neighbours: remove``: for leaving one out); ``clip`` is the length that each row's gradient is cut to.
    """

    recipe: ClassVar[type[Any]] = PrivateLinearRecipe
    default: ClassVar[bool] = False
    clip: float = 0.1
    neighbours: str = "replace"
    secret_noise: bool = False
