"""Large tables: robust boosting beside plain HistGradientBoosting, the exact audit of many frauds, and what memory they take.

    python -m benchmarks.scale [--rows 1000000] [--features 100] [--trees 100] [--frauds 10000] [--seeds 200] [--threads 2]

The table is made on the spot, by a generator of its own: correlated columns, 1% of class 1, and 12 of the columns priced (money up or down, whole
numbers, a category by a price matrix). Both sides train as many trees of the same depth on the same rows with as many threads in one process, after a first fit on a few
rows that compiles. The audit looks for the cheapest evasion of frauds that training never saw and that the robust model catches at 1% false positives.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
from joblib import parallel_backend
from numba import config
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from benchmarks.record import record
from carbide.evasion._tree_search import search
from carbide.evasion.robust_trees import Box, RobustBoostingClassifier, Spender
from carbide.types import Array, FeatureBudget, Kind, Price, PriceTable, Space

PRICED = 12
MONEY = 50.0
KINDS = 6  # of the category


def table(rows: int, features: int, seed: int, *, rate: float = 0.01) -> tuple[Array, Array]:
    """Rows ``(n, d)`` and labels ``(n,)``: priced columns first (8 amounts, 3 counts, 1 category), all driven by a few hidden factors."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(8, features))  # the same world for every seed
    y = (rng.random(rows) < rate).astype(np.int64)
    hidden = rng.normal(size=(rows, 8))
    hidden[:, :4] += y[:, None] * np.array([1.6, 1.2, 0.9, 0.6])
    x = hidden @ mixing
    x += 2.0 * rng.standard_normal(x.shape)
    x[:, 8:11] = np.floor(np.exp(np.clip(x[:, 8:11] / 4 + 1, -2, 4)))
    x[:, 11] = np.digitize(x[:, 11], [-4, -2, 0, 2, 4])
    return x, y


def world(features: int) -> tuple[Space, PriceTable]:
    """The space of the rows and what an attacker pays."""
    kind = np.zeros(features, np.int8)
    kind[8:11], kind[11] = Kind.INTEGER, Kind.CATEGORICAL
    lower, upper = np.full(features, -60.0), np.full(features, 60.0)
    lower[8:12], upper[11] = 0.0, KINDS - 1
    mutable = np.arange(features) < PRICED
    space = Space.table([f"c{i}" for i in range(features)], lower=lower, upper=upper, mutable=mutable, kind=kind)
    moves = 5.0 + 5.0 * np.abs(np.subtract.outer(np.arange(KINDS), np.arange(KINDS)))
    np.fill_diagonal(moves, 0.0)
    prices = {f"c{i}": Price(up=20.0 + i, down=15.0 + 2 * i) for i in range(8)} | {f"c{i}": Price(up=2.0, down=12.0) for i in range(8, 11)}
    return space, PriceTable(prices={**prices, "c11": Price(matrix=moves)})


def memory() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def audited(job: tuple[Any, Array, Any, Any, float, int]) -> tuple[Array, Array]:
    """The least price of each row, and how it was decided."""
    ensemble, x, prices, space, threshold, boxes = job
    found = search(ensemble, x, prices, space, threshold=threshold, budget=MONEY, boxes=boxes)
    return found.cost, found.status


def timed(make: Any) -> tuple[Any, float]:
    """What a call gives, and its seconds."""
    start = time.perf_counter()
    made = make()
    return made, time.perf_counter() - start


def measured(seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One table: three trainings, one audit."""
    x, y = table(options.rows, options.features, seed)
    space, prices = world(options.features)
    threat = FeatureBudget(money=MONEY, prices=prices)
    shape = {"max_depth": options.depth, "learning_rate": 0.1}
    up = np.where(np.arange(options.features) < PRICED, 1.0, 0.0)
    attackers = {"robust boosting, prices": Spender(threat=threat, space=space), "robust boosting, box": Box(up=up, down=up, movers="positive")}
    makers = {"plain HistGradientBoosting": lambda n: HistGradientBoostingClassifier(max_iter=n, early_stopping=False, random_state=0, **shape)}
    makers |= {name: lambda n, a=a: RobustBoostingClassifier(a, n_estimators=n, random_state=0, **shape) for name, a in attackers.items()}
    models, out = {}, []
    config.NUMBA_NUM_THREADS = options.threads
    with threadpool_limits(options.threads), parallel_backend("threading", n_jobs=options.threads):
        for name, make in makers.items():
            make(2).fit(x[:3000], y[:3000])
            models[name], seconds = timed(functools.partial(make(options.trees).fit, x, y))
            plain = out[0]["seconds"] if out else seconds
            out.append({"what": name, "seconds": seconds, "beside plain": seconds / plain, "GB at most": memory()})
            print(seed, out[-1], flush=True)
    fresh, labels = table(max(options.rows, 100 * options.frauds), options.features, seed + 1)
    model = models["robust boosting, prices"]
    threshold = float(np.quantile(model.predict_proba(fresh[labels == 0][:200_000])[:, 1], 0.99))
    frauds = fresh[labels == 1][: options.frauds]
    del x, fresh
    config.NUMBA_NUM_THREADS = 1  # of each of the audit's processes
    parts = np.array_split(frauds, 4 * options.threads)
    jobs = [(model.ensemble_, part, prices, space, threshold, options.boxes) for part in parts]
    audited((*jobs[0][:1], parts[0][:4], *jobs[0][2:]))
    with ProcessPoolExecutor(options.threads) as pool:
        found, seconds = timed(lambda: list(pool.map(audited, jobs)))
    status = np.concatenate([s for _, s in found])
    cost = np.concatenate([c for c, _ in found])
    out.append({"what": f"exact audit of {len(frauds):,} frauds", "seconds": seconds, "beside plain": seconds / out[0]["seconds"], "GB at most": memory(),
                "decided": float(np.mean(status != "unknown")), "evaded": float(np.mean(np.isfinite(cost)))})  # fmt: skip
    print(seed, out[-1], flush=True)
    return out


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in {"rows": 1_000_000, "features": 100, "trees": 100, "depth": 4, "frauds": 10_000, "threads": 2, "boxes": 20_000}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--seeds", type=int, nargs="+", default=[200])
    parser.add_argument("--dry", action="store_true", help="print only")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    found = [measured(seed, options) for seed in options.seeds]
    rows = []
    for several in zip(*found, strict=True):
        row: dict[str, Any] = {"what": several[0]["what"]}
        for column in ("seconds", "beside plain", "GB at most", "decided", "evaded"):
            values = [r[column] for r in several if column in r]
            row[column] = "" if not values else f"{np.mean(values):.3g}" + (f" ({min(values):.3g} to {max(values):.3g})" if len(values) > 1 else "")
        rows.append(row)
    if not options.dry:
        record(f"Scale: {options.rows:,} rows", rows,
               protocol=f"{options.rows:,} rows of {options.features} columns made on the spot (seeds {', '.join(map(str, options.seeds))}), {options.trees} trees of "
                        f"depth {options.depth}, {options.threads} threads; attackers of class 1 with ${MONEY:.0f}.",
               notes=["GB at most: the process's peak so far, the table included (the audit's workers apart).",
                      f"Decided: rows whose least price is proven within {options.boxes:,} boxes; the threshold gives 1% false positives."])  # fmt: skip


if __name__ == "__main__":
    main()
