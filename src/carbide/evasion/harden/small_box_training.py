"""Müller et al. 2023, https://arxiv.org/abs/2210.04871: SABR, interval training on small boxes around attacked inputs.

Each input is moved by an attack within a part of the ball, and interval bounds are taken over a small box around it that
still fits into the ball. Small boxes bound loosely only where the attacker goes, so more of the net's capacity is kept
than by interval training on the whole ball, and less can be certified by intervals alone.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> recipe = SmallBoxTraining(box=0.4)(TorchRecipe(factory="carbide.models.nets:small_cnn"), LpBall(eps=0.1))
>>> recipe.objective.box
0.4
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.evasion._interval_training import IntervalGrowth, interval_refusal
from carbide.registry import Method
from carbide.types import Access, Case, InputError, LpBall, Threat


@dataclass(frozen=True, kw_only=True)
class SmallBoxTraining(Method):
    """SABR with boxes of ``box`` times the threat's eps around inputs moved by ``steps`` steps within the rest of the ball.

    ``scale`` times the eps, ``stretch`` times the epochs, ``pace`` times the learning rate with half the batch; the ball has
    grown to its full size at ``full`` of the training; ``warmth`` is the weight of the warm-up of short interval training.
    """

    box: float = 0.6
    steps: int = 4
    scale: float = 1.0
    stretch: float = 1.5
    pace: float = 3.0
    full: float = 0.6
    warmth: float = 0.5
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("scale", "stretch", "pace"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"small_box_training: {name} is {getattr(self, name)}; give a factor > 0")
        if not 0 < self.box < 1:
            raise InputError(f"small_box_training: box is {self.box}; give the small box's share of eps in (0, 1)")
        if self.steps < 1:
            raise InputError(f"small_box_training: steps is {self.steps}; give a whole number >= 1")
        if not 0.05 < self.full <= 1:
            raise InputError(f"small_box_training: full is {self.full}; give a share of the training in (0.05, 1]")
        if not (math.isfinite(self.warmth) and self.warmth >= 0):
            raise InputError(f"small_box_training: warmth is {self.warmth}; give a weight >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a torch recipe and an Linf ball."""
        return interval_refusal(case, threat)

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the worst case over small boxes in place of the cross-entropy."""
        objective = IntervalGrowth(eps=self.scale * threat.eps, full=self.full, warmth=self.warmth, box=self.box, steps=self.steps)
        return replace(recipe, objective=objective, perturb=None, epochs=max(1, round(self.stretch * recipe.epochs)), rate=self.pace * recipe.rate,
                       batch=max(1, recipe.batch // 2), decay=0.0, start=b"")  # fmt: skip

    def strengths(self) -> tuple[SmallBoxTraining, ...]:
        """Boxes of a third of the size, then as given."""
        return (replace(self, box=self.box / 3), self)
