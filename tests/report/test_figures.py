"""Pictures: valid XML, the right numbers in the right places, the same bytes for the same numbers."""

from __future__ import annotations

import base64
import io
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.report import options, svg
from carbide.report.figures import HARD, PLAIN, draw, merge, merged
from carbide.report.svg import Scale, linear_ticks, log_ticks, png
from carbide.types import Figure, InputError, Series
from tests.report import make

SVG = "{http://www.w3.org/2000/svg}"
FIGURES = [f for run in (make.fraud(), make.patients(), make.images()) for s in run.phases[0].sections for f in s.figures]


def lines(**series: list[float]) -> Figure:
    return Figure(kind="lines", title="t", x_label="x", y_label="y",
                  series=tuple(Series(name=k, x=np.arange(float(len(v))), y=np.array(v)) for k, v in series.items()))  # fmt: skip


def tree(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(draw(figure))


def path_points(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """The points of every drawn line (marks are paths with a fill)."""
    found = []
    for path in root.iter(f"{SVG}path"):
        if path.get("fill") == "none":
            numbers = [float(v) for v in re.findall(r"-?\d+\.\d", path.get("d", ""))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


@pytest.mark.parametrize("figure", FIGURES, ids=lambda f: f.title)
def test_every_kind_is_valid_repeatable_and_described(figure: Figure) -> None:
    root = tree(figure)
    assert draw(figure) == draw(figure)
    assert root.get("role") == "img"
    assert figure.title in (root.get("aria-label") or "")
    assert all(s.name in (root.get("aria-label") or "") for s in figure.series)
    assert not re.search(r"(nan|inf)[\s\"]", draw(figure))


def test_points_lie_where_the_axes_say() -> None:
    root = tree(lines(a=[0.0, 0.25, 1.0]))
    (points,) = path_points(root)
    labels = {t.text: (float(t.get("x", 0)), float(t.get("y", 0))) for t in root.iter(f"{SVG}text")}
    assert points[0][1] == pytest.approx(labels["0%"][1] - 4, abs=0.1)
    assert points[2][1] == pytest.approx(labels["100%"][1] - 4, abs=0.1)
    assert points[1][1] == pytest.approx(labels["0%"][1] - 4 - 0.25 * (labels["0%"][1] - labels["100%"][1]), abs=0.1)
    assert points[2][0] == pytest.approx(labels["2"][0], abs=0.1)


def test_steps_hold_their_value_until_the_next() -> None:
    (points,) = path_points(tree(replace(lines(a=[1.0, 0.5, 0.2]), kind="steps")))
    assert len(points) == 5
    for before, corner, after in ((0, 1, 2), (2, 3, 4)):
        assert points[corner] == (points[after][0], points[before][1])


def test_roc_is_logarithmic_and_shows_chance() -> None:
    x = np.array([0.0, 0.001, 0.01, 0.1, 1.0])
    figure = Figure(kind="roc", title="t", x_label="FPR", y_label="TPR", series=(Series(name="a", x=x, y=np.array([0.0, 0.1, 0.2, 0.5, 1.0])),))
    curve, chance = path_points(tree(figure))
    assert len(curve) == 4  # zero has no place on a logarithmic axis
    gaps = np.diff([p[0] for p in curve])
    assert np.allclose(gaps, gaps[0], atol=0.11)  # decades are equally wide
    assert chance[-1] == curve[-1]
    assert chance[0][0] == curve[0][0]
    assert "chance" in [t.text for t in tree(figure).iter(f"{SVG}text")]
    own = replace(figure, series=(*figure.series, Series(name="guessing", x=x, y=x)))
    assert "chance" not in [t.text for t in tree(own).iter(f"{SVG}text")]  # its own line of guessing stands for it


def test_bars_are_as_high_as_their_values() -> None:
    first = Series(name="plain: a", x=np.array(["u", "v"]), y=np.array([0.8, 0.2]))
    second = Series(name="hardened: a", x=np.array(["v", "u"]), y=np.array([0.1, 0.4]))
    figure = Figure(kind="bars", title="t", x_label="", y_label="y", series=(first, second))
    found = {r.find(f"{SVG}title").text: r for r in tree(figure).iter(f"{SVG}rect") if r.find(f"{SVG}title") is not None}  # type: ignore[union-attr]
    heights = {name: float(r.get("height", 0)) for name, r in found.items()}
    assert heights["plain: a, u: 80%"] == pytest.approx(4 * heights["plain: a, v: 20%"], rel=0.01)
    assert heights["plain: a, u: 80%"] == pytest.approx(2 * heights["hardened: a, u: 40%"], rel=0.01)
    assert (
        float(found["plain: a, u: 80%"].get("x", 0)) < float(found["hardened: a, u: 40%"].get("x", 0)) < float(found["plain: a, v: 20%"].get("x", 0))
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_read_back_by_another_decoder(channels: int) -> None:
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).random((channels, 5, 7))
    back = np.asarray(image_module.open(io.BytesIO(png(pixels))), float)
    back = back[None] if channels == 1 else back.transpose(2, 0, 1)
    assert np.array_equal(back, np.round(255 * pixels))


def test_gallery_holds_every_image() -> None:
    figure = next(f for f in FIGURES if f.kind == "gallery")
    images = [i.get("href", "") for i in tree(figure).iter(f"{SVG}image")]
    expected = [png(y) for s in figure.series for y in s.y]
    assert [base64.b64decode(i.removeprefix("data:image/png;base64,")) for i in images] == expected


def test_captions_are_wrapped_and_never_wider_than_their_image() -> None:
    figure = replace(next(f for f in FIGURES if f.kind == "gallery"), series=(
        Series(name="clean", x=np.array(["read as 7", "read as malignant", "unbreakablewordoverflow"] * 2), y=np.zeros((6, 1, 2, 2))),))  # fmt: skip
    words = [t.text or "" for t in tree(figure).iter(f"{SVG}text")]
    assert words == ["clean", *["read as 7", "read as", "malignant", "unbreakablew…"] * 2]


def test_merge_keeps_shared_series_once_and_names_the_phases() -> None:
    chance = Series(name="chance", x=np.array([0.1, 1.0]), y=np.array([0.1, 1.0]))
    first, second = lines(a=[0.1, 0.2], b=[0.3, 0.4]), lines(a=[0.5, 0.6], b=[0.3, 0.4])
    both = merge(replace(first, series=(*first.series, chance), note="n"), replace(second, series=(*second.series, chance), note="n"))
    assert [s.name for s in both.series] == ["b", "chance", f"{PLAIN}a", f"{HARD}a"]
    assert both.note == "n"
    assert np.array_equal(both.series[2].y, [0.1, 0.2])
    assert np.array_equal(both.series[3].y, [0.5, 0.6])


def test_plain_and_hardened_differ_by_more_than_colour() -> None:
    root = tree(merge(lines(a=[0.1, 0.2]), lines(a=[0.5, 0.6])))
    dashes = [p.get("stroke-dasharray") for p in root.iter(f"{SVG}path") if p.get("fill") == "none"]
    assert dashes == ["7 4", None]


def test_merged_pairs_by_title() -> None:
    a, b, c = lines(a=[1.0]), replace(lines(a=[0.5]), title="only before"), replace(lines(a=[0.2]), title="only after")
    found = merged((a, b), (replace(a, series=c.series), c))
    assert [f.title for f in found] == ["t", "only before", "only after"]
    assert len(found[0].series) == 2


@pytest.mark.parametrize("kind", ["lines", "steps", "roc", "bars", "gallery"])
def test_nothing_and_unknown_numbers_are_drawn_without_harm(kind: str) -> None:
    empty = Figure(kind=kind, title="t", x_label="", y_label="", series=())
    ElementTree.fromstring(draw(empty))
    if kind != "gallery":
        odd = Series(
            name="a", x=np.array([1.0, 2.0, math.inf]), y=np.array([math.nan, 0.5, 1.0]), low=np.full(3, math.nan), high=np.full(3, math.nan)
        )
        assert not re.search(r"(nan|inf)[\s\"]", draw(replace(empty, series=(odd,))).split(">", 1)[1])


def test_wrong_figures_are_named() -> None:
    with pytest.raises(InputError, match="kind 'pie'"):
        draw(replace(lines(a=[1.0]), kind="pie"))
    with pytest.raises(InputError, match="2 x but 1 y"):
        draw(replace(lines(), series=(Series(name="a", x=np.arange(2.0), y=np.arange(1.0)),)))


def test_hostile_words_stay_words() -> None:
    bad = "</svg><script>alert(1)</script>\"'&"
    figure = replace(lines(a=[0.1, 0.5]), title=bad, x_label=bad, y_label=bad, series=(Series(name=bad, x=np.arange(2.0), y=np.arange(2.0)),))
    assert "<script" not in draw(figure)
    assert bad in (tree(figure).get("aria-label") or "")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=6), st.sampled_from(["lines", "steps", "roc"]))
def test_any_numbers_stay_inside_the_picture(values: list[float], kind: str) -> None:
    root = tree(replace(lines(a=values), kind=kind))
    _, _, width, height = map(float, (root.get("viewBox") or "").split())
    for points in path_points(root):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)


@given(st.floats(-1e9, 1e9), st.floats(1e-6, 1e9))
def test_linear_ticks_are_round_few_and_inside(low: float, width: float) -> None:
    high = low + width
    ticks = linear_ticks(low, high, 6)
    assert len(ticks) <= 7
    assert all(low - 1e-6 * width - 1e-9 * abs(low) <= t <= high + 1e-6 * width + 1e-9 * abs(high) for t in ticks)
    assert ticks == sorted(ticks)


@given(st.floats(-8, 6), st.floats(0.1, 8))
def test_log_ticks_are_inside(start: float, decades: float) -> None:
    low, high = 10**start, 10 ** (start + decades)
    ticks = log_ticks(low, high)
    assert all(low * 0.999 <= t <= high * 1.001 for t in ticks)
    assert decades < 1 or ticks


@given(st.floats(0.01, 1e6), st.booleans())
def test_scales_are_monotone(value: float, log: bool) -> None:
    scale = Scale(low=0.01, high=1e6, start=10, stop=200, log=log)
    assert 10 <= scale.at(value) <= 200
    assert scale.at(value) <= scale.at(value * 1.5)


def test_a_tag_escapes_its_attributes() -> None:
    assert svg.tag("a", x=1.0, y_='b"<', fill_opacity=0.25, empty="") == '<a x="1" y="b&quot;&lt;" fill-opacity="0.2"/>'


def test_the_table_of_options_marks_choice_baselines_and_the_front() -> None:
    (table,) = options.tables(make.fraud())
    assert [row.number for row in table.rows if row.chosen] == [5]
    assert [row.name for row in table.rows if row.kind == "baseline"] == ["as it is", "drop mutable features"]
    kept = {(0.79, 0.28), (0.785, 0.41), (0.782, 0.58), (0.775, 0.74), (0.755, 0.77)}  # dropping features is beaten in both numbers
    front = {(round(o.clean.value, 3), o.danger.value) for o, row in zip(make.fraud().options, table.rows, strict=True) if row.best}
    assert front == kept
    assert table.safer == "higher is safer"
    ElementTree.fromstring(table.picture)


def test_the_front_by_brute_force() -> None:
    rng = np.random.default_rng(1)
    base = make.patients().options[0]  # lower is safer
    drawn = [
        replace(base, clean=replace(base.clean, value=float(c)), danger=replace(base.danger, value=float(d)))
        for c, d in rng.integers(0, 5, (30, 2)) / 5
    ]
    (table,) = options.tables(replace(make.patients(), options=tuple(drawn)))
    for o, row in zip(drawn, table.rows, strict=True):
        beaten = any((p.clean.value >= o.clean.value and p.danger.value <= o.danger.value)
                     and (p.clean.value > o.clean.value or p.danger.value < o.danger.value) for p in drawn)  # fmt: skip
        assert row.best is not beaten
