"""The model card that lies beside a hardened model: what it is, how good, how safe, and what nobody checked.

It says nothing that the run did not measure, and the same results give the same bytes.
"""

from __future__ import annotations

import math

from carbide._visible import visible
from carbide.report import words
from carbide.report.gate import found
from carbide.report.lights import light_of
from carbide.report.metrics import CLEAN, technique_of
from carbide.report.numerals import interval, number, percent, size
from carbide.report.properties import last_lines, reason
from carbide.results import Phase, Results, compare
from carbide.types import Finding


def model_card(results: Results) -> str:
    """The card as markdown."""
    parts = [_head(results), _performance(results), _safety(results), _proofs(results), _properties(results), _limits(results), _origin(results)]
    return visible("\n\n".join(part for part in parts if part)) + "\n"


def _head(results: Results) -> str:
    phase = results.last
    what = f"{phase.model}, {size(phase.cost.size_bytes)} as stored." if phase else "No model was audited."
    point = f" It decides at {number(phase.threshold)}." if phase and not math.isnan(phase.threshold) else ""
    done = "\n".join(f"- {_cell(line)}" for line in words.done(results))
    return f"# {_cell(results.title)}\n\n{words.verdict(results)}\n\n{_cell(what)}{point}\n\n## What was done\n\n{done}"


def _performance(results: Results) -> str:
    rows = []
    for key, metric in CLEAN.items():
        sides = [phase.performance.get(key) if phase else None for phase in (results.plain, results.hardened)]
        if any(m is not None and not math.isnan(m.value) for m in sides):
            shown = [f"{percent(m.value)} {interval(m.low, m.high)}".strip() if m else "–" for m in sides]
            n = next(m.n for m in reversed(sides) if m is not None)
            rows.append([metric.name, *shown, f"{n:,}"])
    return _table("How good it is (clean test rows)", ["number", "before", "after", "n"], rows)


def _safety(results: Results) -> str:
    rows = []
    for pair in compare(results.plain, results.hardened):
        before, after = (s.headline() if s else None for s in (pair.before, pair.after))
        first = after or before
        technique = technique_of(pair.room, pair.threat)
        light = light_of(after if results.hardened else before, results.last, results.gate)
        rows.append([f"{pair.threat}{f' ({technique.id})' if technique else ''}", first.metric if first else "–", _value(before), _value(after),
                     f"{first.n:,}" if first else "–", light.value])  # fmt: skip
    return _table("How far attackers get", ["threat", "metric", "before", "after", "n", "state"], rows)


def _value(finding: Finding | None) -> str:
    return "not measured" if finding is None else f"{number(finding.value)} {interval(finding.low, finding.high)}".strip()


def _proofs(results: Results) -> str:
    phase = results.last
    if phase is None:
        return ""
    rows = [[b.metric, b.finding.threat, number(b.certified), number(b.attacked), f"{b.n:,}", "; ".join(b.assumptions)] for b in phase.brackets]
    return _table("What is proven", ["metric", "threat", "certified", "attacked", "n", "assumptions"], rows) or _unproven(phase)


def _unproven(phase: Phase) -> str:
    return f"## What is proven\n\nNothing: no certificate of the {phase.name} model is about a measured number."


def _properties(results: Results) -> str:
    before = {line.name: line.verdict for line in results.plain.properties} if results.plain and results.hardened else {}
    rows = [
        [line.name, line.claim, before.get(line.name, "–"), line.verdict, reason(line), "; ".join(line.assumptions)] for line in last_lines(results)
    ]
    return _table("What holds on every row", ["property", "claim", "before", "now", "how", "assumptions"], rows)


def _limits(results: Results) -> str:
    lines = [f"- {_cell(line)}" for line in (*results.not_tested, *results.warnings)]
    return "## What is not known\n\n" + ("\n".join(lines) or "- attackers whom this card does not name were not tested")


def _origin(results: Results) -> str:
    rows = ", ".join(f"{n:,} {part}" for part, n in results.data.rows.items())
    versions = ", ".join(f"{name} {version}" for name, version in sorted(results.versions.items()))
    gate = "".join(f"\n- gate {'passed' if g.passed else 'FAILED'}: {_cell(g.rule)}, {found(g)}" for g in results.gate)
    lines = [f"- data: {_cell(results.data.name)}, {rows} rows", f"- seed {results.seed}; {versions}{gate}", "- check it with: carbide verify RUN"]
    return "## Where this comes from\n\n" + "\n".join(lines)


def _table(title: str, names: list[str], rows: list[list[str]]) -> str:
    if not rows:
        return ""
    lines = [names, ["---"] * len(names), *rows]
    return f"## {title}\n\n" + "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(words_: str) -> str:
    """Words that cannot break out of a line or a table."""
    return " ".join(words_.split()).replace("|", "\\|")
