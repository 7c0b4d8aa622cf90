"""Which changes a threat allows, and relations that hold, break and are recomputed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.space.membership import allowed, inside
from carbide.space.relations import holds, holds_where_changed, recompute
from carbide.types import Backdoor, FeatureBudget, InputError, Kind, Linear, LpBall, Price, PriceTable, Ratio, Space

SPACE = Space.table(["n", "m", "rate", "fixed", "on", "off"], lower=np.array([1.0, 0, -9, 0, 0, 0]), upper=np.array([9.0, 20, 9, 9, 1, 1]),
                    kind=np.array([Kind.INTEGER, Kind.REAL, Kind.REAL, Kind.REAL, Kind.ONE_HOT, Kind.ONE_HOT]),
                    mutable=np.array([1, 1, 0, 0, 1, 1], bool), groups=((4, 5),),
                    relations=(Ratio(target=2, numerator=1, denominator=3), Linear(features=(0, 1), coefficients=(1.0, -1.0), upper=0.0)))  # fmt: skip
ROW = np.array([[3.0, 8.0, 2.0, 4.0, 1.0, 0.0]])


@pytest.mark.parametrize(("made", "good"), [
    ([3, 8, 2, 4, 1, 0], True), ([4, 8, 2, 4, 1, 0], True), ([4.5, 8, 2, 4, 1, 0], False), ([0, 8, 2, 4, 1, 0], False), ([9, 8, 2, 4, 1, 0], False),
    ([3, 6, 1.5, 4, 1, 0], True), ([3, 6, 2, 4, 1, 0], False), ([3, 8, 2, 5, 1, 0], False), ([3, 8, 2, 4, 0, 1], True), ([3, 8, 2, 4, 1, 1], False),
    ([3, 8, 2, 4, 0.5, 0.5], False), ([3, 21, 5.25, 4, 1, 0], False), ([np.nan, 8, 2, 4, 1, 0], False), ([3, np.inf, 2, 4, 1, 0], False),
])  # fmt: skip
def test_allowed_changes(made, good):
    assert allowed(np.array([made], float), ROW, SPACE).tolist() == [good]


def test_what_does_not_change_is_not_asked():
    odd = np.array([[30.5, 8.0, 7.0, 4.0, 1.0, 1.0]])  # outside its bounds, between steps, breaks both relations and its group
    assert allowed(odd, odd, SPACE).all()
    still = odd.copy()
    still[0, 1] = 8.5
    assert not allowed(still, odd, SPACE).any()


def test_money_is_counted_up_to_rounding():
    table = PriceTable(prices={"m": Price(down=0.1)})
    made = recompute(np.array([[3.0, 5.0, 2.0, 4.0, 1.0, 0.0]]), SPACE)
    assert inside(made, ROW, SPACE, FeatureBudget(money=0.3, prices=table)).all()
    assert not inside(made, ROW, SPACE, FeatureBudget(money=0.2999, prices=table)).any()
    assert inside(ROW, ROW, SPACE, FeatureBudget(money=0.0, prices=table)).all()


def test_balls_ask_for_norm_and_bounds():
    space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
    x0 = np.array([[0.5, 0.9]] * 3)
    x = np.array([[0.6, 0.8], [0.7, 0.9], [0.5, 1.05]])
    assert inside(x, x0, space, LpBall(eps=0.15)).tolist() == [True, False, False]
    with pytest.raises(InputError, match="changes no inputs"):
        inside(x, x0, space, Backdoor(fraction=0.1))


def test_relations_over_nan_and_zero_do_not_hold():
    x = np.array([[3.0, 8.0, 2.0, 0.0, 1.0, 0.0], [np.nan, 8.0, 2.0, 4.0, 1.0, 0.0], [3.0, 8.0, 2.0, 4.0, 1.0, 0.0]])
    assert holds(x, SPACE).tolist() == [False, False, True]
    assert holds_where_changed(x, x, SPACE).all()
    assert recompute(x, SPACE)[0, 2] == 2.0


@given(st.integers(1, 9), st.floats(0.1, 20), st.floats(0.1, 9))
def test_recomputed_rows_keep_their_ratio(n, m, fixed):
    row = recompute(np.array([[float(n), m, -5.0, fixed, 1.0, 0.0]]), SPACE)
    assert row[0, 2] == m / fixed
    assert holds(row, SPACE)[0] == (n <= m + 1e-9 * (1 + n + m))
