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
from carbide.evasion._evolution import Evolution
from carbide.evasion._labels import donors
from carbide.evasion._market import Market, table_refusal, unasked_on
from carbide.evasion._scores import Scorer
from carbide.registry import Method
from carbide.types import Access, Array, FeatureBudget, InputError, LpBall, Rng, Threat

SPARE = 0.15  # share of the queries that is kept for lowering the price in the end
DONORS = 6  # rows labelled otherwise that are looked for, the nearest half of which seed the population
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
        y, every = np.asarray(y, np.int64), np.arange(len(clean))
        market, scorer = Market(clean, threat, model.space), Scorer(model, y)
        found = Holdings(market, lambda rows, x: scorer.margins(rows, x)[1])
        search = Evolution(market, scorer, found, Draws(rng, clean), population=self.population)
        wrong = scorer.margins(every, clean)[1]
        found.price[wrong] = 0.0
        rows = np.flatnonzero(~wrong)
        search.evolve(rows, _passing(clean, wrong, y, rows), int((1 - SPARE) * self.queries))
        rows = np.flatnonzero(np.isfinite(found.price) & (found.price > 0))
        if len(rows):
            found.walk_back(rows, clean[rows], HALVINGS)
            found.give_back(rows, HALVINGS)
        return np.where(np.isfinite(found.price)[:, None], found.x, search.near)


def _passing(clean: Array, wrong: Array, y: Array, rows: Array) -> list[Array]:
    """For each of these rows the nearest others that the model takes for another class, as seeds ``(len(rows), d)``; the row itself where there is none."""
    labels = np.where(wrong, -1, y)  # a row that is misread passes for another class whichever it is taken for
    picked = donors(clean, labels, y, rows, DONORS, np.random.default_rng(0))[:, : DONORS // 2]
    return [np.where((k >= 0)[:, None], clean[k], clean[rows]) for k in picked.T]
