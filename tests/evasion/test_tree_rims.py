"""Relations of ratios that follow one feature: exact, against every combination of values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carbide.evasion._tree_search import search
from carbide.evasion._tree_search.problem import budget_problem
from carbide.space.membership import allowed
from carbide.space.relations import keeps
from carbide.types import Linear, Price
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
