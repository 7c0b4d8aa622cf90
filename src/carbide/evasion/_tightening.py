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

Choice = dict[fx.Node, Tensor]


class Tight(NamedTuple):
    """The best lower bounds ``(n, k)``, and the slopes and multipliers ``(n, k, *shape)`` of the last step."""

    low: Tensor
    slopes: Choice
    weights: Choice


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
              start: Tight | None = None, rate: float = 0.2) -> Tight:  # fmt: skip
    """Lower bounds of ``a . logits`` over ``steps`` gradient steps of the slopes below hinges; they end when all exceed ``goal``.

    ``signs`` ``(n, *shape)`` of the inputs of hinges (1 = known to be >= 0, -1 = <= 0, 0 = not known) have a multiplier
    each. ``start`` holds slopes and multipliers to begin with.
    """
    slopes: Choice = {}
    weights: Choice = {}
    for node in bounds.hinges():
        first = bounds.lines[node].low.slope[:, None].expand(-1, a.shape[1], *bounds.net.steps[node].shape)
        slopes[node] = (start.slopes[node] if start else first).clone().requires_grad_(True)
        if signs is not None and bool(signs[node].any()):
            weights[node] = (start.weights[node] if start else torch.zeros_like(first)).clone().requires_grad_(True)
    best = a.new_full(a.shape[:2], -math.inf)
    optimizer = torch.optim.Adam([*slopes.values(), *weights.values()], lr=rate) if slopes else None
    for step in range(steps + 1):
        low = bounds.lower(bounds.net.output, a, slopes=slopes, pushes=pushes(weights, signs))
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
    return Tight(best, *({node: v.detach() for node, v in part.items()} for part in (slopes, weights)))


def pushes(weights: Choice, signs: Mapping[fx.Node, Tensor] | None) -> Choice:
    """What the multipliers take off the coefficients of hinges' inputs."""
    return {} if signs is None else {node: weight * signs[node][:, None] for node, weight in weights.items()}
