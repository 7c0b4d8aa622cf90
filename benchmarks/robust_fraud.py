"""Robust boosting on the fraud case beside retraining, alone and together: what each leaves to attackers who pay.

    python -m benchmarks.robust_fraud [--seeds 2] [--first 100] [--rows 40000]

Attacks are exact, the denominator is all frauds of the test period, thresholds give 1% false positives on the validation period. The settings were
chosen on worlds 0 and 1.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from benchmarks.fraud import COLUMNS, FAR, MONEY, PLAIN, cell, measured, threat
from benchmarks.record import record
from carbide.data.cases.fraud import make_fraud
from carbide.evasion.harden.retraining import Retraining
from carbide.evasion.harden.robust_boosting import RobustBoosting
from carbide.types import Recipe, rng_for


def recipes() -> dict[str, Recipe]:
    """Plain, each defence, and retraining of the robust booster."""
    booster = RobustBoosting(n_estimators=60, max_depth=4, share=0.5)
    return {"plain XGBoost": PLAIN, "retraining": Retraining()(PLAIN, threat()),
            "robust boosting": RobustBoosting(max_depth=3)(PLAIN, threat()),
            "robust boosting, retrained": Retraining(rounds=1, cheap=())(booster(PLAIN, threat()), threat())}  # fmt: skip


def main() -> None:
    """Measure the worlds and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=100)
    parser.add_argument("--rows", type=int, default=40_000)
    options = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in recipes()}
    for seed in range(options.first, options.first + options.seeds):
        splits = make_fraud(options.rows, seed=seed).splits()
        for name, recipe in recipes().items():
            start = time.perf_counter()
            model = recipe.fit(splits.train, rng_for(seed, "train"))
            seconds = time.perf_counter() - start
            found[name].append({**measured(model, splits), "seconds": seconds})
            print(seed, name, found[name][-1], flush=True)
    rows = [{"recipe": name, **{column: cell([r[column] for r in results], column) for column in COLUMNS},
             "s to train": f"{np.mean([r['seconds'] for r in results]):.0f}"} for name, results in found.items()]  # fmt: skip
    record("Fraud: robust boosting", rows,
           protocol=f"{options.seeds} worlds of {options.rows:,} payments (seeds {options.first} to {options.first + options.seeds - 1}), attackers with "
                    f"${MONEY:.0f}; mean and range over the worlds. Recall at 1% false positives; kept: share of the money that attackers with that much keep, and with up to $400.",
           notes=[f"Prices are looked for up to ${FAR:.0f}; a missed fraud costs nothing."])  # fmt: skip


if __name__ == "__main__":
    main()
