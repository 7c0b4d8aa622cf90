"""Goodfellow 2015, https://arxiv.org/abs/1510.01799, Li et al. 2021, https://arxiv.org/abs/2110.05679: each row's gradient of a layer.

From a layer's inputs and the gradients of its outputs follow the squared length of each row's gradient of each parameter, and sums of
these gradients with any weights, without a second backward pass. Where a row's gradient is a product of two vectors, or a sum of few such
products, it is never made (ghost norms); where it is smaller than the table of those products, it is made once and kept.

>>> piece = outer(torch.ones(2, 3), torch.ones(2, 4), bias=False)["weight"]
>>> piece.squares.tolist(), piece.add_(torch.zeros(3, 4), torch.tensor([1.0, 2.0]))[0].tolist()
([12.0, 12.0], [3.0, 3.0, 3.0, 3.0])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv1d_weight, conv2d_weight


class Piece(NamedTuple):
    """The gradients of one parameter: their squared lengths ``(rows,)``, and what adds their sum with weights ``(rows,)`` to a tensor."""

    squares: Tensor
    add_: Callable[[Tensor, Tensor], object]


def kept(each: Tensor) -> Piece:
    """Gradients ``(rows, *shape)`` that were made."""
    flat = each.flatten(1)
    return Piece(torch.linalg.vector_norm(flat, dim=1).square(), lambda total, weights: total.view(-1).addmv_(flat.mT, weights))


def outer(g: Tensor, a: Tensor, bias: bool) -> dict[str, Piece]:
    """Gradients ``g a'`` of a matrix from ``(rows, o)`` and ``(rows, d)``, and, with a bias, ``g``; none is made."""
    squares = torch.linalg.vector_norm(g, dim=1).square()
    weight = Piece(squares * torch.linalg.vector_norm(a, dim=1).square(), lambda total, weights: total.addmm_((g * weights[:, None]).mT, a))
    return {"weight": weight, "bias": Piece(squares, lambda total, weights: total.addmv_(g.mT, weights))} if bias else {"weight": weight}


def product(g: Tensor, a: Tensor) -> Piece:
    """Gradients ``sum_t g[:, t] a[:, t]'`` of a matrix, from ``(rows, t, o)`` and ``(rows, t, d)``."""
    places, size = a.shape[1], g.shape[2] * a.shape[2]
    if size <= 2 * places * places:
        return kept(torch.bmm(g.mT, a))
    squares = (torch.bmm(g, g.mT) * torch.bmm(a, a.mT)).sum((1, 2)).clamp_min(0)
    return Piece(
        squares, lambda total, weights: total.view(size // a.shape[2], -1).addmm_((g * weights[:, None, None]).flatten(0, 1).mT, a.flatten(0, 1))
    )


def linear(layer: Any, a: Tensor, g: Tensor, rows: int) -> dict[str, Piece]:
    """Of ``nn.Linear``, on inputs of any number of dimensions."""
    if a.ndim == 2 and len(a) == rows:
        return outer(g, a, layer.bias is not None)
    a, g = a.reshape(rows, -1, a.shape[-1]), g.reshape(rows, -1, g.shape[-1])
    return {"weight": product(g, a), "bias": kept(g.sum(1))}


def conv(layer: Any, a: Tensor, g: Tensor, rows: int) -> dict[str, Piece]:
    """Of ``nn.Conv1d`` and ``nn.Conv2d``: one convolution in which every row is a group of its own gives each row's gradient."""
    padding = layer.padding
    if layer.padding_mode != "zeros" or isinstance(padding, str):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        a, padding = F.pad(a, layer._reversed_padding_repeated_twice, mode=mode), 0
    n, flat = len(a), {"weight": layer.weight.numel(), "places": g[0, 0].numel() * (len(a) // rows)}
    bias = kept(g.reshape(rows, -1, g.shape[1], g[0, 0].numel()).sum((1, 3)))
    if flat["weight"] > 2 * flat["places"] ** 2 and layer.groups == 1:
        return {"weight": _unfolded(layer, a, g, rows, padding), "bias": bias}
    weight: Any = conv2d_weight if isinstance(layer, nn.Conv2d) else conv1d_weight
    shape = (n * layer.out_channels, *layer.weight.shape[1:])
    apart = [t.reshape(1, n * t.shape[1], *t.shape[2:]) for t in (a, g)]
    each = weight(apart[0], shape, apart[1], layer.stride, padding, layer.dilation, n * layer.groups)
    return {"weight": kept(each.reshape(rows, -1, *layer.weight.shape).sum(1) if n > rows else each.reshape(n, *layer.weight.shape)), "bias": bias}


def _unfolded(layer: Any, a: Tensor, g: Tensor, rows: int, padding: Any) -> Piece:
    """The same as a product over the places of the output, for large kernels and few places."""
    two = [(1, *_pair(v)) if a.ndim == 3 else v for v in (layer.kernel_size, layer.dilation, layer.stride)]
    edge = (0, *_pair(padding)) if a.ndim == 3 else padding
    patches = F.unfold(a[:, :, None] if a.ndim == 3 else a, two[0], dilation=two[1], padding=edge, stride=two[2]).mT
    return product(g.flatten(2).mT.reshape(rows, -1, g.shape[1]), patches.reshape(rows, -1, patches.shape[2]))


def _pair(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def group_norm(layer: Any, a: Tensor, g: Tensor, rows: int) -> dict[str, Piece]:
    """Of ``nn.GroupNorm``: sums over a row's places."""
    seen = g * F.group_norm(a, layer.num_groups, eps=layer.eps)
    return {name: kept(t.reshape(rows, -1, t.shape[1], t[0, 0].numel()).sum((1, 3))) for name, t in (("weight", seen), ("bias", g))}


def layer_norm(layer: Any, a: Tensor, g: Tensor, rows: int) -> dict[str, Piece]:
    """Of ``nn.LayerNorm``: sums over a row's places."""
    seen = g * F.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    return {name: kept(t.reshape(rows, -1, *layer.normalized_shape).sum(1)) for name, t in (("weight", seen), ("bias", g))}


def embedding(layer: Any, a: Tensor, g: Tensor, rows: int) -> dict[str, Piece]:
    """Of ``nn.Embedding``: places with the same token share a row of the gradient; that of ``padding_idx`` is zero."""
    a, g = a.reshape(rows, -1), g.reshape(rows, -1, g.shape[-1])
    if layer.padding_idx is not None:
        g = g * (a != layer.padding_idx)[:, :, None]
    squares = (torch.bmm(g, g.mT) * (a[:, :, None] == a[:, None, :])).sum((1, 2)).clamp_min(0)

    return {"weight": Piece(squares, lambda total, weights: total.index_add_(0, a.flatten(), (g * weights[:, None, None]).flatten(0, 1)))}


RULES: dict[type, Callable[[Any, Tensor, Tensor, int], dict[str, Piece]]] = {
    nn.Linear: linear, nn.Conv1d: conv, nn.Conv2d: conv, nn.GroupNorm: group_norm, nn.LayerNorm: layer_norm, nn.Embedding: embedding,
}  # fmt: skip


def rule_of(layer: nn.Module) -> Callable[[Any, Tensor, Tensor, int], dict[str, Piece]] | None:
    """What knows this layer, or None: subclasses count only if they compute what their parent does."""
    if isinstance(layer, nn.Embedding) and (layer.scale_grad_by_freq or layer.max_norm is not None or layer.sparse):
        return None
    kind = next((kind for kind in RULES if isinstance(layer, kind) and type(layer).forward is kind.forward), None)
    return None if kind is None else RULES[kind]


def added(pieces: list[Piece], like: Tensor) -> Piece:
    """The gradients of a parameter that was used several times in a pass: each row's are made and added."""
    rows = len(pieces[0].squares)
    each = torch.zeros((rows, *like.shape), dtype=like.dtype, device=like.device)
    for row, total in zip(torch.eye(rows, dtype=like.dtype, device=like.device), each, strict=True):
        for piece in pieces:
            piece.add_(total, row)
    return kept(each)


def length(pieces: list[Piece]) -> Tensor:
    """The lengths ``(rows,)`` of whole gradients."""
    return torch.stack([p.squares for p in pieces]).sum(0).sqrt()
