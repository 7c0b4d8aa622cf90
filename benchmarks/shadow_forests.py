"""Shadow forests by the hundred: what answering, sending and the second process cost beside bare training.

    python -m benchmarks.shadow_forests [--models 256] [--trees 100] [--repeats 2]

Bare training is the same forests fitted by the same seeds and forgotten. Two processes that share nothing, each with half
of the bare trainings, say what a second core gives on the machine at all; Carbide's two workers are measured beside them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from typing import Any

from benchmarks.record import record
from carbide.data.cases.patients import patients
from carbide.models.estimators import EstimatorRecipe
from carbide.models.recipes import make_recipe
from carbide.privacy.shadows import design, train_shadows
from carbide.run.current import Run, use
from carbide.types import Dataset, rng_for


def bare(recipe: EstimatorRecipe, pool: Dataset, numbers: range, count: int) -> None:
    """Training alone of these of the shadow models: scikit-learn's fit, by the seeds that ``train_shadows`` draws."""
    from sklearn.base import clone

    members = design(pool.y, count, rng_for(0, "privacy", "design"))
    for number in numbers:
        seed = int(rng_for(0, "privacy", "shadow", number).integers(2**31))
        estimator: Any = clone(recipe.estimator)
        estimator.set_params(random_state=seed).fit(pool.x[members[number]], pool.y[members[number]])


def _apart(recipe: EstimatorRecipe, pool: Dataset, numbers: range, count: int, barrier: Any) -> None:
    bare(recipe, pool, range(2), count)
    barrier.wait()
    bare(recipe, pool, numbers, count)
    barrier.wait()


def apart(recipe: EstimatorRecipe, pool: Dataset, count: int) -> float:
    """Seconds of two processes that share nothing, both warm, each with every other bare training."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    both = [context.Process(target=_apart, args=(recipe, pool, range(i, count, 2), count, barrier)) for i in range(2)]
    for process in both:
        process.start()
    barrier.wait()
    start = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - start
    for process in both:
        process.join()
    return seconds


def timed(work: Callable[[], Any]) -> float:
    """Seconds of the work."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def carbide(recipe: EstimatorRecipe, pool: Dataset, count: int, workers: int) -> float:
    """Seconds of ``train_shadows``, answers on all rows included; a first small run starts the processes."""
    with use(Run(workers=workers)):
        train_shadows(recipe, pool, 2 * workers, 1)
        return timed(lambda: train_shadows(recipe, pool, count, 0))


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=256)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=2)
    given = parser.parse_args()
    pool, count = patients(), given.models
    recipe: Any = make_recipe({"estimator": "random_forest", "params": {"n_estimators": given.trees}}, space=pool.space, classes=2)
    sides = {"bare training, one process": lambda: timed(lambda: bare(recipe, pool, range(count), count)),
             "bare training, two processes that share nothing": lambda: apart(recipe, pool, count),
             "Carbide, one worker": lambda: carbide(recipe, pool, count, 1),
             "Carbide, two workers": lambda: carbide(recipe, pool, count, 2)}  # fmt: skip
    bare(recipe, pool, range(2), count)
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(given.repeats):  # in turn, so that a slow spell of the machine meets all sides
        for name, work in sides.items():
            found[name].append(work())
    seconds = {name: min(values) for name, values in found.items()}
    alone, shared, one, two = seconds.values()
    rows = [
        {"side": name, "seconds": seconds[name], "slowest of the repeats": max(found[name]), "models a second": count / seconds[name]}
        for name in sides
    ]
    record("Shadow forests: the second core", rows, protocol=(
        f"Breast-cancer, 569 rows; {count} forests of {given.trees} trees, each trained on half of the rows. Bare training forgets its forests; Carbide's sides "
        f"hold the answers of each forest on all rows. The quickest of {given.repeats} runs in turn; processes are started before the clock."),
        notes=(f"One worker takes {one / alone - 1:.1%} more than bare training; the second core gives {one / two:.2f} times, and two bare processes that "
               f"share nothing {alone / shared:.2f} times. To reach: at most 10%, and at least 1.7 times.",))  # fmt: skip


if __name__ == "__main__":
    main()
