"""Writes one section of benchmarks/RESULTS.md: the command, the machine, versions, the date and a table.

A benchmark calls ``record(name, rows, ...)``; its section is replaced whole, the others stay as they are.
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "RESULTS.md"
HEAD = "# Results\n\nEvery figure of the README stands here with the command that gives it. Both sides of a comparison are measured in one run.\n"


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as a markdown table; the first row's keys are the columns."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "| " + " | ".join("---" for _ in columns) + " |"]
    lines += ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def record(name: str, rows: Sequence[Mapping[str, Any]], *, protocol: str, notes: Sequence[str] = ()) -> str:
    """Print a section and write it to RESULTS.md."""
    from carbide.pipeline import versions

    machine = f"{processor()}, {len(os.sched_getaffinity(0))} cores"
    stack = ", ".join(f"{k} {v}" for k, v in versions().items())
    command = " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *map(shlex.quote, sys.argv[1:])])
    section = "\n".join(
        [f"## {name}", "", protocol, "", table(rows), "", *[f"- {note}" for note in notes], *([""] if notes else []),
         f"`{command}`, {datetime.date.today().isoformat()}; {machine}; {stack}.", ""])  # fmt: skip
    text = RESULTS.read_text() if RESULTS.exists() else HEAD
    parts = re.split(r"(?m)^(?=## )", text)
    kept = [part for part in parts if not part.startswith(f"## {name}\n")]
    position = next((i for i, part in enumerate(parts) if part.startswith(f"## {name}\n")), len(kept))
    kept.insert(position, section + "\n")
    RESULTS.write_text("\n".join(part.rstrip("\n") + "\n" for part in kept))
    print(section)
    return section
