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

from carbide.report.gate import found as gate_found
from carbide.report.lights import Light, light_of
from carbide.report.metrics import EPSILON, key_of, metric_named
from carbide.report.numerals import level, number, of_100, percent, rounded
from carbide.report.properties import count, last_lines
from carbide.report.properties import sentence as property_sentence
from carbide.results import Measure, Option, Pair, Phase, Results, compare
from carbide.types import Finding

ROOMS = {
    "evasion": "Changed inputs",
    "poisoning": "Poisoned training data",
    "privacy": "Leaks about people in the data",
    "extraction": "Copying the model",
}
SHORT_ROOMS = {"evasion": "changed inputs", "poisoning": "poisoned training data", "privacy": "leaks about people", "extraction": "copying the model"}


# The attacker ------------------------------------------------------------------------------------------------------

_ATTACKERS: tuple[tuple[str, str], ...] = (
    (r"feature changes worth at most (.+) a row", r"An attacker who may spend \1"),
    (r"Linf change of at most (\S+)", r"An attacker who may change every value by up to \1"),
    (r"L2 change of at most (\S+)", r"An attacker who may change an input by a distance of up to \1"),
    (r"L1 change of at most (\S+)", r"An attacker whose changes may add up to \1"),
    (r"L0 change of at most (\S+)", r"An attacker who may change any \1 values"),
    (r"one patch on at most (\S+) of an image", r"An attacker who may stick one patch on \1 of an image"),
    (r"an image distorted by (.+)", r"An attacker who may distort an image by \1"),
    (r"common corruptions of severity (\d)(.*)", r"The worst of the common corruptions of severity \1\2"),
    (r"labels of (\S+) of the training rows changed", r"An attacker who may change the labels of \1 of the training rows"),
    (r"a backdoor to class (\S+) in (\S+) of the training rows", r"An attacker who may tamper with \2 of the training rows"),
    (r"telling who was in the training set", r"Someone who wants to know who was in the training data"),
    (r"guessing '(.+)' of people in the training set(.*)", r"Someone who wants to know '\1' of people in the training data\2"),
    (r"rebuilding training rows from the model", r"Someone who has the model and wants to see training data"),
    (r"rebuilding training rows from the model and all other training rows", r"Someone who has the model and all training data but one row"),
    (r"singling out training rows(.*)", r"Someone who wants to describe exactly one training row\1"),
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
    "targeted_robust_accuracy": lambda share, rows: f"gets the answer that they want on {share} inputs",
    "attack_success_rate": lambda share, rows: f"can later make the model give the answer they want on {share} inputs",
    "accuracy_after_poisoning": lambda share, rows: f"leaves the model wrong on {share} inputs",
    "recall_after_poisoning": lambda share, rows: f"makes the model miss {share} {rows}",
    "membership_tpr_at_1pct": lambda share, rows: f"recognises {share} members, at the price of wrongly naming 1 of 100 outsiders",
    "membership_tpr_at_0_1pct": lambda share, rows: f"recognises {share} members, at the price of wrongly naming 1 of 1,000 outsiders",
    "membership_auc": lambda share, rows: f"tells a member from an outsider {share} times",
    "attribute_leak": lambda share, rows: f"is right about {share} more of those trained on than of others",
    "attribute_gain": lambda share, rows: f"is right about {share} more than without the model",
    "rows_reconstructed": lambda share, rows: f"rebuilds {share} rows more closely than any other row is",
    "reconstruction_auc": lambda share, rows: f"rebuilds what is nearer to training data than to other data {share} times",
    "rows_singled_out": lambda share, rows: f"succeeds with {share} predicates",
    "singling_out_gain": lambda share, rows: f"succeeds with {share} predicates more than by chance",
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
    if finding.metric == EPSILON:
        return f"shows an epsilon of at least {number(finding.value)}; accounted: {number(finding.high)}"
    if got is None or key not in _EFFECTS:
        return f"brings the {finding.metric} to {number(finding.value)}"
    return _EFFECTS[key](of_100(got.value), positives(results))


def positives(results: Results) -> str:
    """What rows of class 1 are called."""
    names = results.data.classes
    return results.data.positives or (f"rows of class {names[1]!r}" if len(names) > 1 else "rows of class 1")


def sentence(before: Finding | None, after: Finding | None, results: Results, *, reason: str = "") -> str:
    """One sentence about one threat, before and after hardening; ``reason`` says why the missing one is missing."""
    first, why = before or after, f" ({reason.rstrip('.')})" if reason else ""
    if first is None:
        return f"Nothing is known{why}."
    said = f"{attacker(first.threat)} {effect(first, results)}"
    if before is None:
        return f"{said} after hardening; before it, nothing was measured{why}."
    if after is None:
        return f"{said}; after hardening: not measured{why}." if results.hardened else f"{said}."
    there = harm(after)
    return f"{said}; after hardening {of_100(there.value) if there else number(after.value)}."


def detail(before: Finding | None, after: Finding | None, results: Results) -> str:
    """How sure the numbers are and what to compare them with, in one line; empty if there are none."""
    if before is None and after is None:
        return ""
    sides = [(f, h) for f, h in ((before, _harm(before, results.plain)), (after, _harm(after, results.hardened))) if f is not None]
    parts = []
    ranges = [f"{_short(h.low)} to {_short(h.high)}" for _, h in sides if h is not None and not math.isnan(h.low) and not math.isnan(h.high)]
    if ranges:
        parts.append(f"{level(sides[0][0].confidence)} sure: {', then '.join(ranges)} of 100")
    known = [h for _, h in sides if h is not None and not math.isnan(h.baseline)]
    if known:
        parts.append(f"{known[-1].baseline_words} {_short(known[-1].baseline)}")
    counts = dict.fromkeys(f"{f.n:,}" for f, _ in sides)
    return "; ".join([*parts, f"measured on {' and '.join(counts)} rows"])


def _harm(finding: Finding | None, phase: Phase | None) -> Harm | None:
    return harm(finding, phase) if finding is not None else None


def _short(share: float) -> str:
    return f"{100 * share:.1f}" if 0 < share < 0.1 else str(rounded(share))


# Lines of the first screen -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """One threat on the first screen."""

    room: str
    title: str
    words: str
    detail: str
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
    words = sentence(before, after, results, reason=_reason(pair)) if before or after else _nothing(pair)
    return Line(room=pair.room, title=ROOMS.get(pair.room, pair.room), words=words, detail=detail(before, after, results), light=light,
                before=_harm(before, results.plain), after=_harm(after, results.hardened),
                command=command, hint=hint, anchor=f"threat-{number_}", metric=last.metric if last else "")  # fmt: skip


def _nothing(pair: Pair) -> str:
    proofs = [c for section in pair.sections[-1:] for c in section.certificates if c.failure_probability == 0 and len(c.holds)]
    proven = ""
    if proofs:
        best = max(proofs, key=lambda c: c.value)
        proven = f"; {best.method} proves that {int(best.holds.sum())} of {len(best.holds)} inputs stand whatever the attack"
    return f"{attacker(pair.threat).rstrip(',')}: not measured ({_reason(pair) or 'no attack could run'}){proven}."


def _reason(pair: Pair) -> str:
    """Why the last side that measured nothing did not."""
    reasons = [s.reason for section in pair.sections if not section.findings for s in section.skipped]
    return reasons[-1].rstrip(".") if reasons else ""


_HARDER = {
    "poisoning": "after checking who supplies the training rows, or allowing a larger accuracy_loss in the plan",
    "extraction": "limit who may ask and how often",
}
_ALLOW = "after allowing a larger accuracy_loss under harden: in the plan"


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
    return f"carbide harden {run}/plan.yaml", _HARDER.get(room, _ALLOW)


def verdict(results: Results) -> str:
    """The whole run in one sentence: how many attacks are held off, and which are not; how many properties are proven, and which are not."""
    found, properties = lines(results), count(last_lines(results))
    start = "After hardening" if results.hardened else "As it is"
    if not found:
        return f"{start}, {properties}." if properties else "No threat was tested."
    held = sum(line.light is Light.GREEN for line in found)
    if len(found) == 1:
        first = f"the attack is {'' if held else 'not '}held off"
    else:
        some = f"all {len(found)}" if held == len(found) else f"{held} of {len(found)}" if held else f"none of {len(found)}"
        first = f"{some} attacks {'is' if held < 2 else 'are'} held off"
    rest = [f"; {_STATE[light]}: {_join([SHORT_ROOMS.get(r, r) for r in rooms])}" for light, rooms in _not_held(found).items()]
    return f"{start}, {first}{''.join(rest)}." + (f" {properties[0].upper()}{properties[1:]}." if properties else "")


_STATE = {Light.RED: "at risk", Light.AMBER: "only in part", Light.GREY: "not measured", Light.NONE: "measured, without a rule"}


def _not_held(found: Sequence[Line]) -> dict[Light, list[str]]:
    rooms: dict[Light, list[str]] = {}
    for light in _STATE:
        for line in found:
            if line.light is light and line.room not in rooms.get(light, []):
                rooms.setdefault(light, []).append(line.room)
    return rooms


def _join(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


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
    against = f" against {option.threat}" if option.threat else ""
    settings = settings_words(option.settings)
    if option.kind == "baseline" and not settings:
        others = f": none of {tried - 1} other options was safer within the allowed loss" if tried > 1 else ""
        return f"Nothing was changed{against}{others}."
    where = "on halves of the train and validation rows" if option.lost is not None else "on validation rows"
    best = f"; of {tried} options it was the safest {where} within the allowed loss" if tried > 1 else ""
    note = f" It carries {option.note}." if option.note else ""
    return f"The model was trained with {spoken(option.name)}{f' ({settings})' if settings else ''}{against}{best}.{note}"


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
    found += [f"  {words}" for words in epsilons(results)]
    found += [f"  property {property_sentence(line)}" for line in last_lines(results)]
    found += [f"  done: {words}" for words in done(results)] if results.hardened else []
    cost = [f"{metric.replace('_', ' ')} {percent(m.value)}" + (f" -> {percent(after.value)}" if after else "")
            for metric, m, after in _kept(results)]  # fmt: skip
    found += [f"  clean: {', '.join(cost)}"] if cost else []
    found += [f"  gate: {'passed' if g.passed else 'FAILED'} {g.rule} ({gate_found(g)})" for g in results.gate]
    found += [f"  warning: {words}" for words in results.warnings]
    return found + [f"  not tested: {words}" for words in results.not_tested]


def epsilons(results: Results) -> list[str]:
    """The bracket of every claimed epsilon on one line, with the method that found most."""
    brackets = [b for phase in results.phases for b in phase.brackets if b.metric == EPSILON]
    return list(dict.fromkeys(f"{spoken(b.finding.method)}: {b.finding.note}" for b in brackets))


def _kept(results: Results) -> list[tuple[str, Measure, Measure | None]]:
    first = results.plain or results.last
    if first is None:
        return []
    after = results.hardened.performance if results.hardened and results.plain else {}
    return [(name, m, after.get(name)) for name, m in first.performance.items() if not math.isnan(m.value)]


def glossary(names: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The metrics of a run with what they mean."""
    known = ((name, metric_named(name)) for name in dict.fromkeys(names))
    return tuple((name, metric.meaning) for name, metric in known if metric is not None)
