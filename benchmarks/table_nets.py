"""Attacks on tables whose models are no trees, beside ART's black-box attacks on the same rows, and beside exact searches where there are some.

    python -m benchmarks.table_nets [--rows 12] [--seed 0]

Needs adversarial-robustness-toolbox. Three worlds. Ethereum accounts as in benchmarks/blackbox_trees.py (logarithms in [0, 1], $1 for a feature's whole
range, no relations), so that ART may do the same: a perceptron, a logistic regression, a support vector machine and nearest neighbours. The same
accounts in their own units with the relations and prices of benchmarks/accounts.py, which ART cannot keep. The built-in fraud case with its prices,
where the exact search on boosted trees says how much dearer the genetic attack is, and whether anything is cheaper than the minimum.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn
from xgboost import XGBClassifier

from benchmarks.accounts import POINT, splits_of, threat
from benchmarks.blackbox_trees import Unit, judged, logged, peers
from benchmarks.record import record
from carbide.data.cases import builtin_prices
from carbide.data.cases.fraud import make_fraud
from carbide.evasion._counted import Counted
from carbide.evasion.audit.boundary import Boundary
from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.evasion.audit.constrained_gradient import ConstrainedGradient
from carbide.evasion.audit.genetic import Genetic
from carbide.evasion.judge import judge
from carbide.models.estimators import EstimatorModel
from carbide.models.operating import calibrated
from carbide.models.torch_net import TorchModel
from carbide.types import Access, Array, Dataset, FeatureBudget, Price, PriceTable, Splits, rng_for

TAUGHT = 2500  # training rows of the models that keep them all
ANY = 50.0  # more than all features together cost


@dataclass(frozen=True, kw_only=True, eq=False)
class World:
    """A model and frauds that it catches."""

    name: str
    model: Any
    rows: Array
    threat: FeatureBudget

    @property
    def y(self) -> Array:
        """All frauds."""
        return np.ones(len(self.rows), np.int64)


def caught(model: Any, data: Dataset, rows: int) -> Array:
    """The first test frauds that the model catches."""
    x = data.x[data.y == 1]
    return x[model.predict(x)[:, 1] >= model.threshold][:rows]


def scaled(seed: int) -> tuple[Splits, PriceTable]:
    """The accounts in [0, 1] by the range of the training rows, and $1 for a whole range."""
    splits = splits_of(seed)
    unit = Unit.of(splits.train)
    space = unit.space()

    def part(data: Dataset) -> Dataset:
        return Dataset(x=unit.rows(data.x).clip(0, 1), y=data.y, ids=data.ids, source=data.source, space=space, classes=2)

    return Splits(train=part(splits.train), validation=part(splits.validation), test=part(splits.test)), PriceTable(
        prices={name: Price(up=1.0, down=1.0) for name in unit.names}
    )


def plain_worlds(seed: int, rows: int) -> list[World]:
    """Four models of the scaled accounts."""
    splits, prices = scaled(seed)
    few = splits.train.take(rng_for(seed, "few").permutation(len(splits.train))[:TAUGHT])
    made = {"perceptron": (MLPClassifier((64, 32), max_iter=60, random_state=seed), splits.train), "logistic regression": (LogisticRegression(C=10.0, max_iter=500), splits.train),
            "RBF machine": (SVC(C=10.0, probability=True, random_state=seed), few), "15 neighbours": (KNeighborsClassifier(15, weights="distance"), few)}  # fmt: skip
    found = []
    for name, (estimator, data) in made.items():
        model = calibrated(EstimatorModel(estimator=estimator.fit(data.x, data.y), space=data.space, classes=2), splits.validation, POINT)
        found.append(World(name=name, model=model, rows=caught(model, splits.test, rows), threat=FeatureBudget(money=ANY, prices=prices)))
    return found


def layers_of(fitted: MLPClassifier) -> nn.Sequential:
    """scikit-learn's perceptron as layers; of two classes it has one logit."""
    layers: list[nn.Module] = []
    for weight, bias in zip(fitted.coefs_, fitted.intercepts_, strict=True):
        layer = nn.Linear(*weight.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.as_tensor(weight.T))
            layer.bias.copy_(torch.as_tensor(bias))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Logged(nn.Module):
    """A perceptron on logarithms, fitted by scikit-learn, as a net on amounts in their own units."""

    def __init__(self, fitted: MLPClassifier, mean: Array, scale: Array) -> None:
        super().__init__()
        self.net = layers_of(fitted)
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.as_tensor(mean))
        self.register_buffer("scale", torch.as_tensor(scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """One logit ``(n, 1)``."""
        return self.net((x.sign() * x.abs().log1p() - self.mean) / self.scale)


def bound_world(seed: int, rows: int) -> World:
    """A perceptron of accounts in their own units, with relations and prices."""
    splits = splits_of(seed)
    z = logged(splits.train.x)
    mean, scale = z.mean(0), np.where(z.std(0) > 0, z.std(0), 1.0)
    fitted = MLPClassifier((64, 32), max_iter=60, random_state=seed).fit((z - mean) / scale, splits.train.y)
    net = TorchModel(module=Logged(fitted, mean, scale).double(), space=splits.train.space, classes=2, outputs="one logit")
    model = calibrated(net, splits.validation, POINT)
    return World(name="accounts with relations, perceptron, $20", model=model, rows=caught(model, splits.test, rows), threat=threat())


def fraud_worlds(seed: int, rows: int) -> list[World]:
    """The built-in fraud case: boosted trees and a perceptron."""
    splits = make_fraud(40_000, seed=seed).splits()
    prices = builtin_prices("fraud")
    assert prices is not None
    order = rng_for(seed, "fraud").permutation(np.flatnonzero(splits.train.y == 0))[:6000]
    mixed = splits.train.take(np.concatenate([order, *[np.flatnonzero(splits.train.y == 1)] * 5]))
    made = {"fraud, boosted trees, $50": (XGBClassifier(n_estimators=60, max_depth=4, learning_rate=0.15, n_jobs=1), splits.train),
            "fraud, perceptron, $50": (make_pipeline(StandardScaler(), MLPClassifier((32, 16), max_iter=25, random_state=seed)), mixed)}  # fmt: skip
    found = []
    for name, (estimator, data) in made.items():
        model = calibrated(EstimatorModel(estimator=estimator.fit(data.x, data.y), space=data.space, classes=2), splits.validation, POINT)
        found.append(World(name=name, model=model, rows=caught(model, splits.test, rows), threat=FeatureBudget(money=50.0, prices=prices)))
    return found


def ours(world: World) -> dict[str, Any]:
    """The attacks of the house that run on a model."""
    found = {"genetic": Genetic(), "boundary (labels)": Boundary()}
    return {"constrained_gradient": ConstrainedGradient(), **found} if Access.GRADIENTS in world.model.access else found


def measure(world: World, seed: int, *, against: bool) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """Every attack on one world: rows of the table and the price of each row's evasion, inf where there is none."""
    table, prices = [], {}
    attacks: dict[str, Any] = {
        name: (lambda model, x, a=attack: a(model, x, world.y, world.threat, rng_for(seed, "attack"))) for name, attack in ours(world).items()
    }
    if against:
        attacks |= dict.fromkeys(("ART ZOO", "ART HopSkipJump", "ART BoundaryAttack"))
    for name, attack in attacks.items():
        counted = Counted(world.model)
        box = _Facade(world.model, counted)
        start = time.perf_counter()
        witness = (
            peers(box, None, seed, zoo=60, hop=(20, 500, 50), boundary=300)[name](world.rows.astype(np.float32))
            if attack is None
            else attack(counted, world.rows.copy())
        )
        seconds = time.perf_counter() - start
        witness = np.asarray(witness, np.float64)
        price = judge(world.model, world.rows, world.y, witness, world.threat, world.model.space).cost
        if attack is None:  # what single precision alone moved is given back where the row passes without it
            tidy = judged(world.model, world.rows, np.where(np.abs(witness - world.rows) > 1e-6, witness, world.rows))[1]
            price = np.minimum(judged(world.model, world.rows, witness)[1], tidy)
        prices[name] = price
        hit = np.isfinite(price)
        table.append({"model": world.name, "attack": name, "rows evaded": f"{int(hit.sum())} of {len(hit)}",
                      "median price over all rows": f"{np.median(price):.3g}", "queries a row": f"{counted.queries / len(hit):,.0f}",
                      "ms a row": f"{1e3 * seconds / len(hit):.0f}"})  # fmt: skip
        print(table[-1], flush=True)
    return table, prices


class _Facade:
    """What ART asks of a model, counted."""

    def __init__(self, model: Any, counted: Counted) -> None:
        self.predict, self.threshold, self.space = counted.predict, model.threshold, model.space


def compared(world: World, prices: dict[str, Array]) -> str:
    """Ours (the cheapest of what the default ensemble's first attacks find) beside each peer."""
    own = np.min([prices[name] for name in prices if name in ("constrained_gradient", "genetic")], axis=0)
    said = []
    for name in (n for n in prices if n.startswith("ART")):
        hit = np.isfinite(prices[name])
        dearer = int((own[hit] > prices[name][hit] + 1e-6).sum())
        ratio = np.median(prices[name][hit] / np.maximum(own[hit], 1e-9)) if hit.any() else np.nan
        said.append(
            f"{name} evades {int(hit.sum())} rows, of which Carbide evades {int(np.isfinite(own[hit]).sum())}, {dearer} dearer (its median is {ratio:.1f} times ours)"
        )
    return f"{world.name}: " + "; ".join(said) + "."


def exact(world: World, prices: dict[str, Array]) -> str:
    """The attacks on trees beside the proven minimum."""
    best = CheapestTree().solve(world.model, world.rows, world.y, world.threat).cost
    both = np.isfinite(best) & np.isfinite(prices["genetic"]) & (best > 0)
    ratio = prices["genetic"][both] / best[both]
    under = int(sum((p < best * (1 - 1e-6) - 1e-9).sum() for p in prices.values()))
    dear = (
        f"at {np.median(ratio):.3f} times the least price (median; mean {ratio.mean():.3f}, most {ratio.max():.2f})" if both.any() else "at no price"
    )
    return (f"{world.name}: the exact search evades {int(np.isfinite(best).sum())} rows, genetic {int(np.isfinite(prices['genetic']).sum())}, {dear}; "
            f"attacks cheaper than the proven minimum: {under}.")  # fmt: skip


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    table, notes = [], []
    for world in plain_worlds(options.seed, options.rows):
        rows, prices = measure(world, options.seed, against=True)
        table += rows
        notes.append(compared(world, prices))
    for world in (bound_world(options.seed, options.rows), *fraud_worlds(options.seed, options.rows)):
        rows, prices = measure(world, options.seed, against=False)
        table += rows
        notes += [exact(world, prices)] if Access.STRUCTURE in world.model.access else []
    record("Attacks on tables of nets, machines and neighbours", table,
           protocol=f"Splits and worlds of seed {options.seed}; up to {options.rows} frauds that each model catches at 1% false positives; one thread. Prices of rows that stand count as infinite.",
           notes=[*notes, "ART's attacks minimise L2 and see no prices; on the scaled accounts a price is the L1 distance. TabularBench (CAPGD, MOEVA) stands in a section of its own."])  # fmt: skip


if __name__ == "__main__":
    main()
