"""What evasion is worth: an attacker changes a row only where that pays, so prices decide how much is lost.

Where the gain is of the changed row, the cheapest evasion need not be the one that pays most: ``Deals`` holds what was found of both.

>>> import numpy as np
>>> from carbide.types import Finding
>>> base = Finding(metric="robust recall", value=0.0, low=0.0, high=1.0, n=3, method="m", threat="t", access="", seed=0)
>>> found = money_findings(base, "$", np.array([10.0, 20.0, 30.0]), np.array([0.0, 5.0, 40.0]), np.array([10.0, 18.0, 30.0]))
>>> [(f.metric, round(f.value, 2)) for f in found]  # doctest: +NORMALIZE_WHITESPACE
[('frauds that pay', 0.67), ('money lost per 1,000 frauds ($)', 9333.33), ("attackers' profit per 1,000 frauds ($)", 8333.33),
 ('break-even price factor', 2.38)]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carbide.space.relations import targets_of
from carbide.stats.intervals import clopper_pearson
from carbide.types import Array, Finding, PriceTable, Space, rng_for

DRAWS = 2_000
PROFIT = "attackers' profit"


def gain_moves(prices: PriceTable, space: Space) -> bool:
    """Whether an attacker's changes change what is earned; else profit is the row's own gain less the least price."""
    return prices.gain is not None and prices.follows and (prices.gain in prices.prices or space.index(prices.gain) in targets_of(space))


@dataclass(frozen=True, kw_only=True, eq=False)
class Deals:
    """Evasions that were found of each of n rows: pairs of a price ``(n,)``, inf where there is none, and what the changed row earns ``(n,)``.

    ``gain`` ``(n,)`` is what each row earns as it is; ``upper`` ``(n,)``: no evasion of it leaves more (None = not known). ``how`` says why the
    most profitable ones are not searched, where they are not. ``witnesses`` are the changed rows ``(n, d)`` of each offer.
    """

    gain: Array
    offers: Sequence[tuple[Array, Array]]
    witnesses: Sequence[Array] = ()
    upper: Array | None = None
    how: str = ""

    def best(self) -> tuple[Array, Array]:
        """Profit ``(n,)``, 0 where none pays, and what the changed row then earns ``(n,)``."""
        worth, first = self._worth(), self._first()
        kept = np.stack([kept for _, kept in self.offers])[first]
        return np.maximum(worth[first], 0.0), kept

    def witness(self) -> Array:
        """The changed rows ``(n, d)`` of the offers that leave most."""
        return np.stack(list(self.witnesses))[self._first()]

    def _worth(self) -> Array:
        worth = np.stack([kept - price for price, kept in self.offers])
        return np.where(np.isnan(worth), -np.inf, worth)

    def _first(self) -> tuple[Array, Array]:
        """Which offer of each row leaves most, and the row, as an index of stacked offers."""
        worth = self._worth()
        return worth.argmax(0), np.arange(worth.shape[1])

    def factor(self) -> Array:
        """How many times as high prices may get before the offers ``(n,)`` stop paying; nan where none is paid for, or one is free."""
        prices = np.stack([price for price, _ in self.offers])
        kept = np.stack([kept for _, kept in self.offers])
        with np.errstate(divide="ignore", invalid="ignore"):
            times = np.where(np.isfinite(prices), kept / prices, -np.inf).max(0)
        return np.where(np.isfinite(prices).any(0) & (prices > 0).all(0), times, np.nan)

    def words(self, currency: str) -> str:
        """Whether the profits are the most that there are."""
        if self.upper is None:
            return f"at least: of the evasions that were found, others may leave more{f' ({self.how})' if self.how else ''}"
        profit = self.best()[0]
        open_ = self.upper > profit + 1e-9 * (1 + np.abs(profit))
        if not open_.any():
            return "exact: no evasion within the money leaves more"
        return f"at least: {int(open_.sum())} of {len(profit)} rows may leave more, all together at most {currency}{1000 * np.mean(self.upper):.6g} per 1,000"

    def findings(self, base: Finding, currency: str) -> tuple[Finding, ...]:
        """As ``money_findings``, of the most profitable offers."""
        profit, kept = self.best()
        cost = np.where(profit > 0, self.gain - profit, np.inf)
        return money_findings(base, currency, self.gain, cost, kept, how=self.words(currency), factor=self.factor())


def money_findings(base: Finding, currency: str, gain: Array, cost: Array, kept: Array, *, how: str = "",
                   factor: Array | None = None) -> tuple[Finding, ...]:  # fmt: skip
    """How many rows pay, what is lost and earned per 1,000 of them, and by how much prices would have to rise.

    ``gain`` ``(n,)`` is what each row earns when it passes as it is, ``cost`` ``(n,)`` the least price at which it passes (0 = it does as it
    is, inf = it does not), ``kept`` ``(n,)`` what it earns once it is changed. A row that costs what it earns is not changed. ``how`` says
    whether the figures are exact. ``factor`` ``(n,)`` as in ``Deals``; None = gain over cost.
    """
    pays = cost < gain
    lost, profit = np.where(pays, kept, 0.0), np.where(pays, gain - np.where(pays, cost, 0.0), 0.0)
    low, high = clopper_pearson(int(pays.sum()), len(pays))
    rule = f"a row is changed only where its gain exceeds the price{f'; {how}' if how else ''}"
    found = [replace(base, metric="frauds that pay", value=float(pays.mean()), low=low, high=high, n=len(pays), good=-1, headline=False, note=rule)]
    for name, worth in (("money lost", lost), (PROFIT, profit)):
        draws = worth[rng_for(base.seed, "money").integers(0, len(worth), (DRAWS, len(worth)))].mean(1)
        ends = np.quantile(draws, [0.025, 0.975])
        found.append(replace(found[0], metric=f"{name} per 1,000 frauds ({currency})", value=float(worth.mean() * 1000), low=float(ends[0] * 1000),
                             high=float(ends[1] * 1000), note=f"{rule}; interval by resampling rows"))  # fmt: skip
    moved = np.isfinite(cost) & (cost > 0) if factor is None else ~np.isnan(factor)
    if moved.any():
        factors = np.sort(gain[moved] / cost[moved] if factor is None else factor[moved])
        draws = np.median(factors[rng_for(base.seed, "break even").integers(0, len(factors), (DRAWS, len(factors)))], axis=1)
        ends = np.quantile(draws, [0.025, 0.975])
        found.append(replace(found[0], metric="break-even price factor", value=float(np.median(factors)), low=float(ends[0]), high=float(ends[1]),
                             n=len(factors), note="prices this many times as high and evasion stops paying for half of the rows that it frees; below 1 it does "
                                                  f"not pay already{'' if factor is None else '; at least, of the evasions that were found'}"))  # fmt: skip
    return tuple(found)
