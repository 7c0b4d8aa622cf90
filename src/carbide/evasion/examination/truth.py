"""Whether a gradient tells the truth: along a segment its integral must be what the function gained.

For every function that is differentiable almost everywhere and has no jumps, ``f(b) - f(a)`` is the integral of
``f'(x) . (b - a)`` over the segment. A stopped, false or shattered gradient breaks that, a kink of ReLU does not. A second
comparison at a ten-thousandth of the segment tells steps (no change nearby) from lies (a change nearby that the gradient denies).

>>> import torch
>>> a, b = torch.zeros(1, 2), torch.ones(1, 2)
>>> honest = compare(lambda x: x.prod(1), a, b, near=1e-4)
>>> round(float(honest.gained[0]), 4), round(float(honest.promised[0]), 2), honest.far_lies, honest.near_lies
(1.0, 1.0, False, False)
>>> stopped = compare(lambda x: x.detach().sum(1) + 0 * x.sum(1), a, b, near=1e-4)
>>> stopped.far_lies, stopped.near_lies, stopped.dead
(True, True, True)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

NODES = 16  # midpoints at which the gradient is asked
LIE = 0.3  # share by which what was gained and what was promised may differ: kinks and curvature stay far below


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """What ``m`` segments showed: ``gained`` and ``promised`` ``(m,)`` over the whole, the same near their nodes, shares in [0, 1].

    ``dead``: the gradient is zero nearly everywhere. ``moving``: the share of segments on which the function moves at all.
    ``broken``: the share of nodes with a value or a gradient that is not finite.
    """

    gained: Tensor
    promised: Tensor
    near_gained: Tensor
    near_promised: Tensor
    dead: bool
    moving: float
    broken: float

    @property
    def far_lies(self) -> bool:
        """Whether the gradient does not account for what the function gains over most segments that move."""
        return self.moving >= 0.25 and _differ(self.gained, self.promised) > LIE

    @property
    def near_lies(self) -> bool:
        """Whether it does not even account for what the function gains nearby."""
        return _differ(self.near_gained, self.near_promised) > LIE

    @property
    def near_moves(self) -> bool:
        """Whether the function changes nearby at most nodes."""
        return bool((self.near_gained.abs() > 1e-3 * self.gained.abs().median().clamp_min(1e-300)).double().mean() > 0.5)


def compare(f: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, *, near: float, grain: float = 1e-9) -> Truth:
    """Ask ``f`` ``(m, *shape) -> (m,)`` along the segments from ``a`` to ``b``; changes below ``grain`` (relative) are rounding."""
    along = b - a
    with torch.no_grad():
        start, stop = f(a), f(b)
    promised, bad, dead, near_gained, near_promised = torch.zeros_like(start), 0, 0, [], []
    for i in range(NODES):
        x = a + (i + 0.5) / NODES * along
        value, gradient = slope(f, x)
        slopes = (gradient * along).flatten(1).sum(1)
        good = value.isfinite() & slopes.isfinite()
        bad, dead = bad + int((~good).sum()), dead + int((gradient.flatten(1) == 0).all(1).sum())
        promised = promised + slopes.nan_to_num(0.0, 0.0, 0.0) / NODES
        if i % 4 == 1:
            with torch.no_grad():
                step = (f(x + near / 2 * along) - f(x - near / 2 * along)) / near
            near_gained.append(step[good])
            near_promised.append(slopes[good])
    gained = (stop - start).nan_to_num(0.0, 0.0, 0.0)
    moving = gained.abs() > grain * (1 + start.abs().nan_to_num(0.0, 0.0, 0.0))
    total = NODES * max(len(a), 1)
    return Truth(gained=gained[moving], promised=promised[moving], near_gained=torch.cat(near_gained), near_promised=torch.cat(near_promised),
                 dead=dead > 0.9 * total, moving=float(moving.double().mean()) if len(a) else 0.0, broken=bad / total)  # fmt: skip


def slope(f: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """``f(x)`` and its gradient; zeros where no gradient comes back."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        value = f(x)
    if not value.requires_grad:
        return value.detach(), torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    return value.detach(), torch.zeros_like(x) if gradient is None else gradient


def _differ(gained: Tensor, promised: Tensor) -> float:
    """The median share by which the two differ, 0 where neither is anything."""
    if len(gained) == 0:
        return 0.0
    total = gained.abs() + promised.abs()
    floor = 1e-6 * total.median().clamp_min(1e-300)
    known = total > floor
    return float(((gained - promised).abs() / total)[known].median()) if bool(known.any()) else 0.0
