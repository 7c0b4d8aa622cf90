"""The command line as a user meets it: a plan from start to gate, wrong input of every kind, kills, and what each exit code means."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

import carbide
from carbide.cli import app, guarded
from carbide.plan import plan_schema
from carbide.report.results_json import results_schema
from carbide.run.store import decode, encode


def write_csv(path: Path, n: int = 240, *, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    y = (x @ [2.0, -1.0, 0.5] + 0.3 * rng.normal(size=n) > 0).astype(int)
    rows = ["income,debt,age,bad", *(f"{a:.6f},{b:.6f},{c:.6f},{label}" for (a, b, c), label in zip(x, y, strict=True))]
    path.write_text("\n".join(rows))
    return path


def plan_of(folder: Path, **changes: object) -> Path:
    plan = {
        "data": {"source": str(write_csv(folder / "loans.csv")), "label": "bad"},
        "recipe": {"estimator": "logistic_regression", "params": {"C": 1.0}},
        "threats": [{"extraction": {"queries": 30, "harden": []}}, {"poisoning": {"flips": 0.1, "harden": []}}],
        "gate": {"accuracy": ">= 0.6"},
    }
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in (plan | changes).items() if v is not None}))
    return path


def run(*words: object) -> int:
    return guarded(lambda: app([str(w) for w in words], standalone_mode=False))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert run("harden", plan_of(folder), "--out", folder / "run", "-j", 1) == 0
    return folder / "run"


def test_a_run_holds_what_the_documentation_names(finished):
    for name in ("plan.yaml", "results.json", "timings.json", "report.html", "plain", "hardened/card.md", "evidence/plain-0-extraction.npz"):
        assert (finished / name).exists(), name
    results = json.loads((finished / "results.json").read_text())
    jsonschema.validate(results, results_schema())
    jsonschema.validate(yaml.safe_load((finished / "plan.yaml").read_text()), plan_schema())
    assert "http://" not in (finished / "report.html").read_text().replace("http://www.w3.org", "")


def test_the_same_command_computes_nothing_again_and_gives_the_same_bytes(finished, tmp_path, capsys):
    before, steps = (finished / "results.json").read_bytes(), (finished / "steps.jsonl").read_bytes()
    assert run("harden", finished.parent / "plan.yaml", "--out", finished, "-j", 1) == 0
    assert (finished / "steps.jsonl").read_bytes() == steps
    assert (finished / "results.json").read_bytes() == before
    assert run("harden", finished.parent / "plan.yaml", "--out", tmp_path / "fresh", "-j", 2) == 0
    assert (tmp_path / "fresh" / "results.json").read_bytes() == before
    assert "Next: carbide verify" in capsys.readouterr().out


def test_verify_finds_a_number_that_does_not_follow_from_the_evidence(finished, tmp_path, capsys):
    assert run("verify", finished) == 0
    assert "agrees  plain: fidelity" in capsys.readouterr().out
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    results = json.loads((copy / "results.json").read_text())
    finding = results["phases"][0]["sections"][0]["findings"][0]
    finding["value"] = 0.123
    (copy / "results.json").write_text(json.dumps(results))
    assert run("verify", copy) == 1
    assert "DIFFERS  plain: fidelity 0.123" in capsys.readouterr().out


def test_verify_finds_evidence_that_was_tampered_with(finished, tmp_path, capsys):
    copy = tmp_path / "run"
    subprocess.run(["cp", "-r", str(finished), str(copy)], check=True)
    file = copy / "evidence" / "plain-1-poisoning.npz"
    section = decode(file.read_bytes())
    evidence = {k: (1 - v if k.endswith(".predicted") else v) for k, v in section.evidence.items()}
    object.__setattr__(section, "evidence", evidence)
    file.write_bytes(encode(section))
    assert run("verify", copy) == 1
    assert "do not rely on it" in capsys.readouterr().out


def test_gate_passes_fails_and_never_passes_what_was_not_measured(finished, tmp_path, capsys):
    assert run("gate", finished) == 0
    assert (
        run("gate", finished, "--rule", "accuracy >= 0.6", "--rule", "fidelity <= 0.1", "--sarif", tmp_path / "s.json", "--junit", tmp_path / "j.xml")
        == 1
    )
    assert "FAIL  fidelity" in capsys.readouterr().out
    sarif = json.loads((tmp_path / "s.json").read_text())
    assert sarif["version"] == "2.1.0"
    assert len(sarif["runs"][0]["results"]) >= 1
    assert "<failure" in (tmp_path / "j.xml").read_text()
    assert run("gate", finished, "--rule", "robust_accuracy >= 0.0") == 1
    assert run("gate", finished, "--rule", "beauty >= 0.5") == 2


def test_a_gate_that_fails_is_exit_code_1_of_the_run_itself(tmp_path, capsys):
    plan = plan_of(tmp_path, gate={"accuracy": ">= 0.9999"}, threats=[{"extraction": {"queries": 20}}])
    assert run("audit", plan, "--out", tmp_path / "run", "-j", 1) == 1
    assert "FAIL  accuracy >= 0.9999" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").exists()


def test_report_is_written_again(finished):
    page = (finished / "report.html").read_text()
    (finished / "report.html").unlink()
    assert run("report", finished) == 0
    assert (finished / "report.html").read_text() == page


def test_a_model_file_alone_with_data(tmp_path, capsys):
    import skops.io

    x = np.loadtxt(write_csv(tmp_path / "loans.csv"), delimiter=",", skiprows=1)
    skops.io.dump(LogisticRegression().fit(x[:, :3], x[:, 3].astype(int)), tmp_path / "m.skops")
    assert run("audit", tmp_path / "m.skops", "--data", tmp_path / "loans.csv", "--label", "bad", "--eps", "0.1", "--out", tmp_path / "run") == 0
    assert "Open in a browser" in capsys.readouterr().out


# Wrong input ----------------------------------------------------------------------------------------------------------


def spoil(text: str) -> dict[str, object]:
    return {"data": {"source": text, "label": "bad"}}


def rewrite(folder: Path, change) -> dict[str, object]:
    path = write_csv(folder / "spoiled.csv")
    path.write_text(change(path.read_text()))
    return spoil(str(path))


def truncated(folder: Path) -> dict[str, object]:
    from xgboost import XGBClassifier

    x = np.random.default_rng(0).normal(size=(60, 3))
    XGBClassifier(n_estimators=3).fit(x, x[:, 0] > 0).save_model(folder / "m.json")
    text = (folder / "m.json").read_text()
    (folder / "m.json").write_text(text[: len(text) // 2])
    return {"model": {"xgboost": str(folder / "m.json")}, "recipe": None, "threats": [{"extraction": {"queries": 20}}]}


def narrow(folder: Path) -> dict[str, object]:
    from xgboost import XGBClassifier

    x = np.random.default_rng(0).normal(size=(60, 2))
    XGBClassifier(n_estimators=3).fit(x, x[:, 0] > 0).save_model(folder / "m.json")
    return {"model": {"xgboost": str(folder / "m.json")}, "recipe": None, "threats": [{"extraction": {"queries": 20}}]}


def mislabelled(folder: Path) -> dict[str, object]:
    (folder / "m.onnx").write_text("tree\nversion=v4\n")
    return {"model": {"onnx": str(folder / "m.onnx")}, "recipe": None, "threats": [{"extraction": {"queries": 20}}]}


class Hostile:
    def __reduce__(self):
        return os.system, ("touch /tmp/carbide-was-here",)


def pickled(value: object):
    def make(folder: Path) -> dict[str, object]:
        (folder / "m.pkl").write_bytes(pickle.dumps(value))
        return {"model": {"sklearn": str(folder / "m.pkl")}, "recipe": None, "threats": [{"extraction": {"queries": 20}}]}

    return make


WRONG = {
    "no such plan key": (lambda f: {"modle": 1}, "modle is not a key of a plan"),
    "no such threat": (lambda f: {"threats": [{"evasoin": {}}]}, "threat 'evasoin' is not known"),
    "no such method": (lambda f: {"threats": [{"extraction": {"audit": ["nockoff"]}}]}, "'nockoff'"),
    "no such option": (lambda f: {"threats": [{"extraction": {"audit": {"knockoff": {"speed": 3}}}}]}, "no option 'speed'"),
    "no such file": (lambda f: spoil(str(f / "nothing.csv")), "nothing.csv"),
    "empty file": (lambda f: rewrite(f, lambda t: ""), "spoiled.csv"),
    "header only": (lambda f: rewrite(f, lambda t: t.splitlines()[0]), "spoiled.csv"),
    "missing label column": (lambda f: {"data": {"source": str(write_csv(f / "d.csv")), "label": "fraud"}}, "fraud"),
    "one class only": (lambda f: rewrite(f, lambda t: "\n".join(line[:-1] + "0" if line[-1] == "1" else line for line in t.splitlines())), "class"),
    "NaN": (lambda f: rewrite(f, lambda t: t.replace(t.splitlines()[5].split(",")[0], "nan")), "missing"),
    "text in a number column": (lambda f: {"data": {"source": str(write_csv(f / "d.csv")), "label": "bad", "drop": ["age", "nonsense"]}}, "nonsense"),
    "unknown estimator": (lambda f: {"recipe": {"estimator": "oracle"}}, "oracle"),
    "two ways to train": (lambda f: {"recipe": {"estimator": "logistic_regression", "torch": {"epochs": 1}}}, "recipe names both estimator and torch"),
    "a key of data under options": (lambda f: {"data": {"source": str(write_csv(f / "d.csv")), "options": {"label": "bad"}}}, "options names 'label'"),
    "a key of the plan under options": (lambda f: {"data": {"source": str(write_csv(f / "d.csv")), "label": "bad", "options": {"seed": 3}}}, "options names 'seed'"),
    "a separator that is none": (lambda f: {"data": {"source": str(write_csv(f / "d.csv")), "label": "bad", "options": {"separator": 5}}}, "separator is 5"),
    "unknown parameter": (lambda f: {"recipe": {"estimator": "logistic_regression", "params": {"Z": 1}}}, "Z"),
    "truncated model": (truncated, "m.json"),
    "model with other features": (narrow, "2"),
    "mislabelled model": (mislabelled, "m.onnx"),
    "benign pickle": (pickled(LogisticRegression()), "m.pkl"),
    "hostile pickle": (pickled(Hostile()), "m.pkl"),
    "eps wider than the range": (lambda f: {"threats": [{"evasion": {"eps": "8/0"}}]}, "8/0"),
    "flips of less than a row": (lambda f: {"threats": [{"poisoning": {"flips": 1e-6}}]}, "not one row"),
    "negative accuracy loss": (lambda f: {"harden": {"accuracy_loss": -1}}, "accuracy_loss"),
    "gate nobody knows": (lambda f: {"gate": {"beauty": ">= 1"}}, "beauty"),
    "endpoint that nobody answers": (lambda f: {"model": {"http": {"url": "http://127.0.0.1:9/predict", "timeout": 0.5}}, "recipe": None,
                                                "threats": [{"extraction": {"queries": 20}}]}, "127.0.0.1:9"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(name, tmp_path, capsys):
    make, words = WRONG[name]
    Path("/tmp/carbide-was-here").unlink(missing_ok=True)
    plan = plan_of(tmp_path, **make(tmp_path))
    code = run("harden", plan, "--out", tmp_path / "run", "-j", 1, "-q")
    said = capsys.readouterr().err
    assert code == 2, said
    assert said.startswith("carbide: ")
    assert said.count("\n") == 1, said
    assert words in said
    assert not (tmp_path / "run" / "results.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert not Path("/tmp/carbide-was-here").exists()


def test_a_plan_that_is_no_yaml_or_not_there(tmp_path, capsys):
    (tmp_path / "plan.yaml").write_text("data: [unclosed")
    assert run("audit", tmp_path / "plan.yaml") == 2
    assert run("audit", tmp_path / "no.yaml") == 2
    assert run("audit", tmp_path / "model.bin", "--data", "patients") == 2
    assert run("audit", "--nonsense") == 2
    assert run("demo", "faces") == 2
    assert run("verify", tmp_path) == 2
    assert run("gate", tmp_path) == 2
    assert run("report", tmp_path) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("bad", ["/dev/null/run", "/proc/run", "n" * 300, "plan.yaml", "plan.yaml/run"])
def test_a_folder_that_cannot_be_made_is_said(bad, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    plan = plan_of(tmp_path)
    assert run("audit", plan, "--out", bad, "-j", 1, "-q") == 2
    said = capsys.readouterr().err
    assert said.startswith("carbide: cannot write ")
    assert "choose another folder with --out" in said
    assert said.count("\n") == 1, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["loans.csv", "plan.yaml"]


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path, monkeypatch, capsys):
    real = os.fsync
    left = [3]

    def full(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    plan = plan_of(tmp_path)
    assert run("harden", plan, "--out", tmp_path / "run", "-j", 1, "-q") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / "run").rglob("*.tmp"))
    monkeypatch.undo()
    assert run("harden", plan, "--out", tmp_path / "run", "-j", 1, "-q") == 0


def test_a_fault_of_carbide_is_exit_code_3(tmp_path, monkeypatch, capsys):
    import carbide.pipeline

    monkeypatch.setattr(carbide.pipeline, "audit_case", lambda *_, **__: 1 / 0)
    assert run("audit", plan_of(tmp_path), "--out", tmp_path / "run", "-q") == 3
    assert "a fault of Carbide" in capsys.readouterr().err


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(finished, tmp_path):
    command = [sys.executable, "-m", "carbide.cli", "harden", str(finished.parent / "plan.yaml"), "--out", str(tmp_path / "run"), "--quiet"]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and len(list((tmp_path / "run").glob("steps/*.npz"))) < 2:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "run" / "results.json").exists()
    assert run("harden", finished.parent / "plan.yaml", "--out", tmp_path / "run", "-j", 1, "-q") == 0
    assert (tmp_path / "run" / "results.json").read_bytes() == (finished / "results.json").read_bytes()
    files = [json.loads(line)["file"] for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert len(files) == len(set(files))


def test_an_interrupt_says_how_to_go_on(monkeypatch, tmp_path, capsys):
    import carbide.pipeline

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(carbide.pipeline, "audit_case", interrupt)
    assert run("audit", plan_of(tmp_path), "--out", tmp_path / "run", "-q") == 130
    assert "give the same command again" in capsys.readouterr().err


def test_nothing_heavy_is_loaded_to_say_hello():
    code = "import sys, carbide, carbide.cli; print([m for m in ('torch', 'sklearn', 'scipy', 'numba', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_data_fit_the_space_that_was_drafted_from_them(tmp_path):
    values = np.random.default_rng(0).normal(size=(200, 8))
    values[np.arange(8) * 20, np.arange(8)] = 1e6  # each column has one far row, and not all of these fall into the training rows
    lines = [",".join([*(f"{v:.3f}" for v in row), str(i % 2)]) for i, row in enumerate(values)]
    (tmp_path / "data.csv").write_text("\n".join(["a,b,c,d,e,f,g,h,label", *lines]))
    draft = tmp_path / "space.json"
    assert run("space", "infer", str(tmp_path / "data.csv"), "--label", "label", "--out", str(draft)) == 0
    whole = carbide.load_data(tmp_path / "data.csv", label="label", space=draft)
    assert sum(len(part) for part in (whole.train, whole.validation, whole.test)) == 200
    assert run("space", "show", str(draft)) == 0


def test_methods_and_schemas_are_printed(capsys):
    assert run("methods", "--room", "privacy", "--verb", "audit", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["name"] for row in rows} >= {"lira", "loss_threshold"}
    assert all(row["paper"].count("http") for row in rows)
    assert run("methods") == 0
    capsys.readouterr()
    assert run("schema", "plan") == 0
    jsonschema.Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
    assert run("space", "infer", "patients", "--out", "/dev/null/space.json") == 2
