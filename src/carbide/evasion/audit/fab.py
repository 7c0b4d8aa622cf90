"""Croce & Hein 2020, https://arxiv.org/abs/1907.02044: FAB-T, the nearest point of each class's boundary, in Linf, L2 and L1.

Each step replaces the boundary to one other class by its tangent plane and goes to where that plane is nearest within the bounds,
drawn a little towards where it is nearest to the clean row. Once across, the way back to the row is shortened by a tenth. No eps
and no step size is involved, so a margin of any scale does: a check on attacks that climb a loss inside a ball.

>>> import numpy as np, torch
>>> from carbide.models.torch_net import TorchModel
>>> from carbide.types import LpBall, Space
>>> net = torch.nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": 1e4 * torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), "bias": torch.tensor([-9e3, 9e3])})
>>> model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
>>> FAB()(model, np.array([[1.0, 0.0]]), np.array([0]), LpBall(eps=0.2), np.random.default_rng(0)).round(2)
array([[0.9, 0. ]])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._coarse import coarse
from carbide.evasion._gradients import batches, gradient_of, spread
from carbide.evasion._nearest import Nearest, likeliest, restored, towards
from carbide.evasion.audit.pgd import gradient_refusal
from carbide.registry import Method
from carbide.run import track
from carbide.space.balls import norms
from carbide.space.planes import to_plane
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat

BEYOND = 1.05  # how far past the tangent plane a step goes
HOME = 0.1  # the most that a step is drawn towards the plane's point nearest to the clean row
BACK = 0.9  # the share of the change that is kept once the row is wrong
TOGETHER = 96  # rows and classes that are tried at once where rows are few
HALVINGS = 3  # of the way to the nearest wrong input, at the end


@dataclass(frozen=True, kw_only=True)
class FAB(Method):
    """FAB-T: ``steps`` steps towards the boundary of each of the ``targets`` likeliest other classes; the nearest wrong input found.

    A row for which one within the threat's eps is known is not tried on the next class; with eps 0 every row gets every class.
    """

    steps: int = 50
    targets: int = 9
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 15

    def __post_init__(self) -> None:
        if self.steps < 1 or self.targets < 1:
            raise InputError(f"fab: steps is {self.steps} and targets {self.targets}; give whole numbers >= 1")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """No tangent plane is nearest in L0."""
        return gradient_refusal(threat)

    def quick(self) -> FAB:
        """A third of the steps, three classes."""
        return replace(self, steps=max(1, self.steps // 3), targets=min(self.targets, 3))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """The nearest wrong input ``(n, *shape)`` found for each row ``x`` with label ``y`` ``(n,)``, whatever its distance; else the row."""
        out, view = np.array(x, np.float64), coarse(model, x, y, threat)
        for part, ball, labels in track(list(batches(model, x, y, threat)), label="fab"):
            nearest = Nearest(view, ball, labels)
            others = likeliest(nearest.logits, labels)[:, : self.targets]
            for targets in others.split(max(1, TOGETHER // max(1, len(labels))), dim=1):
                rows = nearest.beyond(ball.eps)
                if len(rows):
                    self._chase(nearest, rows.repeat(targets.shape[1]), targets[rows].T.flatten())
            nearest.close_in(HALVINGS)
            out[part] = restored(nearest, out[part])
        return out

    def _chase(self, nearest: Nearest, rows: Tensor, target: Tensor) -> None:
        model, ball, y = nearest.model, nearest.ball.rows(rows), nearest.y[rows]
        clean, low, high = (part.flatten(1) for part in (ball.clean, ball.lower, ball.upper))
        x = clean
        for _ in range(self.steps):
            _, gap, gradient = gradient_of(model, x.reshape(ball.clean.shape), lambda z, y, target: towards(z, y, target, model.threshold), y, target)
            w = gradient.flatten(1)
            step = to_plane(w, -gap, p=ball.p, down=x - low, up=high - x)
            home = to_plane(w, -(gap + (w * (clean - x)).sum(1)), p=ball.p, down=clean - low, up=high - clean)
            ours, theirs = norms(step, ball.p), norms(home, ball.p)
            pull = spread((ours / (ours + theirs).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(HOME), x)
            x = (1 - pull) * (x + BEYOND * step) + pull * (clean + BEYOND * home)
            x = torch.minimum(torch.maximum(x, low), high)
            with torch.no_grad():
                wrong = nearest.wrong(model.logits(x.reshape(ball.clean.shape)), y)
            nearest.note(rows, x.reshape(ball.clean.shape), wrong)
            x = torch.where(spread(wrong, x), clean + BACK * (x - clean), x)
