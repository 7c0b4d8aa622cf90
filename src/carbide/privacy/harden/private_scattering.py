"""Tramer & Boneh 2021, https://arxiv.org/abs/2011.11660: better features first; a private linear model on scattered images.

The recipe is replaced by a linear model on features that were not learned from anybody, trained with differential privacy.
On small images it is more accurate at a given epsilon than networks trained with noise.

>>> from carbide.types import Membership
>>> PrivateScattering(epsilon=3.0)(None, Membership()).describe()["epsilon"]
3.0
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from carbide.privacy.scattered import ScatteredRecipe, check
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class PrivateScattering(Method):
    """Trains a linear model of scattered images with an accounted (epsilon, delta) instead of the recipe's model.

    The account is for replacing one image (``neighbours: remove``: for leaving one out); ``steps``, ``rate``, ``clip`` and ``momentum`` are those of the noisy gradient
    descent, ``centring`` and ``damping`` the shares of mu squared that the mean and the second moments of the features get.
    """

    threats = (Membership,)
    default: ClassVar[bool] = False
    epsilon: float = 3.0
    delta: float = 1e-5
    steps: int = 120
    rate: float = 600.0
    clip: float = 0.05
    momentum: float = 0.9
    centring: float = 0.01
    damping: float = 0.09
    neighbours: str = "replace"
    secret_noise: bool = False

    def __post_init__(self) -> None:
        self._recipe()

    def __call__(self, recipe: Recipe | None, threat: Threat) -> Recipe:
        """The private recipe; of the given one nothing is kept."""
        return self._recipe()

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The data must be images of at least four pixels a side, and delta must be below one over their number."""
        try:
            check(case.data.train.space, len(case.data.train), self.delta)
        except InputError as error:
            return str(error)
        return None if importlib.util.find_spec("torch") else "it needs the torch extra; install it with: pip install 'carbide[torch]'"

    def strengths(self) -> tuple[Method, ...]:
        """Four times the epsilon, then the epsilon asked for."""
        return (replace(self, epsilon=4 * self.epsilon), self)

    def _recipe(self) -> ScatteredRecipe:
        return ScatteredRecipe(**{f.name: getattr(self, f.name) for f in fields(self)})
