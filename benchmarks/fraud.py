"""The fraud case against attackers who pay: plain, hardened, and the cheap ways that every defence has to beat.

    python -m benchmarks.fraud [--seeds 5] [--rows 80000] [--first 0] [--rounds 8]

Each seed is another world of payments. Attacks are exact; the denominator is all frauds of the test period; thresholds
give 1% false positives on the validation period.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score
from sklearn.tree import DecisionTreeClassifier
from xgboost import XGBClassifier

from benchmarks.record import record
from carbide.data.cases import builtin_prices
from carbide.data.cases.fraud import NAMES, make_fraud
from carbide.evasion._blind import constrained, one_way
from carbide.evasion._retraining import caught, evasions, natural_signs
from carbide.evasion._tree_search import search
from carbide.evasion.harden.drop_mutable import DropMutable
from carbide.evasion.harden.retraining import Retraining
from carbide.models.estimators import EstimatorRecipe
from carbide.models.operating import calibrated
from carbide.run import Run, cores, spread, use
from carbide.types import Dataset, FeatureBudget, Model, OperatingPoint, Recipe, Splits, rng_for

MONEY = 50.0
FAR = 400.0  # prices of evasion are looked for up to here
BOXES = 20_000
POINT = OperatingPoint(false_positive_rate=0.01)
PLAIN = EstimatorRecipe(estimator=XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1))
PLAINLY, OURS, SINGLE = "plain XGBoost", "Carbide's retraining", "Carbide's retraining, one model"
REACH = ("To reach: plain at most 0.30, hardened at least 0.80, at most 3 points of clean recall, 90% of the profit of attackers with $50, ten times the price. "
         "Settings were chosen on worlds 2 to 50: one model, 1.3 to 3 times the budget in training, more manipulated rows, all or the dear frauds repeated cut 79 to 88% "
         "of the profit, and the price rose 7.9 to 13.3 times on 2 to 16; bags with all or most honest rows cut 1 point more than one model on 20 to 29, balanced bags 3.")  # fmt: skip
COLUMNS = ("clean recall", "average precision", "robust recall", "median price", "kept by the poor", "kept")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One world and how long naive retraining goes on."""

    rows: int
    seed: int
    rounds: int


def threat() -> FeatureBudget:
    """The built-in price table and $50."""
    prices = builtin_prices("fraud")
    assert prices is not None
    return FeatureBudget(money=MONEY, prices=prices)


def measured(model: Model, splits: Splits) -> dict[str, float]:
    """One model's figures on the test frauds: recall, exact robust recall, the median price, the share of the money that attackers keep."""
    model = calibrated(model, splits.validation, POINT)
    test = splits.test
    scores = model.predict(test.x)[:, 1]
    frauds = test.x[test.y == 1]
    flagged = scores[test.y == 1] >= model.threshold
    found = search(model.ensemble, frauds[flagged], threat().prices, model.space, threshold=model.threshold, budget=FAR, boxes=BOXES)  # type: ignore[attr-defined]
    price = np.zeros(len(frauds))  # a fraud that is missed pays nothing
    price[flagged] = np.where(found.status == "unknown", found.lower, found.cost)
    amount = frauds[:, NAMES.index("amount")]
    profit = np.maximum(amount - price, 0.0)  # whatever it takes
    poor = np.where(price <= MONEY, profit, 0.0)  # of attackers who have no more than the budget
    proven = evasions(model, frauds[flagged], threat(), first=True).proven
    return {"clean recall": float(flagged.mean()), "average precision": float(average_precision_score(test.y, scores)),
            "robust recall": float(proven.sum() / len(frauds)), "median price": float(np.median(price)),
            "kept": float(profit.sum() / amount.sum()), "kept by the poor": float(poor.sum() / amount.sum())}  # fmt: skip


def naive(splits: Splits, rounds: int, seed: int) -> list[Model]:
    """Retraining as it is often done: every cheapest evasion of every round joins with full weight, and nothing is chosen."""
    train, pool, models = splits.train, np.zeros((0, len(NAMES))), []
    for _ in range(rounds + 1):
        model = calibrated(PLAIN.fit(with_frauds(train, pool), rng_for(seed, "train")), splits.validation, POINT)
        models.append(model)
        found = evasions(model, caught(model, train), threat())
        pool = np.concatenate([pool, found.witness[found.evaded]])
    return models


def with_frauds(data: Dataset, pool: np.ndarray) -> Dataset:
    """The data with more rows of class 1."""
    more = len(pool)
    return Dataset(x=np.concatenate([data.x, pool]), y=np.concatenate([data.y, np.ones(more, np.int64)]), space=data.space, classes=2,
                   ids=np.concatenate([data.ids, np.array([f"evasion-{i}" for i in range(more)], dtype=str)]),
                   source=np.concatenate([data.source, np.full(more, "evasion")]))  # fmt: skip


def measure(job: Job) -> dict[str, Any]:
    """All rows of one world."""
    splits = make_fraud(job.rows, seed=job.seed).splits()
    bound = constrained(PLAIN, natural_signs(splits.train, one_way(splits.train.space, threat().prices)))
    assert bound is not None
    recipes: dict[str, Recipe] = {PLAINLY: PLAIN, "monotone constraints only": bound, "without the movable features": DropMutable()(PLAIN, threat()),
                                  "a constant": EstimatorRecipe(estimator=DecisionTreeClassifier(min_samples_leaf=0.6)),
                                  "bags alone": Retraining(copies=0, rounds=0, cheap=())(PLAIN, threat()),
                                  OURS: Retraining()(PLAIN, threat()), SINGLE: Retraining(bags=1)(PLAIN, threat())}  # fmt: skip
    found: dict[str, Any] = {name: measured(recipe.fit(splits.train, rng_for(job.seed, "train")), splits) for name, recipe in recipes.items()}
    rounds = [measured(model, splits) for model in naive(splits, job.rounds, job.seed)]
    found[f"naive retraining, {job.rounds} rounds"] = rounds[-1]
    return {"found": found, "rounds": [r["robust recall"] for r in rounds], "frauds": int((splits.test.y == 1).sum())}


def cell(values: list[float], column: str) -> str:
    """Mean and range over the worlds."""
    form = "${:.0f}" if column == "median price" else "{:.1%}" if column.startswith("kept") else "{:.3f}"
    shown = [f"over ${FAR:.0f}" if np.isinf(v) else form.format(v) for v in (float(np.mean(values)), min(values), max(values))]
    return f"{shown[0]} ({shown[1]} to {shown[2]})"


def points_lost(results: list[dict[str, Any]], name: str) -> list[float]:
    """Points of clean recall that a recipe costs in each world."""
    return [100 * (r["found"][PLAINLY]["clean recall"] - r["found"][name]["clean recall"]) for r in results]


def cuts_of(results: list[dict[str, Any]], name: str) -> list[float]:
    """Per cent of the poor attackers' profit that a recipe takes in each world."""
    return [100 * (1 - r["found"][name]["kept by the poor"] / r["found"][PLAINLY]["kept by the poor"]) for r in results]


def pooled(results: list[dict[str, Any]], name: str, column: str) -> float:
    """Per cent of a profit that a recipe takes, of the means over the worlds."""
    return 100 * (1 - sum(r["found"][name][column] for r in results) / sum(r["found"][PLAINLY][column] for r in results))


def main() -> None:
    """Measure every world and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    jobs = [Job(rows=options.rows, seed=options.first + i, rounds=options.rounds) for i in range(options.seeds)]
    with use(Run(workers=cores())):
        results = spread(measure, jobs, label="worlds")
    heads = {"clean recall": "clean recall at 1% FPR", "robust recall": f"exact robust recall at ${MONEY:.0f}", "median price": "median price of evasion",
             "kept by the poor": f"share of the money that attackers with ${MONEY:.0f} keep", "kept": f"and with up to ${FAR:.0f}"}  # fmt: skip
    rows = [{"recipe": name, **{heads.get(c, c): cell([r["found"][name][c] for r in results], c) for c in COLUMNS}} for name in results[0]["found"]]
    lost = [f"Clean recall that {name} costs, in points, world by world: {', '.join(f'{v:.1f}' for v in losses)} (mean {np.mean(losses):.1f}; one fraud more or "
            "less is about 0.6 points)." for name, losses in ((name, points_lost(results, name)) for name in (OURS, SINGLE))]  # fmt: skip
    cut = [f"Of what attackers with ${MONEY:.0f} keep of plain XGBoost's frauds {name} takes {np.mean(cuts):.0f}% ({min(cuts):.0f} to {max(cuts):.0f} in a world, "
           f"{pooled(results, name, 'kept by the poor'):.0f}% of the mean), and {pooled(results, name, 'kept'):.0f}% of what attackers with up to ${FAR:.0f} keep."
           for name, cuts in ((name, cuts_of(results, name)) for name in (OURS, SINGLE))]  # fmt: skip
    steps = " -> ".join(f"{np.mean([r['rounds'][i] for r in results]):.3f}" for i in range(options.rounds + 1))
    record("Fraud: attackers who pay", rows,
           protocol=f"{len(jobs)} worlds of {options.rows:,} payments (seeds {jobs[0].seed} to {jobs[-1].seed}), {min(r['frauds'] for r in results)} to "
                    f"{max(r['frauds'] for r in results)} test frauds each; mean and range over the worlds.",
           notes=[f"Naive retraining, exact robust recall by round, mean over the worlds: {steps}.",
                  *lost, *cut, "Frauds that the model misses unchanged are in both of these.", REACH,
                  "Bags alone: the same eight balanced bags with monotone scores, without manipulated rows.",
                  f"Prices are looked for up to ${FAR:.0f}; a missed fraud costs nothing. Attackers keep the amount less the price, where that is positive."])  # fmt: skip


if __name__ == "__main__":
    main()
