"""What a run says, as one frozen value: the verbs fill ``Results``, the report renders it.

A run has phases (the plain model, then the hardened one), each with one ``Section`` a threat. Everything that two runs
on the same inputs share is in ``Results``; seconds and machines are in ``Timings``, because they never repeat.

>>> measure = Measure(metric="accuracy", value=0.9, low=0.8, high=0.95, n=50)
>>> measure.value
0.9
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from carbide.types import Bracket, Finding, InputError, Section

PLAIN, HARDENED = "plain", "hardened"
PROVEN, BROKEN, UNKNOWN, NOT_APPLICABLE = "proven", "broken", "unknown", "not applicable"
VERDICTS = (PROVEN, BROKEN, UNKNOWN, NOT_APPLICABLE)


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number on clean data with its interval (nan = none) over ``n`` rows; ``good`` as in ``Finding``."""

    metric: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    good: int = 1


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a model costs to keep: ``size_bytes`` as stored. Latency and training time are in ``Timings``."""

    size_bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class PropertyLine:
    """What is known of one property of the plan for one model: does it hold on every row that the property is about?

    ``verdict`` is ``proven``, ``broken`` (``row`` and ``changed`` show it, feature by feature, with the scores ``before`` and ``after``),
    ``unknown`` or ``not applicable`` (``note`` says why). ``low`` and ``high`` bracket, for a ``monotone`` one, the largest fall of the trees'
    sum; for ``never_flips``, the least price of a flip in ``currency``. ``boxes`` were looked at. ``evidence`` is what ``verify`` needs.
    """

    name: str
    claim: str
    kind: str
    verdict: str
    how: str = ""
    low: float = math.nan
    high: float = math.nan
    row: Mapping[str, float] = field(default_factory=dict)
    changed: Mapping[str, float] = field(default_factory=dict)
    before: float = math.nan
    after: float = math.nan
    currency: str = ""
    boxes: int = 0
    note: str = ""
    assumptions: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise InputError(f"property verdict is {self.verdict!r}; choose {', '.join(VERDICTS)}")
        if self.row.keys() != self.changed.keys():
            raise InputError(f"property {self.name}: its two rows have other features; give both the same")

    @property
    def moved(self) -> tuple[str, ...]:
        """The features that differ between the two rows, by name."""
        return tuple(name for name in sorted(self.row) if not same(self.row[name], self.changed[name]))


def worth(verdict: str) -> float:
    """A property's verdict as a number: 1 where it is proven, 0 where it is broken, nan where nobody knows."""
    return {PROVEN: 1.0, BROKEN: 0.0}.get(verdict, math.nan)


def same(a: float, b: float) -> bool:
    """Whether two values are the same one; a missing value is the same as another."""
    return a == b or (math.isnan(a) and math.isnan(b))


@dataclass(frozen=True, kw_only=True, eq=False)
class Phase:
    """One audited model: ``name`` is ``plain`` or ``hardened``, ``model`` says in words what it is.

    ``performance`` holds what is known of ``accuracy``, ``worst_class``, ``recall`` and ``false_positive_rate`` on the
    test rows, by these names. ``threshold`` is where a binary model decides (nan for more than two classes). ``properties`` are those
    of the plan, in its order. ``answers`` are what ``verify`` needs to count the performance again.
    """

    name: str
    model: str
    sections: tuple[Section, ...]
    performance: Mapping[str, Measure]
    cost: Cost
    brackets: tuple[Bracket, ...] = ()
    threshold: float = math.nan
    properties: tuple[PropertyLine, ...] = ()
    answers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in (PLAIN, HARDENED):
            raise InputError(f"phase name is {self.name!r}; choose {PLAIN} or {HARDENED}")

    def section(self, room: str, threat: str) -> Section | None:
        """The section about this threat, or None."""
        return next((s for s in self.sections if (s.room, s.threat) == (room, threat)), None)

    def property_named(self, name: str) -> PropertyLine | None:
        """The property of that name, or None."""
        return next((line for line in self.properties if line.name == name), None)


@dataclass(frozen=True, kw_only=True, eq=False)
class Option:
    """What harden tried on validation rows: ``clean`` is what the user keeps, ``danger`` how far an attacker gets.

    On a front of leakage against accuracy ``clean`` is the mean over models trained on halves, on the rows left out, and ``lost``
    how much less that is than as it is, with its interval over rows; elsewhere ``lost`` is None.
    ``kind`` is ``candidate`` (harden could choose it) or ``baseline`` (a cheap rival, never chosen, always shown).
    """

    name: str
    method: str
    clean: Measure
    danger: Measure
    settings: Mapping[str, Any] = field(default_factory=dict)
    chosen: bool = False
    note: str = ""
    kind: str = "candidate"
    threat: str = ""
    lost: Measure | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("candidate", "baseline"):
            raise InputError(f"option kind is {self.kind!r}; choose candidate or baseline")


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """One rule of the gate and how it went; a metric that was not measured has value nan and never passes.

    A property has a ``verdict`` instead, and value 1 where it is proven, 0 where it is broken and nan where nobody knows.
    """

    rule: str
    metric: str
    value: float
    passed: bool
    reason: str = ""
    verdict: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class DataFacts:
    """The data in a few facts: ``rows`` a part (train, validation, test), class names, what a row of class 1 is called.

    ``positives`` is a plural such as ``frauds``; empty = the report speaks of rows of the named class.
    """

    name: str
    rows: Mapping[str, int]
    classes: tuple[str, ...] = ()
    features: int = 0
    positives: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """A whole run. ``plan`` is the plan as resolved (plain values), ``versions`` the packages by name."""

    title: str
    plan: Mapping[str, Any]
    seed: int
    versions: Mapping[str, str]
    data: DataFacts
    phases: tuple[Phase, ...]
    options: tuple[Option, ...] = ()
    not_tested: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    gate: tuple[GateLine, ...] = ()
    next_steps: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [p.name for p in self.phases]
        if len(set(names)) != len(names):
            raise InputError(f"phases are {', '.join(names)}; give each phase once")

    def phase(self, name: str) -> Phase | None:
        """The phase of that name, or None."""
        return next((p for p in self.phases if p.name == name), None)

    @property
    def plain(self) -> Phase | None:
        """The model as it came."""
        return self.phase(PLAIN)

    @property
    def hardened(self) -> Phase | None:
        """The model that harden chose, None for a run that only audits."""
        return self.phase(HARDENED)

    @property
    def last(self) -> Phase | None:
        """The model that would be used: the hardened one if there is one. Gates judge this phase."""
        return self.hardened or self.plain

    @property
    def chosen(self) -> tuple[Option, ...]:
        """The options that harden chose."""
        return tuple(o for o in self.options if o.chosen)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds to answer one row: the median and the 99th percentile."""

    p50: float
    p99: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Timings:
    """Everything about a run that never repeats exactly; ``latency`` and ``training`` (seconds) are by phase name."""

    steps: Mapping[str, float] = field(default_factory=dict)
    latency: Mapping[str, Latency] = field(default_factory=dict)
    training: Mapping[str, float] = field(default_factory=dict)
    machine: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """The same threat before and after hardening; either side is None where it was not audited."""

    room: str
    threat: str
    before: Section | None
    after: Section | None

    @property
    def sections(self) -> tuple[Section, ...]:
        """The sides that exist."""
        return tuple(s for s in (self.before, self.after) if s is not None)

    def rows(self) -> tuple[tuple[Finding | None, Finding | None], ...]:
        """The findings side by side: those with the same metric, method, threat and access share a row."""
        return match_findings(self.before.findings if self.before else (), self.after.findings if self.after else ())


def compare(plain: Phase | None, hardened: Phase | None) -> tuple[Pair, ...]:
    """The sections of two phases side by side, in the order in which they were audited."""
    keys: dict[tuple[str, str], None] = {}
    for phase in (plain, hardened):
        keys.update({(s.room, s.threat): None for s in (phase.sections if phase else ())})
    return tuple(Pair(room=room, threat=threat, before=plain.section(room, threat) if plain else None,
                      after=hardened.section(room, threat) if hardened else None) for room, threat in keys)  # fmt: skip


def match_findings(before: Iterable[Finding], after: Iterable[Finding]) -> tuple[tuple[Finding | None, Finding | None], ...]:
    """Pairs of findings about the same quantity by the same method; what one side lacks is None."""
    waiting = _by_key(after)
    rows: list[tuple[Finding | None, Finding | None]] = []
    for finding in before:
        same = waiting.get(_key(finding), [])
        rows.append((finding, same.pop(0) if same else None))
    rows.extend((None, finding) for rest in waiting.values() for finding in rest)
    return tuple(rows)


def _key(finding: Finding) -> tuple[str, str, str, str]:
    return finding.metric, finding.method, finding.threat, finding.access


def _by_key(findings: Iterable[Finding]) -> dict[tuple[str, str, str, str], list[Finding]]:
    found: dict[tuple[str, str, str, str], list[Finding]] = {}
    for finding in findings:
        found.setdefault(_key(finding), []).append(finding)
    return found
