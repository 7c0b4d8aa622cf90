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

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.evasion._interval_training import BoxTraining, IntervalGrowth
from carbide.types import InputError, LpBall


@dataclass(frozen=True, kw_only=True)
class SmallBoxTraining(BoxTraining):
    """SABR with boxes of ``box`` times the threat's eps around inputs moved by ``steps`` steps within the rest of the ball.

    ``scale`` times the eps, ``stretch`` times the epochs, ``pace`` times the learning rate with half the batch; the ball has
    grown to its full size at ``full`` of the training; ``warmth`` is the weight of the warm-up of short interval training.
    """

    box: float = 0.6
    steps: int = 4
    name: ClassVar[str] = "small_box_training"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.box < 1:
            raise InputError(f"small_box_training: box is {self.box}; give the small box's share of eps in (0, 1)")
        if self.steps < 1:
            raise InputError(f"small_box_training: steps is {self.steps}; give a whole number >= 1")

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the worst case over small boxes in place of the cross-entropy."""
        objective = IntervalGrowth(eps=self.scale * threat.eps, full=self.full, warmth=self.warmth, box=self.box, steps=self.steps)
        return self.boxed(recipe, objective)

    def strengths(self) -> tuple[SmallBoxTraining, ...]:
        """Boxes of a third of the size, then as given."""
        return (replace(self, box=self.box / 3), self)
