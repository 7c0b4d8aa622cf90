"""What gradient attacks share: margins at the model's operating point, the ball as tensors, rows that leave as they break."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._scores import SURE, cut
from carbide.run import rows_at_once
from carbide.space.balls import norms, project
from carbide.types import Array, LpBall, Rng

BATCH = 1024  # rows that are attacked together
ROUNDS = 2  # of stretching an L2 change after clipping
SLICE = 96  # rows that go through a net at once on a processor, forward and back
SPARSE = 0.05  # share of the features that a plain L1 step moves


def margins(logits: Tensor, y: Tensor, threshold: float = 0.5) -> Tensor:
    """How far each row ``(n,)`` is from a wrong decision, in logits: below 0 it is wrong."""
    if logits.shape[1] == 2:
        return (logits[:, 1] - logits[:, 0] - cut(threshold)) * (2 * y - 1)
    own = logits.gather(1, y[:, None]).squeeze(1)
    return own - logits.scatter(1, y[:, None], -math.inf).amax(1)


def surely_broken(margin: Tensor, logits: Tensor) -> Tensor:
    """Whether a row is wrong by more than what another batch's rounding could take back."""
    return margin < -SURE * (1 + logits.abs().amax(1))


@dataclass(frozen=True, kw_only=True)
class Ball:
    """The inputs that the threat allows around each row of ``clean`` ``(n, *shape)``, all tensors on one device.

    ``lower`` and ``upper`` are the space's bounds; where they are ``cut``, the Linf ball's box within them.
    """

    clean: Tensor
    lower: Tensor
    upper: Tensor
    p: float
    eps: float
    cut: bool = False

    @classmethod
    def of(cls, model: Any, x: Array, threat: LpBall) -> Ball:
        """The ball around inputs; features that cannot change have no room."""
        space = model.space
        clean = model.tensor(x)
        fixed = torch.as_tensor(~space.mutable, device=clean.device)
        lower = torch.where(fixed, clean, torch.minimum(model.tensor(space.lower), clean))
        upper = torch.where(fixed, clean, torch.maximum(model.tensor(space.upper), clean))
        return cls(clean=clean, lower=lower, upper=upper, p=threat.p, eps=threat.eps)

    def rows(self, keep: Tensor) -> Ball:
        """The balls of these rows."""
        return replace(self, clean=self.clean[keep], lower=self.lower[keep], upper=self.upper[keep])

    def tight(self) -> Ball:
        """The same inputs, to which an ascent projects in fewer passes over memory: the ball of one eps for Linf, else this one."""
        if self.cut or not math.isinf(self.p):
            return self
        lower, upper = torch.maximum(self.lower, self.clean - self.eps), torch.minimum(self.upper, self.clean + self.eps)
        return replace(self, lower=lower, upper=upper, cut=True)

    def project(self, x: Tensor) -> Tensor:
        """The nearest allowed input to each row."""
        if self.cut:
            return x.clamp(self.lower, self.upper)
        return project(x, self.clean, p=self.p, eps=self.eps, lower=self.lower, upper=self.upper)

    def random(self, generator: torch.Generator) -> Tensor:
        """Allowed inputs drawn uniformly from the ball (Linf) or from its directions and radii (L2, L1), then projected."""
        noise = torch.empty_like(self.clean)
        if math.isinf(self.p):
            return self.project(self.clean + noise.uniform_(-self.eps, self.eps, generator=generator))
        noise.normal_(generator=generator)
        radius = self.eps * torch.rand(len(noise), generator=generator, device=noise.device, dtype=noise.dtype)
        return self.project(self.clean + unit(noise, self.p) * spread(radius, noise))

    def near(self, x: Tensor) -> Tensor:
        """An allowed input near each finite row, the nearest one for Linf and L1; for L2 a multiple of the change, clipped, of norm near eps."""
        if self.p != 2:
            return self.project(x)
        change = x - self.clean
        share = (self.eps / norms(change, 2).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
        moved = torch.addcmul(self.clean, change, spread(share, x)).clamp(self.lower, self.upper)
        for _ in range(ROUNDS):  # clipping shortened the change: what was not clipped may go further, by no more than this factor
            share = (share * self.eps / norms(moved - self.clean, 2).clamp_min(torch.finfo(x.dtype).tiny)).clamp_max(1)
            moved = torch.addcmul(self.clean, change, spread(share, x)).clamp(self.lower, self.upper)
        return moved

    def direction(self, gradient: Tensor, *, x: Tensor | None = None, keep: Tensor | None = None) -> Tensor:
        """The steepest direction of norm 1: the sign for Linf, the normalised gradient for L2.

        For L1 it is the sign of the ``keep`` ``(n,)`` largest entries of the gradient (a share ``SPARSE`` of all, if not given), without
        those along which ``x`` has no room.
        """
        if self.p != 1:
            return gradient.sign() if math.isinf(self.p) else unit(gradient, self.p)
        if x is not None:
            stuck = ((gradient > 0) & (x >= self.upper)) | ((gradient < 0) & (x <= self.lower))
            gradient = gradient.masked_fill(stuck, 0.0)
        size = gradient.abs().flatten(1)
        d = size.shape[1]
        count = torch.full_like(size[:, 0], SPARSE * d) if keep is None else keep
        place = (count.long() - 1).clamp(0, d - 1)
        least = size.sort(dim=1, descending=True).values.gather(1, place[:, None])
        return unit((gradient.sign().flatten(1) * (size >= least)).reshape(gradient.shape), 1)


def unit(x: Tensor, p: float) -> Tensor:
    """Rows scaled to norm 1; a zero row stays zero."""
    return x / spread(norms(x, p).clamp_min(torch.finfo(x.dtype).tiny), x)


def spread(values: Tensor, like: Tensor) -> Tensor:
    """Values ``(n,)`` in a shape that multiplies ``like`` ``(n, *shape)`` row by row."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def generator_of(rng: Rng, device: str | torch.device) -> torch.Generator:
    """A torch generator on the device, seeded by the rng."""
    return torch.Generator(device=device).manual_seed(int(rng.integers(2**62)))


def batches(model: Any, x: Array, y: Array, threat: LpBall) -> Iterator[tuple[slice, Ball, Tensor]]:
    """The rows in batches, as tensors on the model's device."""
    size = rows_at_once(BATCH)
    for start in range(0, len(x), size):
        part = slice(start, start + size)
        yield part, Ball.of(model, x[part], threat), torch.as_tensor(np.asarray(y[part], np.int64), device=model.device)


def array(x: Tensor) -> Array:
    """A tensor as a float64 array."""
    return x.detach().double().cpu().numpy()


def gradient_of(model: Any, x: Tensor, score: Callable[..., Tensor], *given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, ``score(logits, *given)`` ``(n,)`` and the score's gradient at ``x``; no parameter's gradient is touched.

    With tensors ``(n,)`` in ``given`` the rows of a processor go through the net some at a time, which its memory likes better.
    """
    if not given or x.device.type != "cpu" or len(x) <= SLICE:
        return _gradient(model, x, score, given)
    count = math.ceil(len(x) / SLICE)
    parts = zip(*(_parts(g, count) for g in (x, *given)), strict=True)
    found = [_gradient(model, first, score, rest) for first, *rest in parts]  # type: ignore[arg-type]
    logits, value, gradient = (torch.cat([f[i] for f in found]) for i in range(3))
    return logits, value, gradient


def _parts(values: Tensor | None, count: int) -> Sequence[Tensor | None]:
    return [None] * count if values is None else values.tensor_split(count)


def _gradient(model: Any, x: Tensor, score: Callable[..., Tensor], given: Sequence[Tensor | None]) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_(True)
    logits = model.logits(x)
    value = score(logits, *given)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    logits, value = logits.detach(), value.detach()
    refine = getattr(model, "refine", None)
    if refine is not None:
        with torch.no_grad():
            logits = refine(x.detach(), logits)
            value = score(logits, *given)
    return logits, value, gradient.nan_to_num(0.0)


class Best:
    """The closest that each row of a batch has come to a wrong decision, and which rows are still in the race."""

    def __init__(self, clean: Tensor) -> None:
        self.x = clean.clone()
        self.margin = torch.full((len(clean),), math.inf, dtype=clean.dtype, device=clean.device)
        self.broken = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)

    def see(self, rows: Tensor, x: Tensor, logits: Tensor, margin: Tensor) -> Tensor:
        """Note inputs for these rows, which may repeat; returns which of them are still unbroken."""
        self.note(rows, x, margin)
        return self.fall(rows, x, logits, margin)

    def note(self, rows: Tensor, x: Tensor, margin: Tensor) -> None:
        """Keep the inputs that are closer than what is known."""
        least = self.margin.scatter_reduce(0, rows, margin, "amin")
        better = ((margin <= least[rows]) & (margin < self.margin[rows])).nonzero().squeeze(1)
        self.x[rows[better]] = x[better]
        self.margin = least

    def fall(self, rows: Tensor, x: Tensor, logits: Tensor, margin: Tensor) -> Tensor:
        """Keep only the inputs that broke a row; returns which rows are still unbroken."""
        done = surely_broken(margin, logits)
        if bool(done.any()):
            fell = rows[done]
            self.x[fell], self.margin[fell], self.broken[fell] = x[done], margin[done], True
        return ~self.broken[rows]

    def alive(self) -> Tensor:
        """The indices of the rows that nothing has broken."""
        return torch.nonzero(~self.broken).squeeze(1)
