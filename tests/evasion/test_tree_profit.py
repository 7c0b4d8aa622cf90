"""The most profitable evasion against every combination of values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.evasion._tree_search import best_profit, search
from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.models.estimators import EstimatorModel
from carbide.space.membership import allowed
from carbide.space.prices import cost
from carbide.types import InputError, Price, PriceTable
from tests.oracles.brute import most_profitable
from tests.oracles.instances import Instance, instance

ALL = ("plain", "fixed", "integer", "matrix", "ratio", "bound", "one-hot", "stairs", "implication", "following sum", "bound group")


def earning(case: Instance, name: str, *, follows: bool, up: float = 0.3) -> Instance:
    """The instance with a gain; a gain that follows has a price to raise it that is less than what it brings."""
    priced = dict(case.prices.prices)
    if follows and name in priced and not priced[name].up_steps and priced[name].matrix is None:
        priced[name] = replace(priced[name], up=up)
    return replace(case, prices=replace(case.prices, prices=priced, gain=name, follows=follows))


def agrees(case: Instance) -> set[str]:
    result = best_profit(case.ensemble, case.rows, case.prices, case.space, threshold=case.threshold)
    truth = np.array([most_profitable(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows])
    assert np.allclose(result.profit, truth, atol=1e-6), (case.name, result, truth)
    assert np.allclose(result.upper, truth, atol=1e-6), (case.name, result, truth)
    assert set(result.status) <= {"exact", "none"}
    pays, at = result.status == "exact", case.space.index(case.prices.gain or "")
    assert allowed(result.witness, case.rows, case.space).all()
    assert np.allclose(result.price, cost(case.rows, result.witness, case.prices, case.space))
    assert np.allclose(result.gain[pays] - result.price[pays], result.profit[pays])
    if case.prices.follows:
        assert np.array_equal(result.gain[pays], result.witness[pays, at])
    assert (case.estimator.predict_proba(result.witness)[pays, 1] < case.threshold).all()
    return set(result.status.tolist())


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("kind", ALL)
def test_brute_force_agrees(kind, follows):
    for seed in range(3):
        case = instance(kind, ("xgboost", "lightgbm", "random forest")[seed], seed)
        agrees(earning(case, "f3" if kind not in ("ratio", "following sum") else "f0", follows=follows))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(ALL), name=st.sampled_from(["f0", "f3"]), up=st.sampled_from([0.0, 0.9, 1.0, 1.5]))
def test_random_gains_agree_with_brute_force(seed, kind, name, up):
    case = instance(kind, "xgboost", seed, rows=2)
    if name == "f0" and case.space.groups:
        name = "f3"
    agrees(earning(case, name, follows=True, up=up))


def test_a_gain_that_stays_is_the_cheapest_evasion_where_that_pays():
    case = earning(instance("plain", "lightgbm", 5, trees=10, depth=3, rows=40), "f3", follows=False)
    result, least = (call(case.ensemble, case.rows, case.prices, case.space, threshold=case.threshold) for call in (best_profit, search))
    assert np.allclose(result.profit, np.maximum(case.rows[:, 3] - least.cost, 0))
    assert {"exact", "none"} == set(result.status)


def test_limits_give_bounds_around_the_truth():
    seen = set()
    for seed in range(6):
        case = earning(instance("fixed", "xgboost", seed, trees=10, depth=3, rows=10), "f3", follows=True)
        full, rough = (best_profit(case.ensemble, case.rows, case.prices, case.space, threshold=case.threshold, boxes=b) for b in (200_000, 1))
        assert (rough.profit <= full.profit + 1e-9).all()
        assert (rough.upper >= full.profit - 1e-9).all()
        seen |= set(rough.status.tolist())
    assert "unknown" in seen


def test_the_model_itself_decides():
    case = earning(instance("plain", "xgboost", 2, trees=10, depth=3, rows=30), "f3", follows=True)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2, threshold=case.threshold)
    y = np.ones(len(case.rows), np.int64)
    y[::3] = 0
    found = CheapestTree().earn(model, case.rows, y, case.prices)
    alone = best_profit(case.ensemble, case.rows[y == 1], case.prices, case.space, threshold=case.threshold)
    assert np.array_equal(found.profit[y == 1], alone.profit)
    assert (found.profit[::3] == 0).all()
    assert np.array_equal(found.witness[::3], case.rows[::3])
    assert (model.predict(found.witness[found.profit > 0])[:, 1] < case.threshold).all()


def test_gains_without_a_best_value_are_refused():
    case = instance("plain", "xgboost", 0)
    endless = replace(case.space, upper=np.full(4, np.inf))
    with pytest.raises(InputError, match="names no gain"):
        best_profit(case.ensemble, case.rows, case.prices, case.space)
    cheap = PriceTable(prices={"f3": Price(up=0.5)}, gain="f3", follows=True)
    with pytest.raises(InputError, match="without end"):
        best_profit(case.ensemble, case.rows, cheap, endless)
    lost = case.rows.copy()
    lost[0, 3] = np.nan
    with pytest.raises(InputError, match="gain f3 is nan"):
        best_profit(case.ensemble, lost, cheap, case.space)
    grouped = instance("one-hot", "xgboost", 0)
    with pytest.raises(InputError, match="one-hot group"):
        best_profit(grouped.ensemble, grouped.rows, PriceTable(prices={}, gain="f0", follows=True), grouped.space)
