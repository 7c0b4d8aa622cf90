"""``carbide verify`` on runs that were falsified: every number that a reader or a gate relies on, one at a time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml

import carbide
from carbide.pipeline import read_answers
from carbide.run.store import decode, encode
from carbide.verify import check_run, verify_run
from tests.test_cli import run, write_csv

THREATS = {
    "evasion": {"evasion": {"norm": "linf", "eps": 0.1, "harden": []}},
    "privacy": {"membership": {"audit": {"lira": {"shadows": 8}}, "harden": []}},
    "flips": {"poisoning": {"flips": 0.1, "harden": []}},
    "backdoor": {"poisoning": {"backdoor": 0.1, "target": 0, "harden": []}},
    "extraction": {"extraction": {"queries": 30, "harden": []}},
}
ROOMS = list(THREATS)
VERBS = ("audit", "harden")
PHASES = [("audit", 0), ("harden", 0), ("harden", 1)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify")
    plan = {
        "data": {"source": str(write_csv(folder / "loans.csv")), "label": "bad"},
        "recipe": {"estimator": "random_forest", "params": {"n_estimators": 4, "max_depth": 3}},
        "threats": list(THREATS.values()),
        "gate": {"accuracy": ">= 0.999", "robust_accuracy": ">= 0.01"},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan))
    for verb in VERBS:
        assert run(verb, folder / "plan.yaml", "--out", folder / verb, "-j", 1, "-q") == 1  # its gate fails
    return folder


def falsified(runs, tmp_path, verb: str, change: Callable[[dict[str, Any]], Any]) -> list[Any]:
    """The checks that do not agree once results.json was changed; the exit code must say so too."""
    copy = shutil.copytree(runs / verb, tmp_path / "copy", ignore=shutil.ignore_patterns("steps", "report.html"))
    document = json.loads((copy / "results.json").read_text())
    change(document)
    (copy / "results.json").write_text(json.dumps(document))
    assert run("verify", copy) == 1
    wrong = [check for check in verify_run(copy) if not check.agrees]
    shutil.rmtree(copy)
    return wrong


@pytest.mark.parametrize("verb", VERBS)
def test_an_honest_run_agrees_and_what_was_not_checked_is_said(runs, verb, capsys):
    assert run("verify", runs / verb) == 0
    said = capsys.readouterr().out
    assert "DIFFERS" not in said
    assert "not checked: " in said
    assert "latency" in said
    names = {check.metric for check in check_run(runs / verb).checks}
    assert {"accuracy after poisoning (label_flips)", "robust accuracy", "fidelity", "membership AUC", "accuracy"} <= names


@pytest.mark.parametrize(("verb", "phase"), PHASES)
@pytest.mark.parametrize("room", ROOMS)
def test_every_falsified_finding_differs(runs, tmp_path, verb, phase, room):
    at = ROOMS.index(room)
    findings = json.loads((runs / verb / "results.json").read_text())["phases"][phase]["sections"][at]["findings"]
    for i, finding in enumerate(findings):
        for key, lie in (
            ("value", 0.0123),
            ("n", 100_000),
            ("low", -0.5),
            ("high", 1.5),
            ("method", "nobody"),
            ("headline", not finding["headline"]),
        ):
            if i and key not in ("value", "n"):
                continue

            def change(document, i=i, key=key, lie=lie):
                document["phases"][phase]["sections"][at]["findings"][i][key] = lie

            assert falsified(runs, tmp_path, verb, change), (finding["metric"], key)


@pytest.mark.parametrize(("verb", "phase"), PHASES)
@pytest.mark.parametrize("room", ROOMS)
def test_findings_that_were_taken_away_or_added_are_missed(runs, tmp_path, verb, phase, room):
    def sections(document):
        return document["phases"][phase]["sections"]

    at = ROOMS.index(room)
    wrong = falsified(runs, tmp_path, verb, lambda d: sections(d)[at].update(findings=[]))
    assert any("missing in results.json" in check.words for check in wrong)
    wrong = falsified(runs, tmp_path, verb, lambda d: sections(d)[at]["findings"].pop(0))
    assert any("missing in results.json" in check.words for check in wrong)
    wrong = falsified(runs, tmp_path, verb, lambda d: sections(d)[at]["findings"].insert(0, sections(d)[at]["findings"][0] | {"metric": "beauty"}))
    assert any("there is no evidence of it" in check.words for check in wrong)
    wrong = falsified(runs, tmp_path, verb, lambda d: sections(d).pop(at))
    assert wrong


@pytest.mark.parametrize("metric", ["accuracy", "recall", "false_positive_rate", "worst_class"])
@pytest.mark.parametrize("key", ["value", "n", "low", "high"])
def test_falsified_performance_differs(runs, tmp_path, metric, key):
    for verb, phase in PHASES:
        wrong = falsified(runs, tmp_path, verb, lambda d, phase=phase: d["phases"][phase]["performance"][metric].update({key: 7}))
        assert all(check.metric.startswith(metric) for check in wrong)


LIES = {
    "hardened phase gone": lambda d: d["phases"].pop(),
    "plain phase gone": lambda d: d["phases"].pop(0),
    "phases swapped": lambda d: d["phases"].reverse(),
    "names of the phases swapped": lambda d: [p.update(name=name) for p, name in zip(d["phases"], ("hardened", "plain"), strict=True)],
    "gate passed": lambda d: [line.update(passed=True) for line in d["gate"]],
    "gate shorter": lambda d: d["gate"].pop(0),
    "gate of the plan laxer": lambda d: d["plan"]["gate"].pop("accuracy"),
    "gate laxer in both": lambda d: (d["plan"]["gate"].pop("accuracy"), d["gate"].pop(0)),
    "brackets": lambda d: [b.update(certified=0.99) for p in d["phases"] for b in p["brackets"]],
    "certificates": lambda d: [c.update(held=c["n"]) for p in d["phases"] for s in p["sections"] for c in s["certificates"]],
    "certificates gone": lambda d: [s.update(certificates=[]) for p in d["phases"] for s in p["sections"]],
    "what did not run": lambda d: [s.update(skipped=[]) for p in d["phases"] for s in p["sections"]],
    "threshold": lambda d: d["phases"][0].update(threshold=0.9),
    "not a number": lambda d: d["phases"][0]["sections"][0]["findings"][0].update(value=None),
}


@pytest.mark.parametrize("name", LIES)
def test_other_lies_are_found(runs, tmp_path, name):
    assert falsified(runs, tmp_path, "harden", LIES[name])


def test_evidence_that_was_changed_together_with_the_report_is_counted_again(runs, tmp_path):
    copy = shutil.copytree(runs / "audit", tmp_path / "copy", ignore=shutil.ignore_patterns("steps"))
    document = json.loads((copy / "results.json").read_text())
    for at, room in enumerate(("evasion", "privacy", "poisoning", "poisoning", "extraction")):
        file = copy / "evidence" / f"plain-{at}-{room}.npz"
        section = decode(file.read_bytes())
        for i, finding in enumerate(section.findings):
            if finding.headline or i == 0:
                object.__setattr__(finding, "value", 0.0123)
                document["phases"][0]["sections"][at]["findings"][i]["value"] = 0.0123
        file.write_bytes(encode(section))
    (copy / "results.json").write_text(json.dumps(document))
    wrong = {check.metric for check in verify_run(copy) if not check.agrees}
    for metric in ("robust accuracy", "membership", "accuracy after poisoning (label_flips)", "attack success rate", "fidelity"):
        assert any(name.startswith(metric) for name in wrong), metric


def test_evidence_of_a_run_that_asked_for_more_goes(runs, tmp_path):
    copy = shutil.copytree(runs / "harden", tmp_path / "copy")
    assert run("audit", runs / "plan.yaml", "--out", copy, "-j", 1, "-q") == 1
    assert not list((copy / "evidence").glob("*hardened*"))
    assert not (copy / "hardened").exists()
    assert all(check.agrees for check in verify_run(copy))
    assert (copy / "results.json").read_bytes() == (runs / "audit" / "results.json").read_bytes()


def test_performance_is_counted_from_the_answers(runs):
    answers = read_answers(runs / "audit", "plain")
    document = json.loads((runs / "audit" / "results.json").read_text())["phases"][0]["performance"]
    y, decided = answers["y"], answers["decided"]
    assert document["accuracy"]["value"] == pytest.approx(np.mean(y == decided))
    assert document["recall"]["value"] == pytest.approx(np.mean(decided[y == 1] == 1))
    assert document["false_positive_rate"]["value"] == pytest.approx(np.mean(decided[y == 0] == 1))


def test_a_run_from_python_is_verified_with_its_gate(tmp_path):
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = (x[:, 0] > 0).astype(int)
    report = carbide.audit(LogisticRegression().fit(x, y), (x, y), threats=[{"extraction": {"queries": 20}}], gate={"accuracy": ">= 0.5", "strict": True},
                           out=tmp_path / "run", quiet=True, workers=1)  # fmt: skip
    assert report.passed
    checks = verify_run(tmp_path / "run")
    assert all(check.agrees for check in checks)
    assert [check.metric for check in checks if check.phase == "gate"] == ["accuracy >= 0.5"]
    assert run("gate", tmp_path / "run") == 0


def test_a_function_of_the_users_own_runs_only_if_it_is_named(tmp_path):
    """In processes of their own, as what a plan names is allowed in the process that read it."""
    (tmp_path / "mynets.py").write_text("import torch\ndef make(**options):\n    return torch.nn.Linear(2, 2)\n")
    rng = np.random.default_rng(0)
    x = rng.random((120, 2))
    np.savez(tmp_path / "all.npz", x=x, y=(x[:, 0] > 0.5).astype(int))
    plan = {"data": "all.npz", "recipe": {"torch": {"factory": "mynets:make", "epochs": 2}}, "attack_rows": 10,
            "threats": [{"evasion": {"norm": "linf", "eps": 0.1, "audit": {"pgd": {}}}}]}  # fmt: skip
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
        return subprocess.run(
            [sys.executable, "-m", "carbide.cli", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    assert ask("audit", "plan.yaml", "--out", "run", "-j", "1", "-q").returncode == 0
    refused = ask("verify", "run")
    assert refused.returncode == 2
    assert "with --allow mynets:make" in refused.stderr
    assert "Traceback" not in refused.stderr
    allowed = ask("verify", "run", "--allow", "mynets:make")
    assert allowed.returncode == 0, allowed.stderr
    assert "agrees  plain: robust accuracy" in allowed.stdout
