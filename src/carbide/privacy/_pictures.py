"""Pictures of the privacy room, and the records that are most at risk."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from carbide.privacy._reading import Groups
from carbide.privacy.trials import Trial
from carbide.stats.accounting import PrivacyStatement
from carbide.stats.roc import roc, roc_intervals, tpr_curve
from carbide.types import Array, Figure, Rng, Series

NAMED = 10  # records that are named
POINTS = 41


def roc_figure(trials: Mapping[str, Trial], statement: PrivacyStatement | None, rng: Rng) -> Figure:
    """The pooled curve of every method on log axes, with the line of chance and the certified bound if there is one."""
    fewest = min(int((~t.members).sum()) for t in trials.values())
    rates = np.geomspace(min(0.1, 10 / fewest), 1.0, POINTS)
    lines = []
    for name, trial in trials.items():
        bands = roc_intervals(trial.scores, trial.members, rates.tolist(), rng, draws=100).tpr
        lines.append(Series(name=name, x=rates, y=tpr_curve(trial.scores, trial.members, rates), low=np.array([b.low for b in bands]),
                            high=np.array([b.high for b in bands])))  # fmt: skip
    lines.append(Series(name="chance", x=rates, y=rates))
    if statement is not None:
        lines.append(Series(name="no attack can do better", x=rates, y=np.array([statement.tpr(float(rate)) for rate in rates])))
    note = "What lies above the line of chance (y = x) is leakage. False-positive rates too low for this many non-members are left out."
    return Figure(
        kind="roc",
        title="Telling members from non-members",
        x_label="false-positive rate",
        y_label="true-positive rate",
        series=tuple(lines),
        note=note,
    )


def risk_figure(risk: Mapping[str, Array]) -> Figure:
    """How often each of the records most at risk was called a member by whom it was trained into, and by others."""
    names = np.array([str(rank + 1) for rank in range(len(risk["at_risk_ids"]))])
    return Figure(
        kind="bars",
        title="Records most at risk",
        x_label="record, by rank",
        y_label="share of models",
        series=(
            Series(name="trained on it", x=names, y=risk["at_risk_hits"]),
            Series(name="not trained on it", x=names, y=risk["at_risk_alarms"]),
        ),
        note="How often the worst attack, at 1% false positives, calls a record a member of models that were and were not trained on it.",
    )


def group_figure(groups: Groups) -> Figure:
    """How often members and others of each group are called members, who leaks most first."""
    names = np.array([f"{name} ({size})" for name, size in zip(groups.names, groups.sizes, strict=True)])
    return Figure(
        kind="bars",
        title="Who leaks most",
        x_label="group (records)",
        y_label="share called members",
        series=(
            Series(name="trained on", x=names, y=groups.hits, low=groups.intervals[:, 0], high=groups.intervals[:, 1]),
            Series(name="not trained on", x=names, y=groups.alarms),
        ),
        note="At one threshold with 1% false positives over all records. Usually wrong: most models that were not trained on a record get it wrong.",
    )


def at_risk(trial: Trial, ids: Array, fpr: float = 0.01) -> dict[str, Array]:
    """The records recognised most often when they are members and least often when they are not, at a pooled false-positive rate.

    ``at_risk_ids`` ``(r,)``, ``at_risk_hits`` and ``at_risk_alarms`` ``(r,)``: the shares of targets with and without the
    record that it was called a member of.
    """
    curve = roc(trial.scores, trial.members)
    called = trial.scores >= curve.thresholds[np.flatnonzero(curve.fpr <= fpr + 1e-12)[-1]]
    hits = np.where(trial.members, called, 0).sum(0) / np.maximum(1, trial.members.sum(0))
    alarms = np.where(trial.members, 0, called).sum(0) / np.maximum(1, (~trial.members).sum(0))
    order = np.lexsort((ids.astype(str), -(hits - alarms)))[:NAMED]
    order = order[hits[order] > alarms[order]]
    return {"at_risk_ids": ids[order].astype(str), "at_risk_hits": hits[order], "at_risk_alarms": alarms[order]}
