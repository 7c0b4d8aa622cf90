"""Rony et al. 2019, https://arxiv.org/abs/1811.09600: DDN, the least L2 change that fools a net, its direction and its norm decoupled.

Each step follows the gradient of the cross-entropy, and the sum of all steps is scaled to a norm that shrinks by a fixed share while the row
is wrong and grows by it while the row is right. One run gives every row's distance, and so the whole curve of accuracy against eps.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-0.9, 0.9])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> DDN()(model, np.array([[1.0, 0.0]]), np.array([0]), LpBall(p=2, eps=0.2), np.random.default_rng(0)).round(2)
array([[0.9, 0. ]])
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from carbide.evasion._ascent import cross_entropy
from carbide.evasion._gradients import gradient_of, margins, spread, surely_broken, unit
from carbide.evasion._nearest import Nearest, least_changes
from carbide.registry import Method
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat

LAST = 0.01  # the last step, as a share of the first
HALVINGS = 6  # of the way to the nearest wrong input, at the end


@dataclass(frozen=True, kw_only=True)
class DDN(Method):
    """DDN: ``steps`` steps; the norm begins at ``start`` (input units), as does the length of a step, and changes by the share ``change``."""

    steps: int = 100
    change: float = 0.05
    start: float = 1.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    minimal: ClassVar[bool] = True
    rank: ClassVar[int] = 13

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise InputError(f"ddn: steps is {self.steps}; give a whole number >= 2")
        if not 0 < self.change < 1:
            raise InputError(f"ddn: change is {self.change}; give a share between 0 and 1, e.g. 0.05")
        if not (math.isfinite(self.start) and self.start > 0):
            raise InputError(f"ddn: start is {self.start}; give a norm > 0 in input units, e.g. 1")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Its norm is the L2 norm."""
        return None if isinstance(threat, LpBall) and threat.p == 2 else "it looks for the least L2 change; choose norm: l2, or fmn"

    def quick(self) -> DDN:
        """A third of the steps."""
        return replace(self, steps=max(2, self.steps // 3))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """The nearest wrong input ``(n, *shape)`` found for each row ``x`` with label ``y`` ``(n,)``, whatever its distance; else the row."""
        return least_changes(model, x, y, threat, label="ddn", run=self._run, halvings=HALVINGS)

    def _run(self, nearest: Nearest, rows: Tensor) -> None:
        model, ball, y = nearest.model, nearest.ball.rows(rows), nearest.y[rows]
        x, change = ball.clean, torch.zeros_like(ball.clean)
        norm = torch.full((len(rows),), self.start, dtype=x.dtype, device=x.device)
        for turn in range(self.steps):
            logits, _, gradient = gradient_of(model, x, lambda z, y: cross_entropy(z, y, None, model.threshold), y)
            wrong = surely_broken(margins(logits, y, model.threshold), logits)
            nearest.note(rows, x, wrong)
            size = self.start * (LAST + (1 - LAST) * (1 + math.cos(math.pi * turn / self.steps)) / 2)
            change = change + size * unit(gradient, 2)
            norm = norm * torch.where(wrong, 1 - self.change, 1 + self.change)
            x = torch.minimum(torch.maximum(ball.clean + spread(norm, x) * unit(change, 2), ball.lower), ball.upper)
            change = x - ball.clean
        with torch.no_grad():
            logits = model.logits(x)
        nearest.note(rows, x, surely_broken(margins(logits, y, model.threshold), logits))
