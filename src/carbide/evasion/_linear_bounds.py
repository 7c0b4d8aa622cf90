"""Zhang et al. 2018, https://arxiv.org/abs/1811.00866: linear bounds of a torch net, passed backwards from any layer to its inputs.

A combination ``a`` of a layer's outputs is bounded from below by walking back: affine layers hand their coefficients on
exactly, an activation is replaced by the line on the side that the sign of its coefficient asks for, and at the input
the least value over the ball is known in closed form.

Rounding: each layer's computed output differs from its exact one by at most a ``room`` that follows from the intervals of
its inputs (the net's own rounding in its stored precision, by the standard bound n u of a sum of n terms, doubled, and
that of the walk itself in float64). Every layer's room times its coefficient is taken off, so that the bounds hold for
the net as it is evaluated. Layers that are not understood here are replaced by their interval, never guessed.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn import functional as F

from carbide.evasion._affine import Affine, affine_of
from carbide.evasion._intervals import Box, Pass, growth, slope_of, traced
from carbide.evasion._lines import SIGMOID, TANH, Bend, Lines, Windows, bend, hinge
from carbide.types import InputError

CELLS = 1 << 20  # coefficients that are held at once (8 MiB, so that they stay near the processor and memory is reused)
SLACK = 1e-9  # the judge lets changes be this much longer than eps
OWN = 2.0**-52  # the rounding unit in which bounds are computed


class OutOfTime(Exception):
    """The time that a net's bounds were given is over."""


class Region(NamedTuple):
    """The inputs of each row: those in ``box`` whose distance from ``clean`` in Lp is at most ``eps`` ``(n,)``."""

    box: Box
    clean: Tensor
    p: float
    eps: Tensor

    @classmethod
    def of(cls, model: Any, x: Any, p: float, eps: Any) -> Region:
        """The balls around rows ``x`` ``(n, *shape)`` within the space; what cannot change has no room."""
        space = model.space
        clean, low, high = (torch.as_tensor(v, dtype=torch.float64, device=model.device) for v in (x, space.lower, space.upper))
        eps = torch.as_tensor(eps, dtype=torch.float64, device=model.device).expand(len(clean))
        wide = eps.reshape(-1, *[1] * (clean.ndim - 1)) * torch.as_tensor(space.mutable, device=model.device)
        box = Box(torch.maximum(clean - wide, torch.minimum(low, clean)), torch.minimum(clean + wide, torch.maximum(high, clean)))
        return cls(box, clean, p, eps)

    def take(self, rows: Tensor) -> Region:
        """The regions of these rows."""
        return Region(Box(self.box.lower[rows], self.box.upper[rows]), self.clean[rows], self.p, self.eps[rows])

    def lowest(self, a: Tensor) -> Tensor:
        """The least ``a . x`` ``(n, k)`` for coefficients ``(n, k, *shape)``: over the box or the ball, whichever says more."""
        a = a.flatten(2)
        centre, radius = ((self.box.upper + self.box.lower) / 2).flatten(1), ((self.box.upper - self.box.lower) / 2).flatten(1)
        found = dot(a, centre) - dot(a.abs(), radius)
        if math.isinf(self.p):
            return found
        length = a.square().sum(2).sqrt() if self.p == 2 else a.abs().amax(2)
        return torch.maximum(found, dot(a, self.clean.flatten(1)) - self.eps[:, None] * length * (1 + growth(a.shape[2], OWN)))

    def lowest_at(self, a: Tensor) -> Tensor:
        """Inputs ``(n, *shape)`` of the box (for Linf balls: of the region) at which ``a . x`` ``(n, *shape)`` is least."""
        return torch.where(a > 0, self.box.lower, torch.where(a < 0, self.box.upper, self.clean.clamp(*self.box)))


class Step(NamedTuple):
    """A node that depends on the input: affine, a hinge (with its slope below 0), a bend, max pooling, or known by its interval only."""

    node: fx.Node
    parents: tuple[fx.Node, ...]
    shape: torch.Size
    affine: Affine | None = None
    hinge: float | None = None
    bend: Bend | None = None
    windows: Windows | None = None


class Net:
    """A module as a list of steps, read on one row; ``rounding`` is the unit of its stored precision.

    Walks that begin or go on after ``deadline`` (of ``time.monotonic``) raise ``OutOfTime``.
    """

    def __init__(self, module: nn.Module, region: Region, rounding: float, *, deadline: float = math.inf) -> None:
        self.rounding, self.deadline, graph = rounding, deadline, traced(module)
        self.run = Pass(graph, rounding)
        self.steps: dict[fx.Node, Step] = {}
        seen: dict[fx.Node, Any] = {}
        with torch.no_grad():
            for node in graph.graph.nodes:
                seen[node] = (
                    _cloned(region.take(torch.arange(1, device=region.clean.device)).box) if node.op == "placeholder" else self._value(node, seen)
                )
                if isinstance(seen[node], Box) and node.op != "output":
                    if seen[node].lower.ndim < 2:
                        raise InputError(f"linear bounds know results (n, 1) and not (n,), and {node.name} gives one number a row; keep its axis")
                    self.steps[node] = self._step(node, seen)
                if node.op == "output":
                    self.output: fx.Node = node.args[0]
        self.constants = {node: value for node, value in seen.items() if not isinstance(value, Box) and node.op == "get_attr"}
        self.classes = self.steps[self.output].shape[0]

    @property
    def entry(self) -> fx.Node:
        """The node of the input."""
        return next(iter(self.steps))

    @property
    def widest(self) -> int:
        """The most numbers that a step gives a row."""
        return max(math.prod(step.shape) for step in self.steps.values())

    def _value(self, node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
        own = {n: _cloned(values[n]) for n in node.all_input_nodes}  # layers that work in place get copies
        return self.run.value(node, own, torch.float64)

    def _step(self, node: fx.Node, seen: Mapping[fx.Node, Any]) -> Step:
        args: Any = map_arg(node.args, lambda n: seen[n])
        kwargs: Any = map_arg(node.kwargs, lambda n: seen[n])
        named: Any = node.args[0] if node.target is torch.cat else node.args
        parents: tuple[fx.Node, ...] = (
            tuple(n for n in named if isinstance(n, fx.Node) and isinstance(seen[n], Box)) if node.op != "placeholder" else ()
        )
        out = seen[node]
        layer = self.run.graph.get_submodule(str(node.target)) if node.op == "call_module" else None
        shape = out.lower.shape[1:]
        blank = Step(node, parents, shape)
        if node.op == "placeholder":
            return blank
        if (slope := _hinge_of(node, layer)) is not None:
            return blank._replace(hinge=slope)
        for f, kind, calls in ((SIGMOID, nn.Sigmoid, (torch.sigmoid, "sigmoid")), (TANH, nn.Tanh, (torch.tanh, "tanh"))):
            if isinstance(layer, kind) or (layer is None and node.target in calls):
                return blank._replace(bend=f)
        pool = layer if isinstance(layer, nn.MaxPool2d) else _pool_of(node)
        if pool is not None:
            return blank._replace(windows=Windows.of(pool, seen[node.all_input_nodes[0]].lower.shape[1:], out.lower.device))
        return blank._replace(affine=affine_of(self.run, node, args, kwargs, out))


def _hinge_of(node: fx.Node, layer: Any) -> float | None:
    if isinstance(layer, nn.ReLU) or node.target in (torch.relu, F.relu) or (node.op == "call_method" and node.target == "relu"):
        return 0.0
    slope = layer.negative_slope if isinstance(layer, nn.LeakyReLU) else slope_of(node) if node.target is F.leaky_relu else None
    return float(slope) if slope is not None and 0 <= slope <= 1 else None


def _pool_of(node: fx.Node) -> nn.MaxPool2d | None:
    if node.target is not F.max_pool2d:
        return None
    names: tuple[str, ...] = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return nn.MaxPool2d(**{k: v for k, v in {**dict(zip(names, node.args[1:], strict=False)), **node.kwargs}.items() if k in names})  # type: ignore[arg-type]


def _cloned(value: Any) -> Any:
    return value.map(torch.clone) if isinstance(value, Box) else value


def dot(a: Tensor, b: Tensor) -> Tensor:
    """``(n, k, d) . (n, d)`` or ``(d,)`` as ``(n, k)``."""
    return torch.einsum("nkd,nd->nk", a, b) if b.ndim == 2 else a @ b


class LinearBounds:
    """Bounds of every layer of a net over a batch of regions, as close as asked, and of any combination of a layer's outputs.

    With ``refine`` the inputs of activations are bounded backwards wherever their interval leaves the matter open. ``known``
    are boxes of layers that hold besides; where they contradict what follows from the others, no input is left and ``empty``
    ``(n,)`` says so.
    """

    def __init__(self, net: Net, region: Region, *, refine: bool = True, known: Mapping[fx.Node, Box] | None = None) -> None:
        self.net, self.region = net, region
        self.boxes: dict[fx.Node, Box] = {}
        self.rooms: dict[fx.Node, Tensor] = {}
        self.lines: dict[fx.Node, Any] = {}
        self.empty = torch.zeros(len(region.clean), dtype=torch.bool, device=region.clean.device)
        values: dict[fx.Node, Any] = {}
        for node in net.run.graph.graph.nodes:
            step = net.steps.get(node)
            if step is None:
                values[node] = None if node.op == "output" else net.constants[node] if node in net.constants else net._value(node, values)
                continue
            if node.op == "placeholder":
                size = torch.maximum(region.box.lower.abs(), region.box.upper.abs())
                self.rooms[node] = net.rounding * size + SLACK + growth(region.clean[0].numel(), OWN) * size
                values[node] = region.box.widen(self.rooms[node])
            else:
                values[node] = net._value(node, values)
            if known is not None and node in known:
                values[node] = self._meet(values[node], known[node])
            self.boxes[node] = values[node]
            self._prepare(step)
            if refine and step.affine is not None and any(net.steps[u].affine is None for u in node.users if u in net.steps) and self._gains(step):
                values[node] = self._refined(step)
                self.boxes[node] = values[node]

    def _meet(self, a: Box, b: Box) -> Box:
        lower, upper = torch.maximum(a.lower, b.lower), torch.minimum(a.upper, b.upper)
        self.empty |= (lower > upper).flatten(1).any(1)
        return Box(torch.minimum(lower, upper), upper)

    def _prepare(self, step: Step) -> None:
        """The step's room and the lines in its place."""
        if not step.parents:
            return
        out = _largest(self.boxes[step.node])
        sources = [_largest(self.boxes[parent]) for parent in step.parents]
        own = growth(max(math.prod(step.shape), *(x[0].numel() for x in sources)), OWN)
        if step.affine is not None:
            size = out if step.affine.size is None else step.affine.size(*sources)
            self.rooms[step.node] = (growth(step.affine.terms, self.net.rounding) if step.affine.size is not None else 0.0) * size + own * size
            return
        size = out
        if step.hinge is not None:
            size, self.lines[step.node] = 2 * sources[0], hinge(self.boxes[step.parents[0]], step.hinge)
        elif step.bend is not None:
            size, self.lines[step.node] = 2 * sources[0] + 2, bend(self.boxes[step.parents[0]], step.bend)
        elif step.windows is not None:
            size = 4 * sources[0].flatten(1).amax(1).reshape(-1, *[1] * (out.ndim - 1)).expand_as(out)
            self.lines[step.node] = step.windows.lines(self.boxes[step.parents[0]])
        rounded = growth(4, self.net.rounding) * (1 + out) if step.bend is not None else 0.0
        self.rooms[step.node] = own * size + rounded

    def _gains(self, step: Step) -> bool:
        """Whether a walk can say more than intervals: behind an activation, or in a ball that is no box."""
        before, waiting = set(), [step.node]
        while waiting:
            node = waiting.pop()
            if node not in before:
                before.add(node)
                waiting += self.net.steps[node].parents
        return not math.isinf(self.region.p) or any(self.net.steps[n].affine is None and self.net.steps[n].parents for n in before)

    def _refined(self, step: Step) -> Box:
        """The step's box where it is open, bounded backwards, a share of its entries at a time."""
        lower, upper = (v.flatten(1).clone() for v in self.boxes[step.node])
        hinged = all(self.net.steps[u].hinge is not None for u in step.node.users if u in self.net.steps)
        open_ = (lower < 0) & (upper > 0) if hinged else upper > lower
        most = int(open_.sum(1).max())
        order = open_.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most]
        each = max(1, CELLS // (2 * len(lower) * self.net.widest))
        for entries in order.split(each, dim=1):
            unit = lower.new_zeros(*entries.shape, lower.shape[1]).scatter_(2, entries[:, :, None], 1.0)
            found = self.lower(step.node, torch.cat([unit, -unit], 1).reshape(len(lower), -1, *step.shape))
            asked, low, high = open_.gather(1, entries), lower.gather(1, entries), upper.gather(1, entries)
            # A row with fewer open entries than its batch is given others too; they are left, so that batches do not matter.
            lower.scatter_(1, entries, torch.where(asked, torch.maximum(low, found[:, : entries.shape[1]]), low))
            upper.scatter_(1, entries, torch.where(asked, torch.minimum(high, -found[:, entries.shape[1] :]), high))
        return Box(lower, upper).map(lambda v: v.reshape(-1, *step.shape))

    def lower(self, start: fx.Node, a: Tensor, *, slopes: Mapping[fx.Node, Tensor] | None = None, pushes: Mapping[fx.Node, Tensor] | None = None,
              seen: dict[fx.Node, Tensor] | None = None) -> Tensor:  # fmt: skip
        """Lower bounds ``(n, k)`` of ``a . outputs`` of a node, for coefficients ``(n, k, *shape)``.

        ``slopes`` are slopes ``(n, k or 1, *shape)`` in [least, 1] of the lines below hinges, ``pushes`` are taken off the
        coefficients of a hinge's input (multipliers of what is known of its sign), ``seen`` receives each node's coefficients.

        Raises:
            OutOfTime: when the net's deadline passes.
        """
        waiting, total = {start: a}, a.new_zeros(a.shape[:2])
        for node in reversed(self.net.steps):
            a = waiting.pop(node, None)  # type: ignore[assignment]
            if a is None:
                continue
            if time.monotonic() > self.net.deadline:
                raise OutOfTime
            if seen is not None:
                seen[node] = a
            step, flat = self.net.steps[node], a.flatten(2)
            if step.hinge is not None:
                gained, part = self._hinged(step, flat, slopes or {})
                part = part.reshape(a.shape) - (pushes or {}).get(node, 0.0)
                total, parent = total + gained, step.parents[0]
                waiting[parent] = waiting[parent] + part if parent in waiting else part
                continue
            total = total - dot(flat.abs(), self.rooms[node].flatten(1))
            if not step.parents:
                total = total + self.region.lowest(a)
                continue
            gained, parts = self._back(step, a, flat)
            total = total if gained is None else total + gained
            for parent, part in zip(step.parents, parts, strict=bool(parts)):
                waiting[parent] = waiting[parent] + part if parent in waiting else part
        return total

    def _hinged(self, step: Step, flat: Tensor, slopes: Mapping[fx.Node, Tensor]) -> tuple[Tensor, Tensor]:
        """What a hinge adds ``(n, k)``, its room taken off, and the coefficients ``(n, k, d)`` of its input.

        With ``up`` the positive part of the coefficients the negative part is ``flat - up`` and the absolute value ``2 up - flat``, so that
        the coefficients, of which there are many, are gone over as seldom as can be.
        """
        lines, room = self.lines[step.node], self.rooms[step.node].flatten(1)
        below, high, shift = lines.low.slope[:, None], lines.high.slope[:, None].flatten(2), lines.high.shift.flatten(1)
        if step.node in slopes:
            below = torch.where(self.unsure(step.node)[:, None], slopes[step.node], below)
        up = flat.clamp_min(0)
        part = torch.addcmul(flat * high, up, below.flatten(2) - high)
        return dot(flat, shift + room) - dot(up, shift + 2 * room), part

    def _back(self, step: Step, a: Tensor, flat: Tensor) -> Any:
        """What a step that is no hinge adds ``(n, k)`` (None = nothing) and its parents' coefficients."""
        if step.affine is not None:
            bias = None if step.affine.bias is None else flat @ step.affine.bias.flatten()
            parts = step.affine.back(a.reshape(-1, *step.shape))
            return bias, [part.reshape(*a.shape[:2], *part.shape[1:]) for part in parts]
        up, down = flat.clamp_min(0), flat.clamp_max(0)
        if step.windows is not None:
            low, high, line = self.lines[step.node]
            shape = self.net.steps[step.parents[0]].shape
            part = step.windows.back(up, low, shape.numel()) + step.windows.back(down * line.slope[:, None], high, shape.numel())
            return dot(down, line.shift), [part.reshape(*a.shape[:2], *shape)]
        lines: Lines | None = self.lines.get(step.node)
        if lines is None:
            box = self.boxes[step.node]
            return dot(up, box.lower.flatten(1)) + dot(down, box.upper.flatten(1)), []
        part = up.reshape(a.shape) * lines.low.slope[:, None] + down.reshape(a.shape) * lines.high.slope[:, None]
        return dot(up, lines.low.shift.flatten(1)) + dot(down, lines.high.shift.flatten(1)), [part]

    def take(self, rows: Tensor) -> LinearBounds:
        """The bounds of these rows."""
        found = copy.copy(self)
        found.region = self.region.take(rows)
        found.empty = self.empty[rows]
        found.boxes = {node: box.map(lambda v: v[rows]) for node, box in self.boxes.items()}
        found.rooms = {node: room[rows] for node, room in self.rooms.items()}
        found.lines = {node: _taken(lines, rows) for node, lines in self.lines.items()}
        return found

    def hinges(self) -> list[fx.Node]:
        """The nodes whose line below may be chosen."""
        return [node for node, step in self.net.steps.items() if step.hinge is not None]

    def unsure(self, node: fx.Node) -> Tensor:
        """Where the sign of a hinge's input is not known, ``(n, *shape)``."""
        box = self.boxes[self.net.steps[node].parents[0]]
        return (box.lower < 0) & (box.upper > 0)


def _taken(value: Any, rows: Tensor) -> Any:
    if isinstance(value, Tensor):
        return value[rows]
    parts = [_taken(part, rows) for part in value] if isinstance(value, tuple) else value
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts) if isinstance(value, tuple) else value


def _largest(box: Box) -> Tensor:
    return torch.maximum(box.lower.abs(), box.upper.abs())
