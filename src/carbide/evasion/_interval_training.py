"""Interval bounds while a net is trained: worst-case logits, batch norm on clean statistics, a start and a warm-up that keep boxes small.

The functions drop into any training loop; they follow Shi et al. 2021, https://arxiv.org/abs/2103.17268.

>>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
>>> small_boxes_(net, torch.Generator().manual_seed(0))
>>> x, y = torch.rand(4, 8), torch.zeros(4, dtype=torch.int64)
>>> found = bounded(net, x, Box(x - 0.1, x + 0.1), y)
>>> found.clean.shape, found.worst.shape, len(found.boxes)
(torch.Size([4, 2]), torch.Size([4, 2]), 1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from carbide.evasion._intervals import NORMS, SUMS, Box, Pass, _last_gaps, traced
from carbide.evasion.inner import PgdPerturb
from carbide.registry import Method
from carbide.types import Access, Case, Dataset, InputError, LpBall, Space, Threat

TOLERANCE = 0.5  # ratios below this share are regularised, as in the paper
LEAST = 1e-12
FEW = 32  # rows of a batch on which the warm-up is measured: its ratios are of means over units too


class Bounded(NamedTuple):
    """Clean logits ``(n, k)``, the worst logits ``(n, k)`` that any input of the box may have, and the boxes that enter its rectifiers."""

    clean: Tensor
    worst: Tensor
    boxes: list[Box]


class _Layers(Pass):
    """A pass of boxes that normalises with the statistics of a clean batch and notes what enters each rectifier."""

    def __init__(self, graph: fx.GraphModule, statistics: dict[nn.Module, tuple[Tensor, Tensor]]) -> None:
        super().__init__(graph, 0.0)
        self.statistics, self.boxes = statistics, []

    def _layer(self, layer: Any, box: Box) -> Box:
        if isinstance(layer, nn.ReLU):
            self.boxes.append(box)
        return super()._layer(layer, box)

    def _call(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target in (torch.relu, F.relu):
            self.boxes.append(args[0])
        return super()._call(target, args, kwargs)

    def _norm(self, layer: Any, box: Box) -> Box:
        if layer not in self.statistics:
            return super()._norm(layer, box)
        mean, variance = self.statistics[layer]
        scale = (variance + layer.eps).rsqrt()
        scale = scale if layer.weight is None else scale * layer.weight
        shift = -mean * scale if layer.bias is None else layer.bias - mean * scale
        shape = (1, -1, *[1] * (box.lower.ndim - 2))
        return self._times(box, scale.reshape(shape)).map(lambda t: t + shift.reshape(shape))


def bounded(module: nn.Module, x: Tensor, box: Box, y: Tensor, *, clean: bool = True) -> Bounded:
    """The clean batch ``x`` and the boxes around it through the net, in the mode that it is in.

    Batch norm in training mode takes the clean batch's statistics for both; its running statistics follow that batch alone.
    With ``clean`` false the clean logits are zeros, and the batch is passed through the net only where batch norm needs it.

    Raises:
        InputError: if the net has a layer that interval bounds do not know.
    """
    graph = traced(module, training=True)
    statistics: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        over = [d for d in range(inputs[0].ndim) if d != 1]
        statistics[layer] = (inputs[0].mean(over), inputs[0].var(over, unbiased=False))

    hooks = [layer.register_forward_pre_hook(note) for layer in module.modules() if isinstance(layer, NORMS) and layer.training]
    try:
        logits = module(x) if clean or hooks else None
    finally:
        for hook in hooks:
            hook.remove()
    run = _Layers(graph, statistics)
    last = run.last_linear()
    if last is None:
        ends = run.box(box)
        gaps = (ends.lower.gather(1, y[:, None]) - ends.upper).scatter(1, y[:, None], 0.0)
    else:
        gaps = _last_gaps(run.weights(last), run.box(box, until=last.args[0]), y, 0.0)  # type: ignore[arg-type]
    return Bounded(clean=torch.zeros_like(gaps) if logits is None else logits, worst=-gaps, boxes=run.boxes)


def small_boxes_(module: nn.Module, generator: torch.Generator) -> None:
    """Draw every linear layer's weights so that a box of inputs leaves it, and a rectifier after it, as wide as it came in.

    With n inputs a unit, normal weights of deviation ``sqrt(2 pi) / n``; biases and what batch norm learns are left alone.
    """
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, SUMS):
                weight: Any = layer.weight
                drawn = torch.empty(weight.shape).normal_(0, math.sqrt(2 * math.pi) / weight[0].numel(), generator=generator)
                weight.copy_(drawn)


def warm_up_loss(box: Box, boxes: list[Box]) -> Tensor:
    """How much wider boxes grow from the input to each rectifier, and how unevenly rectifiers are on and off; a scalar >= 0.

    For each rectifier: its input's mean width against the net's, and the ratios of the means and of the variances of
    the centres of those that are surely on to those surely off, each as far as it falls below ``TOLERANCE``; over at most ``FEW`` rows.
    """
    if not boxes:
        return box.lower.new_zeros(())
    box, boxes = box.map(lambda t: t[:FEW]), [b.map(lambda t: t[:FEW].float()) for b in boxes]
    width = ((box.upper - box.lower) / 2).mean()
    found = [_unevenness(b, width) for b in boxes]
    return torch.stack(found).mean()


def _unevenness(box: Box, width: Tensor) -> Tensor:
    centre, radius = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    on, off = (box.lower > 0).to(centre.dtype), (box.upper < 0).to(centre.dtype)
    spread = (centre - centre.mean()) ** 2
    parts = [_short(width / radius.mean().clamp_min(LEAST))]
    for a, b in (((centre * on).sum(), -(centre * off).sum()), ((spread * on).sum(), (spread * off).sum())):
        if bool((a > LEAST) & (b > LEAST)):
            parts.append(_short(torch.minimum(a / b, b / a)))
    return torch.stack(parts).sum()


def _short(ratio: Tensor) -> Tensor:
    return (TOLERANCE - ratio).clamp_min(0) / TOLERANCE


def input_box(x: Tensor, eps: float, lower: Tensor, upper: Tensor) -> Box:
    """The box of radius ``eps`` around rows, within bounds that are widened to rows outside them."""
    return Box(torch.maximum(x - eps, torch.minimum(lower, x)), torch.minimum(x + eps, torch.maximum(upper, x)))


@dataclass(frozen=True, kw_only=True)
class IntervalGrowth:
    """The worst case of boxes whose radius grows over ``[start, full]`` of the training, ``clean`` parts of the clean loss, and a warm-up.

    ``warmth`` is the weight of the warm-up, which fades as the radius grows. With ``box`` < 1, boxes of that share of the
    radius lie around inputs that were moved by ``steps`` steps within the rest of it.
    """

    eps: float
    clean: float = 0.0
    start: float = 0.05
    full: float = 0.6
    warmth: float = 0.5
    box: float = 1.0
    steps: int = 1

    def prepare(self, module: nn.Module, dataset: Dataset, generator: torch.Generator) -> None:
        """Draw the weights anew."""
        small_boxes_(module, generator)

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, *, progress: float, generator: torch.Generator, space: Space) -> Tensor:
        """The loss, a scalar."""
        share = min(1.0, max(0.0, (progress - self.start) / (self.full - self.start)))
        eps = share * self.eps
        low, high = (torch.as_tensor(v, dtype=x.dtype, device=x.device) for v in (space.lower, space.upper))
        middle = x
        if self.box < 1 and share > 0:
            search = PgdPerturb(eps=(1 - self.box) * eps, steps=self.steps, step=1.0 if self.steps == 1 else 2.5 / self.steps)
            middle = search(module, x, y, generator, space=space)
        box = input_box(middle, self.box * eps, low, high)
        found = bounded(module, x, box, y, clean=self.clean > 0)
        loss = F.cross_entropy(found.worst.float(), y)
        if self.clean:
            loss = (1 - self.clean) * loss + self.clean * F.cross_entropy(found.clean.float(), y)
        if self.warmth and 0 < share < 1:
            loss = loss + self.warmth * (1 - share) * warm_up_loss(box, found.boxes)
        return loss


def interval_refusal(case: Case, threat: Threat) -> str | None:
    """Why interval training cannot run on a case, or None."""
    if isinstance(threat, LpBall) and not math.isinf(threat.p):
        return "boxes fit Linf balls only; choose linf"
    return None if hasattr(case.recipe, "objective") else "it trains torch recipes only"


@dataclass(frozen=True, kw_only=True)
class BoxTraining(Method):
    """Abstract: trains on boxes that grow to ``scale`` times the threat's eps, for ``stretch`` times the epochs.

    ``pace`` times the learning rate with half the batch; the ball has grown to its full size at ``full`` of the training;
    ``warmth`` is the weight of the warm-up of short interval training.
    """

    scale: float = 1.0
    stretch: float = 1.5
    pace: float = 3.0
    full: float = 0.6
    warmth: float = 0.5
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.GRADIENTS
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False
    name: ClassVar[str] = ""  # as plans write it

    def __post_init__(self) -> None:
        for option in ("scale", "stretch", "pace"):
            if not (math.isfinite(getattr(self, option)) and getattr(self, option) > 0):
                raise InputError(f"{self.name}: {option} is {getattr(self, option)}; give a factor > 0")
        if not 0.05 < self.full <= 1:
            raise InputError(f"{self.name}: full is {self.full}; give a share of the training in (0.05, 1]")
        if not (math.isfinite(self.warmth) and self.warmth >= 0):
            raise InputError(f"{self.name}: warmth is {self.warmth}; give a weight >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs a torch recipe and an Linf ball."""
        return interval_refusal(case, threat)

    def boxed(self, recipe: Any, objective: Any) -> Any:
        """The recipe with the objective in place of the cross-entropy; perturbed batches are turned off."""
        return replace(recipe, objective=objective, perturb=None, epochs=max(1, round(self.stretch * recipe.epochs)), rate=self.pace * recipe.rate,
                       batch=max(1, recipe.batch // 2), decay=0.0, start=b"")  # fmt: skip
