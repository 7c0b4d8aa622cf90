"""Brendel et al. 2018, https://arxiv.org/abs/1712.04248: start wrong, stay wrong, get cheaper, here for tables with prices.

Start at the cheapest of several wrong rows (rows that pass, extreme values, single features), then undo changes one
by one, wholly or half way, and now and then swap one change for a cheaper one. Prices are known without asking, so
only moves that are allowed and cheaper cost a query.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from carbide.evasion._labels import Asker
from carbide.space.membership import allowed
from carbide.space.repair import repair
from carbide.types import Array, Rng, Space

STARTS = 24  # wrong rows looked for before the cheapest is worked on
ANEW = 0.35  # share of proposals that begin at the clean row again
PATIENCE = 150  # proposals in a row that were no use before a row is left


def search_bargains(ask: Asker, clean: Array, space: Space, rows: Array, starts: list[Array], price: Callable[[Array, Array], Array], *, limit: float,
                    queries: int, rng: Rng) -> Array:  # fmt: skip
    """For these rows of ``clean`` ``(n, *shape)`` the cheapest wrong inputs found ``(len(rows), *shape)``; the clean row where none was.

    ``price(x, clean)`` ``(n,)`` is inf for impossible changes. ``limit`` only decides where queries go first.
    """
    base = clean[rows].astype(np.float64)
    flat = base.reshape(len(rows), -1)

    def fit(x: Array, i: Array) -> tuple[Array, Array]:
        x = repair(x.reshape(len(i), *clean.shape[1:]), base[i], space)
        cost = np.where(allowed(x, base[i], space), price(x, base[i]), np.inf)
        return x.reshape(len(i), -1), cost

    def wrong(i: Array, x: Array) -> Array:
        return ask.wrong(rows[i], x.reshape(len(i), *clean.shape[1:]))

    low, high = _range(clean, space)
    best, cost = flat.copy(), np.full(len(rows), np.inf)
    every = np.arange(len(rows))
    offers = [fit(x.reshape(len(rows), -1), every) for x in (*starts, *_extremes(flat, low, high, rng))]
    prices = np.stack([offer[1] for offer in offers])
    for place in np.argsort(prices, axis=0, kind="stable"):
        x = np.stack([offers[k][0][i] for i, k in enumerate(place)])
        i = np.flatnonzero(np.isinf(cost) & np.isfinite(prices[place, every]) & (ask.asked[rows] < queries))
        if len(i) == 0:
            continue
        hit = i[wrong(i, x[i])]
        best[hit], cost[hit] = x[hit], prices[place, every][hit]
    idle = np.zeros(len(rows), np.int64)
    while True:
        i = np.flatnonzero(np.isfinite(cost) & (cost > 0) & (idle < PATIENCE) & (ask.asked[rows] < queries))
        if len(i) == 0:
            return best.reshape(base.shape)
        x = _cheaper(best[i], flat[i], rng)
        anew = rng.uniform(size=len(i)) < ANEW
        if anew.any():
            x[anew] = _anew(flat[i[anew]], np.minimum(cost[i[anew]], limit), lambda x, i=i[anew]: fit(x, i)[1], low, high, rng)
        x, fresh = fit(x, i)
        promising = fresh < cost[i] * (1 - 1e-9)
        idle[i[~promising]] += 1
        i, x, fresh = i[promising], x[promising], fresh[promising]
        if len(i) == 0:
            continue
        hit = wrong(i, x)
        best[i[hit]], cost[i[hit]] = x[hit], fresh[hit]
        idle[i] = np.where(hit, 0, idle[i] + 1)


def _anew(clean: Array, money: Array, price: Callable[[Array], Array], low: Array, high: Array, rng: Rng) -> Array:
    """Changes of a few features each, towards random values, scaled to cost about what may be spent."""
    n, d = clean.shape
    few = rng.uniform(size=(n, d)) < (rng.integers(1, 4, size=n) / d)[:, None]
    x = np.where(few, rng.uniform(size=(n, d)) * (high - low) + low, clean)
    asked = price(x)
    share = np.where(np.isfinite(asked) & (asked > money), money / np.where(asked > 0, asked, 1.0), 1.0)
    return clean + (share * rng.uniform(0.5, 1.0, size=n))[:, None] * (x - clean)


def _cheaper(best: Array, clean: Array, rng: Rng) -> Array:
    """One change of each row undone wholly or by a random share; half the time another change is stretched to make up for it."""
    n = len(best)
    changed = (best != clean) & ~(np.isnan(best) & np.isnan(clean))
    pick = np.where(changed, rng.uniform(size=best.shape), -1.0).argmax(1)
    share = np.where(rng.uniform(size=n) < 0.4, 0.0, rng.uniform(size=n))
    out = best.copy()
    row = np.arange(n)
    out[row, pick] = np.where(share == 0, clean[row, pick], clean[row, pick] + share * (best[row, pick] - clean[row, pick]))
    other = np.where(changed & (np.arange(best.shape[1]) != pick[:, None]), rng.uniform(size=best.shape), -1.0)
    second, swap = other.argmax(1), (other.max(1) >= 0) & (rng.uniform(size=n) < 0.5)
    stretch = 1 + rng.uniform(size=n)
    out[row, second] = np.where(swap, clean[row, second] + stretch * (best[row, second] - clean[row, second]), out[row, second])
    return out


def _range(clean: Array, space: Space) -> tuple[Array, Array]:
    """The bounds of each feature, or one span of the rows beyond them where there is none."""
    pool = clean.reshape(len(clean), -1)
    low, high = np.nanmin(pool, axis=0), np.nanmax(pool, axis=0)
    lower, upper, span = space.lower.ravel(), space.upper.ravel(), high - low
    return np.where(np.isfinite(lower), lower, low - span), np.where(np.isfinite(upper), upper, high + span)


def _extremes(flat: Array, low: Array, high: Array, rng: Rng) -> list[Array]:
    """Starts that need no other row: all features at a bound, single features at a bound, random points between the bounds."""
    found = [np.broadcast_to(low, flat.shape), np.broadcast_to(high, flat.shape)]
    for feature in rng.permutation(flat.shape[1])[:STARTS]:
        for end in (low, high):
            x = flat.copy()
            x[:, feature] = end[feature]
            found.append(x)
    for share in (0.3, 0.6, 1.0):
        for _ in range(4):
            x = rng.uniform(size=flat.shape) * (high - low) + low
            found.append(np.where(rng.uniform(size=flat.shape) < share, x, flat))
    return found
