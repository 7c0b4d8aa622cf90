"""Deb et al. 2002, https://doi.org/10.1109/4235.996017: NSGA-II over two aims, the model's margin and the price of the change, on tables.

Searching tables by several aims is Simonetto et al. 2022, https://arxiv.org/abs/2112.01156 (who take R-NSGA-III and a third aim for broken
constraints; here every child is repaired before it is asked about). Only scores are needed, so it runs on nets, nearest neighbours, support vector
machines, pipelines, callables and endpoints. The front between doing nothing and the least margin holds cheap half-ways that children combine; a
row that is broken goes on until nothing cheaper has been found for some time.

>>> from types import SimpleNamespace
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
>>> score = lambda x: np.stack([1 - x.mean(1), x.mean(1)], 1)
>>> model = SimpleNamespace(predict=score, threshold=0.5, space=space, access=Access.LABELS | Access.SCORES)
>>> threat = FeatureBudget(money=1.0, prices=PriceTable(prices={"a": Price(down=1.0), "b": Price(down=2.0)}))
>>> x = Genetic()(model, np.array([[0.7, 0.5]]), np.array([1]), threat, np.random.default_rng(0))
>>> bool(x.mean() < 0.5), bool(0.7 - x[0, 0] < 0.25)
(True, True)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._cheaper import Holdings
from carbide.evasion._draws import Draws
from carbide.evasion._labels import donors
from carbide.evasion._market import Market, table_refusal, unasked_on
from carbide.evasion._scores import Scorer
from carbide.registry import Method
from carbide.types import Access, Array, FeatureBudget, InputError, LpBall, Rng, Threat

SPARE = 0.15  # share of the queries that is kept for lowering the price in the end
PATIENCE = 12  # generations without anything cheaper before a broken row is left
DONORS = 6  # rows labelled otherwise that each row looks at
INDEX = 5.0  # distribution index of polynomial mutation: large is near
HALVINGS = 6


@dataclass(frozen=True, kw_only=True)
class Genetic(Method):
    """NSGA-II with about ``queries`` scores a row: ``population`` changes of it, combined, mutated, repaired; then the price is lowered."""

    queries: int = 1000
    population: int = 30
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.SCORES
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 27

    def __post_init__(self) -> None:
        if self.population < 4:
            raise InputError(f"genetic: population is {self.population}; give at least 4")
        if self.queries < 2 * self.population:
            raise InputError(f"genetic: queries is {self.queries}; give at least two generations, {2 * self.population} scores a row")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """Tables, and norms that shrink on the way back."""
        return table_refusal(case.model.space, threat)

    def unasked(self, case: Any, threat: Threat) -> bool:
        """On tables that are not trees', where changes have prices or rows more than bounds."""
        return unasked_on(case, threat)

    def quick(self) -> Genetic:
        """A quarter of the queries."""
        return replace(self, queries=max(2 * self.population, self.queries // 4))

    def __call__(self, model: Any, x: Array, y: Array, threat: FeatureBudget | LpBall, rng: Rng) -> Array:
        """Rows ``(n, d)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: the cheapest that is misread, or that of least margin."""
        clean = np.array(x, np.float64)
        if len(clean) == 0:
            return clean
        search = _Search(self, model, clean, np.asarray(y, np.int64), threat, rng)
        search.evolve()
        return search.result()


class _Search:
    """For every row a population ``x`` ``(n, population, d)`` with ``margin`` and ``price`` ``(n, population)``, and the evasions that are held."""

    def __init__(self, options: Genetic, model: Any, clean: Array, y: Array, threat: FeatureBudget | LpBall, rng: Rng) -> None:
        self.options, self.scorer, self.draws = options, Scorer(model, y), Draws(rng, clean)
        self.market = Market(clean, threat, model.space)
        self.found = Holdings(self.market, lambda rows, x: self.scorer.margins(rows, x)[1])
        self.clean_margin, wrong = self.scorer.margins(np.arange(len(y)), clean)
        self.found.price[wrong] = 0.0
        labels = np.where(wrong, 1 - y, y) if wrong.any() else y  # of more than two classes only whether it is another one counts
        self.passing = donors(clean, labels, y, np.arange(len(y)), DONORS, np.random.default_rng(0))[:, : (DONORS + 1) // 2]
        units = self.market.units
        self.unit_of = np.full(clean.shape[1], -1)
        for number, columns in enumerate(units):
            self.unit_of[columns] = number
        self.near, self.least = clean.copy(), self.clean_margin.copy()

    def evolve(self) -> None:
        """Generations until the queries are spent or nothing cheaper turns up."""
        rows = np.flatnonzero(self.found.price > 0)
        if len(rows) == 0 or not self.market.units:
            return
        size, budget = self.options.population, (1 - SPARE) * self.options.queries
        x, price = self._settled(self._first(rows), rows)
        margin = self._ask(rows, x, price)
        idle, turn = np.zeros(len(rows), np.int64), 1
        while len(rows):
            before = self.found.price[rows].copy()
            child, paid = self._settled(self._children(rows, x, *_ranked(margin, price), turn), rows)
            told = self._ask(rows, child, paid)
            x, margin, price = np.concatenate([x, child], 1), np.concatenate([margin, told], 1), np.concatenate([price, paid], 1)
            keep = np.lexsort((-_ranked(margin, price)[1], _ranked(margin, price)[0]), axis=1)[:, :size]
            x, margin, price = np.take_along_axis(x, keep[:, :, None], 1), *(np.take_along_axis(v, keep, 1) for v in (margin, price))
            idle = np.where((self.found.price[rows] < before * (1 - 1e-3)) | np.isinf(self.found.price[rows]), 0, idle + 1)
            stay = (self.scorer.asked[rows] + size <= budget) & (idle < PATIENCE)
            stay &= turn < 4 * self.options.queries // size  # where every child is dearer than what is held, none is asked about
            rows, x, margin, price, idle, turn = rows[stay], x[stay], margin[stay], price[stay], idle[stay], turn + 1

    def result(self) -> Array:
        """The cheapest evasions after what can be given back was given back; else the changes of least margin."""
        rows = np.flatnonzero(np.isfinite(self.found.price) & (self.found.price > 0))
        if len(rows):
            self.found.walk_back(rows, self.market.clean[rows], HALVINGS)
            self.found.give_back(rows, HALVINGS)
        return np.where(np.isfinite(self.found.price)[:, None], self.found.x, self.near)

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
        margin[~moved] = self.clean_margin[many[~moved]]
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

    def _first(self, rows: Array) -> Array:
        """The clean row, rows that pass as far as they can be paid for, and changes of one to three features to anywhere."""
        size, market = self.options.population, self.market
        clean = market.clean[rows]
        x = np.repeat(clean[:, None], size, 1)
        u = self.draws.uniform(rows, 0, 2, size)
        few = 1 + np.floor(3 * u[:, 0] ** 2)
        some = self.draws.uniform(rows, 1, size, len(market.units))
        order = np.argsort(np.argsort(some, axis=2), axis=2)
        chosen = (order < few[:, :, None])[:, :, self.unit_of] & (self.unit_of >= 0)
        x = np.where(chosen, self._anywhere(rows, 2, size), x)
        for place, donor in enumerate(self.passing[rows].T):
            has = donor >= 0
            x[has, 1 + place] = np.where(self.unit_of >= 0, market.clean[donor[has]], clean[has])
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
        m, size, d = x.shape
        market, base = self.market, 10 * turn
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


def _ranked(margin: Array, price: Array) -> tuple[Array, Array]:
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
        wide = np.nanmax(np.where(np.isfinite(v), v, -np.inf), axis=1, keepdims=True) - np.nanmin(np.where(np.isfinite(v), v, np.inf), axis=1, keepdims=True)
        gap = np.full((m, k), np.inf)
        inner = (r[:, 2:] == r[:, 1:-1]) & (r[:, :-2] == r[:, 1:-1])
        gap[:, 1:-1] = np.where(inner, (v[:, 2:] - v[:, :-2]) / np.where(wide > 0, wide, 1.0), np.inf)
        back = np.empty_like(gap)
        np.put_along_axis(back, order, np.nan_to_num(gap, nan=0.0, posinf=np.inf), 1)
        crowd = crowd + back
    return rank, crowd
