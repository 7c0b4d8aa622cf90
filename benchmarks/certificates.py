"""Digits under Linf changes, an interval-trained CNN: rows broken, certified by intervals, CROWN and branch and bound, open; smoothing's passes.

    python -m benchmarks.certificates [--seeds 1] [--eps 0.15] [--rows 539] [--nodes 60] [--part certificates|smoothing|all]

Each certificate is asked about every row, as a user would ask it; smoothing is run as it is and with all of its answers.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.record import record
from carbide.data import builtin
from carbide.evasion._counted import Counted
from carbide.evasion._sandwich import fates
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.harden.interval_training import IntervalTraining
from carbide.evasion.judge import audit
from carbide.evasion.prove.branch_and_bound import BranchAndBound
from carbide.evasion.prove.crown import CROWN
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.evasion.prove.smoothing import Smoothing, at_least, radius
from carbide.models.torch_net import TorchRecipe
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
    case = Case(model=model, data=data, seed=seed)
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


def passes(data: Splits, eps: float, seed: int) -> list[dict[str, Any]]:
    """Smoothing with and without stopping: passes of the model a row and the share that is certified."""
    model = replace(PLAIN, perturb=Noise(sigma=eps)).fit(data.train, rng_for(seed, "train"))
    x, y, threat = data.test.x, data.test.y, LpBall(p=2, eps=eps)
    counted = Counted(model)
    start = time.perf_counter()
    found = Smoothing()(counted, x, y, threat, rng_for(seed, "smoothing"))
    stopped = {"procedure": "stopping", "passes a row": counted.queries / len(x), "certified": found.value, "seconds": time.perf_counter() - start}
    start = time.perf_counter()
    hits = np.array([_right(model, row, label, eps, rng_for(seed, "fixed", i)) for i, (row, label) in enumerate(zip(x, y, strict=True))])
    fixed = radius(at_least(hits, 10_000, 0.001 / len(x)), eps) > eps
    return [
        stopped,
        {"procedure": "fixed n = 10,000", "passes a row": 10_000.0, "certified": float(fixed.mean()), "seconds": time.perf_counter() - start},
    ]


def _right(model: Any, row: Array, label: int, sigma: float, rng: np.random.Generator) -> int:
    noisy = row + sigma * rng.normal(size=(10_000, *row.shape))
    return int((decide(model.predict(noisy), model.threshold) == label).sum())


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
    parser.add_argument("--part", choices=("certificates", "smoothing", "all"), default="all")
    given = parser.parse_args()
    data = builtin("images")
    data = Splits(train=data.train, validation=data.validation, test=data.test.take(np.arange(min(given.rows, len(data.test)))))
    if given.part != "smoothing":
        found = [certificates(data, LpBall(eps=given.eps), seed, given.nodes) for seed in range(given.seeds)]
        record("Certificates: digits under Linf changes", average(found), protocol=(
            f"Linf changes of at most {given.eps:g} on {len(data.test)} test rows, a CNN of 3,200 ReLUs trained by interval training, {given.seeds} seeds. "
            "Broken: by PGD or APGD or wrong as it is, and in the last row by the search's own witnesses too. Certified: proven by this "
            "certificate alone. Open: neither."))  # fmt: skip
    if given.part != "certificates":
        found = [passes(data, 0.5, seed) for seed in range(given.seeds)]
        record("Certificates: passes of smoothing", average(found), protocol=(
            f"L2 changes of at most 0.5, noise of sigma 0.5 and a CNN trained under it, {len(data.test)} test rows, failure probability 0.001 over all rows, {given.seeds} seeds. The "
            "procedure that stops may ask for up to 10,000 answers a row."))  # fmt: skip


if __name__ == "__main__":
    main()
