"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: what linear bounds leave open is cut in two until it is decided.

Cutting on the sign of a neuron makes it linear on both sides; cutting an input's range makes every line closer. A part
whose bound says that nothing unsafe can happen in it is closed; the inputs at which the bounds are least are shown to the
judge. A part whose neurons are all settled is a linear program: its multipliers make the bound exact up to rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, fx

from carbide.evasion._intervals import Box
from carbide.evasion._linear_bounds import LinearBounds, Net, OutOfTime, Region
from carbide.evasion._tightening import Choice, Tight, needed, pushes, rivals, taken_together, tightened
from carbide.evasion.judge import judge
from carbide.types import Array, LpBall, UnsoundError

TOGETHER = 32  # parts that are bounded at once


class Fate(NamedTuple):
    """What became of a row: certified, broken by a witness ``(*shape)``, or neither within the parts it was given; ``stuck``: more would not help."""

    certified: bool
    witness: Array | None
    nodes: int
    stuck: bool = False


class Unsafe(NamedTuple):
    """What must not happen: in one of the alternatives a, ``matrix[a] @ outputs <= need[a]`` in every row; ``(a, m, k)`` and ``(a, m)``."""

    matrix: Tensor
    need: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """A region (of one row) in which it is not known whether outputs can be unsafe; at most ``nodes`` parts are bounded to decide it.

    ``steps`` are the gradient steps a part, ``together`` how many parts are bounded at once.
    """

    net: Net
    nodes: int
    steps: int
    together: int = TOGETHER

    @property
    def region(self) -> Region:
        """The inputs."""
        raise NotImplementedError

    @property
    def unsafe(self) -> Unsafe:
        """What their outputs must not be."""
        raise NotImplementedError

    def broken_by(self, region: Region, a: Tensor) -> Array | None:
        """The first unsafe input among those at which ``a . x`` ``(m, *shape)`` is least in each region, as the judge sees it."""
        return self.first_broken(region.lowest_at(a).cpu().numpy())

    def first_broken(self, points: Array) -> Array | None:
        """The first of these inputs ``(m, *shape)`` that is allowed and unsafe."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelTask(Task):
    """One row (as a batch of one) of a model, whose label within the threat is open."""

    model: Any
    x: Array
    y: Array
    threat: LpBall

    @property
    def region(self) -> Region:
        """The row's inputs."""
        return Region.of(self.model, self.x, self.threat.p, self.threat.eps)

    @property
    def label(self) -> Tensor:
        """The row's label ``(1,)``."""
        return torch.as_tensor(np.asarray(self.y, np.int64), device=self.model.device)

    @property
    def unsafe(self) -> Unsafe:
        """The other classes, each an alternative of one inequality."""
        gaps = rivals(self.label, self.net.classes)[0][:, None]
        return Unsafe(gaps, needed(self.model, self.label).expand(gaps.shape[:2]))

    def broken_by(self, region: Region, a: Tensor) -> Array | None:
        """As in ``Task``; for L2 the steepest way within the ball."""
        points = region.lowest_at(a)
        if region.p == 2:
            size = a.flatten(1).norm(dim=1).clamp_min(1e-300).reshape(-1, *[1] * (a.ndim - 1))
            points = (region.clean - self.threat.eps * a / size).clamp(*region.box)
        return self.first_broken(points.cpu().numpy())

    def first_broken(self, points: Array) -> Array | None:
        """The first of these inputs ``(m, *shape)`` that the threat allows and the model gets wrong."""
        x, y = (np.repeat(v, len(points), axis=0) for v in (self.x, self.y))
        outcome = judge(self.model, x, y, points, self.threat, self.model.space)
        hit = np.flatnonzero(outcome.success)
        return outcome.witness[hit[0]] if len(hit) and outcome.witness is not None else None


# Cuts of the input -----------------------------------------------------------------------------------------------------


def by_inputs(task: Task) -> Fate:
    """Cut the input's box along the side that matters most, the least certain boxes first.

    Raises:
        UnsoundError: if an unsafe input lies in a box that was closed.
    """
    unsafe, whole, spent = task.unsafe, task.region, 0
    boxes, worst = whole.box, torch.zeros(1, dtype=torch.float64, device=whole.clean.device)
    while len(worst):
        count = min(task.together, task.nodes - spent)
        if count <= 0:
            return Fate(False, None, spent)
        order = worst.argsort(stable=True)
        now, later = order[:count], order[count:]
        part = Region(boxes.map(lambda v, now=now: v[now]), whole.clean.expand(len(now), *whole.clean.shape[1:]), whole.p, whole.eps.expand(len(now)))
        try:
            excess, slope = _bounded(task, part, unsafe)
        except OutOfTime:
            return Fate(False, None, spent)
        spent += len(now)
        witness = task.broken_by(part, slope)
        if witness is not None:
            _must_be_open(witness, part, excess > 0)
            return Fate(False, witness, spent)
        halves, kept = _halved(part.box, slope, excess <= 0)
        boxes = Box(*(torch.cat([old[later], new]) for old, new in zip(boxes, halves, strict=True)))
        worst = torch.cat([worst[later], excess[kept].repeat(2)])
    return Fate(True, None, spent)


def _must_be_open(witness: Array, part: Region, closed: Tensor) -> None:
    """An unsafe input inside a box that bounds have closed means that one of the two is wrong."""
    x = torch.as_tensor(witness, dtype=torch.float64, device=closed.device)
    inside = ((x >= part.box.lower) & (x <= part.box.upper)).flatten(1).all(1)
    if math.isinf(part.p) and bool((inside & closed).any()):
        raise UnsoundError("an unsafe input lies in a part that its bound had closed; one of the two is wrong: keep the net and report it")


@torch.no_grad()
def _bounded(task: Task, part: Region, unsafe: Unsafe) -> tuple[Tensor, Tensor]:
    """For each region by how much its least alternative is out of reach ``(m,)``, and the coefficients of the inputs ``(m, *shape)`` in that bound."""
    bounds, n = LinearBounds(task.net, part), len(part.clean)
    seen: dict[fx.Node, Tensor] = {}
    low = bounds.lower(task.net.output, unsafe.matrix.flatten(0, 1).expand(n, -1, -1), seen=seen)
    excess, row = (low.reshape(n, *unsafe.need.shape) - unsafe.need).max(2)
    worst, at = torch.arange(n, device=low.device), excess.argmin(1)
    chosen = at * unsafe.need.shape[1] + row[worst, at]
    slope = seen[task.net.entry][worst, chosen] if task.net.entry in seen else torch.zeros_like(part.box.lower)
    return excess.amin(1), slope


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
    """One alternative and the signs that are assumed, with the bound (beyond what is needed) and the choices of the part it was cut from."""

    rival: int
    low: float
    signs: Choice
    start: Tight | None = None


def by_signs(task: Task, root: LinearBounds | None = None) -> Fate:
    """Cut on the sign of the neuron whose line costs most, the least certain parts first; ``root`` are bounds of the whole region, if known."""
    spent, stuck, unsafe = 0, False, task.unsafe
    try:
        with torch.no_grad():
            root = LinearBounds(task.net, task.region) if root is None else root
            low = root.lower(task.net.output, unsafe.matrix.flatten(0, 1)[None]).reshape(unsafe.need.shape)
        low = (low - unsafe.need).amax(1)
        blank = {node: torch.zeros(1, *task.net.steps[node].shape, dtype=torch.float64, device=low.device) for node in root.hinges()}
        waiting = [Part(rival=k, low=float(low[k]), signs=blank) for k in range(len(low)) if low[k] <= 0]
        while waiting:
            count = min(task.together, task.nodes - spent)
            if count <= 0:
                return Fate(False, None, spent)
            waiting.sort(key=lambda part: part.low)
            now, waiting = waiting[:count], waiting[count:]
            spent += len(now)
            found = _cut(task, root, now, unsafe)
            if found.witness is not None:
                return Fate(False, found.witness, spent)
            waiting, stuck = waiting + found.parts, stuck or found.stuck
    except OutOfTime:
        return Fate(False, None, spent)
    return Fate(not stuck, None, spent, stuck)


class _Found(NamedTuple):
    parts: list[Part]
    witness: Array | None = None
    stuck: bool = False


def _cut(task: Task, root: LinearBounds, parts: list[Part], unsafe: Unsafe) -> _Found:
    """Bound these parts; the open ones come back cut in two."""
    m, net = len(parts), task.net
    region = root.region.take(torch.zeros(m, dtype=torch.long))
    signs = {node: torch.cat([part.signs[node] for part in parts]) for node in parts[0].signs}
    with torch.no_grad():
        bounds = LinearBounds(net, region, refine=False, known=_known(root, signs))
    a, needs = (v[[part.rival for part in parts]] for v in unsafe)
    tight = tightened(bounds, a, steps=task.steps, signs=signs, start=_joined(parts, bounds), needs=needs)
    open_ = [i for i in range(m) if float(tight.low[i, 0]) <= 0 and not bool(bounds.empty[i])]
    if not open_:
        return _Found([])
    seen: dict[fx.Node, Tensor] = {}
    with torch.no_grad():
        assert tight.shares is not None
        bounds.lower(net.output, taken_together(a, tight.shares), slopes=tight.slopes, pushes=pushes(tight.weights, signs), seen=seen)
    rows = torch.tensor(open_, device=a.device)
    slope = seen[net.entry][rows, 0] if net.entry in seen else torch.zeros_like(region.box.lower[rows])
    witness = task.broken_by(region.take(rows), slope)
    if witness is not None:
        return _Found([], witness)
    scores = {node: _cost(bounds, node, seen.get(node), tight.slopes[node]) for node in signs}
    cut, stuck = [], False
    for i in open_:
        node = max(signs, key=lambda n, i=i: float(scores[n][i].max())) if signs else None
        if node is None or not float(scores[node][i].max()) > 0:
            one = Unsafe(a[i], needs[i])
            closed, witness = _settled(task, bounds.take(torch.tensor([i])), one, {n: s[i : i + 1] for n, s in signs.items()})
            if witness is not None:
                return _Found([], witness)
            stuck |= not closed
            continue
        at = int(scores[node][i].argmax())
        start = Tight(
            tight.low[i : i + 1], *({n: v[i : i + 1] for n, v in c.items()} for c in (tight.slopes, tight.weights)), tight.shares[i : i + 1]
        )
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
    shares = [s.shares for s in starts if s.shares is not None]
    return Tight(torch.cat([s.low for s in starts]), slopes, weights, torch.cat(shares))


def _cost(bounds: LinearBounds, node: fx.Node, a: Tensor | None, slope: Tensor) -> Tensor:
    """What each unsettled neuron's lines can cost the bound ``(m, neurons)``, a little for being unsettled at all, 0 where it is settled."""
    box, unsure = bounds.boxes[bounds.net.steps[node].parents[0]], bounds.unsure(node)
    if a is None:
        return torch.zeros_like(unsure, dtype=torch.float64).flatten(1)
    a, slope = a[:, 0], slope[:, 0]
    below = torch.maximum((slope - bounds.lines[node].least) * -box.lower, (1 - slope) * box.upper)
    cost = a.clamp_max(0).abs() * bounds.lines[node].high.shift + 0.5 * a.clamp_min(0) * below
    return torch.where(unsure, cost + 1e-9, torch.zeros_like(cost)).flatten(1)


def _settled(task: Task, bounds: LinearBounds, unsafe: Unsafe, signs: Choice) -> tuple[bool, Array | None]:
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
