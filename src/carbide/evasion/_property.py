"""Wang et al. 2021, https://arxiv.org/abs/2103.06624: whether a function can do what a property forbids, decided from cheap to dear.

A descent from many starts looks for an input that does it; then linear bounds, closer ones with chosen slopes, and branch
and bound show that there is none, on cuts of the input where few inputs are free and on signs of neurons. An input counts
only when the file's own runtime answers what the property forbids, to the last digit.

>>> from types import SimpleNamespace
>>> from carbide.space.vnnlib import parse_vnnlib
>>> class Line:
...     inputs, outputs, row, dtype = 1, 1, (1,), np.float32
...     def __call__(self, x):
...         return 2.0 * x + 1.0
...     def reading(self, lower, upper):
...         net = torch.nn.Linear(1, 1).requires_grad_(False)
...         _ = net.load_state_dict({"weight": torch.tensor([[2.0]]), "bias": torch.tensor([1.0])})
...         return SimpleNamespace(module=net, rows=0, note="")
>>> text = "(declare-const X_0 Real) (declare-const Y_0 Real) (assert (<= 0 X_0)) (assert (<= X_0 1)) (assert (>= Y_0 {}))"
>>> [decide(Line(), parse_vnnlib(text.format(limit)), timeout=9.0, rng=np.random.default_rng(0)).word for limit in (2.5, 3.5)]
['sat', 'unsat']
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._branching import by_inputs, by_signs
from carbide.evasion._faithful import compared
from carbide.evasion._intervals import Box, growth
from carbide.evasion._linear_bounds import CELLS, OWN, LinearBounds, Net, OutOfTime, Region
from carbide.evasion._task import Fate, Task, Unsafe
from carbide.evasion._tightening import ROOM, tightened
from carbide.evasion._violation import Search
from carbide.space.vnnlib import Property
from carbide.types import Array, InputError, Rng, UnsoundError

INPUTS = 10  # free inputs up to which the input is cut before signs are
SHARE = 0.7  # of the time left, for cuts of the input where signs can be cut too
SLOPES = 20  # gradient steps of the slopes before anything is cut
MEMORY = 1 << 31  # bytes of parts that wait
SURE = "the net answers in its stored precision to inputs rounded to it, and sums may be taken in any order"


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdict:
    """``word`` is sat (``witness`` ``(inputs,)`` does what is forbidden, with ``outputs``), unsat (no input does), timeout or unknown.

    ``how`` names what decided it, ``parts`` how many parts were bounded; ``assumptions`` belong to unsat, ``note`` to unknown.
    """

    word: str
    how: str
    witness: Array | None = None
    outputs: Array | None = None
    parts: int = 0
    assumptions: tuple[str, ...] = ()
    note: str = ""


class _Area(NamedTuple):
    """A box of inputs ``(1, *row)`` and the alternatives that must not happen in it."""

    box: Box
    unsafe: Unsafe


@dataclass(frozen=True, kw_only=True, eq=False)
class PropertyTask(Task):
    """Alternatives of a property that are open in a box."""

    area: Region
    open_: Unsafe
    search: Search

    @property
    def region(self) -> Region:
        """The box."""
        return self.area

    @property
    def unsafe(self) -> Unsafe:
        """The open alternatives."""
        return self.open_

    def first_broken(self, points: Array) -> Array | None:
        """The first counterexample among these inputs ``(m, *row)`` and what a few steps make of the nearest of them."""
        return self.search.near(points)


def decide(function: Any, unsafe: Property, *, timeout: float, rng: Rng, steps: int = 10) -> Verdict:
    """Whether the function ``(n, inputs) -> (n, outputs)`` can do what the property forbids, within ``timeout`` seconds.

    ``function`` is an ``OnnxFunction`` or has its ``inputs``, ``outputs``, ``row`` and ``reading``; ``steps`` are the gradient
    steps of each part. The clock is looked at between walks through the net.

    Raises:
        InputError: if the property is about another number of inputs or outputs.
        UnsoundError: if an input that was tried does what a bound excludes.
    """
    start = time.monotonic()
    if (unsafe.inputs, unsafe.outputs) != (function.inputs, function.outputs):
        raise InputError(f"the net maps {function.inputs} numbers to {function.outputs}, the property speaks of {unsafe.inputs} inputs and "
                         f"{unsafe.outputs} outputs; give the property of this net")  # fmt: skip
    if not unsafe.regions:
        return Verdict(word="unsat", how="the property as it is written: nothing satisfies it")
    areas = _areas(unsafe, function.row)
    reading = function.reading(np.min([r.lower for r in unsafe.regions], axis=0), np.max([r.upper for r in unsafe.regions], axis=0))
    searches = [Search(function, unsafe, reading.module, a.box, a.unsafe, start + timeout) for a in areas]
    for search in searches:
        if (witness := search.run(rng)) is not None:
            return _broken(function, witness, "attack", 0)
    if reading.module is None:
        return Verdict(word="unknown", how="attack", note=f"nothing can be proven: {reading.note}")
    said = (SURE, f"the file answers as Carbide's reading of it, as it did on {reading.rows} rows of the box")
    return _proven(function, reading.module, areas, searches, start + timeout, steps, said)


def _proven(function: Any, module: Any, areas: list[_Area], searches: list[Search], end: float, steps: int, said: tuple[str, ...]) -> Verdict:
    parts, hows, left = 0, [], []
    for number, (area, search) in enumerate(zip(areas, searches, strict=True)):
        now = time.monotonic()
        due = now + max(0.0, end - now) / (len(areas) - number)
        try:
            fate, how = _Proof(module, area, search, due, steps).run()
        except InputError as error:  # a layer whose bounds are not known
            return Verdict(word="unknown", how="attack", note=str(error), parts=parts)
        parts += fate.nodes
        if fate.witness is not None:
            return _broken(function, fate.witness, how, parts)
        (hows if fate.certified else left).append((fate, how))
    how = max((h for _, h in hows + left), key=HOWS.index)
    if not left:
        return Verdict(word="unsat", how=how, parts=parts, assumptions=said)
    if all(fate.stuck for fate, _ in left):
        return Verdict(word="unknown", how=how, parts=parts, note="every neuron is settled and rounding leaves it open")
    return Verdict(word="timeout", how=how, parts=parts)


def _broken(function: Any, witness: Array, how: str, parts: int) -> Verdict:
    flat = witness.reshape(-1)
    return Verdict(word="sat", how=how, witness=flat, outputs=function(flat[None])[0], parts=parts)


def _areas(unsafe: Property, row: tuple[int, ...]) -> list[_Area]:
    """The regions by their box; an alternative with fewer inequalities than others repeats its last one."""
    found: dict[bytes, list[Any]] = {}
    for region in unsafe.regions:
        found.setdefault(region.lower.tobytes() + region.upper.tobytes(), []).append(region)
    areas = []
    for same in found.values():
        most = max(1, *(len(r.bound) for r in same))
        pick = [np.minimum(np.arange(most), len(r.bound) - 1) for r in same if len(r.bound)]
        rows = [r for r in same if len(r.bound)]
        matrix = np.stack([r.matrix[p] for r, p in zip(rows, pick, strict=True)]) if rows else np.zeros((0, 1, unsafe.outputs))
        bound = np.stack([r.bound[p] for r, p in zip(rows, pick, strict=True)]) if rows else np.zeros((0, 1))
        lower, upper = (torch.as_tensor(v.reshape(1, *row), dtype=torch.float64) for v in (same[0].lower, same[0].upper))
        areas.append(_Area(Box(lower, upper), Unsafe(torch.as_tensor(matrix), torch.as_tensor(bound))))
    return areas


HOWS = ("linear bounds", "linear bounds with chosen slopes", "cuts of the input", "cuts on signs")


class _Proof:
    """One area: bounds of the whole box, then branch and bound about the alternatives that they leave open."""

    def __init__(self, module: Any, area: _Area, search: Search, due: float, steps: int) -> None:
        self.search, self.due, self.steps, self.unsafe = search, due, steps, area.unsafe
        dtype = next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)
        self.region = Region(area.box, (area.box.lower + area.box.upper) / 2, math.inf, torch.zeros(1, dtype=torch.float64))
        compared(module, self.region.clean.to(dtype), self.region.box)
        self.net = Net(module, self.region, torch.finfo(dtype).eps, deadline=due)

    def run(self) -> tuple[Fate, str]:
        """The fate of the area and what decided it (or was last tried)."""
        try:
            bounds = self._walked(refine=False)
            bounds = self._walked(refine=True) if len(self.unsafe.need) else bounds
            if not len(self.unsafe.need):
                return Fate(True, None, 0), HOWS[0]
            rows = torch.zeros(len(self.unsafe.need), dtype=torch.long)
            tight = tightened(bounds.take(rows), self.unsafe.matrix, steps=SLOPES, needs=self.unsafe.need)
            self._keep((tight.low <= 0)[:, 0])
        except OutOfTime:
            return Fate(False, None, 0), HOWS[0]
        if not len(self.unsafe.need):
            return Fate(True, None, 0), HOWS[1]
        return self._cut(bounds)

    @torch.no_grad()
    def _walked(self, *, refine: bool) -> LinearBounds:
        """Bounds of the box; what they exclude is no longer open.

        Raises:
            UnsoundError: if something was seen that they exclude.
        """
        bounds = LinearBounds(self.net, self.region, refine=refine)
        if not refine:  # what is compared is a sum of rounded outputs in float64
            size = torch.maximum(*(v.abs() for v in bounds.boxes[self.net.output]))[0]
            room = ROOM * (1 + self.unsafe.need.abs()) + growth(len(size), OWN) * (self.unsafe.matrix.abs() @ size)
            self.unsafe = Unsafe(self.unsafe.matrix, self.unsafe.need + room)
        low = bounds.lower(self.net.output, self.unsafe.matrix.flatten(0, 1)[None]).reshape(self.unsafe.need.shape)
        if bool((low > self.search.least[self.search.open_]).any()):
            raise UnsoundError(
                "a bound excludes outputs that an input of the box was seen to give; one of the two is wrong: keep the net and report it"
            )
        self._keep((low <= self.unsafe.need).all(1))
        return bounds

    def _keep(self, open_: Tensor) -> None:
        self.unsafe = Unsafe(*(v[open_] for v in self.unsafe))
        self.search.open_ = self.search.open_[open_]

    def _cut(self, bounds: LinearBounds) -> tuple[Fate, str]:
        free = int((self.region.box.upper > self.region.box.lower).sum())
        hinges = sum(bounds.net.steps[node].shape.numel() for node in bounds.hinges())
        task = PropertyTask(net=self.net, area=self.region, open_=self.unsafe, search=self.search, steps=self.steps, nodes=1 << 40,
                            together=max(8, min(256, CELLS // (128 * self.net.widest))))  # fmt: skip
        fate, how = Fate(False, None, 0), HOWS[3]
        if free <= INPUTS or not hinges:
            now = time.monotonic()
            self.net.deadline = now + (SHARE if hinges else 1.0) * max(0.0, self.due - now)
            fate, how = by_inputs(task), HOWS[2]
        if not fate.certified and fate.witness is None and hinges:
            self.net.deadline = self.due
            signs = replace(task, together=max(32, task.together), nodes=max(1, MEMORY // (32 * hinges)))
            further = by_signs(signs, bounds)
            fate, how = further._replace(nodes=fate.nodes + further.nodes), HOWS[3]
        return fate, how
