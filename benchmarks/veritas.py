"""The nearest row in Linf that a tree ensemble decides otherwise: the exact search beside Veritas' robustness search.

    python -m benchmarks.veritas [--rows 40]

Veritas (dtai-veritas, https://github.com/laudv/veritas) halves the distance until it knows it to a few digits; the search gives it
exactly. Both get the same XGBoost model and rows, one row a call, on one thread, each side all rows before the other; then the search gets
all rows in one call, as an audit asks it, which Veritas has no call for. It needs an environment of its own that has dtai-veritas and
what Carbide needs.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

os.environ["NUMBA_NUM_THREADS"] = "1"  # before numba is loaded: Veritas has one thread

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits
from veritas.robustness import VeritasRobustnessSearch  # type: ignore[import-not-found]
from xgboost import XGBClassifier

import veritas  # type: ignore[import-not-found]
from benchmarks.record import record
from carbide.data.cases.fraud import make_fraud
from carbide.evasion._tree_search import search_ball
from carbide.models.trees import ensemble_of
from carbide.types import Array, LpBall, Space, rng_for

STEPS = 20  # halvings: Veritas stops at a relative width of 1e-5
SECONDS = 10.0
BOXES = 2_000_000
GUARD = 1e-4  # how far beyond a threshold Veritas' examples lie
SIZES = ((100, 6), (300, 6))


def tables() -> dict[str, tuple[Array, Array]]:
    """Rows scaled to [0, 1] and labels of 0 and 1."""
    cancer, digits = load_breast_cancer(return_X_y=True), load_digits(return_X_y=True)
    two = np.isin(digits[1], (3, 8))
    fraud = make_fraud(20_000, seed=3).splits().train
    some = np.concatenate([np.flatnonzero(fraud.y == 1), np.flatnonzero(fraud.y == 0)[:4000]])
    found = {"breast cancer": cancer, "digits 3 and 8": (digits[0][two], digits[1][two] == 8), "fraud": (fraud.x[some], fraud.y[some])}
    scaled = {}
    for name, (x, y) in found.items():
        order = rng_for(7, name).permutation(len(x))
        low, width = np.nanmin(x, 0), np.nanmax(x, 0) - np.nanmin(x, 0)
        scaled[name] = (np.nan_to_num((x - low) / np.where(width > 0, width, 1))[order].astype(np.float32).astype(np.float64), y[order].astype(int))
    return scaled


def measure(name: str, x: Array, y: Array, trees: int, depth: int, rows: int) -> dict[str, Any]:
    """One model: both sides' times and whether the exact distance lies within Veritas' bounds."""
    half = len(x) // 2
    model = XGBClassifier(n_estimators=trees, max_depth=depth, learning_rate=0.1, n_jobs=1).fit(x[:half], y[:half])
    late, truth = x[half:], y[half:]
    caught = np.flatnonzero(model.predict(late) == truth)[:rows]
    ensemble, other, space = ensemble_of(model), veritas.get_addtree(model, silent=True), Space.table([f"f{i}" for i in range(x.shape[1])])
    ball = LpBall(p=np.inf, eps=1.0)
    search_ball(ensemble, late[caught[:1]], truth[caught[:1]], ball, space)
    ours, theirs, found, bounds = [], [], [], []
    for i in caught:
        start = time.perf_counter()
        found.append(search_ball(ensemble, late[i : i + 1], truth[i : i + 1], ball, space, boxes=BOXES))
        ours.append(time.perf_counter() - start)
    for i in caught:
        start = time.perf_counter()
        row = late[i].astype(np.float32)
        parts = (other, None) if truth[i] == 1 else (None, other)
        bounds.append(VeritasRobustnessSearch(row, 1.0, *parts, num_steps=STEPS, max_time=SECONDS, silent=True).search()[1:])
        theirs.append(time.perf_counter() - start)
    start = time.perf_counter()
    together = search_ball(ensemble, late[caught], truth[caught], ball, space, boxes=BOXES)
    whole = (time.perf_counter() - start) / len(caught) * 1e3
    distance, (low, high) = np.minimum(together.cost, 1.0), np.array(bounds).T
    mine, his = np.array(ours) * 1e3, np.array(theirs) * 1e3
    return {"data": name, "trees": f"{trees}x{depth}", "rows": len(caught), "search median ms": float(np.median(mine)),
            "search p99 ms": float(np.percentile(mine, 99)), "Veritas median ms": float(np.median(his)), "Veritas p99 ms": float(np.percentile(his, 99)),
            "median ratio": float(np.median(his / mine)), "all rows in one call, ms a row": whole, "Veritas ms a row": float(his.mean()),
            "ratio of all rows": float(his.mean() / whole), "not decided": int((~together.proven).sum()),
            "costs differ by call": int(sum(one.cost[0] != cost for one, cost in zip(found, together.cost, strict=True))),
            "outside Veritas' bounds": int(((distance < low - 1e-6) | (distance > high + 1e-6)).sum())}  # fmt: skip


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=40)
    rows = parser.parse_args().rows
    found = [measure(name, x, y, trees, depth, rows) for name, (x, y) in tables().items() for trees, depth in SIZES]
    record("Nearest row in Linf: search and Veritas", found,
           protocol=f"Least Linf distance at which an XGBoost model changes its mind, features in [0, 1], at most 1; one thread; one call a row, each side all "
                    f"rows before the other, and for the search all rows in one call; Veritas with {STEPS} halvings and {SECONDS:g} s a row.",
           notes=(f"To reach: 20 times. All rows in one call: {min(r['ratio of all rows'] for r in found):.1f} to {max(r['ratio of all rows'] for r in found):.1f} "
                  f"times; a row a call, {min(r['median ratio'] for r in found):.1f} to {max(r['median ratio'] for r in found):.1f}, as a call costs 0.06 ms in Python "
                  "before its search begins.", f"Veritas' examples lie {GUARD:g} beyond a threshold; its bounds hold the distance where it decides every step.",))  # fmt: skip


if __name__ == "__main__":
    main()
