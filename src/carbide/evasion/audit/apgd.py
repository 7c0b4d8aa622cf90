"""Croce & Hein 2020, https://arxiv.org/abs/2003.01690: projected ascent with a self-adjusting step, on a margin loss.

The step starts at twice the ball's radius and is halved, row by row, when the loss stops rising; each halving goes back
to the best point so far. The loss is a margin of logits divided by their spread, so that logits of any scale have a
gradient; first against the runner-up class, then against each of the likeliest other classes in turn. A row leaves the
batch the moment it is misclassified. L1: sparse steps, Croce & Hein 2021, https://arxiv.org/abs/2103.01208.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": 1e4 * torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-9e3, 9e3])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> bool(APGD()(model, np.array([[1.0, 0.0]]), np.array([0]), LpBall(eps=0.2), np.random.default_rng(0))[0, 0] < 0.9)
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._ascent import ascend, cross_entropy, scaled_margin
from carbide.evasion._coarse import coarse
from carbide.evasion._gradients import Ball, Best, array, batches, generator_of, margins
from carbide.evasion._nearest import likeliest
from carbide.evasion.audit.pgd import gradient_refusal
from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat

TOGETHER = 256  # rows and classes that are tried at once where rows are few
LOSSES = {"margin": scaled_margin, "cross_entropy": cross_entropy}


@dataclass(frozen=True, kw_only=True)
class APGD(Method):
    """Margin-loss APGD: ``steps`` untargeted, then ``target_steps`` on each of the ``targets`` likeliest other classes.

    ``loss`` ``cross_entropy`` makes the untargeted part the paper's APGD-CE; on single classes it is always the margin.
    """

    steps: int = 20
    target_steps: int = 20
    targets: int = 9
    loss: str = "margin"
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.target_steps < 1:
            raise InputError(f"apgd: steps is {self.steps} and target_steps {self.target_steps}; give whole numbers >= 1")
        if self.targets < 0:
            raise InputError(f"apgd: targets is {self.targets}; give a number of classes >= 0")
        if self.loss not in LOSSES:
            raise InputError(f"apgd: loss is {self.loss!r}; choose {' or '.join(LOSSES)}")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Gradients say nothing about how few features an L0 change needs."""
        return gradient_refusal(threat)

    def quick(self) -> APGD:
        """The untargeted part alone."""
        return replace(self, targets=0)

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """Inputs ``(n, *shape)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: the least margin seen in each row."""
        out, view = np.array(x, np.float64), coarse(model, x, y, threat)
        for part, ball, labels in track(list(batches(model, x, y, threat)), label="apgd"):
            out[part] = array(self._batch(view, ball, labels, generator_of(rng, ball.clean.device)))
        return out

    def _batch(self, model: Any, ball: Ball, y: Tensor, generator: torch.Generator) -> Tensor:
        best = Best(ball.clean)
        with torch.no_grad():
            logits = model.logits(ball.clean)
        best.see(torch.arange(len(y), device=y.device), ball.clean, logits, margins(logits, y, model.threshold))
        self._round(model, ball, y, best, generator)
        if logits.shape[1] > 2:  # with two classes the only target is the runner-up
            others = likeliest(logits, y)[:, : self.targets]
            done = 0
            while done < others.shape[1] and (left := int((~best.broken).sum())):
                several = max(1, TOGETHER // left)
                self._round(model, ball, y, best, generator, others[:, done : done + several])
                done += several
        return best.x

    def _round(self, model: Any, ball: Ball, y: Tensor, best: Best, generator: torch.Generator, targets: Tensor | None = None) -> None:
        """One run of the rows that stand, towards each of the ``targets`` ``(n, t)`` at once, or towards none."""
        rows = best.alive()
        many = rows if targets is None else rows.repeat(targets.shape[1])
        if len(rows):
            ascend(model, ball.rows(many), y[many], None if targets is None else targets[rows].T.flatten(), many, best,
                   self.steps if targets is None else self.target_steps, generator,
                   loss=LOSSES[self.loss] if targets is None else scaled_margin)  # fmt: skip
