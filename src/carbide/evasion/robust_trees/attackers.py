"""What attackers can do, in words for users (``Box``, ``Spender``) and as arrays for the search for splits (``Reach``).

>>> reach = Box(up=0.0, down=0.25).reach(np.array([[0.1], [0.5], [0.7]]), np.array([0, 1, 1]), most=255)
>>> reach.bin[0].tolist(), reach.low[0].tolist()  # rows of class 1 reach down
([1, 4, 5], [0, 2, 3])
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from carbide.evasion._threads import Threads
from carbide.evasion.robust_trees.bins import BLOCK, MISSING, bin_rows, binned, cuts_of, every, table_of
from carbide.space.prices import matrices, price_arrays
from carbide.types import Array, FeatureBudget, InputError, LpBall, Ratio, Space

MOVERS = ("both", "positive")


class Reach(NamedTuple):
    """Where every training row can be moved, for compiled code. ``d`` features, ``n`` rows, ``m`` of them movable.

    ``cuts`` ``(d, c)`` float64 (padded with inf), ``count`` ``(d,)`` of them used; ``bin``, ``low``, ``high`` ``(d, n)`` uint8: the bin of
    each value and the outermost ones it reaches; ``slot`` ``(n,)``: a movable row's place in ``value`` ``(m, d)``, -1 for the others.
    ``priced``: a movable row pays ``fixed`` and ``up`` or ``down`` a unit, or by ``matrix`` ``(k, s, s)`` (``table`` ``(d,)`` names it, -1
    = none; its first value is ``first`` ``(d,)``), at most ``money`` in all. A feature that follows another (``twin`` ``(d,)``, -1 = none) is
    moved by the same payment; its prices are a unit of ``value[scale]``, where ``scale`` ``(d,)`` is not -1. A feature that costs infinitely
    much both ways, and has no table, is moved by no row; where it is not ``priced``, prices say nothing else.
    """

    cuts: Array
    count: Array
    bin: Array
    low: Array
    high: Array
    slot: Array
    value: Array
    priced: bool
    money: float
    up: Array
    down: Array
    fixed: Array
    step: Array
    lower: Array
    upper: Array
    table: Array
    matrix: Array
    first: Array
    twin: Array
    scale: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Box:
    """Each feature moves independently by at most ``up`` and ``down`` (numbers or ``(d,)``), within ``lower`` and ``upper``.

    ``movers``: ``both`` classes move, or the ``positive`` one (class 1) alone.
    """

    up: Any = 0.0
    down: Any = 0.0
    lower: Any = -math.inf
    upper: Any = math.inf
    movers: str = "both"

    def __post_init__(self) -> None:
        for name in ("up", "down"):
            if not (np.asarray(getattr(self, name), float) >= 0).all():
                raise InputError(f"attacker: {name} is {getattr(self, name)}; give numbers >= 0 in input units")
        if self.movers not in MOVERS:
            raise InputError(f"attacker: movers is {self.movers!r}; choose {' or '.join(MOVERS)}")

    @classmethod
    def of(cls, threat: LpBall, space: Space) -> Box:
        """The smallest box around an Lp ball, within the space.

        Raises:
            InputError: if the ball is an L0 ball, whose box is everything.
        """
        if threat.p == 0:
            raise InputError("robust trees know no L0 balls; give p 1, 2 or inf")
        return cls(up=threat.eps, down=threat.eps, lower=space.lower.ravel(), upper=space.upper.ravel())

    def reach(self, x: Array, y: Array, *, most: int) -> Reach:
        """The reach of rows ``x`` ``(n, d)`` with labels ``y`` ``(n,)`` of 0 and 1, in at most ``most`` bins a feature.

        Raises:
            InputError: if ``up`` or another field has another number of features.
        """
        n, d = x.shape
        up, down, lower, upper = (_each(getattr(self, name), d, name) for name in ("up", "down", "lower", "upper"))
        moves = np.ones(n, bool) if self.movers == "both" else y == 1
        still = not (up.any() or down.any()) or not moves.any()
        never = np.where((up == 0) & (down == 0) | still, np.inf, 0.0)

        def ends(v: Array, f: Any) -> list[Array]:  # a value outside its bounds stays where it is; others do not leave them
            return [np.maximum(v - down[f], np.minimum(lower[f], v)), np.minimum(v + up[f], np.maximum(upper[f], v))]

        step, moving = every(n, 1 if still else 3), np.flatnonzero(moves)
        sample, seen = x[::step], moves[::step]

        def placed(f: int) -> Array:
            v = sample[:, f]
            return cuts_of([v] if never[f] == np.inf else [v, *(np.where(seen, end, v) for end in ends(v, f))], most=most)

        cuts, bins = _binned(x, placed)
        low, high = (bins, bins) if still else (bins.copy(), bins.copy())
        for f in np.flatnonzero(never == 0):
            low[f, moving], high[f, moving] = (binned(end, cuts[f]) for end in ends(x[moving, f], f))
        slot = np.where(moves, 0, -1).astype(np.int32) if not still else np.full(n, -1, np.int32)
        return _reach(cuts, bins, low, high, slot)._replace(up=never, down=never)


@dataclass(frozen=True, kw_only=True, eq=False)
class Spender:
    """An attacker who pays by the price table and changes rows of class 1 (or of ``both`` classes) for at most the threat's money.

    Linear relations and one-hot groups are not kept, which gives the attacker more; a ratio follows its numerator at no further cost.
    ``share``: the part of the money that is spent against each tree, as a sum of worst cases lets it be spent on every tree again.
    """

    threat: FeatureBudget
    space: Space
    share: float = 1.0
    movers: str = "positive"

    def __post_init__(self) -> None:
        if not 0 <= self.share < math.inf:
            raise InputError(f"attacker: share is {self.share}; give a number >= 0")
        if self.movers not in MOVERS:
            raise InputError(f"attacker: movers is {self.movers!r}; choose {' or '.join(MOVERS)}")

    def reach(self, x: Array, y: Array, *, most: int) -> Reach:
        """As ``Box.reach``; what is reached with how much money left is worked out in the search for splits.

        Raises:
            InputError: if the rows have other features than the space.
        """
        n, d = x.shape
        if self.space.lower.size != d:
            raise InputError(f"the attacker's space has {self.space.lower.size} features, but the rows have {d}; give the same columns")
        moves = np.ones(n, bool) if self.movers == "both" else y == 1
        parts = self._parts()
        money = self.share * self.threat.money
        moving = np.ascontiguousarray(x[moves], np.float64)
        cuts, bins = _binned(x, lambda f: cuts_of([x[:, f], *_edges(moving, f, parts, money)], most=most))
        slot = np.full(n, -1, np.int32)
        slot[moves] = np.arange(moves.sum())
        return _reach(cuts, bins, bins, bins, slot)._replace(value=moving, priced=True, money=money, **parts)

    def _parts(self) -> dict[str, Array]:
        """The prices, steps and bounds by feature."""
        space, d = self.space, self.space.lower.size
        up, down, fixed = price_arrays(self.threat.prices, space)
        held = matrices(self.threat.prices, space)
        size = max((len(m) for m in held.values()), default=1)
        table, tables = np.full(d, -1, np.int64), np.full((max(1, len(held)), size, size), np.inf)
        for k, (f, m) in enumerate(held.items()):
            table[f], tables[k, : len(m), : len(m)] = k, m
        twin, scale = np.full(d, -1, np.int64), np.full(d, -1, np.int64)
        for r in space.relations:
            if isinstance(r, Ratio):  # what it costs to move the numerator moves the ratio
                up[r.target], down[r.target], fixed[r.target] = up[r.numerator], down[r.numerator], fixed[r.numerator]
                scale[r.target] = r.denominator
                twin[r.target], twin[r.numerator] = r.numerator, r.target
        return {"up": up, "down": down, "fixed": fixed, "step": space.step.ravel().astype(float), "lower": space.lower.ravel().astype(float),
                "upper": space.upper.ravel().astype(float), "table": table, "matrix": tables, "first": space.lower.ravel().astype(float),
                "twin": twin, "scale": scale}  # fmt: skip


def _edges(x: Array, f: int, parts: dict[str, Array], money: float) -> list[Array]:
    """How far all the money brings feature ``f`` of rows ``x``, down and up: where cuts matter most."""
    if parts["table"][f] >= 0 or not len(x):
        return []
    unit = np.ones(len(x)) if parts["scale"][f] < 0 else np.maximum(np.abs(x[:, parts["scale"][f]]), 1e-300)
    found, rest = [], max(0.0, money - parts["fixed"][f])
    for sign, key, bound in ((-1, "down", "lower"), (1, "up", "upper")):
        rate = parts[key][f]
        if np.isfinite(rate) and rate > 0:
            moved = x[:, f] + sign * rest / (rate * unit)
            found.append(np.maximum(moved, parts[bound][f]) if sign < 0 else np.minimum(moved, parts[bound][f]))
    return found


def _binned(x: Array, cuts_of_feature: Callable[[int], Array]) -> tuple[list[Array], Array]:
    """The cuts of every feature, and the bins ``(d, n)`` of the rows ``x`` ``(n, d)``; features and rows are shared out over threads."""
    n, d = x.shape
    cuts, bins = [np.zeros(0)] * d, np.empty((d, n), np.uint8)

    def place(begin: int, end: int) -> None:
        for f in range(begin, end):
            cuts[f] = cuts_of_feature(f)

    with Threads() as threads:
        threads.share(place, d)
        table, count = table_of(cuts), np.array([len(c) for c in cuts])
        threads.share(lambda begin, end: bin_rows(x, table, count, bins, begin, end), n, even=BLOCK)
    return cuts, bins


def _reach(cuts: list[Array], bins: Array, low: Array, high: Array, slot: Array) -> Reach:
    d = len(cuts)
    width = max(1, max(len(c) for c in cuts))
    padded = np.full((d, width), np.inf)
    for f, c in enumerate(cuts):
        padded[f, : len(c)] = c
    none, nowhere = np.zeros(d), np.full(d, -1, np.int64)
    return Reach(cuts=padded, count=np.array([len(c) for c in cuts], np.int64), bin=bins, low=low, high=high, slot=slot, value=np.zeros((1, d)),
                 priced=False, money=0.0, up=none, down=none, fixed=none, step=none, lower=none, upper=none, table=nowhere, matrix=np.zeros((1, 1, 1)),
                 first=none, twin=nowhere, scale=nowhere)  # fmt: skip


def _each(value: Any, d: int, name: str) -> Array:
    found = np.asarray(value, float)
    if found.ndim and found.shape != (d,):
        raise InputError(f"attacker: {name} has shape {found.shape}, but the rows have {d} features; give one number or one a feature")
    return np.broadcast_to(found, (d,)).astype(float)


assert MISSING == 255  # a bin's number fits into uint8
