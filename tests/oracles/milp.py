"""Kantchelian et al. 2016, https://arxiv.org/abs/1509.07892: the cheapest evasion as a mixed-integer program, solved by scipy's HiGHS.

Every feature's values fall into pieces between thresholds, on either side of the clean value; one binary a piece, one number in
[0, 1] a leaf. Nothing is shared with the search that it checks but the trees.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from carbide.models.trees import Ensemble
from carbide.space.prices import group_moves
from carbide.types import Array, Implication, Linear, Price, PriceTable, Ratio, Space

WIDE = 1000  # whole numbers of a range that are tried one by one
MARGIN = 1e-7  # how far below the cutoff the sum must be, above the solver's own tolerance


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Values ``low .. high`` of a feature that cost ``constant + slope * value``; ``inside`` is a value between."""

    low: float
    high: float
    constant: float
    slope: float

    @property
    def inside(self) -> float:
        return self.low / 2 + self.high / 2


def pieces(f: int, x0: Array, cuts: Array, prices: PriceTable, space: Space) -> list[Piece]:
    """The pieces of feature f: the clean value, then what lies below and above it between the cuts."""
    v = float(x0[f])
    stay = Piece(low=v, high=v, constant=0.0, slope=0.0)
    price = prices.prices.get(space.names[f])
    if price is None or not space.mutable[f]:
        return [stay]
    low, high = float(space.lower[f]), float(space.upper[f])
    if price.matrix is not None:
        values = [low + j for j in range(len(price.matrix)) if low + j != v]
        costs = [price.fixed + price.matrix[int(v - low)][int(w - low)] for w in values]
        return [stay, *(Piece(low=w, high=w, constant=float(c), slope=0.0) for w, c in zip(values, costs, strict=True) if np.isfinite(c))]
    found = [stay]
    if space.step[f] > 0:  # whole numbers one by one; of a wide range those among the cuts, next to them and around the clean value
        if not (high - low) / space.step[f] < WIDE:
            step = float(space.step[f])
            below, above = (math.ceil(way * (end - v) / step) + 1 for way, end in ((-1, min((v, *cuts))), (1, max((v, *cuts)))))
            low, high = max(low, v - below * step), min(high, v + above * step)
        for w in np.arange(low, high + 0.5, space.step[f]):
            paid = _paid(price, v, w)
            if w != v and np.isfinite(paid):
                found.append(Piece(low=w, high=w, constant=paid, slope=0.0))
        return found
    for way, rate, first, last in ((1, price.up, v, high), (-1, price.down, low, v)):
        steps = price.up_steps if way > 0 else price.down_steps
        if steps and first < last:
            edges = sorted({first, last, *(c for c in (*cuts, *(v + way * by for by, _ in steps)) if first < c < last)})
            pairs = [Piece(low=a, high=b, constant=_paid(price, v, (a + b) / 2), slope=0.0) for a, b in itertools.pairwise(edges)]
            found += [p for p in pairs if np.isfinite(p.constant)]
        elif np.isfinite(rate) and first < last:
            edges = [first, *(c for c in cuts if first < c < last), last]
            found += [Piece(low=a, high=b, constant=price.fixed - way * rate * v, slope=way * rate) for a, b in itertools.pairwise(edges)]
    return found


def _paid(price: Price, v: float, w: float) -> float:
    """What moving a number from v to w costs by its price a unit or its stairs."""
    steps, rate = (price.up_steps, price.up) if w > v else (price.down_steps, price.down)
    if steps:
        return price.fixed + next((paid for by, paid in steps if abs(w - v) <= by + 1e-12), np.inf)
    return price.fixed + (rate * abs(w - v) if rate and w != v else 0.0)


def cheapest(ensemble: Ensemble, x0: Array, prices: PriceTable, space: Space, *, cutoff: float, time_limit: float = 60.0) -> float:
    """The least cost of a row whose sum of leaves for class 1 is below ``cutoff``; inf if there is none.

    Relations may be ``Linear`` or ``Ratio`` with a fixed denominator, which the clean row keeps, and ``Implication``.
    """
    column = -1 if ensemble.value.shape[1] > 1 else 0
    ratios = {r.target: r for r in space.relations if isinstance(r, Ratio)}
    driver = {f: ratios[f].numerator if f in ratios else f for f in range(len(x0))}

    def cuts_of(f: int) -> Array:
        own = ensemble.threshold[ensemble.feature == f]
        linked = [ensemble.threshold[ensemble.feature == t] * x0[r.denominator] for t, r in ratios.items() if r.numerator == f]
        bounds = [np.array([space.lower[t], space.upper[t]]) * x0[r.denominator] for t, r in ratios.items() if r.numerator == f]
        ends = [b for r in space.relations if isinstance(r, Implication) for g, *pair in ((r.cause, r.at_least, r.at_most), (r.effect, r.lower, r.upper))
                if g == f for b in pair if np.isfinite(b)]  # fmt: skip
        return np.unique(np.concatenate([own, *linked, *bounds, ends]))

    options: dict[int, list[Piece]] = {}
    for f in range(len(x0)):
        if driver[f] == f:
            options[f] = [p for p in pieces(f, x0, cuts_of(f), prices, space) if _in_bounds(p, f, x0, ratios, space)]
    grouped = group_moves(prices, space)
    for number, moves in grouped.items():
        for m, f in enumerate(space.groups[number]):
            paid = moves[int(x0[list(space.groups[number])].argmax()), m]
            options[f] = [Piece(low=0.0, high=0.0, constant=0.0, slope=0.0)]
            if np.isfinite(paid):
                options[f].append(Piece(low=1.0, high=1.0, constant=float(paid), slope=0.0))
    program = _Program()
    chosen = {f: [program.variable(0, 1, whole=True, cost=p.constant) for p in found] for f, found in options.items()}
    values = {f: [program.variable(min(p.low, 0), max(p.high, 0), cost=p.slope) for p in found] for f, found in options.items()}
    for f, found in options.items():
        program.row(dict.fromkeys(chosen[f], 1.0), 1, 1)
        for p, z, v in zip(found, chosen[f], values[f], strict=True):
            program.row({v: 1.0, z: -p.low}, 0, np.inf)
            program.row({v: 1.0, z: -p.high}, -np.inf, 0)
    for r in space.relations:
        if isinstance(r, Linear):
            terms: dict[int, float] = {}
            for f, c in zip(r.features, r.coefficients, strict=True):
                terms |= dict.fromkeys(values[f], c)
            program.row(terms, -np.inf, r.upper)
        if isinstance(r, Implication):
            when, then = ([z for p, z in zip(options[f], chosen[f], strict=True) if low <= p.inside <= high]
                          for f, low, high in ((r.cause, r.at_least, r.at_most), (r.effect, r.lower, r.upper)))  # fmt: skip
            asked = {**dict.fromkeys(when, 1.0), **dict.fromkeys(then, -1.0)}
            if r.at_least <= x0[r.cause] <= r.at_most and not r.lower <= x0[r.effect] <= r.upper:  # broken as it stands: both may stay
                both = program.variable(0, 1)
                asked[both] = -1.0
                for f in (r.cause, r.effect):
                    stays = [z for p, z in zip(options[f], chosen[f], strict=True) if p.low == p.high == x0[f]]
                    program.row({both: 1.0, **dict.fromkeys(stays, -1.0)}, -np.inf, 0)
            program.row(asked, -np.inf, 0)
    for number in grouped:
        program.row({v: 1.0 for f in space.groups[number] for v in values[f]}, 1, 1)
    total: dict[int, float] = {}
    for root in ensemble.roots:
        total |= _tree(program, ensemble, int(root), options, chosen, driver, ratios, x0, column)
    program.row(total, -np.inf, cutoff - MARGIN - float(ensemble.base[-1]))
    return program.solve(time_limit)


def _in_bounds(p: Piece, f: int, x0: Array, ratios: dict[int, Ratio], space: Space) -> bool:
    """Whether a moved numerator leaves its ratios within their own bounds."""
    if p.low == p.high == x0[f]:
        return True
    return all(space.lower[t] <= p.inside / x0[r.denominator] <= space.upper[t] for t, r in ratios.items() if r.numerator == f)


def _tree(
    program: _Program, ensemble: Ensemble, root: int, options: dict, chosen: dict, driver: dict, ratios: dict, x0: Array, column: int
) -> dict[int, float]:
    """One tree's leaves as variables, tied to the pieces at every node; returns leaf variables with their values."""
    values: dict[int, float] = {}

    def below(node: int) -> list[int]:
        f = int(ensemble.feature[node])
        if f < 0:
            leaf = program.variable(0, 1)
            values[leaf] = float(ensemble.value[node, column])
            return [leaf]
        left, right = (below(int(child)) for child in ensemble.children[node])
        t = float(ensemble.threshold[node])
        goes = [_value(p, f, x0, ratios) <= t for p in options[driver[f]]]
        for side, wanted in ((left, True), (right, False)):
            program.row({**dict.fromkeys(side, 1.0), **{z: -1.0 for z, g in zip(chosen[driver[f]], goes, strict=True) if g == wanted}}, -np.inf, 0)
        return left + right

    leaves = below(root)
    program.row(dict.fromkeys(leaves, 1.0), 1, 1)
    return values


def _value(p: Piece, f: int, x0: Array, ratios: dict[int, Ratio]) -> float:
    if f not in ratios:
        return p.inside
    stays = p.low == p.high == x0[ratios[f].numerator]
    return float(x0[f]) if stays else p.inside / float(x0[ratios[f].denominator])


class _Program:
    """Variables and rows of a mixed-integer program."""

    def __init__(self) -> None:
        self.low: list[float] = []
        self.high: list[float] = []
        self.whole: list[int] = []
        self.cost: list[float] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []

    def variable(self, low: float, high: float, *, whole: bool = False, cost: float = 0.0) -> int:
        self.low.append(low)
        self.high.append(high)
        self.whole.append(int(whole))
        self.cost.append(cost)
        return len(self.low) - 1

    def row(self, terms: dict[int, float], low: float, high: float) -> None:
        self.rows.append((terms, low, high))

    def solve(self, time_limit: float) -> float:
        i = np.repeat(np.arange(len(self.rows)), [len(t) for t, _, _ in self.rows])
        j = np.array([v for t, _, _ in self.rows for v in t])
        c = np.array([w for t, _, _ in self.rows for w in t.values()])
        matrix = coo_array((c, (i, j)), shape=(len(self.rows), len(self.low))).tocsr()
        limits = LinearConstraint(matrix, [a for _, a, _ in self.rows], [b for _, _, b in self.rows])
        found = milp(self.cost, integrality=self.whole, bounds=Bounds(self.low, self.high), constraints=limits,
                     options={"mip_rel_gap": 0.0, "time_limit": time_limit})  # fmt: skip
        if found.status == 2:
            return float("inf")
        if found.status != 0:
            raise RuntimeError(f"HiGHS stopped: {found.message}")
        return float(found.fun)
