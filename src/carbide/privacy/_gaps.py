"""Differences between who was trained on and who was not, with intervals over models and records; arrays in, numbers out.

>>> import numpy as np
>>> values, members = np.array([[1.0, 0.0, 1.0, 0.0]]), np.array([[True, True, False, False]])
>>> gap(values, members)
0.0
"""

from __future__ import annotations

import numpy as np

from carbide.stats.intervals import Interval, clopper_pearson
from carbide.types import Array, Rng

DRAWS = 500


def gap(values: Array, members: Array) -> float:
    """The mean of ``values`` ``(m, n)`` over the cells of ``members`` ``(m, n)`` bool, less that over the other cells."""
    return float(values[members].mean() - values[~members].mean())


def gap_interval(values: Array, members: Array, rng: Rng, *, confidence: float = 0.95) -> Interval:
    """Percentile interval of ``gap``; whole models and whole records are drawn with replacement (Owen 2007), one model alone stays.

    Where the cells of each side are all alike, 0 or 1, there is nothing to draw: the difference of two exact intervals for as many
    independent records as there are, each side at half the doubt.
    """
    sides = [members, ~members]
    if all(np.ptp(values[side]) == 0 for side in sides) and np.isin(values, (0, 1)).all():
        half = (1 + confidence) / 2
        inner, outer = (_exact(values, side, half) for side in sides)
        return Interval(inner.low - outer.high, inner.high - outer.low)
    weight_m, weight_n = _weights(values.shape, rng)
    inner, outer = (_drawn(values, side, weight_m, weight_n) for side in sides)
    return _middle(inner - outer, confidence)


def mean_interval(values: Array, among: Array, rng: Rng, *, confidence: float = 0.95) -> Interval:
    """Percentile interval of the mean of ``values`` ``(m, n)`` over the cells ``among``, drawn as for ``gap_interval``."""
    if np.ptp(values[among]) == 0 and np.isin(values[among], (0, 1)).all():
        return _exact(values, among, confidence)
    weight_m, weight_n = _weights(values.shape, rng)
    return _middle(_drawn(values, among, weight_m, weight_n), confidence)


def _exact(values: Array, side: Array, confidence: float) -> Interval:
    n = int(side.any(0).sum())
    return clopper_pearson(n if values[side][0] else 0, n, confidence)


def _weights(shape: tuple[int, ...], rng: Rng) -> tuple[Array, Array]:
    models, records = shape
    weight_m = rng.multinomial(models, np.full(models, 1 / models), size=DRAWS) if models > 1 else np.ones((DRAWS, 1))
    return weight_m.astype(float), rng.multinomial(records, np.full(records, 1 / records), size=DRAWS).astype(float)


def _drawn(values: Array, side: Array, weight_m: Array, weight_n: Array) -> Array:
    total = np.einsum("dn,dn->d", weight_m @ (values * side), weight_n)
    cells = np.einsum("dn,dn->d", weight_m @ side.astype(float), weight_n)
    return np.where(cells > 0, total / np.maximum(cells, 1e-300), np.nan)


def _middle(drawn: Array, confidence: float) -> Interval:
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Interval(float(low), float(high))
