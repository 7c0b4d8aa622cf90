"""Deb et al. 2002, https://doi.org/10.1109/4235.996017: NSGA-II for many table rows at once, over the model's margin and the price of the change.

Every child is repaired and can be paid for before it is asked about, so both aims are all there is: the front runs from the clean row to the
least margin, and of changes that are wrong only the cheapest is on it.

>>> rank, crowd = ranked(np.array([[0.0, 1.0, 2.0, 2.0]]), np.array([[3.0, 1.0, 0.0, 2.0]]))
>>> rank.tolist()
[[0, 0, 0, 1]]
"""

from __future__ import annotations

import numpy as np

from carbide.evasion._cheaper import Holdings
from carbide.evasion._draws import Draws
from carbide.evasion._market import Market
from carbide.evasion._scores import Scorer
from carbide.types import Array

PATIENCE = 12  # generations without anything cheaper before a broken row is left
ENOUGH = 1 - 1e-3  # a price that falls by less is as good as stuck
INDEX = 5.0  # distribution index of polynomial mutation: large is near
STRIDE = 16  # numbers of draws that a generation may use


class Evolution:
    """For every row a population ``x`` ``(n, population, d)`` with ``margin`` and ``price`` ``(n, population)``, and the evasions that are held."""

    def __init__(self, market: Market, scorer: Scorer, found: Holdings, draws: Draws, *, population: int) -> None:
        self.market, self.scorer, self.found, self.draws, self.size = market, scorer, found, draws, population
        self.near, self.least = market.clean.copy(), np.full(len(market.clean), np.inf)
        self.unit_of = np.full(market.clean.shape[1], -1)
        for number, columns in enumerate(market.units):
            self.unit_of[columns] = number

    def evolve(self, rows: Array, seeds: list[Array], budget: int) -> None:
        """Generations for these rows until each was asked about ``budget`` times or nothing cheaper turns up; ``seeds`` ``(len(rows), d)`` join at first."""
        if len(rows) == 0 or not self.market.units:
            return
        size, goal = self.size, self.scorer.asked[rows] + budget
        x, price = self._settled(self._first(rows, seeds), rows)
        margin = self._ask(rows, x, price)
        idle, turn = np.zeros(len(rows), np.int64), 1
        while len(rows):
            before = self.found.price[rows].copy()
            child, paid = self._settled(self._children(rows, x, *ranked(margin, price), turn), rows)
            told = self._ask(rows, child, paid)
            x, margin, price = np.concatenate([x, child], 1), np.concatenate([margin, told], 1), np.concatenate([price, paid], 1)
            rank, crowd = ranked(margin, price)
            keep = np.lexsort((-crowd, rank), axis=1)[:, :size]
            x, margin, price = np.take_along_axis(x, keep[:, :, None], 1), *(np.take_along_axis(v, keep, 1) for v in (margin, price))
            idle = np.where((self.found.price[rows] < before * ENOUGH) | np.isinf(self.found.price[rows]), 0, idle + 1)
            stay = (self.scorer.asked[rows] + size <= goal) & (idle < PATIENCE) & (self.found.price[rows] > 0)
            stay &= turn < 4 * budget // size  # where every child is dearer than what is held, none is asked about
            rows, goal, x, margin, price, idle, turn = rows[stay], goal[stay], x[stay], margin[stay], price[stay], idle[stay], turn + 1

    def _settled(self, x: Array, rows: Array) -> tuple[Array, Array]:
        """Populations ``(m, k, d)`` brought among rows that exist and can be paid for, and their prices ``(m, k)``."""
        m, k, d = x.shape
        fitted, price = self.market.afford(x.reshape(m * k, d), np.repeat(rows, k))
        return fitted.reshape(m, k, d), price.reshape(m, k)

    def _ask(self, rows: Array, x: Array, price: Array) -> Array:
        """The margins ``(m, k)`` of populations, 0 where it is wrong, inf where the price is no less than what is held (which is not asked)."""
        m, k, d = x.shape
        many, flat, paid = np.repeat(rows, k), x.reshape(m * k, d), price.reshape(m * k)
        margin = np.full(m * k, np.inf)
        moved = ((flat != self.market.clean[many]) & ~np.isnan(flat)).any(1)
        margin[~moved] = np.finfo(float).max  # the clean row: right, and free
        i = np.flatnonzero(moved & (paid < self.found.price[many]) & (paid <= self.market.limit))
        if len(i):
            told, wrong = self.scorer.margins(many[i], flat[i])
            margin[i] = np.where(wrong, 0.0, np.maximum(np.nan_to_num(told, nan=np.inf), 1e-12))
            order = i[wrong][np.argsort(paid[i[wrong]], kind="stable")]
            first = order[np.unique(many[order], return_index=True)[1]]
            self.found.hold(many[first], flat[first], paid[first])
        margin, every = margin.reshape(m, k), np.arange(m)
        best = margin.argmin(1)
        nearer = margin[every, best] < self.least[rows]
        self.near[rows[nearer]], self.least[rows[nearer]] = x[every, best][nearer], margin[every, best][nearer]
        return margin

    def _first(self, rows: Array, seeds: list[Array]) -> Array:
        """The clean row, the seeds, and changes of one to three features to anywhere."""
        size, market = self.size, self.market
        clean = market.clean[rows]
        x = np.repeat(clean[:, None], size, 1)
        u = self.draws.uniform(rows, 0, 2, size)
        few = 1 + np.floor(3 * u[:, 0] ** 2)
        some = self.draws.uniform(rows, 1, size, len(market.units))
        order = np.argsort(np.argsort(some, axis=2), axis=2)
        chosen = (order < few[:, :, None])[:, :, self.unit_of] & (self.unit_of >= 0)
        x = np.where(chosen, self._anywhere(rows, 2, size), x)
        for place, seed in enumerate(seeds[: size - 1]):
            x[:, 1 + place] = np.where(self.unit_of >= 0, seed, clean)
        x[:, 0] = clean
        return x

    def _anywhere(self, rows: Array, turn: int, count: int) -> Array:
        """Values ``(m, count, d)`` of every feature: between its ends, an end in a third of the draws, one of its choices."""
        market, d = self.market, self.market.clean.shape[1]
        u = self.draws.uniform(rows, turn, 2, count, d)
        u = np.where(u[:, 1] < 1 / 3, np.round(u[:, 0]), u[:, 0])
        x = market.low[rows][:, None] + u * (market.high - market.low)[rows][:, None]
        for choice in market.choices:
            pick = np.minimum((u[:, :, choice.columns[0]] * len(choice.values)).astype(int), len(choice.values) - 1)
            x[:, :, choice.columns] = choice.values[pick]
        return x

    def _children(self, rows: Array, x: Array, rank: Array, crowd: Array, turn: int) -> Array:
        """As many children: two parents, each the better of two; features from either; then some mutate, are undone or half undone."""
        m, size, _d = x.shape
        market, base = self.market, STRIDE * turn
        pick = np.minimum((self.draws.uniform(rows, base, 4, size) * size).astype(int), size - 1)
        every = np.arange(m)[:, None]
        winners = []
        for a, b in ((pick[:, 0], pick[:, 1]), (pick[:, 2], pick[:, 3])):
            first = (rank[every, a] < rank[every, b]) | ((rank[every, a] == rank[every, b]) & (crowd[every, a] >= crowd[every, b]))
            winners.append(x[every, np.where(first, a, b)])
        count = len(market.units)
        u = self.draws.uniform(rows, base + 1, 4, size, count)[..., self.unit_of]  # one number for all columns of a unit
        child = np.where((u[:, 0] < 0.5) & (self.unit_of >= 0), winners[1], winners[0])
        clean = market.clean[rows][:, None]
        forced = np.minimum((self.draws.uniform(rows, base + 2, size) * count).astype(int), count - 1)
        mutates = ((u[:, 1] < 1 / count) | (self.unit_of == forced[:, :, None])) & (self.unit_of >= 0)
        kind = u[:, 2]
        delta = np.where(u[:, 3] < 0.5, (2 * u[:, 3]) ** (1 / (INDEX + 1)) - 1, 1 - (2 * (1 - u[:, 3])) ** (1 / (INDEX + 1)))
        step = child + delta * (market.high - market.low)[rows][:, None]
        step = np.where(market.smooth, np.clip(step, market.low[rows][:, None], market.high[rows][:, None]), self._anywhere(rows, base + 3, size))
        part = np.where(market.smooth, clean + u[:, 3] * (child - clean), clean)
        new = np.where(kind < 0.25, clean, np.where(kind < 0.5, part, np.where(kind < 0.8, step, self._anywhere(rows, base + 4, size))))
        return np.where(mutates, new, child)


def ranked(margin: Array, price: Array) -> tuple[Array, Array]:
    """The front ``(m, k)`` of each member, 0 = dominated by none, and its crowding distance within it; equal members queue one behind the other."""
    m, k = margin.shape
    a, b, place = (v[:, :, None] for v in (margin, price, np.broadcast_to(np.arange(k), (m, k))))
    c, d, other = (np.swapaxes(v, 1, 2) for v in (a, b, place))
    beats = (a <= c) & (b <= d) & ((a < c) | (b < d) | (place < other))
    beats &= np.isfinite(a) | ~np.isfinite(c)
    rank, left, front = np.full((m, k), k), np.ones((m, k), bool), 0
    while left.any():
        free = left & ~(beats & left[:, :, None]).any(1)
        rank[free], left, front = front, left & ~free, front + 1
        if not free.any():
            break
    crowd = np.zeros((m, k))
    every = np.arange(m)[:, None]
    for value in (margin, price):
        value = np.where(np.isfinite(value), value, np.nan)
        order = np.lexsort((value, rank), axis=1)
        v, r = value[every, order], rank[every, order]
        wide = np.nanmax(np.where(np.isfinite(v), v, -np.inf), axis=1, keepdims=True) - np.nanmin(
            np.where(np.isfinite(v), v, np.inf), axis=1, keepdims=True
        )
        gap = np.full((m, k), np.inf)
        inner = (r[:, 2:] == r[:, 1:-1]) & (r[:, :-2] == r[:, 1:-1])
        gap[:, 1:-1] = np.where(inner, (v[:, 2:] - v[:, :-2]) / np.where(wide > 0, wide, 1.0), np.inf)
        back = np.empty_like(gap)
        np.put_along_axis(back, order, np.nan_to_num(gap, nan=0.0, posinf=np.inf), 1)
        crowd = crowd + back
    return rank, crowd
