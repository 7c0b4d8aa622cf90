"""The standard ensemble beside AutoAttack: the same nets, the same rows, the same eps; what each breaks, and its seconds.

    python -m benchmarks.autoattack [--models 12] [--rows 300]

Needs torchattacks (``pip install torchattacks`` with torch held by constraints.txt, in an environment of its own). Models are small
CNNs on digits: plain, hardened by N-FGSM, with logits times 100, and with two classes; seeds go on until the number is reached.
AutoAttack's loss needs three classes, so nets of two meet its parts that do not: APGD on the cross-entropy, FAB and Square.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.record import record
from carbide.data import builtin
from carbide.evasion.audit.standard import Standard
from carbide.evasion.harden.nfgsm import NFGSM
from carbide.evasion.judge import judge
from carbide.models.torch_net import TorchModel, TorchRecipe
from carbide.run import track
from carbide.types import Array, Dataset, LpBall, Model, Splits, decide, rng_for

LINF, L2 = LpBall(eps=0.15), LpBall(p=2, eps=0.5)


class Loud(nn.Module):
    """Logits times a factor: the cross-entropy of a sure net has no gradient left."""

    def __init__(self, inner: nn.Module, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, k)``."""
        return self.factor * self.inner(x)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of net under one threat."""

    name: str
    threat: LpBall
    hard: bool = False
    factor: float = 1.0
    classes: int = 10


KINDS = (
    Kind(name="plain", threat=LINF),
    Kind(name="N-FGSM", threat=LINF, hard=True),
    Kind(name="plain", threat=L2),
    Kind(name="N-FGSM", threat=L2, hard=True),
    Kind(name="N-FGSM, logits times 100", threat=LINF, hard=True, factor=100.0),
    Kind(name="plain, two classes", threat=LINF, classes=2),
)


def halves(data: Dataset) -> Dataset:
    """Digits below five, and the others."""
    return replace(data, y=(data.y >= 5).astype(np.int64), classes=2, class_names=("0 to 4", "5 to 9"))


def model_of(kind: Kind, data: Splits, seed: int) -> TorchModel:
    """A net of this kind."""
    recipe: Any = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": [1, 8, 8], "classes": kind.classes}, epochs=30)
    recipe = NFGSM()(recipe, kind.threat) if kind.hard else recipe
    model = recipe.fit(data.train, rng_for(seed, "train"))
    return model if kind.factor == 1 else replace(model, module=Loud(model.module, kind.factor))


def theirs(model: TorchModel, x: Array, y: Array, threat: LpBall) -> Array:
    """AutoAttack's inputs."""
    try:
        import torchattacks
    except ImportError as error:
        raise SystemExit("this benchmark compares with torchattacks, which is not installed; install it in an environment of its own") from error
    options: dict[str, Any] = {"norm": "Linf" if math.isinf(threat.p) else "L2", "eps": threat.eps}
    if model.classes > 2:
        attack: Any = torchattacks.AutoAttack(model.module, version="standard", n_classes=model.classes, seed=0, **options)
    else:
        parts = [
            torchattacks.APGD(model.module, steps=100, loss="ce", seed=0, n_restarts=1, **options),
            torchattacks.FAB(model.module, steps=100, n_classes=2, seed=0, n_restarts=1, multi_targeted=True, **options),
            torchattacks.Square(model.module, n_queries=5000, seed=0, n_restarts=1, **options),
        ]
        attack = torchattacks.MultiAttack(parts)
    with torch.random.fork_rng(devices=[]):
        return attack(model.tensor(x), torch.as_tensor(y, device=model.device)).detach().double().cpu().numpy()


def ours(model: TorchModel, x: Array, y: Array, threat: LpBall) -> Array:
    """The standard ensemble's inputs."""
    return Standard()(model, x, y, threat, rng_for(0, "standard"))


def broken(model: Model, x: Array, y: Array, z: Array, threat: LpBall) -> Array:
    """The rows ``(n,)`` bool that the model gets wrong as they are or changed; theirs may lie outside by float32's rounding."""
    return judge(model, x, y, z, replace(threat, eps=threat.eps * (1 + 1e-6)), model.space).success


def measure(kind: Kind, data: Splits, rows: int, seed: int) -> dict[str, float]:
    """Both attacks on one net."""
    data = Splits(train=halves(data.train), validation=halves(data.validation), test=halves(data.test)) if kind.classes == 2 else data
    model = model_of(kind, data, seed)
    x, y = data.test.x[:rows], data.test.y[:rows]
    fell, seconds = [], []
    for attack in (theirs, ours):
        wall, start = time.perf_counter(), time.process_time()
        z = attack(model, x, y, kind.threat)
        seconds.append(time.process_time() - start if model.device == "cpu" else time.perf_counter() - wall)
        fell.append(broken(model, x, y, z, kind.threat))
    clean = decide(model.predict(x)) != y
    attacked = fell[0] & ~clean
    both = float((fell[1] & attacked).sum() / max(attacked.sum(), 1))
    return {"AutoAttack": 1 - float(fell[0].mean()), "standard": 1 - float(fell[1].mean()), "share of its rows": both,
            "only standard": float((fell[1] & ~fell[0]).sum()), "only AutoAttack": float((fell[0] & ~fell[1]).sum()),
            "AutoAttack s": seconds[0], "standard s": seconds[1], "ratio": seconds[0] / seconds[1]}  # fmt: skip


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=12)
    parser.add_argument("--rows", type=int, default=300)
    given = parser.parse_args()
    data = builtin("images")
    table: list[dict[str, Any]] = []
    for number in track(range(given.models), label="nets"):
        kind, seed = KINDS[number % len(KINDS)], number // len(KINDS)
        found = measure(kind, data, given.rows, seed)
        table.append({"net": kind.name, "threat": kind.threat.words(), "seed": seed, **found})
        print(table[-1], flush=True)
    record("Images: the standard ensemble beside AutoAttack", table, protocol=(
        f"{len(table)} small CNNs on digits, the first {given.rows} test rows, one process. Robust accuracy over all rows under each; share of its rows: of the "
        "rows that AutoAttack breaks beyond those wrong as they are, how many the standard ensemble breaks too; seconds of processor time (wall "
        "clock on a GPU). Every changed input is judged by the same judge in the same ball."),
        notes=(f"Rows broken by the standard ensemble only: {int(sum(r['only standard'] for r in table))}; by AutoAttack only: "
               f"{int(sum(r['only AutoAttack'] for r in table))}. Median ratio of seconds: {float(np.median([r['ratio'] for r in table])):.1f}.",
               "AutoAttack is torchattacks' (version standard); on two classes, where its loss is not defined, its APGD on the cross-entropy, FAB and Square."))  # fmt: skip


if __name__ == "__main__":
    main()
