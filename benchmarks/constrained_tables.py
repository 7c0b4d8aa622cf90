"""Attacks on a table's net within norm balls and relations, beside TabularBench's CAPGD, MOEVA and CAA on the same net and rows.

    python -m benchmarks.constrained_tables --peer PYTHON [--rows 100] [--seeds 2] [--first 0]

PYTHON is one that has TabularBench (``pip install tabularbench``; 0.1.0 needs a Python before 3.11). Ethereum accounts as logarithms in
[0, 1]; changes keep min <= avg <= max and no more addresses than transactions, and leave alone what benchmarks/accounts.py gives no price
and no relation moves. Its attacks run as its ensemble (CAA) sets them; what they find is judged by its own judge, and what Carbide's find by
Carbide's.
"""

from __future__ import annotations

import argparse
import itertools
import math
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPClassifier
from torch import nn

from benchmarks.accounts import BALANCE, ORDERED, PRICES, splits_of
from benchmarks.blackbox_trees import Unit
from benchmarks.record import record
from benchmarks.table_nets import layers_of
from carbide.evasion.audit.constrained_gradient import ConstrainedGradient
from carbide.evasion.audit.genetic import Genetic
from carbide.evasion.judge import judge
from carbide.models.torch_net import TorchModel
from carbide.types import Array, Dataset, Linear, LpBall, decide, rng_for

BALLS = (LpBall(p=2.0, eps=0.1), LpBall(p=2.0, eps=0.3), LpBall(p=math.inf, eps=0.02), LpBall(p=math.inf, eps=0.05))
THEIRS = ("CAPGD", "MOEVA", "CAA")


def parts_of(seed: int) -> tuple[Dataset, Dataset]:
    """Training and test rows in [0, 1] with the relations between their columns, as drawn by the seed."""
    splits = splits_of(seed)
    unit = Unit.of(splits.train)
    names, low, wide = unit.names, unit.low, unit.wide
    at = names.index
    pairs = [(at(a), at(b)) for chain in ORDERED if set(chain) <= set(names) for a, b in itertools.pairwise(chain)]
    bound = tuple(Linear(features=(i, j), coefficients=(float(wide[i]), float(-wide[j])), upper=float(low[j] - low[i]) + 1e-6) for i, j in pairs)
    moved = {f for r in bound for f in r.features} | {at(name) for name in PRICES if name in names and name != BALANCE}
    space = unit.space(mutable=np.isin(np.arange(len(names)), sorted(moved)), relations=bound)

    def part(data: Dataset) -> Dataset:
        x = unit.rows(data.x).clip(0, 1)
        keeps = np.all([x[:, list(r.features)] @ np.array(r.coefficients) <= r.upper for r in bound], axis=0)
        return Dataset(x=x[keeps], y=data.y[keeps], ids=data.ids[keeps], source=data.source[keeps], space=space, classes=2)

    return part(splits.train), part(splits.test)


def net_of(train: Dataset, seed: int) -> TorchModel:
    """A perceptron of two logits, each half of the one that scikit-learn fits."""
    net = layers_of(MLPClassifier((64, 32), max_iter=60, random_state=seed).fit(train.x, train.y))
    last = net[-1]
    assert isinstance(last, nn.Linear)
    two = nn.Linear(last.in_features, 2)
    two.load_state_dict({"weight": torch.cat([-last.weight, last.weight]) / 2, "bias": torch.cat([-last.bias, last.bias]) / 2})
    return TorchModel(module=nn.Sequential(*net[:-1], two), space=train.space, classes=2)


def question(model: TorchModel, rows: Array, train: Array) -> dict[str, Any]:
    """What the other side is told: weights, rows, bounds, relations and balls."""
    space, asked = model.space, {}
    linear = [layer for layer in model.module if isinstance(layer, nn.Linear)]  # type: ignore[union-attr]
    for i, layer in enumerate(linear):
        asked |= {f"weight{i}": layer.weight.detach().numpy(), f"bias{i}": layer.bias.detach().numpy()}
    coefficients = np.zeros((len(space.relations), rows.shape[1]))
    for row, r in zip(coefficients, space.relations, strict=True):
        assert isinstance(r, Linear)
        row[list(r.features)] = r.coefficients
    upper = np.array([r.upper for r in space.relations if isinstance(r, Linear)])
    return asked | {"layers": len(linear), "rows": rows, "labels": np.ones(len(rows)), "all": train, "mutable": space.mutable, "low": space.lower, "high": space.upper,
                    "coefficients": coefficients, "upper": upper, "norms": np.array(["L2" if b.p == 2 else "Linf" for b in BALLS]),
                    "sizes": np.array([b.eps for b in BALLS])}  # fmt: skip


def measure(seed: int, rows: int, peer: str) -> list[dict[str, Any]]:
    """Every attack on every ball on one split: how many rows are evaded, and in how long."""
    train, test = parts_of(seed)
    model = net_of(train, seed)
    frauds = test.x[test.y == 1]
    x = frauds[decide(model.predict(frauds)) == 1][:rows].astype(np.float32).astype(np.float64)
    y = np.ones(len(x), np.int64)
    with tempfile.TemporaryDirectory() as folder:
        ask, answer = Path(folder) / "question.npz", Path(folder) / "answer.npz"
        np.savez(ask, **question(model, x, train.x))
        subprocess.run([peer, str(Path(__file__).with_name("constrained_tables_peer.py")), str(ask), str(answer)], check=True)
        theirs = dict(np.load(answer))
    table = []
    for k, ball in enumerate(BALLS):
        union = np.zeros(len(x), bool)
        base = {"seed": seed, "ball": ball.words(), "rows": len(x)}
        for name, attack in (("constrained_gradient", ConstrainedGradient()), ("genetic", Genetic())):
            start = time.perf_counter()
            z = attack(model, x.copy(), y, ball, rng_for(seed, "attack"))
            took = time.perf_counter() - start
            hit = judge(model, x, y, z, ball, model.space).success
            union |= hit
            table.append(base | {"attack": f"Carbide {name}", "evaded": int(hit.sum()), "ms a row": 1e3 * took / len(x)})
        for name in THEIRS:
            hit, took = theirs[f"hit {k} {name}"], float(theirs[f"seconds {k} {name}"])
            table.append(base | {"attack": f"TabularBench {name}", "evaded": int(hit.sum()), "ms a row": 1e3 * took / len(x)})
        both = np.any([theirs[f"hit {k} {name}"] for name in THEIRS], axis=0)
        table.append(base | {"attack": "only Carbide's two", "evaded": int((union & ~both).sum()), "ms a row": math.nan})
        table.append(base | {"attack": "only TabularBench's three", "evaded": int((both & ~union).sum()), "ms a row": math.nan})
    for row in table:
        print(row, flush=True)
    return table


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--peer", required=True)
    parser.add_argument("--rows", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = [row for seed in range(given.first, given.first + given.seeds) for row in measure(seed, given.rows, given.peer)]
    table = []
    for ball, attack in dict.fromkeys((row["ball"], row["attack"]) for row in found):
        own = [row for row in found if (row["ball"], row["attack"]) == (ball, attack)]
        took = float(np.mean([row["ms a row"] for row in own]))
        table.append({"ball": ball, "attack": attack, "rows evaded": f"{sum(row['evaded'] for row in own)} of {sum(row['rows'] for row in own)}",
                      "ms a row": "" if math.isnan(took) else f"{took:.1f}"})  # fmt: skip
    record("Attacks on tables of nets: TabularBench", table, protocol=(
        f"Perceptrons (64, 32) of Ethereum accounts, splits {given.first} to {given.first + given.seeds - 1}, {given.rows} frauds each that the net catches; one thread. "
        "Features are logarithms in [0, 1], relations min <= avg <= max and no more addresses than transactions. TabularBench's attacks as its ensemble sets them "
        "(CAPGD 10 steps twice, MOEVA 100 generations of 100), judged by its own judge; Carbide's as they come, judged by Carbide's."),
        notes=("Only: rows that none of the other side's attacks evades.",))  # fmt: skip


if __name__ == "__main__":
    main()
