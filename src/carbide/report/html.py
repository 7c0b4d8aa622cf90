"""``report.html``: one file for people, with inline pictures and no network.

The first screen says in plain words what was found, what was done, what it cost and what was not tested; what a
specialist needs to check it comes after.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carbide._visible import visible
from carbide.report import figures, lights, options, words
from carbide.report import gate as gates
from carbide.report.lights import Light
from carbide.report.metrics import CLEAN, EPSILON, Technique, metric_named, technique_of
from carbide.report.numerals import interval, level, number, percent, seconds, size
from carbide.report.properties import claimed
from carbide.report.results_json import to_json
from carbide.results import HARDENED, PLAIN, Pair, Phase, Results, Timings, compare
from carbide.run.store import write_whole
from carbide.types import Bracket, Certificate, Finding

WIDE = 80.0  # where on its bar the larger end of an epsilon's bracket lies
SHOWN = 6  # lines about what was not tested that are open on the first screen


@dataclass(frozen=True, kw_only=True)
class CostRow:
    """One row of "what it cost"."""

    name: str
    before: str
    after: str
    change: str
    light: Light


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One part of a bracket's bar, from ``start`` to ``stop`` per cent."""

    kind: str
    start: float
    stop: float


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bracket as a bar: zones, whisker and words."""

    phase: str
    metric: str
    threat: str
    says: str
    numbers: str
    zones: tuple[Zone, ...]
    low: float
    high: float
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One finding as a specialist reads it."""

    value: str
    interval: str
    n: str
    level: str
    headline: bool
    light: Light


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """One quantity before and after hardening."""

    metric: str
    safer: str
    method: str
    threat: str
    access: str
    before: Cell | None
    after: Cell | None
    seed: str
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One certificate of one phase."""

    phase: str
    method: str
    claim: str
    held: str
    sure: str
    bound: str
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """All about one threat."""

    anchor: str
    title: str
    threat: str
    technique: Technique | None
    light: Light
    rows: tuple[TableRow, ...]
    pictures: tuple[tuple[str, str, str], ...]
    proofs: tuple[Proof, ...]
    skipped: tuple[tuple[str, str, str, str], ...]
    examination: tuple[tuple[str, str, str, str, str], ...]
    confidence: str


def write_html(results: Results, timings: Timings, path: Path) -> None:
    """Write the page whole; commands on it name the folder in which it lies.

    Raises:
        InputError: if the file cannot be written.
    """
    write_whole(path, render_html(results, timings, run=str(path.parent)).encode())


def render_html(results: Results, timings: Timings, *, run: str = "RUN") -> str:
    """The page as text; ``run`` is how the run folder is called in commands. Without a clock or a font: same input, same bytes."""
    return visible(_template().render(**_page(results, timings, run)))


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("carbide.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.j2")


def _page(results: Results, timings: Timings, run: str) -> dict[str, Any]:
    document = to_json(results)
    untested = results.not_tested
    return {
        "results": results, "timings": timings, "hardened": results.hardened is not None, "Light": Light,
        "verdict": words.verdict(results), "lines": words.lines(results, run), "done": words.done(results), "costs": costs(results, timings),
        "untested": untested[:SHOWN], "untested_rest": untested[SHOWN:], "bars": bars(results), "blocks": blocks(results),
        "options": options.tables(results), "plan": _yaml(document["plan"]), "steps": _steps(timings), "rules": lights.rules(),
        "allowance": percent(lights.allowance(results)), "next_steps": [_named(step, run) for step in results.next_steps], "run": run,
        "gate": [(line, gates.found(line)) for line in results.gate], "properties": claimed(results), "gate_passed": all(line.passed for line in results.gate),
        "phases": results.phases, "percent": percent, "number": number, "css": _asset("report.css"),
        "glossary": words.glossary([f.metric for phase in results.phases for section in phase.sections for f in section.findings]),
    }  # fmt: skip


def _asset(name: str) -> Any:
    from importlib import resources

    from markupsafe import Markup

    return Markup(resources.files("carbide.report").joinpath("templates", name).read_text("utf-8"))


def _named(step: str, run: str) -> str:
    return re.sub(r"\bPLAN\b", lambda _: f"{run}/plan.yaml", re.sub(r"\bRUN\b", lambda _: run, step))


def _yaml(plan: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(plan), sort_keys=True, allow_unicode=True, width=100) if plan else ""


def _steps(timings: Timings) -> list[tuple[str, str]]:
    return [(name, seconds(value)) for name, value in sorted(timings.steps.items(), key=lambda item: (-item[1], item[0]))]


# What it cost ------------------------------------------------------------------------------------------------------


def costs(results: Results, timings: Timings) -> tuple[CostRow, ...]:
    """Clean performance, latency, size and training time, before and after hardening."""
    before, after = results.plain, results.hardened
    rows = []
    for name, metric in CLEAN.items():
        first = before.performance.get(name) if before else None
        last = after.performance.get(name) if after else None
        known = [m for m in (first, last) if m is not None and not math.isnan(m.value)]
        if known:
            shown = [percent(m.value) if m else "–" for m in (first, last)]
            rows.append(CostRow(name=_clean_name(name, metric.name, results), before=shown[0], after=shown[1],
                                change=words.change(first, last), light=lights.light_of_loss(name, results)))  # fmt: skip
    rows.append(_latency(results, timings))
    rows.append(_row("model size", before.cost.size_bytes if before else None, after.cost.size_bytes if after else None, size))
    rows.append(_row("time to train", timings.training.get(PLAIN), timings.training.get(HARDENED), seconds))
    return tuple(row for row in rows if row is not None)


def _clean_name(key: str, name: str, results: Results) -> str:
    return {"recall": f"{words.positives(results)} found", "false_positive_rate": "false alarms"}.get(key, name)


def _latency(results: Results, timings: Timings) -> CostRow | None:
    before, after = timings.latency.get(PLAIN), timings.latency.get(HARDENED)
    row = _row("time to answer", before.p50 if before else None, after.p50 if after else None, lambda v: f"{v:.3g} ms")
    return row and replace(row, light=lights.light_of_latency(results, timings))


def _row(name: str, before: float | None, after: float | None, show: Callable[[float], str]) -> CostRow | None:
    if not before and not after:
        return None
    factor = after / before if before and after else math.nan
    change = "" if math.isnan(factor) else "no change" if abs(factor - 1) < 0.005 else f"× {factor:.3g}" if factor > 0.5 else f"÷ {1 / factor:.3g}"
    return CostRow(name=name, before=show(before) if before else "–", after=show(after) if after else "–", change=change, light=Light.NONE)


# Brackets ----------------------------------------------------------------------------------------------------------


def bars(results: Results) -> tuple[Bar, ...]:
    """Every bracket as a bar, plain before hardened for the same threat."""
    found = [_bar(phase, bracket) for phase in results.phases for bracket in phase.brackets]
    order = list(dict.fromkeys((bar.metric, bar.threat) for bar in found))
    return tuple(sorted(found, key=lambda bar: order.index((bar.metric, bar.threat))))


def _bar(phase: Phase, b: Bracket) -> Bar:
    scale = WIDE / max(b.certified, b.attacked) if b.metric == EPSILON else 100.0  # an epsilon is no share
    certified, attacked = scale * b.certified, scale * b.attacked
    if b.finding.good > 0:
        zones = (
            Zone(kind="proven", start=0, stop=certified),
            Zone(kind="unknown", start=certified, stop=attacked),
            Zone(kind="lost", start=attacked, stop=100),
        )
        met = abs(certified - attacked) < 0.05
        says = (
            f"Exactly {attacked:.0f} of 100: proof and attack meet."
            if met
            else f"Proven: {certified:.0f} of 100. Attackers leave at most {attacked:.0f} of 100."
        )
    else:
        zones = (
            Zone(kind="lost", start=0, stop=attacked),
            Zone(kind="unknown", start=attacked, stop=certified),
            Zone(kind="proven", start=certified, stop=100),
        )
        says = (
            f"Audited {number(b.attacked)} <= true epsilon <= accounted {number(b.certified)}."
            if b.metric == EPSILON
            else f"Attackers reach {attacked:.1f} of 100. Proven: nobody gets beyond {certified:.1f} of 100."
        )
    between, who = interval(b.finding.low, b.finding.high), f"{words.spoken(b.certificate)} against {words.spoken(b.finding.method)}"
    numbers = f"certified {number(b.certified)} · attacked {number(b.attacked)} {between} · n {b.n:,} · {who}"
    zones = tuple(Zone(kind=z.kind, start=_clip(z.start), stop=_clip(z.stop)) for z in zones if z.stop > z.start)
    return Bar(phase=phase.name, metric=b.metric, threat=b.finding.threat, says=says, numbers=numbers, zones=zones, low=_clip(scale * b.finding.low),
               high=_clip(scale * b.finding.high), assumptions=b.assumptions)  # fmt: skip


def _clip(value: float) -> float:
    return 0.0 if math.isnan(value) else round(min(max(value, 0.0), 100.0), 2)


# Threats -----------------------------------------------------------------------------------------------------------


def blocks(results: Results) -> tuple[Block, ...]:
    """One block a threat, in the order of the first screen."""
    return tuple(_block(i, pair, results) for i, pair in enumerate(compare(results.plain, results.hardened)))


def _block(i: int, pair: Pair, results: Results) -> Block:
    last = pair.after if results.hardened else pair.before
    drawn = figures.merged(pair.before.figures if pair.before else (), pair.after.figures if pair.after else ())
    levels = {level(f.confidence) for s in pair.sections for f in s.findings}
    pictures = tuple((f.title, _safe(figures.draw(f)), f.note) for f in drawn)
    light = lights.light_of(last.headline() if last else None, results.last, results.gate)
    return Block(anchor=f"threat-{i}", title=words.ROOMS.get(pair.room, pair.room), threat=pair.threat, technique=technique_of(pair.room, pair.threat), light=light,
                 rows=tuple(_table_row(a, b, pair, results) for a, b in pair.rows()), pictures=pictures, proofs=_proofs(pair),
                 skipped=_skipped(pair), examination=_examination(pair), confidence=levels.pop() if len(levels) == 1 else "")  # fmt: skip


def _safe(drawn: str) -> Any:
    from markupsafe import Markup

    return Markup(drawn)  # every word inside was escaped when it was drawn


def _table_row(before: Finding | None, after: Finding | None, pair: Pair, results: Results) -> TableRow:
    f = before or after
    assert f is not None
    safer = {1: "higher is safer", -1: "lower is safer"}.get(f.good, "")
    seeds = dict.fromkeys(str(x.seed) for x in (before, after) if x is not None)
    other = "" if f.threat == pair.threat else f.threat
    return TableRow(metric=f.metric, safer=safer, method=words.spoken(f.method), threat=other, access=f.access, before=_cell(before, results.plain),
                    after=_cell(after, results.hardened), seed=", ".join(seeds), notes=_notes(before, after))  # fmt: skip


def _notes(before: Finding | None, after: Finding | None) -> tuple[str, ...]:
    said = [(name, f.note) for name, f in (("before", before), ("after", after)) if f is not None and f.note]
    if len(said) == 2 and said[0][1] != said[1][1]:
        return tuple(f"{name}: {note}" for name, note in said)
    return tuple(note for _, note in said[:1])


def _cell(f: Finding | None, phase: Phase | None) -> Cell | None:
    if f is None:
        return None
    return Cell(
        value=number(f.value),
        interval=interval(f.low, f.high),
        n=f"{f.n:,}",
        level=level(f.confidence),
        headline=f.headline,
        light=lights.light_of(f, phase),
    )


def _proofs(pair: Pair) -> tuple[Proof, ...]:
    sides = ((PLAIN, pair.before), (HARDENED, pair.after))
    return tuple(_proof(name, c) for name, section in sides if section is not None for c in section.certificates)


def _proof(phase: str, c: Certificate) -> Proof:
    sure = "always" if c.failure_probability == 0 else f"except with probability at most {c.failure_probability:g}"
    finite = sorted(float(v) for v in c.bound if not math.isnan(v))
    middle = finite[len(finite) // 2] if finite else math.nan
    bound = "" if math.isnan(middle) else f"median bound {number(middle)} {c.unit}".rstrip()
    known = metric_named(c.metric)
    held = (
        f"{int(c.holds.sum()):,} of {len(c.holds):,} rows ({percent(c.value)})"
        if known is None or known.good > 0
        else "holds"
        if c.holds.all()
        else "does not hold"
    )
    return Proof(phase=phase, method=words.spoken(c.method), claim=c.claim, held=held, sure=sure, bound=bound, assumptions=c.assumptions)


def _examination(pair: Pair) -> tuple[tuple[str, str, str, str, str], ...]:
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for name, section in ((PLAIN, pair.before), (HARDENED, pair.after)):
        for s in section.examination if section is not None else ():
            found.setdefault((s.name, s.value, s.done, s.mend), []).append(name)
    return tuple((*key, " and ".join(phases)) for key, phases in found.items())


def _skipped(pair: Pair) -> tuple[tuple[str, str, str, str], ...]:
    found: dict[tuple[str, str, str], list[str]] = {}
    for name, section in ((PLAIN, pair.before), (HARDENED, pair.after)):
        for skip in section.skipped if section is not None else ():
            found.setdefault((words.spoken(skip.method), skip.status, skip.reason), []).append(name)
    return tuple((*key, " and ".join(phases)) for key, phases in found.items())
