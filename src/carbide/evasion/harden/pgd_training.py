"""Madry et al. 2018, https://arxiv.org/abs/1706.06083: training on the worst inputs that projected gradient descent finds.

Each batch is replaced by what ``steps`` projected steps from a random start make of it, and its cross-entropy is
minimised: the saddle point in which the attacker moves first.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> plain = TorchRecipe(factory="carbide.models.nets:small_cnn", epochs=10)
>>> PGDTraining(steps=7)(plain, LpBall(eps=0.1)).perturb
PgdPerturb(eps=0.1, p=inf, steps=7, step=0.25, labels=True)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from carbide.evasion._adversarial import SteppedTraining
from carbide.types import LpBall


@dataclass(frozen=True, kw_only=True)
class PGDTraining(SteppedTraining):
    """Adversarial training with ``steps`` steps of ``step * eps``; a batch costs about as much as ``0.7 steps + 1`` clean ones."""

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with every batch moved as the threat's attacker would."""
        return self.hardened(recipe, threat, perturb=self.mover(threat))

    def strengths(self) -> tuple[PGDTraining, ...]:
        """Half the threat's eps, then all of it."""
        return (replace(self, scale=self.scale / 2), self)
