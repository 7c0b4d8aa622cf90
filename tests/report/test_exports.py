"""Model card, SARIF and JUnit: what machines and reviewers read says the same as the page."""

from __future__ import annotations

import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from carbide.report.card import model_card
from carbide.report.junit import to_junit, write_junit
from carbide.report.results_json import dumps
from carbide.report.sarif import to_sarif, write_sarif
from carbide.results import Results
from tests.report import make

RUNS = {"fraud": make.fraud, "patients": make.patients, "images": make.images, "audit only": lambda: make.images(hardened=False)}


@pytest.fixture(params=RUNS, scope="module")
def run(request: pytest.FixtureRequest) -> Results:
    return RUNS[request.param]()


def test_the_card_holds_the_numbers_and_the_gaps(run: Results) -> None:
    card = model_card(run)
    assert card == model_card(run)
    for words in (*run.not_tested, *run.warnings):
        assert f"- {words}" in card
    for phase in run.phases:
        for section in phase.sections:
            head = section.headline()
            assert head is None or f"{head.value:.4g}" in card
        assert f"{100 * phase.performance['accuracy'].value:.1f}%" in card


def test_tables_of_the_card_have_as_many_cells_in_every_row() -> None:
    odd = replace(make.fraud(), title="a|b\nc")
    section = replace(odd.phases[0].sections[0], threat="x|y")
    card = model_card(replace(odd, phases=(replace(odd.phases[0], sections=(section,)),)))
    assert card.startswith("# a\\|b c\n")
    tables = [block.splitlines() for block in card.split("\n\n") if block.startswith("|")]
    assert tables
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_a_card_without_certificates_says_so() -> None:
    assert "Nothing: no certificate of the plain model is about a measured number." in model_card(make.images(hardened=False))


def test_sarif_has_the_form_of_2_1_0(run: Results) -> None:
    log = to_sarif(run)
    assert log["version"] == "2.1.0"
    (one,) = log["runs"]
    rules = one["tool"]["driver"]["rules"]
    assert one["tool"]["driver"]["name"] == "Carbide"
    assert len({rule["id"] for rule in rules}) == len(rules)
    for result in one["results"]:
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"].endswith(".")
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "plan.yaml"
        assert len(result["partialFingerprints"]["carbide/v1"]) == 32
    prints = [r["partialFingerprints"]["carbide/v1"] for r in one["results"]]
    assert len(set(prints)) == len(prints)
    assert dumps(log) == dumps(to_sarif(run))


def levels(results: Results) -> list[tuple[str, str]]:
    return [(r["ruleId"], r["level"]) for r in to_sarif(results)["runs"][0]["results"]]


def test_sarif_says_what_is_broken() -> None:
    assert levels(make.fraud()) == [("AML.T0024.002", "error")]  # the gate's line stands for the red finding
    assert levels(replace(make.fraud(), gate=())) == [("AML.T0024.002", "warning")]
    assert levels(make.patients()) == [("AML.T0020", "note")]
    assert levels(make.images()) == [("AML.T0015", "note")]
    assert levels(make.images(hardened=False)) == [("AML.T0015", "warning"), ("AML.T0020", "warning")]


def test_sarif_of_a_gate_about_clean_rows() -> None:
    line = replace(make.fraud().gate[1], metric="recall", rule="recall >= 0.9", value=0.77)
    log = to_sarif(replace(make.fraud(), gate=(line,)))
    assert log["runs"][0]["results"][0]["ruleId"] == "carbide.gate"


def test_fingerprints_do_not_depend_on_values() -> None:
    run = make.fraud()
    moved = replace(run, gate=tuple(replace(g, value=g.value + 0.01) for g in run.gate))
    first, second = (to_sarif(r)["runs"][0]["results"][0]["partialFingerprints"] for r in (run, moved))
    assert first == second


def test_junit_counts_and_failures() -> None:
    run = make.fraud()
    missing = replace(
        run.gate[0],
        value=float("nan"),
        passed=False,
        reason="not measured: nothing reports it",
        rule="membership_auc <= 0.6",
        metric="membership_auc",
    )
    root = ElementTree.fromstring(to_junit(replace(run, gate=(*run.gate, missing), title="a <b> \x00 & c")))
    suite = root.find("testsuite")
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = suite.findall("testcase")
    assert [c.find("failure") is not None for c in cases] == [False, True, True]
    assert [c.get("classname") for c in cases] == ["carbide.gate.evasion", "carbide.gate.extraction", "carbide.gate.privacy"]
    assert [c.get("name") for c in cases] == [run.gate[0].rule, run.gate[1].rule, missing.rule]
    assert cases[2].find("failure").get("type") == "not measured"  # type: ignore[union-attr]
    assert "0.94" in cases[1].find("failure").get("message")  # type: ignore[union-attr, operator]


def test_files(tmp_path) -> None:
    write_sarif(make.fraud(), tmp_path / "a.sarif", plan="plans/fraud.yaml")
    write_junit(make.fraud(), tmp_path / "a.xml")
    log = json.loads((tmp_path / "a.sarif").read_text())
    assert log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "plans/fraud.yaml"
    assert ElementTree.parse(tmp_path / "a.xml").getroot().tag == "testsuites"
