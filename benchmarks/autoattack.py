"""The standard ensemble beside AutoAttack: the same nets, the same rows, the same eps; what each breaks, and its seconds.

    python -m benchmarks.autoattack [--rows 500] [--models 16] [--kinds "digits/TRADES;fashion"] [--seed 0] [--processes 1] [--dry]

Needs torchattacks (``pip install torchattacks`` with torch held by constraints.txt, in an environment of its own) and Fashion-MNIST
beside the project. Ordinary nets meet the ensemble itself; masked ones what ``carbide audit`` does first: the examination, then the
ensemble on what it repaired. Random nets meet AutoAttack's ``rand`` version and are judged by what most of their draws answer.
AutoAttack's targeted loss needs more than three classes, so nets of two meet its other parts. ``--kinds`` takes parts of names; ``--dry`` records nothing.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from torch import nn

from benchmarks.poisoning import fashion
from benchmarks.record import record
from carbide.data import builtin
from carbide.evasion.audit.standard import Standard
from carbide.evasion.examination import examine
from carbide.evasion.examination.votes import Asked
from carbide.evasion.harden.interval_training import IntervalTraining
from carbide.evasion.harden.nfgsm import NFGSM
from carbide.evasion.harden.pgd_training import PGDTraining
from carbide.evasion.harden.trades import TRADES
from carbide.evasion.judge import judge
from carbide.models.torch_net import TorchModel, TorchRecipe
from carbide.types import Array, Dataset, LpBall, Model, Splits, decide, rng_for

TRAINING = {"plain": None, "N-FGSM": NFGSM(), "PGD": PGDTraining(steps=5), "TRADES": TRADES(steps=5), "interval": IntervalTraining()}
SIZES = {("digits", math.inf): 0.15, ("digits", 2.0): 0.5, ("fashion", math.inf): 0.1, ("fashion", 2.0): 1.0}
SHAPES = {"digits": (1, 8, 8), "fashion": (1, 28, 28)}
WARM = 24  # rows on which each side runs before its clock starts: libraries and kernels are loaded once
TRAIN = 6000  # rows of Fashion-MNIST on which nets are trained


class Loud(nn.Module):
    """Logits times 100: the cross-entropy of a sure net has no gradient left."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, k)``."""
        return 100 * self.inner(x)


class Rounded(nn.Module):
    """Inputs in steps of a tenth: the gradient is nothing everywhere."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, k)``."""
        return self.inner((10 * x).round() / 10)


class Noisy(nn.Module):
    """Gaussian noise on the inputs, drawn anew for each answer."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits ``(n, k)``."""
        return self.inner(x + 0.1 * torch.randn_like(x))


class Winners(nn.Module):
    """Xiao et al. 2020, https://arxiv.org/abs/1905.10510: the largest tenth of a layer's units stay, whatever their sign."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of the same shape."""
        flat = x.flatten(1)
        least = flat.topk(max(1, flat.shape[1] // 10), dim=1).values[:, -1:]
        return x * (flat >= least).reshape(x.shape)


MASKS: dict[str, type[nn.Module]] = {"logits x100": Loud, "quantised": Rounded, "noise": Noisy}


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of net under one threat: its data, its training, its classes and what masks its gradients."""

    data: str
    training: str
    p: float = math.inf
    mask: str = ""
    classes: int = 10

    @property
    def name(self) -> str:
        """``data/training, mask, classes norm``."""
        return ", ".join([f"{self.data}/{self.training}", *[self.mask] * bool(self.mask), *["two classes"] * (self.classes == 2)])

    @property
    def threat(self) -> LpBall:
        """The ball."""
        return LpBall(p=self.p, eps=SIZES[self.data, self.p])


ORDINARY = (
    *(Kind(data="digits", training=name) for name in ("plain", "N-FGSM", "TRADES", "interval")),
    *(Kind(data="fashion", training=name) for name in ("plain", "N-FGSM", "PGD", "interval")),
    Kind(data="digits", training="plain", p=2.0), Kind(data="digits", training="PGD", p=2.0),
    Kind(data="fashion", training="N-FGSM", p=2.0), Kind(data="digits", training="plain", classes=2),
)  # fmt: skip
MASKED = (*(Kind(data="digits", training="N-FGSM", mask=mask) for mask in MASKS), Kind(data="digits", training="plain", mask="k-WTA"))
KINDS = (*ORDINARY, *MASKED)


def halves(data: Dataset) -> Dataset:
    """Digits below five, and the others."""
    return replace(data, y=(data.y >= 5).astype(np.int64), classes=2, class_names=("0 to 4", "5 to 9"))


def splits(kind: Kind) -> Splits:
    """The rows of a kind's data set."""
    if kind.data == "digits":
        data = builtin("images")
        return data if kind.classes == 10 else Splits(**{part: halves(getattr(data, part)) for part in ("train", "validation", "test")})
    train, test = fashion("train"), fashion("t10k")
    return Splits(train=train.take(np.arange(TRAIN)), validation=train.take(np.arange(TRAIN, TRAIN + 1000)), test=test)


def winners_net(*, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """A perceptron of two hidden layers in which winners take all."""
    layers = [nn.Flatten(), nn.Linear(math.prod(shape), 200), Winners(), nn.Linear(200, 200), Winners(), nn.Linear(200, classes)]
    return nn.Sequential(*layers)


def model_of(kind: Kind, data: Splits, seed: int) -> TorchModel:
    """A net of this kind."""
    options: dict[str, Any] = {"shape": SHAPES[kind.data], "classes": kind.classes}
    factory: Any = winners_net if kind.mask == "k-WTA" else "carbide.models.nets:small_cnn"
    options |= {} if kind.mask == "k-WTA" else {"width": 32 if kind.data == "digits" else 16}
    recipe: Any = TorchRecipe(factory=factory, options=options, epochs=20 if kind.data == "digits" else 5)
    hardening = TRAINING[kind.training]
    recipe = recipe if hardening is None else hardening(recipe, kind.threat)
    model = recipe.fit(data.train, rng_for(seed, "train"))
    return replace(model, module=MASKS[kind.mask](model.module)) if kind.mask in MASKS else model


def theirs(model: TorchModel, x: Array, y: Array, kind: Kind, seed: int = 0) -> Array:
    """AutoAttack's inputs."""
    try:
        import torchattacks
    except ImportError as error:
        raise SystemExit("this benchmark compares with torchattacks, which is not installed; install it in an environment of its own") from error
    options: dict[str, Any] = {"norm": "Linf" if math.isinf(kind.p) else "L2", "eps": kind.threat.eps, "seed": seed, "n_restarts": 1}
    net, classes = model.module, model.classes
    if kind.mask == "noise":
        parts = [torchattacks.APGD(net, steps=100, loss=loss, eot_iter=20, **options) for loss in ("ce", "dlr")]
    else:
        parts = [
            torchattacks.APGD(net, steps=100, loss="ce", **options),
            *([torchattacks.APGDT(net, steps=100, n_classes=classes, **options)] if classes > 2 else []),
            torchattacks.FAB(net, steps=100, n_classes=classes, multi_targeted=True, **options),
            torchattacks.Square(net, n_queries=5000, **options),
        ]
    attack = torchattacks.MultiAttack(parts)
    with torch.random.fork_rng(devices=[]):
        return attack(model.tensor(x), torch.as_tensor(y, device=model.device)).detach().double().cpu().numpy()


def ours(model: TorchModel, x: Array, y: Array, kind: Kind, data: Splits) -> Array:
    """The standard ensemble's inputs; on a masked net after its examination, on what that repaired."""
    seen: Any = model
    if kind.mask:
        exam = examine(model, data.test.take(np.arange(len(x))), kind.threat)
        exam.refuse()
        seen = exam.seen(model)
    return Standard()(seen, x, y, kind.threat, rng_for(0, "standard"))


def broken(model: Model, x: Array, y: Array, z: Array, threat: LpBall) -> Array:
    """The rows ``(n,)`` bool that the model gets wrong as they are or changed; theirs may lie outside by float32's rounding."""
    return judge(model, x, y, z, replace(threat, eps=threat.eps * (1 + 1e-6)), model.space).success


def measure(kind: Kind, rows: int, seed: int) -> dict[str, Any]:
    """Both attacks on one net."""
    torch.set_num_threads(1)
    data = splits(kind)
    model = model_of(kind, data, seed)
    judged: Any = Asked(model) if kind.mask == "noise" else model
    x, y = np.asarray(data.test.x[:rows], np.float64), data.test.y[:rows]
    fell, wall, busy = [], [], []
    for attack in (lambda n: theirs(model, x[:n], y[:n], kind), lambda n: ours(model, x[:n], y[:n], kind, data)):
        attack(WARM)
        clock, start = time.perf_counter(), time.process_time()
        z = attack(rows)
        wall.append(time.perf_counter() - clock)
        busy.append(time.process_time() - start)
        fell.append(broken(judged, x, y, z, kind.threat))
    clean = decide(judged.predict(x)) != y
    attacked = fell[0] & ~clean
    its = np.flatnonzero(attacked)
    again = broken(judged, x[its], y[its], theirs(model, x[its], y[its], kind, seed=1), kind.threat)
    return {"net": kind.name, "threat": kind.threat.words(), "clean": 1 - float(clean.mean()),
            "AutoAttack": 1 - float(fell[0].mean()), "standard": 1 - float(fell[1].mean()), "of its rows": int(attacked.sum()),
            "also broken": int((fell[1] & attacked).sum()), "by AutoAttack again": int(again.sum()), "only standard": int((fell[1] & ~fell[0]).sum()),
            "AutoAttack s": wall[0], "standard s": wall[1], "ratio": wall[0] / wall[1], "AutoAttack CPU s": busy[0], "standard CPU s": busy[1],
            "CPU ratio": busy[0] / busy[1]}  # fmt: skip


def numbered(number: int, rows: int, seed: int) -> dict[str, Any]:
    """Both attacks on the net of this number."""
    return measure(KINDS[number], rows, seed)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--models", type=int, default=len(KINDS))
    parser.add_argument("--kinds", default="", help="parts of names, separated by semicolons; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1, help="nets measured beside each other, each on one thread")
    parser.add_argument("--dry", action="store_true", help="print only")
    given = parser.parse_args()
    parts = [part for part in given.kinds.split(";") if part]
    chosen = [kind for kind in KINDS if not parts or any(part in f"{kind.name} {kind.threat.words()}" for part in parts)][: given.models]
    table: list[dict[str, Any]] = []
    from benchmarks.autoattack import numbered  # by this name other processes find it

    work = Parallel(n_jobs=given.processes, return_as="generator")
    for row in work(delayed(numbered)(KINDS.index(kind), given.rows, given.seed) for kind in chosen):
        table.append(row)
        print(" | ".join(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()), flush=True)
    if given.dry:
        return
    its, also, again, more = (sum(row[name] for row in table) for name in ("of its rows", "also broken", "by AutoAttack again", "only standard"))
    ratios = {masked: [row["CPU ratio"] for kind, row in zip(chosen, table, strict=True) if bool(kind.mask) == masked] for masked in (False, True)}
    record("Images: the standard ensemble beside AutoAttack" + (f", seed {given.seed}" if given.seed else ""), table, protocol=(
        f"{len(table)} nets, the first {given.rows} test rows of each data set, {given.processes} process(es) of one thread. Robust accuracy over all rows under each; of its rows: what "
        "AutoAttack breaks beyond those wrong as they are, how many of them the standard ensemble breaks too, and how many AutoAttack itself with another seed; seconds by the clock and of the processor, "
        f"after each side ran on {WARM} of the rows, so that neither pays for what happens once in a process. "
        "Every changed input is judged by the same judge on the net as it is, in the same ball."),
        notes=(f"Of the {its} rows that AutoAttack breaks the standard ensemble breaks {also} ({also / max(its, 1):.2%}), and {more} more; AutoAttack with another "
               f"seed breaks {again} of them ({again / max(its, 1):.2%}).",
               *[f"{name}: ratio of processor seconds {min(r):.1f} at least, {float(np.median(r)):.1f} in the middle."
                 for name, r in (("Ordinary nets", ratios[False]), ("Masked nets", ratios[True])) if r],
               "On masked nets the standard ensemble's seconds hold the examination; the label-only alarm and the curve of an audit are left out on all.",
               "AutoAttack is the paper's ensemble of torchattacks' parts: APGD-CE, APGD-T, FAB-T with 100 steps each and Square with 5,000 queries, for noise "
               "APGD-CE and APGD-DLR over 20 draws. Torchattacks' own AutoAttack takes 10 steps; on two classes APGD-T is not defined."))  # fmt: skip


if __name__ == "__main__":
    main()
