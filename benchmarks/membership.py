"""Membership attacks on the same targets: Carbide's LiRA beside ART's black-box attack and sacroml's LiRA.

    python -m benchmarks.membership [--models 32] [--targets 16] [--seed 4711] [--only random_forest] [--keep DIR]

sacroml trains its shadow models anew for each target. Carbide trains its own once, as many as the time of sacroml's one target
holds, so that what a model costs decides how many there are; a paired bootstrap says whether it is ahead, level or behind.

Needs sacroml and ART (``adversarial-robustness-toolbox``) in an environment of its own, with torch held by constraints.txt.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import record
from carbide.data.cases.patients import patients
from carbide.models.estimators import EstimatorRecipe
from carbide.models.recipes import make_recipe
from carbide.privacy.audit.lira import Lira
from carbide.privacy.shadows import Recorded, design, train_shadows
from carbide.run.current import Run, cores, use
from carbide.stats.roc import auc, roc_intervals, tpr_at_fpr, tpr_gain_interval
from carbide.types import Array, Dataset, Model, Recipe, rng_for

KINDS = ("random_forest", "gradient_boosting", "mlp", "logistic_regression", "decision_tree")
FPR = 0.01
STEP, MOST = 32, 512  # Carbide's shadow models come in such steps, and no more
PILOT = 16  # models that say what one costs
SHARE = 0.8  # of the time of sacroml's one target that training may take: the rest is for scoring and a slow spell


@dataclass(frozen=True, kw_only=True)
class Side:
    """Scores ``(targets, records)``, how many shadow models stand behind each row, and seconds of all targets and of one."""

    scores: Array
    models: int
    seconds: float
    alone: float


def carbide(recipe: Recipe, pool: Dataset, targets: list[Model], count: int, seed: int) -> Side:
    """LiRA with so many shadow models, trained once for all targets; one target costs their training and a single scoring."""
    start = time.perf_counter()
    with use(Run(workers=cores())):
        shadows = train_shadows(recipe, pool, count, seed + 1)
    trained = time.perf_counter() - start
    method = Lira(shadows=count)
    scores = np.stack([method(Recorded(records=pool, answers=t.predict(pool.x)), pool, rng_for(0), shadows) for t in targets])
    seconds = time.perf_counter() - start
    return Side(scores=scores, models=count, seconds=seconds, alone=trained + (seconds - trained) / len(targets))


def affordable(recipe: Recipe, pool: Dataset, least: int, seconds: float, seed: int) -> int:
    """How many shadow models so many seconds hold, by the cost of a few: in steps, at least ``least``."""
    with use(Run(workers=cores())):
        train_shadows(recipe, pool, 4, seed + 2)  # the start of processes
        start = time.perf_counter()
        train_shadows(recipe, pool, PILOT, seed + 3)
        each = (time.perf_counter() - start) / PILOT
    return int(np.clip(SHARE * seconds / each // STEP * STEP, least, MOST))


def sacroml(pool: Dataset, targets: list[Any], members: Array, count: int) -> Array:
    """Scores of sacroml's LiRA (online, as Carlini et al.) with so many shadow models a target."""
    from sacroml.attacks.likelihood_attack import LIRAAttack
    from sacroml.attacks.model_sklearn import SklearnModel

    class Kept(LIRAAttack):
        def _save_attack_metrics(self, mia_scores: Any, *args: Any) -> None:
            self.kept = np.asarray(mia_scores, float)[:, 1]

    found = np.zeros((len(targets), len(pool)))
    for row, (target, inside) in enumerate(zip(targets, members, strict=False)):
        order = np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)])
        x, y, n = pool.x[order], pool.y[order], int(inside.sum())
        model, answers = SklearnModel(target.estimator), target.predict(pool.x[order])
        with tempfile.TemporaryDirectory() as folder:
            attack = Kept(output_dir=folder, write_report=False, n_shadow_models=count, mode="online-carlini")
            attack._run(model.clone(), x[:n], y[:n], answers[:n], x[n:], y[n:], answers[n:])
        found[row, order] = attack.kept
    return found


def art(kind: str, pool: Dataset, targets: list[Model], members: Array, seed: int) -> Array:
    """Scores of ART's black-box attack, told who is a member among half of the records and asked about the other half, both ways."""
    from art.attacks.inference.membership_inference import MembershipInferenceBlackBox
    from art.estimators.classification import BlackBoxClassifier

    found = np.zeros((len(targets), len(pool)))
    for row, (target, inside) in enumerate(zip(targets, members, strict=False)):
        wrapped = BlackBoxClassifier(target.predict, (pool.x.shape[1],), pool.classes)
        half = rng_for(seed, "art", row).permutation(len(pool)) % 2 == 0
        for known in (half, ~half):
            attack = MembershipInferenceBlackBox(wrapped, attack_model_type=kind)
            attack.fit(pool.x[known & inside], pool.y[known & inside], pool.x[known & ~inside], pool.y[known & ~inside])
            found[row, ~known] = np.asarray(attack.infer(pool.x[~known], pool.y[~known], probabilities=True)).reshape(-1)
    return found


def peer(work: Callable[[int], Array], targets: int, models: int) -> Side:
    """A side that works target by target; a small first run takes what happens once."""
    work(1)
    start = time.perf_counter()
    scores = np.nan_to_num(work(targets), nan=-np.inf)
    seconds = time.perf_counter() - start
    return Side(scores=scores, models=models, seconds=seconds, alone=seconds / targets)


def measure(kind: str, pool: Dataset, models: int, count: int, seed: int) -> list[dict[str, Any]]:
    """All sides on the same targets."""
    recipe: Any = make_recipe({"estimator": kind}, space=pool.space, classes=2)
    if hasattr(recipe.estimator, "steps"):  # sacroml cannot seed a pipeline: all sides see standardised rows and the bare estimator
        pool = pool.with_(x=(pool.x - pool.x.mean(0)) / pool.x.std(0))
        recipe = EstimatorRecipe(estimator=recipe.estimator[-1])
    members = design(pool.y, count, rng_for(seed, "design"))
    targets = [recipe.fit(pool.take(inside), rng_for(seed, "target", i)) for i, inside in enumerate(members)]
    theirs = peer(lambda k: sacroml(pool, targets[:k], members, models), count, models)
    sides = {"Carbide, LiRA": carbide(recipe, pool, targets, affordable(recipe, pool, models, theirs.alone, seed), seed), "sacroml, LiRA": theirs,
             "ART, black box (forest)": peer(lambda k: art("rf", pool, targets[:k], members, seed), count, 0),
             "ART, black box (net)": peer(lambda k: art("nn", pool, targets[:k], members, seed), count, 0)}  # fmt: skip
    rows = [_row(kind, name, side, sides["Carbide, LiRA"], members, seed) for name, side in sides.items()]
    for row in rows:
        print(row, flush=True)
    return rows


def _row(kind: str, name: str, side: Side, ours: Side, members: Array, seed: int) -> dict[str, Any]:
    value = tpr_at_fpr(side.scores, members, FPR)
    interval = roc_intervals(side.scores, members, (FPR,), rng_for(seed, "bootstrap")).tpr[0]
    gain, verdict = "", ""
    if side is not ours:
        found = tpr_gain_interval(ours.scores, side.scores, members, FPR, rng_for(seed, "bootstrap"), draws=2000)
        gain = f"{tpr_at_fpr(ours.scores, members, FPR) - value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
        verdict = "ahead" if found.low > 0 else "behind" if found.high < 0 else "level"
    return {"model": kind, "side": name, "shadow models": side.models, "TPR at 1% FPR": value, "interval": f"{interval.low:.3f} to {interval.high:.3f}",
            "Carbide's less it": gain, "Carbide is": verdict, "AUC": auc(side.scores, members), "seconds, all targets": side.seconds,
            "seconds, one target": side.alone}  # fmt: skip


def main() -> None:
    """Measure and record."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=32)
    parser.add_argument("--targets", type=int, default=16)
    parser.add_argument("--seed", type=int, default=4711)
    parser.add_argument("--only", choices=KINDS, default=None)
    parser.add_argument("--keep", type=Path, default=None, help="folder of measured models: those that are there are not measured again")
    given = parser.parse_args()
    kept = given.keep or Path(tempfile.mkdtemp())
    kept.mkdir(exist_ok=True, parents=True)
    for kind in KINDS if given.only is None else (given.only,):
        if not (kept / f"{kind}.json").exists():
            (kept / f"{kind}.json").write_text(json.dumps(measure(kind, patients(), given.models, given.targets, given.seed)))
    if given.only is not None:
        return
    rows = [row for kind in KINDS for row in json.loads((kept / f"{kind}.json").read_text())]
    best = {kind: [r for r in rows if r["model"] == kind] for kind in KINDS}
    higher = sum(r[0]["TPR at 1% FPR"] > max(o["TPR at 1% FPR"] for o in r[1:]) for r in best.values())
    apart = {
        peer: [r[place]["Carbide is"] for r in best.values()]
        for peer, place in (("sacroml's LiRA", 1), ("ART with a forest", 2), ("ART with a net", 3))
    }
    quicker = {key: sum(r[0][column] < r[other][column] for r in best.values()) for key, other, column in
               (("sacroml", 1, "seconds, one target"), ("net", 3, "seconds, all targets"), ("forest", 2, "seconds, all targets"))}  # fmt: skip
    record("Membership attacks beside ART and sacroml", rows, protocol=(
        f"Breast-cancer, 569 records, {given.targets} targets trained on halves, seed {given.seed}; every side scores every record of the same targets, TPR "
        f"pooled over them. sacroml's LiRA (online-carlini) trains {given.models} shadow models for each target, as its interface has it; Carbide trains once "
        f"for all targets, as many as {SHARE:.0%} of the time of sacroml's one target holds by the cost of {PILOT}, from {given.models} to {MOST}. ART's black-box attack trains "
        "none: it is told who is a member among half of the records, which the others are not. Carbide's TPR less another's has a 95% interval where targets "
        "and records are drawn with replacement, the same for both: ahead where it lies above 0, behind below, else level. Seconds of one target are all of "
        "Carbide's training and one scoring, and a share of the others'; each side starts with a small run that is not counted. Two processes train Carbide's models."),
        notes=(f"Carbide's TPR is the highest on {higher} of 5 models. "
               + "; ".join(f"beside {peer} it is ahead on {said.count('ahead')}, level on {said.count('level')}, behind on {said.count('behind')}" for peer, said in apart.items()) + ".",
               f"For one target it is quicker than sacroml's LiRA on {quicker['sacroml']} of 5; for all "
               f"targets quicker than ART's attack with a net on {quicker['net']} of 5, with a forest on {quicker['forest']} of 5.",
               "On a decision tree an answer is 0 or 1 and LiRA's score rises with the share of references that miss the record, as the exact ratio of "
               "two Bernoullis does: more references order the records better until nothing is left to know."))  # fmt: skip


if __name__ == "__main__":
    main()
