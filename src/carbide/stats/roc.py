"""Receiver operating curves at low false-positive rates: exact with ties, with intervals over clusters; arrays in, numbers out.

A row is called a member when its score is at least a threshold. Between two adjacent thresholds the attacker may toss a
coin, so rates between two points of the curve are reached by linear interpolation (never beyond: no concave hull).

>>> import numpy as np
>>> scores, members = np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, True, False, False])
>>> auc(scores, members)
0.875
>>> tpr_at_fpr(scores, members, 0.25)
0.75
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carbide.stats.intervals import Interval
from carbide.types import Array, Rng

LEAST = 10  # non-members that a false-positive rate must let pass before a claim about it is made


@dataclass(frozen=True, kw_only=True, eq=False)
class Roc:
    """Points of a curve ``(p,)`` from (0, 0) to (1, 1), one a distinct threshold, thresholds falling from +inf."""

    fpr: Array
    tpr: Array
    thresholds: Array


@dataclass(frozen=True, kw_only=True)
class RocIntervals:
    """Intervals of the area and of the true-positive rate at each false-positive rate asked for, in that order."""

    auc: Interval
    tpr: tuple[Interval, ...]


def roc(scores: Array, members: Array) -> Roc:
    """The curve of ``scores`` (higher = member) against ``members`` (bool) of the same shape; rows with equal scores move together.

    Raises:
        ValueError: if shapes differ, a score is NaN, or there are no members or no non-members.
    """
    order, ends = _order(scores, members)
    inside = np.asarray(members, bool).ravel()[order]
    hits = np.concatenate([[0], np.cumsum(inside)[ends]])
    alarms = np.concatenate([[0], ends + 1]) - hits
    thresholds = np.concatenate([[np.inf], np.asarray(scores, np.float64).ravel()[order][ends]])
    return Roc(fpr=alarms / alarms[-1], tpr=hits / hits[-1], thresholds=thresholds)


def auc(scores: Array, members: Array) -> float:
    """The chance that a random member scores above a random non-member, ties counting half (exact).

    Raises:
        ValueError: as ``roc``.
    """
    curve = roc(scores, members)
    return _area(curve.fpr, curve.tpr)


def tpr_at_fpr(scores: Array, members: Array, fpr: float, *, interpolate: bool = True) -> float:
    """The true-positive rate of the best threshold whose false-positive rate is at most ``fpr``.

    With ``interpolate`` the attacker tosses a coin between this threshold and the next one so that the false-positive
    rate is ``fpr`` exactly; without, ties are never split.

    Raises:
        ValueError: as ``roc``, or if ``fpr`` is not in [0, 1].
    """
    if not 0 <= fpr <= 1:
        raise ValueError(f"fpr is {fpr}; give a rate in [0, 1]")
    curve = roc(scores, members)
    return float(_at(curve.fpr, curve.tpr, np.array(fpr), interpolate=interpolate))


def tpr_curve(scores: Array, members: Array, fprs: Array) -> Array:
    """``tpr_at_fpr`` with interpolation at each of the rates ``(r,)``.

    Raises:
        ValueError: as ``roc``.
    """
    curve = roc(scores, members)
    return _at(curve.fpr, curve.tpr, np.asarray(fprs, np.float64))


def enough(nonmembers: int, fpr: float) -> bool:
    """Whether so many non-member scores can carry a claim at this false-positive rate: at least ``10 / fpr`` of them."""
    return nonmembers * fpr >= LEAST - 1e-9


def roc_intervals(scores: Array, members: Array, fprs: Sequence[float], rng: Rng, *, confidence: float = 0.95, draws: int = 500,
                  among: Array | None = None) -> RocIntervals:  # fmt: skip
    """Percentile intervals of the pooled curve where whole targets and whole records are drawn with replacement.

    ``scores`` and ``members`` are ``(targets, records)``; a single target draws records only. Drawing both ways counts
    the noise of a cell more than once, so these intervals err on the wide side (Owen 2007, the pigeonhole bootstrap).
    With ``among`` ``(targets, records)`` bool only those cells count.

    Raises:
        ValueError: as ``roc``, or if the arrays do not have two axes.
    """
    values = _resampled(scores, members, fprs, rng, draws, among)
    pairs = [_middle(column, confidence) for column in values.T]
    return RocIntervals(auc=pairs[0], tpr=tuple(pairs[1:]))


def tpr_gain_interval(scores: Array, others: Array, members: Array, fpr: float, rng: Rng, *, confidence: float = 0.95, draws: int = 500) -> Interval:
    """Percentile interval of the true-positive rate of ``scores`` at ``fpr`` less that of ``others``, by the bootstrap of ``roc_intervals``.

    Both are ``(targets, records)`` and about the same cells, and each draw takes the same targets and records for both: what makes
    a record or a target hard for the two of them alike falls out of the difference, so that it is decided with far fewer targets
    than two intervals apart would need.

    Raises:
        ValueError: as ``roc_intervals``.
    """
    seed = int(rng.integers(2**63))
    one, two = (_resampled(s, members, (fpr,), np.random.default_rng(seed), draws, None)[:, 1] for s in (scores, others))
    return _middle(one - two, confidence)


def _resampled(scores: Array, members: Array, fprs: Sequence[float], rng: Rng, draws: int, among: Array | None) -> Array:
    """The area and the true-positive rates ``(draws, 1 + rates)`` where whole targets and records are drawn; NaN where a draw has one side only."""
    if np.ndim(scores) != 2:
        raise ValueError(f"scores has {np.ndim(scores)} axes; give (targets, records)")
    targets, records = scores.shape
    order, ends = _order(scores, members)
    counted = None if among is None else np.asarray(among, bool).ravel()[order]
    inside = np.asarray(members, bool).ravel()[order]
    target_of, record_of = np.divmod(order, records)
    values = np.full((draws, 1 + len(fprs)), np.nan)
    for draw in range(draws):
        weight_t = np.bincount(rng.integers(targets, size=targets), minlength=targets) if targets > 1 else np.ones(1, np.int64)
        weight_r = np.bincount(rng.integers(records, size=records), minlength=records)
        weight = (weight_t[target_of] * weight_r[record_of]).astype(np.float64)
        if counted is not None:
            weight *= counted
        hits = np.concatenate([[0.0], np.cumsum(weight * inside)[ends]])
        alarms = np.concatenate([[0.0], np.cumsum(weight)[ends]]) - hits
        if hits[-1] > 0 and alarms[-1] > 0:
            fpr, tpr = alarms / alarms[-1], hits / hits[-1]
            values[draw, 0] = _area(fpr, tpr)
            values[draw, 1:] = _at(fpr, tpr, np.array(fprs))
    return values


def _middle(drawn: Array, confidence: float) -> Interval:
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail])
    return Interval(float(low), float(high))


def _order(scores: Array, members: Array) -> tuple[Array, Array]:
    """Flat indices by falling score, and the position in that order of the last row of each run of equal scores."""
    flat, inside = np.asarray(scores, np.float64).ravel(), np.asarray(members, bool).ravel()
    if np.shape(scores) != np.shape(members):
        raise ValueError(f"scores has shape {np.shape(scores)} but members {np.shape(members)}; give one of each a row")
    if np.isnan(flat).any():
        raise ValueError(f"{int(np.isnan(flat).sum())} scores are NaN; give a number a row")
    if inside.all() or not inside.any():
        raise ValueError(f"{int(inside.sum())} of {len(inside)} rows are members; give both members and non-members")
    order = np.argsort(-flat, kind="stable")
    ordered = flat[order]
    return order, np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))


def _area(fpr: Array, tpr: Array) -> float:
    return float(np.sum((fpr[1:] - fpr[:-1]) * (tpr[1:] + tpr[:-1])) / 2)


def _at(fpr: Array, tpr: Array, rates: Array, *, interpolate: bool = True) -> Array:
    """The curve at these rates ``(r,)``: the last point at or below each, and the way to the next where asked."""
    last = np.searchsorted(fpr, rates + 1e-12, side="right") - 1
    if not interpolate:
        return tpr[last]
    after = np.minimum(last + 1, len(fpr) - 1)
    gap = np.where(after > last, fpr[after] - fpr[last], 1.0)
    return tpr[last] + np.maximum(rates - fpr[last], 0.0) / gap * (tpr[after] - tpr[last])
