"""The images demo alone and beside another program that keeps a core busy, with small nets on one thread and on all.

python -m benchmarks.neighbour [--repeats 1]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import record

DEMO = """
import sys
from carbide.models import threads
threads.SMALL = {small}
sys.argv = ["carbide", "demo", "images", "--out", {out!r}, "--quiet"]
from carbide.cli import main
main()
"""
SIDES = {"one thread for a small net": "threads.SMALL", "all of torch's threads": "-1"}


@contextlib.contextmanager
def neighbour() -> Iterator[None]:
    """A busy loop beside what is measured."""
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def demo(small: str) -> tuple[float, bytes]:
    """Seconds of the demo from nothing, and its results."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", DEMO.format(small=small, out=folder)], check=True, capture_output=True)
        return time.perf_counter() - start, (Path(folder) / "results.json").read_bytes()


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1)
    given = parser.parse_args()
    taken: dict[tuple[str, bool], list[float]] = {}
    results: dict[str, set[bytes]] = {}
    for _ in range(given.repeats):
        for busy in (False, True):
            for name, small in SIDES.items():
                with neighbour() if busy else contextlib.nullcontext():
                    seconds, found = demo(small)
                taken.setdefault((name, busy), []).append(seconds)
                results.setdefault(name, set()).add(found)
    rows: list[dict[str, Any]] = []
    for name in SIDES:
        alone, beside = (statistics.median(taken[name, busy]) for busy in (False, True))
        rows.append({"threads": name, "alone s": round(alone, 1), "beside a busy program s": round(beside, 1), "times as long": round(beside / alone, 2),
                     "results of all runs": "byte-identical" if len(results[name]) == 1 else "differ"})  # fmt: skip
    robust = {name: json.loads(min(found))["gate"][0]["value"] for name, found in results.items()}
    record(
        "The house: a busy neighbour",
        rows,
        protocol=(
            f"`carbide demo images` from nothing on {len(os.sched_getaffinity(0))} cores, alone and beside one busy loop; median of {given.repeats}."
        ),
        notes=(
            "Sums of floats in another order make other hardened nets: robust accuracy "
            + ", ".join(f"{v:.3f} with {k}" for k, v in robust.items())
            + ".",
        ),
    )


if __name__ == "__main__":
    main()
