"""Pintor et al. 2021, https://arxiv.org/abs/2102.12827: FMN, the least change that fools a net, in L0, L1, L2 and Linf.

Each step follows the gradient of the margin and returns to a ball whose radius is the row's own: it shrinks while the row is wrong
and grows while it is right, by less and less. One run gives every row's distance, and so the whole curve of accuracy against eps.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-0.9, 0.9])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> FMN()(model, np.array([[1.0, 0.0]]), np.array([0]), LpBall(p=2, eps=0.2), np.random.default_rng(0)).round(2)
array([[0.9, 0. ]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from carbide.evasion._gradients import Ball, gradient_of, spread, surely_broken, unit
from carbide.evasion._nearest import Nearest, least_changes, towards
from carbide.registry import Method
from carbide.space.balls import norms, project
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat

SHRINK = (0.05, 0.001)  # by what share a row's radius changes, at first and at last
LAST = 0.01  # the last step, as a share of the first
HALVINGS = 6  # of the way to the nearest wrong input, at the end
DUAL = {0.0: math.inf, 1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


@dataclass(frozen=True, kw_only=True)
class FMN(Method):
    """FMN: ``steps`` steps, the first ``step`` times as long as the way to each row's boundary is to first order, in L2."""

    steps: int = 100
    step: float = 2.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    minimal: ClassVar[bool] = True
    rank: ClassVar[int] = 12

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(f"fmn: steps is {self.steps}; give a whole number >= 2")
        if not (math.isfinite(self.step) and self.step > 0):
            raise InputError(f"fmn: step is {self.step}; give a factor > 0, e.g. 2")

    def quick(self) -> FMN:
        """A third of the steps."""
        return replace(self, steps=max(2, self.steps // 3))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """The nearest wrong input ``(n, *shape)`` found for each row ``x`` with label ``y`` ``(n,)``, whatever its distance; else the row."""
        return least_changes(model, x, y, threat, label="fmn", run=self._run, halvings=0 if threat.p == 0 else HALVINGS)

    def _run(self, nearest: Nearest, rows: Tensor) -> None:
        model, ball, y = nearest.model, nearest.ball.rows(rows), nearest.y[rows]
        x, best = ball.clean, torch.full_like(nearest.distance[rows], math.inf)
        radius, first = best.clone(), best
        for turn in range(self.steps):
            logits, gap, gradient = gradient_of(model, x, lambda z: towards(z, y, None, model.threshold))
            wrong = surely_broken(-gap, logits)
            nearest.note(rows, x, wrong)
            best = nearest.distance[rows]
            if turn == 0:
                first = self.step * _way(ball, gap, gradient)
            radius = _radius(ball, x, radius, best, wrong, gap, gradient, _cosine(*SHRINK, turn / (self.steps - 1)))
            size = first * _cosine(1.0, LAST, turn / (self.steps - 1))
            x = project(x + spread(size, x) * unit(gradient, 2), ball.clean, p=ball.p, eps=radius, lower=ball.lower, upper=ball.upper)
        logits, gap, _ = gradient_of(model, x, lambda z: towards(z, y, None, model.threshold))
        nearest.note(rows, x, surely_broken(-gap, logits))


def _way(ball: Ball, gap: Tensor, gradient: Tensor) -> Tensor:
    """How far each row's boundary is to first order in L2, and no farther than its bounds; 1 where neither says anything."""
    room = norms(ball.upper - ball.lower, 2)
    way = torch.minimum(-gap / norms(gradient, 2), room)
    return torch.where(torch.isfinite(way), way, torch.where(torch.isfinite(room), room, torch.ones_like(room)))


def _radius(ball: Ball, x: Tensor, radius: Tensor, best: Tensor, wrong: Tensor, gap: Tensor, gradient: Tensor, share: float) -> Tensor:
    """The radius of each row's next ball; until one is wrong, a little more than what reaches the boundary to first order."""
    known = torch.isfinite(best)
    if ball.p == 0:
        radius = torch.where(torch.isfinite(radius), radius, 0 * radius.nan_to_num(posinf=0.0))
        fewer = torch.minimum(torch.minimum(radius - 1, (radius * (1 - share)).floor()), best - 1)
        return torch.where(wrong, fewer.clamp_min(0), torch.maximum(radius + 1, (radius * (1 + share)).floor()).clamp_max(best - 1))
    ahead = norms(x - ball.clean, ball.p) + gap.abs() / norms(gradient, DUAL[ball.p]).clamp_min(torch.finfo(x.dtype).tiny)
    return torch.where(
        wrong, torch.minimum(radius, best) * (1 - share), torch.where(known, torch.minimum(radius * (1 + share), best), ahead * (1 + share))
    )


def _cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
