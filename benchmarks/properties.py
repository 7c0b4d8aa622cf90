"""Pairs of a net and a VNN-LIB property, such as a track of the verification competition: how many are decided, how, and in what time.

    python -m benchmarks.properties INSTANCES.csv [--timeout 60] [--first 0] [--count 0]

The file lists ``net.onnx,property.vnnlib,seconds``; its own seconds are lowered to ``--timeout``. A counterexample counts only if the file's
own net confirms it in onnxruntime, which ``carbide prove`` sees to.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import record
from carbide._pairs import PropertyReport, prove_pairs, read_pairs


def line(name: str, found: Sequence[PropertyReport]) -> dict[str, Any]:
    """One line of the table."""
    verdicts, seconds = Counter(r.verdict for r in found), sorted(r.seconds for r in found)
    return {"property": name, "nets": len(found), "unsat": verdicts["unsat"], "sat": verdicts["sat"],
            "open": len(found) - verdicts["unsat"] - verdicts["sat"], "median s": median(seconds), "longest s": seconds[-1]}  # fmt: skip


def main() -> None:
    """Prove and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instances", type=Path)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=0, help="pairs to try, default all")
    given = parser.parse_args()
    pairs = read_pairs(given.instances, most=given.timeout)[given.first :]
    pairs = pairs[: given.count] if given.count else pairs
    found = list(prove_pairs(pairs))
    names = sorted({Path(str(pair.unsafe)).name for pair in pairs}, key=lambda name: (len(name), name))
    rows = [line(name, [r for p, r in zip(pairs, found, strict=True) if Path(str(p.unsafe)).name == name]) for name in names]
    how = Counter(r.how for r in found)
    record(f"Properties of nets: {given.instances.parent.name}", [*rows, line("all", found)], protocol=(
        f"{len(pairs)} pairs of an ONNX net and a VNN-LIB property, at most {given.timeout:g} s each, one process."),
        notes=("Decided by: " + ", ".join(f"{name or 'nothing'} {count}" for name, count in how.most_common()) + ".",))  # fmt: skip


if __name__ == "__main__":
    main()
