"""The loop that trains torch classifiers; its parts drop into any other loop.

Adversarial training is plain training with five things changed: the batch (``Perturb``), the loss (``Objective``), the
weights at which the gradient is taken (``pushed``), the weights that are kept (``Average``) and somebody who looks at
rows held out of the training rows and goes back when training goes wrong (``Watch``).

>>> net = nn.Linear(2, 2)
>>> average = Average(net, decay=0.9)
>>> average.update()
>>> with average.within():
...     _ = net(torch.zeros(1, 2))
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from carbide.run import track
from carbide.types import Dataset, InputError, Space

SCHEDULES = ("one-cycle", "cyclic", "flat")
PRECISIONS = ("float32", "bfloat16")
CYCLES = 3  # triangles of the learning rate in a cyclic schedule
WARM = 0.05  # share of the training in which a flat rate is reached
STATISTICS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Perturb(Protocol):
    """What adversarial training does to a batch: a frozen dataclass that maps ``(module, x, y, generator)`` to inputs.

    One with a class variable ``bounded = True`` is also given ``space=``, the geometry of the inputs. One with a method
    ``smaller()`` is replaced by what that returns when training collapses (see ``Watch``).
    """

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor: ...


class Objective(Protocol):
    """What training minimises instead of the cross-entropy: a frozen dataclass that gives the batch's loss, a scalar.

    ``progress`` in [0, 1) is the share of the training that is done, ``space`` the geometry of the inputs. One with a
    class variable ``paired = True`` is given the clean batch as ``x`` and the perturbed one as ``moved=``. One with a method
    ``prepare(module, dataset, generator)`` has it called on the fresh weights before training.
    """

    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, *, progress: float, generator: torch.Generator, space: Space) -> Tensor: ...


class Look(NamedTuple):
    """Accuracies in [0, 1] on rows held out: under a strong attack, by which weights are chosen, and under a weak one."""

    strong: float
    weak: float


class Watch(Protocol):
    """Who looks at ``holdout`` of the training rows (at most ``limit``), which are then not trained on, ``looks`` times.

    The weights of the best look are kept. After ``patience`` looks that were not better (0 = never) training ends. When
    the strong accuracy collapses while the weak one does not fall, training goes back to the last good weights, with the
    rate halved, at most ``retries`` times.
    """

    @property
    def holdout(self) -> float: ...
    @property
    def limit(self) -> int: ...
    @property
    def looks(self) -> int: ...
    @property
    def patience(self) -> int: ...
    @property
    def retries(self) -> int: ...
    def __call__(self, module: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, space: Space) -> Look: ...


@contextlib.contextmanager
def pushed(module: nn.Module, loss: Tensor, gamma: float) -> Iterator[None]:
    """Wu et al. 2020, https://arxiv.org/abs/2004.05884: inside, every weight matrix ``w`` is moved up ``loss`` by ``gamma ||w||``.

    ``loss`` is a scalar whose graph is used up. Biases and other vectors stay. The weights are put back exactly on leaving,
    and gradients that were taken inside stay: ``with pushed(net, loss(), 0.01): loss().backward()``, then the optimizer's step.
    """
    weights = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    gradients = torch.autograd.grad(loss, weights, allow_unused=True)
    before = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for weight, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                weight.add_(gradient, alpha=float(gamma * weight.norm() / gradient.norm().clamp_min(torch.finfo(weight.dtype).tiny)))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, before, strict=True):
                weight.copy_(old)


def by_channel(module: nn.Module, x: Tensor) -> bool:
    """Whether the module takes images ``(n, channels, height, width)`` laid out channels last; one that calls ``view`` may not."""
    if x.ndim != 4 or not any(isinstance(layer, nn.Conv2d) for layer in module.modules()):
        return False
    trial = copy.deepcopy(module).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    try:
        with torch.no_grad():
            trial(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:  # what torch says where a view does not fit the layout; a module that fails in any layout fails again in training
        return False
    return True


@contextlib.contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Inside, batches may pass in training mode; the running statistics of batch norm are put back on leaving."""
    buffers = [b for layer in module.modules() if isinstance(layer, STATISTICS) for b in layer.buffers()]
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        for buffer, old in zip(buffers, before, strict=True):
            buffer.copy_(old)


@contextlib.contextmanager
def float_answers(module: nn.Module) -> Iterator[None]:
    """Inside, the module answers in float32, whatever its layers compute in: losses are sums of small differences."""
    hook = module.register_forward_hook(lambda _, __, out: out.float() if isinstance(out, Tensor) and out.dtype == torch.bfloat16 else out)
    try:
        yield
    finally:
        hook.remove()


class Average:
    """The running mean of a module's weights: ``mean <- d mean + (1 - d) w`` with ``d = min(decay, (1 + t) / (10 + t))`` at update t.

    Floating-point buffers are averaged too, others are the module's own.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.live = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
        self.mean = [t.detach().clone() for t in self.live]

    def update(self) -> None:
        """Take the weights as they are into the mean."""
        kept = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, live in zip(self.mean, self.live, strict=True):
            mean.lerp_(live.detach(), 1 - kept)
        self.updates += 1

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Inside, the module has the mean weights."""
        before = [t.detach().clone() for t in self.live]
        _put(self.live, self.mean)
        try:
            yield
        finally:
            _put(self.live, before)


def _put(live: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for tensor, value in zip(live, values, strict=True):
            tensor.copy_(value)


def collapsed(look: Look, good: Sequence[Look], *, rows: int, floor: float) -> bool:
    """Whether a look shows catastrophic overfitting, after these good ones on the same number of rows.

    The strong accuracy is less than half of the best, by more than three standard errors, where the best was above
    ``floor`` (what saying one class would reach), and the weak accuracy is not below the last.
    """
    if not good:
        return False
    best = max(g.strong for g in good)
    return best > floor and look.strong < best / 2 and fallen(look, good, rows=rows) and look.weak >= good[-1].weak


def fallen(look: Look, good: Sequence[Look], *, rows: int) -> bool:
    """Whether the strong accuracy on so many rows is more than three standard errors below the best."""
    best = max(g.strong for g in good)
    return look.strong < best - 3 * math.sqrt(best * (1 - best) / rows)


def rate_schedule(optimizer: torch.optim.Optimizer, name: str, rate: float, steps: int) -> Any:
    """The learning rate over ``steps`` steps: ``one-cycle``; ``cyclic``, triangles that start and end at 0; ``flat`` after a warm-up."""
    if name == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    period = max(1, steps // CYCLES)

    def share(step: int) -> float:
        if name == "flat":
            return min(1.0, (step + 1) / max(1.0, WARM * steps))
        turn = (step % period + 1) / (period + 1)
        return min(turn / 0.4, (1 - turn) / 0.6)

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


@dataclass(kw_only=True, eq=False)
class _State:
    """What training goes back to: all tensors of the module, the optimizer's and the average's."""

    module: dict[str, Tensor]
    optimizer: dict[str, Any]
    mean: list[Tensor]


@dataclass(kw_only=True, eq=False)
class _Watched:
    """What was seen so far on the rows held out."""

    x: Tensor
    y: Tensor
    floor: float
    good: list[Look] = field(default_factory=list)
    best: float = -math.inf
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    since: int = 0
    returns: int = 0
    last: _State | None = None


class _Training:
    """One training: the state that its epochs, steps and looks share."""

    def __init__(self, module: nn.Module, dataset: Dataset, recipe: Any, generator: torch.Generator) -> None:
        self.module, self.recipe, self.generator, self.space = module, recipe, generator, dataset.space
        x = torch.as_tensor(dataset.x, dtype=torch.float32, device=recipe.device)
        y = torch.as_tensor(dataset.y, device=recipe.device)
        self.watched = None if recipe.watch is None else self._hold_out(x, y)
        self.x, self.y = (x, y) if self.watched is None else (x[self.kept], y[self.kept])
        self.steps = max(1, -(-len(self.x) // recipe.batch))
        if hasattr(recipe.objective, "prepare"):
            recipe.objective.prepare(module, dataset, generator)
        if by_channel(module, self.x[:2]):  # convolutions are a fifth quicker when a pixel's channels lie together
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.optimizer = torch.optim.Adam(module.parameters(), lr=recipe.rate, weight_decay=recipe.decay, fused=True)
        self.schedule = rate_schedule(self.optimizer, recipe.schedule, recipe.rate, recipe.epochs * self.steps)
        self.average = Average(module, recipe.ema) if recipe.ema else None
        self.loss = nn.CrossEntropyLoss(label_smoothing=recipe.smoothing)
        self.perturb, self.slower = recipe.perturb, 1.0
        self.mixed = recipe.precision == "bfloat16"

    def _hold_out(self, x: Tensor, y: Tensor) -> _Watched:
        if len(x) < 2:
            raise InputError(f"{len(x)} row is too few to hold one out; give more rows or holdout: 0")
        order = torch.randperm(len(x), generator=self.generator).to(x.device)
        count = min(len(x) - 1, self.recipe.watch.limit, max(1, round(self.recipe.watch.holdout * len(x))))
        held, self.kept = order[:count].sort().values, order[count:].sort().values
        return _Watched(x=x[held], y=y[held], floor=float(y[held].bincount().max()) / count)

    def run(self) -> None:
        """Every epoch, with looks between them; the module ends with the weights to keep."""
        epochs = self.recipe.epochs
        every = 1 if self.watched is None else max(1, epochs // self.recipe.watch.looks)
        for epoch in track(range(epochs), label="training epochs"):
            order = torch.randperm(len(self.x), generator=self.generator).to(self.x.device)
            for step, rows in enumerate(order.split(self.recipe.batch)):
                self._step(self.x[rows], self.y[rows], (epoch * self.steps + step) / (epochs * self.steps))
            if self.watched is not None and ((epoch + 1) % every == 0 or epoch + 1 == epochs) and not self._look(self.watched):
                break
        if self.watched is not None:
            self.module.load_state_dict(self.watched.best_weights)
        elif self.average is not None:
            _put(self.average.live, self.average.mean)

    def _step(self, x: Tensor, y: Tensor, progress: float) -> None:
        with (
            torch.autocast(x.device.type, torch.bfloat16, enabled=self.mixed, cache_enabled=False),
            float_answers(self.module) if self.mixed else contextlib.nullcontext(),
        ):
            self._gradients(x, y, progress)
        self.optimizer.step()
        self.schedule.step()
        self._slow(self.slower)
        if self.average is not None:
            self.average.update()

    def _gradients(self, x: Tensor, y: Tensor, progress: float) -> None:
        """The gradients of the weights on one batch."""
        moved = x
        if self.perturb is not None:
            bounds = {"space": self.space} if getattr(self.perturb, "bounded", False) else {}
            moved = self.perturb(self.module, x, y, self.generator, **bounds)
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        if self.recipe.awp:
            with statistics_kept(self.module):
                first = self._loss(x, moved, y, progress)
            with pushed(self.module, first, self.recipe.awp):
                self._loss(x, moved, y, progress).backward()
        else:
            self._loss(x, moved, y, progress).backward()

    def _loss(self, x: Tensor, moved: Tensor, y: Tensor, progress: float) -> Tensor:
        objective = self.recipe.objective
        if objective is None:
            return self.loss(self.module(moved), y)
        inputs = {"x": x, "moved": moved} if getattr(objective, "paired", False) else {"x": moved}
        return objective(self.module, y=y, progress=progress, generator=self.generator, space=self.space, **inputs)

    def _look(self, seen: _Watched) -> bool:
        """Look at the rows held out, keep or go back; False when training shall end."""
        self.module.eval()
        look = self._ask(seen)
        sound = all(bool(torch.isfinite(p).all()) for p in self.module.parameters())
        if not sound or collapsed(look, seen.good, rows=len(seen.y), floor=seen.floor):
            return self._go_back(seen)
        seen.good.append(look)
        if not fallen(look, seen.good, rows=len(seen.y)):  # a collapse may take several looks: none of them is gone back to
            seen.last = self._state()
        with contextlib.nullcontext() if self.average is None else self.average.within():
            score = look.strong if self.average is None else self._ask(seen).strong
            seen.since = 0 if score > seen.best else seen.since + 1
            if score >= seen.best:  # of equals the later: it was trained longer
                seen.best, seen.best_weights = score, _copy(self.module)
        return not 0 < self.recipe.watch.patience <= seen.since

    def _ask(self, seen: _Watched) -> Look:
        same = torch.Generator(device="cpu").manual_seed(self.generator.initial_seed() % 2**62)  # every look starts from the same noise
        return self.recipe.watch(self.module, seen.x, seen.y, same, self.space)

    def _go_back(self, seen: _Watched) -> bool:
        if seen.last is None:
            seen.best_weights = seen.best_weights or _copy(self.module)
            return False
        self.module.load_state_dict(seen.last.module)
        self.optimizer.load_state_dict(copy.deepcopy(seen.last.optimizer))
        if self.average is not None:
            _put(self.average.mean, seen.last.mean)
        seen.returns += 1
        self.slower /= 2
        self._slow(0.5)
        if hasattr(self.perturb, "smaller"):
            self.perturb = self.perturb.smaller()
        return seen.returns <= self.recipe.watch.retries

    def _slow(self, factor: float) -> None:
        """Multiply the rate that the schedule has just set."""
        if factor != 1:
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * factor

    def _state(self) -> _State:
        mean = [] if self.average is None else [t.clone() for t in self.average.mean]
        return _State(module=_copy(self.module), optimizer=copy.deepcopy(self.optimizer.state_dict()), mean=mean)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def train(module: nn.Module, dataset: Dataset, recipe: Any, generator: torch.Generator) -> None:
    """Train the module in place as the recipe (a ``TorchRecipe``) says; it ends in inference mode."""
    _Training(module, dataset, recipe, generator).run()
    module.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
