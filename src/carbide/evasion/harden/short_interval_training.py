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

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.evasion._interval_training import BoxTraining, IntervalGrowth
from carbide.types import InputError, LpBall


@dataclass(frozen=True, kw_only=True)
class ShortIntervalTraining(BoxTraining):
    """Interval training with the short schedule's start, batch norm and warm-up, at ``scale`` times the threat's eps.

    ``stretch`` times the epochs, ``pace`` times the learning rate with half the batch; the ball has grown to its full size
    at ``full`` of the training; ``clean`` is the clean loss's share; ``warmth`` the warm-up's weight.
    """

    clean: float = 0.0
    name: ClassVar[str] = "short_interval_training"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.clean < 1:
            raise InputError(f"short_interval_training: clean is {self.clean}; give the clean loss's share in [0, 1)")

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the worst case in place of the cross-entropy; perturbed batches are turned off."""
        objective = IntervalGrowth(eps=self.scale * threat.eps, clean=self.clean, full=self.full, warmth=self.warmth)
        return self.boxed(recipe, objective)

    def strengths(self) -> tuple[ShortIntervalTraining, ...]:
        """Half clean, then only the worst case."""
        return (replace(self, clean=0.5), self) if not self.clean else (self,)
