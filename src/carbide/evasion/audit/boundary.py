"""Brendel et al. 2018, https://arxiv.org/abs/1712.04248: attack by decisions alone, with later searches for Linf and L2.

Only labels are seen, so it runs against anything that answers: nets, trees, a callable, an endpoint. It starts from an
input that is already labelled wrongly and comes ever closer to the clean row, or ever cheaper, while it stays wrong.
Linf: Chen & Gu 2020, https://arxiv.org/abs/2006.12792. L2: Chen et al. 2020, https://arxiv.org/abs/1904.02144.

>>> import numpy as np
>>> from types import SimpleNamespace
>>> from carbide.types import LpBall, Space
>>> space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
>>> says = lambda x: np.stack([x[:, 0] <= 0.5, x[:, 0] > 0.5], 1).astype(float)
>>> model = SimpleNamespace(predict=says, threshold=0.5, space=space)
>>> x = Boundary()(model, np.array([[0.6, 0.3]]), np.array([1]), LpBall(eps=0.15), np.random.default_rng(0))
>>> bool(x[0, 0] <= 0.5), float(abs(x[0, 0] - 0.6).round(2)) <= 0.15
(True, True)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._bargains import search_bargains
from carbide.evasion._hop_skip import MOST, search_hops
from carbide.evasion._labels import Asker, donors
from carbide.evasion._rays import search_rays
from carbide.registry import Method
from carbide.space.balls import norms
from carbide.space.prices import cost
from carbide.types import Access, Array, FeatureBudget, InputError, LpBall, Rng, Space, Threat

STARTS = 6  # rows of other labels that each row starts from
ROOM = 20_000_000  # numbers that one round of HopSkipJump may hold


@dataclass(frozen=True, kw_only=True)
class Boundary(Method):
    """Decision-based attack with about ``queries`` labels a row: signs for Linf, HopSkipJump for L2, bargaining for priced tables."""

    queries: int = 1000
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall, FeatureBudget)
    needs: ClassVar[Access] = Access.LABELS
    rank: ClassVar[int] = 30

    def __post_init__(self) -> None:
        if self.queries < 10:
            raise InputError(f"boundary: queries is {self.queries}; give at least 10 labels a row")

    def quick(self) -> Boundary:
        """A fifth of the queries."""
        return replace(self, queries=max(10, self.queries // 5))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall | FeatureBudget, rng: Rng) -> Array:
        """The closest or cheapest wrong input found for each row ``x`` ``(n, *shape)`` with label ``y`` ``(n,)``."""
        out = np.array(x, np.float64)
        ask = Asker(model=model, y=np.asarray(y))
        labels = ask.labels(out)
        rows = np.flatnonzero(labels == y)
        if len(rows) == 0:
            return out
        picked = donors(out, labels, ask.y, rows, STARTS, rng)
        wide = (slice(None), *[None] * (x.ndim - 1))
        starts = [np.where((k >= 0)[wide], out[k], out[rows]) for k in picked.T]
        space = model.space
        if isinstance(threat, LpBall) and math.isinf(threat.p):
            out[rows] = search_rays(ask, out, space, rows, starts, eps=threat.eps, queries=self.queries, rng=rng)
        elif isinstance(threat, LpBall) and threat.p == 2 and not (space.groups or space.relations or (space.step > 0).any()):
            starts = [*_around(out[rows], threat.eps, rng), *starts, *_afar(out[rows], space, rng)]
            for part in np.array_split(np.arange(len(rows)), -(-len(rows) * MOST * out[0].size // ROOM)):
                begin = [start[part] for start in starts]
                out[rows[part]] = search_hops(ask, out, space, rows[part], begin, eps=threat.eps, queries=self.queries, rng=rng)
        else:
            limit = threat.eps if isinstance(threat, LpBall) else threat.money
            out[rows] = search_bargains(ask, out, space, rows, starts, _price(threat, space), limit=limit, queries=self.queries, rng=rng)
        return out


def _around(x: Array, eps: float, rng: Rng) -> list[Array]:
    """Random points at one, two, four and eight times eps in L2, near ones first: a small region is only found from nearby."""
    found = []
    for reach in (1, 2, 4, 8):
        for _ in range(STARTS):
            way = rng.normal(size=x.shape)
            size = norms(way, 2).reshape(-1, *[1] * (x.ndim - 1))
            found.append(x + reach * eps * way / size)
    return found


def _afar(x: Array, space: Space, rng: Rng) -> list[Array]:
    """Random points between each row and the far bound of each feature, or one span of the rows away where there is none."""
    span = np.ptp(x, axis=0) + 1e-12
    low, high = np.where(np.isfinite(space.lower), space.lower, x - span), np.where(np.isfinite(space.upper), space.upper, x + span)
    far = np.where(high - x > x - low, high, low)
    return [x + (far - x) * rng.uniform(size=x.shape) for _ in range(STARTS)]


def _price(threat: LpBall | FeatureBudget, space: Space) -> Callable[[Array, Array], Array]:
    if isinstance(threat, FeatureBudget):
        return lambda x, clean: cost(clean, x, threat.prices, space)
    return lambda x, clean: norms(np.nan_to_num(x - clean), threat.p)
