"""What a thief gets for its queries: fidelity by kind of answer, plain and behind each output policy, on the three built-in cases.

    python -m benchmarks.extraction [--seeds 5] [--case all]

Both sides of each comparison are measured in one run on the same victims, rows and queries: the Knockoff thief, a plain
Knockoff (one perceptron, random queries, soft labels, as in the paper's own code), a rival without queries, and a guesser.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from benchmarks.record import record
from carbide.data import builtin
from carbide.extraction import judge
from carbide.extraction.audit.knockoff import Knockoff
from carbide.extraction.harden.output_policy import OutputPolicy
from carbide.extraction.oracle import Answers, Oracle
from carbide.extraction.surrogates import copy_of
from carbide.models.estimators import EstimatorRecipe
from carbide.models.operating import calibrated
from carbide.run import track
from carbide.types import Case, Model, OperatingPoint, Queries, Recipe, decide, rng_for

COUNTS = (50, 200, 1000)
CASES = ("patients", "fraud", "images")


def recipe_of(name: str) -> tuple[Recipe, OperatingPoint | None]:
    """The victim of a case, as in its story."""
    if name == "images":
        from carbide.models.torch_net import TorchRecipe

        return TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": [1, 8, 8], "classes": 10}, epochs=30), None
    if name == "fraud":
        from xgboost import XGBClassifier

        return EstimatorRecipe(estimator=XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1)), OperatingPoint(
            false_positive_rate=0.01
        )
    return EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=100, n_jobs=1)), None


def fidelity(thief: Knockoff, victim: Model, field: judge.Field, n: int, answers: str, seed: int) -> tuple[float, float]:
    """Fidelity over all rows, and over the worst class of the victim."""
    threat = Queries(n=n, answers=answers)
    copied = thief(Oracle(model=victim, threat=threat), field.pool, threat, rng_for(seed, "benchmark"))
    return shares(decide(copied.predict(field.x), copied.threshold), field)


def shares(labels: np.ndarray, field: judge.Field) -> tuple[float, float]:
    """Agreement over all rows and over the worst class of the victim."""
    same = labels == field.victim
    return float(same.mean()), float(min(same[field.victim == c].mean() for c in np.unique(field.victim)))


def measure(name: str, seeds: int) -> list[dict[str, Any]]:
    """Rows of the table of one case: mean and standard deviation over the seeds, a fresh victim each."""
    recipe, point = recipe_of(name)
    data = builtin(name)
    found: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for seed in track(range(seeds), label=f"{name}: seeds"):
        victim = calibrated(recipe.fit(data.train, rng_for(seed, "victim")), data.validation, point)
        for policy, model in [
            ("none", victim),
            *((_words(p), calibrated(p(victim, data.train, rng_for(0)), data.validation, point)) for p in _policies()),
        ]:
            field = judge.field_of(Case(model=model, data=data, operating_point=point, seed=seed))
            for n in COUNTS if policy == "none" else COUNTS[-1:]:
                for answers in ("probabilities", "labels") if policy == "none" else ("probabilities",):
                    found.setdefault((policy, f"Knockoff, {answers}", n), []).append(fidelity(Knockoff(), model, field, n, answers, seed))
                    if policy == "none":
                        plain = Knockoff(learners=("net",), adaptive=0.0)
                        found.setdefault((policy, f"one net, random queries, {answers}", n), []).append(
                            fidelity(plain, model, field, n, answers, seed)
                        )
            if policy == "none":
                own = copy_of(field.pool.x, Answers(labels=field.pool.y), field.pool.space, victim.classes, rng_for(seed, "rival"))
                found.setdefault((policy, "rival with true labels", 0), []).append(shares(decide(own.predict(field.x), own.threshold), field))
                guess = np.full(len(field.x), np.bincount(field.pool.y).argmax())
                found.setdefault((policy, "guesser", 0), []).append(shares(guess, field))
    return [{"case": name, "policy": policy, "thief": thief, "queries": n, "fidelity": f"{np.mean(v, axis=0)[0]:.3f} +- {np.std(v, axis=0)[0]:.3f}",
             "worst class": f"{np.mean(v, axis=0)[1]:.3f} +- {np.std(v, axis=0)[1]:.3f}"} for (policy, thief, n), v in found.items()]  # fmt: skip


def _policies() -> tuple[OutputPolicy, ...]:
    return OutputPolicy().strengths()


def _words(policy: OutputPolicy) -> str:
    return "labels only" if policy.answers == "labels" else f"{policy.decimals} decimals"


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--case", choices=(*CASES, "all"), default="all")
    given = parser.parse_args()
    names = CASES if given.case == "all" else (given.case,)
    rows = [row for name in names for row in measure(name, given.seeds)]
    record("Extraction: fidelity against queries", rows, protocol=(
        "Share of test rows (at most 2,000) on which the copy's label is the victim's, mean and standard deviation over "
        f"{given.seeds} seeds with a fresh victim each. The thief holds validation rows, none of them training rows; fraud victims decide at 1% FPR."),
        notes=("A policy that keeps the label cannot push a thief below the labels-only row: it can ignore the scores.",
               "At 1% FPR nearly all rows are class 0, so the guesser's fidelity is high and the worst class tells more."))  # fmt: skip


if __name__ == "__main__":
    main()
