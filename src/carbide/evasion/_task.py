"""What branch and bound is asked: a region of inputs, what their outputs must not be, and who confirms an input that does it.

>>> Fate(certified=True, witness=None, nodes=3).stuck
False
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from carbide.evasion._linear_bounds import Net, Region
from carbide.evasion._tightening import needed, rivals
from carbide.evasion.judge import judge
from carbide.types import Array, LpBall

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
