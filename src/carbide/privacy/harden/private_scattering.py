"""Tramer & Boneh 2021, https://arxiv.org/abs/2011.11660: better features first; a private linear model on scattered images.

The recipe is replaced by a linear model on features that were not learned from anybody, trained with differential privacy.
On small images it is more accurate at a given epsilon than networks trained with noise.

>>> from carbide.types import Membership
>>> PrivateScattering(epsilon=3.0)(None, Membership()).describe()["epsilon"]
3.0
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, ClassVar

from carbide.privacy.harden._private import PrivateMethod
from carbide.privacy.scattered import ScatteredRecipe, check
from carbide.types import Case, InputError, Threat


@dataclass(frozen=True, kw_only=True)
class PrivateScattering(PrivateMethod):
    """Trains a linear model of scattered images with an accounted (epsilon, delta) instead of the recipe's model.

    The account is for replacing one image (``neighbours: remove``: for leaving one out); ``steps``, ``rate``, ``clip`` and ``momentum`` are those of the noisy gradient
    descent, ``centring`` and ``damping`` the shares of mu squared that the mean and the second moments of the features get.
    """

    recipe: ClassVar[type[Any]] = ScatteredRecipe
    default: ClassVar[bool] = False
    epsilon: float = 3.0
    steps: int = 120
    rate: float = 600.0
    clip: float = 0.05
    momentum: float = 0.9
    centring: float = 0.01
    damping: float = 0.09
    neighbours: str = "replace"
    secret_noise: bool = False

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The data must be images of at least four pixels a side, and delta must be below one over their number."""
        try:
            check(case.data.train.space, len(case.data.train), self.delta)
        except InputError as error:
            return str(error)
        return None if importlib.util.find_spec("torch") else "it needs the torch extra; install it with: pip install 'carbide[torch]'"
