"""Relations of ratios that follow one feature: exact, against every combination of values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from sklearn.tree import DecisionTreeClassifier

from carbide.evasion._tree_search import search
from carbide.evasion._tree_search.cells import last_below, last_under
from carbide.evasion._tree_search.problem import budget_problem
from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.models.estimators import EstimatorModel
from carbide.space.membership import allowed
from carbide.space.relations import keeps
from carbide.types import FeatureBudget, Implication, Linear, Price, PriceTable, Ratio, Space, Sum
from tests.oracles.brute import cheapest
from tests.oracles.instances import instance


@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "random forest"])
def test_a_ratio_between_a_least_and_a_largest_value(library):
    bounded = 0
    for seed in range(8):
        case = instance("ratio", library, seed, rows=12)
        room = Linear(features=(2, 3), coefficients=(1.0, -1.0), upper=-0.5)  # f2 = f0 / f1 stays below f3 - 0.5, which stays itself, and f0 moves
        space = replace(case.space, relations=(*case.space.relations, room), mutable=np.array([True, False, False, False]))
        prices = replace(case.prices, prices={"f0": Price(up=1.0, down=1.0)})
        assert not budget_problem(case.rows, prices, space, held=False).hard
        rows = case.rows[keeps(case.rows, room)]  # others must move to the rim at least, which is no value that the oracle tries
        found = search(case.ensemble, rows, prices, space, threshold=case.threshold)
        least = [cheapest(case.ensemble, row, prices, space, case.threshold) for row in rows]
        loose = search(case.ensemble, rows, prices, replace(space, relations=case.space.relations), threshold=case.threshold)
        assert found.cost == pytest.approx(least, abs=1e-7)
        assert found.proven.all()
        assert allowed(found.witness, rows, space).all()
        bounded += int((found.cost > loose.cost + 1e-9).sum())
    assert bounded  # the relation made a difference


def test_with_two_features_that_move_the_relation_stays_hard():
    case = instance("ratio", "xgboost", 0)
    room = Linear(features=(2, 3), coefficients=(1.0, -1.0), upper=0.5)
    space = replace(case.space, relations=(*case.space.relations, room))
    assert budget_problem(case.rows, case.prices, space, held=False).hard


@pytest.mark.parametrize("fees", [2.0, 2.5, 1e6 + 2.5])
def test_a_cut_on_a_sum_that_lies_at_its_fixed_part(fees):
    """The last part below the cut lies many doubles from where exact numbers put it; a walk to it would never end."""
    space = Space.table(["goods", "fees", "total"], lower=np.zeros(3), relations=(Sum(target=2, features=(0, 1), coefficients=(1.0, 1.0)),))
    cut = float(np.float32(fees))
    tree = DecisionTreeClassifier().fit([[0, 0, cut], [0, 0, np.nextafter(np.float32(cut), np.float32(np.inf))]], [0, 1])
    model = EstimatorModel(estimator=tree, space=space, classes=2)
    row = np.array([[3.0, fees, 3.0 + fees]])
    found = CheapestTree().solve(model, row, np.array([1]), FeatureBudget(money=9, prices=PriceTable(prices={"goods": Price(down=1.0)})))
    assert found.status.tolist() == ["exact"]
    assert found.cost[0] == pytest.approx(3 + fees - tree.tree_.threshold[0], abs=2e-9 * fees)
    assert model.predict(found.witness)[0, 1] < 0.5


@settings(max_examples=300, deadline=None)
@given(t=st.floats(-1e6, 1e6), slope=st.floats(1e-6, 1e6), rest=st.floats(-1e9, 1e9), at=st.booleans())
def test_the_last_value_below_a_cut_is_the_last(t, slope, rest, at):
    t = rest if at else t
    v = ENDS(t, slope, rest)
    assert slope * v[0] + rest <= t
    assert slope * np.nextafter(v[0], np.inf) + rest > t
    assert v[1] / slope <= t
    assert np.nextafter(v[1], np.inf) / slope > t


@njit
def ENDS(t, slope, rest):
    return last_under(t, slope, rest), last_below(t, slope)


def test_a_ratio_that_no_part_moves_stays_as_it_is():
    """Its denominator can move, so the search leaves the ratio out; what it moves for nothing, here out of a condition's reach, is no evasion."""
    ratio, asks = Ratio(target=2, numerator=0, denominator=1), Implication(cause=2, at_least=2.0, effect=3, lower=1.0)
    space = Space.table(
        ["a", "b", "t", "c"], lower=np.array([0.0, 1, 0, 0]), upper=np.array([2.0, 4, 9, 3]), step=np.array([1.0, 1, 0, 1]), relations=(ratio, asks)
    )
    tree = DecisionTreeClassifier().fit([[0, 0, 0, 0], [0, 0, 0, 1.0]], [0, 1])
    model = EstimatorModel(estimator=tree, space=space, classes=2)
    prices = PriceTable(prices={"c": Price(down=1.0), "b": Price(up=100.0)})
    found = CheapestTree().solve(model, np.array([[2.0, 1, 2, 3]]), np.array([1]), FeatureBudget(money=50, prices=prices))
    assert found.status[0] != "exact"  # the least price is 103: b must rise first
    assert not np.isfinite(found.cost[0])
    found = CheapestTree().solve(model, np.array([[2.0, 2, 1, 3]]), np.array([1]), FeatureBudget(money=50, prices=prices))
    assert (found.cost[0], found.status[0]) == (3.0, "exact")  # the condition does not hold where the ratio is 1
