"""What an attacker of table rows may do and what it costs: where each feature can go, prices, and proposals brought among rows that exist.

Features whose price grows with the way (and all features of an Lp ball) are *smooth*: they can be followed by gradients. Price matrices,
one-hot groups and features with a price for any change at all are *choices*, each a list of values to choose from.

>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> space = Space.table(["amount", "limit"], lower=np.zeros(2))
>>> market = Market(np.array([[8.0, 9.0]]), FeatureBudget(money=5, prices=PriceTable(prices={"amount": Price(down=1.0)})), space)
>>> market.low.tolist(), market.high.tolist()
([[3.0, 9.0]], [[8.0, 9.0]])
>>> market.steepest(np.array([[-1.0, 0.0]]), market.clean, np.array([0]), np.array([2.0])).tolist()
[[6.0, 9.0]]
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from carbide.space.balls import norms, project
from carbide.space.membership import allowed
from carbide.space.prices import cost, matrices, price_arrays
from carbide.space.relations import LINEAR_SLACK
from carbide.space.repair import repair
from carbide.types import Access, Array, Case, FeatureBudget, Linear, LpBall, Ratio, Space, Threat

SWEEPS = 24  # through all relations, each time a proposal is projected onto them
WHOLE = 1e-12  # weight of a whole number beside features that are continuous, when a relation is projected onto
TIGHT = 1e-6  # of the terms of a relation: so little slack is none
POINTS = 12  # values looked at of a real feature that has a price for any change at all
HALVINGS = 14


class Choice(NamedTuple):
    """Columns ``(c,)`` that change together and the values ``(k, c)`` that they can take."""

    columns: list[int]
    values: Array


class Market:
    """Rows ``clean`` ``(n, d)`` under a threat: ``low`` and ``high`` ``(n, d)`` are how far each smooth feature can go, all finite.

    ``up`` and ``down`` ``(d,)`` are what a unit of a smooth feature costs; ``limit`` is the money or the radius.
    """

    def __init__(self, clean: Array, threat: FeatureBudget | LpBall, space: Space) -> None:
        self.clean, self.threat, self.space = np.asarray(clean, np.float64), threat, space
        self.priced = isinstance(threat, FeatureBudget)
        self.p = 1.0 if isinstance(threat, FeatureBudget) else threat.p
        self.limit = float(threat.money if isinstance(threat, FeatureBudget) else threat.eps)
        d = self.clean.shape[1]
        mutable = space.mutable.copy()
        mutable[[r.target for r in space.relations if isinstance(r, Ratio)]] = False
        if isinstance(threat, FeatureBudget):
            self.up, self.down, fixed = price_arrays(threat.prices, space)
            tables = matrices(threat.prices, space)
        else:
            self.up, self.down, fixed, tables = np.ones(d), np.ones(d), np.zeros(d), {}
        grouped = {f for group in space.groups for f in group}
        movable = mutable & (np.isfinite(self.up) | np.isfinite(self.down))
        movable[list(tables)] = mutable[list(tables)]
        self.smooth = movable.copy()
        self.smooth[[*grouped, *tables]] = False
        self.low, self.high = self._ends()
        self.choices = [Choice(list(g), np.eye(len(g))) for g in space.groups if movable[list(g)].all()]
        self.choices += [Choice([f], (space.lower[f] + np.arange(len(m)))[:, None]) for f, m in tables.items() if movable[f]]
        self.choices += [Choice([int(f)], self._points(int(f))) for f in np.flatnonzero(self.smooth & (fixed > 0))]
        self.smooth &= fixed == 0
        self.low, self.high = (np.where(self.smooth, end, self.clean) for end in (self.low, self.high))
        self.units = [[int(f)] for f in np.flatnonzero(self.smooth)] + [c.columns for c in self.choices]

    def _ends(self) -> tuple[Array, Array]:
        """How far features could go: within bounds and money; where nothing ends them, one span of the rows and their own size beyond."""
        space, clean = self.space, np.nan_to_num(self.clean)
        far = np.ptp(clean, axis=0) + np.abs(clean) + 1
        with np.errstate(divide="ignore", invalid="ignore"):
            down, up = (np.where(price > 0, self.limit / price, np.inf) for price in (self.down, self.up))
        down, up = np.where(np.isfinite(self.down), down, 0.0), np.where(np.isfinite(self.up), up, 0.0)
        low = np.maximum(np.fmin(space.lower, self.clean), self.clean - np.where(np.isfinite(down), down, far))
        high = np.minimum(np.fmax(space.upper, self.clean), self.clean + np.where(np.isfinite(up), up, far))
        return low, high

    def _points(self, feature: int) -> Array:
        """Values of a feature whose change has a price of its own: all whole ones where they are few, else evenly spread."""
        low, high, step = self.low[:, feature].min(), self.high[:, feature].max(), self.space.step[feature]
        count = round((high - low) / step) + 1 if step > 0 else POINTS
        return np.linspace(low, high, min(count, 3 * POINTS) if step > 0 else POINTS)[:, None]

    def price(self, x: Array, rows: Array) -> Array:
        """What changing the rows into ``x`` ``(m, d)`` costs, ``(m,)``: money or the norm."""
        if isinstance(self.threat, FeatureBudget):
            return cost(self.clean[rows], x, self.threat.prices, self.space)
        return norms(np.nan_to_num(x - self.clean[rows]), self.p)

    def fit(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """Rows that exist near proposals ``x`` ``(m, d)`` and their prices, inf where there is none; they may cost more than the limit."""
        clean = self.clean[rows]
        if len(rows) == 0:
            return clean, np.zeros(0)
        x = np.where(np.isfinite(x), x, clean)
        if self.priced:  # a direction without a price is closed
            x = np.where((x > clean) & np.isinf(self.up) & self.smooth | (x < clean) & np.isinf(self.down) & self.smooth, clean, x)
        if not self.space.relations:
            x = repair(x, clean, self.space)
        else:
            x = self._onto_relations(self._whole(x, clean), rows)
            bad = ~allowed(x, clean, self.space)
            if bad.any():  # the house's repair gives up less where it can, and the whole row where it must
                x[bad] = repair(x[bad], clean[bad], self.space)
        price = self.price(x, rows)
        if self.space.groups or self.space.relations:
            price = np.where(allowed(x, clean, self.space), price, np.inf)
        return x, price

    def _whole(self, x: Array, clean: Array) -> Array:
        """Within bounds, on steps and one of each group, fixed features as they are: what can be had feature by feature."""
        return repair(x, clean, replace(self.space, relations=()))

    def afford(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """As ``fit``, but what costs more than the limit gives up its dearest choices, then goes towards the clean row, until it does not."""
        wish = x
        x, price = self.fit(wish, rows)
        dear = np.flatnonzero(~(price <= self.limit))
        if len(dear) == 0:
            return x, price
        x, price, many = x.copy(), price.copy(), rows[dear]
        start = self._choices_paid(wish[dear], many)
        x[dear], price[dear] = self.fit(start, many)
        undone = dear[~(price[dear] <= self.limit)]
        x[undone], price[undone] = self.clean[rows[undone]], 0.0
        way = np.where(self.smooth, wish[dear] - start, 0.0)
        near, far = np.zeros(len(dear)), np.ones(len(dear))
        for _ in range(HALVINGS):
            share = (near + far) / 2
            trial, asked = self.fit(start + share[:, None] * way, many)
            good = asked <= self.limit
            better = good & (asked >= price[dear])
            x[dear[better]], price[dear[better]] = trial[better], asked[better]
            near, far = np.where(good, share, near), np.where(good, far, share)
        return x, price

    def _choices_paid(self, wish: Array, rows: Array) -> Array:
        """The clean rows with the choices of ``wish`` ``(m, d)``, without the dearest ones where all together cost more than the limit."""
        clean = self.clean[rows]
        start = np.where(self.smooth, clean, wish)
        if not self.choices:
            return clean
        each = np.zeros((len(rows), len(self.choices)))
        for i, choice in enumerate(self.choices):
            alone = clean.copy()
            alone[:, choice.columns] = start[:, choice.columns]
            each[:, i] = self.price(alone, rows)
        order = np.argsort(each, axis=1, kind="stable")
        paid = np.cumsum(np.take_along_axis(each, order, 1), 1)
        for i, choice in enumerate(self.choices):
            place = (order == i).argmax(1)
            kept = paid[np.arange(len(rows)), place] <= self.limit
            start[:, choice.columns] = np.where(kept[:, None], start[:, choice.columns], clean[:, choice.columns])
        return start

    def _onto_relations(self, x: Array, rows: Array) -> Array:
        """Sweeps of projections onto the linear relations that are broken, ratios followed by their parts; in units of the room of each feature."""
        x = x.copy()
        wide = (self.high - self.low)[rows] ** 2
        wide = np.where(self.space.step > 0, wide * WHOLE, wide)  # whole numbers are moved where nothing else can be
        self._follow_(x, rows)
        linear = [r for r in self.space.relations if isinstance(r, Linear)]
        open_ = np.arange(len(rows))
        for _ in range(SWEEPS):
            moved = np.zeros(len(open_), bool)
            for relation in linear:
                moved |= self._onto(relation, x, open_, rows, wide)
            open_ = open_[moved]
            if len(open_) == 0:
                break
        return x

    def _onto(self, relation: Linear, x: Array, which: Array, rows: Array, wide: Array) -> Array:
        """Project those of ``x[which]`` onto a relation in place that break it; returns which did."""
        terms = x[which][:, list(relation.features)] * np.asarray(relation.coefficients)
        over = terms.sum(1) - relation.upper
        broken = over > 0.5 * LINEAR_SLACK * (1 + np.abs(terms).sum(1) + abs(relation.upper))
        bad = which[broken]
        if len(bad):
            normal = self.normal(relation, x[bad])
            size = (normal * normal * wide[bad]).sum(1)
            shift = np.where(size > 0, over[broken] / np.where(size > 0, size, 1.0), 0.0)
            moved = x[bad] - shift[:, None] * normal * wide[bad]
            near = np.where(self.smooth, np.clip(moved, self.low[rows[bad]], self.high[rows[bad]]), x[bad])
            self._follow_(near, rows[bad])
            x[bad] = near
        return broken

    def _follow_(self, x: Array, rows: Array) -> None:
        """Ratios of which a part moved, recomputed in place; the others as they were."""
        clean = self.clean[rows]
        for r in self.space.relations:
            if isinstance(r, Ratio):
                parts = [r.numerator, r.denominator]
                moved = (x[:, parts] != clean[:, parts]).any(1) & (x[:, r.denominator] != 0)
                x[:, r.target] = np.where(moved, x[:, r.numerator] / np.where(moved, x[:, r.denominator], 1.0), clean[:, r.target])

    def normal(self, relation: Linear, x: Array) -> Array:
        """The gradient ``(m, d)`` of a relation's sum along its free features, ratios followed to their parts."""
        normal = np.zeros_like(x)
        np.add.at(normal.T, list(relation.features), np.asarray(relation.coefficients)[:, None])
        return self.through_ratios(normal, x)

    def through_ratios(self, gradient: Array, x: Array) -> Array:
        """A gradient ``(m, d)`` with respect to all features as one with respect to those that are not ratios, by the chain rule."""
        gradient = gradient.copy()
        for r in reversed(self.space.relations):
            if isinstance(r, Ratio):
                below = np.where(x[:, r.denominator] == 0, np.inf, x[:, r.denominator])
                way = gradient[:, r.target]
                gradient[:, r.numerator] += way / below
                gradient[:, r.denominator] -= way * x[:, r.numerator] / below**2
                gradient[:, r.target] = 0.0
        return np.nan_to_num(gradient)

    def along(self, gradient: Array, x: Array, rows: Array) -> Array:
        """A direction of ascent ``(m, d)``, ratios followed, without what would leave relations that are tight at ``x``, so that it can be walked."""
        wide = (self.high - self.low)[rows] ** 2
        linear = [r for r in self.space.relations if isinstance(r, Linear)]
        for _ in range(2 if len(linear) > 1 else len(linear)):
            for r in linear:
                terms = x[:, list(r.features)] * np.asarray(r.coefficients)
                tight = terms.sum(1) >= r.upper - TIGHT * (1e-3 + np.abs(terms).sum(1) + abs(r.upper))
                normal = self.normal(r, x)
                size, leaving = (normal * normal * wide).sum(1), (normal * gradient * wide).sum(1)
                share = np.where(tight & (leaving > 0) & (size > 0), leaving / np.where(size > 0, size, 1.0), 0.0)
                gradient = gradient - share[:, None] * normal
        return np.where(self.smooth, gradient, 0.0)

    def _way(self, gradient: Array, x: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Along each feature's sign of the gradient: where it ends, how far that is and what a unit costs; back to the clean row comes first."""
        clean, rising = self.clean[rows], gradient > 0
        back = np.where(rising, x < clean, x > clean)
        end = np.where(back, clean, np.where(rising, self.high[rows], self.low[rows]))
        unit = np.where(back == rising, self.down, self.up)
        room = np.where(self.smooth & (gradient != 0), np.maximum(np.where(rising, end - x, x - end), 0.0), 0.0)
        return np.where(rising, room, -room), room, np.where(np.isfinite(unit), unit, 0.0)

    def steepest(self, gradient: Array, x: Array, rows: Array, size: Array) -> Array:
        """From ``x`` ``(m, d)`` the step of price (or norm) at most ``size`` ``(m,)`` that rises most to first order, within ``low`` and ``high``."""
        if not self.priced and self.p != 1:
            way = np.where(self.smooth, gradient, 0.0)
            if math.isinf(self.p):
                return np.clip(x + size[:, None] * np.sign(way), self.low[rows], self.high[rows])
            length = np.maximum(norms(way, 2), np.finfo(float).tiny)
            return np.clip(x + (size / length)[:, None] * way, self.low[rows], self.high[rows])
        way, room, unit = self._way(gradient, x, rows)
        whole = np.minimum(room * unit, size[:, None])  # what going the whole way costs
        rate = np.where(whole > 0, np.abs(gradient) / np.where(unit > 0, unit, 1.0), 0.0)
        order = np.argsort(-rate, axis=1, kind="stable")
        spend = np.take_along_axis(whole, order, 1)
        spend = np.clip(size[:, None] - (np.cumsum(spend, 1) - spend), 0.0, spend)
        paid = np.zeros_like(whole)
        np.put_along_axis(paid, order, spend, 1)
        share = np.minimum(1.0, size / max(2 * self.limit, np.finfo(float).tiny))[:, None]  # what is free is only held back by the step
        moved = np.where(unit > 0, np.minimum(paid / np.where(unit > 0, unit, 1.0), room), share * room)
        return x + np.where(way > 0, moved, -moved)

    def rate(self, gradient: Array, x: Array, rows: Array) -> Array:
        """The most that a unit of money buys along smooth features ``(m,)`` to first order; 0 in an Lp ball."""
        if not self.priced:
            return np.zeros(len(rows))
        _, room, unit = self._way(gradient, x, rows)
        return np.where((room > 0) & (unit > 0), np.abs(gradient) / np.where(unit > 0, unit, 1.0), 0.0).max(1, initial=0.0)

    def cheapest(self, gradient: Array, rows: Array, wanted: Array) -> Array:
        """The cheapest change ``(m, d)`` of the clean rows that rises by ``wanted`` ``(m,)`` to first order, or the most that there is."""
        clean = self.clean[rows]
        way, room, unit = self._way(gradient, clean, rows)
        gain = np.abs(gradient) * room
        rate = np.where(gain > 0, np.abs(gradient) / np.maximum(unit, 1e-300), 0.0)
        order = np.argsort(-rate, axis=1, kind="stable")
        need = np.take_along_axis(np.minimum(gain, np.maximum(wanted, 0.0)[:, None]), order, 1)
        need = np.clip(wanted[:, None] - (np.cumsum(need, 1) - need), 0.0, need)
        took = np.zeros_like(gain)
        np.put_along_axis(took, order, need, 1)
        share = np.where(gain > 0, took / np.where(gain > 0, gain, 1.0), 0.0)
        return clean + share * way

    def project(self, x: Array, rows: Array, spare: Array) -> Array:
        """The nearest row whose smooth features cost at most ``spare`` ``(m,)``, in Euclidean distance of what each costs (exact), within their ends."""
        clean, low, high = self.clean[rows], self.low[rows], self.high[rows]
        x = np.where(np.isfinite(x), x, clean)
        inside = np.where(self.smooth, np.clip(x, low, high), x)
        if math.isinf(self.p):
            return inside
        unit = np.where(inside >= clean, self.up, self.down)
        paid = self.smooth & (unit > 0) & np.isfinite(unit)
        scale = np.where(paid, unit, 1.0)
        change = np.where(paid, np.nan_to_num(x - clean), 0.0) * scale
        ends = (np.where(paid, (end - clean), 0.0) * scale for end in (low, high))
        lower, upper = (np.nan_to_num(end) for end in ends)
        near = project(change, np.zeros_like(change), p=self.p, eps=np.maximum(spare, 0.0), lower=lower, upper=upper)
        return np.where(paid, clean + near / scale, inside)


def bound_together(space: Space) -> bool:
    """Whether a table's rows need more than bounds: steps, groups, relations or fixed features."""
    return bool(space.groups or space.relations or (space.step > 0).any() or not space.mutable.all())


def table_refusal(space: Space, threat: Threat) -> str | None:
    """Why rows of a space cannot be bargained about under a threat, or None."""
    if len(space.shape) != 1:
        return f"it changes rows of tables, and inputs have the shape {space.shape}"
    if isinstance(threat, LpBall) and threat.p == 0:
        return "it has no steps of which an L0 change is a sum; choose linf, l2 or l1"
    return None


def unasked_on(case: Case, threat: Threat) -> bool:
    """Whether table attacks run though no plan names them: where trees are not searched exactly, and changes have prices or rows more than bounds."""
    space = case.model.space
    if len(space.shape) != 1 or (Access.STRUCTURE in case.model.access and case.model.classes == 2):
        return False
    return isinstance(threat, FeatureBudget) or (isinstance(threat, LpBall) and threat.p != 0 and bound_together(space))
