"""The house itself: import times, the demo's time, the same bytes for the same seed, kills at random moments, and a clean clone.

    python -m benchmarks.house [--kills 20]
    python -m benchmarks.house --clone

The second clones the committed tree and times ``make demo`` (with the install), ``make check`` and ``make test`` there.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import record

CARBIDE = [sys.executable, "-m", "carbide.cli"]


def seconds(command: list[str], repeats: int) -> float:
    """Median wall time of a command."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def imports() -> list[dict[str, Any]]:
    """Start-up times against ``import numpy``."""
    numpy = seconds([sys.executable, "-c", "import numpy"], 15)
    rows = [{"what": "python -c 'import numpy'", "measured": f"{numpy * 1e3:.0f} ms", "to reach": ""}]
    for name, command in (("import carbide", [sys.executable, "-c", "import carbide"]), ("carbide --help", [*CARBIDE, "--help"])):
        taken = seconds(command, 15)
        rows.append({"what": name, "measured": f"{taken * 1e3:.0f} ms, {taken / numpy:.2f}x numpy", "to reach": "under 2x"})
    return rows


def demo(folder: Path) -> tuple[float, dict[str, bytes]]:
    """Seconds of the whole demo and its results by story."""
    start = time.perf_counter()
    subprocess.run([*CARBIDE, "demo", "--out", str(folder), "--quiet"], check=True, capture_output=True)
    taken = time.perf_counter() - start
    return taken, results_in(folder)


def results_in(folder: Path) -> dict[str, bytes]:
    """The bytes of every results.json below a folder."""
    return {str(p.parent.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("*/results.json"))}


def kill_and_resume(folder: Path, wait: float) -> int | None:
    """Start the demo in the folder, kill its whole process group after ``wait`` seconds; None if it ended before that."""
    process = subprocess.Popen(
        [*CARBIDE, "demo", "--out", str(folder), "--quiet"], start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        process.wait(wait)
        return process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


def repeated(folder: Path) -> int:
    """Steps that were computed more than once in the runs below a folder."""
    twice = 0
    for log in folder.glob("*/steps.jsonl"):
        files = [json.loads(line)["file"] for line in log.read_text().splitlines() if line.endswith("}")]
        twice += len(files) - len(set(files))
    return twice


def tell_difference(truth: dict[str, bytes], found: dict[str, bytes]) -> None:
    """Print the lines in which results differ, so that a failure can be understood after its folder is gone."""
    for story in sorted(truth.keys() | found.keys()):
        lines = [which.get(story, b"").decode().splitlines() for which in (truth, found)]
        for line in difflib.unified_diff(*lines, f"{story}, undisturbed", f"{story}, killed", lineterm="", n=1):
            print(line, file=sys.stderr)


def kills(count: int, truth: dict[str, bytes], whole: float, seed: int) -> dict[str, Any]:
    """Kill -9 at random moments, each in a demo that goes on until the next kill; every run must end with the same bytes."""
    rng = random.Random(seed)
    done = same = twice = used = 0
    while used < count:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            while used < count and kill_and_resume(folder, rng.uniform(0.5, whole * 0.6)) is None:
                used += 1
            subprocess.run([*CARBIDE, "demo", "--out", str(folder), "--quiet"], check=True, capture_output=True)
            done += 1
            found = results_in(folder)
            same += found == truth
            tell_difference(truth, found)
            twice += repeated(folder)
    return {"what": f"kill -9 at {used} random moments", "measured": f"{done} demos finished, {same} with the same results.json, {twice} steps computed twice",
            "to reach": "all, all, 0"}  # fmt: skip


def clone() -> list[dict[str, Any]]:
    """Times of the make targets in a clean clone, the first of which installs everything into an environment of its own."""
    limits = {"demo": "under 6 minutes with the install", "check": "", "test": "under 10 minutes"}
    rows = []
    with tempfile.TemporaryDirectory() as name:
        subprocess.run(["git", "clone", "--quiet", str(Path(__file__).parents[1]), f"{name}/clone"], check=True)
        for target, limit in limits.items():
            start = time.perf_counter()
            done = subprocess.run(["make", target], cwd=f"{name}/clone", capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"make {target} failed in the clone:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
            said = next((line for line in reversed(done.stdout.splitlines()) if re.search(r"\d passed", line)), "")
            rows.append({"what": f"make {target}", "measured": f"{time.perf_counter() - start:.0f} s{'; ' if said else ''}{said}", "to reach": limit})
    return rows


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--clone", action="store_true")
    options = parser.parse_args()
    if options.clone:
        record("The house from a clean clone", clone(), protocol="The committed tree cloned into an empty folder; each target once, in this order.")
        return
    rows = imports()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        cold, truth = demo(Path(first))
        warm, again = demo(Path(second))
    rows.append({"what": "carbide demo, three stories", "measured": f"{cold:.0f} s, again {warm:.0f} s", "to reach": "under 120 s"})
    rows.append({"what": "same seed twice", "measured": "byte-identical" if truth == again else "DIFFERENT", "to reach": "byte-identical"})
    rows.append(kills(options.kills, truth, warm, seed=0))
    record(
        "The house",
        rows,
        protocol="Medians of 15 starts; the demo is run twice from nothing, then killed with its whole process group at uniformly random moments.",
    )


if __name__ == "__main__":
    main()
