"""Zhang et al. 2019, https://arxiv.org/abs/1901.08573: TRADES, clean accuracy and steadiness around each row in one loss.

The clean cross-entropy, plus ``weight`` times how far the answer to a moved input is from the clean answer
(Kullback-Leibler), where the input moves away from that answer, whatever the label. The weight trades one for the other.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> plain = TorchRecipe(factory="carbide.models.nets:small_cnn", epochs=10)
>>> TRADES(weight=3)(plain, LpBall(eps=0.1)).objective
TradesObjective(weight=3)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._adversarial import WeightedTraining, both_logits
from carbide.types import LpBall, Space


def trades_loss(clean: Tensor, moved: Tensor, y: Tensor, *, weight: float) -> Tensor:
    """The loss, a scalar, of clean and moved logits ``(n, k)`` for labels ``y`` ``(n,)``; both answers are trained."""
    steady = nn.functional.kl_div(moved.log_softmax(1), clean.log_softmax(1), reduction="batchmean", log_target=True)
    return nn.functional.cross_entropy(clean, y) + weight * steady


@dataclass(frozen=True, kw_only=True)
class TradesObjective:
    """``trades_loss`` of a batch and what it was moved to."""

    paired: ClassVar[bool] = True
    weight: float = 6.0

    def __call__(
        self, module: nn.Module, x: Tensor, y: Tensor, *, moved: Tensor, progress: float, generator: torch.Generator, space: Space
    ) -> Tensor:
        """The loss, a scalar."""
        return trades_loss(*both_logits(module, x, moved), y, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class TRADES(WeightedTraining):
    """TRADES with ``weight`` on steadiness; moved inputs by ``steps`` steps of ``step * eps``."""

    weight: float = 6.0

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the traded loss in place of the cross-entropy."""
        return self.hardened(recipe, threat, perturb=self.mover(threat, labels=False), objective=TradesObjective(weight=self.weight))

    def strengths(self) -> tuple[TRADES, ...]:
        """A sixth of the weight, half of it, then all of it."""
        return (replace(self, weight=self.weight / 6), replace(self, weight=self.weight / 2), self)
