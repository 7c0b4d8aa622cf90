"""Madry et al. 2018, https://arxiv.org/abs/1706.06083: descent from many starts towards outputs that a property forbids.

What is descended is by how much an alternative's inequalities are missed; what counts is only what the function itself
answers, compared with the property exactly, in double precision.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._intervals import Box
from carbide.evasion._linear_bounds import CELLS
from carbide.evasion._task import Unsafe
from carbide.space.vnnlib import Property
from carbide.types import Array, Rng

STARTS, STEPS = 64, 40  # of the attack before any bound
SHOTS = 4096  # random inputs that are asked where there are no gradients
NEAR, POLISH = 8, 8  # points of a part that are moved on, and by how many steps
FIRST, DECAY = 0.5, 0.9  # the first step in half widths of the box, and its decay
CLOSE = 1e-6  # what is missed by less, relative to the outputs' size, is shown to the function


class Search:
    """The hunt for a counterexample in one box ``(1, *row)``.

    ``least`` ``(a, m)`` is the least that was seen of ``matrix @ outputs``, ``open_`` are the alternatives that nothing excludes yet.
    """

    def __init__(self, function: Any, whole: Property, module: Any, box: Box, unsafe: Unsafe, end: float) -> None:
        self.function, self.whole, self.module, self.unsafe, self.end = function, whole, module, unsafe, end
        self.lower, self.upper = box
        self.least, self.open_ = torch.full_like(unsafe.need, math.inf), torch.arange(len(unsafe.need))
        if module is not None:
            self.dtype = next((t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()), torch.float32)

    def run(self, rng: Rng) -> Array | None:
        """A counterexample ``(*row)``, or None where none was found."""
        count = len(self.unsafe.need)
        starts = SHOTS if self.module is None else max(2 * count, STARTS)
        points = self._drawn(rng, min(starts, max(1, CELLS // (8 * self.lower.numel()))))
        if self.module is None or not count or (found := self.shown(points[:1])) is not None:
            return self.shown(points)
        for start in range(0, len(points), 256):
            x = torch.as_tensor(points[start : start + 256])
            if (found := self._descend(x, torch.arange(start, start + len(x)) % count, STEPS)) is not None:
                return found
        return None

    def near(self, points: Array) -> Array | None:
        """A counterexample among these inputs ``(m, *row)`` or a few steps from the nearest ones."""
        x = torch.as_tensor(points)
        with torch.no_grad():
            missed = self._gaps(x).amax(2)[:, self.open_]
        order = missed.amin(1).argsort()[:NEAR]
        return self._descend(x[order], self.open_[missed[order].argmin(1)], POLISH)

    def shown(self, points: Array) -> Array | None:
        """The first of these inputs ``(m, *row)``, brought into the box, at which the function itself does what is forbidden."""
        low, high = self.lower.numpy(), self.upper.numpy()
        x = points.clip(low, high)
        rounded = x.astype(self.function.dtype).astype(np.float64)  # what the function sees is said where the box allows it
        x = np.where((rounded >= low) & (rounded <= high), rounded, x)
        flat = x.reshape(len(x), -1)
        hit = np.flatnonzero(self.whole.met(flat, self.function(flat)))
        return x[hit[0]] if len(hit) else None

    def _drawn(self, rng: Rng, n: int) -> Array:
        """The middle of the box, then inputs drawn from it, every second one pushed to a corner in most of its features."""
        share = rng.random((n, *self.lower.shape[1:]))
        corner = (share > 0.5) & (np.arange(n) % 2 == 1).reshape(-1, *[1] * (share.ndim - 1))
        share = np.where(corner, np.round(share), share)
        share[0] = 0.5
        low, high = self.lower.numpy(), self.upper.numpy()
        return low + share * (high - low)

    def _gaps(self, x: Tensor) -> Tensor:
        """By how much inputs ``(m, *row)`` miss each inequality ``(m, alternatives, rows)``."""
        outputs = self.module(x.to(self.dtype)).double()
        seen = torch.einsum("amk,nk->nam", self.unsafe.matrix, outputs)
        if len(seen):
            self.least = torch.minimum(self.least, seen.detach().amin(0))
        return seen - self.unsafe.need

    def _descend(self, x: Tensor, at: Tensor, steps: int) -> Array | None:
        """Sign steps down what alternative ``at`` ``(m,)`` is missed by; the first input that the function confirms."""
        half, rows = (self.upper - self.lower) / 2, torch.arange(len(x))
        for step in range(steps + 1):
            if time.monotonic() > self.end:
                return None
            x = x.detach().requires_grad_(True)
            gaps = self._gaps(x)[rows, at]
            close = gaps.detach().amax(1) <= CLOSE * (1 + self.unsafe.need.abs().amax())
            if bool(close.any()) and (found := self.shown(x.detach()[close].numpy())) is not None:
                return found
            if step == steps:
                return None
            (slope,) = torch.autograd.grad((gaps.clamp_min(0).sum(1) + gaps.amax(1)).sum(), x)
            x = (x - FIRST * DECAY**step * half * slope.sign()).detach().clamp(self.lower, self.upper)
        return None
