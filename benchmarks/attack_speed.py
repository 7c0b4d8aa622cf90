"""PGD with 40 steps and APGD on the cross-entropy with 100 beside ART, foolbox and torchattacks; and the memory of a large attack.

    python -m benchmarks.attack_speed [--rows 500] [--dry]

Needs adversarial-robustness-toolbox, foolbox and torchattacks (with torch held by constraints.txt, in an environment of their own) and
Fashion-MNIST beside the project. Every attack gets the same net, rows, eps, step size and number of steps, one start, one thread each.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.autoattack import Kind, broken, model_of, splits
from benchmarks.record import record
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.audit.standard import Standard
from carbide.models.torch_net import TorchModel
from carbide.types import Array, LpBall, rng_for

KINDS = tuple(Kind(data=data, training=training) for data in ("digits", "fashion") for training in ("plain", "N-FGSM"))
STEP = 0.1  # of PGD, in multiples of eps
ROWS = 10_000  # of the memory's figure


def art_attack(name: str, model: TorchModel, threat: LpBall, seed: int) -> Callable[[Array, Array], Array]:
    """ART's PGD or APGD as a function of rows and labels."""
    from art.attacks.evasion import AutoProjectedGradientDescent, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    net = PyTorchClassifier(model=model.module, loss=torch.nn.CrossEntropyLoss(), input_shape=model.space.shape, nb_classes=model.classes,
                            clip_values=(0.0, 1.0), device_type="cpu")  # fmt: skip
    common: dict[str, Any] = {"norm": np.inf, "eps": threat.eps, "batch_size": 1024, "verbose": False}
    if name == "PGD-40":
        attack: Any = ProjectedGradientDescentPyTorch(net, eps_step=STEP * threat.eps, max_iter=40, num_random_init=1, **common)
    else:
        attack = AutoProjectedGradientDescent(net, eps_step=2 * threat.eps, max_iter=100, nb_random_init=1, loss_type="cross_entropy", **common)
    return lambda x, y: attack.generate(x=x.astype(np.float32), y=y)


def foolbox_attack(name: str, model: TorchModel, threat: LpBall, seed: int) -> Callable[[Array, Array], Array] | None:
    """Foolbox's PGD as a function of rows and labels; it has no APGD."""
    import foolbox

    if name != "PGD-40":
        return None
    net, attack = foolbox.PyTorchModel(model.module, bounds=(0, 1), device="cpu"), foolbox.attacks.LinfPGD(rel_stepsize=STEP, steps=40)
    return lambda x, y: attack(net, model.tensor(x), torch.as_tensor(y), epsilons=threat.eps)[1].double().numpy()


def torchattacks_attack(name: str, model: TorchModel, threat: LpBall, seed: int) -> Callable[[Array, Array], Array]:
    """Torchattacks' PGD or APGD as a function of rows and labels."""
    import torchattacks

    if name == "PGD-40":
        attack: Any = torchattacks.PGD(model.module, eps=threat.eps, alpha=STEP * threat.eps, steps=40)
    else:
        attack = torchattacks.APGD(model.module, eps=threat.eps, steps=100, loss="ce", n_restarts=1, seed=seed)
    return lambda x, y: attack(model.tensor(x), torch.as_tensor(y)).detach().double().numpy()


def our_attack(name: str, model: TorchModel, threat: LpBall, seed: int) -> Callable[[Array, Array], Array]:
    """Carbide's PGD or APGD as a function of rows and labels."""
    attack: Any = PGD(steps=40, step=STEP) if name == "PGD-40" else APGD(steps=100, targets=0, loss="cross_entropy")
    return lambda x, y: attack(model, x, y, threat, rng_for(seed, name))


SIDES: dict[str, Any] = {"carbide": our_attack, "ART": art_attack, "foolbox": foolbox_attack, "torchattacks": torchattacks_attack}


def measure(kind: Kind, name: str, rows: int) -> dict[str, Any]:
    """One attack of every side on one net: mean robust accuracy and the least seconds of three runs, each with a seed of its own."""
    data = splits(kind)
    model = model_of(kind, data, 0)
    x, y = np.asarray(data.test.x[:rows], np.float64), data.test.y[:rows]
    found: dict[str, Any] = {"net": kind.name, "attack": name}
    for side, make in SIDES.items():
        seconds, robust = [], []
        for seed in range(3):
            attack = make(name, model, kind.threat, seed)
            if attack is None:
                break
            np.random.seed(seed)  # noqa: NPY002 -- ART draws its starts from here
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                start = time.perf_counter()
                z = attack(x, y)
            seconds.append(time.perf_counter() - start)
            robust.append(1 - float(broken(model, x, y, np.asarray(z, np.float64), kind.threat).mean()))
        found |= {f"{side} robust": float(np.mean(robust)), f"{side} s": min(seconds)} if seconds else {}
    return found


def memory() -> float:
    """The peak of resident memory, in GiB, of a process that attacks 10,000 rows of Fashion-MNIST."""
    done = subprocess.run([sys.executable, "-m", "benchmarks.attack_speed", "--child"], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def child() -> None:
    """Attack, and print the peak of this process."""
    kind = KINDS[-1]
    data = splits(kind)
    model = model_of(kind, data, 0)
    x, y = np.asarray(data.test.x[:ROWS], np.float64), data.test.y[:ROWS]
    Standard()(model, x, y, kind.threat, rng_for(0, "standard"))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def main() -> None:
    """Measure and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--dry", action="store_true", help="print only")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child()
        return
    torch.set_num_threads(1)
    table = []
    for kind in KINDS:
        for name in ("PGD-40", "APGD-CE-100"):
            table.append(measure(kind, name, given.rows))
            print(table[-1], flush=True)
    peak = memory()
    ratios = {side: [row[f"{side} s"] / row["carbide s"] for row in table if f"{side} s" in row] for side in SIDES if side != "carbide"}
    notes = [*[f"{side}: {min(r):.1f} to {max(r):.1f} times Carbide's seconds, {float(np.median(r)):.1f} in the middle." for side, r in ratios.items()],
             f"Peak of resident memory of a process that trains a small CNN on 6,000 rows and attacks {ROWS:,} rows of Fashion-MNIST with the standard "
             f"ensemble: {peak:.2f} GiB.",
             "Fashion-MNIST nets are searched in bfloat16 by Carbide, the float32 net deciding wherever it is close; peers run in float32."]  # fmt: skip
    if given.dry:
        print("\n".join(notes))
        return
    columns = list(dict.fromkeys(key for row in table for key in row))
    record("Images: attacks beside ART, foolbox and torchattacks", [{c: row.get(c, "") for c in columns} for row in table], protocol=(
        f"Small CNNs on digits (eps 0.15) and Fashion-MNIST (0.1), Linf, the first {given.rows} test rows, one thread, the least of three runs by the clock. "
        "The same steps, step size and one random start everywhere; every result is judged by the same judge. Robust accuracy over all rows, mean of three seeds."),
        notes=notes)  # fmt: skip


if __name__ == "__main__":
    main()
