"""Evasions of table rows made cheaper: ways walked back by halves, changes given back one by one, dear choices swapped for cheaper ones.

``wrong(rows, x)`` says which inputs ``x`` ``(m, d)``, changes of the rows with those indices, are misread. Prices are known without asking, so
only what is cheaper is asked about.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carbide.evasion._market import Market
from carbide.types import Array

Wrong = Callable[[Array, Array], Array]
CHEAPER = 1 - 1e-9  # a price that is lower by less is the same


class Holdings:
    """The cheapest evasion ``x`` ``(n, d)`` of each row so far and its ``price`` ``(n,)``; the clean row and inf where there is none."""

    def __init__(self, market: Market, wrong: Wrong) -> None:
        self.market, self.wrong = market, wrong
        self.x, self.price = market.clean.copy(), np.full(len(market.clean), np.inf)

    def ask(self, rows: Array, x: Array, price: Array) -> Array:
        """Try allowed inputs at their prices; returns which of them are wrong and cheaper than what was held, and holds them. No row repeats."""
        hit = (price < self.price[rows] * CHEAPER) & (price <= self.market.limit)
        i = np.flatnonzero(hit)
        if len(i):
            hit[i] = self.wrong(rows[i], x[i])
            self.hold(rows[hit], x[hit], price[hit])
        return hit

    def hold(self, rows: Array, x: Array, price: Array) -> None:
        """Note inputs that are known to be wrong and cheaper."""
        self.x[rows], self.price[rows] = x, price

    def ask_all(self, rows: Array, trials: list[Array]) -> Array:
        """The cheapest that is wrong of several proposals ``(m, d)`` for each row, asked from the cheapest on; returns which rows got cheaper."""
        offers = [self.market.fit(trial, rows) for trial in trials]
        prices = np.stack([price for _, price in offers])
        better = np.zeros(len(rows), bool)
        every = np.arange(len(rows))
        for place in np.argsort(prices, axis=0, kind="stable"):
            i = np.flatnonzero(~better)
            x = np.stack([offers[place[j]][0][j] for j in i]) if len(i) else self.x[:0]
            better[i] |= self.ask(rows[i], x, prices[place, every][i])
        return better

    def walk_back(self, rows: Array, start: Array, halvings: int) -> None:
        """Halve the way of smooth features from ``start`` ``(m, d)`` to what is held, as long as the middle is wrong and cheaper."""
        near, far, end = np.zeros(len(rows)), np.ones(len(rows)), self.x[rows]
        for _ in range(halvings):
            share = (near + far) / 2
            middle = np.where(self.market.smooth, start + share[:, None] * (end - start), end)
            hit = self.ask(rows, *self.market.fit(middle, rows))
            near, far = np.where(hit, near, share), np.where(hit, share, far)

    def give_back(self, rows: Array, halvings: int) -> None:
        """Each feature or group that was changed, dearest first, undone wholly or by halves; choices swapped for cheaper ones."""
        market = self.market
        order = np.argsort(-self._shares(rows), axis=1, kind="stable")
        many = int((self._shares(rows) > 0).sum(1).max()) if len(rows) else 0
        for turn in range(many):
            for number in np.unique(order[:, turn]):
                part = rows[order[:, turn] == number]
                columns = market.units[number]
                part = part[(self.x[part][:, columns] != market.clean[part][:, columns]).any(1)]
                if len(part) == 0:
                    continue
                undone = self.x[part].copy()
                undone[:, columns] = market.clean[part][:, columns]
                gone = self.ask(part, *market.fit(undone, part))
                if number < len(market.units) - len(market.choices):
                    self.walk_back(part[~gone], undone[~gone], halvings)
                else:
                    self._swap(part[~gone], number - len(market.units) + len(market.choices))

    def _swap(self, rows: Array, number: int) -> None:
        """The cheapest value of one choice that is still wrong."""
        choice, trials = self.market.choices[number], []
        for value in choice.values:
            trial = self.x[rows].copy()
            trial[:, choice.columns] = value
            trials.append(trial)
        if len(rows):
            self.ask_all(rows, trials)

    def _shares(self, rows: Array) -> Array:
        """About what the change of each unit ``(m, units)`` costs: choices first, then by price."""
        market = self.market
        change = np.nan_to_num(self.x[rows] - market.clean[rows])
        unit = np.where(change > 0, market.up, market.down)
        each = np.abs(change) * np.where(np.isfinite(unit), unit, 0.0)
        shares = np.zeros((len(rows), len(market.units)))
        first = len(market.units) - len(market.choices)
        for i, columns in enumerate(market.units):
            moved = (change[:, columns] != 0).any(1)
            shares[:, i] = np.where(moved, market.limit + 1 if i >= first else each[:, columns[0]] + 1e-12, 0.0)
        return shares
