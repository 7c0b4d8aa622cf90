"""The exact tree search beside scipy's HiGHS on the same instances: do they agree, and how long does each take.

    python -m benchmarks.tree_search [--instances 300]

Both sides get the same trees, row, prices and relations, one after the other on one thread. HiGHS solves the mixed-integer
program of Kantchelian et al.; the search's compiled code is warmed up before the first instance.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from tests.oracles.instances import KINDS, LIBRARIES, MORE, instance
from tests.oracles.milp import cheapest

from benchmarks.record import record
from carbide.evasion._tree_search import cutoff, search

TREES, DEPTH = 20, 4
JUDGED = (*KINDS, *(k for k in MORE if k in ("one-hot", "stairs", "implication", "bound group")))  # kinds that HiGHS is told of
AGREE = 1e-6  # relative to 1 + the cost
OFF = 1.37e-4  # thresholds lie off the scores: HiGHS cannot tell a tie from an evasion within its tolerance of 1e-6


def measure(instances: int = 300) -> list[dict[str, Any]]:
    """One row a library and one for all: instances, largest difference, disagreements, median and 99th percentile times, ratio."""
    search(*_problem(0)[1:5], threshold=0.5)
    found = [_one(i) for i in range(instances)]
    rows = []
    for library in (*LIBRARIES, "all"):
        mine = [f for f in found if library in ("all", f["library"])]
        if not mine:
            continue
        ours, theirs = (np.array([f[k] for f in mine]) for k in ("search", "highs"))
        gaps = [f["gap"] for f in mine]
        rows.append({"trees": library, "instances": len(mine), "evasions": sum(f["evaded"] for f in mine), "largest difference": float(max(gaps)),
                     "disagreements": int(sum(g > AGREE for g in gaps)), "search median ms": float(np.median(ours)),
                     "search p99 ms": float(np.percentile(ours, 99)), "HiGHS median ms": float(np.median(theirs)),
                     "HiGHS p99 ms": float(np.percentile(theirs, 99)), "median ratio": float(np.median(theirs / ours))})  # fmt: skip
    return rows


def _problem(i: int) -> tuple[Any, ...]:
    case = instance(JUDGED[i % len(JUDGED)], LIBRARIES[i % len(LIBRARIES)], 1000 + i, trees=TREES, depth=DEPTH, rows=1)
    return case, case.ensemble, case.rows, case.prices, case.space


def _one(i: int) -> dict[str, Any]:
    case, trees, rows, prices, space = _problem(i)
    start = time.perf_counter()
    ours = float(search(trees, rows, prices, space, threshold=case.threshold - OFF).cost[0])
    middle = time.perf_counter()
    theirs = cheapest(trees, rows[0], prices, space, cutoff=cutoff(trees, case.threshold - OFF), time_limit=300.0)
    end = time.perf_counter()
    gap = 0.0 if ours == theirs else abs(ours - theirs) / (1 + abs(theirs))
    return {
        "library": case.name.split(", ")[1],
        "gap": gap,
        "evaded": np.isfinite(theirs),
        "search": (middle - start) * 1e3,
        "highs": (end - middle) * 1e3,
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=300)
    n = parser.parse_args().instances
    record("Cheapest evasion of trees: search and HiGHS", measure(n),
           protocol=f"Exact minimum price of an evasion, {n} instances of {len(JUDGED)} kinds of prices and relations, {TREES} trees of depth {DEPTH} to {DEPTH + 1}, one thread.",
           notes=(f"Costs agree where they differ by at most {AGREE:g} times 1 + the cost; both may find that there is no evasion.",))  # fmt: skip


if __name__ == "__main__":
    main()
