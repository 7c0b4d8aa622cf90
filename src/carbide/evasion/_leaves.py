"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: a part whose neurons are all settled is a linear program.

The program's multipliers, put into a linear bound, make that bound exact up to rounding; where the program finds an input
instead, the judge is shown it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from carbide.evasion._linear_bounds import LinearBounds
from carbide.evasion._task import Task, Unsafe
from carbide.evasion._tightening import Choice, pushes, tightened
from carbide.types import Array


def settled(task: Task, bounds: LinearBounds, unsafe: Unsafe, signs: Choice) -> tuple[bool, Array | None]:
    """A part of one alternative without open neurons, as a linear program: closed by its multipliers, or broken by its least point."""
    a, needs = unsafe.matrix[None], unsafe.need[None]
    if not math.isinf(bounds.region.p):
        return bool(tightened(bounds, a, steps=50, signs=signs, needs=needs).low > 0), None
    with torch.no_grad():
        seen: dict[fx.Node, Tensor] = {}
        low = bounds.lower(bounds.net.output, a, seen=seen)
        known = [_half_spaces(bounds, node, sign) for node, sign in signs.items() if bool(sign.any())]
        goals = seen.get(bounds.net.entry)
        if goals is None or (not known and a.shape[1] == 1):
            return False, None  # it is linear as it is, and its least point was tried
        found = _program(bounds, goals.flatten(2)[0], (low - bounds.region.lowest(goals) - needs)[0], known)
    if found.status != 0:  # no input is left, which its multipliers show
        return bool(tightened(bounds, a, steps=50, signs=signs, needs=needs).low > 0), None
    count = a.shape[1]
    duals = torch.as_tensor(-found.ineqlin.marginals, dtype=a.dtype, device=a.device).clamp_min(0)
    weights = {node: torch.zeros_like(sign)[:, None] for node, sign in signs.items()}
    for half, part in zip(known, duals[count:].split([len(half.at) for half in known]), strict=True):
        weights[half.node].view(-1)[half.at] = part
    with torch.no_grad():
        rows = torch.einsum("m,nmk->nk", duals[:count], a)[:, None]
        low = bounds.lower(bounds.net.output, rows, pushes=pushes(weights, signs)) - needs[0] @ duals[:count]
    return (True, None) if bool(low > 0) else (False, task.first_broken(found.x[:-1].reshape(1, *bounds.region.clean.shape[1:])))


class _HalfSpaces(NamedTuple):
    """``normals @ x + shifts >= 0``: what the signs of these neurons say of the input."""

    node: fx.Node
    at: Tensor
    normals: Tensor
    shifts: Tensor


def _half_spaces(bounds: LinearBounds, node: fx.Node, sign: Tensor) -> _HalfSpaces:
    at = torch.nonzero(sign.flatten()).squeeze(1)
    unit = sign.new_zeros(1, len(at), sign.numel())
    unit[0, torch.arange(len(at)), at] = sign.flatten()[at]
    seen: dict[fx.Node, Tensor] = {}
    low = bounds.lower(bounds.net.steps[node].parents[0], unit.reshape(1, len(at), *sign.shape[1:]), seen=seen)
    normals = seen[next(iter(bounds.net.steps))]
    return _HalfSpaces(node, at, normals.flatten(2)[0], (low - bounds.region.lowest(normals))[0])


def _program(bounds: LinearBounds, goals: Tensor, shifts: Tensor, known: list[_HalfSpaces]) -> Any:
    """The input of the part at which the largest of ``goals @ x + shifts`` ``(m,)`` is least, and that value as the last variable."""
    from scipy.optimize import linprog

    one = -torch.ones_like(shifts)[:, None]
    upper = [torch.cat([goals, one], 1), *(torch.cat([-h.normals, torch.zeros_like(h.shifts)[:, None]], 1) for h in known)]
    limits = torch.cat([-shifts, *(h.shifts for h in known)])
    box = [*torch.stack([v.flatten() for v in bounds.region.box], 1).cpu().tolist(), (None, None)]
    cost = np.zeros(goals.shape[1] + 1)
    cost[-1] = 1.0
    return linprog(cost, A_ub=torch.cat(upper).cpu().numpy(), b_ub=limits.cpu().numpy(), bounds=box, method="highs")
