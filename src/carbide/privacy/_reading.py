"""What else the scores of a membership game say: with a threshold from other records, and group by group; arrays in, numbers out.

>>> import numpy as np
>>> scores, members = np.array([[3.0, 1.0, 3.0, 1.0]]), np.array([[True, False, True, False]])
>>> apart(scores, members, np.array([True, True, False, False]), 0.0, np.random.default_rng(0)).tpr
1.0
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from carbide.stats.intervals import Interval, clopper_pearson
from carbide.stats.roc import roc
from carbide.types import Array, Dataset, Rng

DRAWS = 500
LEAST_GROUP = 10  # records that a group must have to be spoken of


class Apart(NamedTuple):
    """What thresholds reach on records they were not chosen on: both rates, and the interval of the first."""

    tpr: float
    fpr: float
    interval: Interval


class Groups(NamedTuple):
    """Names, numbers of records ``(g,)``, shares of members called members ``(g,)`` and of non-members ``(g,)``, intervals ``(g, 2)`` of the first."""

    names: Array
    sizes: Array
    hits: Array
    alarms: Array
    intervals: Array


def threshold(scores: Array, members: Array, fpr: float) -> float:
    """The least threshold (a score at or above it is called a member) whose false-positive rate is at most ``fpr``; inf = nobody."""
    curve = roc(scores, members)
    return float(curve.thresholds[np.flatnonzero(curve.fpr <= fpr + 1e-12)[-1]])


def apart(scores: Array, members: Array, half: Array, fpr: float, rng: Rng, *, confidence: float = 0.95) -> Apart:
    """Rates on each half of the records (``half`` ``(n,)`` bool) with the threshold that the other half gives.

    ``scores`` and ``members`` are ``(targets, n)``. The false-positive rate that comes out is what such a threshold really
    costs, and may lie above ``fpr``. Targets and records are drawn with replacement for the interval, thresholds staying.

    Raises:
        ValueError: if one half has no members or no non-members.
    """
    called = np.zeros(scores.shape, bool)
    for side in (half, ~half):
        called[:, side] = scores[:, side] >= threshold(scores[:, ~side], members[:, ~side], fpr)
    tpr = called[members].mean()
    return Apart(float(tpr), float(called[~members].mean()), share_interval(called, members, rng, confidence=confidence))


def share_interval(called: Array, among: Array, rng: Rng, *, confidence: float = 0.95) -> Interval:
    """Percentile interval of the share of the cells ``among`` that are ``called``, both ``(targets, n)`` bool.

    Whole targets and whole records are drawn with replacement, as in ``carbide.stats.roc.roc_intervals``. Where no cell is
    called, or all are, there is nothing to draw: the exact interval for as many independent records as there are.
    """
    targets, records = called.shape
    if not (called & among).any() or called[among].all():
        n = int(among.any(0).sum())
        return clopper_pearson(n if (called & among).any() else 0, n, confidence)
    weight_t = rng.multinomial(targets, np.full(targets, 1 / targets), size=DRAWS) if targets > 1 else np.ones((DRAWS, 1))
    weight_r = rng.multinomial(records, np.full(records, 1 / records), size=DRAWS)
    hits = np.einsum("dr,dr->d", weight_t @ (called & among).astype(float), weight_r)
    cells = np.einsum("dr,dr->d", weight_t @ among.astype(float), weight_r)
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(np.where(cells > 0, hits / np.maximum(cells, 1e-300), np.nan), [tail, 100 - tail])
    return Interval(float(low), float(high))


def groups_of(records: Dataset, right: Array) -> dict[str, Array]:
    """Groups ``(n,)`` bool by name: each class, each source if there are several, and what models usually get wrong.

    ``right`` ``(n,)`` is the share of the models not trained on a record that get it right. Groups of fewer than ten
    records, and those that are everybody, are left out.
    """
    names = records.class_names or tuple(f"class {c}" for c in range(records.classes))
    found = {names[c]: records.y == c for c in range(records.classes)}
    found |= {f"from {source}": records.source == source for source in np.unique(records.source)}
    found |= {"usually right": right >= 0.5, "usually wrong": right < 0.5}
    return {name: rows for name, rows in found.items() if LEAST_GROUP <= rows.sum() < len(rows)}


def by_group(scores: Array, members: Array, groups: Mapping[str, Array], fpr: float, rng: Rng) -> Groups:
    """How the members of each group fare at the one threshold that has the false-positive rate ``fpr`` over all records, who leaks most first."""
    called = scores >= threshold(scores, members, fpr)
    rows = [(name, int(chosen.sum()), _share(called, members & chosen), _share(called, ~members & chosen),
             share_interval(called[:, chosen], members[:, chosen], rng)) for name, chosen in groups.items()]  # fmt: skip
    rows.sort(key=lambda row: -row[2])
    return Groups(np.array([r[0] for r in rows]), np.array([r[1] for r in rows], np.int64), np.array([r[2] for r in rows]),
                  np.array([r[3] for r in rows]), np.array([r[4] for r in rows]).reshape(-1, 2))  # fmt: skip


def _share(called: Array, among: Array) -> float:
    return float(called[among].mean()) if among.any() else float("nan")
