"""Turns a threat into the axes and ties of the search: what each row's attacker can change, at which price, under which relations.

Relations that the search cannot keep exactly (both parts of a ratio changeable, whole numbers mixed with real ones, ...) are
``hard``: the search then runs twice, once without them (a lower bound) and once with their features held still (an upper bound).
"""

from __future__ import annotations

import math
import weakref
from dataclasses import dataclass, field, replace

import numpy as np
from numba import njit

from carbide.evasion._tree_search.cells import last_below
from carbide.evasion._tree_search.layout import Axes, Ties
from carbide.evasion._tree_search.ties import LARGEST, make_ties
from carbide.space.prices import matrices, price_arrays
from carbide.types import Array, InputError, Linear, LpBall, PriceTable, Ratio, Space


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Axes and ties for the rows they were made for, and the relations that are not kept exactly, in words.

    A row's cost is the sum of what its axes cost or, if ``worst``, the largest of them.
    """

    axes: Axes
    ties: Ties
    hard: tuple[str, ...] = ()
    worst: bool = False


@dataclass(kw_only=True, eq=False)
class _Prices:
    """Prices of every feature ``(d,)`` and matrices by column; ``low`` and ``high`` ``(n, d)`` bound what each row's changed values may be."""

    up: Array
    down: Array
    fixed: Array
    tables: dict[int, Array]
    low: Array
    high: Array
    power: float = 1.0
    corners: bool = True  # whether prices are such that a cheapest point of tied features is a corner

    def movable(self) -> set[int]:
        return {f for f in range(len(self.up)) if min(self.up[f], self.down[f]) < np.inf or f in self.tables}


@dataclass(kw_only=True)
class _Draft:
    """What is being put together: the axes' features, those that are free of charge, their links, the hard relations.

    ``rims`` are relations in which nothing moves but one numerator and ratios that follow it: in each row they bound that numerator.
    """

    feature: list[int]
    free: set[int]
    links: dict[int, list[tuple[int, int]]]
    hard: list[str]
    rims: list[tuple[int, Linear]] = field(default_factory=list)


# What calls with the same prices share; spaces and price tables never change.
PRICED: weakref.WeakKeyDictionary[Space, weakref.WeakKeyDictionary[PriceTable, tuple[Array, Array, Array, dict[int, Array]]]] = (
    weakref.WeakKeyDictionary()
)


def budget_problem(x: Array, prices: PriceTable, space: Space, *, held: bool) -> Problem:
    """The problem of rows ``x`` ``(n, d)`` under a price table; ``held`` says what becomes of hard relations.

    Raises:
        InputError: if a one-hot group has prices or ratios feed on each other.
    """
    known = PRICED.setdefault(space, weakref.WeakKeyDictionary())
    if prices not in known:
        known[prices] = (*price_arrays(prices, space), matrices(prices, space))
    up, down, fixed, tables = known[prices]
    low, high = (np.broadcast_to(bound.ravel(), x.shape).copy() for bound in (space.lower, space.upper))
    return _problem(x, space, _Prices(up=up.copy(), down=down.copy(), fixed=fixed.copy(), tables=tables, low=low, high=high), held)


def ball_problem(x: Array, threat: LpBall, space: Space, *, held: bool) -> Problem:
    """The problem of rows ``x`` ``(n, d)`` in an Lp ball: costs are the norm of the change, squared for p = 2.

    As for priced changes, immutable features stay, steps and relations are kept, and ratios follow their parts. A row outside the
    space's bounds has its bounds widened to hold it.

    Raises:
        InputError: for one-hot groups, and for ratios unless p is inf.
    """
    rate = np.where(space.mutable.ravel(), 0.0 if threat.p == 0 else 1.0, np.inf)
    low, high = np.fmin(space.lower.ravel(), x), np.fmax(space.upper.ravel(), x)
    if math.isinf(threat.p):
        low, high = np.fmax(low, x - threat.eps), np.fmin(high, x + threat.eps)
    elif any(isinstance(r, Ratio) and np.isfinite(rate[[r.numerator, r.denominator]]).any() for r in space.relations):
        raise InputError(f"a ratio's own change counts in an L{threat.p:g} ball, which the tree search cannot do; choose linf or a price table")
    paid = _Prices(up=rate, down=rate, fixed=np.full(len(rate), 1.0 if threat.p == 0 else 0.0), tables={}, low=low, high=high,
                   power=2.0 if threat.p == 2 else 1.0, corners=threat.p in (0, 1))  # fmt: skip
    return replace(_problem(x, space, paid, held), worst=math.isinf(threat.p))


def _problem(x: Array, space: Space, paid: _Prices, held: bool) -> Problem:
    movable = paid.movable()
    for group in space.groups:
        if movable & set(group):
            raise InputError(
                f"{space.name(group[0])} belongs to a one-hot group, which the tree search cannot change; make the group one categorical column"
            )
    draft = _Draft(feature=[], free=set(), links={}, hard=[])
    movable = _ratios(space, movable, draft, held)
    linear, movable = _linears(space, movable, paid, draft, held)
    draft.feature = sorted(movable | draft.free)
    groups = _tie(x, linear, movable, paid)
    _bound_ratios(x, draft, paid)
    for f, r in draft.rims:
        _bound_rim(x, f, r, dict(draft.links.get(f, [])), paid)
    for f in draft.free:
        paid.up[f] = paid.down[f] = paid.fixed[f] = 0.0
    ties = make_ties([[draft.feature.index(f) for f in g] for g, _ in groups], [t for _, t in groups], len(x))
    return Problem(axes=_axes(space, draft, paid), ties=ties, hard=tuple(draft.hard))


def _ratios(space: Space, movable: set[int], draft: _Draft, held: bool) -> set[int]:
    """Link each ratio to its numerator; a ratio whose denominator can change is hard."""
    ratios = [r for r in space.relations if isinstance(r, Ratio)]
    targets = [r.target for r in ratios]
    movable = movable - set(targets)
    for r in ratios:
        if targets.count(r.target) > 1 or r.numerator in targets or r.denominator in targets:
            raise InputError(f"ratio {space.name(r.target)} feeds on another ratio; define it by features of its own")
        if r.denominator not in movable:
            continue
        draft.hard.append(f"{space.name(r.target)} = {space.name(r.numerator)} / {space.name(r.denominator)}")
        if held:
            movable = movable - {r.denominator}
        else:
            draft.free.add(r.target)
    for r in ratios:
        if r.numerator in movable and r.target not in draft.free:
            draft.links.setdefault(r.numerator, []).append((r.target, r.denominator))
    return movable


def _linears(space: Space, movable: set[int], paid: _Prices, draft: _Draft, held: bool) -> tuple[list[Linear], set[int]]:
    """The linear relations that are kept exactly, and the features that may move."""
    moved_ratios = {t: f for f, links in draft.links.items() for t, _ in links} | {t: t for t in draft.free}
    kept = []
    for r in space.relations:
        if isinstance(r, Linear):
            touched = {moved_ratios[f] for f in r.features if f in moved_ratios}
            moving = touched | {f for f, c in zip(r.features, r.coefficients, strict=True) if f in movable and c != 0}
            if touched and len(moving) == 1 and not touched & draft.free:
                draft.rims.append((moving.pop(), r))
            elif touched:
                draft.hard.append(_words(r, space))
                movable = movable - (touched | set(r.features)) if held else movable
            else:
                kept.append(r)
    for group, inside in _connected(kept, movable):
        if len(group) > 1 and not (paid.corners and _exact(group, inside, space, paid.tables)):
            draft.hard += [_words(r, space) for r in inside]
            movable = movable - set(group) if held else movable
            kept = kept if held else [r for r in kept if r not in inside]
    draft.links = {f: links for f, links in draft.links.items() if f in movable}
    return kept, movable


def _connected(relations: list[Linear], movable: set[int]) -> list[tuple[list[int], list[Linear]]]:
    """Groups of movable features that relations tie together, with their relations."""
    groups: list[tuple[set[int], list[Linear]]] = []
    for r in relations:
        own = {f for f, c in zip(r.features, r.coefficients, strict=True) if f in movable and c != 0}
        if not own:
            continue
        joined, rest = (own, [r]), []
        for features, inside in groups:
            if features & own:
                joined = (joined[0] | features, inside + joined[1])
                own = joined[0]
            else:
                rest.append((features, inside))
        groups = [*rest, joined]
    return [(sorted(features), inside) for features, inside in groups]


def _exact(group: list[int], inside: list[Linear], space: Space, tables: dict[int, Array]) -> bool:
    """Whether trying all corners is exact for this group."""
    step, lower = space.step.ravel()[group], space.lower.ravel()[group]
    if len(group) > LARGEST or any(f in tables for f in group):
        return False
    if not step.any():
        return True
    anchors = np.where(np.isfinite(lower), lower, 0.0)
    if (step != step[0]).any() or np.abs(anchors / step[0] - np.round(anchors / step[0])).max() > 1e-9:
        return False
    for r in inside:
        own = sorted(c for f, c in zip(r.features, r.coefficients, strict=True) if f in group and c != 0)
        if own not in ([-1.0, 1.0], [-1.0], [1.0]):
            return False
    return True


def _tie(x: Array, linear: list[Linear], movable: set[int], paid: _Prices) -> list[tuple[list[int], list[tuple[Array, Array]]]]:
    """Relations with one movable feature become bounds of the rows; those with more become ties."""
    groups = []
    for group, inside in _connected(linear, movable):
        ties = []
        for r in inside:
            c, rest = np.zeros(len(group)), np.full(len(x), float(r.upper))
            for f, value in zip(r.features, r.coefficients, strict=True):
                if f in group:
                    c[group.index(f)] += value
                else:
                    rest -= value * x[:, f]
            if np.count_nonzero(c) == 1:
                k = int(np.flatnonzero(c)[0])
                _bound_(paid, group[k], c[k], rest)
            ties.append((c, rest))
        if len(group) > 1:
            groups.append((group, ties))
    return groups


def _bound_(paid: _Prices, f: int, c: float, rest: Array) -> None:
    """Bound feature f by ``c * v <= rest``; a row whose rest is NaN cannot move it."""
    edge = np.where(np.isnan(rest), -np.inf if c > 0 else np.inf, rest / c)
    if c > 0:
        paid.high[:, f] = np.minimum(paid.high[:, f], edge)
    else:
        paid.low[:, f] = np.maximum(paid.low[:, f], edge)


def _bound_ratios(x: Array, draft: _Draft, paid: _Prices) -> None:
    """A numerator may only go where its ratio stays within the ratio's own bounds."""
    for f, links in draft.links.items():
        for target, below in links:
            _follow(x[:, below].astype(float), paid.low[:, target], paid.high[:, target], paid.low[:, f], paid.high[:, f])


def _bound_rim(x: Array, f: int, r: Linear, links: dict[int, int], paid: _Prices) -> None:
    """Bound numerator f by a relation of ratios that follow it (``links``: ratio to denominator) and features that stay."""
    slope, rest = np.zeros(len(x)), np.full(len(x), float(r.upper))
    for g, c in zip(r.features, r.coefficients, strict=True):
        if g == f:
            slope += c
        elif g in links:
            with np.errstate(divide="ignore"):
                slope += c / x[:, links[g]]
        elif c:
            rest -= c * x[:, g]
    with np.errstate(divide="ignore", invalid="ignore"):
        edge = rest / slope
    never = np.isnan(edge) | ((slope == 0) & (rest < 0))
    high = np.where(never, -np.inf, np.where(slope > 0, edge, np.inf))
    paid.high[:, f], paid.low[:, f] = np.fmin(paid.high[:, f], high), np.fmax(paid.low[:, f], np.where(~never & (slope < 0), edge, -np.inf))


@njit(cache=True)
def _follow(below, lower, upper, low, high):  # pragma: no cover - compiled
    for i in range(len(below)):
        b = below[i]
        if b > 0:
            low[i], high[i] = max(low[i], -last_below(-lower[i], b)), min(high[i], last_below(upper[i], b))
        elif b < 0:
            low[i], high[i] = max(low[i], -last_below(upper[i], -b)), min(high[i], last_below(-lower[i], -b))


def _axes(space: Space, draft: _Draft, paid: _Prices) -> Axes:
    f = np.array(draft.feature, np.int64)
    lower = space.lower.ravel()[f]
    matrix, size, moves, at = np.full(len(f), -1, np.int64), np.full(len(f), -1, np.int64), [np.zeros(1)], 1
    for a, feature in enumerate(draft.feature):
        if feature in paid.tables:
            matrix[a], size[a] = at, len(paid.tables[feature])
            moves.append(paid.tables[feature].ravel())
            at += paid.tables[feature].size
    links = [draft.links.get(feature, []) for feature in draft.feature]
    axis_of = np.full(len(paid.up), -1, np.int64)
    axis_of[f] = np.arange(len(f))
    for a, pairs in enumerate(links):
        axis_of[[target for target, _ in pairs]] = a
    return Axes(feature=f, up=paid.up[f], down=paid.down[f], fixed=paid.fixed[f], power=np.full(len(f), paid.power), step=space.step.ravel()[f].astype(float),
                anchor=np.where(np.isfinite(lower), lower, 0.0), matrix=matrix, size=size, moves=np.concatenate(moves),
                link_start=np.cumsum([0, *map(len, links)]), link_target=np.array([t for p in links for t, _ in p], np.int64),
                link_below=np.array([b for p in links for _, b in p], np.int64), low=paid.low[:, f].copy(),
                high=paid.high[:, f].copy(), axis_of=axis_of)  # fmt: skip


def _words(r: Linear, space: Space) -> str:
    terms = " ".join(f"{c:+g} {space.name(f)}" for f, c in zip(r.features, r.coefficients, strict=True))
    return f"{terms} <= {r.upper:g}"
