"""Croce & Hein 2020, https://arxiv.org/abs/2003.01690: projected ascent with a self-adjusting step, on a margin loss.

The step starts at twice the ball's radius and is halved, row by row, when the loss stops rising; each halving goes back
to the best point so far. The loss is a margin of logits divided by their spread, so that logits of any scale have a
gradient; first against the runner-up class, then against each of the likeliest other classes in turn. A row leaves the
batch the moment it is misclassified.

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

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._gradients import Ball, Best, array, batches, generator_of, gradient_of, margins
from carbide.evasion.audit.pgd import gradient_refusal
from carbide.registry import Method
from carbide.run import track
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat

MOMENTUM = 0.75  # weight of the new step against the last move
NOW, TOP = ("x", "loss", "gradient"), ("top", "top_loss", "top_gradient")  # where a row is, and the best place it has been
RISING = 0.75  # share of steps between two checkpoints in which the loss must have risen


@dataclass(frozen=True, kw_only=True)
class APGD(Method):
    """Margin-loss APGD: ``steps`` untargeted, then ``target_steps`` on each of the ``targets`` likeliest other classes."""

    steps: int = 20
    target_steps: int = 20
    targets: int = 9
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    rank: ClassVar[int] = 20

    def __post_init__(self) -> None:
        if self.steps < 1 or self.target_steps < 1:
            raise InputError(f"apgd: steps is {self.steps} and target_steps {self.target_steps}; give whole numbers >= 1")
        if self.targets < 0:
            raise InputError(f"apgd: targets is {self.targets}; give a number of classes >= 0")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Steepest steps are written for Linf and L2 only."""
        return gradient_refusal(threat)

    def quick(self) -> APGD:
        """The untargeted part alone."""
        return replace(self, targets=0)

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """Inputs ``(n, *shape)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: the least margin seen in each row."""
        out = np.array(x, np.float64)
        for part, ball, labels in track(list(batches(model, x, y, threat)), label="apgd"):
            out[part] = array(self._batch(model, ball, labels, generator_of(rng, ball.clean.device)))
        return out

    def _batch(self, model: Any, ball: Ball, y: Tensor, generator: torch.Generator) -> Tensor:
        best = Best(ball.clean)
        with torch.no_grad():
            logits = model.logits(ball.clean)
        best.see(torch.arange(len(y), device=y.device), ball.clean, logits, margins(logits, y, model.threshold))
        others = logits.scatter(1, y[:, None], -math.inf).argsort(dim=1, descending=True)
        rounds: list[Tensor | None] = [None]
        if logits.shape[1] > 2:  # with two classes the only target is the runner-up
            rounds += [others[:, t] for t in range(min(self.targets, logits.shape[1] - 1))]
        for target in rounds:
            rows = best.alive()
            if len(rows) == 0:
                break
            _ascend(model, ball.rows(rows), y[rows], None if target is None else target[rows], rows, best,
                    self.steps if target is None else self.target_steps, generator)  # fmt: skip
        return best.x


def scaled_margin(logits: Tensor, y: Tensor, target: Tensor | None, threshold: float) -> Tensor:
    """What the attack raises, ``(n,)``: minus the margin against the runner-up (or the target), over the spread of the top logits."""
    if target is None:
        loss = -margins(logits, y, threshold)
    else:
        loss = (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
    if logits.shape[1] == 2:
        return loss
    top = logits.topk(min(4, logits.shape[1]), dim=1).values
    low = top[:, 2] if target is None or logits.shape[1] == 3 else (top[:, 2] + top[:, 3]) / 2
    return loss / (top[:, 0] - low + 1e-12)


def _checkpoints(steps: int) -> Iterator[int]:
    """The steps at which the step size is reconsidered: farther apart at first, then closer."""
    last, share = 0.0, 0.22
    while share <= 1:
        yield math.ceil(round(share * steps, 6))  # 0.41 * 100 is a hair above 41 in floating point
        last, share = share, share + max(share - last - 0.03, 0.06)


def _ascend(model: Any, ball: Ball, y: Tensor, target: Tensor | None, rows: Tensor, best: Best, steps: int, generator: torch.Generator) -> None:
    """One run from a random start; everything that a row needs is in ``s``, so that finished rows can be dropped."""

    def look(x: Tensor, y: Tensor, target: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        return gradient_of(model, x, lambda z: scaled_margin(z, y, target, model.threshold))

    checks, since = sorted(set(_checkpoints(steps))), 0
    s: dict[str, Tensor] = {"rows": rows, "y": y, "x": ball.random(generator)} | ({} if target is None else {"target": target})
    logits, s["loss"], s["gradient"] = look(s["x"], y, target)
    s |= {"last": s["x"], "top": s["x"], "top_loss": s["loss"], "top_gradient": s["gradient"], "seen_loss": s["loss"]}
    s |= {
        "size": torch.full_like(s["loss"], 2 * ball.eps),
        "rises": torch.zeros_like(s["loss"]),
        "halved": torch.zeros_like(s["loss"], dtype=torch.bool),
    }
    keep = best.see(s["rows"], s["x"], logits, margins(logits, s["y"], model.threshold))
    for turn in range(1, steps + 1):
        if not bool(keep.all()):
            s, ball = {name: value[keep] for name, value in s.items()}, ball.rows(keep)
        if len(s["rows"]) == 0:
            return
        straight = ball.project(s["x"] + _wide(s["size"], s["x"]) * ball.direction(s["gradient"]))
        moved = straight if turn == 1 else ball.project(s["x"] + MOMENTUM * (straight - s["x"]) + (1 - MOMENTUM) * (s["x"] - s["last"]))
        before, s["last"], s["x"] = s["loss"], s["x"], moved
        logits, s["loss"], s["gradient"] = look(s["x"], s["y"], s.get("target"))
        keep = best.see(s["rows"], s["x"], logits, margins(logits, s["y"], model.threshold))
        s["rises"] = s["rises"] + (s["loss"] > before)
        _copy(s, s["loss"] > s["top_loss"], NOW, TOP)
        if turn in checks:
            stuck = (s["rises"] < RISING * (turn - since)) | (~s["halved"] & (s["top_loss"] == s["seen_loss"]))
            s["size"] = torch.where(stuck, s["size"] / 2, s["size"])
            _copy(s, stuck, TOP, NOW)
            s["halved"], s["seen_loss"], s["rises"], since = stuck, s["top_loss"], torch.zeros_like(s["rises"]), turn


def _copy(s: dict[str, Tensor], rows: Tensor, source: tuple[str, ...], goal: tuple[str, ...]) -> None:
    for a, b in zip(source, goal, strict=True):
        s[b] = torch.where(_wide(rows, s[b]), s[a], s[b])


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))
