"""Epsilon audited from below: planted faults, sound trainings, and how close the bound of a private logistic regression comes to its claim.

python -m benchmarks.epsilon [--part mechanisms|logistic|all] [--trainings 3000] [--seed 0] [--seeds 3]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

from tests.privacy.mechanisms import Mechanism, broken, sound, table

from benchmarks.record import record
from carbide.data import builtin
from carbide.models.training_functions import FunctionRecipe
from carbide.privacy.audit.many_trainings import ManyTrainings
from carbide.privacy.claims import examine
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.run.current import Run, cores, use
from carbide.types import PrivacyClaim


def audited(mechanism: Mechanism, trainings: int, seed: int) -> dict[str, Any]:
    """One line of the table."""
    start = time.perf_counter()
    verdict = examine(FunctionRecipe(function=mechanism.train), table(seed=seed), mechanism.claim, ManyTrainings(trainings=trainings), seed)
    return {"training": mechanism.name, "sound": "yes" if mechanism.sound else "no", "refuted": "yes" if verdict.refuted else "no",
            "claimed epsilon": mechanism.claim.epsilon, "audited, any noise": verdict.any_noise, "audited, Gaussian": verdict.gaussian,
            "p of the errors": verdict.likely, "by": verdict.how, "s": time.perf_counter() - start}  # fmt: skip


def mechanisms(trainings: int, seed: int) -> None:
    """The zoo."""
    rows = [audited(mechanism, trainings, seed) for mechanism in (*broken(), *sound())]
    faults, kept = [r for r in rows if r["sound"] == "no"], [r for r in rows if r["sound"] == "yes"]
    caught, accused = sum(r["refuted"] == "yes" for r in faults), sum(r["refuted"] == "yes" for r in kept)
    record(f"Epsilon from below: planted faults, seed {seed}", rows, protocol=(
        f"Small private trainings in numpy on 60 rows of 6 features (logistic regression by noisy gradients, and others), {trainings:,} complete trainings each: "
        "half or 1,000 of them choose neighbouring data sets, score and thresholds, the others are counted. Accounts of noise alone are exact; those of sampled "
        "batches are Renyi accounts at six deltas. A claim is refuted where the errors have a probability of at most 0.001 under it."),
        notes=(f"Faults found: {caught} of {len(faults)}. Sound trainings accused: {accused} of {len(kept)}. Longest audit: {max(r['s'] for r in rows):.1f} s.",
               "To reach: at least 9 of 10 faults, no sound training accused, at most 60 s an audit."))  # fmt: skip


def logistic(seeds: Sequence[int], trainings: int | None) -> None:
    """The private logistic regression."""
    train, rows = builtin("patients").train, []
    for epsilon in (4.0, 8.0):
        recipe = PrivateLogisticRecipe(epsilon=epsilon)
        claim = PrivacyClaim(epsilon=epsilon, delta=recipe.delta, mu=recipe.privacy.mu)
        for seed in seeds:
            start = time.perf_counter()
            verdict = examine(recipe, train, claim, ManyTrainings(trainings=trainings), seed)
            rows.append({"claimed epsilon": epsilon, "seed": seed, "audited epsilon": verdict.epsilon, "share": f"{verdict.epsilon / epsilon:.1%}",
                         "audited, any noise": verdict.any_noise, "trainings counted": verdict.trainings, "by": verdict.how, "refuted": verdict.refuted,
                         "s": time.perf_counter() - start})  # fmt: skip
    record("Epsilon from below: private logistic regression", rows, protocol=(
        f"The private logistic regression at its own settings (60 noisy steps on {len(train)} rows of 30 features, bounds of the breast-cancer table, delta 1e-5, replacing "
        "one record). The attacker chooses the neighbouring data sets from crafted and natural ones, starts from nothing, and sees only what is released in the end: the "
        "averaged weights and the noisy centre. Lower bounds at 95% confidence on fresh trainings, threshold fixed before."),
        notes=("To reach: at least 90% of the claim in at most 60 s on two cores.",))  # fmt: skip


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=("mechanisms", "logistic", "all"), default="all")
    parser.add_argument("--trainings", type=int, default=3000)
    parser.add_argument("--stacked", type=int, default=None, help="trainings of the logistic regression")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    with use(Run(workers=cores())):
        if given.part in ("mechanisms", "all"):
            mechanisms(given.trainings, given.seed)
        if given.part in ("logistic", "all"):
            logistic(range(given.seed, given.seed + given.seeds), given.stacked)


if __name__ == "__main__":
    main()
