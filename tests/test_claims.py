"""Properties of tree models from a plan, from the command line and from Python."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from xgboost import XGBClassifier

import carbide
from carbide.cli import app, guarded

SPACE = {"features": [{"name": "income", "lower": 0, "upper": 9}, {"name": "debt", "lower": 0, "upper": 9},
                      {"name": "visits", "kind": "integer", "lower": 0, "upper": 5}]}  # fmt: skip
PRICES = {"currency": "EUR", "prices": {"debt": {"up": 1, "down": 2}, "income": {"up": 5}}}


def run(*words: object) -> int:
    return guarded(lambda: app([str(w) for w in words], standalone_mode=False))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Loans, a model that was trained to rise with debt, its space and its prices."""
    path = tmp_path_factory.mktemp("loans")
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0, 9, 400), rng.uniform(0, 9, 400), rng.integers(0, 6, 400)]).round(2)
    y = (x[:, 1] - x[:, 0] + rng.normal(size=400) > 0).astype(int)
    lines = ["income,debt,visits,bad", *(",".join(map(str, [*row, label])) for row, label in zip(x.tolist(), y, strict=True))]
    (path / "loans.csv").write_text("\n".join(lines))
    model = XGBClassifier(n_estimators=20, max_depth=3, monotone_constraints=(0, 1, 0), n_jobs=1).fit(x, y)
    model.get_booster().save_model(path / "m.json")
    (path / "space.json").write_text(json.dumps(SPACE))
    (path / "up.json").write_text(json.dumps({"prices": {"debt": {"up": 1}}}))
    (path / "prices.json").write_text(json.dumps(PRICES))
    return path


def lines_of(run, phase=0):
    return json.loads((run / "results.json").read_text())["phases"][phase]["properties"]


def plan_of(folder, properties, **changes):
    plan = {"model": {"xgboost": "m.json"}, "data": {"source": "loans.csv", "label": "bad", "space": "space.json"}, "properties": properties}
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan | changes))
    return path


def test_a_plan_of_properties_is_decided(folder, tmp_path, capsys):
    plan = plan_of(folder, [{"monotone": "debt"}, {"never_flips": ["debt"], "money": 100, "prices": "up.json"}])
    assert run("prove", plan, "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "proven: the score never falls when debt rises" in said
    assert "by at most $100 turns no alert of the space off" in said
    assert [line["verdict"] for line in lines_of(tmp_path / "run")] == ["proven", "proven"]


def test_a_broken_property_shows_two_rows_and_exits_with_1(folder, tmp_path, capsys):
    plan = plan_of(folder, [{"monotone": "debt", "direction": "falls"}, {"never_flips": "debt", "money": 8, "prices": PRICES, "about": "rows"}])
    assert run("prove", plan, "--out", tmp_path / "run") == 1
    said = capsys.readouterr().out
    assert "property debt_falls broken: the score never rises" in said
    assert "property debt_never_flips broken: changing debt" in said
    assert ", for EUR" in said
    first, second = lines_of(tmp_path / "run")
    model = XGBClassifier()
    model.load_model(folder / "m.json")
    for verdict in (first, second):
        rows = np.array([[verdict[side][name] for name in ("income", "debt", "visits")] for side in ("row", "changed")])
        assert model.predict_proba(rows)[:, 1].tolist() == pytest.approx([verdict["before"], verdict["after"]], abs=1e-6)
        assert (rows[0] != rows[1]).tolist() == [False, True, False]


def test_threats_and_properties_go_together(folder, tmp_path, capsys):
    plan = plan_of(folder, [{"monotone": "debt"}], threats=[{"extraction": {"queries": 20}}])
    assert run("prove", plan, "--out", tmp_path / "run", "-q", "-j", 1) == 0
    assert (tmp_path / "run" / "report.html").exists()
    assert [line["verdict"] for line in lines_of(tmp_path / "run")] == ["proven"]
    assert "proven" in capsys.readouterr().out


def test_from_python(folder):
    model = carbide.load_model({"xgboost": str(folder / "m.json")}, space=carbide.load_data(folder / "loans.csv", label="bad").train.space, classes=2)
    found = carbide.prove_claims(model, [carbide.Monotone(feature="debt"), {"monotone": "income", "direction": "rises"}], seconds=10)
    assert [v.word for v in found] == ["proven", "broken"]
    prices = carbide.PriceTable(prices={"debt": carbide.Price(down=1.0)})
    (verdict,) = carbide.prove_claims(model, [carbide.NeverFlips(features=("debt",), money=9.0, prices=prices)])
    assert verdict.word == "broken"
    assert verdict.scores[0] >= 0.5 > verdict.scores[1]


WRONG = {
    "no property": ([{"smooth": "debt"}], "must name one of monotone, never_flips"),
    "unknown key": ([{"monotone": "debt", "way": 1}], "no key 'way'"),
    "unknown feature": ([{"monotone": "height"}], "'height' is not in the space"),
    "unknown direction": ([{"monotone": "debt", "direction": "up"}], "choose rises or falls"),
    "no prices": ([{"never_flips": "debt", "money": 1}], "needs a price table"),
    "no money": ([{"never_flips": "debt", "prices": PRICES}], "needs money"),
    "negative money": ([{"never_flips": "debt", "money": -1, "prices": PRICES}], "budget >= 0"),
    "about nobody": ([{"never_flips": "debt", "money": 1, "prices": PRICES, "about": "men"}], "choose space or rows"),
    "a feature without a price": ([{"never_flips": "visits", "money": 1, "prices": PRICES}], "has no price"),
    "no seconds": ([{"monotone": "debt", "seconds": 0}], "seconds is 0"),
    "nothing": ([], "threats is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_properties_are_one_sentence_and_exit_code_2(name, folder, tmp_path, capsys):
    properties, words = WRONG[name]
    assert run("prove", plan_of(folder, properties), "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_model_that_is_no_tree_is_refused(folder, tmp_path, capsys):
    plan = plan_of(folder, [{"monotone": "debt"}], model=None, recipe={"estimator": "logistic_regression"})
    assert run("prove", plan, "--out", tmp_path / "run") == 2
    assert "is no tree ensemble" in capsys.readouterr().err
