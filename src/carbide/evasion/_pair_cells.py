"""What two rows may be, cell by cell: the forest's cells of every feature with the values that exist in them, and concrete rows of a box.

Rows that relations or one-hot groups bind are found by a mixed-integer program over the box's values, in which a ratio is linear
once its denominator is set.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import Bounds, milp
from scipy.sparse import csr_matrix

from carbide.evasion._pair_search import Leaves, Moves, leaf_boxes
from carbide.evasion._tree_search.layout import Forest
from carbide.space.prices import matrices, price_arrays
from carbide.space.relations import recomputed, targets_of
from carbide.types import Array, Linear, PriceTable, Ratio, Space, Sum

CHOICES = 64  # values of parts of ratios that are tried
WIDE = 1e6  # ranges over which a program can tell a move from none
NEAR = 1e-9  # relative, below which a program's move is none
ROOM = 1e-9  # how far over the money a price may lie, relative and absolute, as in carbide.space.membership


class Pair(NamedTuple):
    """A row ``(d,)`` and a changed row; ``empty`` = the box is known to hold none, ``open`` = none was found and there may be one."""

    row: Array | None
    changed: Array | None
    state: str = "found"


@dataclass(frozen=True, kw_only=True, eq=False)
class PairCells:
    """Cells with allowed values only: feature f's lie at ``low[f]``, ``high[f]`` (arrays of values); ``leaves`` and ``moves`` speak of them."""

    space: Space
    low: list[Array]
    high: list[Array]
    leaves: Leaves
    moves: Moves
    prices: PriceTable | None

    @property
    def box(self) -> tuple[Array, Array]:
        """All cells: features of the row, then of the changed row."""
        last = [len(v) - 1 for v in self.low]
        high = np.array([*last, *(last[f] for f in self.moves.feature)], np.int32)
        return np.zeros(len(high), np.int32), high

    @property
    def offset(self) -> Array:
        """Where each axis' cuts begin in an array of all of them."""
        return np.cumsum([0, *(self.box[1] + 1)])

    def plain(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Two rows inside a box of cells whose moved features lie closest, or cost least; relations are not asked."""
        d = len(self.low)
        row = np.array([_some(float(self.low[f][low[f]]), float(self.high[f][high[f]]), self.space, f) for f in range(d)])
        changed = row.copy()
        for k, f in enumerate(self.moves.feature):
            row[f], changed[f] = self._nearest(k, int(f), low, high)
        return row, changed

    def bound(self, low: Array, high: Array) -> Pair:
        """A row and its change inside a box of cells that keep relations and groups, at the least price where prices are known."""
        if not (self.space.relations or self.space.groups):
            return Pair(*self.plain(low, high))
        features = [*range(len(self.low)), *self.moves.feature]
        return _bound_pair(self, [(float(self.low[f][low[a]]), float(self.high[f][high[a]])) for a, f in enumerate(features)])

    def _nearest(self, k: int, f: int, low: Array, high: Array) -> tuple[float, float]:
        """The values of a moved feature in the two rows that lie closest, or cost least."""
        a, b, c, e = int(low[f]), int(high[f]), int(low[len(self.low) + k]), int(high[len(self.low) + k])
        if self.moves.tabled[k]:
            i, j = min(itertools.product(range(a, b + 1), range(c, e + 1)), key=lambda ij: self.moves.table[k, ij[0], ij[1]])
            table, first = matrices(self.prices, self.space)[f], float(self.space.lower[f])  # type: ignore[arg-type]
            ways = itertools.product(_whole(self.low[f][i], self.high[f][i]), _whole(self.low[f][j], self.high[f][j]))
            return min(ways, key=lambda vw: table[int(vw[0] - first), int(vw[1] - first)])
        if c > b:
            return self.high[f][b], self.low[f][c]
        if e < a:
            return self.low[f][a], self.high[f][e]
        both = max(a, c)
        value = _some(self.low[f][both], self.high[f][both], self.space, f)
        return value, value


def pair_cells(forest: Forest, space: Space, moved: dict[int, int], prices: PriceTable | None, money: float) -> PairCells:
    """The cells and leaves of a forest for moves of these features; ``moved`` says which way each may go (1, -1 or 0 = both)."""
    d = space.lower.size
    low, high, ranks = [], [], []
    for f in range(d):
        cuts, above = (part[forest.start[f] : forest.start[f + 1]] for part in (forest.cuts, forest.above))
        under, over = _allowed(space, f, np.concatenate([[-np.inf], above]), np.concatenate([cuts, [np.inf]]))
        good = under <= over
        low.append(under[good])
        high.append(over[good])
        ranks.append(np.concatenate([[0], np.cumsum(good)]))
    number = np.arange(len(forest.cuts))
    feature = np.searchsorted(forest.start, number, side="right") - 1
    leaves = leaf_boxes(forest.node, forest.value, forest.roots, feature, number - forest.start[feature], forest.start, np.concatenate(ranks), d)
    moves = _moves(space, moved, prices, low, high, money)
    return PairCells(space=space, low=low, high=high, leaves=_needed(leaves, moves), moves=moves, prices=prices)


def _needed(leaves: Leaves, moves: Moves) -> Leaves:
    """Without prices, trees that the moved features do not reach tell the two rows nothing apart and are left out."""
    if np.isfinite(moves.money) or not len(leaves.tree):
        return leaves
    trees = int(leaves.tree.max()) + 1
    asks = np.zeros(trees, bool)
    for f in moves.feature:
        first = np.full(trees, -1)
        first[leaves.tree[::-1]] = np.arange(len(leaves.tree))[::-1]
        differs = (leaves.low[:, f] != leaves.low[first[leaves.tree], f]) | (leaves.high[:, f] != leaves.high[first[leaves.tree], f])
        asks[leaves.tree[differs]] = True
    kept = asks[leaves.tree]
    return Leaves(*(part[kept] for part in leaves))


def _allowed(space: Space, f: int, low: Array, high: Array) -> tuple[Array, Array]:
    """The least and largest value that exists in each cell; above each other where there is none."""
    low, high = np.maximum(low, space.lower[f]), np.minimum(high, space.upper[f])
    step, anchor = float(space.step[f]), float(space.lower[f]) if np.isfinite(space.lower[f]) else 0.0
    if step == 0:
        return low, high
    with np.errstate(invalid="ignore"):
        up, down = anchor + np.ceil((low - anchor) / step - 1e-9) * step, anchor + np.floor((high - anchor) / step + 1e-9) * step
    up, down = np.where(up < low, up + step, up), np.where(down > high, down - step, down)
    return np.where(np.isfinite(low), up, low), np.where(np.isfinite(high), down, high)


def _moves(space: Space, moved: dict[int, int], prices: PriceTable | None, low: list[Array], high: list[Array], money: float) -> Moves:
    feature = np.array(sorted(moved), np.int64)
    k, c = len(feature), max(len(low[f]) for f in feature)
    lows, highs, tabled = np.zeros((k, c)), np.zeros((k, c)), np.zeros(k, bool)
    up, down, fixed = np.zeros(k), np.zeros(k), np.zeros(k)
    tables = {} if prices is None else matrices(prices, space)
    wide = max([len(low[f]) for f in feature if f in tables], default=1)
    table = np.full((k, wide, wide), np.inf)
    targets = set(targets_of(space))
    for i, f in enumerate(feature):
        lows[i, : len(low[f])], highs[i, : len(low[f])] = low[f], high[f]
        if f in tables:
            tabled[i], first = True, float(space.lower[f])
            spans = [np.array(_whole(a, b), int) - int(first) for a, b in zip(low[f], high[f], strict=True)]
            for a, b in itertools.product(range(len(spans)), repeat=2):
                table[i, a, b] = tables[f][np.ix_(spans[a], spans[b])].min()
        elif prices is not None and f not in targets:
            up[i], down[i], fixed[i] = (part[f] for part in price_arrays(prices, space))
    way = np.array([moved[f] for f in feature], np.int64)
    up, down = np.where(way < 0, 0.0, up), np.where(way > 0, 0.0, down)
    axis_of = np.full(len(low), -1, np.int64)
    axis_of[feature] = np.arange(k)
    return Moves(feature=feature, axis_of=axis_of, way=way, up=up, down=down, fixed=fixed, low=lows, high=highs, table=table, tabled=tabled,
                 money=money * (1 + ROOM) + ROOM)  # fmt: skip


def _whole(low: float, high: float) -> list[float]:
    return [float(v) for v in range(int(np.ceil(low)), int(np.floor(high)) + 1)]


def _some(low: float, high: float, space: Space, f: int) -> float:
    """A finite value of a range, on the feature's grid."""
    if np.isfinite(low):
        return float(low)
    if np.isfinite(high):
        return float(high)
    return float(space.lower[f]) if np.isfinite(space.lower[f]) else 0.0


def _bound_pair(cells: PairCells, values: list[tuple[float, float]]) -> Pair:
    """A pair that keeps relations and groups, by mixed-integer programs: one for every choice of the denominators, or for a few of many."""
    d, axis_of = len(cells.low), cells.moves.axis_of
    sides = (lambda f: f, lambda f: d + int(axis_of[f]) if axis_of[f] >= 0 else f)
    ratios = [r for r in cells.space.relations if isinstance(r, Ratio)]
    if any(_apart(*(values[at(f)] for f in (r.numerator, r.denominator, r.target))) for r in ratios for at in sides):
        return Pair(None, None, "empty")
    parts = sorted({at(f) for r in ratios for f in (r.numerator, r.denominator) for at in sides})
    choices = {a: _choices(*values[a], float(cells.space.step[a if a < d else cells.moves.feature[a - d]])) for a in parts}
    every = all(whole for _, whole in choices.values()) and math.prod(len(c) for c, _ in choices.values()) <= CHOICES
    asked = parts if every else sorted({at(r.denominator) for r in ratios for at in sides})
    for chosen in itertools.islice(itertools.product(*(choices[a][0] for a in asked)), CHOICES):
        fixed = dict(zip(asked, chosen, strict=True))
        if any(fixed[at(r.denominator)] == 0 for r in ratios for at in sides):
            continue  # 0 divides nothing
        if every:
            fixed |= {at(r.target): fixed[at(r.numerator)] / fixed[at(r.denominator)] for r in ratios for at in sides}
            if any(not values[a][0] <= v <= values[a][1] for a, v in fixed.items()):
                continue
        found = _solved(cells, values, fixed)
        if found.row is not None:
            return found
        every = every and found.state == "empty"
    return Pair(None, None, "empty" if every else "open")


def _choices(low: float, high: float, step: float) -> tuple[list[float], bool]:
    """Values of a part of a ratio to try, and whether they are all there are."""
    if step > 0 and high - low <= CHOICES * step:
        return (low + step * np.arange(round((high - low) / step) + 1)).tolist(), True
    return sorted({v for v in (low, high, (low + high) / 2) if np.isfinite(v)}), low == high


def _apart(above: tuple[float, float], below: tuple[float, float], target: tuple[float, float]) -> bool:
    """Whether no numerator and denominator of these ranges have a ratio in the target's range."""
    (a, b), (c, e), (low, high) = above, below, target
    if not np.isfinite([a, b, c, e]).all() or c <= 0 <= e:
        return False
    ends = [a / c, a / e, b / c, b / e]
    room = 1e-6 * max(1.0, max(map(abs, ends)))
    return max(ends) + room < low or min(ends) - room > high


class _Rows(NamedTuple):
    """Rows of a program: entries (column, coefficient) and what they lie between."""

    entries: list[list[tuple[int, float]]]
    low: list[float]
    high: list[float]

    def add(self, entry: list[tuple[int, float]], low: float, high: float) -> None:
        self.entries.append(entry)
        self.low.append(low)
        self.high.append(high)


def _solved(cells: PairCells, values: list[tuple[float, float]], fixed: dict[int, float]) -> Pair:
    """The least-cost pair of a box with these denominators; columns: the row, the changed row's moved features, what each move costs, whether it is made."""
    space, moves, d, k = cells.space, cells.moves, len(cells.low), len(cells.moves.feature)
    axis = [*range(d), *moves.feature]
    step = np.array([space.step[f] for f in axis], float)
    anchor = np.array([space.lower[f] if np.isfinite(space.lower[f]) and space.step[f] > 0 else 0.0 for f in axis])
    scale = np.where(step > 0, step, 1.0)
    low, high = (np.array([fixed.get(a, v[side]) for a, v in enumerate(values)]) for side in (0, 1))
    rows = _Rows([], [], [])
    there = [[(f, 1.0) for f in range(d)], [(d + int(moves.axis_of[f]) if moves.axis_of[f] >= 0 else f, 1.0) for f in range(d)]]
    for at in ([a for a, _ in side] for side in there):
        for r in space.relations:
            if isinstance(r, Linear | Sum):
                row = [(at[f], c) for f, c in zip(r.features, r.coefficients, strict=True)]
                rows.add([*row, (at[r.target], -1.0)] if isinstance(r, Sum) else row, 0.0 if isinstance(r, Sum) else -np.inf,
                         0.0 if isinstance(r, Sum) else r.upper)  # fmt: skip
            elif isinstance(r, Ratio):  # implications are no part of the program: a pair that breaks one is not confirmed
                rows.add([(at[r.target], fixed[at[r.denominator]]), (at[r.numerator], -1.0)], 0.0, 0.0)
        for group in space.groups:
            rows.add([(at[f], 1.0) for f in group], 1.0, 1.0)
    for i, f in enumerate(moves.feature):
        if moves.way[i]:
            rows.add([(int(f), float(moves.way[i])), (d + i, -float(moves.way[i]))], -np.inf, 0.0)
        if not moves.tabled[i]:
            for rate, way in ((moves.up[i], 1.0), (moves.down[i], -1.0)):
                if np.isfinite(rate) and rate > 0:
                    rows.add([(d + i, way * rate), (int(f), -way * rate), (d + k + i, -1.0)], -np.inf, 0.0)
            wide = max(high[d + i] - low[f], high[f] - low[d + i])
            if moves.fixed[i] > 0 and np.isfinite(wide) and wide < WIDE:
                for way in (1.0, -1.0):
                    rows.add([(d + i, way), (int(f), -way), (d + 2 * k + i, -wide)], -np.inf, 0.0)
    shift = np.concatenate([anchor, np.zeros(2 * k)])
    full = np.concatenate([scale, np.ones(2 * k)])
    matrix = csr_matrix(([c * full[a] for e in rows.entries for a, c in e], ([i for i, e in enumerate(rows.entries) for _ in e],
                        [a for e in rows.entries for a, _ in e])), shape=(len(rows.entries), d + 3 * k))  # fmt: skip
    moved = np.array([sum(c * shift[a] for a, c in e) for e in rows.entries])
    fixed_price = np.where(moves.tabled, 0.0, moves.fixed)
    least, most = np.concatenate([(low - anchor) / scale, np.zeros(2 * k)]), np.concatenate([(high - anchor) / scale, np.full(k, np.inf), np.ones(k)])
    held: Any = (matrix, np.array(rows.low) - moved, np.array(rows.high) - moved)
    found: Any = milp(np.concatenate([np.zeros(d + k), np.ones(k), fixed_price]), integrality=np.concatenate([(step > 0) * 1, np.zeros(k), np.ones(k)]),
                      bounds=Bounds(least, most), constraints=held, options={"time_limit": 5.0})  # type: ignore[arg-type]  # fmt: skip
    if found.status == 2 or (found.status == 0 and found.fun > moves.money + 1e-6 * (1 + abs(moves.money))):
        return Pair(None, None, "empty")
    if found.x is None:
        return Pair(None, None, "open")
    z = np.clip(anchor + scale * np.where(step > 0, np.round(found.x[: d + k]), found.x[: d + k]), low, high)
    row, changed = z[:d].copy(), z[:d].copy()
    changed[moves.feature] = np.where(
        np.abs(z[d:] - row[moves.feature]) <= NEAR * (1 + np.abs(z[d:])), row[moves.feature].clip(low[d:], high[d:]), z[d:]
    )
    for side in (row, changed):
        for r in space.relations:
            if isinstance(r, Ratio | Sum):
                side[r.target] = recomputed(side[None], r)[0]
    return Pair(row, changed)
