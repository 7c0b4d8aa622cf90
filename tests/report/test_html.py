"""The page: whole, offline, repeatable, safe against hostile words, and its first screen says what counts."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from carbide.report import html
from carbide.report.html import bars, costs, render_html, write_html
from carbide.results import Results, Timings
from carbide.types import Bracket, Symptom
from tests.report import make

RUNS = {"fraud": make.fraud, "patients": make.patients, "images": make.images, "audit only": lambda: make.images(hardened=False)}
VOID = {"meta", "br", "img", "hr", "input", "link"}
OPTIONAL = {"path", "line", "rect", "circle", "image", "polygon"}


class Reader(HTMLParser):
    """Checks that tags nest and collects text, ids, links and what would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        self.ids += [given["id"]] if given.get("id") else []  # type: ignore[list-item]
        self.links += [given["href"]] if tag == "a" and given.get("href") else []  # type: ignore[list-item]
        for key in ("src", "srcset", "action", "data", "poster") + (("href",) if tag != "a" else ()):
            if given.get(key) and not str(given[key]).startswith("data:"):
                self.fetched.append(f"{tag} {given[key]}")
        assert not any(key.startswith("on") for key in given), f"{tag} has a handler"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def text(page: str) -> str:
    return " ".join(" ".join(read(page).words).split())


@pytest.fixture(params=RUNS, scope="module")
def run(request: pytest.FixtureRequest) -> Results:
    return RUNS[request.param]()


@pytest.fixture(scope="module")
def page(run: Results) -> str:
    return render_html(run, make.timings(hardened=run.hardened is not None))


def test_the_page_is_whole_and_offline(page: str) -> None:
    reader = read(page)
    assert reader.fetched == []
    assert not re.search(r"@import|url\(\s*['\"]?(?!data:)", page)
    assert all(link.startswith(("#", "https://atlas.mitre.org/")) for link in reader.links)
    assert {link[1:] for link in reader.links if link.startswith("#")} <= set(reader.ids)
    assert len(set(reader.ids)) == len(reader.ids)


def test_the_page_repeats(run: Results, page: str) -> None:
    assert render_html(run, make.timings(hardened=run.hardened is not None)) == page


def test_the_first_screen_comes_first(run: Results, page: str) -> None:
    said = text(page)
    heads = ["What was found", "What was done", "What it cost", "What was not tested", "Data, plan and versions"]
    places = [said.index(head) for head in heads]
    assert places == sorted(places)
    for words in run.not_tested:
        assert words in said
    for phase in run.phases:
        for section in phase.sections:
            for finding in section.findings:
                assert finding.metric in said
            for skip in section.skipped:
                assert skip.reason in said
            for certificate in section.certificates:
                assert certificate.claim in said
                assert all(a in said for a in certificate.assumptions)
            for figure in section.figures:
                assert figure.title in said


def test_the_message_of_the_fraud_story() -> None:
    said = text(render_html(make.fraud(), make.timings(), run="runs/fraud"))
    for words in (
        "An attacker who may spend $50 gets 71 of 100 frauds past the model; after hardening 24 of 100.", "frauds found 77.9% 76.7% ✓ −1.2 points",
        "time to answer 0.21 ms 0.24 ms ✓ × 1.14", "model size 412 kB 433 kB", "time to train 1.8 s 9.7 s", "carbide guard serve runs/fraud",
        "MITRE ATLAS AML.T0015 Evade AI Model", "Gate failed:", "carbide verify runs/fraud", "drop mutable features baseline",
    ):  # fmt: skip
        assert words in said, words


def test_every_light_that_is_not_green_has_a_command(page: str) -> None:
    reader = page.split("What was done")[0]
    shown = len(re.findall(r'class="light (?:red|amber|grey)"><i aria-hidden="true">.</i>(?:at risk|partly|not measured)', reader))
    assert len(re.findall(r'class="do">carbide ', reader)) == shown


def test_hostile_words_stay_words() -> None:
    bad = "</style></script><script>alert(1)</script><img src=x onerror=alert(1)>{{ 7*7 }}"
    base = make.images(hardened=False)
    section = base.phases[0].sections[0]
    spoiled = replace(section, threat=bad, findings=tuple(replace(f, method=bad, note=bad, threat=bad, access=bad) for f in section.findings),
                      figures=tuple(replace(f, title=bad, note=bad) for f in section.figures),
                      examination=(Symptom(name=bad, value=bad, done="noted", mend=bad),))  # fmt: skip
    data = replace(base.data, name=bad, notes=(bad,), classes=(bad,))
    phase = replace(base.phases[0], model=bad, sections=(spoiled,))
    run = replace(base, title=bad, warnings=(bad,), not_tested=(bad,), next_steps=(bad,), plan={"title": bad}, versions={bad: bad}, data=data,
                  phases=(phase,))  # fmt: skip
    reader = read(render_html(run, Timings(machine=bad, steps={bad: 1.0}), run=bad))
    assert reader.tags.count("script") == 1
    assert "img" not in reader.tags
    assert bad in "".join(reader.words)


def test_what_the_examination_saw_stands_with_its_threat() -> None:
    run = make.images()
    words = " ".join(read(render_html(run, Timings())).words)
    assert "What the examination of the model saw" in words
    for part in (make.SEEN.name, make.SEEN.value, make.SEEN.done, make.SEEN.mend):
        assert part in words
    assert "What the examination of the model saw" not in render_html(make.fraud(), Timings())


def test_runs_with_little_in_them() -> None:
    base = make.images(hardened=False)
    said = text(render_html(replace(base, phases=(), not_tested=(), next_steps=(), plan={}), Timings()))
    assert "No threat was tested." in said
    assert "Attackers whom this report does not name were not tested." in said
    bare = replace(base.phases[0], sections=(), performance={})
    assert "No threat was tested." in text(render_html(replace(base, phases=(bare,)), Timings()))
    only = replace(make.images(), phases=make.images().phases[1:])
    assert "after hardening; before it, nothing was measured." in text(render_html(only, make.timings()))


def test_costs_before_and_after() -> None:
    rows = {row.name: row for row in costs(make.patients(), make.timings())}
    assert list(rows) == ["accuracy", "worst class", "time to answer", "model size", "time to train"]
    assert (rows["accuracy"].before, rows["accuracy"].after, rows["accuracy"].change) == ("95.9%", "95.3%", "−0.6 points")
    assert rows["model size"].change == "÷ 600"
    assert rows["time to train"].change == "× 5.39"


def test_bars_of_brackets_cover_the_whole_width() -> None:
    for run in (make.fraud(), make.patients(), make.images()):
        for bar in bars(run):
            edges = sorted((z.start, z.stop) for z in bar.zones)
            assert edges[0][0] == 0
            assert edges[-1][1] == 100
            assert all(a[1] == b[0] for a, b in itertools.pairwise(edges))
            assert bar.low <= bar.high


@pytest.mark.parametrize(("good", "certified", "attacked", "kinds"), [
    (1, 0.3, 0.6, ["proven", "unknown", "lost"]), (-1, 0.6, 0.3, ["lost", "unknown", "proven"]),
    (1, 0.4, 0.4, ["proven", "lost"]), (1, 0.0, 1.0, ["unknown"]),
])  # fmt: skip
def test_zones_of_a_bracket(good: int, certified: float, attacked: float, kinds: list[str]) -> None:
    run = make.images()
    finding = replace(run.phases[1].sections[0].findings[0], good=good, value=attacked)
    bracket = Bracket(metric=finding.metric, certified=certified, attacked=attacked, n=10, finding=finding, certificate="c")
    (bar,) = bars(replace(run, phases=(replace(run.phases[1], brackets=(bracket,)),)))
    assert [z.kind for z in bar.zones] == kinds


def test_the_file_is_written_whole_and_names_its_folder(tmp_path) -> None:
    write_html(make.fraud(), make.timings(), tmp_path / "report.html")
    assert f"carbide guard serve {tmp_path}" in (tmp_path / "report.html").read_text("utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_colours_are_readable() -> None:
    """Text and background of each light, in light and dark, by the contrast of WCAG 2 (at least 4.5 to 1)."""
    css = str(html._asset("report.css"))
    light, rest = css.split("@media (prefers-color-scheme: dark)", 1)
    for theme in (light, rest.split("@media print", 1)[0]):
        colours = dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{3,6})", theme))
        pairs = [("ink", "page"), ("ink", "card"), ("faint", "card"), ("faint", "page"), ("hard", "card"), ("ink", "soft")]
        pairs += [(c, f"{c}-back") for c in ("green", "amber", "red", "grey")]
        for front, back in pairs:
            assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
        for series in ("plain", "hard", "plain-2", "hard-2", "plain-3", "hard-3"):
            assert contrast(colours[series], colours["card"]) >= 3, series


def contrast(a: str, b: str) -> float:
    """The contrast ratio of two colours by WCAG 2.1."""

    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
        parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        r, g, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
        return 0.2126 * r + 0.7152 * g + 0.0722 * blue

    bright, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)
