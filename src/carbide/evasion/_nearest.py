"""What attacks that look for the least change share: the nearest wrong input of each row so far, and the last search towards the row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._gradients import Ball, array, batches, margins, spread, surely_broken
from carbide.run import track
from carbide.space.balls import norms
from carbide.types import Array, LpBall


class Nearest:
    """The nearest wrong input ``x`` ``(n, *shape)`` of each row and its ``distance`` ``(n,)``; the row itself and inf where none is known."""

    def __init__(self, model: Any, ball: Ball, y: Tensor) -> None:
        self.model, self.ball, self.y = model, ball, y
        self.x = ball.clean.clone()
        self.distance = torch.full((len(y),), math.inf, dtype=ball.clean.dtype, device=ball.clean.device)
        with torch.no_grad():
            self.logits = model.logits(ball.clean)
        self.note(torch.arange(len(y), device=y.device), ball.clean, self.wrong(self.logits, y))

    def wrong(self, logits: Tensor, y: Tensor) -> Tensor:
        """Whether each row's decision is wrong, by more than rounding could take back."""
        return surely_broken(margins(logits, y, self.model.threshold), logits)

    def note(self, rows: Tensor, x: Tensor, wrong: Tensor) -> None:
        """Keep what is wrong and nearer than what is known; rows may repeat."""
        away = norms(x - self.ball.clean[rows], self.ball.p).to(self.distance.dtype).masked_fill(~wrong, math.inf)
        least = self.distance.scatter_reduce(0, rows, away, "amin")
        better = wrong & (away <= least[rows]) & (away < self.distance[rows])
        self.x[rows[better]], self.distance = x[better], least

    def beyond(self, eps: float) -> Tensor:
        """The indices of rows for which nothing within ``eps`` is known."""
        return torch.nonzero(~(self.distance <= eps)).squeeze(1)

    def close_in(self, halvings: int) -> None:
        """Halve the way from each row to its nearest wrong input, keeping what stays wrong."""
        rows = torch.nonzero(torch.isfinite(self.distance) & (self.distance > 0)).squeeze(1)
        if len(rows) == 0:
            return
        clean, y = self.ball.clean[rows], self.y[rows]
        near, far = torch.zeros_like(self.distance[rows]), torch.ones_like(self.distance[rows])
        change = self.x[rows] - clean
        for _ in range(halvings):
            middle = (near + far) / 2
            x = clean + spread(middle, clean) * change
            with torch.no_grad():
                wrong = self.wrong(self.model.logits(x), y)
            self.note(rows, x, wrong)
            near, far = torch.where(wrong, near, middle), torch.where(wrong, middle, far)


def least_changes(model: Any, x: Array, y: Array, threat: LpBall, *, label: str, run: Callable[[Nearest, Tensor], None], halvings: int) -> Array:
    """The nearest wrong input ``(n, *shape)`` that ``run(nearest, rows)`` found for each row that is right, whatever its distance; else the row."""
    out = np.array(x, np.float64)
    for part, ball, labels in track(list(batches(model, x, y, threat)), label=label):
        nearest = Nearest(model, ball, labels)
        rows = nearest.beyond(0.0)
        if len(rows):
            run(nearest, rows)
        nearest.close_in(halvings)
        out[part] = restored(nearest, out[part])
    return out


def restored(nearest: Nearest, x: Array) -> Array:
    """The nearest inputs as float64 arrays; a feature that has not moved keeps every digit that it has in ``x`` ``(n, *shape)``."""
    moved = (nearest.x != nearest.ball.clean).cpu().numpy()
    return np.where(moved, array(nearest.x), x)


def likeliest(logits: Tensor, y: Tensor) -> Tensor:
    """The other classes ``(n, k - 1)`` of each row, likeliest first."""
    return logits.scatter(1, y[:, None], -math.inf).argsort(dim=1, descending=True)[:, :-1]


def towards(logits: Tensor, y: Tensor, target: Tensor | None, threshold: float) -> Tensor:
    """How far each row ``(n,)`` is beyond the boundary of the target (or of the runner-up, or at two classes of the other), in logits."""
    if target is None or logits.shape[1] == 2:
        return -margins(logits, y, threshold)
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)
