"""Gowal et al. 2018, https://arxiv.org/abs/1810.12715: training on the worst logits that interval bounds allow.

The loss mixes the cross-entropy of the clean batch with that of its worst-case logits over the ball; the ball and the
weight of the second part grow during training. The net becomes one about which interval bounds can prove something.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> recipe = IntervalTraining()(TorchRecipe(factory="carbide.models.nets:small_cnn"), LpBall(eps=0.1))
>>> recipe.objective.eps
0.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._intervals import Box, logit_gaps
from carbide.registry import Method
from carbide.types import Access, Case, InputError, LpBall, Space, Threat


@dataclass(frozen=True, kw_only=True)
class IntervalObjective:
    """The batch's loss: ``1 - weight`` parts clean and ``weight`` parts worst case, both grown over ``[start, full]`` of the training."""

    eps: float
    weight: float = 0.5
    start: float = 0.05
    full: float = 0.6

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, *, progress: float, generator: torch.Generator, space: Space) -> Tensor:
        """The loss, a scalar."""
        share = min(1.0, max(0.0, (progress - self.start) / (self.full - self.start)))
        clean = nn.functional.cross_entropy(module(x), y)
        if share == 0:
            return clean
        low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (space.lower, space.upper))
        eps = share * self.eps
        box = Box(torch.maximum(x - eps, torch.minimum(low, x)), torch.minimum(x + eps, torch.maximum(high, x)))
        worst = nn.functional.cross_entropy(-logit_gaps(module, box, y), y)
        weight = share * self.weight
        return (1 - weight) * clean + weight * worst


@dataclass(frozen=True, kw_only=True)
class IntervalTraining(Method):
    """Certified training by interval bounds at ``scale`` times the threat's eps, for ``stretch`` times the epochs.

    The learning rate is multiplied by ``pace`` and the batch halved, without weight decay: worst-case losses are many
    times the clean ones, and most of the training is spent on getting them down.
    """

    scale: float = 1.0
    stretch: float = 1.5
    weight: float = 0.5
    pace: float = 3.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("scale", "stretch", "pace"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"interval_training: {name} is {getattr(self, name)}; give a factor > 0")
        if not 0 < self.weight <= 1:
            raise InputError(f"interval_training: weight is {self.weight}; give the worst case's share of the loss in (0, 1]")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a torch recipe and an Linf ball."""
        if isinstance(threat, LpBall) and not math.isinf(threat.p):
            return "boxes fit Linf balls only; choose linf"
        return None if hasattr(case.recipe, "objective") else "it trains torch recipes only"

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the mixed loss in place of the cross-entropy; perturbed batches are turned off."""
        objective = IntervalObjective(eps=self.scale * threat.eps, weight=self.weight)
        return replace(recipe, objective=objective, perturb=None, epochs=max(1, round(self.stretch * recipe.epochs)), rate=self.pace * recipe.rate,
                       batch=max(1, recipe.batch // 2), decay=0.0)  # fmt: skip
