"""Madry et al. 2018, https://arxiv.org/abs/1706.06083: projected gradient descent.

Start at random inside the ball, follow the gradient of the cross-entropy uphill in steps of fixed size, and return into
the ball and the bounds after each step. A row leaves the batch the moment it is misclassified.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-0.9, 0.9])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> bool(PGD()(model, np.array([[1.0, 0.0]]), np.array([0]), LpBall(eps=0.2), np.random.default_rng(0))[0, 0] < 0.9)
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._ascent import cross_entropy
from carbide.evasion._coarse import coarse
from carbide.evasion._gradients import Ball, Best, array, batches, generator_of, gradient_of, margins
from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat


@dataclass(frozen=True, kw_only=True)
class PGD(Method):
    """Projected gradient descent on the cross-entropy: ``restarts`` runs of ``steps`` steps of size ``step * eps``."""

    steps: int = 20
    step: float = 0.2
    restarts: int = 1
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 10

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1:
            raise InputError(f"pgd: steps is {self.steps} and restarts {self.restarts}; give whole numbers >= 1")
        if not self.step > 0:
            raise InputError(f"pgd: step is {self.step}; give a share of eps > 0, e.g. 0.2")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Gradients say nothing about how few features an L0 change needs."""
        return gradient_refusal(threat)

    def quick(self) -> PGD:
        """Half the steps, one start."""
        return PGD(steps=max(1, self.steps // 2), step=self.step * 2 if self.steps > 1 else self.step)

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """Inputs ``(n, *shape)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: the least margin seen in each row."""
        out, view = np.array(x, np.float64), coarse(model, x, y, threat)
        for part, ball, labels in track(list(batches(model, x, y, threat)), label="pgd"):
            generator = generator_of(rng, ball.clean.device)
            best = Best(ball.clean)
            for _ in range(self.restarts):
                rows = best.alive()
                if len(rows):
                    self._run(view, ball.rows(rows), labels[rows], rows, best, generator)
            out[part] = array(best.x)
        return out

    def _run(self, model: Any, ball: Ball, y: Tensor, rows: Tensor, best: Best, generator: torch.Generator) -> None:
        ball = ball.tight()
        x = ball.random(generator)
        for turn in range(self.steps + 1):
            logits, _, gradient = gradient_of(model, x, lambda z, y: cross_entropy(z, y, None, model.threshold), y)
            keep = best.see(rows, x, logits, margins(logits, y, model.threshold))
            if turn == self.steps or not bool(keep.any()):
                return
            if not bool(keep.all()):
                x, y, rows, gradient, ball = x[keep], y[keep], rows[keep], gradient[keep], ball.rows(keep)
            x = ball.project(x + self.step * ball.eps * ball.direction(gradient, x=x))


def gradient_refusal(threat: Threat) -> str | None:
    """Why a gradient attack cannot follow a threat's norm, or None."""
    if isinstance(threat, LpBall) and threat.p == 0:
        return "it has no steepest step for L0 changes; choose linf, l2 or l1"
    return None
