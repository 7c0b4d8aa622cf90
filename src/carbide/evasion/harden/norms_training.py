"""Tramèr & Boneh 2019, https://arxiv.org/abs/1904.13000: training against changes of several norms at once.

A net that stands against small changes of every pixel may fall to a large change of few. Each row is moved in every
norm's ball, and either the worse of these moves is trained on (``max``), or one drawn at random for each row (``random``).

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> recipe = NormsTraining()(TorchRecipe(factory="carbide.models.nets:small_cnn"), LpBall(eps=0.1))
>>> [(move.p, round(move.eps, 3)) for move in recipe.perturb.moves(features=64)]
[(inf, 0.1), (2.0, 0.404)]
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._adversarial import AdversarialTraining
from carbide.evasion.inner import PgdPerturb, answering
from carbide.types import InputError, LpBall, Space

CHOICES = ("max", "random")


def same_volume(features: int) -> float:
    """The radius of the L2 ball that has the volume of the Linf ball of radius 1."""
    return 2 * math.exp((math.lgamma(features / 2 + 1) - features / 2 * math.log(math.pi)) / features)


@dataclass(frozen=True, kw_only=True)
class OneOfNorms:
    """Each row moved in the ball of ``own`` or in that of the other norm: the worse for the net as it is (``max``), or one at random."""

    bounded: ClassVar[bool] = True
    own: PgdPerturb
    other_eps: float = 0.0
    choice: str = "max"

    def moves(self, features: int) -> tuple[PgdPerturb, PgdPerturb]:
        """Both searches, for rows of so many features."""
        factor = same_volume(features)
        alike = self.own.eps * factor if math.isinf(self.own.p) else self.own.eps / factor
        other = replace(self.own, p=2.0 if math.isinf(self.own.p) else math.inf, eps=self.other_eps or alike)
        return self.own, other

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, *, space: Space | None = None) -> Tensor:
        """The moved batch ``(n, *shape)``."""
        moves = self.moves(x[0].numel())
        if self.choice == "max":
            moved = torch.stack([move(module, x, y, generator, space=space) for move in moves])
            with answering(module), torch.no_grad():
                losses = torch.stack([nn.functional.cross_entropy(module(part), y, reduction="none") for part in moved])
            return moved[losses.argmax(0), torch.arange(len(x), device=x.device)]
        drawn = torch.randint(2, (len(x),), generator=generator, device=generator.device).to(x.device)
        out = x.clone()
        for number, move in enumerate(moves):  # each row takes part in one search only, so this costs no more than one norm
            rows = torch.nonzero(drawn == number).squeeze(1)
            if len(rows):
                out[rows] = move(module, x[rows], y[rows], generator, space=space)
        return out


@dataclass(frozen=True, kw_only=True)
class NormsTraining(AdversarialTraining):
    """Adversarial training against the threat's ball and the ball of ``other_eps`` (input units) in the other norm, Linf or L2.

    With 0 the other ball is the one of equal volume, about ``eps * sqrt(0.23 d)`` for an Linf ball in d features.
    """

    other_eps: float = 0.0
    choice: str = "max"
    steps: int = 10
    step: float = 0.25
    default: ClassVar[bool] = False
    factors: ClassVar[tuple[str, ...]] = ("scale", "stretch", "pace", "step")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.other_eps) and self.other_eps >= 0):
            raise InputError(f"normstraining: other_eps is {self.other_eps}; give a radius > 0 in input units, or 0 for a ball of equal volume")
        if self.choice not in CHOICES:
            raise InputError(f"normstraining: choice is {self.choice!r}; choose {' or '.join(CHOICES)}")
        if self.steps < 1:
            raise InputError(f"normstraining: steps is {self.steps}; give a whole number >= 1")

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with every batch moved within one of the balls."""
        own = PgdPerturb(eps=self.scale * threat.eps, p=threat.p, steps=self.steps, step=self.step)
        perturb = OneOfNorms(own=own, other_eps=self.scale * self.other_eps, choice=self.choice)
        return self.hardened(recipe, threat, perturb=perturb)
