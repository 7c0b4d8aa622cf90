"""The affine layers of a traced net, each with its transpose: what linear bounds pass through on their way back to the input.

A layer's transpose maps coefficients of its outputs to coefficients of its inputs, ``(m, *out) -> (m, *in)``; the rows of
its batch do not mix. Layers that only move entries are read once on numbered entries and undone by that table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.nn import grad as turned

from carbide.evasion._intervals import (
    AVERAGE_CALLS,
    AVERAGES,
    FACTORS,
    MOVING,
    MOVING_CALLS,
    MOVING_METHODS,
    NEGATIONS,
    NORMS,
    SIGNS,
    SUMS,
    Box,
    Pass,
    Weights,
    averaged,
)

CONVOLUTIONS = {nn.Conv1d: turned.conv1d_input, nn.Conv2d: turned.conv2d_input, nn.Conv3d: turned.conv3d_input}


class Affine(NamedTuple):
    """``out = sum of the linear maps of its parents + bias``, with what its rounding can amount to.

    ``size`` maps bounds on the absolute values of the parents ``(n, *in)`` to the sum of absolute terms of each output
    (None = the outputs are copies, which are exact), ``terms`` is how many terms that sum has at most.
    """

    back: Callable[[Tensor], tuple[Tensor, ...]]
    bias: Tensor | None = None
    size: Callable[..., Tensor] | None = None
    terms: int = 0


def affine_of(run: Pass, node: fx.Node, args: Any, kwargs: Any, out: Box) -> Affine | None:
    """The node as an affine map of the boxes among its ``args``, seen on a batch of one; None if it is none."""
    source = next((a for a in args if isinstance(a, Box)), None)
    dtype, shape = out.lower.dtype, out.lower.shape[1:]
    layer: Any = run.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
    target = node.target if node.op == "call_function" else None
    if target is torch.cat:
        return _cat(args, kwargs, shape)
    if source is None:
        return None
    if target is F.linear:
        layer = Weights(*args[1:], **kwargs)
    if isinstance(layer, nn.Linear | Weights):
        return _linear(layer, dtype, shape)
    if isinstance(layer, SUMS):
        return _convolution(layer, source.lower)
    if isinstance(layer, NORMS):
        return _norm(layer, source.lower)
    if isinstance(layer, AVERAGES) or target in AVERAGE_CALLS:
        return _average(layer or (lambda t: target(t, *args[1:], **kwargs)), source.lower)  # type: ignore[operator]
    if node.op != "call_module" and node.target in NEGATIONS:
        return Affine(back=lambda a: (-a,))
    if target in SIGNS:
        return _sum(args, SIGNS[target], shape, dtype)  # type: ignore[index]
    if target in FACTORS:
        return _factor(target, args, source, shape)
    return _moving(node, layer, target, args, kwargs, source.lower)


def _linear(layer: Any, dtype: torch.dtype, shape: torch.Size) -> Affine:
    weight = layer.weight.detach().to(dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(dtype)
    absolute = None if bias is None else bias.abs()
    return Affine(back=lambda a: (a @ weight,), bias=None if bias is None else bias.expand(shape),
                  size=lambda x: F.linear(x, weight.abs(), absolute), terms=weight.shape[1])  # fmt: skip


def _convolution(layer: Any, source: Tensor) -> Affine:
    weight = layer.weight.detach().to(source.dtype)
    bias = None if layer.bias is None else layer.bias.detach().to(source.dtype)
    absolute, shape = None if bias is None else bias.abs(), source.shape[1:]
    apply = layer._conv_forward
    plain = next((f for kind, f in CONVOLUTIONS.items() if isinstance(layer, kind)), None)
    if plain is None or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        back = _transposed(lambda t: apply(t, weight, None), source)
    else:
        back = lambda a: (plain((len(a), *shape), weight, a, layer.stride, layer.padding, layer.dilation, layer.groups),)  # noqa: E731
    wide = None if bias is None else bias.reshape(-1, *[1] * (source.ndim - 2)).expand(apply(source[:1], weight, None).shape[1:])
    return Affine(back=back, bias=wide, size=lambda x: apply(x, weight.abs(), absolute), terms=weight[0].numel())


def _norm(layer: Any, source: Tensor) -> Affine:
    """Batch norm in inference mode: a scale and a shift for each channel."""
    shape = (-1, *[1] * (source.ndim - 2))
    mean, variance = layer.running_mean.to(source.dtype), layer.running_var.to(source.dtype)
    scale = (variance + layer.eps).rsqrt() * (1 if layer.weight is None else layer.weight.detach().to(mean.dtype))
    shift = -mean * scale + (0 if layer.bias is None else layer.bias.detach().to(mean.dtype))
    scale, shift, moved = scale.reshape(shape), shift.reshape(shape).expand(source.shape[1:]), (mean * scale).reshape(shape).abs()
    return Affine(back=lambda a: (a * scale,), bias=shift, size=lambda x: x * scale.abs() + shift.abs() + moved, terms=4)


def _average(apply: Callable[[Tensor], Tensor], source: Tensor) -> Affine:
    return Affine(back=_transposed(apply, source), size=apply, terms=averaged(source))


def _transposed(apply: Callable[[Tensor], Tensor], source: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The transpose of a linear map as its vector-Jacobian product."""

    def back(a: Tensor) -> tuple[Tensor, ...]:
        further = torch.is_grad_enabled() and a.requires_grad
        with torch.enable_grad():
            x = source.new_zeros(len(a), *source.shape[1:]).requires_grad_(True)
            return torch.autograd.grad(apply(x), x, a, create_graph=further)

    return back


def _sum(args: Any, sign: int, shape: torch.Size, dtype: torch.dtype) -> Affine | None:
    pairs = [(part, s) for part, s in zip(args[:2], (1, sign), strict=True)]
    if any(isinstance(part, Box) and part.lower.shape[1:] != shape for part, _ in pairs):
        return None  # one result is spread over the other
    signs = [s for part, s in pairs if isinstance(part, Box)]
    constant = next((s * torch.as_tensor(part, dtype=dtype) for part, s in pairs if not isinstance(part, Box)), None)
    bias = None if constant is None else constant.expand(1, *shape)[0]

    def size(*parts: Tensor) -> Tensor:
        return sum(parts) if bias is None else parts[0] + bias.abs()  # type: ignore[return-value]

    return Affine(back=lambda a: tuple(a if s > 0 else -a for s in signs), bias=bias, size=size, terms=1)


def _factor(target: Any, args: Any, source: Box, shape: torch.Size) -> Affine | None:
    other = args[1] if source is args[0] else args[0]
    factor = other if target in (torch.mul,) or getattr(target, "__name__", "") == "mul" else 1 / other
    if source.lower.shape[1:] != shape or (isinstance(factor, Tensor) and factor.ndim > len(shape) and len(factor) > 1):
        return None
    return Affine(back=lambda a: (a * factor,), size=lambda x: x * abs(factor), terms=2)


def _cat(args: Any, kwargs: Any, shape: torch.Size) -> Affine | None:
    dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    dim = dim - 1 if dim > 0 else dim + len(shape)
    sizes = [(part.lower if isinstance(part, Box) else part).shape[dim + 1] for part in args[0]]
    rows = [1 if isinstance(part, Box) else len(part) for part in args[0]]
    if dim < 0 or max(rows) > 1:
        return None
    fixed = [torch.zeros_like(part.lower[0]) if isinstance(part, Box) else part[0] for part in args[0]]
    mine = [i for i, part in enumerate(args[0]) if isinstance(part, Box)]

    def back(a: Tensor) -> tuple[Tensor, ...]:
        parts = a.split(sizes, dim + 1)
        return tuple(parts[i] for i in mine)

    return Affine(back=back, bias=torch.cat(fixed, dim))


def _moving(node: fx.Node, layer: Any, target: Any, args: Any, kwargs: Any, source: Tensor) -> Affine | None:
    name = str(node.target)
    if (
        isinstance(layer, nn.Dropout | nn.Dropout2d | nn.Identity)
        or target is F.dropout
        or (node.op == "call_method" and name in ("float", "double"))
    ):
        return Affine(back=lambda a: (a,))
    if isinstance(layer, MOVING):
        return _table(layer, source)
    if target in MOVING_CALLS:
        return _table(lambda t: target(t, *args[1:], **kwargs), source)
    if node.op == "call_method" and name in MOVING_METHODS:
        return _table(lambda t: getattr(t, name)(*args[1:], **kwargs), source)
    return None


def _table(move: Callable[[Tensor], Tensor], source: Tensor) -> Affine | None:
    """A layer that copies entries or puts a constant: where each of its outputs comes from (0 = from nowhere)."""
    shape, count = source.shape[1:], math.prod(source.shape[1:])
    constant = move(torch.zeros_like(source))
    numbers = move(torch.arange(1, count + 1, dtype=source.dtype, device=source.device).reshape(source.shape)) - constant
    if len(numbers) != 1:
        return None  # it moves rows
    index, out = numbers.reshape(-1).long(), numbers.shape[1:]
    bias = None if not bool(constant.any()) else constant[0]
    if len(index) == count and bool((index == torch.arange(1, count + 1, device=index.device)).all()):
        return Affine(back=lambda a: (a.reshape(len(a), *shape),), bias=bias)

    def back(a: Tensor) -> tuple[Tensor, ...]:
        flat = a.reshape(len(a), math.prod(out))
        return (flat.new_zeros(len(a), count + 1).index_add(1, index, flat)[:, 1:].reshape(len(a), *shape),)

    return Affine(back=back, bias=bias)
