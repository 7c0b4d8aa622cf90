"""The judge of the privacy room: how well do an attack's scores tell members from non-members, and can that be trusted?

With a recipe every method plays against many targets, models trained by the whole recipe on known halves of the train
and test rows; without one, against the given model alone. What is claimed is the pooled curve at low false-positive
rates, with intervals over targets and records; a negative control with memberships drawn anew must find nothing, and
models that were trained on neither must not tell train rows from test rows where that is claimed of the given model.

>>> metric_at(0.01), metric_at(0.001)
('membership TPR at 1% FPR', 'membership TPR at 0.1% FPR')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.privacy import attributes, claims, reconstructions, singling
from carbide.privacy._pictures import at_risk, group_figure, risk_figure, roc_figure
from carbide.privacy._reading import apart, by_group, groups_of
from carbide.privacy.statement import beyond_promise, privacy_of, stated_by
from carbide.privacy.trials import Game, Trial, play, set_up, unknown_rows
from carbide.registry import Method
from carbide.stats.intervals import Interval
from carbide.stats.roc import LEAST, auc, enough, roc_intervals, tpr_at_fpr
from carbide.types import (
    Array,
    AttributeInference,
    Case,
    Figure,
    Finding,
    InputError,
    Model,
    PrivacyClaim,
    Reconstruction,
    Section,
    SinglingOut,
    Skip,
    Symptom,
    Threat,
    UnsoundError,
    rng_for,
)

FPRS = (0.01, 0.001)
AUC, CONTROL, OWN = "membership AUC", "negative control AUC", "membership AUC of this model"
DISJOINT = "negative control AUC on disjoint data"
LEAST_SIDE = 20  # train and test rows that a control on disjoint data needs
_OTHERS: Mapping[type[Threat], Any] = {
    PrivacyClaim: claims,
    AttributeInference: attributes,
    Reconstruction: reconstructions,
    SinglingOut: singling,
}  # judges of the room's other threats
DOUBT = 0.999  # confidence at which a control or a bound counts as broken
WIDER = 3.290527 / 1.959964  # how much wider than at 0.95 a normal interval is at that confidence


def metric_at(fpr: float) -> str:
    """The name of the metric at a false-positive rate."""
    return f"membership TPR at {100 * fpr:g}% FPR"


def metric_apart(fpr: float) -> str:
    """The name of the metric at a false-positive rate, the threshold chosen on other records."""
    return f"{metric_at(fpr)}, threshold set apart"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Court:
    """What every judgement needs: the case, the threat and the game that was played."""

    case: Case
    threat: Threat
    game: Game

    def finding(self, name: str, method: Method, metric: str, value: float, interval: Interval, *, good: int = -1, confidence: float = 0.95,
                note: str = "") -> Finding:  # fmt: skip
        """One number about the records of the game."""
        low, high = min(value, interval.low), max(value, interval.high)
        return Finding(metric=metric, value=value, low=low, high=high, n=len(self.game.records), method=name, threat=self.threat.words(),
                       access=method.needs.words(), seed=self.case.seed, confidence=confidence, good=good, note=note)  # fmt: skip

    def skip(self, name: str, reason: str, status: str = "failed") -> Skip:
        """Why a number is missing."""
        return Skip(method=name, threat=self.threat.words(), reason=reason, status=status)


def audit(case: Case, threat: Threat, methods: Mapping[str, Method]) -> Section:
    """The findings of every method on the case; the headline is the one that finds most.

    Raises:
        UnsoundError: if an attack beats the bound of the differential privacy that the recipe states, or refutes a claimed epsilon.
    """
    other = _OTHERS.get(type(threat))
    unknown = unknown_rows(case)
    if unknown is not None and (isinstance(threat, Reconstruction | SinglingOut) or (case.recipe is None and not isinstance(threat, PrivacyClaim))):
        return _refused(threat, methods, unknown)
    if other is not None:
        return other.audit(case, threat, methods)
    court = _Court(case=case, threat=threat, game=set_up(case, methods, folds=getattr(threat, "folds", 2)))
    findings: list[Finding] = []
    skipped: list[Skip] = []
    trials: dict[str, Trial] = {}
    for name, method in methods.items():
        try:
            trial = play(name, method, case, court.game)
        except InputError as error:
            skipped.append(court.skip(name, str(error)))
            continue
        control, problem = _control(court, name, method, trial)
        if problem is not None:
            skipped.append(problem)
            continue
        made, refused = _judge(court, name, method, trial)
        trials[name] = trial
        findings += [*made, control]
        skipped += refused
    return _section(court, findings, trials, skipped)


def _refused(threat: Threat, methods: Mapping[str, Method], reason: str) -> Section:
    """A section without numbers: why no method could run, in the report's list and as a warning."""
    value, mend = reason.split("; ", 1)
    skipped = tuple(Skip(method=name, threat=threat.words(), reason=reason) for name in methods)
    return Section(threat=threat.words(), room="privacy", skipped=skipped, noun=threat,
                   examination=(Symptom(name="training rows", value=value, done="refused", mend=mend),))  # fmt: skip


def verify(section: Section, model: Model | None, case: Case | None, threat: Threat | None) -> list[tuple[str, float, float]]:
    """Each finding as reported and as recomputed from the evidence.

    The targets were never kept, so a model that is given cannot be scored again; what they answered was judged when the
    run was made, and the scores are the evidence.
    """
    other = None if threat is None else _OTHERS.get(type(threat))
    if other is not None:
        return other.verify(section, threat)
    found = []
    named: set[str] = set()
    for finding in section.findings:
        label = finding.metric if finding.metric not in named else f"{finding.metric} ({finding.method})"
        named.add(finding.metric)
        found.append((label, finding.value, _again(section, finding)))
    return found


def _again(section: Section, finding: Finding) -> float:
    evidence, name = section.evidence, finding.method
    if finding.metric == CONTROL:
        return auc(evidence[f"{name}_control"], evidence[f"{name}_control_members"])
    if finding.metric == OWN:
        return auc(evidence[f"{name}_own"], evidence["own_members"])
    if finding.metric == AUC:
        return auc(evidence[f"{name}_scores"], evidence["members"])
    if finding.metric == DISJOINT:
        return auc(*_outside(evidence[f"{name}_scores"], evidence["members"], evidence["own_members"]))
    if finding.metric == metric_apart(FPRS[0]):
        return apart(evidence[f"{name}_scores"], evidence["members"], evidence["half"], FPRS[0], rng_for(0)).tpr
    return tpr_at_fpr(evidence[f"{name}_scores"], evidence["members"], next(f for f in FPRS if metric_at(f) == finding.metric))


def _judge(court: _Court, name: str, method: Method, trial: Trial) -> tuple[list[Finding], list[Skip]]:
    """The numbers of one method, and the claims that so few non-members cannot carry."""
    outside = int((~trial.members).sum())
    rates = [fpr for fpr in FPRS if enough(outside, fpr)]
    refused = [court.skip(name, f"a true-positive rate at {100 * fpr:g}% FPR needs {math.ceil(LEAST / fpr - 1e-9):,} non-member scores, "
                          f"and there are {outside:,}; train more shadow models or give more rows", "not applicable")
               for fpr in FPRS if fpr not in rates]  # fmt: skip
    intervals = roc_intervals(trial.scores, trial.members, rates, rng_for(court.case.seed, "privacy", name, "bootstrap"))
    note = _note(court, trial)
    found = [court.finding(name, method, metric_at(fpr), tpr_at_fpr(trial.scores, trial.members, fpr), interval, note=note if fpr == rates[0] else "")
             for fpr, interval in zip(rates, intervals.tpr, strict=True)]  # fmt: skip
    found.append(court.finding(name, method, AUC, auc(trial.scores, trial.members), intervals.auc, note="" if rates else note))
    if rates and court.game.shadows is not None:
        found.append(_set_apart(court, name, method, trial))
    unknown = unknown_rows(court.case)
    if unknown is not None:
        return found, [*refused, court.skip(name, f"no {OWN} is claimed: {unknown}", "not applicable")]
    if trial.own is not None and 0 < court.game.inside.sum() < len(court.game.inside):
        control, problem = _disjoint(court, name, method, trial)
        if control is not None:
            found.append(control)
        if problem is not None:
            return found, [*refused, problem]
        own, members = trial.own[None], court.game.inside[None]
        interval = roc_intervals(own, members, (), rng_for(court.case.seed, "privacy", name, "own bootstrap")).auc
        said = "train rows of the model as it was given against test rows"
        if control is None:
            said += "; rows that differ in other ways, as after a cut by time, count as leakage here"
        found.append(court.finding(name, method, OWN, auc(own, members), interval, note=said))
    return found, refused


def _half(court: _Court) -> Array:
    """Half of the records ``(n,)`` bool: thresholds are chosen on one and judged on the other."""
    n = len(court.game.records)
    return rng_for(court.case.seed, "privacy", "half").permutation(n) < n // 2


def _set_apart(court: _Court, name: str, method: Method, trial: Trial) -> Finding:
    fpr = FPRS[0]
    found = apart(trial.scores, trial.members, _half(court), fpr, rng_for(court.case.seed, "privacy", name, "apart bootstrap"))
    return court.finding(name, method, metric_apart(fpr), found.tpr, found.interval, note=f"the threshold comes from the other half of the records; it names "
                         f"{found.fpr:.2%} of the non-members")  # fmt: skip


def _outside(scores: Array, members: Array, inside: Array) -> tuple[Array, Array]:
    """The scores of models on records they were not trained on, and which of these the given model was trained on."""
    return scores[~members], np.broadcast_to(inside, members.shape)[~members]


def _disjoint(court: _Court, name: str, method: Method, trial: Trial) -> tuple[Finding | None, Skip | None]:
    """Train rows against test rows under models that were trained on neither: what is told apart there is no membership."""
    inside = court.game.inside
    if court.game.shadows is None or min(inside.sum(), (~inside).sum()) < LEAST_SIDE:
        return None, None
    value = auc(*_outside(trial.scores, trial.members, inside))
    rng = rng_for(court.case.seed, "privacy", name, "disjoint bootstrap")
    sides = np.broadcast_to(inside, trial.members.shape)
    interval = _widened(value, roc_intervals(trial.scores, sides, (), rng, among=~trial.members).auc)
    finding = court.finding(name, method, DISJOINT, value, interval, good=0, confidence=DOUBT,
                            note="train rows against test rows under models trained on neither: nothing to find, unless the rows differ in other ways")  # fmt: skip
    if interval.low <= 0.5 <= interval.high:
        return finding, None
    return finding, court.skip(name, f"no {OWN} is claimed: models that were trained on neither tell train rows from test rows with an AUC of {value:.3f} "
                               f"[{interval.low:.3f}, {interval.high:.3f}], so the rows differ in other ways, as after a cut by time", "not applicable")  # fmt: skip


def _note(court: _Court, trial: Trial) -> str:
    twice = court.game.twice
    doubled = f"; {twice:,} rows stand in train and in test, and count as trained on: take them out of test" if twice else ""
    if court.game.shadows is None:
        return ("no recipe: train rows of the given model against test rows; attacks that train models of their own find more, "
                f"and rows that differ in other ways count as leakage{doubled}")  # fmt: skip
    parts = "halves" if court.game.folds == 2 else f"all but one of {court.game.folds} parts"
    return (f"{len(trial.scores)} models trained by the whole recipe, defences included, on {parts} of {len(court.game.records):,} records; "
            f"they are right on {court.game.accuracy.mean():.1%} of the records left out{doubled}")  # fmt: skip


def _control(court: _Court, name: str, method: Method, trial: Trial) -> tuple[Finding, Skip | None]:
    """The negative control as a finding, and the refusal if it fails."""
    value = auc(trial.control, trial.control_members)
    interval = _widened(
        value, roc_intervals(trial.control, trial.control_members, (), rng_for(court.case.seed, "privacy", name, "control bootstrap")).auc
    )
    finding = court.finding(name, method, CONTROL, value, interval, good=0, confidence=DOUBT, note="memberships drawn anew: there is nothing to find")
    if interval.low <= 0.5 <= interval.high:
        return finding, None
    return finding, court.skip(name, f"its negative control failed: with memberships drawn anew its AUC is {value:.3f} "
                               f"[{interval.low:.3f}, {interval.high:.3f}], which excludes 0.5, so none of its numbers can be trusted")  # fmt: skip


def _widened(value: float, interval: Interval) -> Interval:
    return Interval(value - WIDER * (value - interval.low), value + WIDER * (interval.high - value))


def _section(court: _Court, findings: list[Finding], trials: Mapping[str, Trial], skipped: list[Skip]) -> Section:
    empty = Section(threat=court.threat.words(), room="privacy", skipped=tuple(skipped), noun=court.threat)
    if not findings:
        return empty
    _must_hold(court, findings)
    ordered = _worst_first(findings)
    risk = at_risk(trials[ordered[0].method], court.game.records.ids)
    said = _named(risk) if court.game.shadows is not None else ""
    groups, who = _grouped(court, trials[ordered[0].method])
    ordered[0] = replace(ordered[0], headline=True, note=f"{ordered[0].note}{said}")
    evidence: dict[str, Array] = {"members": next(iter(trials.values())).members, "own_members": court.game.inside, "ids": court.game.records.ids,
                                  "shadow_accuracy": court.game.accuracy, "half": _half(court), **risk, **groups}  # fmt: skip
    for name, trial in trials.items():
        evidence |= {f"{name}_scores": trial.scores, f"{name}_control": trial.control, f"{name}_control_members": trial.control_members}
        evidence |= {} if trial.own is None else {f"{name}_own": trial.own}
    statement = privacy_of(court.case.model) if court.case.recipe is None else stated_by(court.case.recipe)
    statement = None if beyond_promise(court.case) else statement
    picture = roc_figure(trials, statement, rng_for(court.case.seed, "privacy", "figure"))
    pictures = (picture, risk_figure(risk)) if court.game.shadows is not None and len(risk["at_risk_ids"]) else (picture,)
    return replace(empty, findings=tuple(ordered), figures=(*pictures, *who), evidence=evidence)


def _grouped(court: _Court, trial: Trial) -> tuple[dict[str, Array], tuple[Figure, ...]]:
    """Who leaks most, as evidence and as a picture; nothing where too few models or groups could say it."""
    game = court.game
    if game.shadows is None or not enough(int((~trial.members).sum()), FPRS[0]):
        return {}, ()
    groups = groups_of(game.records, game.right)
    if len(groups) < 2:
        return {}, ()
    found = by_group(trial.scores, trial.members, groups, FPRS[0], rng_for(court.case.seed, "privacy", "groups"))
    evidence = {"group_names": found.names, "group_sizes": found.sizes, "group_hits": found.hits, "group_alarms": found.alarms,
                "group_intervals": found.intervals}  # fmt: skip
    return evidence, (group_figure(found),)


def _worst_first(findings: list[Finding]) -> list[Finding]:
    """The findings of the most successful method first: by its true-positive rate at 1% where that was measured, else by its AUC."""
    claimed = [f for f in findings if f.metric == metric_at(FPRS[0])] or [f for f in findings if f.metric == AUC]
    worst = max(claimed, key=lambda f: f.value)
    return [worst, *(f for f in findings if f.method == worst.method and f is not worst), *(f for f in findings if f.method != worst.method)]


def _named(risk: Mapping[str, Array]) -> str:
    if not len(risk["at_risk_ids"]):
        return ""
    said = [f"{i} ({hit:.0%} of the models trained on it, {alarm:.0%} of the others)" for i, hit, alarm in
            list(zip(risk["at_risk_ids"], risk["at_risk_hits"], risk["at_risk_alarms"], strict=True))[:3]]  # fmt: skip
    return f"; records most at risk: {', '.join(said)}"


def _must_hold(court: _Court, findings: list[Finding]) -> None:
    statement = stated_by(court.case.recipe)
    if statement is None:
        return
    for finding in findings:
        for fpr in FPRS:
            bound = statement.tpr(fpr)
            if finding.metric == metric_at(fpr) and _widened(finding.value, Interval(finding.low, finding.high)).low > bound:
                raise UnsoundError(f"attack {finding.method} reaches a {finding.metric} of {finding.value:.4f}, but the recipe's differential "
                                   f"privacy allows {bound:.4f} at most; one of the two is wrong: keep the run folder and report it")  # fmt: skip
