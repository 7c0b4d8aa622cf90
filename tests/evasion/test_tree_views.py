"""One-hot groups, stairs, implications, sums and missing values in the exact search: against every combination of values and HiGHS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.evasion._tree_search import recast as recasting
from carbide.evasion._tree_search import search, search_ball
from carbide.evasion._tree_search.search import FORESTS
from carbide.space.balls import norms
from carbide.space.membership import allowed, inside
from carbide.space.prices import cost as price_of
from carbide.space.relations import recompute
from carbide.types import FeatureBudget, InputError, Linear, LpBall, Price, Ratio, Sum, decide
from tests.oracles.brute import cheapest, every_change
from tests.oracles.instances import LIBRARIES, MORE, Instance, instance, takes_missing


def solve(case: Instance, **options: object):
    return search(case.ensemble, case.rows, case.prices, case.space, threshold=case.threshold, **options)  # type: ignore[arg-type]


def same(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= 1e-6 * (1 + abs(b))


def is_witness(case: Instance, result) -> None:
    hit = np.isfinite(result.cost)
    if hit.any():
        rows, made = case.rows[hit], result.witness[hit]
        assert inside(made, rows, case.space, FeatureBudget(money=float(result.cost[hit].max()), prices=case.prices)).all(), case.name
        assert np.allclose(price_of(rows, made, case.prices, case.space), result.cost[hit], rtol=0, atol=1e-12), case.name
        assert (case.estimator.predict_proba(made)[:, 1] < case.threshold).all(), case.name
    assert np.array_equal(result.witness[~hit], case.rows[~hit], equal_nan=True), case.name


@pytest.mark.parametrize("kind", MORE)
@pytest.mark.parametrize("library", LIBRARIES)
def test_brute_force_agrees(kind, library):
    if kind == "missing" and not takes_missing(library):
        return
    for seed in range(3):
        case = instance(kind, library, seed)
        result = solve(case)
        truth = [cheapest(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows]
        assert all(map(same, result.cost, truth)), (case.name, result.cost, truth, result.status)
        assert set(result.status) <= {"exact", "safe"}
        is_witness(case, result)


def test_a_relation_that_holds_a_group_gives_bounds():
    seen = set()
    for seed in range(10):
        case = instance("one-hot", "xgboost", seed)
        space = replace(case.space, relations=(Linear(features=(0, 3), coefficients=(2.0, -1.0), upper=3.0),))
        case = replace(case, space=space)
        result, truth = solve(case), [cheapest(case.ensemble, row, case.prices, space, case.threshold) for row in case.rows]
        is_witness(case, result)
        assert (result.lower <= np.array(truth) + 1e-9).all()
        assert (result.cost >= np.array(truth) - 1e-9).all()
        assert not (result.status == "safe")[np.isfinite(truth)].any()
        seen |= set(result.status.tolist())
    assert "exact" in seen


def test_what_cannot_be_searched_is_refused_without_rows():
    case = instance("implication", "xgboost", 0)
    loop = (*case.space.relations, Sum(target=3, features=(0,), coefficients=(1.0,)), Ratio(target=1, numerator=3, denominator=2))
    with pytest.raises(InputError, match="feeds on another"):
        search(case.ensemble, case.rows[:0], case.prices, replace(case.space, relations=loop))


@pytest.mark.parametrize("p", [0, 1, 2, np.inf])
def test_groups_move_in_balls(p):
    """Two members change by 1; the nearest row of the other class by trying all members with all thresholds of the number."""
    found = 0
    for seed in range(4):
        case = instance("one-hot", "random forest", seed, rows=6)
        labels = decide(case.ensemble.predict(case.rows))
        result = search_ball(case.ensemble, case.rows, labels, LpBall(p=p, eps=3.0), case.space)
        for row, label, cost, witness in zip(case.rows, labels, result.cost, result.witness, strict=True):
            grid = every_change(case.ensemble, row, case.prices, case.space)
            grid = grid[grid[:, :3].sum(1) == 1]
            wrong = decide(case.ensemble.predict(grid)) != label
            truth = float(np.where(wrong, norms(grid - row, p), np.inf).min())
            assert same(cost, truth if truth <= 3.0 else np.inf)
            if np.isfinite(cost):
                assert allowed(witness[None], row[None], case.space)[0]
                found += int(cost > 0 and (witness[:3] != row[:3]).any())
    assert found or p != 2


@pytest.mark.parametrize("p", [True, False])
def test_a_sum_of_several_real_parts_gives_bounds(p):
    """No row of many random ones costs less than the lower bound, and what is found is a row that the library lets pass."""
    rng, seen = np.random.default_rng(int(p)), set()
    for seed in range(6):
        case = instance("following sum", "xgboost", seed, rows=1)
        relations = case.space.relations if p else case.space.relations[:1]
        space = replace(case.space, mutable=np.array([True, True, True, True]), relations=relations)
        prices = replace(case.prices, prices={f"f{i}": Price(up=1.0, down=1.0) for i in (0, 1, 3)})
        case = replace(case, space=space, prices=prices)
        result = solve(case)
        is_witness(case, result)
        made = np.repeat(case.rows, 3000, axis=0)
        made[:, [0, 1, 3]] += rng.normal(size=(3000, 3)) * rng.integers(0, 2, (3000, 3))
        made = recompute(made, space)
        good = allowed(made, np.repeat(case.rows, 3000, axis=0), space) & (case.ensemble.predict(made)[:, 1] < case.threshold)
        if good.any():
            assert result.lower[0] <= price_of(np.repeat(case.rows, 3000, axis=0), made, prices, space)[good].min() + 1e-9
        seen |= set(result.status.tolist())
    assert seen & {"exact", "unknown"}


def test_both_forms_of_wide_tests_say_the_same():
    """Trees whose branches are copied and trees whose branches are shared give every row its own leaves, and the same least cost."""
    for library in ("random forest", "lightgbm"):
        for kind in ("one-hot", "missing"):
            case = instance(kind, library, 7, trees=5, depth=3, rows=40)
            first = solve(case)
            FORESTS.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(recasting, "WIDER", -1000)
                again = solve(case)
            FORESTS.clear()
            assert np.allclose(first.cost, again.cost)
            is_witness(case, again)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(MORE), library=st.sampled_from(["xgboost", "lightgbm"]))
def test_random_worlds_agree_with_brute_force(seed, kind, library):
    case = instance(kind, library, seed, rows=2)
    result = solve(case)
    assert all(map(same, result.cost, [cheapest(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows]))
    is_witness(case, result)


@pytest.mark.parametrize("kind", MORE)
def test_limits_and_budgets_give_bounds_around_the_truth(kind):
    for seed in range(2):
        case = instance(kind, "xgboost", 40 + seed, trees=8, depth=3, rows=8)
        full = solve(case)
        for money in (0.5, 2.0):
            cut, quick = solve(case, budget=money), solve(case, budget=money, first=True)
            within = full.cost <= money
            assert np.array_equal(np.isfinite(cut.cost), within)
            assert np.array_equal(np.isfinite(quick.cost), within)
            assert (cut.lower[~within] > money).all()
        rough = solve(case, boxes=1)
        assert (rough.lower <= full.cost + 1e-9).all()
        assert (rough.cost >= full.cost - 1e-9).all()
