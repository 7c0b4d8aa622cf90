"""Finished runs read again: the report rewritten, the gate judged, every headline recomputed from the evidence.

>>> Check(phase="plain", metric="fidelity", reported=0.5, recomputed=0.5).agrees
True
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from carbide._audit import judge_of
from carbide.pipeline import read_properties, read_sections
from carbide.report.gate import judge_gate, parse_gate
from carbide.report.html import write_html
from carbide.report.results_json import read_results, read_timings
from carbide.results import HARDENED, GateLine, Phase, Results
from carbide.run import write_whole
from carbide.types import CarbideError, InputError, Model, Section

TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Check:
    """One headline as reported and as the evidence gives it."""

    phase: str
    metric: str
    reported: float
    recomputed: float

    @property
    def agrees(self) -> bool:
        """Whether the two are the same number."""
        both_nan = math.isnan(self.reported) and math.isnan(self.recomputed)
        return both_nan or abs(self.reported - self.recomputed) <= TOLERANCE * max(1.0, abs(self.reported))


def _results(run: Path) -> Results:
    path = run / "results.json"
    if not path.is_file():
        raise InputError(f"{run} holds no results.json; name the folder of a finished run, or finish it with the command that began it")
    return read_results(path)


def with_evidence(run: Path) -> Results:
    """The results of a run with the sections of its evidence (pictures and arrays) put back."""
    results = _results(run)
    sections = read_sections(run)
    phases = tuple(replace(phase, sections=tuple(sections.get(phase.name, phase.sections))) for phase in results.phases)
    return replace(results, phases=phases)


def rewrite_report(run: Path) -> tuple[Results, Path]:
    """Write report.html of a finished run again from its results, evidence and timings."""
    results = with_evidence(run)
    write_html(results, read_timings(run), run / "report.html")
    return results, run / "report.html"


def judge_run(run: Path, *, rules: Sequence[str] = (), sarif: Path | None = None, junit: Path | None = None) -> tuple[GateLine, ...]:
    """The gate's lines for a finished run; ``rules`` such as ``"robust_recall >= 0.7"`` replace the plan's gate.

    Raises:
        InputError: if there is no rule at all, or one is not understood.
    """
    results = _results(run)
    names = [line.name for line in results.last.properties] if results.last else []
    parsed = (
        tuple(line for rule in rules for line in parse_gate(_split(rule), properties=names)) if rules else parse_gate(results.plan.get("gate") or {})
    )
    if not parsed:
        raise InputError(f"{run} has no gate in its plan; add gate: {{...}} to the plan, or give --rule")
    lines = judge_gate(parsed, results)
    judged = replace(results, gate=lines)
    if sarif is not None:
        from carbide.report.sarif import to_sarif

        write_whole(sarif, json.dumps(to_sarif(judged), indent=1, sort_keys=True).encode())
    if junit is not None:
        from carbide.report.junit import to_junit

        write_whole(junit, to_junit(judged).encode())
    return lines


def _split(rule: str) -> dict[str, str]:
    metric, _, condition = rule.strip().partition(" ")
    if not condition:
        raise InputError(f'rule {rule!r} is not of the form \'metric >= number\'; e.g. --rule "robust_recall >= 0.7" or --rule "properties all"')
    return {metric: condition.strip()}


def verify_run(run: Path) -> list[Check]:
    """Every headline and property of a run as reported in results.json and as recomputed from its evidence and saved model.

    Raises:
        InputError: if the run is not finished or its evidence cannot be read.
    """
    results, sections = _results(run), read_sections(run)
    checks: list[Check] = []
    for phase in results.phases:
        stored = sections.get(phase.name, [])
        if len(stored) != len(phase.sections):
            raise InputError(
                f"{run} has evidence of {len(stored)} threats for the {phase.name} model, but reports {len(phase.sections)}; run the plan again"
            )
        model = _model(run, phase.name)
        for reported, section in zip(phase.sections, stored, strict=True):
            checks += _checks(phase.name, reported, section, model)
        if phase.properties:
            checks += _property_checks(run, phase, model)
    return checks


def _property_checks(run: Path, phase: Phase, model: Model | None) -> list[Check]:
    """The two rows of each broken property scored again, and whether the evidence has the verdicts that are reported."""
    from carbide._claims import check_again

    evidence = read_properties(run, phase.name)
    found = []
    for line in phase.properties:
        if line.name not in evidence:
            raise InputError(f"{run} has no evidence of the property {line.name} of the {phase.name} model; run the plan again")
        found += [Check(phase=phase.name, metric=metric, reported=reported, recomputed=recomputed)
                  for metric, reported, recomputed in check_again(line, evidence[line.name], model)]  # fmt: skip
    return found


def _checks(phase: str, reported: Section, section: Section, model: Model | None) -> list[Check]:
    if not section.evidence:
        return []
    headline = reported.headline()
    told: dict[str, float] = {f.metric: f.value for f in reversed(reported.findings)}
    if headline is not None:
        told[headline.metric] = headline.value
    judge = judge_of(_Room(section.room))  # type: ignore[arg-type]
    found = []
    for metric, value, recomputed in judge.verify(section, model, None, section.noun):
        known = told[metric] if metric in told else value  # noqa: SIM401
        found.append(Check(phase=phase, metric=metric, reported=float(known), recomputed=recomputed))
    return found


@dataclass(frozen=True)
class _Room:
    room: str


def _model(run: Path, phase: str) -> Model | None:
    folder = run / ("hardened" if phase == HARDENED else "plain")
    if not folder.is_dir():
        return None
    from carbide.models import load_saved

    try:
        return load_saved(folder)
    except InputError as error:
        raise CarbideError(f"the saved model in {folder} cannot be read: {error}") from error
