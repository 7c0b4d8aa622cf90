"""Pictures of findings: a ``Figure`` becomes inline SVG; plain and hardened are drawn into one picture.

Kinds: ``lines``, ``steps`` (a value holds until the next x), ``roc`` (logarithmic axes and the line of chance), ``bars``
(with whiskers) and ``gallery``. Plain is dashed with rings, hardened solid with squares, so that colour is never the only
sign.

>>> figure = Figure(kind="lines", title="t", x_label="x", y_label="y", series=(Series(name="a", x=np.arange(3.0), y=np.arange(3.0)),))
>>> draw(figure).startswith("<svg")
True
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from carbide.report import svg
from carbide.report.svg import FAINT, GRID, INK, Scale
from carbide.types import Array, Figure, InputError, Series

WIDTH, HEIGHT = 480.0, 300.0
LEFT, RIGHT, BOTTOM, HEAD = 46.0, 18.0, 48.0, 24.0
PLAIN, HARD = "plain: ", "hardened: "
KINDS = ("lines", "steps", "roc", "bars", "gallery")
COLUMNS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class _Styled:
    series: Series
    colour: str
    dash: str
    shape: str


def merge(plain: Figure, hardened: Figure) -> Figure:
    """One figure with the series of both, named ``plain: ...`` and ``hardened: ...``; series that are equal stay single."""
    shared = [s for s in plain.series if any(_same(s, t) for t in hardened.series)]
    ours = [replace(s, name=PLAIN + s.name) for s in plain.series if not any(s is t for t in shared)]
    theirs = [replace(s, name=HARD + s.name) for s in hardened.series if not any(_same(s, t) for t in shared)]
    notes = dict.fromkeys(note for note in (plain.note, hardened.note) if note)
    return replace(plain, series=(*shared, *ours, *theirs), note="; ".join(notes))


def _same(a: Series, b: Series) -> bool:
    pairs = ((a.x, b.x), (a.y, b.y), (a.low, b.low), (a.high, b.high))
    return a.name == b.name and all(p is q if p is None or q is None else np.array_equal(p, q) for p, q in pairs)


def merged(before: Sequence[Figure], after: Sequence[Figure]) -> tuple[Figure, ...]:
    """The figures of two phases: those with the same title and kind in one picture, the others as they are."""
    waiting = {(f.title, f.kind): f for f in after}
    found = [merge(f, waiting.pop((f.title, f.kind))) if (f.title, f.kind) in waiting else f for f in before]
    return (*found, *(f for f in after if (f.title, f.kind) in waiting))


def draw(figure: Figure) -> str:
    """A figure as one ``<svg>`` element.

    Raises:
        InputError: if the kind is not known or a series has as many x as y only in name.
    """
    if figure.kind not in KINDS:
        raise InputError(f"figure {figure.title!r} has kind {figure.kind!r}; choose {', '.join(KINDS)}")
    for s in figure.series:
        if len(s.x) != len(s.y):
            raise InputError(f"figure {figure.title!r}: series {s.name!r} has {len(s.x)} x but {len(s.y)} y; give as many")
    if figure.kind == "gallery":
        return _gallery(figure)
    styled = _style(figure)
    top, legend = _legend(styled)
    body = (_bars if figure.kind == "bars" else _curves)(figure, styled, top)
    return svg.picture(WIDTH, HEIGHT + top, legend + body, title=figure.title, description=_describe(figure))


def _style(figure: Figure) -> list[_Styled]:
    counts = {PLAIN: 0, HARD: 0, "": 0}
    styled, guess = [], False
    for s in figure.series:
        if s.name == "chance" or (figure.kind == "roc" and np.array_equal(s.x, s.y)):
            styled.append(_guess(s))
            guess = True
            continue
        phase = next((p for p in (PLAIN, HARD) if s.name.startswith(p)), "")
        i = counts[phase]
        counts[phase] += 1
        palette = {PLAIN: svg.PLAIN_COLOURS, HARD: svg.HARD_COLOURS}.get(phase, svg.COLOURS)
        shape = {PLAIN: "ring", HARD: "square"}.get(phase, ("circle", "square", "diamond", "ring")[i % 4])
        styled.append(_Styled(series=s, colour=palette[i % len(palette)], dash="7 4" if phase == PLAIN else "", shape=shape))
    if figure.kind == "roc" and not guess:
        ends = np.array([1e-5, 1.0])
        styled.append(_guess(Series(name="chance", x=ends, y=ends)))
    return styled


def _guess(series: Series) -> _Styled:
    return _Styled(series=series, colour=FAINT, dash="2 4", shape="")


def _legend(styled: Sequence[_Styled]) -> tuple[float, str]:
    """The height that the legend takes and its marks, several entries a row."""
    entries = [(s.series.name.replace("_", " "), s) for s in styled]
    x, y, body = 2.0, 14.0, []
    for name, s in entries:
        wide = 34 + svg.width_of(name)
        if x + wide > WIDTH and x > 2:
            x, y = 2.0, y + 19
        body.append(svg.line(x, y - 4, x + 24, y - 4, colour=s.colour, width=2.2, dash=s.dash))
        if s.shape:
            body.append(svg.mark(x + 12, y - 4, colour=s.colour, shape=s.shape, words=name))
        body.append(svg.text(x + 30, y, name))
        x += wide + 14
    return y + 12, "".join(body)


# Lines, steps, ROC -------------------------------------------------------------------------------------------------


def _curves(figure: Figure, styled: Sequence[_Styled], top: float) -> str:
    roc = figure.kind == "roc"
    x, y, share = _scales(figure, top)
    body = [_axes(figure, x, y, share=share, percent_x=roc)]
    for s in styled:
        body.append(_curve(figure, s, x, y, share=share))
    return "".join(body)


def _curve(figure: Figure, s: _Styled, x: Scale, y: Scale, *, share: bool) -> str:
    xs, keep = _numbers(s.series.x), np.ones(len(s.series.x), bool)
    keep &= np.isfinite(xs) & np.isfinite(_numbers(s.series.y)) & ((xs > 0) | (not x.log))
    xs, ys = xs[keep], _numbers(s.series.y)[keep]
    if not len(xs):
        return ""
    step = figure.kind == "steps"
    body = ""
    if s.series.low is not None and s.series.high is not None:
        low, high = (_trace(x, y, xs, np.nan_to_num(_numbers(v)[keep], nan=math.nan), step) for v in (s.series.low, s.series.high))
        body += svg.band(high, low, colour=s.colour)
    body += svg.path(_trace(x, y, xs, ys, step), colour=s.colour, dash=s.dash, width=2.2 if s.shape else 1.5)
    if len(xs) <= 24 and s.shape:
        words = [f"{s.series.name}: {figure.x_label} {a:.4g}, {figure.y_label} {svg.tick_text(b, share=share)}" for a, b in zip(xs, ys, strict=True)]
        body += "".join(svg.mark(x.at(a), y.at(b), colour=s.colour, shape=s.shape, words=w) for a, b, w in zip(xs, ys, words, strict=True))
    return body


def _trace(x: Scale, y: Scale, xs: Array, ys: Array, step: bool) -> list[tuple[float, float]]:
    points = [(x.at(a), y.at(b)) for a, b in zip(xs.tolist(), ys.tolist(), strict=True) if not math.isnan(b)]
    if not step:
        return points
    return [p for i, here in enumerate(points) for p in (((here[0], points[i - 1][1]), here) if i else (here,))]


def _scales(figure: Figure, top: float) -> tuple[Scale, Scale, bool]:
    xs = np.concatenate([_numbers(s.x) for s in figure.series]) if figure.series else np.array([0.0, 1.0])
    ys = np.concatenate([_numbers(v) for s in figure.series for v in (s.y, s.low, s.high) if v is not None]) if figure.series else xs
    xs, ys = xs[np.isfinite(xs)], ys[np.isfinite(ys)]
    if not len(xs) or not len(ys):
        xs = ys = np.array([0.0, 1.0])
    x, y = Scale(low=0, high=1, start=LEFT, stop=WIDTH - RIGHT), Scale(low=0, high=1, start=top + HEIGHT - BOTTOM, stop=top + HEAD)
    if figure.kind == "roc":
        floor = 10.0 ** max(math.floor(math.log10(min(xs[xs > 0].min(initial=1e-2), 1e-2)) + 1e-9), -5)
        return replace(x, low=floor, log=True), replace(y, low=floor, log=True), True
    share = bool(ys.min() >= 0 and ys.max() <= 1)
    log = bool(xs.min() > 0 and xs.max() / xs.min() >= 100)
    low, high = (0.0, 1.0) if share else _padded(float(ys.min()), float(ys.max()))
    left, right = (float(xs.min()), float(xs.max())) if xs.max() > xs.min() else (float(xs.min()) - 0.5, float(xs.max()) + 0.5)
    return replace(x, low=left, high=right, log=log), replace(y, low=low, high=high), share


def _padded(low: float, high: float) -> tuple[float, float]:
    low, high = min(low, 0.0), max(high, 0.0)
    room = 0.06 * ((high - low) or 1.0)
    return (low - room if low < 0 else low), high + room


def _axes(figure: Figure, x: Scale, y: Scale, *, share: bool, percent_x: bool) -> str:
    body = [_y_axis(figure, y, share=share)]
    for value in x.ticks():
        at = x.at(value)
        body += [
            svg.line(at, y.start, at, y.start + 4, colour=FAINT),
            svg.text(at, y.start + 18, svg.tick_text(value, share=percent_x), anchor="middle", colour=FAINT),
        ]
    body += [
        svg.line(x.start, y.start, x.stop, y.start, colour=FAINT),
        svg.text((x.start + x.stop) / 2, y.start + 40, figure.x_label, anchor="middle"),
    ]
    return "".join(body)


def _y_axis(figure: Figure, y: Scale, *, share: bool) -> str:
    body = []
    for value in y.ticks(5):
        at = y.at(value)
        body += [svg.line(LEFT, at, WIDTH - RIGHT, at), svg.text(LEFT - 8, at + 4, svg.tick_text(value, share=share), anchor="end", colour=FAINT)]
    return "".join(body) + svg.text(2, y.stop - 12, figure.y_label)


# Bars --------------------------------------------------------------------------------------------------------------


def _bars(figure: Figure, styled: Sequence[_Styled], top: float) -> str:
    names = list(dict.fromkeys(str(v) for s in styled for v in s.series.x))
    _, y, share = _scales(replace(figure, series=tuple(replace(s.series, x=np.arange(float(len(s.series.y)))) for s in styled)), top)
    slot = (WIDTH - RIGHT - LEFT) / max(len(names), 1)
    wide = min(44.0, 0.76 * slot / max(len(styled), 1))
    body = [_y_axis(figure, y, share=share)]
    for i, s in enumerate(styled):
        for j, name in enumerate(map(str, s.series.x)):
            middle = LEFT + slot * (names.index(name) + 0.5) + wide * (i - (len(styled) - 1) / 2)
            body.append(_bar(s, j, middle, wide, y, words=f"{s.series.name}, {name}: {svg.tick_text(float(s.series.y[j]), share=share)}"))
    for j, name in enumerate(names):
        body += [
            svg.text(LEFT + slot * (j + 0.5), y.start + 18, words, anchor="middle", colour=FAINT) for words in [_short(name.replace("_", " "), slot)]
        ]
    body += [svg.line(LEFT, y.at(max(y.low, 0.0)), WIDTH - RIGHT, y.at(max(y.low, 0.0)), colour=FAINT)]
    return "".join(body) + svg.text((LEFT + WIDTH - RIGHT) / 2, y.start + 40, figure.x_label, anchor="middle")


def _bar(s: _Styled, j: int, middle: float, wide: float, y: Scale, *, words: str) -> str:
    value = float(s.series.y[j])
    if math.isnan(value):
        return ""
    zero, end = y.at(max(y.low, 0.0)), y.at(value)
    look = {"fill": s.colour, "fill_opacity": "0.22", "stroke": s.colour, "stroke_dasharray": s.dash} if s.dash else {"fill": s.colour}
    body = svg.tag(
        "rect",
        svg.tag("title", svg.html.escape(words)),
        x=middle - wide / 2 + 1,
        y=min(zero, end),
        width=max(wide - 2, 1.0),
        height=max(abs(zero - end), 0.8),
        **look,
    )
    if s.series.low is None or s.series.high is None or math.isnan(float(s.series.low[j])) or math.isnan(float(s.series.high[j])):
        return body
    low, high = y.at(float(s.series.low[j])), y.at(float(s.series.high[j]))
    return body + "".join(
        svg.line(*ends, colour=INK, width=1.4)
        for ends in ((middle, low, middle, high), (middle - 4, low, middle + 4, low), (middle - 4, high, middle + 4, high))
    )


def _short(name: str, room: float) -> str:
    keep = max(int(room / (0.56 * 12)), 3)
    return name if len(name) <= keep else name[: keep - 1] + "…"


# Galleries ---------------------------------------------------------------------------------------------------------


def _gallery(figure: Figure) -> str:
    columns = min(max((len(s.y) for s in figure.series), default=1), COLUMNS)
    gap, label = 8.0, 22.0
    side = min((WIDTH - gap * (columns - 1)) / columns, 108.0)
    body, y = [], 4.0
    for s in figure.series:
        body.append(svg.text(0, y + 14, s.name, weight="600"))
        for i in range(min(len(s.y), COLUMNS)):
            x, caption = i * (side + gap), str(s.x[i])
            body.append(svg.tag("rect", x=x - 0.5, y=y + label - 0.5, width=side + 1, height=side + 1, fill="none", stroke=GRID))
            body.append(svg.image(x, y + label, side, s.y[i], words=f"{s.name}: {caption}"))
            for k, words in enumerate(_wrap(caption, side + gap)):
                body.append(svg.text(x + side / 2, y + label + side + 14 + 13 * k, words, anchor="middle", size=11, colour=FAINT))
        rows = max((len(_wrap(str(c), side + gap)) for c in s.x[:COLUMNS]), default=1)
        y += label + side + 12 + 13 * rows
    return svg.picture(WIDTH, y + 2, "".join(body), title=figure.title, description=_describe(figure))


def _wrap(caption: str, room: float) -> list[str]:
    """A caption in at most two lines."""
    keep = max(int(room / (0.56 * 11)), 3)
    if len(caption) <= keep:
        return [caption]
    cut = caption.rfind(" ", 0, keep + 1)
    first, rest = (caption[:cut], caption[cut + 1 :]) if cut > 0 else (caption[: keep - 1] + "…", "")
    return [first, rest if len(rest) <= keep else rest[: keep - 1] + "…"] if rest else [first]


def _numbers(values: Array) -> Array:
    return np.asarray(values, float)


def _describe(figure: Figure) -> str:
    """The figure in words: where each line starts and ends, each bar, the captions of a gallery."""
    said = []
    for s in figure.series:
        if figure.kind == "gallery":
            said.append(f"{s.name}: {', '.join(map(str, s.x[:COLUMNS]))}")
        elif figure.kind == "bars":
            said.append(f"{s.name}: " + ", ".join(f"{a} {float(b):.3g}" for a, b in zip(s.x, s.y, strict=True)))
        elif len(s.x):
            said.append(f"{s.name} goes from {float(s.y[0]):.3g} at {float(s.x[0]):.3g} to {float(s.y[-1]):.3g} at {float(s.x[-1]):.3g}")
    axes = f"{figure.y_label} against {figure.x_label}. " if figure.x_label and figure.y_label else ""
    return axes + "; ".join(said) + "."
