"""The dual bound of the tree search: from the first box on it changes no answer, and it spares boxes."""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np
import pytest
from numba import config
from sklearn.ensemble import RandomForestClassifier

from carbide.evasion._tree_search import SearchResult, cutoff, search
from carbide.models.trees import ensemble_of
from carbide.types import Price, PriceTable, Space
from tests.oracles.brute import cheapest
from tests.oracles.instances import KINDS, LIBRARIES, Instance, instance
from tests.oracles.milp import cheapest as by_highs

module = importlib.import_module("carbide.evasion._tree_search.search")  # its name in the package is the function's
NEVER = 10**9


def solve(case: Instance, monkeypatch: pytest.MonkeyPatch, plain: int, **options: object) -> SearchResult:
    monkeypatch.setattr(module, "PLAIN", plain)
    return search(case.ensemble, case.rows, case.prices, case.space, threshold=case.threshold, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_brute_force_agrees_from_the_first_box_on(kind, monkeypatch):
    for seed in range(3):
        case = instance(kind, LIBRARIES[(seed + KINDS.index(kind)) % len(LIBRARIES)], 40 + seed)
        truth = [cheapest(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows]
        assert solve(case, monkeypatch, 0).cost == pytest.approx(np.array(truth), rel=1e-6)


@pytest.mark.parametrize("number", range(18))
def test_highs_agrees_on_larger_trees(number, monkeypatch):
    case = instance(KINDS[number % 9], LIBRARIES[number % 5], 300 + number, trees=10, depth=3, rows=1)
    case = replace(case, threshold=case.threshold - 1.37e-4)
    exact = by_highs(case.ensemble, case.rows[0], case.prices, case.space, cutoff=cutoff(case.ensemble, case.threshold))
    found = solve(case, monkeypatch, 0)
    assert found.lower[0] <= exact + 1e-6
    assert found.cost[0] >= exact - 1e-6
    assert found.status[0] == "unknown" or found.cost[0] == pytest.approx(exact, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "library", "seed", "row", "plain"),
    [("real chain", "lightgbm", 5884, 1, NEVER), ("real chain", "xgboost", 5123, 7, 0), ("sum", "random forest", 5520, 3, 0)],
)
def test_a_cheapest_point_that_ties_choose_anew_is_tried_anew(kind, library, seed, row, plain, monkeypatch):
    """Half a box has the cheapest point of the whole, but where ties allow others that are as cheap the search may choose one of those."""
    case = instance(kind, library, seed, trees=30, depth=5, rows=8)
    case = replace(case, rows=case.rows[row : row + 1])
    exact = by_highs(case.ensemble, case.rows[0], case.prices, case.space, cutoff=cutoff(case.ensemble, case.threshold))
    assert solve(case, monkeypatch, plain).cost[0] == pytest.approx(exact, abs=1e-6)


def hard(scale: float = 1.0) -> Instance:
    """A forest over ten features with prices that span six decades."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(500, 10))
    y = (np.sin(2 * x[:, :5]).sum(1) + x[:, 5:].sum(1) + rng.normal(size=500) > 0).astype(int)
    model = RandomForestClassifier(60, max_depth=6, random_state=0).fit(x, y)
    names = [f"f{i}" for i in range(10)]
    prices = PriceTable(prices={n: Price(up=scale * 10.0 ** (i % 4), down=scale * 10.0 ** (-(i % 3))) for i, n in enumerate(names)})
    caught = x[model.predict_proba(x)[:, 1] >= 0.6][:12]
    return Instance(name="hard", estimator=model, ensemble=ensemble_of(model), rows=caught, prices=prices, space=Space.table(names), threshold=0.45)


def test_hard_rows_keep_their_answers_and_take_half_the_boxes(monkeypatch):
    case = hard()
    plain, dual = solve(case, monkeypatch, NEVER), solve(case, monkeypatch, 0)
    assert (plain.status == "exact").all()
    assert (dual.status == "exact").all()
    assert np.array_equal(plain.cost, dual.cost)
    assert dual.nodes.sum() * 2 < plain.nodes.sum()


def test_answers_scale_with_prices_however_small(monkeypatch):
    """Starts and bounds are relative: a billionth of the price gives a billionth of the cost, in about as many boxes."""
    case, tiny = hard(), hard(2.0**-60)
    assert np.allclose(solve(tiny, monkeypatch, 20).cost * 2.0**60, solve(case, monkeypatch, 20).cost, rtol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_keep_their_answers_and_every_limit_leaves_bounds_around_them(kind, monkeypatch):
    for library in ("random forest", "lightgbm"):
        case = instance(kind, library, 70, trees=25, depth=4, rows=60)
        exact, dual = solve(case, monkeypatch, NEVER), solve(case, monkeypatch, 0)
        assert np.array_equal(exact.status, dual.status)
        assert np.array_equal(exact.cost, dual.cost)
        for boxes in (1, 2, 3, 5, 9):
            cut = solve(case, monkeypatch, 0, boxes=boxes)
            assert (cut.lower <= exact.cost).all()
            assert (cut.cost >= exact.cost).all()


def test_a_limit_leaves_more_than_nothing(monkeypatch):
    case = hard()
    exact, cut = solve(case, monkeypatch, 0), solve(case, monkeypatch, 0, boxes=3)
    unknown = cut.status == "unknown"
    assert unknown.any()
    assert (cut.lower[unknown] > 0.5 * exact.cost[unknown]).mean() > 0.5
    assert (cut.lower <= exact.cost).all()


def test_a_budget_is_decided_as_the_price_says(monkeypatch):
    case = hard()
    exact = solve(case, monkeypatch, 20).cost
    for share in (0.5, 0.999, 1.001):
        budget = float(np.median(exact)) * share
        for first in (False, True):
            found = solve(case, monkeypatch, 5, budget=budget, first=first)
            assert np.array_equal(np.isfinite(found.cost), exact <= budget)
            assert found.proven.all()


def test_threads_change_nothing(monkeypatch):
    case = hard()
    case = replace(case, rows=np.concatenate([case.rows, case.rows[::-1]]))
    alone = solve(case, monkeypatch, 20)
    monkeypatch.setattr(config, "NUMBA_NUM_THREADS", 3)
    beside = solve(case, monkeypatch, 20)
    for name in alone.__dataclass_fields__:
        assert np.array_equal(getattr(alone, name), getattr(beside, name)), name


def test_a_row_gets_the_same_answer_in_any_company():
    """What a search leaves behind of one row is nothing to the next: payments, whose counts are tied, together and each alone."""
    from xgboost import XGBClassifier

    from carbide.data.cases import builtin_prices
    from carbide.data.cases.fraud import make_fraud

    prices, data = builtin_prices("fraud"), make_fraud(20_000, seed=1).splits().train
    assert prices is not None
    ensemble = ensemble_of(XGBClassifier(n_estimators=60, max_depth=6, n_jobs=1).fit(data.x, data.y))
    rows = data.x[data.y == 1][:80]
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(rows))
        together = search(ensemble, rows[order], prices, data.space, threshold=0.03, budget=400.0)
        alone = [search(ensemble, row[None], prices, data.space, threshold=0.03, budget=400.0) for row in rows[order]]
        np.testing.assert_array_equal(together.cost, np.concatenate([a.cost for a in alone]))
        np.testing.assert_array_equal(together.status, np.concatenate([a.status for a in alone]))
