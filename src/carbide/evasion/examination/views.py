"""What gradient attacks follow where a model's own gradient cannot be trusted: the same answers with another way back.

Athalye et al. 2018, https://arxiv.org/abs/1802.00420, name the repairs: the identity in place of a step without a
gradient (BPDA) and the mean over draws of a model that answers at random (EOT). A ``View`` proposes, never judges.

>>> import torch
>>> x = torch.tensor([0.2, 0.7], requires_grad=True)
>>> with Passing() as passing:
...     (x * 4).round().sum().backward()
>>> x.grad.tolist(), sorted(passing.seen)
([4.0, 4.0], ['round'])
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from carbide.evasion._gradients import SURE, cut
from carbide.models.examination.seeds import seeded
from carbide.models.torch_net import with_module
from carbide.types import Array

STEPS = frozenset({"round", "round_", "floor", "floor_", "ceil", "ceil_", "trunc", "trunc_", "fix", "sign", "sign_", "sgn", "__floordiv__"})
INPLACE = frozenset({"round_", "floor_", "ceil_", "trunc_", "sign_"})
STOPS = frozenset({"detach", "__get__"})  # __get__ reads tensor.data, among other attributes
READ_DATA = inspect.getattr_static(Tensor, "data").__get__
OTHER = 1_000_000  # seeds further lie a view's other draws
MANY = 4  # times as many draws make one answer of a cautious view
PAIRS = 32  # of answers from which a gradient is measured
CASTS = frozenset({"to", "type", "int", "long", "short", "byte", "char"})


class _Through(torch.autograd.Function):
    """Forward ``out``, backward the identity to ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


class _Estimated(torch.autograd.Function):
    """Forward ``ask(x)``; backward from pairs of answers at ``x + size * u`` and ``x - size * u`` for directions ``u`` at right angles."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ask: Callable[[Tensor], Tensor], size: float, seed: int) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ask, ctx.size, ctx.seed = ask, size, seed
        return ask(x).clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        d = x[0].numel()
        generator = torch.Generator(device=x.device).manual_seed(ctx.seed)
        draws = torch.randn((d, min(PAIRS, d)), generator=generator, device=x.device, dtype=torch.float32)
        ways = torch.linalg.qr(draws).Q.T.to(x.dtype) * math.sqrt(d)  # orthogonal, each feature moves by about ``size``
        found = torch.zeros_like(x)
        for way in ways.reshape(-1, *x.shape[1:]):
            rise = ((ctx.ask(x + ctx.size * way) - ctx.ask(x - ctx.size * way)) / (2 * ctx.size) * grads[0]).sum(1)
            found += rise.reshape(-1, *[1] * (x.ndim - 1)) * way / d
        return found, None, None, None


class Passing(TorchFunctionMode):
    """While it lasts, rounding, sign, casts to integers, ``detach`` and ``no_grad`` let gradients through as the identity.

    ``seen`` holds the names of those that a gradient was on its way through.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        """Call ``func``, or its stand-in."""
        name, given = getattr(func, "__name__", ""), args[0] if args else None
        if name == "_set_grad_enabled" and given is False:
            self.seen.add("no_grad")
            return None
        if name in ("numpy", "__array__") and isinstance(given, Tensor) and given.requires_grad:  # a way out of autograd: no way back
            self.seen.add("numpy")
            return func(given.detach(), *args[1:], **(kwargs or {}))
        if not isinstance(given, Tensor) or not given.requires_grad or name not in STEPS | STOPS | CASTS:
            return func(*args, **(kwargs or {}))
        source = given.clone() if name in INPLACE else given
        out = func(*(a.detach() if isinstance(a, Tensor) else a for a in args), **(kwargs or {}))
        data = name == "__get__" and func == READ_DATA  # other attributes, such as shape, are read as ever
        same = isinstance(out, Tensor) and out.shape == given.shape and (name != "__get__" or data)
        if not same or (name in CASTS and out.is_floating_point()):
            return func(*args, **(kwargs or {}))
        self.seen.add("data" if data else name.strip("_"))
        return _Through.apply(source, out.to(given.dtype))


@dataclass(frozen=True, kw_only=True)
class Repair:
    """How a view differs from the model; plain values, so that they can be stored and hashed.

    ``double``: computed in float64. ``passing``: under ``Passing``. ``layers``: modules whose way back is the identity.
    ``draws``: the mean of so many answers. ``noise``: the gradient is averaged over inputs up to so far away (input units).
    ``estimate``: the gradient is measured from answers at inputs so far away (Ilyas et al. 2018, https://arxiv.org/abs/1804.08598).
    ``inner``: logits are read where the module's last softmax or sigmoid takes them. ``scale``: they are divided by it. ``undo``: a softmax too many is taken back. ``caution``: a row counts as broken in an
    attack's loop only where its margin is so far below 0, lest a lucky draw end the search.
    """

    double: bool = False
    passing: bool = False
    layers: tuple[str, ...] = ()
    draws: int = 1
    noise: float = 0.0
    estimate: float = 0.0
    inner: bool = False
    scale: float = 1.0
    undo: bool = False
    caution: float = 0.0

    @property
    def needed(self) -> bool:
        """Whether anything differs."""
        return self != Repair()


class View:
    """A torch model as gradient attacks see it; ``predict`` and all else are the model's own."""

    def __init__(self, model: Any, repair: Repair, *, seed: int = 0) -> None:
        self.model, self.repair, self.seed, self._calls = model, repair, seed, 0
        self.inner = _twin(model, repair)
        double = repair.double and (repair.inner or repair.scale != 1)  # where the net's own precision loses its gradient
        self._own = _twin(model, Repair(double=double)) if repair.estimate or repair.layers or repair.noise else None

    def __getattr__(self, name: str) -> Any:
        if name == "model":  # as it is while another process unpacks it
            raise AttributeError(name)
        return getattr(self.model, name)

    @property
    def draws(self) -> int:
        """How many answers of the model make one."""
        return self.repair.draws

    @property
    def own(self) -> Any:
        """The model with its own gradient, where this one's is another's; else None."""
        return self._own

    @property
    def dear(self) -> bool:
        """Whether a gradient costs many answers."""
        return self.repair.estimate > 0

    def cautious(self, times: float) -> View:
        """A view of more and other draws, for which a row is broken only so many times as far beyond the boundary."""
        return View(self.model, replace(self.repair, draws=MANY * self.draws, caution=times * self.repair.caution), seed=self.seed + OTHER)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that attacks compute in; with caution float64, whatever the module computes in."""
        return torch.float64 if self.repair.caution else self.inner.dtype

    def tensor(self, x: Array) -> Tensor:
        """Inputs as a tensor of that dtype."""
        return self.inner.tensor(x).to(self.dtype)

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(n, k)``: in value the model's own, but for float64, draws, scale and an undone softmax."""
        r = self.repair
        if r.draws > 1:
            self._calls += 1
            with seeded(self.model, (self.seed + self._calls) % 2**62):
                return self._cure(torch.stack([self._ask(x) for _ in range(r.draws)]).mean(0))
        if r.estimate and x.requires_grad:
            self._calls += 1
            return self._cure(_Estimated.apply(x, self._still, r.estimate, (self.seed + self._calls) % 2**62))
        out = self._ask(x)
        if r.noise and x.requires_grad:
            near = torch.stack([self._ask(x + shift) for shift in self._shifts(x)]).mean(0)
            out = out.detach() + near - near.detach()
        return self._cure(out)

    def _shifts(self, x: Tensor) -> Tensor:
        generator = torch.Generator(device=x.device).manual_seed(self.seed)
        return self.repair.noise * (2 * torch.rand((16, *x.shape), generator=generator, device=x.device, dtype=x.dtype) - 1)

    def _ask(self, x: Tensor) -> Tensor:
        near = x.contiguous().to(self.inner.dtype)
        with Passing() if self.repair.passing else contextlib.nullcontext():
            out = inner_logits(self.inner, near) if self.repair.inner else self.inner.logits(near)
        return out.to(x.dtype)

    def _still(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._ask(x)

    def _cure(self, z: Tensor) -> Tensor:
        if self.repair.undo:
            z = undone(z)
        if self.repair.caution:  # surely_broken compares a margin with the size of the logits; softmax does not see what all have in common
            z = z - z.detach().amax(1, keepdim=True) + self.repair.caution / SURE
        if self.repair.scale == 1:
            return z
        if z.shape[1] != 2:
            return z / self.repair.scale
        middle = cut(self.model.threshold)
        gap = (z[:, 1] - z[:, 0] - middle) / self.repair.scale + middle
        return torch.stack([torch.zeros_like(gap), gap], 1)


class _Last(TorchFunctionMode):
    """Keeps what the last softmax or sigmoid took and gave."""

    def __init__(self) -> None:
        super().__init__()
        self.took: Tensor | None = None
        self.gave: Any = None

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in ("softmax", "sigmoid") and args:
            self.took, self.gave = args[0], out
        return out


def inner_logits(model: Any, x: Tensor) -> Tensor:
    """Logits ``(n, k)`` from before the softmax or sigmoid that the module ends with; the model's own where it ends otherwise."""
    with _Last() as last:
        out = model.module(x)
    if last.took is None or out.numel() != last.gave.numel() or not torch.equal(out.flatten(), last.gave.flatten()):
        return model.logits(x)
    if model.outputs == "one probability":
        second = last.took.reshape(len(x))
        return torch.stack([torch.zeros_like(second), second], 1)
    return last.took


def undone(z: Tensor) -> Tensor:
    """The logs of the probabilities whose softmax has the logits ``z`` ``(n, k)``."""
    inner = z + (1 - z.sum(1, keepdim=True)) / z.shape[1]
    return inner.clamp_min(torch.finfo(z.dtype).tiny).log()


def _twin(model: Any, repair: Repair) -> Any:
    """The model with a copied module where the copy must differ."""
    if not (repair.double or repair.layers or repair.passing):
        return model
    module = frozen(model.module, double=repair.double)
    for name, part in module.named_modules():
        if name in repair.layers:
            part.register_forward_hook(_through)
    return with_module(model, module)


def frozen(module: nn.Module, *, double: bool) -> nn.Module:
    """A copy in inference mode whose parameters need no gradient."""
    made = copy.deepcopy(module).requires_grad_(False).eval()
    return made.double() if double else made


def _through(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor) and inputs[0].shape == output.shape:
        return _Through.apply(inputs[0], output.detach())
    return output
