"""Small tables with prices on which the cheapest evasion is known: linear nets with relations, and whole numbers that can all be tried."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import linprog

from carbide.models.torch_net import TorchModel
from carbide.space.membership import inside
from carbide.space.prices import cost
from carbide.types import FeatureBudget, Kind, Linear, Price, PriceTable, Ratio, Space, decide


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Rows of class 1 with a model and a threat."""

    model: Any
    x: np.ndarray
    threat: FeatureBudget

    @property
    def y(self) -> np.ndarray:
        return np.ones(len(self.x), np.int64)


def linear_net(w: np.ndarray, b: float, space: Space) -> TorchModel:
    net = torch.nn.Linear(len(w), 2).double()
    with torch.no_grad():
        net.weight.copy_(torch.as_tensor(np.stack([0 * w, w])))
        net.bias.copy_(torch.as_tensor([0.0, b]))
    return TorchModel(module=net, space=space, classes=2)


RELATIONS = (Linear(features=(3, 4), coefficients=(1.0, -1.0), upper=0.0), Linear(features=(5, 6, 7), coefficients=(1.0, 1.0, 1.0), upper=2.0),
             Linear(features=(0, 2, 3), coefficients=(1.0, 1.0, -1.0), upper=1e-6), Linear(features=(0, 2, 3), coefficients=(-1.0, -1.0, 1.0), upper=1e-6))  # fmt: skip


def linear_table(seed: int, *, relations: bool, n: int = 24, money: float = 1.5) -> Table:
    """A linear net of 8 features: one only falls, one only rises, one is free; with relations, an order, a sum and an identity."""
    rng, d = np.random.default_rng(seed), 8
    w, up, down = rng.normal(size=d), rng.uniform(0.5, 3, d), rng.uniform(0.5, 3, d)
    up[0], down[1], up[2] = np.inf, np.inf, 0.0
    kept = RELATIONS if relations else ()
    space = Space.table([f"f{i}" for i in range(d)], lower=np.where(np.arange(d) == 2, -1.0, 0.0), upper=np.ones(d), relations=kept)
    x = rng.uniform(size=(40 * n, d))
    if relations:
        x[:, 2] = x[:, 3] - x[:, 0]
        x = x[(x[:, 3] <= x[:, 4]) & (x[:, 5:].sum(1) <= 2)]
    x = x[:n]
    prices = PriceTable(prices={f"f{i}": Price(up=up[i], down=down[i]) for i in range(d)})
    return Table(model=linear_net(w, -float(np.quantile(x @ w, 0.3)), space), x=x, threat=FeatureBudget(money=money, prices=prices))


def cheapest_linear(table: Table) -> np.ndarray:
    """The least price of each row by scipy's linear program; 0 where it is misread as it is, inf where no money does it."""
    space, prices = table.model.space, table.threat.prices.prices
    layer = table.model.module
    w, b = (v.detach().numpy()[1] - v.detach().numpy()[0] for v in (layer.weight, layer.bias))
    d = len(w)
    up, down = (np.array([getattr(prices[name], way) for name in space.names]) for way in ("up", "down"))
    found = np.zeros(len(table.x))
    for i, x in enumerate(table.x):
        if x @ w + b < 0:
            continue
        matrix, most = [w], [-b - w @ x]
        for r in space.relations:
            row = np.zeros(d)
            np.add.at(row, list(r.features), r.coefficients)
            matrix.append(row)
            most.append(r.upper - row @ x)
        both = np.concatenate([np.array(matrix), -np.array(matrix)], 1)
        room = [*np.where(np.isinf(up), 0, space.upper - x), *np.where(np.isinf(down), 0, x - space.lower)]
        answer = linprog(np.nan_to_num(np.concatenate([up, down]), posinf=0.0), A_ub=both, b_ub=most, bounds=[(0, r) for r in room])
        found[i] = answer.fun if answer.status == 0 else np.inf
    return found


def whole_table(seed: int, *, n: int = 8) -> Table:
    """A small net on a count, a category, a one-hot group, a real feature of few uses that cannot change and a ratio."""
    rng = np.random.default_rng(seed)
    names = ["count", "category", "red", "green", "blue", "fixed", "total", "mean"]
    kind = np.array([Kind.INTEGER, Kind.CATEGORICAL, Kind.ONE_HOT, Kind.ONE_HOT, Kind.ONE_HOT, Kind.REAL, Kind.INTEGER, Kind.REAL])
    step = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    space = Space.table(names, lower=np.array([1.0, 0, 0, 0, 0, 0, 0, 0]), upper=np.array([5.0, 3, 1, 1, 1, 1, 6, 6]), kind=kind, step=step,
                        mutable=np.array([1, 1, 1, 1, 1, 0, 1, 1], bool), groups=((2, 3, 4),),
                        relations=(Ratio(target=7, numerator=6, denominator=0), Linear(features=(0, 6), coefficients=(1.0, -1.0), upper=0.0)))  # fmt: skip
    x = np.zeros((n, 8))
    x[:, 0], x[:, 1], x[:, 5] = rng.integers(1, 4, n), rng.integers(0, 4, n), rng.uniform(size=n)
    x[np.arange(n), 2 + rng.integers(3, size=n)] = 1.0
    x[:, 6] = np.minimum(6, x[:, 0] + rng.integers(0, 4, n))
    x[:, 7] = x[:, 6] / x[:, 0]
    move = np.round(rng.uniform(1, 5, (4, 4)), 1)
    np.fill_diagonal(move, 0.0)
    prices = PriceTable(prices={"count": Price(up=1.3, down=0.9), "category": Price(matrix=move), "total": Price(up=0.7, down=1.1),
                                **{c: Price(up=float(rng.uniform(0.5, 3)), down=0.2) for c in ("red", "green", "blue")}})  # fmt: skip
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)).double()
    model = TorchModel(module=net, space=space, classes=2)
    scores = model.predict(x)[:, 1]
    return Table(model=model.at(float(np.quantile(scores, 0.2))), x=x, threat=FeatureBudget(money=4.0, prices=prices))


def every_change(table: Table) -> np.ndarray:
    """The least price of each row of a ``whole_table`` by trying all changes; inf where none is affordable and misread."""
    found = np.full(len(table.x), np.inf)
    for i, row in enumerate(table.x):
        trials = []
        for count, category, colour, total in itertools.product(range(1, 6), range(4), range(3), range(7)):
            trial = row.copy()
            trial[:2], trial[2:5], trial[6] = (count, category), np.eye(3)[colour], total
            if (count, total) != (row[0], row[6]):
                trial[7] = total / count
            trials.append(trial)
        x, same = np.array(trials), np.repeat(row[None], len(trials), 0)
        good = inside(x, same, table.model.space, table.threat) & (decide(table.model.predict(x), table.model.threshold) != 1)
        found[i] = cost(same, x, table.threat.prices, table.model.space)[good].min(initial=np.inf)
    return found
