"""Xu et al. 2021, https://arxiv.org/abs/2011.13824: the free choices inside linear bounds, made by their gradient.

A line below a hinge may have any slope between those of its two pieces, and what is known of a neuron's sign may be
added with any multiplier >= 0 (Wang et al. 2021, https://arxiv.org/abs/2103.06624): whatever is chosen is sound, so the
best of all steps is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from carbide.evasion._gradients import cut
from carbide.evasion._linear_bounds import LinearBounds
from carbide.types import Array, decide

ROOM = 1e-9  # what a gap of logits must exceed to decide a row
LEAST_SHARE = 1e-6  # of a row among those taken together

Choice = dict[fx.Node, Tensor]


class Tight(NamedTuple):
    """The best lower bounds ``(n, k)``, the slopes and multipliers ``(n, k, *shape)`` of the last step, and the shares ``(n, rows)`` of rows taken together."""

    low: Tensor
    slopes: Choice
    weights: Choice
    shares: Tensor | None = None


def right(model: Any, x: Array, y: Array) -> Array:
    """Whether the model reads each row ``(n,)`` rightly as it is."""
    return decide(model.predict(x), model.threshold) == y


def rivals(y: Tensor, classes: int) -> Tensor:
    """Coefficients ``(n, classes - 1, classes)`` of ``logit[y] - logit[j]`` for every other class j."""
    each = torch.arange(classes, device=y.device)
    others = each.expand(len(y), classes)[each != y[:, None]].reshape(len(y), classes - 1)
    one_hot = torch.eye(classes, dtype=torch.float64, device=y.device)
    return one_hot[y][:, None] - one_hot[others]


def needed(model: Any, y: Tensor) -> Tensor:
    """What a row's gap of logits ``(n,)`` must exceed to be decided as y at the model's threshold."""
    shift = cut(model.threshold) * (2 * y - 1).double() if model.classes == 2 else torch.zeros_like(y, dtype=torch.float64)
    return (
        shift + ROOM * (1 + shift.abs()) + getattr(model, "slack", 0.0)
    )  # what is read as logits may be decided by probabilities, which round again


def tightened(bounds: LinearBounds, a: Tensor, *, steps: int, goal: Tensor | float = 0.0, signs: Mapping[fx.Node, Tensor] | None = None,
              start: Tight | None = None, rate: float = 0.2, needs: Tensor | None = None) -> Tight:  # fmt: skip
    """Lower bounds of ``a . logits`` over ``steps`` gradient steps of the slopes below hinges; they end when all exceed ``goal``.

    ``signs`` ``(n, *shape)`` of the inputs of hinges (1 = known to be >= 0, -1 = <= 0, 0 = not known) have a multiplier
    each. ``start`` holds slopes and multipliers to begin with. With ``needs`` ``(n, k)`` the rows of ``a`` are taken together:
    the bound ``(n, 1)`` is by how much some mean of them exceeds that mean of the needs, and its shares are chosen too.
    """
    shares = None if needs is None else _first_shares(bounds, a, needs, start)
    slopes: Choice = {}
    weights: Choice = {}
    for node in bounds.hinges():
        count = a.shape[1] if needs is None else 1
        first = bounds.lines[node].low.slope[:, None].expand(-1, count, *bounds.net.steps[node].shape)
        slopes[node] = (start.slopes[node] if start else first).clone().requires_grad_(True)
        if signs is not None and bool(signs[node].any()):
            weights[node] = (start.weights[node] if start else torch.zeros_like(first)).clone().requires_grad_(True)
    best = a.new_full((len(a), a.shape[1] if needs is None else 1), -math.inf)
    chosen = [*slopes.values(), *weights.values(), *([shares] if shares is not None and shares.requires_grad else [])]
    optimizer = torch.optim.Adam(chosen, lr=rate) if chosen else None
    for step in range(steps + 1):
        rows, need = (a, 0.0) if needs is None or shares is None else (taken_together(a, shares), taken_together(needs[:, :, None], shares)[:, :, 0])
        low = bounds.lower(bounds.net.output, rows, slopes=slopes, pushes=pushes(weights, signs)) - need
        best = torch.maximum(best, low.detach())
        if step == steps or optimizer is None or not low.requires_grad or bool((best > goal).all()):
            break
        optimizer.zero_grad(set_to_none=True)
        (-low.sum()).backward()
        optimizer.step()
        for group in optimizer.param_groups:
            group["lr"] *= 0.95
        with torch.no_grad():
            for node, slope in slopes.items():
                slope.clamp_(bounds.lines[node].least, 1.0)
            for weight in weights.values():
                weight.clamp_(min=0.0)
            if shares is not None:
                shares.clamp_(min=LEAST_SHARE)
    ended = [{node: v.detach() for node, v in part.items()} for part in (slopes, weights)]
    return Tight(best, ended[0], ended[1], None if shares is None else shares.detach())


def _first_shares(bounds: LinearBounds, a: Tensor, needs: Tensor, start: Tight | None) -> Tensor:
    """Mostly the row that exceeds its need by the most, or those of ``start``."""
    if start is not None and start.shares is not None:
        return start.shares.clone().requires_grad_(a.shape[1] > 1)
    with torch.no_grad():
        best = (
            (bounds.lower(bounds.net.output, a) - needs).argmax(1, keepdim=True) if a.shape[1] > 1 else needs.new_zeros(len(a), 1, dtype=torch.long)
        )
    return torch.full_like(needs, 0.1).scatter(1, best, 1.0).requires_grad_(a.shape[1] > 1)


def taken_together(a: Tensor, shares: Tensor) -> Tensor:
    """The mean ``(n, 1, d)`` of rows ``(n, k, d)`` with these shares ``(n, k)`` > 0."""
    return torch.einsum("nk,nkd->nd", shares / shares.sum(1, keepdim=True), a)[:, None]


def pushes(weights: Choice, signs: Mapping[fx.Node, Tensor] | None) -> Choice:
    """What the multipliers take off the coefficients of hinges' inputs."""
    return {} if signs is None else {node: weight * signs[node][:, None] for node, weight in weights.items()}
