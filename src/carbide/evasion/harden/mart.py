"""Wang et al. 2020, https://openreview.net/forum?id=rklOg6EFwS: MART, which leans on the rows that are misread as they are.

A boosted cross-entropy of the moved input (it also pushes down the likeliest wrong class), plus ``weight`` times how far
its answer is from the clean one, times how unsure the clean answer is.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> plain = TorchRecipe(factory="carbide.models.nets:small_cnn", epochs=10)
>>> MART()(plain, LpBall(eps=0.1)).objective
MartObjective(weight=5.0)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._adversarial import WeightedTraining, both_logits
from carbide.types import LpBall, Space

SURE = 1e-6  # probabilities stay this far from 1 inside logarithms


def mart_loss(clean: Tensor, moved: Tensor, y: Tensor, *, weight: float) -> Tensor:
    """The loss, a scalar, of clean and moved logits ``(n, k)`` for labels ``y`` ``(n,)``."""
    said, was = moved.log_softmax(1), clean.log_softmax(1)
    rival = said.scatter(1, y[:, None], -math.inf).amax(1).exp()
    boosted = nn.functional.nll_loss(said, y) - torch.log1p(-rival.clamp_max(1 - SURE)).mean()
    apart = nn.functional.kl_div(said, was, reduction="none", log_target=True).sum(1)
    unsure = 1 - was.gather(1, y[:, None]).squeeze(1).exp()
    return boosted + weight * (apart * unsure).mean()


@dataclass(frozen=True, kw_only=True)
class MartObjective:
    """``mart_loss`` of a batch and what it was moved to."""

    paired: ClassVar[bool] = True
    weight: float = 5.0

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, *, moved: Tensor, progress: float, generator: torch.Generator, space: Space
    ) -> Tensor:
        """The loss, a scalar."""
        return mart_loss(*both_logits(module, x, moved), y, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class MART(WeightedTraining):
    """MART with ``weight`` on unsure rows; moved inputs by ``steps`` steps of ``step * eps``."""

    weight: float = 5.0

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the boosted loss in place of the cross-entropy."""
        return self.hardened(recipe, threat, perturb=self.mover(threat), objective=MartObjective(weight=self.weight))

    def strengths(self) -> tuple[MART, ...]:
        """Half the threat's eps, then all of it."""
        return (replace(self, scale=self.scale / 2), self)
