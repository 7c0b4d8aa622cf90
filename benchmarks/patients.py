"""How well somebody tells who was in the training set of the patients case, before and after each defence, and at what accuracy.

    python -m benchmarks.patients [--cuts 100] [--shadows 64]

One row a recipe: LiRA against ``--shadows`` models trained on halves of train and test rows, accuracy of the trained
model on test rows over ``--cuts`` cuts. The default forest is the plain side; every other row stands beside it.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from joblib import Parallel, delayed

from benchmarks.record import record
from carbide.data import builtin
from carbide.models.estimators import EstimatorRecipe
from carbide.privacy.audit.lira import Lira
from carbide.privacy.harden.leaf_size import LeafSize
from carbide.privacy.harden.private_logistic import PrivateLogisticRegression
from carbide.privacy.harden.regularisation import Regularisation
from carbide.privacy.judge import audit
from carbide.privacy.statement import privacy_of
from carbide.run import Run, cores, use
from carbide.types import Case, Finding, Membership, Recipe, decide, rng_for

T = Membership()


def recipes() -> dict[str, Recipe]:
    """The plain recipe and the hardened ones, strengths as the defences list them."""
    from sklearn.ensemble import RandomForestClassifier

    plain = EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=100))
    found: dict[str, Recipe] = {"random forest, default": plain}
    for leaf in (LeafSize(leaf=5), LeafSize(leaf=20)):
        found[f"random forest, leaves of {leaf.leaf}"] = leaf(plain, T)
    for penalty in Regularisation().strengths():
        found[f"logistic regression, C = {penalty.c:g}"] = penalty(plain, T)  # type: ignore[attr-defined]
    for epsilon in (8.0, 4.0, 1.0):
        found[f"private logistic regression, epsilon {epsilon:g}"] = PrivateLogisticRegression(epsilon=epsilon)(plain, T)
    return found


def accuracy(recipe: Recipe, cut: int) -> float:
    """Accuracy on the test rows of one cut."""
    data = builtin("patients", seed=cut)
    model = recipe.fit(data.train, rng_for(cut, "train"))
    return float((decide(model.predict(data.test.x)) == data.test.y).mean())


def measure(name: str, recipe: Recipe, cuts: int, shadows: int) -> tuple[dict[str, Any], dict[str, Finding]]:
    """One row of the table and the findings behind it."""
    data = builtin("patients", seed=0)
    model = recipe.fit(data.train, rng_for(0, "train"))
    start = time.perf_counter()
    section = audit(Case(model=model, data=data, recipe=recipe), T, {"lira": Lira(shadows=shadows)})
    seconds = time.perf_counter() - start
    found = {f.metric: f for f in section.findings}
    rate, area = found["membership TPR at 1% FPR"], found["membership AUC"]
    right = np.array(Parallel(n_jobs=cores(), inner_max_num_threads=1)(delayed(accuracy)(recipe, cut) for cut in range(cuts)))
    statement = privacy_of(model)
    row = {"recipe": name, "accuracy": f"{right.mean():.1%} ± {right.std() / np.sqrt(cuts):.1%}",
           "LiRA TPR at 1% FPR": f"{rate.value:.1%} [{rate.low:.1%}, {rate.high:.1%}]", "LiRA AUC": f"{area.value:.3f} [{area.low:.3f}, {area.high:.3f}]",
           "certified TPR at 1% FPR": "" if statement is None else f"{statement.tpr(0.01):.1%}", "seconds of audit": f"{seconds:.1f}"}  # fmt: skip
    return row, found


def main() -> None:
    """Measure every recipe and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--shadows", type=int, default=64)
    options = parser.parse_args()
    with use(Run(workers=cores())):
        rows = [measure(name, recipe, options.cuts, options.shadows)[0] for name, recipe in recipes().items()]
    record("Patients: who was in the training set?", rows,
           protocol=f"Breast-cancer records, 284 train rows. LiRA with {options.shadows} models, each the target once, on the train and test rows of cut 0; "
                    f"intervals are 95% over targets and records. Accuracy on test rows: mean and standard error over {options.cuts} cuts.",
           notes=["Chance is 1% and 0.5. Delta is 1e-5 under replacing one row; the settings of the private training were chosen on this data set."])  # fmt: skip


if __name__ == "__main__":
    main()
