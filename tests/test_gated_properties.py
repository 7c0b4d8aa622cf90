"""Properties in runs, reports and gates: decided for each model, shown, gated, checked again from the evidence, and the same bytes each time."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pytest
import yaml
from xgboost import XGBClassifier

import carbide
from carbide.evasion.claims import Monotone, NeverFlips, shows
from carbide.pipeline import read_properties
from carbide.report.card import model_card
from carbide.report.gate import judge_gate, parse_gate
from carbide.report.html import render_html
from carbide.report.junit import to_junit
from carbide.report.properties import bound, change, count, scores, worse
from carbide.report.results_json import dumps, from_json, results_schema, to_json
from carbide.report.sarif import to_sarif
from carbide.results import HARDENED, PLAIN, PropertyLine, Timings
from carbide.run.store import encode
from carbide.types import InputError, Price, PriceTable
from carbide.verify import rewrite_report, verify_run
from tests.report import make
from tests.test_claims import PRICES, folder, lines_of, plan_of, run

__all__ = ["folder"]  # loans, and a model that was trained to rise with debt

HOLDS = [{"monotone": "debt"}, {"never_flips": ["debt"], "money": 100, "prices": "up.json", "name": "more debt is no way out"}]
BREAKS = [{"monotone": "debt", "direction": "falls"}, {"never_flips": "debt", "money": 8, "prices": PRICES, "about": "rows"}]
OPEN = [{"monotone": "income", "direction": "falls", "boxes": 1, "name": "open"}]


@pytest.fixture(scope="module")
def broken(folder, tmp_path_factory):
    """An audited run of two properties that are proven and two that are broken."""
    path = tmp_path_factory.mktemp("broken") / "run"
    plan = plan_of(folder, [*HOLDS, *BREAKS], threats=[{"extraction": {"queries": 20}}], gate={"properties": "all"})
    assert run("audit", plan, "--out", path, "-q", "-j", 1) == 1
    return path


def test_what_is_proven_passes_the_gate(folder, tmp_path, capsys):
    plan = plan_of(folder, HOLDS, gate={"properties": "all"})
    assert run("audit", plan, "--out", tmp_path / "run", "-q") == 0
    assert run("gate", tmp_path / "run", "--junit", tmp_path / "j.xml", "--sarif", tmp_path / "s.json") == 0
    said = capsys.readouterr().out
    assert "pass  properties debt_rises: proven" in said
    assert "pass  properties more debt is no way out: proven" in said
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()[0]
    assert [case.get("classname") for case in suite] == ["carbide.gate.properties"] * 2
    assert suite.get("failures") == "0"
    assert json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"] == []


def test_what_is_broken_fails_the_gate_and_shows_its_rows(broken, tmp_path, capsys):
    assert run("gate", broken, "--junit", tmp_path / "j.xml", "--sarif", tmp_path / "s.json") == 1
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[:4]] == ["pass", "pass", "FAIL", "FAIL"]
    assert "properties debt_falls: broken" in said
    failures = [case.find("failure") for case in ElementTree.parse(tmp_path / "j.xml").getroot()[0]]
    assert [f is not None and f.get("type") for f in failures] == [False, False, "broken", "broken"]
    results = json.loads((tmp_path / "s.json").read_text())["runs"][0]["results"]
    found = [r for r in results if r["ruleId"] == "carbide.property"]
    assert [r["level"] for r in found] == ["error", "error"]
    page = (broken / "report.html").read_text()
    assert (
        "<h1>As it is, the attack is not held off; at risk: copying the model. 2 of 4 properties are proven; broken: debt_falls, debt_never_flips.</h1>"
        in page
    )
    for line in lines_of(broken)[2:]:
        assert {name for name in line["row"] if line["row"][name] != line["changed"][name]} == {"debt"}
        assert repr(line["row"]["debt"]).removesuffix(".0") in page
        assert line["claim"][1:] in page
    jsonschema.Draft202012Validator(results_schema()).validate(json.loads((broken / "results.json").read_text()))


def test_only_the_named_ones_are_judged(broken, capsys):
    assert run("gate", broken, "--rule", "properties debt_rises, more debt is no way out") == 0
    assert run("gate", broken, "--rule", "properties debt_rises,debt_falls") == 1
    assert run("gate", broken, "--rule", "properties debt_rise") == 2
    assert "there is no property 'debt_rise'; choose among debt_rises, more debt" in capsys.readouterr().err


def test_what_is_unknown_fails_the_gate_with_its_bound(folder, tmp_path, capsys):
    plan = plan_of(folder, OPEN, gate={"properties": ["open"]})
    plan.write_text(plan.read_text().replace("m.json", "falling.json"))
    rng = np.random.default_rng(1)
    x = np.column_stack([rng.uniform(0, 9, 300), rng.uniform(0, 9, 300), rng.integers(0, 6, 300)])
    falling = XGBClassifier(n_estimators=30, max_depth=4, n_jobs=1).fit(x, (x[:, 1] - 3 * x[:, 0] > -9).astype(int))
    falling.get_booster().save_model(folder / "falling.json")
    import carbide.evasion.claims as claims

    original, claims._Task.tried = claims._Task.tried, lambda self: None
    try:
        assert run("audit", plan, "--out", tmp_path / "run", "-q") == 1
    finally:
        claims._Task.tried = original
    assert "FAIL  properties open: unknown (" in capsys.readouterr().out
    (line,) = lines_of(tmp_path / "run")
    assert line["verdict"] == "unknown"
    assert 0 < line["high"] < np.inf
    assert "sum falls by at most" in (tmp_path / "run" / "report.html").read_text()


def test_verify_scores_the_rows_again(broken, tmp_path, capsys):
    assert run("verify", broken) == 0
    assert capsys.readouterr().out.count("property debt_falls") == 3
    copy = shutil.copytree(broken, tmp_path / "copy")
    evidence = read_properties(copy, PLAIN)
    lie = evidence["debt_falls"]
    lie["row"], lie["changed"] = lie["changed"], lie["row"]
    (copy / "evidence" / "properties-plain.npz").write_bytes(encode(evidence))
    assert run("verify", copy) == 1
    document = json.loads((broken / "results.json").read_text())
    document["phases"][0]["properties"][2]["verdict"] = "proven"
    (copy / "results.json").write_text(json.dumps(document))
    shutil.copy(broken / "evidence" / "properties-plain.npz", copy / "evidence")
    assert [c.metric for c in verify_run(copy) if not c.agrees] == ["property debt_falls (1 = proven, 0 = broken)"]
    (copy / "evidence" / "properties-plain.npz").unlink()
    with pytest.raises(InputError, match="no evidence of the plain model's properties"):
        verify_run(copy)


def test_a_stopped_run_goes_on_to_the_same_bytes(folder, broken, tmp_path):
    again = shutil.copytree(broken, tmp_path / "again")
    for name in ("results.json", "report.html"):
        (again / name).unlink()
    shutil.rmtree(again / "evidence")
    steps = len((again / "steps.jsonl").read_text().splitlines())
    assert run("audit", broken / "plan.yaml", "--out", tmp_path / "elsewhere") == 2  # its paths are beside the first plan
    plan = plan_of(folder, [*HOLDS, *BREAKS], threats=[{"extraction": {"queries": 20}}], gate={"properties": "all"})
    assert run("audit", plan, "--out", again, "-q", "-j", 1) == 1
    assert len((again / "steps.jsonl").read_text().splitlines()) == steps
    for name in ("results.json", "evidence/properties-plain.npz"):
        assert (again / name).read_bytes() == (broken / name).read_bytes()
    fresh = tmp_path / "fresh"
    assert run("audit", plan, "--out", fresh, "-q", "-j", 1) == 1
    assert (fresh / "results.json").read_bytes() == (broken / "results.json").read_bytes()


def test_the_report_is_written_again_as_it_was(broken, tmp_path):
    copy = shutil.copytree(broken, tmp_path / "copy")
    before = (copy / "report.html").read_bytes().replace(str(broken).encode(), b"RUN")
    _, page = rewrite_report(copy)
    assert page.read_bytes().replace(str(copy).encode(), b"RUN") == before


def loans(seed=0, n=300):
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.uniform(0, 9, n), rng.uniform(0, 9, n)]).round(2)
    y = (x[:, 1] - x[:, 0] + rng.normal(size=n) > 0).astype(int)
    return x, y, carbide.Space.table(["income", "debt"], lower=np.zeros(2), upper=np.full(2, 9.0))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Two properties of a tree before and after hardening, from Python."""
    x, y, space = loans()
    prices = PriceTable(prices={"debt": Price(down=2.0, up=2.0)})
    recipe = {"estimator": "xgboost", "params": {"n_estimators": 8, "max_depth": 3}}
    threat = {"evasion": {"money": 2, "prices": prices_of(prices), "harden": ["monotone"]}}
    claims = [Monotone(feature="debt"), Monotone(feature="income"), NeverFlips(features=("debt",), money=1.0, prices=prices, rows=x)]
    return carbide.harden(recipe, (x, y), threats=[threat], space=space, properties=claims, gate={"properties": ["income_rises"]}, accuracy_loss=0.5,
                          out=tmp_path_factory.mktemp("hardened") / "run", quiet=True, workers=1)  # fmt: skip


def prices_of(table):
    return {"prices": {name: {"up": price.up, "down": price.down} for name, price in table.prices.items()}}


def test_both_models_are_decided_and_the_hardened_one_is_judged(report):
    assert [phase.name for phase in report.results.phases] == [PLAIN, HARDENED]
    for phase, model in zip(report.results.phases, (report.plain, report.model), strict=True):
        assert [line.name for line in phase.properties] == ["debt_rises", "income_rises", "debt_never_flips"]
        for line in phase.properties:
            if line.verdict == "broken":
                both = np.array([[side["income"], side["debt"]] for side in (line.row, line.changed)])
                assert model.predict(both)[:, 1].tolist() == pytest.approx([line.before, line.after])
    assert report.results.phases[1].properties[1].verdict == "broken"
    assert not report.passed
    (line,) = report.results.gate
    assert (line.rule, line.value, line.verdict) == ("properties income_rises", 0.0, "broken")
    assert all(check.agrees for check in verify_run(report.folder))
    card = (report.folder / "hardened" / "card.md").read_text()
    assert "## What holds on every row" in card
    assert "| income_rises |" in card
    assert "gate FAILED: properties income_rises, broken" in card


def test_a_property_that_hardening_lost_is_a_warning():
    lines = {v: PropertyLine(name="a", claim="c", kind="monotone", verdict=v) for v in ("proven", "unknown")}
    fraud = make.fraud()
    phases = tuple(replace(p, properties=(lines[v],)) for p, v in zip(fraud.phases, ("proven", "unknown"), strict=True))
    assert worse(replace(fraud, phases=phases)) == ["hardening lost the property a: proven before, unknown after"]
    assert worse(replace(fraud, phases=(phases[0], replace(phases[1], properties=(lines["proven"],))))) == []


def test_a_model_without_trees_is_not_applicable_and_fails_the_gate():
    def black_box(rows):
        score = rows[:, 1].clip(0, 9) / 9
        return np.column_stack([1 - score, score])

    x, y, space = loans(n=100)
    settings = {"space": space, "quiet": True, "properties": [{"monotone": "debt"}], "gate": {"properties": "all"}}
    found = carbide.audit(black_box, (x, y), threats=[{"evasion": {"norm": "linf", "eps": 0.1, "audit": ["genetic"]}}], **settings)
    (line,) = found.results.plain.properties
    assert line.verdict == "not applicable"
    assert "shows no trees" in line.note
    assert not found.passed
    assert found.results.gate[0].verdict == "not applicable"
    with pytest.raises(InputError, match="shows no trees"):  # nothing else was asked
        carbide.audit(black_box, (x, y), threats=[], **settings)


@pytest.mark.parametrize(("changes", "words"), [
    ({"gate": {"properties": ["debt_rise"]}}, "there is no property 'debt_rise'; choose among debt_rises"),
    ({"gate": {"properties": ">= 1"}}, "there is no property '>= 1'"),
    ({"gate": {"properties": True}}, "properties is True"),
    ({"gate": {"properties": []}}, "properties is []"),
    ({"gate": {"properties": "all"}, "properties": [], "threats": [{"membership": {}}]}, "the plan has none"),
    ({"properties": [{"monotone": "debt", "name": "a"}, {"monotone": "income", "name": "a"}]}, "stands twice"),
    ({"properties": [{"monotone": "debt", "name": "all"}]}, "name is 'all'"),
    ({"properties": [{"monotone": "debt", "name": "a, b"}]}, "without commas"),
    ({"properties": [{"monotone": "debt", "boxes": 0}]}, "boxes is 0"),
])  # fmt: skip
def test_wrong_gates_and_names_are_one_sentence(changes, words, folder, tmp_path, capsys):
    plan = plan_of(folder, **{"properties": [{"monotone": "debt"}], **changes})
    assert run("audit", plan, "--out", tmp_path / "run", "-q") == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_nothing_to_harden_against_is_refused(folder, tmp_path, capsys):
    plan = plan_of(folder, HOLDS, recipe={"estimator": "xgboost"})
    assert run("harden", plan, "--out", tmp_path / "run", "-q") == 2
    assert "nothing to harden against" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_rows_show_a_claim_only_if_nothing_else_moved():
    x, y, space = loans()
    model = carbide.load_model(XGBClassifier(n_estimators=8, max_depth=3, n_jobs=1).fit(x, y), space=space, classes=2)
    low, high = np.array([8.0, 4.0]), np.array([1.0, 4.0])
    falls = Monotone(feature="income")
    assert shows(falls, model, high, low)
    assert not shows(falls, model, low, high)  # the wrong way
    assert not shows(falls, model, high, low + [0, 0.5])  # debt moved, too
    assert not shows(falls, model, high, np.array([9.5, 4.0]))  # beyond the space
    dear = NeverFlips(features=("income",), money=20.0, prices=PriceTable(prices={"income": Price(up=2.0)}))
    assert model.predict(high[None])[0, 1] >= 0.5 > model.predict(low[None])[0, 1]
    assert shows(dear, model, high, low)
    assert not shows(replace(dear, money=13.9), model, high, low)
    assert not shows(replace(dear, rows=low[None]), model, high, low)
    assert shows(replace(dear, rows=np.stack([low, high])), model, high, low)
    assert not shows(replace(falls, direction="falls"), model, low, high)  # the right way, but the score rises
    near = np.array([1.1, 4.0])
    assert model.predict(near[None])[0, 1] >= 0.5
    assert not shows(dear, model, high, near)  # still an alert
    assert not shows(dear, model, low, low + [0.5, 0])  # never was one


def test_close_scores_and_bounds_are_said_with_enough_digits():
    line = PropertyLine(name="a", claim="c", kind="never_flips", verdict="broken", row={"b": 1.0, "a": 2.0}, changed={"b": 1.0, "a": 2.5}, before=0.5,
                        after=0.49999999, high=3.0, currency="$")  # fmt: skip
    assert scores(line) == ("0.5", "0.49999999")
    assert change(line) == "a 2 → 2.5: score 0.5 → 0.49999999, for $3"
    open_ = replace(line, verdict="unknown", row={}, changed={}, low=12.3456789)
    assert bound(open_) == "no flip costs less than $12.34"
    assert bound(replace(open_, kind="monotone", high=12.3416789)) == "the trees' sum falls by at most 12.35"
    assert count([line, open_]) == "none of 2 properties is proven; broken: a; unknown: a"
    assert count([line] * 5) == "none of 5 properties is proven; broken: a, a, a and 2 more"
    assert count([replace(open_, verdict="proven")] * 2) == "all 2 properties are proven"
    assert count([open_]) == "the property a is unknown"
    assert count([]) == ""


HOSTILE = PropertyLine(name="<b>a</b>", claim="<script>", kind="monotone", verdict="broken", row={"<i>": 1.0, "|": np.nan}, changed={"<i>": 2.0, "|": np.nan},
                       before=0.7, after=0.6, note="|")  # fmt: skip


def test_pages_and_files_hold_any_words():
    fraud = make.fraud()
    lines = (HOSTILE, *(replace(HOSTILE, name=v, verdict=v, row={}, changed={}) for v in ("proven", "unknown", "not applicable")))
    results = replace(fraud, phases=tuple(replace(p, properties=lines) for p in fraud.phases))
    results = replace(results, gate=judge_gate(parse_gate({"properties": "all", "recall": ">= 0"}), results))
    assert [line.passed for line in results.gate] == [False, True, False, False, True]
    page = render_html(results, Timings())
    assert "<script>" not in page.replace("<script>addEvent", "")
    assert "&lt;b&gt;a&lt;/b&gt;" in page
    blob = dumps(to_json(results))
    assert dumps(to_json(from_json(json.loads(blob), {phase.name: phase.sections for phase in results.phases}))) == blob
    jsonschema.Draft202012Validator(results_schema()).validate(json.loads(blob))
    table = next(block for block in model_card(results).split("\n\n") if block.startswith("| property"))
    assert {line.replace("\\|", "").count("|") for line in table.splitlines()} == {7}
    assert ElementTree.fromstring(to_junit(results))[0].get("failures") == "3"
    prints = [r["partialFingerprints"]["carbide/v1"] for r in to_sarif(results)["runs"][0]["results"]]
    assert len(set(prints)) == len(prints)
    levels = [r["level"] for r in to_sarif(replace(results, gate=()))["runs"][0]["results"] if r["ruleId"] == "carbide.property"]
    assert levels == ["warning", "note", "note"]


def test_a_plan_with_a_list_of_names_is_read(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({"data": "fraud", "properties": [{"monotone": "a"}], "gate": {"properties": ["a_rises"], "strict": True}}))
    plan, _ = carbide.plan.read_plan(path)
    assert plan.gate == {"properties": ["a_rises"], "strict": True}


@pytest.mark.parametrize(("entry", "good"), [
    (HOLDS[0], True), (HOLDS[1], True), (BREAKS[0], True), (BREAKS[1], True), (OPEN[0], True), ({"monotone": "debt", "way": 1}, False),
    ({"never_flips": "debt"}, False), ({"monotone": "debt", "direction": "up"}, False), ({"smooth": "debt"}, False),
])  # fmt: skip
def test_the_schema_of_a_plan_knows_properties(entry, good):
    plan = {"data": {"source": "fraud"}, "properties": [entry], "gate": {"properties": ["a"]}}
    assert jsonschema.Draft202012Validator(carbide.plan.plan_schema()).is_valid(plan) == good
