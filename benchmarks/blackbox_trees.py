"""The exact search beside ART's black-box attacks on the same boosted model and rows: who finds an evasion, how dear it is, how long it takes.

    python -m benchmarks.blackbox_trees [--rows 30] [--seed 0]

Needs adversarial-robustness-toolbox. Ethereum accounts (see benchmarks/accounts.py) in logarithms, scaled to [0, 1] by the range of the training
rows; any feature may change within it and no relations are kept, so that both sides may do the same. A change over
the whole range of a feature costs $1 (L1); the attacks minimise L2, so nearest changes in L2 are compared as well. ART's changes are judged as Carbide's are.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from xgboost import XGBClassifier

from benchmarks.accounts import POINT, splits_of
from benchmarks.record import record
from carbide.evasion.audit.boundary import Boundary
from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.models.estimators import EstimatorModel
from carbide.models.operating import calibrated
from carbide.types import Array, Dataset, FeatureBudget, LpBall, Price, PriceTable, Space, rng_for

NEVER = 1e6
CLEAR = 1e-3  # rows that a smaller change frees are left out: ART's attacks work in single precision and do not end on them


def logged(x: Array) -> Array:
    """Amounts by their order of magnitude."""
    return np.sign(x) * np.log1p(np.abs(x))


class Unit(NamedTuple):
    """Features as logarithms in [0, 1] by the range of some rows: the columns that are ``used``, their least values and their ranges."""

    used: Array
    low: Array
    wide: Array
    names: list[str]

    @classmethod
    def of(cls, data: Dataset) -> Unit:
        """The columns that differ among these rows."""
        used = np.flatnonzero(data.x.std(0) > 0)
        x = logged(data.x[:, used])
        return cls(used, x.min(0), np.ptp(x, axis=0), [data.space.names[f] for f in used])

    def rows(self, x: Array) -> Array:
        """Rows ``(n, d)`` in these units; others than those they were made by may lie outside [0, 1]."""
        return (logged(x[:, self.used]) - self.low) / self.wide

    def space(self, **options: Any) -> Space:
        """The unit cube."""
        return Space.table(self.names, lower=np.zeros(len(self.used)), upper=np.ones(len(self.used)), **options)


def world(seed: int) -> tuple[EstimatorModel, Array]:
    """The fitted model at 1% false positives, and the frauds of the test rows that it catches."""
    splits = splits_of(seed)
    unit = Unit.of(splits.train)
    train, other, test = (unit.rows(part.x) for part in (splits.train, splits.validation, splits.test))
    space = unit.space()
    fit = XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1).fit(train, splits.train.y)
    validation = Dataset(x=other, y=splits.validation.y, ids=splits.validation.ids, source=splits.validation.source,
                         space=space, classes=2)  # fmt: skip
    model = calibrated(EstimatorModel(estimator=fit, space=space, classes=2), validation, POINT)
    frauds = test[(splits.test.y == 1) & ((test >= space.lower) & (test <= space.upper)).all(1)]
    return model, frauds[model.predict(frauds)[:, 1] >= model.threshold]  # type: ignore[return-value]


def peers(
    model: Any,
    counted: Callable[[Array], Array] | None,
    seed: int,
    *,
    zoo: int = 100,
    hop: tuple[int, int, int] = (50, 1000, 100),
    boundary: int = 1000,
) -> dict[str, Callable[[Array], Array]]:
    """ART's attacks, with these numbers of iterations (``hop``: and of evaluations, most and at first), on a black box whose decision is the model's at its threshold; ``counted`` gives probabilities."""
    from art.attacks.evasion import BoundaryAttack, HopSkipJump, ZooAttack
    from art.estimators.classification import BlackBoxClassifier

    np.random.seed(seed)  # noqa: NPY002 - ART draws from numpy's global state

    def shifted(x: Array) -> Array:
        """Probabilities moved so that 0.5 is the model's threshold, as ART decides by the larger one."""
        x, t = np.asarray(x, np.float64), model.threshold
        p = model.predict(x)[:, 1] if counted is None else counted(x)
        moved = np.where(p < t, 0.5 * p / t, 0.5 + 0.5 * (p - t) / (1 - t))
        return np.stack([1 - moved, moved], 1).astype(np.float32)

    box = BlackBoxClassifier(shifted, (len(model.space.names),), 2, clip_values=(0.0, 1.0))
    return {"ART ZOO": lambda x: ZooAttack(box, max_iter=zoo, learning_rate=0.1, nb_parallel=8, variable_h=0.2, use_resize=False, use_importance=False,
                                           batch_size=1, verbose=False).generate(x),
            "ART HopSkipJump": lambda x: HopSkipJump(box, norm=2, max_iter=hop[0], max_eval=hop[1], init_eval=hop[2], verbose=False).generate(x),
            "ART BoundaryAttack": lambda x: BoundaryAttack(box, targeted=False, max_iter=boundary, verbose=False).generate(x)}  # fmt: skip


def judged(model: Any, rows: Array, witness: Array) -> tuple[Array, Array, Array]:
    """Which changed rows pass, and at what L1 and L2 distance (inf where they do not)."""
    witness = witness.clip(model.space.lower, model.space.upper)
    hit, change = model.predict(witness)[:, 1] < model.threshold, witness - rows
    return hit, np.where(hit, np.abs(change).sum(1), np.inf), np.where(hit, np.sqrt((change**2).sum(1)), np.inf)


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    model, rows = world(options.seed)
    prices = PriceTable(prices={name: Price(up=1.0, down=1.0) for name in model.space.names})
    every = CheapestTree().solve(model, rows, np.ones(len(rows), np.int64), FeatureBudget(money=NEVER, prices=prices))
    clear = every.cost > CLEAR
    rows = rows[clear][: options.rows]
    y = np.ones(len(rows), np.int64)
    asked = [0]

    def counted(x: Array) -> Array:
        asked[0] += len(x)
        return model.predict(x)[:, 1]

    money = FeatureBudget(money=NEVER, prices=prices)
    ours: dict[str, Callable[[Array], Array]] = {
        "Carbide cheapest_tree, price": lambda x: CheapestTree().solve(model, x, y[: len(x)], money).witness,
        "Carbide cheapest_tree, L2": lambda x: CheapestTree().solve(model, x, y[: len(x)], LpBall(p=2, eps=10.0)).witness,
        "Carbide boundary, price (black box)": lambda x: Boundary(queries=2000)(model, x, y[: len(x)], money, rng_for(options.seed, "boundary"))}  # fmt: skip
    for name in list(ours)[:2]:
        ours[name](rows[:1])  # compiles
    found, table = {}, []
    for name, attack in {**ours, **peers(model, counted, options.seed)}.items():
        asked[0], start = 0, time.perf_counter()
        witness = np.asarray(attack(rows.copy() if name.startswith("Carbide") else rows.astype(np.float32)), np.float64)
        seconds = time.perf_counter() - start
        print(f"{name}: {seconds:.1f} s", flush=True)
        hit, price, distance = judged(model, rows, witness)
        if not name.startswith("Carbide"):  # what single precision alone moved is given back where the row passes without it
            tidy = judged(model, rows, np.where(np.abs(witness - rows) > 1e-6, witness, rows))
            hit, price, distance = np.where(tidy[0], tidy, (hit, price, distance))
            hit = hit.astype(bool)
        found[name] = price, distance
        l1, l2 = (np.median(v[hit]) if hit.any() else np.nan for v in found[name])
        table.append({"attack": name, "rows evaded": f"{int(hit.sum())} of {len(rows)}", "median price, $ (L1)": f"{l1:.3f}", "median L2": f"{l2:.3f}",
                      "queries a row": f"{asked[0] / len(rows):,.0f}" if asked[0] else "", "ms a row": f"{1e3 * seconds / len(rows):.2f}"})  # fmt: skip
    exact, near = found["Carbide cheapest_tree, price"][0], found["Carbide cheapest_tree, L2"][1]
    notes = []
    for name, (price, distance) in found.items():
        if not name.startswith("ART"):
            continue
        hit = np.isfinite(price)
        notes.append(f"{name}: of the {int(hit.sum())} rows that it evades, the exact search evades {int(np.isfinite(exact[hit]).sum())}, none dearer: "
                     f"{bool((exact[hit] <= price[hit] + 1e-6).all() and (near[hit] <= distance[hit] + 1e-6).all())}; median ratio of prices "
                     f"{np.median(price[hit] / np.maximum(exact[hit], 1e-9)) if hit.any() else np.nan:.1f}, of L2 {np.median(distance[hit] / np.maximum(near[hit], 1e-9)) if hit.any() else np.nan:.1f}.")  # fmt: skip
    record("Black-box attacks on boosted trees", table,
           protocol=f"Ethereum accounts, split of seed {options.seed}, XGBoost with 100 trees of depth 6 at 1% false positives; {len(rows)} of the {int(clear.sum())} frauds that it catches and no change under ${CLEAR:g} frees ({int((~clear).sum())} others are); one "
                    "thread.",
           notes=notes)  # fmt: skip


if __name__ == "__main__":
    main()
