"""Shi et al. 2021, https://arxiv.org/abs/2103.17268: certified training by interval bounds on a short schedule.

Weights start so that boxes keep their width from layer to layer, batch norm uses the clean batch's statistics for the
boxes too, and while the ball grows a regulariser keeps boxes small and rectifiers balanced. Then only the worst case is
trained.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> recipe = ShortIntervalTraining()(TorchRecipe(factory="carbide.models.nets:small_cnn"), LpBall(eps=0.1))
>>> recipe.objective.eps, recipe.objective.warmth
(0.1, 0.5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.evasion._interval_training import IntervalGrowth, interval_refusal
from carbide.registry import Method
from carbide.types import Access, Case, InputError, LpBall, Threat


@dataclass(frozen=True, kw_only=True)
class ShortIntervalTraining(Method):
    """Interval training with the short schedule's start, batch norm and warm-up, at ``scale`` times the threat's eps.

    ``stretch`` times the epochs, ``pace`` times the learning rate with half the batch; the ball has grown to its full size
    at ``full`` of the training; ``clean`` is the clean loss's share; ``warmth`` the warm-up's weight.
    """

    scale: float = 1.0
    stretch: float = 1.5
    pace: float = 3.0
    full: float = 0.6
    clean: float = 0.0
    warmth: float = 0.5
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("scale", "stretch", "pace"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"short_interval_training: {name} is {getattr(self, name)}; give a factor > 0")
        if not 0.05 < self.full <= 1:
            raise InputError(f"short_interval_training: full is {self.full}; give a share of the training in (0.05, 1]")
        if not 0 <= self.clean < 1:
            raise InputError(f"short_interval_training: clean is {self.clean}; give the clean loss's share in [0, 1)")
        if not (math.isfinite(self.warmth) and self.warmth >= 0):
            raise InputError(f"short_interval_training: warmth is {self.warmth}; give a weight >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a torch recipe and an Linf ball."""
        return interval_refusal(case, threat)

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the worst case in place of the cross-entropy; perturbed batches are turned off."""
        objective = IntervalGrowth(eps=self.scale * threat.eps, clean=self.clean, full=self.full, warmth=self.warmth)
        return replace(recipe, objective=objective, perturb=None, epochs=max(1, round(self.stretch * recipe.epochs)), rate=self.pace * recipe.rate,
                       batch=max(1, recipe.batch // 2), decay=0.0, start=b"")  # fmt: skip

    def strengths(self) -> tuple[ShortIntervalTraining, ...]:
        """Half clean, then only the worst case."""
        return (replace(self, clean=0.5), self) if not self.clean else (self,)
