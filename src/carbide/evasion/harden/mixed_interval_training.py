"""De Palma et al. 2024, https://arxiv.org/abs/2305.13991: MTL-IBP, a convex combination of the adversarial loss and the interval loss.

Intervals alone regularise so much that accuracy goes; attacks alone leave nothing to prove. ``share`` says how much of the
loss is the worst case that intervals allow, the rest is the worst case that a few steps of projected gradient find. With a
small share the net keeps its accuracy, and CROWN and branch and bound prove what intervals cannot.

>>> from carbide.models.torch_net import TorchRecipe
>>> from carbide.types import LpBall
>>> recipe = MixedIntervalTraining(share=0.1)(TorchRecipe(factory="carbide.models.nets:small_cnn"), LpBall(eps=0.1))
>>> recipe.objective.share, recipe.objective.eps
(0.1, 0.1)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.evasion._interval_training import BoxTraining, bounded, input_box, small_boxes_, warm_up_loss
from carbide.evasion._intervals import NORMS
from carbide.evasion.inner import PgdPerturb
from carbide.types import Dataset, InputError, LpBall, Space


@dataclass(frozen=True, kw_only=True)
class MixedObjective:
    """``share`` parts of the interval loss and the rest adversarial, over balls that grow during ``[start, full]`` of the training.

    While they grow, the warm-up of short interval training has the weight ``warmth``, fading; before, the loss is the clean one.
    """

    eps: float
    share: float
    steps: int
    start: float = 0.05
    full: float = 0.6
    warmth: float = 0.5

    def prepare(self, module: nn.Module, dataset: Dataset, generator: torch.Generator) -> None:
        """Draw the weights anew, so that boxes keep their width."""
        small_boxes_(module, generator)

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, *, progress: float, generator: torch.Generator, space: Space) -> Tensor:
        """The loss, a scalar. The running statistics of batch norm follow the clean batch alone."""
        grown = min(1.0, max(0.0, (progress - self.start) / (self.full - self.start)))
        if grown == 0:
            return F.cross_entropy(module(x), y)
        eps = grown * self.eps
        search = PgdPerturb(eps=eps, steps=self.steps, step=1.0 if self.steps == 1 else 2.5 / self.steps)
        moved = search(module, x, y, generator, space=space)
        low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (space.lower, space.upper))
        box = input_box(x, eps, low, high)
        found = bounded(module, x, box, y, clean=False)
        with _untracked(module):
            attacked = F.cross_entropy(module(moved), y)
        loss = (1 - self.share) * attacked + self.share * F.cross_entropy(found.worst, y)
        return loss + self.warmth * (1 - grown) * warm_up_loss(box, found.boxes) if self.warmth and grown < 1 else loss


@contextlib.contextmanager
def _untracked(module: nn.Module) -> Iterator[None]:
    """Inside, batch norm in training mode leaves its running statistics alone; nothing is written, so that gradients can still be taken."""
    layers = [layer for layer in module.modules() if isinstance(layer, NORMS) and layer.track_running_stats and layer.training]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True


@dataclass(frozen=True, kw_only=True)
class MixedIntervalTraining(BoxTraining):
    """MTL-IBP with ``share`` of the interval loss and an attack of ``steps`` steps, at ``scale`` times the threat's eps.

    ``stretch`` times the epochs, ``pace`` times the learning rate with half the batch; the ball has grown to its full size
    at ``full`` of the training; ``warmth`` is the weight of the warm-up of short interval training.
    """

    share: float = 0.3
    steps: int = 3
    name: ClassVar[str] = "mixed_interval_training"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise InputError(f"mixed_interval_training: share is {self.share}; give the interval loss's share in (0, 1)")
        if self.steps < 1:
            raise InputError(f"mixed_interval_training: steps is {self.steps}; give a whole number >= 1")

    def __call__(self, recipe: Any, threat: LpBall) -> Any:
        """The recipe with the mixed loss in place of the cross-entropy; perturbed batches are turned off."""
        objective = MixedObjective(eps=self.scale * threat.eps, share=self.share, steps=self.steps, full=self.full, warmth=self.warmth)
        return self.boxed(recipe, objective)

    def strengths(self) -> tuple[MixedIntervalTraining, ...]:
        """A third of the share, then as given."""
        return (replace(self, share=self.share / 3), self)
