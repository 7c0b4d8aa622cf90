"""What poison does to plain and hardened recipes, and how many poisoned rows are certified harmless.

    python -m benchmarks.poisoning [--part attacks|certificates|labels|real|all] [--seeds 3]

Plain and hardened recipes are attacked in one run with the same seeds, rows and attacks; the attacker poisons the hardened
recipe anew. ``real`` needs the data sets beside the project (Fashion-MNIST and Ethereum accounts).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier

from benchmarks.record import record
from carbide.data import builtin
from carbide.models.estimators import EstimatorRecipe
from carbide.poisoning import judge
from carbide.poisoning.audit.label_flips import LabelFlips
from carbide.poisoning.audit.patch_backdoor import PatchBackdoor
from carbide.poisoning.audit.table_trigger import TableTrigger
from carbide.poisoning.harden.label_check import LabelCheck
from carbide.poisoning.harden.partition_vote import PartitionVote
from carbide.poisoning.prove.partition_ensemble import PartitionEnsemble
from carbide.poisoning.ridge import RidgeRecipe
from carbide.poisoning.votes import certified_share
from carbide.registry import Method
from carbide.types import Backdoor, Case, Dataset, Flips, OperatingPoint, Recipe, Section, Space, Splits, Threat, rng_for

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CASES = ("patients", "fraud", "images")
FLIPPED = {"patients": 0.05, "fraud": 0.005, "images": 0.05}
PLANTED = {"patients": 0.02, "fraud": 0.002, "images": 0.02}


def recipe_of(name: str) -> tuple[Recipe, OperatingPoint | None]:
    """The recipe of a case, as in its story."""
    if name == "images":
        from carbide.models.torch_net import TorchRecipe

        return TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": [1, 8, 8], "classes": 10}, epochs=20), None
    if name in ("fraud", "ethereum"):
        from xgboost import XGBClassifier

        return EstimatorRecipe(estimator=XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1)), OperatingPoint(
            false_positive_rate=0.01
        )
    return EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=100, n_jobs=1)), None


def hardened(recipe: Recipe, threat: Threat) -> dict[str, Recipe]:
    """The plain recipe and every defence of the room."""
    return {"plain": recipe, "label check": LabelCheck()(recipe, threat), "relabelled": LabelCheck(action="relabel")(recipe, threat),
            **{f"vote of {k}": PartitionVote(partitions=k)(recipe, threat) for k in (5, 15, 45)}}  # fmt: skip


def audited(splits: Splits, recipe: Recipe, point: OperatingPoint | None, threat: Threat, methods: dict[str, Method], seed: int) -> Section:
    """The judge's section; no model under test is needed, because the judge trains its own."""
    return judge.audit(Case(model=None, data=splits, recipe=recipe, operating_point=point, seed=seed), threat, methods)  # type: ignore[arg-type]


def mean(values: list[float]) -> str:
    """Mean and, with more than one seed, the range."""
    return f"{np.mean(values):.3f}" + (f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else "")


def attacks(seeds: int) -> None:
    """Flips and backdoors against the plain and the hardened recipes of the built-in cases."""
    rows = []
    for name in CASES:
        recipe, point = recipe_of(name)
        splits = builtin(name)
        trigger: Method = PatchBackdoor() if name == "images" else TableTrigger()
        threats: dict[str, tuple[Threat, dict[str, Method]]] = {
            "flips": (Flips(fraction=FLIPPED[name]), {"random": LabelFlips(choice="random"), "chosen": LabelFlips()}),
            "backdoor": (Backdoor(fraction=PLANTED[name], target=0), {"trigger": trigger}),
        }
        for said, (threat, methods) in threats.items():
            for defence, defended in hardened(recipe, threat).items():
                rows.append({"case": name, "threat": f"{said} {threat.fraction:g}", "recipe": defence,  # type: ignore[attr-defined]
                             **measured(splits, defended, point, threat, methods, seeds)})  # fmt: skip
    record("Poison against plain and hardened recipes", rows, protocol=f"Built-in cases, test rows, {seeds} seeds; mean (least to most). "
           "Flips: accuracy, for fraud recall at 1% FPR. Backdoor: share of the rows of other classes that the trigger sends to class 0.")  # fmt: skip


def measured(splits: Splits, recipe: Recipe, point: OperatingPoint | None, threat: Threat, methods: dict[str, Method], seeds: int) -> dict[str, Any]:
    """Clean performance and what each attack leaves or reaches, over the seeds."""
    sections = [audited(splits, recipe, point, threat, methods, seed) for seed in range(seeds)]
    y = splits.test.y
    kind, chosen = ("decided", y == 1) if point is not None else ("predicted", np.ones(len(y), bool))
    found: dict[str, Any] = {"clean": mean([float((s.evidence[f"clean.{kind}"] == y)[chosen].mean()) for s in sections])}
    metric = sections[0].findings[0].metric
    if isinstance(threat, Backdoor):
        found["no poison"] = mean([float((s.evidence["trigger.clean_triggered"] == threat.target).mean()) for s in sections])
    for method in ("random", "chosen", "trigger"):
        values = [f.value for s in sections for f in s.findings if (f.metric, f.method) == (metric, method)]
        found[method] = mean(values) if values else ""
    return {"clean": found["clean"], "random flips": found["random"], "chosen flips": found["chosen"], "trigger, no poison": found.get("no poison", ""),
            "trigger": found["trigger"]}  # fmt: skip


def certificates() -> None:
    """Certified accuracy of the built-in cases against the number of poisoned rows."""
    rows = []
    for name in ("patients", "images"):
        recipe, _ = recipe_of(name)
        splits = builtin(name)
        for k in (15, 31, 61):
            method = PartitionEnsemble(partitions=k)
            for threat in (Flips(fraction=0.01), Backdoor(fraction=0.01)):
                bound = method(recipe, splits.train, splits.test.x, splits.test.y, threat, rng_for(0, "certificate")).bound
                shares = certified_share(bound, np.array([0, 1, 3, 5, 10]))
                rows.append({"case": name, "partitions": k, "rows are": "relabelled" if isinstance(threat, Flips) else "changed at will",
                             **{f"{r} rows": float(s) for r, s in zip((0, 1, 3, 5, 10), shares, strict=True)}})  # fmt: skip
    record("Certified accuracy under poison, built-in cases", rows, protocol="Share of the test rows that the vote gets right and that r poisoned training rows cannot "
           "change. Patients: forests; images: ridge on fixed gradient histograms. A row changed at will counts twice: it may leave one partition and enter another.")  # fmt: skip


def labels(seeds: int) -> None:
    """Precision and recall of the label check for planted flips, and what it takes from clean rows."""
    rows = []
    for name in CASES:
        recipe, _ = recipe_of(name)
        train = builtin(name).train
        for checker in ("forest", "recipe") if name != "images" else ("forest",):
            for fraction, choice in ((0.0, "random"), (0.05, "random"), (0.1, "random"), (0.05, "best")):
                found = [_labels(train, LabelCheck(checker=checker)(recipe, Flips(fraction=0)), fraction, choice, seed) for seed in range(seeds)]
                taken, precision, recall = (mean([f[i] for f in found]) for i in range(3))
                rows.append({"case": name, "checker": checker, "flips": f"{fraction:g} {choice}" if fraction else "none", "share taken out": taken,
                             "precision": precision if fraction else "", "recall": recall if fraction else ""})  # fmt: skip
    record("Label check", rows, protocol=f"Planted label flips in the training rows of the built-in cases, {seeds} seeds; mean (least to most).")


def _labels(train: Dataset, recipe: Any, fraction: float, choice: str, seed: int) -> tuple[float, float, float]:
    poison = LabelFlips(choice=choice)(train, Flips(fraction=fraction), rng_for(seed, "flips"))
    found = recipe.check(poison.dataset, rng_for(seed, "check")).rows
    both = (found & poison.rows).sum()
    return float(found.mean()), float(both / max(1, found.sum())), float(both / max(1, poison.rows.sum()))


def real(seeds: int) -> None:
    """Fashion-MNIST certified; Ethereum accounts with an in-bounds trigger."""
    train, test = (fashion(name) for name in ("train", "t10k"))
    rows = []
    for k in (300, 1200, 3000):
        start = time.perf_counter()
        bound = PartitionEnsemble(partitions=k)(RidgeRecipe(), train, test.x, test.y, Flips(fraction=0.001), rng_for(0, "unused")).bound
        rows.append({"partitions": k, **{f"{r} rows": float(certified_share(bound, np.array([r]))[0]) for r in (0, 50, 100, 300, 600)},
                     "median bound": float(np.median(bound)), "seconds": round(time.perf_counter() - start, 1)})  # fmt: skip
    record("Certified accuracy on Fashion-MNIST", rows, protocol="60,000 training and 10,000 test images; ridge on fixed gradient histograms, one a partition; "
           "share of the test images right and unchanged by r relabelled rows. The seconds hold training and certificate.")  # fmt: skip
    rows = []
    splits = ethereum()
    recipe, point = recipe_of("ethereum")
    for fraction in (0.003, 0.01):
        threat = Backdoor(fraction=fraction, target=0)
        for defence, defended in hardened(recipe, threat).items():
            rows.append(
                {"share planted": fraction, "recipe": defence, **measured(splits, defended, point, threat, {"trigger": TableTrigger()}, seeds)}
            )
    record("In-bounds trigger on Ethereum accounts", rows, protocol=f"{len(splits.train)} training rows, XGBoost, {seeds} seeds; clean = recall at 1% FPR; "
           "trigger = share of frauds that two in-bounds values make pass at 1% FPR.")  # fmt: skip


def fashion(name: str) -> Dataset:
    """One part of Fashion-MNIST."""
    from carbide.data.read_idx import read_array

    folder = DATA / "fashion-mnist"
    x = read_array(folder / f"{name}-images-idx3-ubyte.gz")[:, None].astype(np.float32) / 255
    y = read_array(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)
    n = len(y)
    return Dataset(x=x, y=y, ids=np.arange(n).astype(str), source=np.full(n, "zalando"), space=Space.image((1, 28, 28)), classes=10)


def ethereum() -> Splits:
    """Accounts without repeats and without the rows whose missing values give the label away."""
    import pandas as pd

    frame = pd.read_csv(DATA / "ethereum-fraud" / "transaction_dataset.csv", index_col=0).rename(columns=str.strip)
    frame = frame.drop(columns=["Index", "Address"]).select_dtypes("number").dropna()
    frame = frame.drop_duplicates(subset=[c for c in frame if c != "FLAG"])
    x, y = frame.drop(columns="FLAG").to_numpy(float), frame["FLAG"].to_numpy(np.int64)
    order = np.random.default_rng(0).permutation(len(y))
    names = [c for c in frame if c != "FLAG"]
    kind = (x == np.floor(x)).all(0).astype(np.int8)
    data = Dataset(x=x, y=y, ids=np.arange(len(y)).astype(str), source=np.full(len(y), "chain"), space=Space.table(names, kind=kind), classes=2)
    a, b = int(0.6 * len(y)), int(0.8 * len(y))
    return Splits(train=data.take(order[:a]), validation=data.take(order[a:b]), test=data.take(order[b:]))


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("attacks", "certificates", "labels", "real", "all"), default="all")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    parts = {
        "attacks": lambda: attacks(asked.seeds),
        "certificates": certificates,
        "labels": lambda: labels(asked.seeds),
        "real": lambda: real(asked.seeds),
    }
    for name, run in parts.items():
        if asked.part in (name, "all"):
            run()


if __name__ == "__main__":
    main()
