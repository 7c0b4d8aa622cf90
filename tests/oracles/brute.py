"""The cheapest evasion by trying every combination of values that can matter: slow, and plain enough to be believed."""

from __future__ import annotations

import itertools

import numpy as np

from carbide.models.trees import Ensemble
from carbide.space.balls import norms
from carbide.space.membership import allowed
from carbide.space.prices import cost
from carbide.types import Array, Implication, Linear, PriceTable, Ratio, Space, Sum, decide


def candidates(ensemble: Ensemble, x0: Array, space: Space, prices: PriceTable | None = None) -> list[Array]:
    """For each feature the clean value and every value at which something can change: both sides of each threshold, bounds, whole steps.

    Real features that relations tie together also get each other's values, again and again.
    """
    values: list[set[float]] = []
    for f in range(len(x0)):
        found = {float(x0[f])}
        if space.mutable[f]:
            low, high, step = space.lower[f], space.upper[f], space.step[f]
            if step > 0:
                found |= set(np.arange(low, high + step / 2, step).tolist())
            else:
                for t in np.unique(ensemble.threshold[ensemble.feature == f]):
                    found |= {float(t), float(np.nextafter(t, np.inf))}
                found |= {float(b) for b in (low, high) if np.isfinite(b)}
                for r in space.relations:
                    if isinstance(r, Ratio) and r.numerator == f:
                        found |= _through(ensemble, r, x0)
                    if isinstance(r, Sum) and f in r.features:
                        found |= _through_sum(ensemble, r, f, x0)
                    if isinstance(r, Implication):
                        ends = {r.cause: (r.at_least, r.at_most), r.effect: (r.lower, r.upper)}.get(f, ())
                        found |= {float(np.nextafter(b, way)) for b in ends if np.isfinite(b) for way in (-np.inf, b, np.inf)}
                price = None if prices is None else prices.prices.get(space.names[f])
                if price is not None:
                    found |= {
                        float(x0[f] + way * by) for way, steps in ((1, price.up_steps), (-1, price.down_steps)) for by, _ in steps if by < np.inf
                    }
                found = {v for v in found if low <= v <= high or v == x0[f]}
            if np.isnan(x0[f]) or (space.missing is not None and space.missing[f]):
                found.add(np.nan)
        values.append(found)
    for r in [r for r in space.relations if isinstance(r, Linear)] * 3:
        for f, c in zip(r.features, r.coefficients, strict=True):
            if space.mutable[f] and space.step[f] == 0:
                others = [(g, k) for g, k in zip(r.features, r.coefficients, strict=True) if g != f]
                for point in itertools.product(*(sorted(values[g]) for g, _ in others)):
                    v = (r.upper - sum(k * p for (_, k), p in zip(others, point, strict=True))) / c
                    if space.lower[f] <= v <= space.upper[f]:
                        values[f].add(float(v))
    return [np.array(sorted(v)) for v in values]


def _through(ensemble: Ensemble, r: Ratio, x0: Array) -> set[float]:
    """Values of a numerator just beside each threshold of its ratio."""
    found = set()
    for t in np.unique(ensemble.threshold[ensemble.feature == r.target]):
        middle = t * x0[r.denominator]
        steps = [middle]
        for way in (-np.inf, np.inf):
            v = middle
            for _ in range(3):
                v = np.nextafter(v, way)
                steps.append(v)
        found |= {float(v) for v in steps}
    return found


def _through_sum(ensemble: Ensemble, r: Sum, f: int, x0: Array) -> set[float]:
    """Values of a part of a sum just beside each threshold and bound of its total, the other parts as they are."""
    c = r.coefficients[r.features.index(f)]
    rest = sum(k * x0[g] for g, k in zip(r.features, r.coefficients, strict=True) if g != f)
    found = set()
    for t in np.unique(ensemble.threshold[ensemble.feature == r.target]):
        v = (t - rest) / c
        found |= {float(v), *(float(v + way * k * 1e-12) for way in (-1, 1) for k in (1, 8))}
    return found


def every_change(ensemble: Ensemble, x0: Array, prices: PriceTable, space: Space) -> Array:
    """All rows that can matter ``(m, d)``, with ratios and sums as their parts make them."""
    targets = [r for r in space.relations if isinstance(r, Ratio | Sum)]
    options = candidates(ensemble, x0, space, prices)
    for r in targets:
        options[r.target] = x0[[r.target]]
    grid = np.array(list(itertools.product(*options)))
    for group in space.groups:
        one = grid[:, list(group)].sum(1) == 1
        grid = grid[one | (grid[:, list(group)] == x0[list(group)]).all(1)]
    for r in targets:
        parts = list(r.features) if isinstance(r, Sum) else [r.numerator, r.denominator]
        moved = (grid[:, parts] != x0[parts]).any(1)
        if isinstance(r, Sum):
            grid[moved, r.target] = grid[np.ix_(moved, parts)] @ np.array(r.coefficients)
        else:
            grid[moved, r.target] = grid[moved, r.numerator] / grid[moved, r.denominator]
    return grid


def cheapest(ensemble: Ensemble, x0: Array, prices: PriceTable, space: Space, threshold: float) -> float:
    """The least cost of a row with probability of class 1 below the threshold; inf if there is none."""
    grid = every_change(ensemble, x0, prices, space)
    clean = np.broadcast_to(x0, grid.shape)
    paid = cost(clean, grid, prices, space)
    paid = np.where(allowed(grid, clean, space) & (ensemble.predict(grid)[:, 1] < threshold), paid, np.inf)
    return float(paid.min())


def most_profitable(ensemble: Ensemble, x0: Array, prices: PriceTable, space: Space, threshold: float) -> float:
    """The largest gain less price of a row with probability of class 1 below the threshold; 0 if none pays."""
    grid = every_change(ensemble, x0, prices, space)
    clean = np.broadcast_to(x0, grid.shape)
    at = space.index(prices.gain or "")
    gain = grid[:, at] if prices.follows else clean[:, at]
    paid = cost(clean, grid, prices, space)
    good = allowed(grid, clean, space) & (ensemble.predict(grid)[:, 1] < threshold) & np.isfinite(paid)
    return max(0.0, float((gain - np.where(good, paid, np.inf)).max()))


def nearest(ensemble: Ensemble, x0: Array, label: int, space: Space, p: float) -> float:
    """The least Lp norm of a change within the bounds after which the trees do not say ``label``; inf if there is none."""
    grid = np.array(list(itertools.product(*candidates(ensemble, x0, space))))
    probabilities = ensemble.predict(grid)
    wrong = ensemble.classes[decide(probabilities)] != label
    return float(np.where(wrong, norms(grid - x0, p), np.inf).min())
