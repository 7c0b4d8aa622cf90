"""Real data through the command line with a plan file, as a user would: audit, harden, audit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"
pytestmark = [pytest.mark.shared, pytest.mark.slow, pytest.mark.skipif(not DATA.is_dir(), reason="the real data sets are not beside the project")]


def harden(tmp_path: Path, name: str, source: str, **changes: object) -> tuple[dict, str]:
    """Run an example's plan on the real file; its results.json and page."""
    plan = yaml.safe_load((ROOT / "examples" / f"{name}.yaml").read_text())
    plan["data"] |= {"source": str(DATA / source), **changes}
    for entry in plan["threats"]:
        for options in entry.values():
            if "prices" in options:
                options["prices"] = str(ROOT / "examples" / options["prices"])
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plan))
    done = subprocess.run([sys.executable, "-m", "carbide.cli", "harden", str(path), "--out", str(tmp_path / "run"), "--quiet"], capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    verified = subprocess.run([sys.executable, "-m", "carbide.cli", "verify", str(tmp_path / "run")], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    return json.loads((tmp_path / "run" / "results.json").read_text()), (tmp_path / "run" / "report.html").read_text()


def headlines(results: dict) -> list[float]:
    """The headline of the first threat before and after hardening."""
    return [next(f["value"] for f in phase["sections"][0]["findings"] if f["headline"]) for phase in results["phases"]]


def test_fashion_mnist(tmp_path):
    results, page = harden(tmp_path, "fashion-mnist", "fashion-mnist", rows=4000)
    before, after = headlines(results)
    assert before < 0.4
    assert after > before + 0.15
    assert "<html" in page


def test_ethereum_fraud(tmp_path):
    results, _ = harden(tmp_path, "ethereum", "ethereum-fraud/transaction_dataset.csv")
    before, after = headlines(results)
    assert results["phases"][0]["performance"]["recall"]["value"] > 0.8
    assert after >= before


def test_diabetes_130(tmp_path):
    results, _ = harden(tmp_path, "diabetes-130", "diabetes-130-hospitals/dataset_diabetes.zip::dataset_diabetes/diabetic_data.csv", rows=2500)
    before, after = headlines(results)
    assert before > 0.1
    assert after < before / 2
