"""The inner maximum of adversarial training: the worst input in each row's ball, found by a few projected gradient steps.

Functions on tensors for any training loop, and the frozen perturbations that the recipes of this room are made of.
Inputs are crafted in inference mode, so that neither dropout nor the batch's statistics move the target; parameters
gather no gradients. For a linear net the Linf result is the ball's worst corner as soon as ``steps * step >= 2``.

>>> net = nn.Linear(2, 2)
>>> _ = net.load_state_dict({"weight": torch.tensor([[1.0, -2.0], [-1.0, 2.0]]), "bias": torch.zeros(2)})
>>> x, y = torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64)
>>> find_worst(net, Around.of(x, eps=0.5), y, steps=5, step=0.5, generator=torch.Generator().manual_seed(0))
tensor([[-0.5000,  0.5000]])
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from carbide.evasion._gradients import unit
from carbide.models.training import Look
from carbide.space.balls import norms
from carbide.types import InputError, Space

NEAR = 1e-3  # size of the noise from which a search away from the clean answer starts, as in TRADES


@dataclass(frozen=True, kw_only=True)
class Around:
    """The inputs allowed around each row of ``clean`` ``(n, *shape)``: an Lp ball, p inf or 2, within the space's bounds.

    A point is brought back into the ball, then into the bounds, which keeps it in the ball: cheaper than the nearest
    allowed point, and the same in Linf.
    """

    clean: Tensor
    lower: Tensor | float
    upper: Tensor | float
    p: float
    eps: float

    @classmethod
    def of(cls, x: Tensor, *, eps: float, p: float = math.inf, space: Space | None = None) -> Around:
        """The ball around rows; bounds are widened to rows outside them, and features that cannot change have no room."""
        if space is not None:
            lower, upper = _bounds(x, space)
            if math.isinf(p):
                lower, upper = torch.maximum(x - eps, lower), torch.minimum(x + eps, upper)
        else:
            lower, upper = (x - eps, x + eps) if math.isinf(p) else (-math.inf, math.inf)
        return cls(clean=x, lower=lower, upper=upper, p=p, eps=eps)

    def back(self, x: Tensor) -> Tensor:
        """Points brought back, each at most ``eps`` from its row."""
        if not math.isinf(self.p):
            change = x - self.clean
            size = norms(change, self.p).reshape(-1, *[1] * (x.ndim - 1))
            x = self.clean + change * (self.eps / size.clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1.0)
        return x.clamp(self.lower, self.upper)  # type: ignore[arg-type]

    def random(self, generator: torch.Generator) -> Tensor:
        """Points drawn uniformly from the Linf ball, or from the directions and radii of the L2 ball."""
        noise = draw(self.clean, self.p, generator) if math.isinf(self.p) else draw(self.clean, self.p, generator) * _radii(self.clean, generator)
        return self.back(self.clean + self.eps * noise)

    def direction(self, gradient: Tensor) -> Tensor:
        """The steepest direction of norm 1."""
        return gradient.sign() if math.isinf(self.p) else unit(gradient, self.p)


def _bounds(x: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (space.lower, space.upper))
    low, high = torch.minimum(low, x), torch.maximum(high, x)
    if not space.mutable.all():
        fixed = torch.as_tensor(~space.mutable, device=x.device)
        low, high = torch.where(fixed, x, low), torch.where(fixed, x, high)
    return low, high


def draw(x: Tensor, p: float, generator: torch.Generator) -> Tensor:
    """Noise of norm at most 1 for each row: uniform signs' box in Linf, a uniform direction in L2; drawn on the generator's device."""
    noise = torch.empty(x.shape, dtype=x.dtype, device=generator.device)
    noise = noise.uniform_(-1, 1, generator=generator) if math.isinf(p) else unit(noise.normal_(generator=generator), p)
    return noise.to(x.device)


def _radii(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand((len(x), *[1] * (x.ndim - 1)), dtype=x.dtype, generator=generator, device=generator.device).to(x.device)


@contextlib.contextmanager
def answering(module: nn.Module) -> Iterator[None]:
    """Inside, the module is in inference mode; the mode of every part is put back on leaving."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def find_worst(module: nn.Module, around: Around, y: Tensor | None, *, steps: int, step: float, generator: torch.Generator | None = None) -> Tensor:
    """Inputs ``(n, *shape)`` allowed around each row, after ``steps`` projected steps of ``step * eps`` up the loss.

    With labels ``y`` ``(n,)`` the loss is the cross-entropy, and the search starts at a random allowed point (at the row
    without ``generator``). Without labels it is the divergence from the clean answer (TRADES), and starts beside the row.
    """
    with answering(module):
        goal = None if y is not None else _answers(module, around.clean)
        x = _start(around, y is None, generator)
        for _ in range(steps):
            x.requires_grad_(True)
            logits = module(x)
            if goal is None:
                loss = nn.functional.cross_entropy(logits, y, reduction="sum")  # type: ignore[arg-type]
            else:
                loss = nn.functional.kl_div(logits.log_softmax(1), goal, reduction="sum", log_target=True)
            (gradient,) = torch.autograd.grad(loss, x)
            x = around.back(x.detach() + step * around.eps * around.direction(gradient))
    return x.detach()


def _answers(module: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return module(x).log_softmax(1)


def _start(around: Around, near: bool, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return around.clean.clone()
    if not near:
        return around.random(generator)
    return around.back(around.clean + NEAR * torch.empty(around.clean.shape, dtype=around.clean.dtype, device=generator.device).normal_(
        generator=generator).to(around.clean.device))  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PgdPerturb:
    """The worst input that projected gradient descent finds for each row; ``labels`` false searches away from the clean answer."""

    bounded: ClassVar[bool] = True
    eps: float
    p: float = math.inf
    steps: int = 10
    step: float = 0.25
    labels: bool = True

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, *, space: Space | None = None) -> Tensor:
        """The moved batch ``(n, *shape)``."""
        around = Around.of(x, eps=self.eps, p=self.p, space=space)
        return find_worst(module, around, y if self.labels else None, steps=self.steps, step=self.step, generator=generator)


@dataclass(frozen=True, kw_only=True)
class RobustWatch:
    """Looks at rows held out of the training rows: accuracy under ``steps`` steps of PGD, and under one step from the row itself.

    See ``carbide.models.training.Watch``: the first chooses the weights that are kept, both together notice collapse.
    """

    eps: float
    p: float = math.inf
    steps: int = 10
    step: float = 0.25
    holdout: float = 0.1
    limit: int = 256
    looks: int = 20
    patience: int = 0
    retries: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}; give a share of the training rows in (0, 1)")
        if self.patience < 0:
            raise InputError(f"patience is {self.patience}; give a number of looks >= 0, 0 = never end early")

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, space: Space) -> Look:
        """Both accuracies on rows ``x`` ``(n, *shape)`` with labels ``y``; a row that is wrong as it is stays wrong."""
        weak = find_worst(module, Around.of(x, eps=self.eps, p=self.p, space=space), y, steps=1, step=1.0)
        with torch.no_grad():
            right = _right(module, x, y)
            weak_right = right & _right(module, weak, y)
        rows = torch.nonzero(weak_right).squeeze(1)  # the rows that are broken already need no search
        if len(rows):
            around = Around.of(x[rows], eps=self.eps, p=self.p, space=space)
            strong = find_worst(module, around, y[rows], steps=self.steps, step=self.step, generator=generator)
            with torch.no_grad():
                rows = rows[_right(module, strong, y[rows])]
        return Look(strong=len(rows) / len(y), weak=float(weak_right.float().mean()))


def _right(module: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with answering(module):
        return module(x).argmax(1) == y
