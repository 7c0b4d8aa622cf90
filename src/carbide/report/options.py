"""What hardening tried, as a picture and a table: safety against what the user keeps, cheap baselines included."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from carbide.report import svg
from carbide.report.lights import allowance
from carbide.report.numerals import number, percent
from carbide.report.svg import FAINT, Scale
from carbide.report.words import settings_words, spoken
from carbide.results import Measure, Option, Results

ON_HALVES = ("Each option was trained many times on halves of the train and validation rows, and attacked by one who trains models with the same option; "
             "{clean} is that on the rows left out, lost are its points against the recipe as it is on the same halves. At most {points} may be lost.")  # fmt: skip
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 480.0, 320.0, 46.0, 22.0, 54.0, 48.0


@dataclass(frozen=True, kw_only=True)
class Row:
    """One option in the table; ``number`` is also its label in the picture."""

    number: int
    name: str
    settings: str
    clean: str
    lost: str
    danger: str
    note: str
    kind: str
    chosen: bool
    best: bool


@dataclass(frozen=True, kw_only=True)
class Table:
    """The options against one threat: the names of its two numbers, its rows, its picture, and how the numbers were come by.

    ``front`` says that these are points of a front, which have what each lost beside what it kept.
    """

    threat: str
    clean: str
    danger: str
    safer: str
    rows: tuple[Row, ...]
    picture: str
    front: bool
    how: str


def tables(results: Results) -> tuple[Table, ...]:
    """One table a threat, in the order of hardening."""
    threats = dict.fromkeys(o.threat for o in results.options)
    return tuple(_table(threat, [o for o in results.options if o.threat == threat], allowance(results)) for threat in threats)


def _table(threat: str, options: Sequence[Option], allowed: float) -> Table:
    first = next((o.danger for o in options if not math.isnan(o.danger.value)), options[0].danger)
    front = {i for i, o in enumerate(options) if _undominated(o, options)}
    rows = tuple(Row(number=i + 1, name=spoken(o.name), settings=settings_words(o.settings), clean=percent(o.clean.value), lost=_lost(o.lost), danger=_danger(o.danger),
                     note=o.note, kind=o.kind, chosen=o.chosen, best=i in front) for i, o in enumerate(options))  # fmt: skip
    clean = options[0].clean.metric.replace("_", " ")
    points = any(o.lost is not None for o in options)
    drawn = draw(options, clean=clean, danger=first, allowed=allowed if points else None) if sum(_known(o) for o in options) > 1 else ""
    safer = "higher is safer" if first.good > 0 else "lower is safer"
    how = ON_HALVES.format(clean=clean, points=f"{100 * allowed:g}") if points else ""
    return Table(threat=threat, clean=clean, danger=first.metric, safer=safer, rows=rows, picture=drawn, front=points, how=how)


def _lost(m: Measure | None) -> str:
    """Points lost with the interval; a gain has a minus."""
    if m is None:
        return ""
    return f"{100 * m.value:.1f} [{100 * m.low:.1f}, {100 * m.high:.1f}]".replace("-", "−")


def _danger(m: Measure) -> str:
    between = "" if math.isnan(m.low) or math.isnan(m.high) else f" [{number(m.low)}, {number(m.high)}]"
    return number(m.value) + between


def _known(o: Option) -> bool:
    return not math.isnan(o.clean.value) and not math.isnan(o.danger.value)


def _undominated(o: Option, options: Sequence[Option]) -> bool:
    """Whether no other option keeps at least as much and is at least as safe, and better in one."""
    if not _known(o):
        return False
    here = (o.clean.value, o.danger.good * o.danger.value)
    others = [(p.clean.value, p.danger.good * p.danger.value) for p in options if p is not o and _known(p)]
    return not any(c >= here[0] and d >= here[1] and (c, d) != here for c, d in others)


def draw(options: Sequence[Option], *, clean: str, danger: Measure, allowed: float | None = None) -> str:
    """The options as numbered points; the line joins those that no other option beats in both numbers.

    With ``allowed`` they are points of a front, and an upright line shows where the allowed loss ends.
    """
    known = [(i + 1, o) for i, o in enumerate(options) if _known(o)]
    ends = [o.clean.value for _, o in known]
    floor = None if allowed is None else options[0].clean.value - allowed
    x = _scale(ends if floor is None else [*ends, floor], start=LEFT, stop=WIDTH - RIGHT)
    ends = [v for _, o in known for v in (o.danger.low, o.danger.high, o.danger.value) if not math.isnan(v)]
    y = _scale(ends, start=HEIGHT - BOTTOM, stop=TOP)
    body = [_frame(x, y, clean=f"{clean} kept on {'rows left out' if allowed is not None else 'validation rows'}", danger=danger)]
    if floor is not None:
        body += [
            svg.line(x.at(floor), y.start, x.at(floor), y.stop, colour=FAINT),
            svg.text(x.at(floor) + 4, y.stop + 10, "allowed →", colour=FAINT, size=11),
        ]
    best = sorted((o for _, o in known if _undominated(o, options)), key=lambda o: (o.clean.value, o.danger.value))
    if len(best) > 1:
        body.append(svg.path([(x.at(o.clean.value), y.at(o.danger.value)) for o in best], colour=FAINT, width=1.2, dash="3 3"))
    body += [_point(k, o, x, y) for k, o in known]
    words = "; ".join(f"{k} {spoken(o.name)}: {clean} {percent(o.clean.value)}, {danger.metric} {number(o.danger.value)}" for k, o in known)
    return svg.picture(WIDTH, HEIGHT, _legend() + "".join(body), title="Options", description=words)


def _scale(values: Sequence[float], *, start: float, stop: float) -> Scale:
    low, high = min(values), max(values)
    room = 0.1 * (high - low) or 0.05
    low, high = low - room, high + room
    if min(values) >= 0:
        low = max(low, 0.0)
    return Scale(low=low, high=min(high, 1.0) if max(values) <= 1 else high, start=start, stop=stop)


def _frame(x: Scale, y: Scale, *, clean: str, danger: Measure) -> str:
    body = []
    for value in y.ticks(5):
        body += [
            svg.line(LEFT, y.at(value), WIDTH - RIGHT, y.at(value)),
            svg.text(LEFT - 8, y.at(value) + 4, svg.tick_text(value, share=True), anchor="end", colour=FAINT),
        ]
    for value in x.ticks(5):
        body += [
            svg.line(x.at(value), y.start, x.at(value), y.start + 4, colour=FAINT),
            svg.text(x.at(value), y.start + 18, svg.tick_text(value, share=True), anchor="middle", colour=FAINT),
        ]
    safer = "↑ safer" if danger.good > 0 else "↓ safer"
    body += [
        svg.line(LEFT, y.start, WIDTH - RIGHT, y.start, colour=FAINT),
        svg.text((x.start + x.stop) / 2, y.start + 40, f"{clean} →", anchor="middle"),
        svg.text(2, y.stop - 12, f"{danger.metric} ({safer})"),
    ]
    return "".join(body)


def _point(k: int, o: Option, x: Scale, y: Scale) -> str:
    here, there = x.at(o.clean.value), y.at(o.danger.value)
    colour = svg.HARD_COLOURS[0] if o.chosen else svg.PLAIN_COLOURS[0] if o.kind == "baseline" else FAINT
    shape = "square" if o.chosen else "ring" if o.kind == "baseline" else "circle"
    words = f"{spoken(o.name)} {settings_words(o.settings)}: {percent(o.clean.value)}, {number(o.danger.value)}"
    body = ""
    if not math.isnan(o.danger.low) and not math.isnan(o.danger.high):
        body += svg.line(here, y.at(o.danger.low), here, y.at(o.danger.high), colour=colour, width=1.3)
    if o.chosen:
        body += svg.tag("circle", cx=here, cy=there, r=8.5, fill="none", stroke=colour, stroke_width="1.6")
    return (
        body
        + svg.mark(here, there, colour=colour, shape=shape, words=words)
        + svg.text(here + 10, there - 7, str(k), weight="700" if o.chosen else "", size=11)
    )


def _legend() -> str:
    body, x = [], 2.0
    for shape, colour, name in (
        ("square", svg.HARD_COLOURS[0], "chosen"),
        ("circle", FAINT, "candidate"),
        ("ring", svg.PLAIN_COLOURS[0], "baseline"),
    ):
        body += [svg.mark(x + 5, 12, colour=colour, shape=shape, words=name), svg.text(x + 16, 16, name)]
        x += 34 + svg.width_of(name)
    return "".join(body)
