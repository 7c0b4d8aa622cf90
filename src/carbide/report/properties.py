"""Properties of the plan in plain words: proven, broken by two rows that are shown, unknown with its bound, not applicable with its reason.

>>> line = PropertyLine(name="debt_rises", claim="c", kind="monotone", verdict="broken", row={"debt": 3.0}, changed={"debt": 4.5}, before=0.7, after=0.6)
>>> change(line)
'debt 3 → 4.5: score 0.7 → 0.6'
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from carbide.report.lights import Light
from carbide.report.numerals import number
from carbide.results import BROKEN, PROVEN, UNKNOWN, VERDICTS, PropertyLine, Results, same

FEW = 3  # names in one sentence
LIGHTS = {PROVEN: Light.GREEN, BROKEN: Light.RED}  # of verdicts; what nobody knows is grey


@dataclass(frozen=True, kw_only=True)
class Side:
    """One property of one phase, as the page shows it: ``rows`` are the features that moved, ``rest`` the others, with their values."""

    phase: str
    verdict: str
    light: Light
    words: str
    how: str
    rows: tuple[tuple[str, str, str], ...]
    rest: tuple[tuple[str, str], ...]
    scores: tuple[str, str]
    assumptions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Claimed:
    """One property before and after hardening."""

    anchor: str
    name: str
    claim: str
    light: Light
    verdict: str
    was: str
    words: str
    sides: tuple[Side, ...]


def exact(value: float) -> str:
    """A value with all the digits that tell it from its neighbours.

    >>> exact(3.0), exact(8.499999046325684)
    ('3', '8.499999046325684')
    """
    return "missing" if math.isnan(value) else repr(float(value)).removesuffix(".0")


def scores(line: PropertyLine) -> tuple[str, str]:
    """The scores of the two rows with as many digits as tell them apart."""
    ends = [(f"{line.before:.{digits}g}", f"{line.after:.{digits}g}") for digits in range(4, 18)]
    return next((pair for pair in ends if pair[0] != pair[1]), ends[-1])


def change(line: PropertyLine) -> str:
    """What the two rows of a broken property show, on one line."""
    if not line.row:
        return ""
    moved = ", ".join(f"{name} {exact(line.row[name])} → {exact(line.changed[name])}" for name in line.moved)
    price = f", for {line.currency}{number(line.high)}" if line.kind == "never_flips" else ""
    return f"{moved}: score {' → '.join(scores(line))}{price}"


def bound(line: PropertyLine) -> str:
    """How far from the truth an unknown property can be, in words."""
    if line.kind == "never_flips":
        return f"no flip costs less than {line.currency}{_rounded(line.low, -1)}" if line.low > 0 else "no price is known below which nothing flips"
    return f"the trees' sum falls by at most {_rounded(line.high, 1)}" if math.isfinite(line.high) else "no bound on the fall is known"


def _rounded(value: float, way: int) -> str:
    """Four digits of a bound > 0, rounded to the side on which it still is one."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 3) if 0 < value < math.inf else 1.0
    return f"{(math.ceil if way > 0 else math.floor)(value / unit) * unit:.4g}" if math.isfinite(value) else "any sum"


def reason(line: PropertyLine) -> str:
    """Why a property has its verdict, in a few words: the two rows, the bound, or what is in its way."""
    note = f" ({line.note})" if line.note and line.verdict in (PROVEN, BROKEN) else f"; {line.note}" if line.note else ""
    if line.verdict == BROKEN:
        return f"{change(line)}{note}"
    if line.verdict == PROVEN:
        return f"by {line.how}{note}"
    return f"{bound(line)}{note}" if line.verdict == UNKNOWN else line.note


def light(line: PropertyLine) -> Light:
    """Green where it is proven, red where it is broken, else grey."""
    return LIGHTS.get(line.verdict, Light.GREY)


def sentence(line: PropertyLine) -> str:
    """A property with its verdict and reason, for a terminal."""
    return f"{line.name} {line.verdict}: {line.claim}; {reason(line)}"


def count(lines: Sequence[PropertyLine]) -> str:
    """How many of the properties are proven, and which are not: the end of a sentence, empty where there are none."""
    if not lines:
        return ""
    proven = sum(line.verdict == PROVEN for line in lines)
    if len(lines) == 1:
        return f"the property {lines[0].name} is {lines[0].verdict}"
    some = f"all {len(lines)}" if proven == len(lines) else f"{proven} of {len(lines)}" if proven else f"none of {len(lines)}"
    named = {word: [line.name for line in lines if line.verdict == word] for word in VERDICTS if word != PROVEN}
    rest = "".join(f"; {word}: {_few(names)}" for word, names in named.items() if names)
    return f"{some} properties {'is' if proven < 2 else 'are'} proven{rest}"


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return f"{', '.join(names[:FEW])}{more}"


def last_lines(results: Results) -> tuple[PropertyLine, ...]:
    """The properties of the model that would be used."""
    return results.last.properties if results.last else ()


def worse(results: Results) -> list[str]:
    """Properties that were proven and are no longer once the model is hardened."""
    if results.plain is None or results.hardened is None:
        return []
    pairs = [(line, results.hardened.property_named(line.name)) for line in results.plain.properties]
    return [f"hardening lost the property {before.name}: proven before, {after.verdict} after"
            for before, after in pairs if after is not None and before.verdict == PROVEN and after.verdict != PROVEN]  # fmt: skip


def claimed(results: Results) -> tuple[Claimed, ...]:
    """Every property of the run with its sides, in the plan's order."""
    found = []
    for i, line in enumerate(last_lines(results)):
        sides = [(phase.name, there) for phase in results.phases if (there := phase.property_named(line.name)) is not None]
        was = sides[0][1].verdict if len(sides) > 1 else ""
        found.append(Claimed(anchor=f"property-{i}", name=line.name, claim=line.claim, light=light(line), verdict=line.verdict, was=was,
                             words=reason(line), sides=tuple(_side(name, there) for name, there in sides)))  # fmt: skip
    return tuple(found)


def _side(phase: str, line: PropertyLine) -> Side:
    rows = tuple((name, exact(line.row[name]), exact(line.changed[name])) for name in line.moved)
    rest = tuple((name, exact(line.row[name])) for name in sorted(line.row) if same(line.row[name], line.changed[name]))
    looked = f"{line.boxes:,} boxes" if line.boxes else ""
    price = f"the change costs {line.currency}{number(line.high)}" if rows and line.kind == "never_flips" else ""
    said = "; ".join(part for part in (price, line.note) if part) if rows else line.note if line.verdict == PROVEN else reason(line)
    return Side(phase=phase, verdict=line.verdict, light=light(line), words=said,
                how=", ".join(part for part in (line.how, looked) if part), rows=rows, rest=rest,
                scores=scores(line), assumptions=line.assumptions)  # fmt: skip
