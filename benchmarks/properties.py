"""Pairs of a net and a VNN-LIB property, such as a track of the verification competition: how many are decided, how, and in what time.

    python -m benchmarks.properties INSTANCES.csv [--timeout 60] [--only REGEX] [--first 0] [--count 0] [--out FOLDER] [--known RESULTS.csv]

The file lists ``net.onnx,property.vnnlib,seconds``; its own seconds are lowered to ``--timeout``, and with ``--only`` those pairs are tried in whose
files' names it is found. A counterexample counts only if the file's own net confirms it in onnxruntime, which ``carbide prove`` sees to. With ``--out``
a list that was stopped goes on where it was. ``--known`` is a competition's table of another program's verdicts,
``track,net,property,preparation,verdict,seconds``: a verdict that contradicts one ends the run.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import record
from carbide._pairs import Pair, PropertyReport, prove_pairs, read_pairs

Named = tuple[str, str]  # the files of a pair by name
WORDS = {"holds": "unsat", "violated": "sat"}  # as some programs say it


def named(pair: Pair) -> Named:
    """A pair's files, packed or not."""
    return pair.net.name.removesuffix(".gz"), pair.unsafe.name.removesuffix(".gz")


def known_verdicts(path: Path) -> dict[Named, tuple[str, float]]:
    """Another program's verdicts and seconds, its own preparation of a net among them."""
    with path.open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) >= 6]
    return {(Path(row[1]).name.removesuffix(".gz"), Path(row[2]).name.removesuffix(".gz")): (WORDS.get(row[4].lower(), row[4].lower()), float(row[5]))
            for row in rows}  # fmt: skip


def line(name: str, found: Mapping[Named, PropertyReport], known: Mapping[Named, tuple[str, float]]) -> dict[str, Any]:
    """One line of the table."""
    verdicts, seconds = Counter(r.verdict for r in found.values()), sorted(r.seconds for r in found.values())
    row = {"property": name, "nets": len(found), "unsat": verdicts["unsat"], "sat": verdicts["sat"],
           "open": len(found) - verdicts["unsat"] - verdicts["sat"], "median s": median(seconds), "longest s": seconds[-1]}  # fmt: skip
    if not known:
        return row
    theirs = [known[pair] for pair in found if pair in known]
    said = Counter(word for word, _ in theirs)
    return row | {"known unsat": said["unsat"], "known sat": said["sat"], "known median s": median(s for _, s in theirs) if theirs else float("nan")}


def contradicted(found: Mapping[Named, PropertyReport], known: Mapping[Named, tuple[str, float]]) -> list[str]:
    """The pairs about which two programs say the opposite."""
    return [f"{' '.join(pair)}: {report.verdict}, known {known[pair][0]}" for pair, report in found.items()
            if pair in known and {report.verdict, known[pair][0]} == {"unsat", "sat"}]  # fmt: skip


def main() -> None:
    """Prove and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("instances", type=Path)
    parser.add_argument("--timeout", type=float, default=60.0)
    parser.add_argument("--only", default="", help="pairs in whose files' names this is found")
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=0, help="pairs to try, default all")
    parser.add_argument("--out", type=Path, help="folder that keeps the verdicts")
    parser.add_argument("--known", type=Path, help="another program's verdicts")
    given = parser.parse_args()
    pairs = [pair for pair in read_pairs(given.instances, most=given.timeout) if re.search(given.only, pair.words())][given.first :]
    pairs = pairs[: given.count] if given.count else pairs
    found = dict(zip(map(named, pairs), prove_pairs(pairs, out=given.out), strict=True))
    known = known_verdicts(given.known) if given.known else {}
    opposite = contradicted(found, known)
    if opposite:
        raise SystemExit(f"{len(opposite)} verdicts are contradicted: {'; '.join(opposite)}")
    names = sorted({name for _, name in found}, key=lambda name: (len(name), name))
    rows = [line(name, {pair: r for pair, r in found.items() if pair[1] == name}, known) for name in names]
    how = Counter(r.how for r in found.values())
    notes = ["Decided by: " + ", ".join(f"{name or 'nothing'} {count}" for name, count in how.most_common()) + "."]
    open_ = [f"{net.removesuffix('.onnx')} {prop.removesuffix('.vnnlib')}" for (net, prop), r in found.items() if r.verdict not in ("unsat", "sat")]
    notes += [f"Open: {', '.join(open_)}."] if open_ else []
    notes += (
        [f"Known are the verdicts of {given.known.name}, on another machine; none of {sum(pair in known for pair in found)} is contradicted."]
        if known
        else []
    )
    record(f"Properties of nets: {given.instances.parent.name}", [*rows, line("all", found, known)], protocol=(
        f"{len(pairs)} pairs of an ONNX net and a VNN-LIB property, at most {given.timeout:g} s each, one process."), notes=notes)  # fmt: skip


if __name__ == "__main__":
    main()
