"""Plain words for what was measured: attackers as people, numbers as "x of 100", no jargon.

>>> attacker("labels of 1.00% of the training rows changed")
'An attacker who may change the labels of 1% of the training rows'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from carbide.report.lights import Light, light_of
from carbide.report.metrics import METRICS, key_of, metric_named
from carbide.report.numerals import number, of_100, percent, rounded
from carbide.results import Measure, Option, Pair, Phase, Results, compare
from carbide.types import Finding, Section

ROOMS = {
    "evasion": "Changed inputs",
    "poisoning": "Poisoned training data",
    "privacy": "Leaks about people in the data",
    "extraction": "Copying the model",
}
SHORT_ROOMS = {"evasion": "evasion", "poisoning": "poisoning", "privacy": "membership privacy", "extraction": "extraction"}


# The attacker ------------------------------------------------------------------------------------------------------

_ATTACKERS: tuple[tuple[str, str], ...] = (
    (r"feature changes worth at most (\S+) a row", r"An attacker who may spend \1"),
    (r"Linf change of at most (\S+)", r"An attacker who may change every value by up to \1"),
    (r"L2 change of at most (\S+)", r"An attacker who may change an input by a distance of up to \1"),
    (r"L1 change of at most (\S+)", r"An attacker whose changes may add up to \1"),
    (r"L0 change of at most (\S+)", r"An attacker who may change any \1 values"),
    (r"labels of (\S+) of the training rows changed", r"An attacker who may change the labels of \1 of the training rows"),
    (r"a backdoor to class (\S+) in (\S+) of the training rows", r"An attacker who may tamper with \2 of the training rows"),
    (r"telling who was in the training set", r"Someone who wants to know who was in the training data"),
    (r"copying the model with (\S+) queries answered by (\S+)", r"A thief who may ask \1 questions, answered with \2,"),
)


def attacker(threat: str) -> str:
    """Who a threat is about, as the start of a sentence.

    >>> attacker("feature changes worth at most $50 a row")
    'An attacker who may spend $50'
    """
    for pattern, words in _ATTACKERS:
        found = re.fullmatch(pattern, threat)
        if found:
            return re.sub(r"\b(\d+)\.0+%", r"\1%", _thousands(found.expand(words)))
    return f"An attacker ({threat})"


def _thousands(text: str) -> str:
    return re.sub(r"(?<![\d.])\d{4,}(?![\d.])", lambda m: f"{int(m[0]):,}", text)


# What the attacker gets --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What an attacker gets as a share (bigger = worse), with its interval, and what a guesser or no attack gives (nan = nothing)."""

    value: float
    low: float
    high: float
    baseline: float = math.nan
    baseline_words: str = ""


_EFFECTS: Mapping[str, Callable[[str, str], str]] = {
    "robust_recall": lambda share, rows: f"gets {share} {rows} past the model",
    "robust_accuracy": lambda share, rows: f"makes the model wrong on {share} inputs",
    "attack_success_rate": lambda share, rows: f"can later make the model give the answer they want on {share} inputs",
    "accuracy_after_poisoning": lambda share, rows: f"leaves the model wrong on {share} inputs",
    "membership_tpr_at_1pct": lambda share, rows: f"recognises {share} members, at the price of wrongly naming 1 of 100 outsiders",
    "membership_tpr_at_0_1pct": lambda share, rows: f"recognises {share} members, at the price of wrongly naming 1 of 1,000 outsiders",
    "membership_auc": lambda share, rows: f"tells a member from an outsider {share} times",
    "fidelity": lambda share, rows: f"gets a copy that answers like the model on {share} inputs",
    "thief_accuracy": lambda share, rows: f"gets a copy that is right on {share} inputs",
}


def harm(finding: Finding, phase: Phase | None = None) -> Harm | None:
    """The finding as what the attacker gets; None for a metric that is no known share."""
    metric = metric_named(finding.metric)
    if metric is None:
        return None
    clean = phase.performance.get(metric.clean) if phase and metric.clean else None
    base, said = metric.chance, "by guessing" if not math.isnan(metric.chance) else ""
    if clean is not None and metric.good > 0:
        base, said = 1 - clean.value, "without any attack"
    if metric.good > 0:
        return Harm(value=1 - finding.value, low=1 - finding.high, high=1 - finding.low, baseline=base, baseline_words=said)
    return Harm(value=finding.value, low=finding.low, high=finding.high, baseline=base, baseline_words=said)


def effect(finding: Finding, results: Results) -> str:
    """What the attacker achieves, as the rest of a sentence."""
    got, key = harm(finding), key_of(finding.metric)
    if got is None or key not in _EFFECTS:
        return f"brings the {finding.metric} to {number(finding.value)}"
    return _EFFECTS[key](of_100(got.value), positives(results))


def positives(results: Results) -> str:
    """What rows of class 1 are called."""
    names = results.data.classes
    return results.data.positives or (f"rows of class {names[1]!r}" if len(names) > 1 else "rows of class 1")


def sentence(before: Finding | None, after: Finding | None, results: Results) -> str:
    """One sentence about one threat, before and after hardening."""
    first = before or after
    if first is None:
        return "Nothing is known: no attack could run."
    said = f"{attacker(first.threat)} {effect(first, results)}"
    if before is None:
        return said + " after hardening; before it, nothing was measured."
    if after is None:
        return said + ("; after hardening: not measured." if results.hardened else ".")
    there = harm(after)
    return f"{said}; after hardening {of_100(there.value) if there else number(after.value)}."


def detail(finding: Finding, phase: Phase | None = None) -> str:
    """How sure the number is and what it is to be compared with, in one line."""
    got = harm(finding, phase)
    parts = []
    if got is not None and not math.isnan(got.low) and not math.isnan(got.high):
        sure = f"{finding.confidence:.0%}".replace(".0", "")
        parts.append(f"{sure} sure: between {_short(got.low)} and {_short(got.high)} of 100")
    if got is not None and not math.isnan(got.baseline):
        parts.append(f"{got.baseline_words}: {_short(got.baseline)} of 100")
    parts.append(f"measured on {finding.n:,} rows")
    return "; ".join(parts)


def _short(share: float) -> str:
    return f"{100 * share:.1f}" if 0 < share < 0.1 else str(rounded(share))


# Lines of the first screen -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """One threat on the first screen."""

    room: str
    title: str
    words: str
    details: tuple[str, ...]
    light: Light
    before: Harm | None
    after: Harm | None
    command: str
    hint: str
    anchor: str
    metric: str


def lines(results: Results, run: str = "RUN") -> tuple[Line, ...]:
    """The threats with their lights, worst first within the order of the audit left as it is."""
    return tuple(_line(i, pair, results, run) for i, pair in enumerate(compare(results.plain, results.hardened)))


def _line(number_: int, pair: Pair, results: Results, run: str) -> Line:
    before = pair.before.headline() if pair.before else None
    after = pair.after.headline() if pair.after else None
    last = after if results.hardened else before
    light = light_of(last, results.last, results.gate)
    command, hint = next_command(pair.room, light, hardened=results.hardened is not None, run=run)
    words = sentence(before, after, results) if before or after else _nothing(pair)
    said = [(name, f, p) for name, f, p in (("before", before, results.plain), ("after", after, results.hardened)) if f is not None]
    details = tuple((f"{name}: " if len(said) > 1 else "") + detail(f, p) for name, f, p in said)
    return Line(room=pair.room, title=ROOMS.get(pair.room, pair.room), words=words, details=details, light=light,
                before=harm(before, results.plain) if before else None, after=harm(after, results.hardened) if after else None,
                command=command, hint=hint, anchor=f"threat-{number_}", metric=last.metric if last else "")  # fmt: skip


def _nothing(pair: Pair) -> str:
    reasons = [s.reason for section in pair.sections for s in section.skipped]
    return f"{attacker(pair.threat).rstrip(',')}: not measured, {reasons[-1].rstrip('.') if reasons else 'no attack could run'}."


_HARDER = {
    "evasion": "allow a larger accuracy_loss under harden: in the plan, or keep the most exposed fields out of the model",
    "poisoning": "check who supplies the training rows, or allow a larger accuracy_loss under harden: in the plan",
    "privacy": "allow a larger accuracy_loss under harden: in the plan; the options below show what it buys",
    "extraction": "limit who may ask and how often",
}


def next_command(room: str, light: Light, *, hardened: bool, run: str = "RUN") -> tuple[str, str]:
    """What to type next for a threat with this light, and why; empty for a green one."""
    if light in (Light.GREEN, Light.NONE):
        return "", ""
    if light is Light.GREY:
        return f"carbide audit {run}/plan.yaml", "after mending what the reason names"
    if not hardened:
        return f"carbide harden {run}/plan.yaml", "train a model that withstands this, within the loss that you allow"
    if room == "extraction":
        return f"carbide guard serve {run}", _HARDER[room]
    return f"carbide harden {run}/plan.yaml", _HARDER.get(room, "allow a larger accuracy_loss under harden: in the plan")


def verdict(results: Results) -> str:
    """The whole run in one sentence."""
    found = [line.light for line in lines(results)]
    if not found:
        return "No threat was tested."
    start = "After hardening, " if results.hardened else "As it is, "
    return start + count_words(found, one="attack") + "."


def count_words(lights: Sequence[Light], *, one: str) -> str:
    """Counts in words, e.g. "2 attacks are held, 1 is at risk"."""
    said = {
        Light.GREEN: "held off",
        Light.AMBER: "held off in part",
        Light.RED: "not held off",
        Light.GREY: "not measured",
        Light.NONE: "measured without a rule",
    }
    parts = []
    for light, words in said.items():
        k = sum(found is light for found in lights)
        if k:
            noun = (one if k == 1 else one + "s") + " " if not parts else ""
            parts.append(f"{k} {noun}{'is' if k == 1 else 'are'} {words}")
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


# What was done and what it cost ------------------------------------------------------------------------------------


def spoken(name: str) -> str:
    """A method's name as words.

    >>> spoken("adversarial_training")
    'adversarial training'
    """
    return name.replace("_", " ")


def settings_words(settings: Mapping[str, Any]) -> str:
    """Settings in a row, e.g. "eps 0.15, epochs 20"."""
    return ", ".join(f"{spoken(k)} {_value(v)}" for k, v in settings.items() if v is not None and v != ())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    if isinstance(value, Mapping):
        return "(" + settings_words(value) + ")"
    return ", ".join(map(_value, value)) if isinstance(value, list | tuple) else str(value)


def done(results: Results) -> tuple[str, ...]:
    """What hardening did, one sentence a threat."""
    if results.hardened is None:
        return ("Nothing yet: this run only measured the model as it is.",)
    return tuple(_done(option, results) for option in results.chosen) or ("Hardening kept the model as it is.",)


def _done(option: Option, results: Results) -> str:
    tried = sum(o.threat == option.threat for o in results.options)
    against = f"Against {option.threat}: " if option.threat else ""
    settings = settings_words(option.settings)
    body = f"{spoken(option.name)}{f' ({settings})' if settings else ''}"
    if option.kind == "baseline" and not settings:
        return f"{against}the model stays as it is; none of {tried - 1} other options was safer within the allowed loss."
    note = f" It carries {option.note}." if option.note else ""
    return f"{against}{body}, the best of {tried} options on validation rows.{note}"


def change(before: Measure | None, after: Measure | None) -> str:
    """How a clean number changed, in points."""
    if before is None or after is None or math.isnan(before.value) or math.isnan(after.value):
        return ""
    points = round(100 * (after.value - before.value), 1)
    return "no change" if points == 0 else f"{points:+.1f} points".replace("-", "−")


def summary(results: Results) -> list[str]:
    """The run in a few lines for a terminal."""
    found = [f"{results.title}: {verdict(results)}"]
    found += [f"  [{line.light.value}] {line.words}" for line in lines(results)]
    found += [f"  done: {words}" for words in done(results)] if results.hardened else []
    cost = [f"{metric.replace('_', ' ')} {percent(m.value)}" + (f" -> {percent(after.value)}" if after else "")
            for metric, m, after in _kept(results)]  # fmt: skip
    found += [f"  clean: {', '.join(cost)}"] if cost else []
    found += [f"  gate: {'passed' if g.passed else 'FAILED'} {g.rule} (measured {number(g.value)})" for g in results.gate]
    found += [f"  warning: {words}" for words in results.warnings]
    return found + [f"  not tested: {words}" for words in results.not_tested]


def _kept(results: Results) -> list[tuple[str, Measure, Measure | None]]:
    first = results.plain or results.last
    if first is None:
        return []
    after = results.hardened.performance if results.hardened and results.plain else {}
    return [(name, m, after.get(name)) for name, m in first.performance.items() if not math.isnan(m.value)]


def proof_words(section: Section) -> list[str]:
    """The certificates of a section, one line each: the claim, for how many rows, how sure."""
    found = []
    for c in section.certificates:
        sure = "always" if c.failure_probability == 0 else f"except with probability at most {c.failure_probability:g}"
        found.append(f"{c.claim}: proven for {int(c.holds.sum())} of {len(c.holds)} rows, {sure}")
    return found


def known_metrics() -> tuple[str, ...]:
    """The names of the metrics that have sentences of their own."""
    return tuple(METRICS[key].name for key in _EFFECTS)
