"""What adversarial training tells about its rows, and a recipe that is robust and tells no more than plain training.

    python -m benchmarks.robust_membership [--rows 1000] [--shadows 8] [--attacked 300] [--seed 60] [--only NAME ...]

A small CNN on few Fashion-MNIST rows, plain and trained by N-FGSM, alone and composed with what keeps members apart less. Each recipe is
trained whole in every shadow model; robust accuracy is that of models of all rows, on test images that nothing has seen.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.poisoning import fashion
from benchmarks.record import record
from carbide.evasion.audit.standard import Standard
from carbide.evasion.harden.nfgsm import NFGSM
from carbide.evasion.judge import judge
from carbide.models.torch_net import TorchRecipe
from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.rmia import Rmia
from carbide.privacy.front import Leak, leakage, lost
from carbide.privacy.harden.early_stopping import EarlyStopping
from carbide.privacy.harden.regularisation import Regularisation
from carbide.registry import Method
from carbide.run.current import Run, cores, use
from carbide.types import Array, Dataset, LpBall, Membership, Recipe, decide, rng_for

EPS, WIDTH = 0.05, 8
NET = {"shape": [1, 28, 28], "classes": 10, "width": WIDTH, "hidden": 64, "norm": True}
PLAIN = TorchRecipe(factory="carbide.models.nets:certified_cnn", options=NET, epochs=12)
ALWAYS = ("plain", "N-FGSM")


def recipes(epochs: int) -> dict[str, Recipe]:
    """The plain recipe, the robust one, and what is made of it."""
    ball, told, plain = LpBall(eps=EPS), Membership(), replace(PLAIN, epochs=epochs)
    options = {"pace": 1.0, "stretch": 1.5}
    robust: Any = NFGSM(**options)(plain, ball)
    averaged, pushed = NFGSM(**options, ema=0.98)(plain, ball), NFGSM(**options, awp=0.01)(plain, ball)
    found: dict[str, Recipe] = {"plain": plain, "N-FGSM": robust, "N-FGSM, averaged": averaged, "N-FGSM, AWP": pushed}
    found |= {f"N-FGSM, {share:g} of the epochs": EarlyStopping(share=share)(robust, told) for share in (0.5, 0.35, 0.25)}
    found |= {f"N-FGSM, decay {1e-3 / c:g}": Regularisation(c=c)(robust, told) for c in (0.1, 0.01)}
    found["N-FGSM, AWP, half of the epochs"] = EarlyStopping(share=0.5)(pushed, told)
    return found


def attacks(shadows: int) -> dict[str, Method]:
    """LiRA with models of both sides and of non-members alone, and RMIA."""
    return {"lira": Lira(shadows=shadows), "lira, offline": Lira(shadows=shadows, offline=True), "rmia": Rmia(shadows=shadows)}


def robust(recipe: Recipe, train: Dataset, test: Dataset, seeds: range) -> tuple[Array, Array]:
    """Whether each test row is right, and right under attack, ``(seeds, n)`` bool each, of models of all training rows."""
    clean, kept, threat = [], [], LpBall(eps=EPS)
    for seed in seeds:
        model: Any = recipe.fit(train, rng_for(seed, "train"))
        moved = Standard()(model, test.x, test.y, threat, rng_for(seed, "attack"))
        kept.append(~judge(model, test.x, test.y, moved, threat, test.space).success)
        clean.append(decide(model.predict(test.x)) == test.y)
    return np.stack(clean), np.stack(kept)


def row(name: str, leak: Leak, plain: Leak | None, held: tuple[Array, Array], reference: Array | None, seconds: float, seed: int) -> dict[str, Any]:
    """One line of the table; robust accuracy kept is a ratio over the same rows and seeds, with its bootstrap interval over rows."""
    clean, kept = held
    ratio = "" if reference is None else f"{kept.mean() / reference.mean():.3f}"
    if reference is not None:
        rng, n = rng_for(seed, "kept"), kept.shape[1]
        draws = [kept[:, i].mean() / reference[:, i].mean() for i in (rng.integers(n, size=n) for _ in range(2000))]
        ratio += " [{:.3f}, {:.3f}]".format(*np.quantile(draws, [0.025, 0.975]))
    return {"training": name, "TPR at 1% FPR": f"{leak.tpr:.2%} [{leak.interval.low:.2%}, {leak.interval.high:.2%}]",
            **{key: f"{value:.2%}" for key, value in leak.tprs.items()},
            "within the plain interval": "" if plain is None else "yes" if leak.tpr <= plain.interval.high else "no",
            "accuracy of shadows": f"{leak.accuracy:.1%}", "points lost": "" if plain is None else f"{100 * lost(plain, leak, seed=seed)[0]:.1f}",
            "accuracy": f"{clean.mean():.1%}", "robust accuracy": f"{kept.mean():.1%}", "of N-FGSM's": ratio, "s": round(seconds)}  # fmt: skip


def measure(chosen: Mapping[str, Recipe], pool: Dataset, test: Dataset, *, shadows: int, seed: int, models: int) -> list[dict[str, Any]]:
    """Every recipe on the same halves and the same test rows."""
    rows: list[dict[str, Any]] = []
    plain: Leak | None = None
    reference: Array | None = None
    for name, recipe in chosen.items():
        start = time.perf_counter()
        leak = leakage(name, recipe, pool, seed=seed, shadows=shadows, attacks=attacks(shadows))
        held = robust(recipe, pool, test, range(seed, seed + models))
        plain = leak if name == "plain" else plain
        reference = held[1] if name == "N-FGSM" else reference
        rows.append(row(name, leak, plain, held, reference, time.perf_counter() - start, seed))
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--shadows", type=int, default=8)
    parser.add_argument("--attacked", type=int, default=300)
    parser.add_argument("--models", type=int, default=1, help="models of all rows that are attacked")
    parser.add_argument("--epochs", type=int, default=0, help="of plain training; 0 = the benchmark's own")
    parser.add_argument("--seed", type=int, default=60)
    parser.add_argument("--only", nargs="*", default=None)
    parser.add_argument("--try", action="store_true", dest="trial", help="print, record nothing")
    given = parser.parse_args()
    rows, tests = fashion("train"), fashion("t10k")
    pool = rows.take(rng_for(given.seed, "rows").permutation(len(rows))[: given.rows])
    test = tests.take(rng_for(given.seed, "tests").permutation(len(tests))[: given.attacked])
    known = recipes(given.epochs or PLAIN.epochs)
    chosen = {name: recipe for name, recipe in known.items() if name in ALWAYS or given.only is None or name in given.only}
    with use(Run(workers=cores())):
        found = measure(chosen, pool, test, shadows=given.shadows, seed=given.seed, models=given.models)
    if given.trial:
        return
    record(f"Membership of adversarially trained nets, seed {given.seed}", found, protocol=(
        f"A CNN with four convolutions of width {WIDTH} and twice that, with batch norm; Fashion-MNIST, {given.rows:,} training images drawn by the seed. Each recipe trains "
        f"{given.shadows} shadow models on halves of them (the same halves for all), which LiRA (with both sides, and offline) and RMIA attack leave-one-out; the best "
        f"of the three counts, with a bootstrap over models and records. Robust accuracy: {given.models} models of all rows, {given.attacked} test images, the standard "
        f"ensemble at linf {EPS:g}; its share of plain N-FGSM's on the same rows and seeds. Recipes were chosen on seeds below 50."),
        notes=("To reach: a recipe whose rate stays within the plain model's interval with at least 95% of the robust accuracy of N-FGSM.",))  # fmt: skip


if __name__ == "__main__":
    main()
