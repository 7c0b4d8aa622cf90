"""Cinà et al. 2025, https://arxiv.org/abs/2402.01879: sigma-zero, the fewest features to change until a net is fooled.

The number of changed features has no gradient, so a smooth stand-in takes its place beside the margin. Each step moves every feature,
then what has moved less than a threshold goes back to where it was; the threshold rises while the row is wrong and falls while it is
right. Features are measured in widths of their bounds.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, 0.1], [-1.0, -0.1]]), "bias": torch.tensor([-0.5, 0.5])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2)), classes=2)
>>> x = SigmaZero()(model, np.array([[0.9, 0.5]]), np.array([0]), LpBall(p=0, eps=1), np.random.default_rng(0))
>>> bool(x[0, 0] < 0.5), float(x[0, 1])
(True, 0.5)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._gradients import batches, spread
from carbide.evasion._nearest import Nearest, restored, towards
from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat

SMOOTH = 1e-3  # sigma: a change of d counts as d^2 / (d^2 + sigma) features
THRESHOLD = 0.3  # the least change that stays, at first
PACE = 0.01  # how fast the threshold moves, in steps
LAST = 0.1  # the last step, as a share of the first


@dataclass(frozen=True, kw_only=True)
class SigmaZero(Method):
    """Sigma-zero: ``steps`` steps, of which the first moves the steepest feature by ``step`` widths of its bounds."""

    steps: int = 200
    step: float = 1.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    minimal: ClassVar[bool] = True
    rank: ClassVar[int] = 14

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError(f"sigma_zero: steps is {self.steps}; give a whole number >= 1")
        if not (math.isfinite(self.step) and self.step > 0):
            raise InputError(f"sigma_zero: step is {self.step}; give a share > 0 of the features' widths, e.g. 1")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """It counts features."""
        return "it counts changed features; choose l0" if isinstance(threat, LpBall) and threat.p != 0 else None

    def quick(self) -> SigmaZero:
        """A quarter of the steps."""
        return replace(self, steps=max(1, self.steps // 4))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """The wrong input ``(n, *shape)`` with the fewest changes found for each row ``x`` with label ``y`` ``(n,)``; else the row."""
        out = np.array(x, np.float64)
        width = model.tensor(np.where(np.isfinite(model.space.upper - model.space.lower), model.space.upper - model.space.lower, 1.0))
        for part, ball, labels in track(list(batches(model, x, y, threat)), label="sigma_zero"):
            nearest = Nearest(model, ball, labels)
            self._run(nearest, nearest.beyond(0.0), width)
            out[part] = restored(nearest, out[part])
        return out

    def _run(self, nearest: Nearest, rows: Tensor, width: Tensor) -> None:
        if len(rows) == 0:
            return
        model, ball, y = nearest.model, nearest.ball.rows(rows), nearest.y[rows]
        change = torch.zeros_like(ball.clean)
        threshold = torch.full_like(nearest.distance[rows], THRESHOLD)
        for turn in range(self.steps + 1):
            moving = change.detach().requires_grad_(True)
            logits = model.logits(ball.clean + width * moving)
            gap = towards(logits, y, None, model.threshold)
            wrong = nearest.wrong(logits.detach(), y)
            nearest.note(rows, torch.where(change == 0, ball.clean, ball.clean + width * change), wrong)
            if turn == self.steps:
                return
            margin = (-gap).masked_fill(wrong, 0.0)  # a row that is wrong by no more than rounding must still move
            count = (moving**2 / (moving**2 + SMOOTH)).flatten(1).mean(1)
            (gradient,) = torch.autograd.grad((margin + count).sum(), moving)
            size = self.step * (LAST + (1 - LAST) * (1 + math.cos(math.pi * turn / self.steps)) / 2)
            change = change - size * gradient / spread(gradient.flatten(1).abs().amax(1).clamp_min(torch.finfo(gradient.dtype).tiny), gradient)
            inside = torch.minimum(torch.maximum(ball.clean + width * change, ball.lower), ball.upper)
            change = torch.where(width > 0, (inside - ball.clean) / width.clamp_min(torch.finfo(width.dtype).tiny), 0 * change)
            threshold = (threshold + PACE * size * torch.where(wrong, 1.0, -1.0)).clamp(0, 1)
            change = change * (change.abs() >= spread(threshold, change))
