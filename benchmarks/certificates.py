"""Interval-trained CNNs under Linf changes: rows broken, certified by intervals, CROWN and branch and bound, open; smoothing's passes.

    python -m benchmarks.certificates [--seeds 1] [--eps 0.15] [--rows 539] [--nodes 60] [--part certificates|smoothing|sandwich|all]
    python -m benchmarks.certificates --part sandwich --data fashion --eps 0.1 --rows 10000 [--epochs 6] [--weights net.safetensors]

``certificates``: each is asked about every row. ``sandwich``: audit and prove as a user runs them, dearer certificates about rows that are still
open; every row ends broken, certified or open (fashion needs the data set beside the project). ``smoothing``: as it is and with all of its answers.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.poisoning import fashion
from benchmarks.record import record, table
from carbide._audit import Ask, audit_case
from carbide._prove import prove_case
from carbide.data import builtin
from carbide.evasion._counted import Counted
from carbide.evasion._sandwich import fates
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.harden.interval_training import IntervalTraining
from carbide.evasion.harden.short_interval_training import ShortIntervalTraining
from carbide.evasion.judge import audit
from carbide.evasion.prove.branch_and_bound import BranchAndBound
from carbide.evasion.prove.crown import CROWN
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.evasion.prove.smoothing import Smoothing, at_least, followed, radius
from carbide.models.torch_net import TorchModel, TorchRecipe, load_weights, make_module, weights_bytes
from carbide.run import Progress, Run, Store, use
from carbide.types import Array, Case, LpBall, Splits, decide, rng_for

PLAIN = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": [1, 8, 8], "classes": 10}, epochs=30)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """Training on noisy rows, as smoothing asks for them."""

    sigma: float

    def __call__(self, module: Any, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
        """The batch with Gaussian noise."""
        return x + self.sigma * torch.randn(x.shape, generator=generator, dtype=x.dtype)


def certificates(data: Splits, threat: LpBall, seed: int, nodes: int) -> list[dict[str, Any]]:
    """Attacks, then each certificate on the same rows: share certified, open with it, seconds."""
    model = IntervalTraining()(PLAIN, threat).fit(data.train, rng_for(seed, "train"))
    case = Case(model=model, data=data, seed=seed, rows=len(data.test))
    start = time.perf_counter()
    section = audit(case, threat, {"pgd": PGD(), "apgd": APGD()})
    broken = float(section.evidence["broken"].mean())
    rows = [{"method": "pgd and apgd", "broken": broken, "certified": 0.0, "open": 1 - broken, "seconds": time.perf_counter() - start}]
    x, y, wide = section.evidence["x"], section.evidence["y"], section.evidence["broken"]
    methods = {
        "intervals": IntervalBounds(halvings=0),
        "CROWN": CROWN(halvings=0),
        "CROWN, 10 slope steps": CROWN(halvings=0, alpha=10),
    }
    for name, method in methods.items():
        start = time.perf_counter()
        proof = method(model, x, y, threat, rng_for(seed, "prove", name))
        seconds = time.perf_counter() - start
        fate = fates(replace(section, certificates=(proof,)))  # stops if an attack is inside the certificate
        rows.append({"method": name, "broken": broken, "certified": proof.value, "open": float(fate.open.mean()), "seconds": seconds})
    start = time.perf_counter()
    found = BranchAndBound(nodes=nodes, steps=5).verdicts(model, x, y, threat, rng_for(seed, "prove", "branch and bound"))
    seconds, wide = time.perf_counter() - start, wide | found.broken
    if (wide & found.certified).any():
        raise SystemExit("an attack is inside a certificate")
    rows.append({"method": f"branch and bound, {nodes} parts", "broken": float(wide.mean()), "certified": float(found.certified.mean()),
                 "open": float((~wide & ~found.certified).mean()), "seconds": seconds})  # fmt: skip
    return rows


ASKED = {"interval_bounds": {"halvings": 0}, "crown": {"halvings": 0, "alpha": 10}}


def sandwich(
    data: Splits, threat: LpBall, seed: int, nodes: int, recipe: TorchRecipe, weights: Path | None
) -> tuple[list[dict[str, Any]], list[str]]:
    """What audit and prove say of every test row, with the seconds of each step; ``weights`` keeps the trained net for another run."""
    start = time.perf_counter()
    model = _trained(data, threat, seed, recipe, weights)
    trained = time.perf_counter() - start
    search = {"nodes": nodes, "steps": 5}
    ask = Ask(threat=threat, methods={"standard": {}}, certify={**ASKED, "branch_and_bound": search})
    case = Case(model=model, data=data, seed=seed)
    with tempfile.TemporaryDirectory() as folder, use(Run(progress=Progress(), store=Store(Path(folder)))) as run:
        start = time.perf_counter()
        audited = audit_case(case, [ask])
        middle = time.perf_counter()
        (section,) = prove_case(case, [ask], audited)  # stops if an attack is inside a certificate
        end = time.perf_counter()
        steps = [f"{line['step']}: {line['seconds']:.1f} s" for line in run.store.timings() if line["seconds"] >= 0.05]
    fate, n = fates(section), len(section.evidence["y"])
    proven = {c.method: int(c.holds.sum()) for c in section.certificates}
    row = {"rows": n, "clean": 1 - float(section.evidence["wrong"].mean()), "broken": float(fate.broken.mean()), "certified": float(fate.certified.mean()),
           "open": float(fate.open.mean()), "audit, s": middle - start, "prove, s": end - middle, "both, s": end - start}  # fmt: skip
    return [row], [
        f"Certified by {', '.join(f'{name}: {count}' for name, count in proven.items())} rows.",
        f"Training: {trained:.0f} s.",
        "; ".join(steps),
    ]


def _trained(data: Splits, threat: LpBall, seed: int, recipe: TorchRecipe, weights: Path | None) -> TorchModel:
    if weights is not None and weights.exists():
        module = make_module(recipe.factory, recipe.options)
        load_weights(module, weights.read_bytes(), name=f"weights {weights}")
        return TorchModel(module=module, space=data.test.space, classes=data.test.classes, factory=recipe.factory, options=recipe.options)
    model = ShortIntervalTraining()(recipe, threat).fit(data.train, rng_for(seed, "train"))
    if weights is not None:
        weights.write_bytes(weights_bytes(model.module))
    return model


RADII = (0.25, 0.5, 0.75)  # to be certified, under noise of sigma 0.5
SIGMA, ANSWERS, FAILURE = 0.5, 10_000, 0.001


def passes(data: Splits, seed: int) -> list[dict[str, Any]]:
    """For each radius the rows that all answers certify and that the procedure which stops certifies, on the same answers, and its passes."""
    model = replace(PLAIN, perturb=Noise(sigma=SIGMA)).fit(data.train, rng_for(seed, "train"))
    x, y, n = data.test.x, data.test.y, len(data.test)
    start = time.perf_counter()
    right = np.stack([_right(model, row, label, rng_for(seed, "noise", i)) for i, (row, label) in enumerate(zip(x, y, strict=True))])
    seconds, so_far = time.perf_counter() - start, np.concatenate([np.zeros((n, 1), np.int64), right.cumsum(1)], 1)
    fixed, rows = radius(at_least(so_far[:, -1], ANSWERS, FAILURE / n), SIGMA), []
    for eps in RADII:
        seen = np.zeros(n, np.int64)

        def ask(part: Array, more: int, seen: Array = seen) -> Array:
            seen[part] += more
            return so_far[part, seen[part]] - so_far[part, seen[part] - more]

        bound = followed(ask, n, samples=ANSWERS, sigma=SIGMA, eps=eps, reach=1.0, failure=FAILURE / n)
        counted = Counted(model)
        start = time.perf_counter()
        Smoothing(sigma=SIGMA)(counted, x, y, LpBall(p=2, eps=eps), rng_for(seed, "smoothing"))
        own = time.perf_counter() - start
        both = (fixed > eps) & (bound > eps)
        rows.append({"certified radius": eps, "rows by all answers": float((fixed > eps).sum()), "rows by stopping": float((bound > eps).sum()),
                     "by both": float(both.sum()), "passes a row, all": float(ANSWERS), "passes a row, stopping": float(seen.mean()),
                     "times fewer": ANSWERS / float(seen.mean()), "times fewer, another draw": ANSWERS * n / counted.queries,
                     "seconds, all": seconds, "seconds, stopping": own})  # fmt: skip
    return rows


def _right(model: Any, row: Array, label: int, rng: np.random.Generator) -> Array:
    """Which of the answers to noisy copies of the row are its label, ``(ANSWERS,)`` bool."""
    return decide(model.predict(row + SIGMA * rng.normal(size=(ANSWERS, *row.shape))), model.threshold) == label


def average(parts: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Rows of several seeds as mean and, of more than one, standard deviation."""
    merged = []
    for same in zip(*parts, strict=True):
        values = {k: np.array([row[k] for row in same]) for k in same[0] if not isinstance(same[0][k], str)}
        words = {k: v for k, v in same[0].items() if isinstance(v, str)}
        merged.append(words | {k: f"{v.mean():.4g}" + (f" +- {v.std():.2g}" if len(same) > 1 else "") for k, v in values.items()})
    return merged


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--eps", type=float, default=0.15)
    parser.add_argument("--rows", type=int, default=539)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--data", choices=("digits", "fashion"), default="digits")
    parser.add_argument("--epochs", type=int, default=0, help="of the recipe, before what interval training makes of them")
    parser.add_argument("--weights", type=Path, help="where the net of the sandwich is kept")
    parser.add_argument("--print", action="store_true", help="do not write RESULTS.md")
    parser.add_argument("--part", choices=("certificates", "smoothing", "sandwich", "all"), default="all")
    given = parser.parse_args()
    data, recipe = _data(given.data), PLAIN
    data = Splits(train=data.train, validation=data.validation, test=data.test.take(np.arange(min(given.rows, len(data.test)))))
    tell = (lambda name, rows, protocol, notes=(): print(f"{name}\n{table(rows)}\n", *notes, sep="\n")) if given.print else record
    if given.part in ("certificates", "all"):
        found = [certificates(data, LpBall(eps=given.eps), seed, given.nodes) for seed in range(given.seeds)]
        tell("Certificates: digits under Linf changes", average(found), protocol=(
            f"Linf changes of at most {given.eps:g} on {len(data.test)} test rows, a CNN of 3,200 ReLUs trained by interval training, {given.seeds} seeds. "
            "Broken: by PGD or APGD or wrong as it is, and in the last row by the search's own witnesses too. Certified: proven by this "
            "certificate alone. Open: neither."))  # fmt: skip
    if given.part in ("sandwich", "all"):
        if given.data == "fashion":
            recipe = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": [1, 28, 28], "classes": 10, "width": 16}, epochs=6)
        recipe = replace(recipe, epochs=given.epochs or recipe.epochs)
        rows, notes = sandwich(data, LpBall(eps=given.eps), 0, given.nodes, recipe, given.weights)
        tell(f"Certificates: every row of {given.data} decided", rows, notes=notes, protocol=(
            f"Linf changes of at most {given.eps:g}, all of {len(data.test)} test rows, a net trained by short interval training of {recipe.epochs} epochs. "
            "`standard` attacks, `interval_bounds`, `crown` and `branch_and_bound` prove, each asked about what those before it left. "
            "Rows that the model gets wrong as they are count as broken; audit and prove hold figures and evidence of the report."))  # fmt: skip
    if given.part in ("smoothing", "all"):
        found = [passes(data, seed) for seed in range(given.seeds)]
        tell("Certificates: passes of smoothing", average(found), protocol=(
            f"A CNN trained under noise of sigma {SIGMA:g}, {len(data.test)} test rows, failure probability {FAILURE:g} over all rows, {given.seeds} seeds. All "
            f"answers: {ANSWERS:,} a row. Stopping: at most as many, looked at after 100, 200, 400 ...; for each radius both procedures see the same "
            "answers, and once more the procedure is run on answers of its own."))  # fmt: skip


def _data(name: str) -> Splits:
    if name == "digits":
        return builtin("images")
    train = fashion("train")
    return Splits(train=train.take(np.arange(5000, len(train))), validation=train.take(np.arange(5000)), test=fashion("t10k"))


if __name__ == "__main__":
    main()
