"""SARIF 2.1.0 (https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html): findings for code-scanning services.

Each broken rule of the gate is an error, each threat that is at risk and each broken property a warning, each that is held in part or
was not measured, and each property that nobody could decide, a note. Rules are techniques of MITRE ATLAS; everything points at the plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carbide.report import words
from carbide.report.gate import CERTIFIED, PROPERTIES, PropertyRule, found
from carbide.report.lights import Light
from carbide.report.metrics import ATLAS, INVERSION, METRICS, key_of, technique_of
from carbide.report.properties import last_lines, reason
from carbide.report.results_json import dumps, number
from carbide.results import BROKEN, PROVEN, GateLine, Results, compare
from carbide.run.store import write_whole
from carbide.types import digest

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS = {Light.RED: "warning", Light.AMBER: "note", Light.GREY: "note"}
GATE_RULE = {"id": "carbide.gate", "name": "Gate", "shortDescription": {"text": "A rule of the gate about the model's work on clean rows is broken"}}
PROPERTY_RULE = {
    "id": "carbide.property",
    "name": "Property",
    "shortDescription": {"text": "A property that the plan states is broken or not proven"},
}


@dataclass(frozen=True, kw_only=True)
class _Result:
    rule: str
    level: str
    message: str
    mark: tuple[str, ...]  # what makes this result the same in the next run
    properties: dict[str, Any]


def to_sarif(results: Results, *, plan: str = "plan.yaml") -> dict[str, Any]:
    """The run as a SARIF log; ``plan`` is the file that results point at, relative to the repository."""
    every = [*_gate(results), *_threats(results), *_properties(results)]
    rules = _rules(every)
    index = {rule["id"]: i for i, rule in enumerate(rules)}
    driver = {"name": "Carbide", "semanticVersion": results.versions.get("carbide", "0.0.0"), "rules": rules}
    return {"$schema": SCHEMA, "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": [_result(r, index[r.rule], plan) for r in every]}]}  # fmt: skip


def write_sarif(results: Results, path: Path, *, plan: str = "plan.yaml") -> None:
    """Write the log whole."""
    write_whole(path, dumps(to_sarif(results, plan=plan)))


def room_of(metric: str, results: Results) -> str:
    """The threat folder that a metric's gate key belongs to; empty for clean performance."""
    key = metric.removeprefix(CERTIFIED)
    if key in METRICS:
        return METRICS[key].room
    sections = results.last.sections if results.last else ()
    return next((s.room for s in sections if any(key_of(f.metric) == key for f in s.findings)), "")


def failure(line: GateLine) -> str:
    """Why a rule of the gate failed, in one sentence."""
    said = f"it is {line.verdict}" if line.verdict else found(line) if line.value == line.value else "it was not measured"
    return f"The gate asks for {line.rule}, but {said}" + (f" ({line.reason})." if line.reason else ".")


def _gate(results: Results) -> Iterable[_Result]:
    for line in results.gate:
        if not line.passed:
            room = room_of(line.metric, results)
            own = PROPERTY_RULE["id"] if line.metric == PROPERTIES else GATE_RULE["id"]
            verdict = {"verdict": line.verdict} if line.verdict else {}
            yield _Result(rule=ATLAS[room].id if room in ATLAS else str(own), level="error", message=failure(line), mark=("gate", line.rule),
                          properties={"metric": line.metric, "value": number(line.value), **verdict})  # fmt: skip


def _threats(results: Results) -> Iterable[_Result]:
    broken = {line.metric.removeprefix(CERTIFIED) for line in results.gate if not line.passed}
    for line, pair in zip(words.lines(results), compare(results.plain, results.hardened), strict=True):
        section = pair.after if results.hardened else pair.before
        finding = section.headline() if section else None
        if (
            line.light not in LEVELS
            or (technique := technique_of(pair.room, pair.threat)) is None
            or (finding is not None and key_of(finding.metric) in broken)
        ):
            continue
        facts = {} if finding is None else {"metric": finding.metric, "value": number(finding.value), "low": number(finding.low),
                                            "high": number(finding.high), "n": finding.n, "method": finding.method}  # fmt: skip
        yield _Result(rule=technique.id, level=LEVELS[line.light], message=line.words, mark=("threat", pair.room, pair.threat),
                      properties={"threat": pair.threat, "state": line.light.value, **facts})  # fmt: skip


def _properties(results: Results) -> Iterable[_Result]:
    told = {line.rule for line in results.gate if not line.passed}
    for line in last_lines(results):
        if line.verdict != PROVEN and PropertyRule(names=(line.name,)).words() not in told:
            yield _Result(rule=str(PROPERTY_RULE["id"]), level="warning" if line.verdict == BROKEN else "note",
                          message=f"The property {line.name} ({line.claim}) is {line.verdict}: {reason(line)}.", mark=("property", line.name),
                          properties={"verdict": line.verdict})  # fmt: skip


def _rules(found: Iterable[_Result]) -> list[dict[str, Any]]:
    used = dict.fromkeys(r.rule for r in found)
    known = {t.id: {"id": t.id, "name": "".join(t.name.split()), "shortDescription": {"text": t.name}, "helpUri": t.url,
                    "properties": {"tags": ["security", "MITRE ATLAS"]}} for t in (*ATLAS.values(), INVERSION)}  # fmt: skip
    known |= {str(rule["id"]): rule for rule in (GATE_RULE, PROPERTY_RULE)}
    return [known[rule] for rule in used]


def _result(r: _Result, index: int, plan: str) -> dict[str, Any]:
    place = {"physicalLocation": {"artifactLocation": {"uri": plan}, "region": {"startLine": 1}}}
    return {"ruleId": r.rule, "ruleIndex": index, "level": r.level, "message": {"text": r.message}, "locations": [place],
            "partialFingerprints": {"carbide/v1": digest(*r.mark)[:32]}, "properties": r.properties}  # fmt: skip
