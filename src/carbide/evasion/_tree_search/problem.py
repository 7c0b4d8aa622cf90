"""Turns a threat into the axes and ties of the search: what each row's attacker can change, at which price, under which relations.

A ratio or a sum one part of which changes follows that part. Relations that the search cannot keep exactly (both parts of a ratio changeable,
whole numbers mixed with real ones, ...) are ``hard``: the search then runs twice, once without them (a lower bound) and once with their
features held still (an upper bound). A sum of which several parts change is hard, and its lower bound keeps it as a relation where it can.
"""

from __future__ import annotations

import functools
import math
import weakref
from dataclasses import dataclass, field, replace

import numpy as np

from carbide._numba import njit
from carbide.evasion._tree_search.cells import last_below, last_under
from carbide.evasion._tree_search.layout import Axes, Ties
from carbide.evasion._tree_search.ties import LARGEST, make_ties
from carbide.space.prices import matrices, stairs, unit_prices
from carbide.space.relations import parts_of, targets_of
from carbide.types import Array, InputError, Linear, LpBall, Price, PriceTable, Ratio, Space, Sum


@dataclass(frozen=True, kw_only=True, eq=False)
class Problem:
    """Axes and ties for the rows they were made for, and the relations that are not kept exactly, in words.

    A row's cost is the sum of what its axes cost or, if ``worst``, the largest of them. ``ties_sums``: sums are features among others, which
    relations keep up to rounding.
    """

    axes: Axes
    ties: Ties
    hard: tuple[str, ...] = ()
    worst: bool = False
    ties_sums: bool = False


@dataclass(kw_only=True, eq=False)
class _Prices:
    """Prices of every feature ``(d,)``, matrices and stairs by column, and what a unit of a column ``earns``."""

    up: Array
    down: Array
    fixed: Array
    tables: dict[int, Array]
    power: float = 1.0
    steps: dict[int, Price] = field(default_factory=dict)
    earns: dict[int, float] = field(default_factory=dict)
    corners: bool = True  # whether prices are such that a cheapest point of tied features is a corner

    def movable(self) -> set[int]:
        return {f for f in range(len(self.up)) if min(self.up[f], self.down[f]) < np.inf or f in self.tables}


@dataclass(kw_only=True)
class _Draft:
    """What is being put together: the axes' features, those that are free of charge, their links, the hard relations.

    ``links`` are, by the feature that is followed, the target and the denominator or, in a sum, -1, the coefficient and the sum's other parts.
    ``alike``: linear relations that stand for a sum.
    ``rims`` are relations in which nothing moves but one numerator and ratios that follow it: in each row they bound that numerator.
    """

    feature: list[int]
    free: set[int]
    links: dict[int, list[tuple[int, int, float, Sum | None]]]
    hard: list[str]
    alike: list[Linear] = field(default_factory=list)
    rims: list[tuple[int, Linear]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Plan:
    """What a problem is for any rows: its draft, the linear relations that are kept, the features that may move, axes without bounds or rests."""

    draft: _Draft
    linear: list[Linear]
    movable: set[int]
    axes: Axes

    @functools.cached_property
    def groups(self) -> list[tuple[list[int], list[Linear]]]:
        """Features that relations tie together, with their relations."""
        return _connected(self.linear, self.movable)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bounds:
    """What each row's changed values may be, ``(n, d)``."""

    low: Array
    high: Array


# What calls with the same prices or norm share; spaces and price tables never change.
PRICED: weakref.WeakKeyDictionary[Space, weakref.WeakKeyDictionary[PriceTable, dict[tuple[bool, float], _Plan]]] = weakref.WeakKeyDictionary()
BALLS: weakref.WeakKeyDictionary[Space, dict[tuple[bool, float], _Plan]] = weakref.WeakKeyDictionary()
MOST_PLANS = 64


def budget_problem(x: Array, prices: PriceTable, space: Space, *, held: bool, earns: float = 0.0) -> Problem:
    """The problem of rows ``x`` ``(n, d)`` under a price table; ``held`` says what becomes of hard relations.

    ``earns``: what a unit of the table's gain brings the attacker in the changed row, taken off the prices.

    Raises:
        InputError: if ratios or sums feed on each other.
    """
    known = PRICED.setdefault(space, weakref.WeakKeyDictionary()).setdefault(prices, {})
    if (held, earns) not in known:
        if len(known) >= MOST_PLANS:
            known.clear()
        (up, down, fixed), steps = unit_prices(prices, space), stairs(prices, space)
        for f, price in steps.items():  # what the steps cost is added to a price a unit of 0
            up[f], down[f] = 0.0 if price.up_steps else up[f], 0.0 if price.down_steps else down[f]
        gain = {space.index(prices.gain): earns} if earns and prices.gain is not None else {}
        known[held, earns] = _plan(space, _Prices(up=up, down=down, fixed=fixed, tables=matrices(prices, space), steps=steps, earns=gain), held)
    low, high = (np.broadcast_to(bound.ravel(), x.shape).copy() for bound in (space.lower, space.upper))
    return _problem(x, known[held, earns], _Bounds(low=low, high=high))


def ball_problem(x: Array, threat: LpBall, space: Space, *, held: bool, tables: dict[int, Array]) -> Problem:
    """The problem of rows ``x`` ``(n, d)`` in an Lp ball: costs are the norm of the change, squared for p = 2.

    As for priced changes, immutable features stay, steps and relations are kept, and ratios follow their parts. A row outside the
    space's bounds has its bounds widened to hold it. ``tables`` price columns that stand for one-hot groups.

    Raises:
        InputError: for ratios and sums unless p is inf.
    """
    low, high = np.fmin(space.lower.ravel(), x), np.fmax(space.upper.ravel(), x)
    if math.isinf(threat.p):
        low, high = np.fmax(low, x - threat.eps), np.fmin(high, x + threat.eps)
    elif any(isinstance(r, Ratio | Sum) and space.mutable.ravel()[list(parts_of(r))].any() for r in space.relations):
        raise InputError(
            f"a ratio's or sum's own change counts in an L{threat.p:g} ball, which the tree search cannot do; choose linf or a price table"
        )
    for f in tables:
        low[:, f], high[:, f] = space.lower[f], space.upper[f]
    known = {} if tables else BALLS.setdefault(space, {})
    if (held, threat.p) not in known:
        rate = np.where(space.mutable.ravel(), 0.0 if threat.p == 0 else 1.0, np.inf)
        paid = _Prices(up=rate, down=rate, fixed=np.full(len(rate), 1.0 if threat.p == 0 else 0.0), tables=tables,
                       power=2.0 if threat.p == 2 else 1.0, corners=threat.p in (0, 1))  # fmt: skip
        known[held, threat.p] = _plan(space, paid, held)
    return replace(_problem(x, known[held, threat.p], _Bounds(low=low, high=high)), worst=math.isinf(threat.p))


def _plan(space: Space, paid: _Prices, held: bool) -> _Plan:
    movable = paid.movable()
    movable -= {f for group in space.groups for f in group}  # a group that can be moved has a column of its own, and its members stay
    draft = _Draft(feature=[], free=set(), links={}, hard=[])
    _check_chains(space)
    movable = _ratios(space, movable, draft, held)
    movable = _sums(space, movable, draft, held)
    for r in draft.alike:
        paid.up[r.features[0]] = paid.down[r.features[0]] = paid.fixed[r.features[0]] = 0.0
    linear, movable = _linears(space, movable, paid, draft, held)
    draft.feature = sorted(movable | draft.free)
    for f in draft.free:
        paid.up[f] = paid.down[f] = paid.fixed[f] = 0.0
    return _Plan(draft=draft, linear=linear, movable=movable, axes=_axes(space, draft, paid))


def _problem(x: Array, plan: _Plan, bounds: _Bounds) -> Problem:
    draft, f = plan.draft, plan.axes.feature
    groups = _tie(x, plan, bounds)
    _bound_ratios(x, draft, bounds)
    for feature, r in draft.rims:
        _bound_rim(x, feature, r, {target: below for target, below, _, part in draft.links.get(feature, []) if part is None}, bounds)
    ties = make_ties([[draft.feature.index(g) for g in group] for group, _ in groups], [t for _, t in groups], len(x))
    axes = plan.axes._replace(low=bounds.low[:, f].copy(), high=bounds.high[:, f].copy(), link_rest=_rests(x, draft))
    return Problem(axes=axes, ties=ties, hard=tuple(draft.hard), ties_sums=bool(draft.alike))


def _check_chains(space: Space) -> None:
    targets = targets_of(space)
    for r in space.relations:
        if isinstance(r, Ratio | Sum) and (targets.count(r.target) > 1 or set(parts_of(r)) & set(targets)):
            raise InputError(f"{type(r).__name__.lower()} {space.name(r.target)} feeds on another ratio or sum; define it by features of its own")


def _ratios(space: Space, movable: set[int], draft: _Draft, held: bool) -> set[int]:
    """Link each ratio to its numerator; a ratio whose denominator can change is hard."""
    ratios = [r for r in space.relations if isinstance(r, Ratio)]
    movable = movable - set(targets_of(space))
    for r in ratios:
        if r.denominator not in movable:
            continue
        draft.hard.append(f"{space.name(r.target)} = {space.name(r.numerator)} / {space.name(r.denominator)}")
        if held:
            movable = movable - {r.denominator}
        else:
            draft.free.add(r.target)
    for r in ratios:
        if r.numerator in movable and r.target not in draft.free:
            draft.links.setdefault(r.numerator, []).append((r.target, r.denominator, 1.0, None))
    return movable


def _sums(space: Space, movable: set[int], draft: _Draft, held: bool) -> set[int]:
    """Link each sum to its part that can change; a sum of which several can is hard, and its target then a free feature with two relations."""
    for r in space.relations:
        if not isinstance(r, Sum):
            continue
        moving = [f for f, c in zip(r.features, r.coefficients, strict=True) if f in movable and c != 0]
        if len(moving) > 1:
            draft.hard.append(f"{space.name(r.target)} is a sum of {' and '.join(space.name(f) for f in moving)}")
            if held:
                movable, moving = movable - set(moving[1:]), moving[:1]
            else:
                for sign in (1.0, -1.0):
                    draft.alike.append(Linear(features=(r.target, *r.features), coefficients=(sign, *(-sign * c for c in r.coefficients)), upper=0.0))
                movable = movable | {r.target}
        if len(moving) == 1:
            slope = r.coefficients[r.features.index(moving[0])]
            draft.links.setdefault(moving[0], []).append((r.target, -1, slope, r))
    return movable


def _linears(space: Space, movable: set[int], paid: _Prices, draft: _Draft, held: bool) -> tuple[list[Linear], set[int]]:
    """The linear relations that are kept exactly, and the features that may move."""
    moved_ratios = {t: f for f, links in draft.links.items() for t, *_ in links} | {t: t for t in draft.free}
    sums = {r.target: r for r in space.relations if isinstance(r, Sum)}
    kept = list(draft.alike)
    for r in space.relations:
        if isinstance(r, Linear):
            r = _unfolded(r, sums)
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
        if len(group) > 1 and not (paid.corners and _exact(group, inside, space, {*paid.tables, *paid.steps, *paid.earns})):
            draft.hard += [_words(r, space) for r in inside]
            movable = movable - set(group) if held else movable
            kept = kept if held else [r for r in kept if r not in inside]
    draft.links = {f: links for f, links in draft.links.items() if f in movable}
    return kept, movable


def _unfolded(r: Linear, sums: dict[int, Sum]) -> Linear:
    """The relation with the parts of a sum in place of the sum."""
    if not sums.keys() & set(r.features):
        return r
    terms: dict[int, float] = {}
    for f, c in zip(r.features, r.coefficients, strict=True):
        own = zip(sums[f].features, sums[f].coefficients, strict=True) if f in sums else ((f, 1.0),)
        for g, k in own:
            terms[g] = terms.get(g, 0.0) + c * k
    return Linear(features=tuple(terms), coefficients=tuple(terms.values()), upper=r.upper)


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


def _exact(group: list[int], inside: list[Linear], space: Space, crooked: set[int]) -> bool:
    """Whether trying all corners is exact for this group."""
    step, lower = space.step.ravel()[group], space.lower.ravel()[group]
    if len(group) > LARGEST or crooked & set(group):
        return False
    if not step.any():
        return True
    anchors = np.where(np.isfinite(lower), lower, 0.0)
    if (step != step[0]).any() or np.abs(anchors / step[0] - np.round(anchors / step[0])).max() > 1e-9:
        return False
    rows = [{f: c for f, c in zip(r.features, r.coefficients, strict=True) if f in group and c != 0} for r in inside]
    if all(set(map(abs, row.values())) == {1.0} and row.keys() == rows[0].keys() for row in rows) and (
        len({tuple(c * row[min(row)] for _, c in sorted(row.items())) for row in rows}) == 1
    ):
        return True  # one equation with unit coefficients, and its negative: its corners are whole
    for r in inside:
        own = sorted(c for f, c in zip(r.features, r.coefficients, strict=True) if f in group and c != 0)
        if own not in ([-1.0, 1.0], [-1.0], [1.0]):
            return False
    return True


def _tie(x: Array, plan: _Plan, bounds: _Bounds) -> list[tuple[list[int], list[tuple[Array, Array]]]]:
    """Relations with one movable feature become bounds of the rows; those with more become ties."""
    groups = []
    for group, inside in plan.groups:
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
                _bound_(bounds, group[k], c[k], rest)
            ties.append((c, rest))
        if len(group) > 1:
            groups.append((group, ties))
    return groups


def _bound_(bounds: _Bounds, f: int, c: float, rest: Array) -> None:
    """Bound feature f by ``c * v <= rest``; a row whose rest is NaN cannot move it."""
    edge = np.where(np.isnan(rest), -np.inf if c > 0 else np.inf, rest / c)
    if c > 0:
        bounds.high[:, f] = np.minimum(bounds.high[:, f], edge)
    else:
        bounds.low[:, f] = np.maximum(bounds.low[:, f], edge)


def _bound_ratios(x: Array, draft: _Draft, bounds: _Bounds) -> None:
    """A numerator may only go where its ratio stays within the ratio's own bounds."""
    for f, links in draft.links.items():
        for target, below, slope, part in links:
            if part is None:
                _follow(x[:, below].astype(float), bounds.low[:, target], bounds.high[:, target], bounds.low[:, f], bounds.high[:, f])
            else:
                _follow_sum(slope, _rest(x, f, part), bounds.low[:, target], bounds.high[:, target], bounds.low[:, f], bounds.high[:, f])


def _bound_rim(x: Array, f: int, r: Linear, links: dict[int, int], bounds: _Bounds) -> None:
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
    bounds.high[:, f], bounds.low[:, f] = np.fmin(bounds.high[:, f], high), np.fmax(bounds.low[:, f], np.where(~never & (slope < 0), edge, -np.inf))


@njit(cache=True)
def _follow(below, lower, upper, low, high):  # pragma: no cover - compiled
    for i in range(len(below)):
        b = below[i]
        if b > 0:
            low[i], high[i] = max(low[i], -last_below(-lower[i], b)), min(high[i], last_below(upper[i], b))
        elif b < 0:
            low[i], high[i] = max(low[i], -last_below(upper[i], -b)), min(high[i], last_below(-lower[i], -b))


@njit(cache=True)
def _follow_sum(slope, rest, lower, upper, low, high):  # pragma: no cover - compiled
    for i in range(len(rest)):
        if slope > 0:
            low[i], high[i] = max(low[i], -last_under(-lower[i], slope, -rest[i])), min(high[i], last_under(upper[i], slope, rest[i]))
        else:
            low[i], high[i] = max(low[i], -last_under(upper[i], -slope, rest[i])), min(high[i], last_under(-lower[i], -slope, -rest[i]))


def _rest(x: Array, f: int, part: Sum) -> Array:
    """What the parts of a sum other than f add up to, ``(n,)``."""
    rest = np.zeros(len(x))
    for g, c in zip(part.features, part.coefficients, strict=True):
        if g != f:
            rest = rest + c * x[:, g]
    return rest


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
    stair, steps = np.zeros(2 * len(f) + 1, np.int64), [(0.0, 0.0)]
    for a, feature in enumerate(draft.feature):
        for side, own in enumerate((paid.steps[feature].up_steps, paid.steps[feature].down_steps) if feature in paid.steps else ((), ())):
            stair[2 * a + side] = len(steps)
            steps += own
    stair[-1] = len(steps)
    axis_of = np.full(len(paid.up), -1, np.int64)
    axis_of[f] = np.arange(len(f))
    for a, pairs in enumerate(links):
        axis_of[[target for target, *_ in pairs]] = a
    earns = np.array([paid.earns.get(feature, 0.0) for feature in draft.feature])
    power, step = np.full(len(f), paid.power), space.step.ravel()[f].astype(float)
    straight = (matrix < 0) & (step == 0) & (power == 1) & (np.diff(stair).reshape(-1, 2).sum(1) == 0)
    return Axes(feature=f, up=paid.up[f], down=paid.down[f], fixed=paid.fixed[f], power=power, step=step,
                anchor=np.where(np.isfinite(lower), lower, 0.0), matrix=matrix, size=size, moves=np.concatenate(moves),
                stair=stair, stair_by=np.array([by for by, _ in steps]), stair_paid=np.array([cost for _, cost in steps]), earns=earns,
                straight=straight, link_start=np.cumsum([0, *map(len, links)]), link_target=np.array([t for p in links for t, *_ in p], np.int64),
                link_below=np.array([b for p in links for _, b, *_ in p], np.int64), link_slope=np.array([s for p in links for *_, s, _ in p], float),
                link_rest=NONE, low=NONE, high=NONE, axis_of=axis_of)  # fmt: skip


NONE = np.zeros((0, 0))  # until the rows are known


def _rests(x: Array, draft: _Draft) -> Array:
    """What the other parts of the sum at the end of each link add up to in each row, ``(n, links)``; 0 for ratios."""
    links = [(feature, link[3]) for feature in draft.feature for link in draft.links.get(feature, [])]
    rest = np.zeros((len(x), len(links)))
    for k, (feature, part) in enumerate(links):
        if part is not None:
            rest[:, k] = _rest(x, feature, part)
    return rest


def _words(r: Linear, space: Space) -> str:
    terms = " ".join(f"{c:+g} {space.name(f)}" for f, c in zip(r.features, r.coefficients, strict=True))
    return f"{terms} <= {r.upper:g}"
