"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: what linear bounds leave open is cut in two until it is decided.

Cutting on the sign of a neuron makes it linear on both sides; cutting an input's range makes every line closer. A part
whose bound says that the row keeps its label is closed; the inputs at which the bounds are least are shown to the judge.
A part whose neurons are all settled is a linear program: its multipliers make the bound exact up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from carbide.evasion._intervals import Box
from carbide.evasion._linear_bounds import LinearBounds, Net, Region
from carbide.evasion._tightening import Choice, Tight, needed, pushes, rivals, tightened
from carbide.evasion.judge import judge
from carbide.types import Array, LpBall

TOGETHER = 32  # parts that are bounded at once


class Fate(NamedTuple):
    """What became of a row: certified, broken by a witness ``(*shape)``, or neither within the parts it was given."""

    certified: bool
    witness: Array | None
    nodes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """One row (as a batch of one) whose fate is open, and how many parts may be bounded to decide it."""

    model: Any
    net: Net
    x: Array
    y: Array
    threat: LpBall
    nodes: int
    steps: int

    @property
    def region(self) -> Region:
        """The row's inputs."""
        return Region.of(self.model, self.x, self.threat.p, self.threat.eps)

    @property
    def label(self) -> Tensor:
        """The row's label ``(1,)``."""
        return torch.as_tensor(np.asarray(self.y, np.int64), device=self.model.device)

    def broken_by(self, region: Region, a: Tensor) -> Array | None:
        """The first input that fools the model among those at which ``a . x`` ``(m, *shape)`` is least in each region, as the judge sees it."""
        points = region.lowest_at(a)
        if not math.isinf(region.p):
            size = a.flatten(1).norm(dim=1).clamp_min(1e-300).reshape(-1, *[1] * (a.ndim - 1))
            points = (region.clean - self.threat.eps * a / size).clamp(*region.box) if region.p == 2 else points
        return self.first_broken(points.cpu().numpy())

    def first_broken(self, points: Array) -> Array | None:
        """The first of these inputs ``(m, *shape)`` that the threat allows and the model gets wrong."""
        x, y = (np.repeat(v, len(points), axis=0) for v in (self.x, self.y))
        outcome = judge(self.model, x, y, points, self.threat, self.model.space)
        hit = np.flatnonzero(outcome.success)
        return outcome.witness[hit[0]] if len(hit) and outcome.witness is not None else None


# Cuts of the input -----------------------------------------------------------------------------------------------------


def by_inputs(task: Task) -> Fate:
    """Cut the input's box along the side that matters most, the least certain boxes first."""
    gaps, need = rivals(task.label, task.net.classes), needed(task.model, task.label)
    whole, spent = task.region, 0
    boxes, worst = whole.box, torch.zeros(1, dtype=torch.float64, device=whole.clean.device)
    while len(worst):
        if spent >= task.nodes:
            return Fate(False, None, spent)
        order = worst.argsort(stable=True)
        now, later = (order[: min(TOGETHER, task.nodes - spent)], order[min(TOGETHER, task.nodes - spent) :])
        part = Region(boxes.map(lambda v, now=now: v[now]), whole.clean.expand(len(now), *whole.clean.shape[1:]), whole.p, whole.eps.expand(len(now)))
        spent += len(now)
        low, slope = _bounded(task, part, gaps, need)
        witness = task.broken_by(part, slope)
        if witness is not None:
            return Fate(False, witness, spent)
        halves, kept = _halved(part.box, slope, low <= 0)
        boxes = Box(*(torch.cat([old[later], new]) for old, new in zip(boxes, halves, strict=True)))
        worst = torch.cat([worst[later], low[kept].repeat(2)])
    return Fate(True, None, spent)


@torch.no_grad()
def _bounded(task: Task, part: Region, gaps: Tensor, need: Tensor) -> tuple[Tensor, Tensor]:
    """For each region its least margin ``(m,)`` and the coefficients of the inputs ``(m, *shape)`` in the bound that gives it."""
    bounds = LinearBounds(task.net, part)
    seen: dict[fx.Node, Tensor] = {}
    low = bounds.lower(task.net.output, gaps.expand(len(part.clean), *gaps.shape[1:]), seen=seen) - need[:, None]
    worst = low.argmin(1)
    return low.amin(1), seen[next(iter(task.net.steps))][torch.arange(len(worst)), worst]


def _halved(box: Box, slope: Tensor, open_: Tensor) -> tuple[Box, Tensor]:
    rows = torch.nonzero(open_).squeeze(1)
    lower, upper = (v[rows].flatten(1) for v in box)
    width = upper - lower
    side = (width * (slope[rows].flatten(1).abs() + 1e-3 * slope[rows].abs().flatten(1).amax(1, keepdim=True) + 1e-12)).argmax(1, keepdim=True)
    middle = (lower + upper).gather(1, side) / 2
    halves = Box(torch.cat([lower, lower.scatter(1, side, middle)]), torch.cat([upper.scatter(1, side, middle), upper]))
    return halves.map(lambda v: v.reshape(-1, *box.lower.shape[1:])), rows


# Cuts on signs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One rival class and the signs that are assumed, with the bound and the choices of the part it was cut from."""

    rival: int
    low: float
    signs: Choice
    start: Tight | None = None


def by_signs(task: Task) -> Fate:
    """Cut on the sign of the neuron whose line costs most, the least certain parts first."""
    with torch.no_grad():
        root = LinearBounds(task.net, task.region)
        gaps, need = rivals(task.label, task.net.classes), float(needed(task.model, task.label))
        low = root.lower(task.net.output, gaps)[0]
    blank = {node: torch.zeros(1, *task.net.steps[node].shape, dtype=torch.float64, device=low.device) for node in root.hinges()}
    waiting = [Part(rival=k, low=float(low[k]), signs=blank) for k in range(len(low)) if low[k] <= need]
    spent, stuck = 0, False
    while waiting:
        if spent >= task.nodes:
            return Fate(False, None, spent)
        waiting.sort(key=lambda part: part.low)
        count = min(TOGETHER, task.nodes - spent)
        now, waiting = waiting[:count], waiting[count:]
        spent += len(now)
        found = _cut(task, root, now, gaps, need)
        if found.witness is not None:
            return Fate(False, found.witness, spent)
        waiting, stuck = waiting + found.parts, stuck or found.stuck
    return Fate(not stuck, None, spent)


class _Found(NamedTuple):
    parts: list[Part]
    witness: Array | None = None
    stuck: bool = False


def _cut(task: Task, root: LinearBounds, parts: list[Part], gaps: Tensor, need: float) -> _Found:
    """Bound these parts; the open ones come back cut in two."""
    m, net = len(parts), task.net
    region = root.region.take(torch.zeros(m, dtype=torch.long))
    signs = {node: torch.cat([part.signs[node] for part in parts]) for node in parts[0].signs}
    with torch.no_grad():
        bounds = LinearBounds(net, region, refine=False, known=_known(root, signs))
    a = gaps[0, [part.rival for part in parts]][:, None]
    tight = tightened(bounds, a, steps=task.steps, goal=need, signs=signs, start=_joined(parts, bounds))
    open_ = [i for i in range(m) if float(tight.low[i, 0]) <= need and not bool(bounds.empty[i])]
    if not open_:
        return _Found([])
    seen: dict[fx.Node, Tensor] = {}
    with torch.no_grad():
        bounds.lower(net.output, a, slopes=tight.slopes, pushes=pushes(tight.weights, signs), seen=seen)
    entry = next(iter(net.steps))
    rows = torch.tensor(open_, device=a.device)
    witness = task.broken_by(region.take(rows), seen[entry][rows, 0])
    if witness is not None:
        return _Found([], witness)
    scores = {node: _cost(bounds, node, seen.get(node), tight.slopes[node]) for node in signs}
    cut, stuck = [], False
    for i in open_:
        node = max(signs, key=lambda n, i=i: float(scores[n][i].max()))
        if not float(scores[node][i].max()) > 0:
            closed, witness = _settled(task, bounds.take(torch.tensor([i])), a[i : i + 1], {n: s[i : i + 1] for n, s in signs.items()}, need)
            if witness is not None:
                return _Found([], witness)
            stuck |= not closed
            continue
        at = int(scores[node][i].argmax())
        start = Tight(tight.low[i : i + 1], *({n: v[i : i + 1] for n, v in c.items()} for c in (tight.slopes, tight.weights)))
        for sign in (1.0, -1.0):
            own = {n: s[i : i + 1] for n, s in signs.items()}
            own[node] = own[node].clone()
            own[node].view(-1)[at] = sign
            cut.append(replace(parts[i], low=float(tight.low[i, 0]), signs=own, start=start))
    return _Found(cut, None, stuck)


def _known(root: LinearBounds, signs: Choice) -> dict[fx.Node, Box]:
    """The root's boxes of the inputs of hinges, cut by the signs."""
    known: dict[fx.Node, Box] = {}
    for node, sign in signs.items():
        source = root.net.steps[node].parents[0]
        box = known.get(source, root.boxes[source])
        lower, upper = (v.expand_as(sign) for v in box)
        known[source] = Box(torch.where(sign > 0, lower.clamp_min(0), lower), torch.where(sign < 0, upper.clamp_max(0), upper))
    return known


def _joined(parts: list[Part], bounds: LinearBounds) -> Tight | None:
    """Where the parts' choices start: with those of what they were cut from; None for parts that were cut from nothing."""
    if any(part.start is None for part in parts):
        return None
    starts = [part.start for part in parts if part.start is not None]
    slopes = {node: torch.cat([s.slopes[node] for s in starts]) for node in starts[0].slopes}
    blank = {node: torch.zeros_like(slope) for node, slope in slopes.items()}
    weights = {node: torch.cat([s.weights.get(node, blank[node][:1]) for s in starts]) for node in slopes}
    return Tight(torch.cat([s.low for s in starts]), slopes, weights)


def _cost(bounds: LinearBounds, node: fx.Node, a: Tensor | None, slope: Tensor) -> Tensor:
    """What each unsettled neuron's lines can cost the bound ``(m, neurons)``, a little for being unsettled at all, 0 where it is settled."""
    box, unsure = bounds.boxes[bounds.net.steps[node].parents[0]], bounds.unsure(node)
    if a is None:
        return torch.zeros_like(unsure, dtype=torch.float64).flatten(1)
    a, slope = a[:, 0], slope[:, 0]
    below = torch.maximum((slope - bounds.lines[node].least) * -box.lower, (1 - slope) * box.upper)
    cost = a.clamp_max(0).abs() * bounds.lines[node].high.shift + 0.5 * a.clamp_min(0) * below
    return torch.where(unsure, cost + 1e-9, torch.zeros_like(cost)).flatten(1)


def _settled(task: Task, bounds: LinearBounds, a: Tensor, signs: Choice, need: float) -> tuple[bool, Array | None]:
    """A part without open neurons, as a linear program: closed by its multipliers, or broken by its least point."""
    if not math.isinf(bounds.region.p):
        closer = tightened(bounds, a, steps=50, goal=need, signs=signs)
        return bool(closer.low > need), None
    with torch.no_grad():
        goal: dict[fx.Node, Tensor] = {}
        bounds.lower(bounds.net.output, a, seen=goal)
        known = [_half_spaces(bounds, node, sign) for node, sign in signs.items() if bool(sign.any())]
        if not known:
            return False, None  # it is linear as it is, and its least point was tried
        found = _program(bounds, goal[next(iter(bounds.net.steps))], known)
    if found.status != 0:
        closer = tightened(bounds, a, steps=50, goal=need, signs=signs)  # no input is left, which its multipliers show
        return bool(closer.low > need), None
    duals = torch.as_tensor(-found.ineqlin.marginals, dtype=a.dtype, device=a.device).clamp_min(0)
    weights = {node: torch.zeros_like(sign)[:, None] for node, sign in signs.items()}
    for half, part in zip(known, duals.split([len(half.at) for half in known]), strict=True):
        weights[half.node].view(-1)[half.at] = part
    with torch.no_grad():
        low = bounds.lower(bounds.net.output, a, pushes=pushes(weights, signs))
    return (True, None) if bool(low > need) else (False, task.first_broken(found.x.reshape(1, *task.x.shape[1:])))


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


def _program(bounds: LinearBounds, goal: Tensor, known: list[_HalfSpaces]) -> Any:
    from scipy.optimize import linprog

    normals, shifts = (torch.cat(parts).cpu().numpy() for parts in ([h.normals for h in known], [h.shifts for h in known]))
    box = torch.stack([v.flatten() for v in bounds.region.box], 1).cpu().numpy()
    return linprog(goal.flatten().cpu().numpy(), A_ub=-normals, b_ub=shifts, bounds=box, method="highs")
