"""Finished runs read again: the report rewritten, the gate judged, every headline recomputed from the evidence.

>>> Check(phase="plain", metric="fidelity", reported=0.5, recomputed=0.5).agrees
True
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import yaml

from carbide._audit import judge_of
from carbide._claims import check_again
from carbide._prove import brackets_of
from carbide.pipeline import PROPERTIES, performance_of, read_answers, read_properties, read_sections
from carbide.report.gate import judge_gate, parse_gate
from carbide.report.html import write_html
from carbide.report.results_json import plain, read_results, read_timings
from carbide.results import HARDENED, PLAIN, GateLine, Phase, Results, match_findings
from carbide.run import write_named
from carbide.stats.intervals import Count
from carbide.types import Finding, InputError, Model, Section

TOLERANCE = 1e-9
LONGEST = 60  # characters of a value in a line
UNKEPT = ("title and versions, latency, training times and sizes of models, facts about the data, what was tried in hardening, warnings and advice: a run keeps no "
          "evidence of them",)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Check:
    """One statement of results.json and what the evidence gives: two numbers, or ``words`` where it is none; ``wrong`` = they contradict each other."""

    phase: str
    metric: str
    reported: float = math.nan
    recomputed: float = math.nan
    words: str = ""
    wrong: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the two say the same."""
        return not self.wrong and _same(self.reported, self.recomputed)

    def __str__(self) -> str:
        said = self.words or f"{self.reported:.6g}, from the evidence {self.recomputed:.6g}"
        return f"{'agrees' if self.agrees else 'DIFFERS'}  {self.phase}: {self.metric} {said}"


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What was checked of a run, and in words what was not."""

    checks: tuple[Check, ...]
    unchecked: tuple[str, ...]


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b)) or abs(a - b) <= TOLERANCE * max(1.0, abs(a))


def _results(run: Path) -> Results:
    path = run / "results.json"
    if not path.is_file() and (run / "results.previous.json").is_file():
        raise InputError(f"{run} holds no finished results: the last run in it has not ended (those before it are in results.previous.json); "
                         "finish it with the command that began it")  # fmt: skip
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
        InputError: if there is no rule at all, or one is not understood; older files of the two names are gone then.
    """
    for file in (sarif, junit):  # a gate that cannot judge must not leave an earlier verdict where a reader looks for its own
        if file is not None and file.is_file():
            file.unlink()
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

        write_named(sarif, json.dumps(to_sarif(judged), indent=1, sort_keys=True).encode())
    if junit is not None:
        from carbide.report.junit import to_junit

        write_named(junit, to_junit(judged).encode())
    return lines


def _split(rule: str) -> dict[str, str]:
    metric, _, condition = rule.strip().partition(" ")
    if not condition:
        raise InputError(f'rule {rule!r} is not of the form \'metric >= number\'; e.g. --rule "robust_recall >= 0.7" or --rule "properties all"')
    return {metric: condition.strip()}


def verify_run(run: Path) -> list[Check]:
    """The checks of ``check_run``."""
    return list(check_run(run).checks)


def check_run(run: Path) -> Verified:
    """What results.json says, held against the evidence and the saved models: every finding, certificate, bracket, property, gate and phase.

    Raises:
        InputError: if the run is not finished or its evidence cannot be read.
    """
    results, kept = _results(run), read_sections(run)
    document = json.loads((run / "results.json").read_bytes())
    there = [name for name in (PLAIN, HARDENED) if kept.get(name) or any((run / "evidence").glob(f"*-{name}.npz"))]
    checks, unchecked, proven = _phase_names(there, [phase.name for phase in results.phases]), [], []
    for phase, told in zip(results.phases, document["phases"], strict=True):
        if phase.name in there:
            found = _Phase(run=run, phase=phase, told=told, kept=kept.get(phase.name, []), model=_model(run, phase.name))
            checks += [*found.sections(), *found.brackets(), *found.performance(), *found.properties()]
            unchecked += found.unchecked()
            proven.append(found.proven())
    checks += _gate(results, replace(results, phases=tuple(proven)))
    checks += _plan(run, document["plan"])
    return Verified(checks=tuple(checks), unchecked=(*dict.fromkeys(unchecked), *UNKEPT))


def _phase_names(there: list[str], told: list[str]) -> list[Check]:
    """The phases that the evidence is about must be those of results.json, in the order in which they were audited."""
    found = [_wrong(name, "model", "is missing in results.json, and its evidence lies in the folder") for name in there if name not in told]
    found += [_wrong(name, "model", "is in results.json, and there is no evidence of it") for name in told if name not in there]
    if not found and told != there:
        found.append(_wrong(told[0], "model", f"stands before the {told[1]} one; it was audited after it"))
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Phase:
    """One phase as results.json tells it (revived, and as plain values), the sections of its evidence, and its model where one was saved."""

    run: Path
    phase: Phase
    told: Mapping[str, Any]
    kept: list[Section]
    model: Model | None

    def sections(self) -> list[Check]:
        """Every section of the evidence against the one in the same place of results.json."""
        found: list[Check] = []
        for told, reported, section in zip_longest(self.told["sections"], self.phase.sections, self.kept):
            if section is None:
                found.append(_wrong(self.phase.name, reported.threat, "is in results.json, and there is no evidence of it"))
            elif reported is None:
                found.append(_wrong(self.phase.name, section.threat, "is missing in results.json, and its evidence lies in the folder"))
            else:
                found += _section(self.phase.name, reported, told, section, self.model)
        return found

    def brackets(self) -> list[Check]:
        """What attacks and certificates of the evidence enclose together."""
        made = [plain(bracket) for section in self.kept for bracket in brackets_of(section)]
        return [_wrong(self.phase.name, "brackets", words) for words in _differences(self.told["brackets"], made)]

    def performance(self) -> list[Check]:
        """Accuracy and its like, counted again from the answers that were kept."""
        answers = read_answers(self.run, self.phase.name)
        counted, name = performance_of(answers), self.phase.name
        found = []
        for metric in dict.fromkeys((*counted, *self.phase.performance)):
            told, again = self.phase.performance.get(metric), counted.get(metric)
            if told is None or again is None:
                found.append(
                    _wrong(name, metric, "is missing in results.json" if told is None else "is in results.json, and there is no evidence of it")
                )
                continue
            found.append(Check(phase=name, metric=metric, reported=told.value, recomputed=again.value))
            found += [_wrong(name, f"{metric}:", words) for words in _differences(plain(replace(told, value=again.value)), plain(again))]
        if not _same(self.phase.threshold, float(answers["threshold"])):
            found.append(Check(phase=name, metric="threshold", reported=self.phase.threshold, recomputed=float(answers["threshold"])))
        return found

    def properties(self) -> list[Check]:
        """The two rows of each broken property scored again, and whether the evidence has the verdicts that are reported."""
        found, name = [], self.phase.name
        if not (self.phase.properties or self._evidence_of_properties().is_file()):
            return found
        evidence = read_properties(self.run, name)
        for line in self.phase.properties:
            if line.name not in evidence:
                raise InputError(f"{self.run} has no evidence of the property {line.name} of the {name} model; run the plan again")
            found += [Check(phase=name, metric=metric, reported=reported, recomputed=recomputed)
                      for metric, reported, recomputed in check_again(line, evidence[line.name], self.model)]  # fmt: skip
        told = {line.name for line in self.phase.properties}
        return found + [_wrong(name, f"property {prop}", "is missing in results.json") for prop in evidence if prop not in told]

    def proven(self) -> Phase:
        """The phase as the evidence has it, for the gate."""
        lines = self.phase.properties
        if lines:
            evidence = read_properties(self.run, self.phase.name)
            lines = tuple(replace(line, verdict=str(evidence[line.name]["verdict"])) for line in lines)
        return replace(self.phase, sections=tuple(self.kept), performance=performance_of(read_answers(self.run, self.phase.name)), properties=lines,
                       brackets=tuple(bracket for section in self.kept for bracket in brackets_of(section)))  # fmt: skip

    def unchecked(self) -> list[str]:
        """What was only compared with what was written beside the evidence, or not at all."""
        found = []
        if self.model is None:
            found.append(f"the {self.phase.name} model is not in the folder, so nothing was scored again")
        names = dict.fromkeys(f.metric for section in self.kept for f in section.findings if recounted(section, f) is None)
        if names:
            found.append(f"n and intervals of {', '.join(names)}: compared with what was written beside the evidence, and not counted again")
        if self.phase.properties:
            found.append("bounds of properties: a run keeps no evidence of them")
        return found

    def _evidence_of_properties(self) -> Path:
        return self.run / "evidence" / f"{PROPERTIES}-{self.phase.name}.npz"


def _wrong(phase: str, metric: str, words: str) -> Check:
    return Check(phase=phase, metric=metric, words=words, wrong=True)


def _section(phase: str, reported: Section, told: Mapping[str, Any], section: Section, model: Model | None) -> list[Check]:
    """One section: its findings recomputed, n and intervals counted again, and everything else compared with what was written beside the evidence."""
    found, pairs = [], []
    for kept, said in match_findings(section.findings, reported.findings):
        if said is None or kept is None:
            known = kept or said
            assert known is not None
            there = "is missing in results.json" if said is None else "is in results.json, and there is no evidence of it"
            found.append(_wrong(phase, f"{known.metric} ({known.method})", f"{known.value:.6g} {there}"))
        else:
            pairs.append((kept, said))
    if section.evidence and pairs:
        claimed = tuple(replace(kept, value=said.value, low=said.low, high=said.high, n=said.n) for kept, said in pairs)
        found += _recomputed(phase, replace(section, findings=claimed), model)
        found += [check for finding in claimed for check in _counted(phase, section, finding)]
    seen = {check.reported for check in found if not check.agrees}
    words = [f"{kept.metric} ({kept.method}): {words}" for kept, said in pairs for words in _differences(plain(said), plain(kept))
             if not (words.startswith("value is") and said.value in seen)]  # fmt: skip
    made = plain(section)
    keys = [key for key in dict.fromkeys((*told, *made)) if key != "findings"]
    words += [line for key in keys for line in _differences(told.get(key), made.get(key), key)]
    if not found or all(check.agrees for check in found):
        words += [] if [_key(f) for f in section.findings] == [_key(f) for f in reported.findings] else ["findings stand in another order"]
    found += [_wrong(phase, f"{section.threat}:", line) for line in words]
    if all(check.agrees for check in found):
        said = f"findings ({len(section.findings)}) and certificates ({len(section.certificates)}) are told as in the evidence"
        found.append(Check(phase=phase, metric=f"{section.threat}:", words=said))
    return found


def _key(finding: Finding) -> tuple[str, str, str, str]:
    return finding.metric, finding.method, finding.threat, finding.access


def _recomputed(phase: str, section: Section, model: Model | None) -> list[Check]:
    """What the room's judge makes of the evidence, beside the numbers that are claimed."""
    judge = judge_of(_Room(section.room))  # type: ignore[arg-type]
    try:
        lines = judge.verify(section, model, None, section.noun)
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        return [_wrong(phase, f"{section.threat}:", f"the evidence gives no number ({type(error).__name__}: {error})")]
    return [Check(phase=phase, metric=metric, reported=float(value), recomputed=float(again)) for metric, value, again in lines]


def _counted(phase: str, section: Section, finding: Finding) -> list[Check]:
    """The rows of a finding counted again, where the room's judge can; what agrees is not said again."""
    count = recounted(section, finding)
    if count is None:
        return []
    name = f"{finding.metric} ({finding.method})"
    pairs = [
        ("", finding.value, count.value),
        (", n", finding.n, count.n),
        (", low end", finding.low, count.low),
        (", high end", finding.high, count.high),
    ]
    checks = [Check(phase=phase, metric=f"{name}{part}", reported=float(said), recomputed=float(again)) for part, said, again in pairs]
    return [check for check in checks if not check.agrees]


def recounted(section: Section, finding: Finding) -> Count | None:
    """A finding's value, n and interval from the rows in the evidence; None where they cannot be counted from it."""
    recount = getattr(judge_of(_Room(section.room)), "recount", None)  # type: ignore[arg-type]
    try:
        return None if recount is None or not section.evidence else recount(section, finding)
    except (KeyError, IndexError, ValueError):
        return None


def _differences(told: Any, kept: Any, path: str = "") -> list[str]:
    """Where two plain values differ, in words."""
    if isinstance(told, dict) and isinstance(kept, dict):
        return [line for key in dict.fromkeys((*told, *kept)) for line in _differences(told.get(key), kept.get(key), f"{path} {key}".strip())]
    if isinstance(told, list) and isinstance(kept, list) and len(told) == len(kept):
        return [line for i, pair in enumerate(zip(told, kept, strict=True), 1) for line in _differences(*pair, f"{path} {i}".strip())]
    if told == kept:
        return []
    return [f"{path} is {_short(told)}, in the evidence {_short(kept)}".strip()]


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list | dict) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _gate(results: Results, proven: Results) -> list[Check]:
    """The gate judged again on what the evidence gives; without a gate in the plan the rules that results.json itself names."""
    if not proven.phases:
        return []
    rules = parse_gate(results.plan.get("gate") or {})
    lines = judge_gate(rules, proven)
    found = []
    for line, told in zip_longest(lines, results.gate):
        if line is None or told is None or line.rule != told.rule:
            return [_wrong("gate", "", f"results.json judges {len(results.gate)} rules, and not those {len(lines)} of the plan")]
        said = "passes" if told.passed else "fails"
        right = (told.passed, told.verdict, told.metric) == (line.passed, line.verdict, line.metric) and _same(told.value, line.value)
        again = "" if right else f", from the evidence it {'passes' if line.passed else 'fails'} ({line.verdict or f'{line.value:.6g}'})"
        found.append(Check(phase="gate", metric=line.rule, words=f"{said} ({told.verdict or f'{told.value:.6g}'}){again}", wrong=not right))
    return found


def _plan(run: Path, told: Any) -> list[Check]:
    """The plan in results.json is the one that the run was made with."""
    try:
        plan = plain(yaml.safe_load((run / "plan.yaml").read_text(encoding="utf-8")) or {})
    except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
        raise InputError(f"{run / 'plan.yaml'} cannot be read ({error}); run the plan again into this folder") from error
    return [_wrong("plan", "", line.replace("in the evidence", "in plan.yaml")) for line in _differences(told, plan)]


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
        raise InputError(f"the saved model in {folder} cannot be read: {error}") from error
