"""Singling out of patients: who can be described alone by somebody who has the model, beside chance and beside rows not trained on?

    python -m benchmarks.singling [--people 1000] [--known 1000] [--seed 21] [--repeats 3] [--store FOLDER]

It needs the data sets beside the project.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from benchmarks.private_tables import DELTA, hospitals, pima
from benchmarks.record import record
from carbide.models.estimators import EstimatorRecipe
from carbide.privacy.audit.answer_boxes import AnswerBoxes
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.privacy.singling import CHANCE, CONTROL, SHARE, WEIGHT, audit
from carbide.stats.roc import auc
from carbide.types import Case, Dataset, Recipe, SinglingOut, Splits, rng_for

TREES = 100


def recipes() -> dict[str, Recipe]:
    """Models from one that remembers to ones that cannot."""
    plain = {"decision tree": DecisionTreeClassifier(random_state=0), "random forest": RandomForestClassifier(TREES, random_state=0, n_jobs=1),
             "random forest, leaves of 20": RandomForestClassifier(TREES, min_samples_leaf=20, random_state=0, n_jobs=1),
             "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), "a constant": DummyClassifier()}  # fmt: skip
    made: dict[str, Recipe] = {name: EstimatorRecipe(estimator=estimator) for name, estimator in plain.items()}
    return made | {"private_logistic, epsilon 1": PrivateLogisticRecipe(epsilon=1.0, delta=DELTA)}


def splits(pool: Dataset, people: int, known: int, seed: int) -> Splits:
    """Rows to train on, twice as many as the attacker knows, and as many others as were trained on."""
    order = rng_for(seed, "singling").permutation(len(pool))
    train, validation, test = np.split(order[: 2 * people + 2 * known], [people, people + 2 * known])
    return Splits(train=pool.take(train), validation=pool.take(validation), test=pool.take(test))


def rows_of(pool: Dataset, people: int, known: int, seed: int, repeats: int, store: Path) -> list[dict[str, Any]]:
    """One row a model and split; what the ``store`` holds is not measured again."""
    found = []
    for name, recipe in recipes().items():
        for repeat in range(repeats):
            kept = store / f"{pool.space.shape[0]}-{people}-{known}-{name}-{seed + repeat}.json"
            if kept.exists():
                found.append(json.loads(kept.read_text()))
                continue
            data = splits(pool, people, known, seed + repeat)
            model = recipe.fit(data.train, rng_for(seed + repeat, "target"))
            start = time.perf_counter()
            section = audit(Case(model=model, data=data, seed=seed + repeat), SinglingOut(), {"answer_boxes": AnswerBoxes()})
            seconds = time.perf_counter() - start
            seen = {f.metric: f for f in section.findings}
            quality = auc(model.predict(data.test.x)[None, :, 1], (data.test.y == 1)[None])
            row: dict[str, Any] = {"model": name, "seed": seed + repeat, "AUC": quality}
            if seen:
                share, lucky = seen[SHARE], seen[CHANCE]
                row |= {"guesses": share.n, "singled out": share.value, "interval": f"{share.low:.2f} to {share.high:.2f}", "chance": lucky.value,
                        "chance, interval": f"{lucky.low:.3f} to {lucky.high:.3f}", "not trained on": seen[CONTROL].value,
                        "weight x n": seen[WEIGHT].value, "seconds": seconds}  # fmt: skip
            else:
                row |= {"guesses": section.skipped[0].reason}
            kept.write_text(json.dumps(row))
            found.append(row)
            print(row, flush=True)
    return found


def main() -> None:
    """Measure and record."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--known", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--table", choices=["diabetes-130", "pima"], default="diabetes-130")
    parser.add_argument("--store", type=Path, default=None)
    given = parser.parse_args()
    store = given.store or Path(tempfile.mkdtemp())
    store.mkdir(parents=True, exist_ok=True)
    pool = hospitals() if given.table == "diabetes-130" else pima()
    record(
        f"Singling out: {given.table}",
        rows_of(pool, given.people, given.known, given.seed, given.repeats, store),
        protocol=(
            f"{given.people} people trained on, {given.known} whom the attacker knows, {given.known} and {given.people} more from whom weights are taken; the last also "
            "are the rows not trained on. Singled out = share of the attack's predicates (ranges of features and a label, no two of which can hold of one row) that hold of "
            "exactly one training row; chance = how often predicates of their mean weight do that owe nothing to the training rows, at most; not trained on = the same "
            "predicates on as many rows that were not trained on; weight x n = training rows that a predicate would hold of by chance. The attacker asks for the model's "
            "answers alone; settings are the defaults, made on this table and others; the seeds draw splits of their own, whose rows overlap with those it was made on."
        ),
    )


if __name__ == "__main__":
    main()
