"""Random small evasion problems of every kind of price and relation, with trees of every library."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.models.trees import Ensemble, ensemble_of
from carbide.types import Array, Implication, Kind, Linear, Price, PriceTable, Ratio, Relation, Space, Sum

KINDS = ("plain", "fixed", "integer", "matrix", "ratio", "whole chain", "real chain", "bound", "sum")
MORE = ("one-hot", "stairs", "implication", "missing", "following sum", "whole total", "bound group")  # columns and trees of the search's own
LIBRARIES = ("random forest", "gradient boosting", "histogram boosting", "xgboost", "lightgbm")
D = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Instance:
    """A fitted estimator, its trees, rows that it catches at the threshold, and what changing them costs."""

    name: str
    estimator: Any
    ensemble: Ensemble
    rows: Array
    prices: PriceTable
    space: Space
    threshold: float


def instance(kind: str, library: str, seed: int, *, trees: int = 4, depth: int = 2, rows: int = 3) -> Instance:
    """The instance of this kind, library and seed; the threshold is one of the scores, so that ties are met too."""
    rng = np.random.default_rng([seed, (*KINDS, *MORE).index(kind), LIBRARIES.index(library)])
    x, space, prices = _table(kind, rng)
    plain = np.nan_to_num(x)
    y = (plain[:, 0] + plain[:, 1] * plain[:, 2] + plain[:, 3] + rng.normal(size=len(x)) > 0).astype(int)
    estimator = _estimator(library, trees, depth, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(x, y)
        scores = estimator.predict_proba(x)[:, 1]
    threshold = float(np.sort(scores)[len(scores) // 2])
    caught = x[scores >= threshold][:rows]
    return Instance(name=f"{kind}, {library}, {seed}", estimator=estimator, ensemble=ensemble_of(estimator), rows=caught, prices=prices, space=space,
                    threshold=threshold)  # fmt: skip


def takes_missing(library: str) -> bool:
    """Whether the library's trees take missing values."""
    return library != "gradient boosting"


def _estimator(library: str, trees: int, depth: int, seed: int) -> Any:
    from lightgbm import LGBMClassifier
    from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from xgboost import XGBClassifier

    if library == "random forest":
        return RandomForestClassifier(trees, max_depth=depth + 1, random_state=seed)
    if library == "gradient boosting":
        return GradientBoostingClassifier(n_estimators=trees, max_depth=depth, random_state=seed)
    if library == "histogram boosting":
        return HistGradientBoostingClassifier(max_iter=trees, max_depth=depth + 1, min_samples_leaf=5, random_state=seed)
    if library == "xgboost":
        return XGBClassifier(n_estimators=trees, max_depth=depth, random_state=seed, n_jobs=1)
    return LGBMClassifier(n_estimators=trees, num_leaves=2**depth, min_child_samples=5, verbose=-1, random_state=seed, n_jobs=1)


def _table(kind: str, rng: np.random.Generator) -> tuple[Array, Space, PriceTable]:
    """200 rows, their space and a random price table."""
    x = np.round(rng.normal(size=(200, D)) * 2, 1)
    lower, upper, kinds, mutable = np.full(D, -7.0), np.full(D, 7.0), np.zeros(D, int), np.ones(D, bool)
    fixed = rng.choice([0.0, 0.0, 1.0, 2.0], D) if kind in ("fixed", "real chain") else np.zeros(D)
    prices = {f"f{i}": Price(up=rng.choice([0.5, 1, 3, np.inf]), down=rng.choice([0.0, 1, 2, np.inf]), fixed=fixed[i]) for i in range(D)}
    relations: tuple[Relation, ...] = ()
    groups, group_prices, missing = (), {}, None
    if kind == "integer":
        x[:, :2], lower[:2], upper[:2], kinds[:2] = rng.integers(0, 6, (200, 2)), 0, 5, Kind.INTEGER
    if kind == "matrix":
        x[:, 0], lower[0], upper[0], kinds[0] = rng.integers(0, 4, 200), 0, 3, Kind.CATEGORICAL
        moves = rng.choice([0.0, 1, 2, 5, np.inf], (4, 4))
        np.fill_diagonal(moves, 0)
        prices["f0"] = Price(matrix=moves, fixed=float(rng.choice([0.0, 1.0])))
    if kind == "ratio":
        x[:, 1] = np.round(rng.uniform(0.5, 3, 200), 1) * rng.choice([1, 1, 1, -1])
        x[:, 2] = x[:, 0] / x[:, 1]
        mutable[1], lower[1], lower[2], upper[2] = False, -9, -1e9, rng.choice([1.5, 1e9])
        del prices["f2"]
        relations = (Ratio(target=2, numerator=0, denominator=1),)
    if kind == "whole chain":
        x[:, :3], lower[:3], upper[:3], kinds[:3] = np.sort(rng.integers(0, 6, (200, 3)), axis=1), 0, 6, Kind.INTEGER
    if kind == "real chain":
        x[:, :3] = np.sort(x[:, :3], axis=1)
    if kind in ("whole chain", "real chain"):
        relations = tuple(Linear(features=(i, i + 1), coefficients=(1.0, -1.0), upper=0.0) for i in (0, 1))
    if kind == "bound":
        x[:, 1], mutable[1] = np.maximum(x[:, 1], x[:, 0]), False
        relations = (Linear(features=(0, 1), coefficients=(1.0, -1.0), upper=0.0),)
    if kind == "sum":
        relations = (Linear(features=(0, 1), coefficients=(2.0, 1.0), upper=float(np.round((2 * x[:, 0] + x[:, 1]).max(), 1))),
                     Linear(features=(0, 3), coefficients=(-1.0, -1.0), upper=float(np.round((-x[:, 0] - x[:, 3]).max(), 1))))  # fmt: skip
    if kind in ("one-hot", "bound group"):
        x[:, :3], lower[:3], upper[:3], kinds[:3], groups = np.eye(3)[rng.integers(0, 3, 200)], 0, 1, Kind.ONE_HOT, ((0, 1, 2),)
        if rng.random() < 0.5:
            moves = rng.choice([0.0, 1, 2, 5, np.inf], (3, 3))
            np.fill_diagonal(moves, 0)
            group_prices = {("f1", "f2", "f0"): Price(matrix=moves) if rng.random() < 0.7 else Price(fixed=1.5)}
            prices = {"f3": prices["f3"]}
    if kind == "bound group":  # f3 is small where the first member is on
        relations = (Implication(cause=0, effect=3, at_least=1.0, upper=1.0),)
    if kind == "stairs":
        x[:, 1], lower[1], upper[1], kinds[1] = rng.integers(0, 9, 200), 0, 8, Kind.INTEGER
        for name in ("f0", "f1", "f3"):
            up, down = (tuple((float(b), float(p)) for b, p in zip((1, 3, rng.choice([5, np.inf])), np.sort(rng.integers(0, 6, 3)), strict=True))
                        for _ in range(2))  # fmt: skip
            prices[name] = Price(up_steps=up, down_steps=down) if rng.random() < 0.6 else Price(up_steps=up, down=1.0, fixed=0.5)
    if kind == "implication":
        x[:, 0], lower[0], upper[0], kinds[0] = rng.integers(0, 4, 200), 0, 3, Kind.INTEGER
        relations = (Implication(cause=0, effect=1, at_least=1.0, at_most=2.0, lower=-1.0, upper=1.0), Implication(cause=2, effect=3, at_least=0.5, upper=2.0),
                     Implication(cause=1, effect=2, at_most=-1.5, lower=-1.0, upper=0.0))  # fmt: skip
    if kind == "missing":
        x[:, 1], lower[1], upper[1], kinds[1] = rng.integers(0, 4, 200), 0, 3, Kind.CATEGORICAL
        missing = np.array([True, True, False, False])
        prices["f0"] = Price(up=1.0, down=2.0, hide=float(rng.choice([0.5, 2.0, np.inf])), fill=1.0)
        prices["f1"] = Price(matrix=2.0 * (1 - np.eye(4)), hide=float(rng.choice([0.5, 1.5])))
        prices["f2"] = Price(fill=float(rng.choice([0.5, 3.0])))
        x[rng.random(x.shape) < np.array([0.3, 0.3, 0.3, 0.0])] = np.nan
    if kind == "following sum":  # f2 = 2 f0 - f1, and f0 moves
        x[:, 2] = 2 * x[:, 0] - x[:, 1]
        mutable[1], lower[2], upper[2] = False, -99, rng.choice([3.0, 99.0])
        del prices["f2"]
        relations = (Sum(target=2, features=(0, 1), coefficients=(2.0, -1.0)), Linear(features=(2, 3), coefficients=(1.0, -1.0), upper=12.0))
    if kind == "whole total":  # f2 = f0 + f1, and both move by whole steps
        x[:, :2], lower[:2], upper[:2], kinds[:3] = rng.integers(0, 6, (200, 2)), 0, 6, Kind.INTEGER
        x[:, 2], lower[2], upper[2] = x[:, 0] + x[:, 1], 0, 12
        del prices["f2"]
        relations = (Sum(target=2, features=(0, 1), coefficients=(1.0, 1.0)),)
    space = Space.table([f"f{i}" for i in range(D)], lower=lower, upper=upper, kind=kinds, mutable=mutable, relations=relations, groups=groups)
    return x, replace(space, missing=missing), PriceTable(prices=prices, groups=group_prices)
