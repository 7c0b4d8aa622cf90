"""The verb prove on pairs of a net and a property, as verification competitions state them: files in, a verdict for each pair out.

>>> Pair(net=Path("a.onnx"), unsafe=Path("p.vnnlib"), timeout=60.0).words()
'a.onnx p.vnnlib'
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import carbide
from carbide.run import Progress, Run, Store, remember, track, use, write_whole
from carbide.space.vnnlib import Property, counterexample_text, load_vnnlib
from carbide.types import Array, InputError, digest, rng_for

TIMEOUT = 60.0  # seconds a pair, where nobody says otherwise
WORDS = ("unsat", "sat", "timeout", "unknown", "error")
MEANING = {"unsat": "no input does what the property forbids", "sat": "an input does what the property forbids",
           "timeout": "open, the time was over", "unknown": "open", "error": "the pair cannot be read"}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A net, what must not happen, and the seconds that may be spent on it."""

    net: Path
    unsafe: Path
    timeout: float

    def words(self) -> str:
        """The two files by name."""
        return f"{self.net.name} {self.unsafe.name}"


@dataclass(frozen=True, kw_only=True, eq=False)
class PropertyReport:
    """``verdict`` is unsat (proven), sat, timeout, unknown, or error; ``how`` says what decided it, ``parts`` how many parts were bounded.

    A counterexample is ``witness`` ``(inputs,)`` float64 with the net's ``outputs`` ``(outputs,)``: it lies in the property's box, and
    the outputs, as the file's own runtime gives them in its precision, satisfy the property's inequalities exactly.
    """

    net: str
    unsafe: str
    verdict: str
    how: str = ""
    note: str = ""
    witness: Array | None = None
    outputs: Array | None = None
    parts: int = 0
    assumptions: tuple[str, ...] = ()
    seconds: float = math.nan

    @property
    def proven(self) -> bool:
        """Whether the property is proven to hold."""
        return self.verdict == "unsat"

    def text(self) -> str:
        """The verdict as competitions write a result file: one word, and a counterexample after ``sat``."""
        shown = "" if self.witness is None or self.outputs is None else counterexample_text(self.witness, self.outputs)
        return f"{self.verdict}\n{shown}"

    def to_dict(self) -> dict[str, Any]:
        """Everything but the seconds, as plain values."""
        arrays = {name: None if value is None else value.tolist() for name, value in (("witness", self.witness), ("outputs", self.outputs))}
        return {"net": self.net, "property": self.unsafe, "verdict": self.verdict, "how": self.how, "note": self.note, "parts": self.parts,
                "assumptions": list(self.assumptions), **arrays}  # fmt: skip

    def __str__(self) -> str:
        how, parts = f" by {self.how}" if self.how else "", f", {self.parts:,} parts" if self.parts else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.verdict}{how}{parts}, {self.seconds:.1f} s: {Path(self.net).name} {Path(self.unsafe).name}, {MEANING[self.verdict]}{note}"


def prove_property(net: str | Path, unsafe: str | Path | Property, *, timeout: float = TIMEOUT, seed: int = 0) -> PropertyReport:
    """Whether the net of an ONNX file can do what a VNN-LIB property forbids.

    Args:
        net: a ``.onnx`` file, plain or gzipped, with one input and one output array a row.
        unsafe: a ``.vnnlib`` file, plain or gzipped, or a ``carbide.space.vnnlib.Property``.
        timeout: seconds; looked at between steps, so that a large net may take a little longer.
        seed: of the attack's starts.

    Raises:
        InputError: if a file cannot be read, or the property is about another number of inputs or outputs.
        UnsoundError: if a bound and an input that was tried contradict each other.
    """
    from carbide.evasion._property import decide
    from carbide.models.onnx_function import load_function

    if not (math.isfinite(timeout) and timeout > 0):
        raise InputError(f"timeout is {timeout}; give a number of seconds > 0")
    start = time.monotonic()
    function = load_function(net)
    asked = unsafe if isinstance(unsafe, Property) else load_vnnlib(unsafe)
    left = max(0.0, timeout - (time.monotonic() - start))
    key = (function, asked.text(), timeout, seed)

    def compute() -> dict[str, Any]:
        found = decide(function, asked, timeout=left, rng=rng_for(seed, "property"))
        return {**{name: getattr(found, name) for name in ("how", "witness", "outputs", "parts", "assumptions", "note")}, "verdict": found.word,
                "seconds": time.monotonic() - start}  # fmt: skip

    found = remember("property", key, compute)
    named = "the property" if isinstance(unsafe, Property) else str(unsafe)
    return PropertyReport(net=str(net), unsafe=named, **found)


def read_pairs(path: Path, *, most: float | None = None) -> list[Pair]:
    """The pairs of a list: lines ``net,property,seconds`` with paths beside the list; seconds are at most ``most``.

    Raises:
        InputError: if the list cannot be read, is empty, or a line is not of that form or names a file that is not there.
    """
    import csv

    try:
        with path.open(newline="") as file:
            rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(file), 1) if any(cell.strip() for cell in row)]
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(
            f"list {path} cannot be read ({getattr(error, 'strerror', None) or error}); give lines net.onnx,property.vnnlib,seconds"
        ) from error
    rows = rows[1:] if rows and rows[0][1][-1].lower() == "timeout" else rows
    pairs = []
    for number, row in rows:
        where = f"list {path}, line {number},"
        if len(row) not in (2, 3):
            raise InputError(f"{where} has {len(row)} values; write net.onnx,property.vnnlib,seconds")
        try:
            seconds = float(row[2]) if len(row) == 3 else TIMEOUT
        except ValueError:
            seconds = math.nan
        if not (math.isfinite(seconds) and seconds > 0):
            raise InputError(f"{where} gives {row[2]!r} as seconds; write a number > 0")
        files = [_found(path.parent / cell, where) for cell in row[:2]]
        pairs.append(Pair(net=files[0], unsafe=files[1], timeout=seconds if most is None else min(seconds, most)))
    if not pairs:
        raise InputError(f"list {path} names no pair; write lines net.onnx,property.vnnlib,seconds")
    return pairs


def _found(path: Path, where: str) -> Path:
    """The file, or the same file gzipped (or unpacked), as lists of competitions leave open."""
    for candidate in (path, path.with_name(path.name + ".gz"), path.with_suffix("") if path.suffix == ".gz" else path):
        if candidate.is_file():
            return candidate
    raise InputError(f"{where} names {path}, which is not there; give paths beside the list")


def prove_pairs(pairs: Sequence[Pair], *, out: Path | None = None, seed: int = 0, quiet: bool | None = None) -> Iterator[PropertyReport]:
    """The verdicts one after the other; a pair that cannot be read is an ``error`` with its sentence and does not stop the others.

    With ``out`` each verdict is kept there as it is found (the same folder goes on where a stopped list was), with
    ``verdicts.json``, ``timings.json`` and a result file for each pair under ``results/``.
    """
    if out is not None:
        from carbide.pipeline import make_folder

        make_folder(out)
    found: list[PropertyReport] = []
    with use(Run(progress=Progress(quiet=quiet), store=Store(out, version=carbide.__version__))):
        for pair in track(pairs, label="pairs"):
            try:
                found.append(prove_property(pair.net, pair.unsafe, timeout=pair.timeout, seed=seed))
            except InputError as error:
                found.append(PropertyReport(net=str(pair.net), unsafe=str(pair.unsafe), verdict="error", note=str(error), seconds=0.0))
            if out is not None and (len(pairs) > 1 or found[-1].verdict != "error"):
                _write(out, pairs, found, seed)
            yield found[-1]


def _write(out: Path, pairs: Sequence[Pair], found: Sequence[PropertyReport], seed: int) -> None:
    write_whole(result_file(out, len(found), pairs[len(found) - 1]), found[-1].text().encode())
    if len(found) == len(pairs):
        said = {"carbide": carbide.__version__, "seed": seed, "pairs": [{**report.to_dict(), "timeout": pair.timeout}
                                                                        for pair, report in zip(pairs, found, strict=True)]}  # fmt: skip
        write_whole(out / "verdicts.json", (json.dumps(said, indent=1) + "\n").encode())
        write_whole(out / "timings.json", (json.dumps([round(report.seconds, 3) for report in found]) + "\n").encode())


def result_file(out: Path, number: int, pair: Pair) -> Path:
    """Where the verdict of the ``number``-th pair (from 1) is written."""
    names = (pair.net.name.split(".onnx")[0], pair.unsafe.name.split(".vnnlib")[0])
    return out / "results" / f"{number:04d}-{''.join(c if c.isalnum() else '-' for c in '-'.join(names))[:80]}.txt"


def folder_of(pairs: Sequence[Pair], title: str) -> Path:
    """Where the verdicts of these pairs go when nobody says: the same folder each time."""
    return Path("runs") / f"{title}-{digest([[str(p.net), str(p.unsafe), p.timeout] for p in pairs])[:8]}"


def summary(found: Sequence[PropertyReport]) -> str:
    """How many pairs ended how, in one line."""
    counts = Counter(report.verdict for report in found)
    parts = [f"{counts[word]} {word}" for word in WORDS if counts[word]]
    return f"{', '.join(parts)} of {len(found)} pairs in {np.nansum([report.seconds for report in found]):.1f} s"


def exit_code(found: Sequence[PropertyReport]) -> int:
    """0 = every property is proven, 1 = one has a counterexample or is open, 2 = one could not be read."""
    if any(report.verdict == "error" for report in found):
        return 2
    return 0 if all(report.proven for report in found) else 1
