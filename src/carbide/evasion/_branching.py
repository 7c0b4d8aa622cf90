"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: what linear bounds leave open is cut in two until it is decided.

Cutting on the sign of a neuron makes it linear on both sides; cutting an input's range makes every line closer. A part
whose bound says that nothing unsafe can happen in it is closed; the inputs at which the bounds are least are shown to the
judge. A part whose neurons are all settled is a linear program.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, fx

from carbide.evasion._intervals import Box
from carbide.evasion._leaves import settled
from carbide.evasion._linear_bounds import LinearBounds, OutOfTime, Region
from carbide.evasion._task import Fate, Task, Unsafe
from carbide.evasion._tightening import Choice, Tight, pushes, taken_together, tightened
from carbide.types import Array, UnsoundError

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
            closed, witness = settled(task, bounds.take(torch.tensor([i])), one, {n: s[i : i + 1] for n, s in signs.items()})
            if witness is not None:
                return _Found([], witness)
            stuck |= not closed
            continue
        at = int(scores[node][i].argmax())
        slopes, weights = ({n: v[i : i + 1] for n, v in chosen.items()} for chosen in (tight.slopes, tight.weights))
        start = Tight(tight.low[i : i + 1], slopes, weights, tight.shares[i : i + 1])
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
