"""Shadow models by the hundred: small perceptrons trained at once, beside the same one after the other and sacroml's.

    python -m benchmarks.shadows [--models 1024] [--epochs 20]

Needs sacroml for its side (``pip install sacroml`` with torch held by constraints.txt, in an environment of its own).
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.record import record
from carbide.data import builtin
from carbide.models.torch_net import TorchRecipe
from carbide.privacy.shadows import design, train_shadows
from carbide.run.current import Run, cores, use
from carbide.types import Dataset, rng_for

LOOP, THEIRS = 48, 64  # models of the slower sides, of which the rate is taken
BATCH, WIDTH = 32, 64


def ours(recipe: TorchRecipe, pool: Dataset, count: int) -> float:
    """Accuracy of shadow models on the rows that they were not trained on."""
    with use(Run(workers=cores())):
        found = train_shadows(recipe, pool, count, 0)
    right = found.answers.argmax(2) == pool.y
    return float(right[~found.members].mean())


def loop(recipe: TorchRecipe, pool: Dataset, count: int) -> float:
    """The same for models trained one after the other by the recipe."""
    members = design(pool.y, count, rng_for(0, "privacy", "design"))
    shares = []
    for number, inside in enumerate(members):
        model = recipe.fit(pool.take(np.flatnonzero(inside)), rng_for(0, "privacy", "shadow", number))
        shares.append((model.predict(pool.x).argmax(1) == pool.y)[~inside].mean())
    return float(np.mean(shares))


def theirs(epochs: int, pool: Dataset, count: int) -> float:
    """The same for sacroml's, with scikit-learn's perceptron of the same size, epochs and batches."""
    try:
        from sacroml.attacks.model_sklearn import SklearnModel
        from sacroml.attacks.utils import get_shadow_model, train_shadow_models
    except ImportError as error:
        raise SystemExit("this benchmark compares with sacroml, which is not installed; install it in an environment of its own") from error
    from sklearn.neural_network import MLPClassifier

    logging.disable(logging.INFO)
    net = MLPClassifier((WIDTH,), batch_size=BATCH, max_iter=epochs, n_iter_no_change=epochs + 1)
    with tempfile.TemporaryDirectory() as folder:
        train_shadow_models(SklearnModel(net), pool.x, pool.y, len(pool) // 2, count, folder)
        shares = []
        for number in range(count):
            model, _, outside = get_shadow_model(folder, number)
            shares.append((model.predict(pool.x[outside]) == pool.y[outside]).mean())
    return float(np.mean(shares))


def side(name: str, work: Callable[..., float], what: Any, pool: Dataset, count: int) -> dict[str, Any]:
    """One side's rate; a first small run takes what happens once."""
    work(what, pool, 4)
    start = time.perf_counter()
    accuracy = work(what, pool, count)
    seconds = time.perf_counter() - start
    return {"side": name, "models": count, "seconds": seconds, "models a second": count / seconds, "accuracy on the other rows": accuracy}


def main() -> None:
    """Measure and record."""
    import warnings

    warnings.filterwarnings("ignore")  # scikit-learn's, that so few epochs do not converge
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=1024)
    parser.add_argument("--epochs", type=int, default=20)
    given = parser.parse_args()
    data = builtin("patients")
    pool = data.train
    spread = pool.x.std(0)
    pool = pool.with_(x=(pool.x - pool.x.mean(0)) / spread)
    recipe = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": pool.x.shape[1], "classes": 2, "width": WIDTH},
                         epochs=given.epochs, batch=BATCH)  # fmt: skip
    table = [side("Carbide, at once", ours, recipe, pool, given.models), side("one after the other", loop, recipe, pool, LOOP),
             side("sacroml", theirs, given.epochs, pool, THEIRS)]  # fmt: skip
    for row in table:
        row["Carbide is faster by"] = table[0]["models a second"] / row["models a second"]
    record("Shadow models: small perceptrons", table, protocol=(
        f"Breast-cancer records, a pool of {len(pool)} rows, standardised; perceptrons {pool.x.shape[1]}-{WIDTH}-2, {given.epochs} epochs of batches of {BATCH} "
        "with Adam on half of the pool; training and answers on all rows. One after the other is the same training by the same loop; its nets and those "
        "trained at once agree to 2e-5. sacroml writes its models to disk, and trains scikit-learn's perceptron."),
        notes=("To reach: 1,024 models in at most 12 s on two cores, ten times the models a second of both others.",))  # fmt: skip


if __name__ == "__main__":
    main()
