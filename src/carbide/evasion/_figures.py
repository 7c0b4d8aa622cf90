"""The pictures of an evasion audit: what stands against the size of a change, class by class, and the changes themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from carbide.stats.intervals import clopper_pearson
from carbide.types import Array, Dataset, Distortion, FeatureBudget, Figure, Finding, LpBall, Patch, Series

SHOWN = 8  # images in the gallery
POINTS = 60  # budgets at which exact curves are drawn


def share_series(name: str, x: Array, counts: Array, n: int) -> Series:
    """Shares ``counts / n`` against x with exact intervals."""
    bands = [clopper_pearson(int(k), n) for k in counts]
    return Series(
        name=name, x=np.asarray(x, float), y=np.asarray(counts) / n, low=np.array([b.low for b in bands]), high=np.array([b.high for b in bands])
    )


def reach_figure(metric: str, threat: LpBall | Patch | Distortion, eps: Array, standing: Array, n: int, note: str) -> Figure:
    """How many rows stand at each size of change."""
    name, label = "eps", f"largest {threat.words().split(' ')[0]} change (input units)"
    if isinstance(threat, Patch):
        name, label = "area", "largest patch (share of the image's pixels)"
    if isinstance(threat, Distortion):
        name, label = "the size of the distortion", "largest share of a parameter's range that is used"
    return Figure(kind="lines", title=f"{metric} against {name}", x_label=label, y_label=metric,
                  series=(share_series(metric, eps, standing, n),), note=note)  # fmt: skip


def class_bars(metric: str, data: Dataset, wrong: Array, broken: Array) -> Figure:
    """Clean and robust share of each class."""
    classes = np.unique(data.y)
    names = np.array([data.class_names[c] if data.class_names else str(c) for c in classes])
    shares = [np.array([1 - part[data.y == c].mean() for c in classes]) for part in (wrong, broken)]
    series = tuple(Series(name=name, x=names, y=share) for name, share in zip(("clean", "under attack"), shares, strict=True))
    return Figure(kind="bars", title=f"{metric} of each class", x_label="class", y_label="share of the class's rows that are right", series=series)


def kind_bars(metric: str, typical: Sequence[Finding], broken: Array) -> Figure:
    """The average case of each kind of corruption, of all of them, and the worst case."""
    low, high = clopper_pearson(int((~broken).sum()), len(broken))
    found = [*[(f.metric.partition(" under ")[2].replace("_", " "), f.value, f.low, f.high) for f in typical[1:]],
             *[("mean of all", f.value, f.low, f.high) for f in typical[:1]], ("worst of all", float((~broken).mean()), low, high)]  # fmt: skip
    names, value, lows, highs = (np.array(part) for part in zip(*found, strict=True))
    return Figure(kind="bars", title=f"{metric} and each corruption", x_label="corruption", y_label="share of rows that are right",
                  series=(Series(name="right", x=names, y=value, low=lows, high=highs),),
                  note="worst of all: rows that every corruption leaves right, of those that are right as they are")  # fmt: skip


def gallery(
    data: Dataset, witness: Array, cost: Array, before: Array, after: Array, *, said: Mapping[int, str] = MappingProxyType({})
) -> Figure | None:
    """The images that the smallest changes broke: clean, altered, and the difference (grey = unchanged); ``said`` = what was done to a row."""
    rows = [int(i) for i in np.argsort(cost, kind="stable") if 0 < cost[i] < np.inf][:SHOWN]
    if not rows or not data.space.is_image:
        return None
    low, high = float(data.space.lower.min()), float(data.space.upper.max())
    clean, altered = ((part[rows] - low) / (high - low) for part in (data.x, witness))
    change = data.x[rows] - witness[rows]
    size = np.abs(change).max() or 1.0
    names = data.class_names or tuple(str(c) for c in range(data.classes))
    series = (
        Series(name="clean", x=np.array([f"read as {names[before[i]]}" for i in rows]), y=clean),
        Series(name="altered", x=np.array([f"read as {names[after[i]]}" for i in rows]), y=np.clip(altered, 0, 1)),
        Series(name="difference", x=np.array([said.get(i, f"change {cost[i]:.3g}") for i in rows]), y=0.5 - change / (2 * size)),
    )
    return Figure(kind="gallery", title="Smallest changes that fool the model", x_label="", y_label="", series=series,
                  note=f"the difference is scaled: black and white are changes of {size:.3g}")  # fmt: skip


def budget_figures(metric: str, threat: FeatureBudget, cost: Array, offers: Sequence[tuple[Array, Array]], *, exact: bool,
                   note: str = "") -> tuple[Figure, ...]:  # fmt: skip
    """Robust recall against the budget, and what the attacker earns; ``cost`` ``(n,)`` is 0 for missed rows, inf for safe ones.

    ``offers`` are evasions among which the attacker takes the best that the budget affords: prices and gains ``(n,)``; none = gains are not known.
    """
    budgets = _budgets(cost, threat.money)
    n, currency = len(cost), threat.prices.currency
    standing = np.array([(cost > b).sum() for b in budgets])
    how = "exact: no cheaper change exists" if exact else "by the attacks that ran; cheaper changes may exist"
    found = [Figure(kind="steps", title=f"{metric} against budget", x_label=f"attacker's budget a row ({currency})", y_label=metric,
                    series=(share_series(metric, budgets, standing, n),), note=how)]  # fmt: skip
    if offers:
        budgets = _budgets(np.concatenate([price for price, _ in offers]), threat.money)
        profit = np.array([_earned(offers, b).sum() / n for b in budgets])
        found.append(Figure(kind="steps", title="attacker's profit", x_label=f"attacker's budget a row ({currency})",
                            y_label=f"gain minus price, mean over all rows of class 1 ({currency})",
                            series=(Series(name="profit", x=budgets, y=profit),), note=f"a row is only changed when that pays{note}"))  # fmt: skip
    return tuple(found)


def _earned(offers: Sequence[tuple[Array, Array]], budget: float) -> Array:
    """What the best offer within the budget leaves of each row, ``(n,)``, 0 where none pays."""
    return np.max([np.where(price <= budget, np.maximum(gain - price, 0.0), 0.0) for price, gain in offers], axis=0)


def _budgets(cost: Array, money: float) -> Array:
    """At most ``POINTS`` budgets from 0 to the threat's, where the curve steps."""
    steps = np.unique(np.concatenate([[0.0], cost[np.isfinite(cost) & (cost <= money)], [money] if np.isfinite(money) else []]))
    return steps if len(steps) <= POINTS else np.unique(steps[np.linspace(0, len(steps) - 1, POINTS).round().astype(int)])
