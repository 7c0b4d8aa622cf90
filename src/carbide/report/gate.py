"""The gate: rules such as ``robust_recall: ">= 0.7"``, judged on the model that would be used.

A rule is judged on the worst number that any attack reached under any of the plan's threats, so that a threat more can
only make it fail. What was not measured fails. By default the measured value is compared; with ``strict: true`` the
end of its interval that is worse for the model. ``properties: all`` (or names) asks that properties of the plan are proven; a
broken one fails, and so does one about which nobody knows.

>>> rules = parse_gate({"robust_recall": ">= 0.7", "strict": True})
>>> rules[0].words(), rules[0].strict
('robust_recall >= 0.7', True)
>>> parse_gate({"properties": ["debt_rises", "age_falls"]})[0].words()
'properties debt_rises, age_falls'
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from carbide.report.metrics import CLEAN, METRICS, key_of, metric_named
from carbide.report.numerals import number
from carbide.report.properties import reason
from carbide.results import NOT_APPLICABLE, PROVEN, GateLine, Phase, PropertyLine, Results, worth
from carbide.stats.intervals import clopper_pearson
from carbide.types import Finding, InputError, Section

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
CERTIFIED = "certified_"
PROPERTIES, ALL = "properties", "all"
LOSSES = {"accuracy_loss": "accuracy", "worst_class_loss": "worst_class", "recall_loss": "recall"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One rule: ``key`` is a metric's name in snake case, perhaps with ``certified_`` before it; ``op`` compares with ``bound``."""

    key: str
    op: str
    bound: float
    strict: bool = False

    def words(self) -> str:
        """The rule as it is typed."""
        return f"{self.key} {self.op} {self.bound:g}"

    @property
    def upward(self) -> bool:
        """Whether the rule asks for a high value."""
        return self.op.startswith(">")


@dataclass(frozen=True, kw_only=True)
class PropertyRule:
    """The rule that properties of the plan are proven: those of these ``names``, all of them where it names none."""

    names: tuple[str, ...] = ()
    key: str = PROPERTIES

    def words(self) -> str:
        """The rule as it is typed."""
        return f"{self.key} {', '.join(self.names) or ALL}"


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A value to judge: where it comes from in words, and the end of its interval that is worse for the rule."""

    value: float
    end: float
    source: str


def gate_keys() -> tuple[str, ...]:
    """Every key that a gate compares with a number."""
    return tuple(sorted([*METRICS, *CLEAN, *LOSSES, *(CERTIFIED + key for key in METRICS)]))


def parse_gate(
    mapping: Mapping[str, Any], *, also: Collection[str] = (), properties: Collection[str] | None = None
) -> tuple[Rule | PropertyRule, ...]:
    """The rules of a gate; ``also`` names keys of metrics that methods outside Carbide report, ``properties`` those there are (None = not known).

    Raises:
        InputError: if a key is unknown, a rule is not a comparison with a finite number, or names a property that there is not.
    """
    strict = {"true": True, "false": False}.get(str(mapping.get("strict", False)).lower())
    if strict is None:
        raise InputError(f"gate: strict is {mapping['strict']!r}; write true or false")
    known = {*gate_keys(), PROPERTIES, *also}
    rules: list[Rule | PropertyRule] = []
    for key, text in mapping.items():
        if key == "strict":
            continue
        if key not in known:
            raise InputError(f"gate: there is no metric {key!r}; choose among {', '.join(sorted(known))}")
        rules.append(_named(text, properties) if key == PROPERTIES else _rule(key, text, strict))
    return tuple(rules)


def judge_gate(rules: Iterable[Rule | PropertyRule], results: Results) -> tuple[GateLine, ...]:
    """Each rule against the last phase (hardened if there is one, else plain), properties one by one; what was not measured fails."""
    return tuple(line for rule in rules for line in (_properties(rule, results) if isinstance(rule, PropertyRule) else [_judge(rule, results)]))


def found(line: GateLine) -> str:
    """What a line found: a property's verdict, or the measured value."""
    return line.verdict or ("not measured" if math.isnan(line.value) else f"measured {number(line.value)}")


def passed(lines: Iterable[GateLine]) -> bool:
    """Whether every line passed."""
    return all(line.passed for line in lines)


def _rule(key: str, text: Any, strict: bool) -> Rule:
    found = re.fullmatch(r"\s*(>=|<=|>|<)\s*([-+0-9.eE]+)\s*(%?)\s*", text) if isinstance(text, str) else None
    try:
        bound = float(found[2]) / (100 if found[3] else 1) if found else math.nan
    except ValueError:
        bound = math.nan
    if found is None or not math.isfinite(bound):
        raise InputError(f'gate: {key} is {text!r}; write a comparison in quotes, e.g. ">= 0.7" or "<= 0.02"')
    return Rule(key=key, op=found[1], bound=bound, strict=strict)


def _named(text: Any, known: Collection[str] | None) -> PropertyRule:
    names = text.split(",") if isinstance(text, str) else text
    names = [name.strip() for name in names] if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else []
    if not names or not all(names):
        raise InputError(f"gate: properties is {text!r}; write all, or the names of properties, e.g. [debt_rises]")
    rule = PropertyRule(names=() if names == [ALL] else tuple(dict.fromkeys(names)))
    if known is not None and not known:
        raise InputError("gate: properties are asked for, and the plan has none; add properties: [...], or leave the rule out")
    for name in rule.names:
        if known is not None and name not in known:
            raise InputError(f"gate: there is no property {name!r}; choose among {', '.join(known)}, or write all")
    return rule


def _properties(rule: PropertyRule, results: Results) -> list[GateLine]:
    lines = results.last.properties if results.last else ()
    there = {line.name: line for line in lines}
    return [_property(name, there.get(name)) for name in rule.names or there] or [_property(ALL, None)]


def _property(name: str, line: PropertyLine | None) -> GateLine:
    rule = PropertyRule(names=(name,)).words()
    if line is None:
        why = "the run has no properties" if name == ALL else f"the run has no property {name}"
        return GateLine(rule=rule, metric=PROPERTIES, value=math.nan, passed=False, verdict=NOT_APPLICABLE, reason=why)
    return GateLine(
        rule=rule,
        metric=PROPERTIES,
        value=worth(line.verdict),
        passed=line.verdict == PROVEN,
        verdict=line.verdict,
        reason=f"{line.claim}; {reason(line)}",
    )


def _judge(rule: Rule, results: Results) -> GateLine:
    phase = results.last
    seen, missing = _look(rule, phase, results) if phase else ([], "no model was audited")
    if missing or not seen:
        return GateLine(rule=rule.words(), metric=rule.key, value=math.nan, passed=False, reason=f"not measured: {missing or 'nothing reports it'}")
    judge = operator.attrgetter("end" if rule.strict else "value")
    unknown = next((s for s in seen if math.isnan(judge(s))), None)
    worst = unknown or (min if rule.upward else max)(seen, key=judge)
    judged = judge(worst)
    if unknown:
        what = "no interval is known" if rule.strict else "the value is not a number"
        return GateLine(rule=rule.words(), metric=rule.key, value=worst.value, passed=False, reason=f"not measured: {what} ({worst.source})")
    reason = worst.source + (f"; strict: the interval's end {judged:.4g} is compared" if rule.strict else "")
    return GateLine(rule=rule.words(), metric=rule.key, value=worst.value, passed=OPERATORS[rule.op](judged, rule.bound), reason=reason)


def _look(rule: Rule, phase: Phase, results: Results) -> tuple[list[_Seen], str]:
    """The values that the rule is about, and why it cannot be judged (empty = it can)."""
    if rule.key in LOSSES:
        return _loss(rule, results)
    if rule.key in CLEAN:
        measure = phase.performance.get(rule.key)
        if measure is None:
            return [], f"the {phase.name} model has no {CLEAN[rule.key].name}"
        return [_Seen(value=measure.value, end=measure.low if rule.upward else measure.high, source=f"{phase.name} model, clean test rows")], ""
    if rule.key.startswith(CERTIFIED):
        return _certified(rule, phase)
    return _attacked(rule, phase)


def _loss(rule: Rule, results: Results) -> tuple[list[_Seen], str]:
    name = LOSSES[rule.key]
    before = results.plain.performance.get(name) if results.plain else None
    after = results.hardened.performance.get(name) if results.hardened else None
    if before is None or after is None:
        return [], f"it needs the {CLEAN[name].name} before and after hardening"
    ends = (before.high - after.low, before.low - after.high)
    value = before.value - after.value
    return [_Seen(value=value, end=min(ends) if rule.upward else max(ends), source="plain minus hardened model, clean test rows")], ""


def _attacked(rule: Rule, phase: Phase) -> tuple[list[_Seen], str]:
    room = METRICS[rule.key].room if rule.key in METRICS else None
    seen: list[_Seen] = []
    for section in phase.sections:
        if room is not None and section.room == room and not section.findings:
            return [], f"no attack finished under the threat {section.threat!r}"
        for finding in _under_threat(section, rule.key):
            end = finding.low if rule.upward else finding.high
            seen.append(_Seen(value=finding.value, end=end, source=f"{finding.method}, {section.threat}, n {finding.n}"))
    return seen, "" if seen else f"no finding of the {phase.name} model reports it"


def _under_threat(section: Section, key: str) -> list[Finding]:
    """The findings of a metric under the section's own threat; those at other strengths are for figures."""
    found = [f for f in section.findings if key_of(f.metric) == key]
    own = [f for f in found if f.headline or f.threat == section.threat]
    return own or found


def _certified(rule: Rule, phase: Phase) -> tuple[list[_Seen], str]:
    key = rule.key.removeprefix(CERTIFIED)
    seen: list[_Seen] = []
    for section in phase.sections:
        measured = _under_threat(section, key)
        proofs = _proofs(section, rule, phase)
        if measured and not proofs:
            return [], f"nothing is certified under the threat {section.threat!r}"
        if proofs:  # one valid proof is enough under one threat; the worst threat counts
            good = METRICS[key].good if key in METRICS else 1
            seen.append((max if good > 0 else min)(proofs, key=lambda s: s.value))
    return seen, "" if seen else f"no certificate of the {phase.name} model is about it"


def _proofs(section: Section, rule: Rule, phase: Phase) -> list[_Seen]:
    key, own = rule.key.removeprefix(CERTIFIED), {section.threat, *(f.threat for f in section.findings if f.headline)}
    found = [_Seen(value=b.certified, end=_sampled(b.certified, b.n, b.finding.good, rule.upward), source=f"bracket, {section.threat}, n {b.n}")
             for b in phase.brackets if key_of(b.metric) == key and b.finding.threat in own]  # fmt: skip
    if found:
        return found
    return [_Seen(value=c.value, end=_sampled(c.value, len(c.holds), 1, rule.upward), source=f"{c.method}, {section.threat}, n {len(c.holds)}")
            for c in section.certificates if key_of(c.metric) == key and c.threat in own and _share(c.metric)]  # fmt: skip


def _share(name: str) -> bool:
    """Whether a certificate's share of rows is the metric's own value (else only a bracket says what is certified)."""
    known = metric_named(name)
    return known is None or known.good > 0


def _sampled(share: float, n: int, good: int, upward: bool) -> float:
    """The worse end of the interval of a certified share of ``n`` rows; an analytic bound has no sampling error."""
    if good < 0 or n == 0 or math.isnan(share):
        return share
    low, high = clopper_pearson(round(share * n), n)
    return low if upward else high
