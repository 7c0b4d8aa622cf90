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
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from carbide.evasion._gradients import cut
from carbide.evasion.examination.votes import seeded
from carbide.types import Array

STEPS = frozenset({"round", "round_", "floor", "floor_", "ceil", "ceil_", "trunc", "trunc_", "fix", "sign", "sign_", "sgn", "__floordiv__"})
INPLACE = frozenset({"round_", "floor_", "ceil_", "trunc_", "sign_"})
STOPS = frozenset({"detach", "__get__"})  # __get__ reads tensor.data, among other attributes
READ_DATA = inspect.getattr_static(Tensor, "data").__get__
CASTS = frozenset({"to", "type", "int", "long", "short", "byte", "char"})


class _Through(torch.autograd.Function):
    """Forward ``out``, backward the identity to ``x``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, out: Tensor) -> Tensor:
        return out.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return grads[0], None


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
    ``scale``: logits are divided by it. ``undo``: a softmax too many is taken back.
    """

    double: bool = False
    passing: bool = False
    layers: tuple[str, ...] = ()
    draws: int = 1
    noise: float = 0.0
    scale: float = 1.0
    undo: bool = False

    @property
    def needed(self) -> bool:
        """Whether anything differs."""
        return self != Repair()


class View:
    """A torch model as gradient attacks see it; ``predict`` and all else are the model's own."""

    def __init__(self, model: Any, repair: Repair, *, seed: int = 0) -> None:
        self.model, self.repair, self.seed, self._calls = model, repair, seed, 0
        self.inner = _twin(model, repair)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that attacks compute in."""
        return self.inner.dtype

    def tensor(self, x: Array) -> Tensor:
        """Inputs as a tensor of that dtype."""
        return self.inner.tensor(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits ``(n, k)``: in value the model's own, but for float64, draws, scale and an undone softmax."""
        r = self.repair
        if r.draws > 1:
            self._calls += 1
            with seeded(self.model, (self.seed + self._calls) % 2**62):
                return self._cure(torch.stack([self._ask(x) for _ in range(r.draws)]).mean(0))
        out = self._ask(x)
        if r.noise and x.requires_grad:
            near = torch.stack([self._ask(x + shift) for shift in self._shifts(x)]).mean(0)
            out = out.detach() + near - near.detach()
        return self._cure(out)

    def _shifts(self, x: Tensor) -> Tensor:
        generator = torch.Generator(device=x.device).manual_seed(self.seed)
        return self.repair.noise * (2 * torch.rand((16, *x.shape), generator=generator, device=x.device, dtype=x.dtype) - 1)

    def _ask(self, x: Tensor) -> Tensor:
        with Passing() if self.repair.passing else contextlib.nullcontext():
            return self.inner.logits(x.contiguous())

    def _cure(self, z: Tensor) -> Tensor:
        if self.repair.undo:
            z = undone(z)
        if self.repair.scale == 1:
            return z
        if z.shape[1] != 2:
            return z / self.repair.scale
        middle = cut(self.model.threshold)
        gap = (z[:, 1] - z[:, 0] - middle) / self.repair.scale + middle
        return torch.stack([torch.zeros_like(gap), gap], 1)


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
    return replace(model, module=module)


def frozen(module: nn.Module, *, double: bool) -> nn.Module:
    """A copy in inference mode whose parameters need no gradient."""
    made = copy.deepcopy(module).requires_grad_(False).eval()
    return made.double() if double else made


def _through(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    if isinstance(output, Tensor) and inputs and isinstance(inputs[0], Tensor) and inputs[0].shape == output.shape:
        return _Through.apply(inputs[0], output.detach())
    return output
