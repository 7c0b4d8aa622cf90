"""Wrong price tables, spaces, models and rows of a table from the command line: one sentence, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import yaml
from sklearn.ensemble import RandomForestClassifier
from xgboost import XGBClassifier

from carbide.cli import app, guarded

FEATURES = [{"name": "amount", "lower": 0, "upper": 99}, {"name": "limit", "lower": 0, "upper": 99},
            {"name": "country", "kind": "categorical", "categories": ["DE", "FR"]}]  # fmt: skip
PRICES = {"prices": {"amount": {"down": 1}}}


def rows(n=120, *, country=("DE", "FR"), bad=None):
    rng = np.random.default_rng(0)
    x = np.sort(rng.uniform(1, 99, (n, 2)), axis=1).round(1)
    label = (x[:, 0] > 40).astype(int) if bad is None else np.full(n, bad)
    lines = [f"{a},{b},{rng.choice(country)},{y}" for (a, b), y in zip(x.tolist(), label, strict=True)]
    return "\n".join(["amount,limit,country,bad", *lines])


def world(folder, *, space=None, prices=PRICES, data=None, more=None, **plan):
    (folder / "rows.csv").write_text(rows() if data is None else data)
    (folder / "space.json").write_text(json.dumps({"features": FEATURES} | (space or {})))
    (folder / "prices.json").write_text(json.dumps(prices))
    whole = {"data": {"source": "rows.csv", "label": "bad", "space": "space.json"} | (more or {}), "recipe": {"estimator": "random_forest", "params": {"n_estimators": 5}},
             "threats": [{"evasion": {"money": 5, "prices": "prices.json", "harden": []}}]} | plan  # fmt: skip
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in whole.items() if v is not None}))
    return path


def run(*words):
    return guarded(lambda: app([str(w) for w in words], standalone_mode=False))


def linear(upper, **terms):
    return {"linear": terms, "upper": upper}


def other_features(folder):
    model = XGBClassifier(n_estimators=2, n_jobs=1).fit(np.random.default_rng(0).normal(size=(40, 5)), [0, 1] * 20)
    model.get_booster().save_model(folder / "m.json")
    return {"model": {"xgboost": "m.json"}}


def large(folder, amount):
    others = [f"{i + 0.25},{i + 0.75},DE,{i % 2}" for i in range(40)]
    (folder / "test.csv").write_text("\n".join(["amount,limit,country,bad", f"{amount},50,DE,1", *others]))
    return {"space": {"features": [{"name": "amount"}, *FEATURES[1:]]}, "more": {"test": "test.csv"}}


def pickled(folder):
    model = RandomForestClassifier(2).fit(np.random.default_rng(0).normal(size=(40, 3)), [0, 1] * 20)
    (folder / "m.pkl").write_bytes(pickle.dumps(model))
    return {"model": {"sklearn": "m.pkl"}}


WRONG = {
    "a price for no column": (lambda f: {"prices": {"prices": {"amuont": {"down": 1}}}}, "'amuont'"),
    "a gain that is no column": (lambda f: {"prices": PRICES | {"gain": "loot"}}, "'loot'"),
    "a negative price": (lambda f: {"prices": {"prices": {"amount": {"down": -1}}}}, "price down of amount is -1"),
    "a negative fixed price": (lambda f: {"prices": {"prices": {"amount": {"down": 1, "fixed": -2}}}}, "price fixed of amount is -2"),
    "a price in words": (lambda f: {"prices": {"prices": {"amount": {"down": "much"}}}}, "'much'"),
    "a negative price in a matrix": (lambda f: {"prices": {"prices": {"country": {"matrix": [[0, -1], [1, 0]]}}}}, "matrix of country holds -1"),
    "a matrix for other categories": (lambda f: {"prices": {"prices": {"country": {"matrix": [[0, 1, 1], [1, 0, 1], [1, 1, 0]]}}}}, "3 rows"),
    "a price for staying": (lambda f: {"prices": {"prices": {"country": {"matrix": [[2, 1], [1, 0]]}}}}, "for staying"),
    "a price table that is no JSON": (lambda f: {"threats": [{"evasion": {"money": 5, "prices": "rows.csv"}}]}, "rows.csv is not JSON"),
    "a price table that is not there": (lambda f: {"threats": [{"evasion": {"money": 5, "prices": "none.json"}}]}, "none.json"),
    "a negative budget": (lambda f: {"threats": [{"evasion": {"money": -5, "prices": "prices.json"}}]}, "money is -5"),
    "a relation that cannot hold": (lambda f: {"space": {"relations": [linear(-1, amount=1)]}}, "relation 0 cannot hold"),
    "relations that contradict each other": (lambda f: {"space": {"relations": [linear(-1, amount=1, limit=-1), linear(-1, limit=1, amount=-1)]}},
                                             "relations 0, 1 contradict each other"),
    "a relation about no column": (lambda f: {"space": {"relations": [linear(0, amuont=1)]}}, "'amuont'"),
    "a model with other features": (other_features, "5"),
    "a pickle": (pickled, "m.pkl"),
    "a category that the space does not list": (lambda f: {"data": rows(country=("DE", "FR", "IT"))}, "'IT'"),
    "a number too large for trees": (lambda f: large(f, "1e308"), "amount = 1e+308, too large for RandomForestClassifier"),
    "a number hardly too large for trees": (lambda f: large(f, "-3.5e38"), "amount = -3.5e+38, too large for RandomForestClassifier"),
    "a price table of nothing": (lambda f: {"prices": {"prices": {}}}, "prices no change"),
    "all rows of one class": (lambda f: {"data": rows(bad=0)}, "holds one value only"),
    "all rows frauds": (lambda f: {"data": rows(bad=1)}, "holds one value only"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("verb", ["audit", "prove"])
def test_it_is_said_in_one_sentence(name, verb, tmp_path, capsys):
    make, words = WRONG[name]
    code = run(verb, world(tmp_path, **make(tmp_path)), "--out", tmp_path / "run", "-j", 1, "-q")
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.startswith("carbide: ")
    assert said.count("\n") == 1, said
    assert words in said, said
    assert not (tmp_path / "run" / "results.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_the_same_plan_without_the_fault_runs(tmp_path):
    relations = [linear(0, amount=1, limit=-1)]
    assert run("audit", world(tmp_path, space={"relations": relations}), "--out", tmp_path / "run", "-j", 1, "-q") == 0
    assert (tmp_path / "run" / "results.json").exists()
