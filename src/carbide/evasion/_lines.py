"""Lines below and above an activation on an interval: what linear bounds put in the place of everything that bends.

For each entry ``low.slope * x + low.shift <= f(x) <= high.slope * x + high.shift`` holds on its whole interval. Slopes are
chosen, shifts are computed as the least that the slope needs, so a badly chosen slope costs tightness and never truth.

>>> lines = hinge(Box(torch.tensor([-1.0]), torch.tensor([3.0])), 0.0)
>>> lines.high.slope.item(), lines.high.shift.item()
(0.75, 0.75)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.evasion._intervals import Box

HALVINGS = 30


class Line(NamedTuple):
    """``slope * x + shift``, each of the activation's shape."""

    slope: Tensor
    shift: Tensor


class Lines(NamedTuple):
    """A line below and one above; ``least`` is the smallest slope that a line below through 0 may have where it may be chosen (up to 1)."""

    low: Line
    high: Line
    least: float | None = None


def hinge(box: Box, slope: float) -> Lines:
    """``max(x, slope * x)`` for a slope in [0, 1]: exact where the sign is known, else the chord above and a line through 0 below."""
    l, u = box  # noqa: E741
    known_up, known_down = l >= 0, u <= 0
    unsure = ~known_up & ~known_down
    width = torch.where(unsure, u - l, torch.ones_like(u))
    chord = torch.where(unsure, (u - slope * l) / width, torch.where(known_up, torch.ones_like(u), torch.full_like(u, slope)))
    shift = torch.where(unsure, torch.maximum(u - chord * u, slope * l - chord * l), torch.zeros_like(u))
    below = torch.where(known_up | (unsure & (u > -l)), torch.ones_like(u), torch.full_like(u, slope))
    return Lines(low=Line(below, torch.zeros_like(u)), high=Line(chord, shift), least=slope)


class Bend(NamedTuple):
    """An activation that is odd about 0 up to a constant, rises, and bends down above 0: ``at``, its derivative, and where that takes a value."""

    at: Callable[[Tensor], Tensor]
    derivative: Callable[[Tensor], Tensor]
    place: Callable[[Tensor], Tensor]  # slope -> x >= 0 with that derivative


SIGMOID = Bend(at=torch.sigmoid, derivative=lambda x: torch.sigmoid(x) * torch.sigmoid(-x),
               place=lambda s: torch.logit(((1 + (1 - 4 * s).clamp_min(0).sqrt()) / 2).clamp_max(1 - 1e-16)))  # fmt: skip
TANH = Bend(at=torch.tanh, derivative=lambda x: 1 - torch.tanh(x) ** 2, place=lambda s: torch.atanh((1 - s).clamp(0, 1 - 1e-16).sqrt()))


def bend(box: Box, f: Bend) -> Lines:
    """Tangents where the activation bends away, chords where it bends towards, and between them the tangent through the far end."""
    l, u = box  # noqa: E741
    width = u - l
    thin = width < 1e-9 * (1 + l.abs() + u.abs())
    chord = torch.where(thin, f.derivative((l + u) / 2), (f.at(u) - f.at(l)) / torch.where(thin, torch.ones_like(u), width)).clamp_min(0)
    middle = f.derivative((l + u) / 2)
    above = torch.where(l >= 0, middle, torch.where(u <= 0, chord, _through(f, l, u, chord)))
    below = torch.where(u <= 0, middle, torch.where(l >= 0, chord, _through(f, -u, -l, chord)))
    return Lines(low=Line(below, _shift(f, box, below, upper=False)), high=Line(above, _shift(f, box, above, upper=True)))


def _through(f: Bend, l: Tensor, u: Tensor, chord: Tensor) -> Tensor:  # noqa: E741
    """The slope of the tangent at some d in [0, u] that passes through the curve's point at l < 0, the chord where there is none."""
    near, far = torch.zeros_like(u), u.clamp_min(0)
    bottom = f.at(l)

    def clears(d: Tensor) -> Tensor:
        return f.at(d) + f.derivative(d) * (l - d) >= bottom

    fits = clears(far)
    for _ in range(HALVINGS):
        half = (near + far) / 2
        good = clears(half)
        near, far = torch.where(good, near, half), torch.where(good, half, far)
    return torch.where(fits, f.derivative(far), chord)


def _shift(f: Bend, box: Box, slope: Tensor, *, upper: bool) -> Tensor:
    """The largest (or least) of ``f(x) - slope * x`` on the box: at an end, or where the derivative is the slope."""
    turn = f.place(slope)
    places = (box.lower, box.upper, torch.minimum(torch.maximum(turn if upper else -turn, box.lower), box.upper))
    values = torch.stack([f.at(x) - slope * x for x in places])
    return values.amax(0) if upper else values.amin(0)


class Windows(NamedTuple):
    """Max pooling as the entries (numbered from 1, 0 = outside) that each output ``(outputs, window)`` chooses from."""

    entries: Tensor

    @classmethod
    def of(cls, layer: nn.MaxPool2d, shape: torch.Size, device: torch.device) -> Windows | None:
        """The windows of a pooling layer on images of a shape; None where they are cut off at the border."""
        if layer.ceil_mode or len(shape) != 3:
            return None
        channels = shape[0]
        numbers = torch.arange(1, shape.numel() + 1, dtype=torch.float64, device=device).reshape(1, *shape)
        columns = F.unfold(numbers, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
        return cls(columns.reshape(channels, -1, columns.shape[-1]).transpose(1, 2).reshape(-1, columns.shape[1] // channels).long())

    def lines(self, box: Box) -> tuple[Tensor, Tensor, Line]:
        """For each output ``(n, outputs)``: the entry that bounds it from below, and the entry and line that bound it from above."""
        lower, upper = (torch.cat([torch.full_like(v.flatten(1)[:, :1], -torch.inf), v.flatten(1)], 1)[:, self.entries] for v in box)
        low, high = lower.argmax(2, keepdim=True), upper.argmax(2, keepdim=True)
        top, bottom = upper.gather(2, high).squeeze(2), lower.gather(2, high).squeeze(2)
        rest = upper.scatter(2, high, -torch.inf).amax(2)  # what the others can reach
        alone = rest <= bottom
        slope = torch.where(alone, torch.ones_like(top), (top - rest) / torch.where(alone, torch.ones_like(top), top - bottom).clamp_min(1e-300))
        rest = torch.where(alone, bottom, rest)
        shift = torch.maximum(rest - slope * bottom, top - slope * top)
        entries = self.entries.expand(len(low), *self.entries.shape)
        return entries.gather(2, low).squeeze(2), entries.gather(2, high).squeeze(2), Line(slope, shift)

    def back(self, a: Tensor, at: Tensor, count: int) -> Tensor:
        """Coefficients of the outputs ``(n, k, outputs)`` as coefficients of the chosen entries ``(n, k, count)``."""
        index = at[:, None].expand(len(a), a.shape[1], at.shape[1])
        return a.new_zeros(len(a), a.shape[1], count + 1).scatter_add(2, index, a)[:, :, 1:]
