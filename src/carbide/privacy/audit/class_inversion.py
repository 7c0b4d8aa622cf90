"""Fredrikson et al. 2015, https://doi.org/10.1145/2810103.2813677: model inversion, the input that a class is surest of.

Gradient descent on the input makes the model sure of one class; where one person is a class that may be a likeness of them. The paper's
cost is one minus the confidence; its logarithm has the same minimum and does not fade where the model is surer of others.

>>> ClassInversion(steps=10).quick().steps
10
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from carbide.privacy.rebuilt import Rebuilt
from carbide.registry import Method
from carbide.types import Access, Array, Case, Dataset, InputError, Reconstruction, Rng, Space, Threat

KEEP, KEEP_SQUARES = 0.9, 0.999  # of Adam's moving means


@dataclass(frozen=True, kw_only=True)
class ClassInversion(Method):
    """One input a class by ``steps`` of Adam at ``rate`` (a share of each feature's range, falling to zero) from the middle of the space.

    ``smoothness`` weighs the mean square difference of neighbouring pixels of images, ``size`` the mean square distance from the middle,
    both in ranges: priors that keep the input plausible.
    """

    threats = (Reconstruction,)
    needs: ClassVar[Access] = Access.GRADIENTS
    steps: int = 300
    rate: float = 0.05
    smoothness: float = 30.0
    size: float = 3.0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"steps is {self.steps}; give a whole number >= 1")
        if not self.rate > 0:
            raise InputError(f"rate is {self.rate}; give a share of the range > 0")
        for name in ("smoothness", "size"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a number >= 0")

    def __call__(self, model: Any, others: Dataset | None, threat: Reconstruction, rng: Rng) -> Rebuilt:
        """One row a class, ``(k, *shape)``, within the bounds of the space."""
        middle, width = _frame(model.space)
        labels = torch.arange(model.classes, device=model.device)
        place, span = model.tensor(middle), model.tensor(width)
        u = torch.zeros((model.classes, *model.space.shape), dtype=model.dtype, device=model.device)
        mean, square = torch.zeros_like(u), torch.zeros_like(u)
        for step in range(1, self.steps + 1):
            u.requires_grad_(True)
            cost = torch.nn.functional.cross_entropy(model.logits(place + span * u), labels, reduction="sum") + self._prior(u)
            (slope,) = torch.autograd.grad(cost, u)
            mean = KEEP * mean + (1 - KEEP) * slope
            square = KEEP_SQUARES * square + (1 - KEEP_SQUARES) * slope**2
            move = (mean / (1 - KEEP**step)) / ((square / (1 - KEEP_SQUARES**step)).sqrt() + 1e-12)
            u = (u.detach() - self.rate * (1 - (step - 1) / self.steps) * move).clamp(-0.5, 0.5)
        rows = middle + width * u.detach().cpu().double().numpy()
        return Rebuilt(x=np.clip(rows, model.space.lower, model.space.upper), y=np.arange(model.classes))

    def quick(self) -> ClassInversion:
        """At most 100 steps."""
        return replace(self, steps=min(self.steps, 100))

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It is about who has the model alone."""
        return None if getattr(threat, "known", "nothing") == "nothing" else "it rebuilds classes from the model alone; ask with known: nothing"

    def _prior(self, u: Any) -> Any:
        cost = self.size * (u**2).flatten(1).mean(1).sum()
        if u.ndim == 4:
            for axis in (2, 3):
                if u.shape[axis] > 1:
                    cost = cost + self.smoothness * (u.diff(dim=axis) ** 2).flatten(1).mean(1).sum()
        return cost


def _frame(space: Space) -> tuple[Array, Array]:
    """The middle and the width of each feature ``(*shape)``; features without bounds are taken to lie in -3 to 3."""
    finite = np.isfinite(space.lower) & np.isfinite(space.upper)
    with np.errstate(invalid="ignore"):
        return np.where(finite, (space.lower + space.upper) / 2, 0.0), np.where(finite, space.upper - space.lower, 6.0)
