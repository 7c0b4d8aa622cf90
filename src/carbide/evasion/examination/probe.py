"""What the examination of gradients works on: a few rows, the ball around them, the model and the same model in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._gradients import Ball, margins
from carbide.evasion.examination.views import frozen
from carbide.models.examination.seeds import seeded
from carbide.models.torch_net import with_module
from carbide.types import Array, LpBall, decide

ROWS = 16  # rows whose gradients are looked at
SEED = 20180802
GUARD = "guard roots, logarithms and divisions in the model"


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """The model, a few rows it gets right, the ball around them, and the same model in float64 (itself where that fails)."""

    model: Any
    twin: Any
    x: Array
    y: Tensor
    ball: Ball

    def margin(self, view: Any) -> Callable[[Tensor], Tensor]:
        """Margins of a view's logits, the same draws in each call; labels repeat where there are more inputs than rows."""

        def score(x: Tensor) -> Tensor:
            with seeded(self.model, SEED):
                logits = view.logits(x)
            return margins(logits, self.y.repeat(len(x) // len(self.y)), self.model.threshold)

        return score


def probe_of(model: Any, x: Array, y: Array, threat: LpBall) -> Probe:
    """The probe at the first rows that the model gets right; a threat without a gradient step is looked at in a twentieth of the range."""
    right = np.flatnonzero(decide(model.predict(x), model.threshold) == y)
    rows = right[:ROWS] if len(right) >= 4 else np.arange(min(ROWS, len(x)))
    twin = with_module(model, frozen(model.module, double=True))
    try:
        with torch.no_grad(), seeded(model, SEED):
            twin.logits(twin.tensor(x[rows[:2]]))
    except RuntimeError:  # the module holds tensors of a fixed dtype that float64 does not mix with
        twin = with_module(model, frozen(model.module, double=False))
    wide = threat if threat.p in (2, math.inf) and threat.eps > 0 else LpBall(eps=0.05 * float(np.ptp(x[rows])) or 0.05)
    still = with_module(model, frozen(model.module, double=False))  # its parameters want no gradient, and nothing can change the user's
    return Probe(model=still, twin=twin, x=x[rows], y=torch.as_tensor(y[rows], device=model.device), ball=Ball.of(twin, x[rows], wide))


def ask(score: Callable[[Tensor], Tensor], x: Tensor, probe: Probe) -> Tensor:
    """Values ``(n,)`` in the model's own precision, without a gradient."""
    with torch.no_grad():
        return score(x.to(probe.model.dtype)).double()
