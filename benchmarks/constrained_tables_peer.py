"""The other side of benchmarks/constrained_tables.py: TabularBench's attacks, run by a Python that has it; reads and writes arrays.

    PYTHON benchmarks/constrained_tables_peer.py QUESTION.npz ANSWER.npz

Holds nothing of Carbide, which needs a later Python than TabularBench 0.1.0 runs on.
"""

from __future__ import annotations

import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tabularbench.attacks.caa.caa import ConstrainedAutoAttack  # type: ignore[import-not-found]
from tabularbench.attacks.capgd.capgd import CAPGD  # type: ignore[import-not-found]
from tabularbench.attacks.moeva.moeva import Moeva2  # type: ignore[import-not-found]
from tabularbench.attacks.objective_calculator import ObjectiveCalculator  # type: ignore[import-not-found]
from tabularbench.constraints.constraints import Constraints  # type: ignore[import-not-found]
from tabularbench.constraints.relation_constraint import Constant, Feature  # type: ignore[import-not-found]
from tabularbench.models.tab_scaler import TabScaler  # type: ignore[import-not-found]
from torch import nn


class Scores:
    """Probabilities of a net, in the shape that its attacks and its judge ask for."""

    def __init__(self, net: nn.Module) -> None:
        self.wrapper_model = net

    def predict_proba(self, x: Any) -> Any:
        """Probabilities ``(n, k)`` of rows ``(n, d)``, in the kind of array that was given."""
        with torch.no_grad():
            found = torch.softmax(self.wrapper_model(torch.as_tensor(np.asarray(x), dtype=torch.float32)), 1)
        return found if isinstance(x, torch.Tensor) else found.numpy()


def net_of(asked: Any) -> nn.Module:
    """Layers and ReLUs from their weights."""
    layers: list[nn.Module] = []
    for i in range(int(asked["layers"])):
        weight, bias = (torch.as_tensor(asked[f"{name}{i}"], dtype=torch.float32) for name in ("weight", "bias"))
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = weight, bias
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


def relation(coefficients: Any, upper: float) -> Any:
    """``coefficients @ x <= upper``, positive terms on the left and negative ones on the right."""
    left, right = Constant(0.0), Constant(float(upper))
    for f in np.flatnonzero(coefficients):
        term = Constant(float(abs(coefficients[f]))) * Feature(int(f))
        left, right = (left + term, right) if coefficients[f] > 0 else (left, right + term)
    return left <= right


def main() -> None:
    """Run each attack on each ball and keep its rows, which of them its own judge accepts, and its seconds."""
    warnings.filterwarnings("ignore")
    asked = np.load(sys.argv[1])
    net = net_of(asked)
    torch.set_num_threads(1)
    x, y = asked["rows"].astype(np.float32), asked["labels"].astype(np.int64)
    d = x.shape[1]
    rules = [relation(c, u) for c, u in zip(asked["coefficients"], asked["upper"], strict=True)]
    held = Constraints(
        np.full(d, "real"), asked["mutable"], asked["low"].astype(float), asked["high"].astype(float), rules, np.array([f"f{f}" for f in range(d)])
    )
    scaler = TabScaler(num_scaler="none", one_hot_encode=False)
    scaler.fit(asked["all"].astype(np.float32), x_type=held.feature_types)
    scores, out = Scores(net), {}
    for k, (norm, eps) in enumerate(zip(asked["norms"].tolist(), asked["sizes"].tolist(), strict=True)):
        ball = {"norm": norm, "eps": eps}
        attacks = {"CAPGD": lambda b=ball: CAPGD(held, scaler, net, scores.predict_proba, seed=0, n_restarts=2, eps_margin=0.01, best_restart=False, **b),
                   "MOEVA": lambda b=ball: Moeva2(scores.predict_proba, constraints=held, seed=0, fun_distance_preprocess=scaler.transform, n_jobs=1, **b),
                   "CAA": lambda b=ball: ConstrainedAutoAttack(held, held, scaler, net, scores.predict_proba, n_jobs=1, seed=0, **b)}  # fmt: skip
        judge = ObjectiveCalculator(
            scores.predict_proba, constraints=held, thresholds={"distance": eps}, norm=norm, fun_distance_preprocess=scaler.transform
        )
        for name, make in attacks.items():
            attack = make()
            start = time.perf_counter()
            found = attack(torch.as_tensor(x), torch.as_tensor(y)) if name != "MOEVA" else attack(x, y)
            out[f"seconds {k} {name}"] = np.array(time.perf_counter() - start)
            found = np.asarray(found.detach() if isinstance(found, torch.Tensor) else found, np.float32)
            found = found[:, None, :] if found.ndim == 2 else found
            hit = judge.get_objectives_respected(x, y, found).mdc
            out[f"hit {k} {name}"] = hit.any(1)
            out[f"rows {k} {name}"] = found[np.arange(len(x)), hit.argmax(1)]
            print(norm, eps, name, out[f"hit {k} {name}"].mean(), float(out[f"seconds {k} {name}"]), flush=True)
    np.savez(Path(sys.argv[2]), **out)


if __name__ == "__main__":
    main()
