"""The exact tree search against brute force and HiGHS, its certificate, its limits and its refusals."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from carbide.evasion._tree_search import SearchResult, cutoff, search, search_ball
from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.evasion.prove.exact_tree import ExactTree
from carbide.models.estimators import EstimatorModel
from carbide.models.trees import ensemble_of
from carbide.space.balls import norms
from carbide.space.membership import inside
from carbide.space.prices import cost as price_of
from carbide.types import Array, FeatureBudget, InputError, Kind, Linear, LpBall, Price, PriceTable, Ratio, Space, decide, rng_for
from tests.oracles.brute import cheapest, nearest
from tests.oracles.instances import KINDS, LIBRARIES, Instance, instance
from tests.oracles.milp import cheapest as by_highs

RNG = rng_for(0, "unused")


def solve(case: Instance, **options: object) -> SearchResult:
    return search(case.ensemble, case.rows, case.prices, case.space, threshold=case.threshold, **options)  # type: ignore[arg-type]


def same(a: float, b: float) -> bool:
    return a == b or abs(a - b) <= 1e-6 * (1 + abs(b))


def is_witness(case: Instance, result: SearchResult) -> None:
    """Every finite cost is the price of a row that the attacker can make and that the library itself lets pass."""
    hit = np.isfinite(result.cost)
    if hit.any():
        rows, made = case.rows[hit], result.witness[hit]
        assert inside(made, rows, case.space, FeatureBudget(money=float(result.cost[hit].max()), prices=case.prices)).all(), case.name
        assert np.allclose(price_of(rows, made, case.prices, case.space), result.cost[hit], rtol=0, atol=1e-12), case.name
        assert (case.estimator.predict_proba(made)[:, 1] < case.threshold).all(), case.name
    assert np.array_equal(result.witness[~hit], case.rows[~hit]), case.name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("library", LIBRARIES)
def test_brute_force_agrees(kind, library):
    for seed in range(3):
        case = instance(kind, library, seed)
        result = solve(case)
        truth = [cheapest(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows]
        assert all(map(same, result.cost, truth)), (case.name, result.cost, truth)
        assert set(result.status) <= {"exact", "safe"}
        assert np.array_equal(result.status == "safe", np.isinf(truth))
        is_witness(case, result)


def disagreements(solver, cases) -> int:
    """On how many instances a solver's costs differ from HiGHS."""
    wrong = 0
    for case in cases:
        edge = cutoff(case.ensemble, case.threshold)
        truth = [by_highs(case.ensemble, row, case.prices, case.space, cutoff=edge) for row in case.rows]
        wrong += not all(map(same, solver(case).cost, truth))
    return wrong


def larger(n: int, first: int = 100) -> list[Instance]:
    """Instances of every library and kind, of more and deeper trees than brute force can follow.

    Their thresholds lie off the scores, as HiGHS keeps a constraint to 1e-6 only and takes a tie for an evasion.
    """
    picks = [(KINDS[i % len(KINDS)], LIBRARIES[i % len(LIBRARIES)], first + i) for i in range(n)]
    cases = [instance(kind, library, seed, trees=8, depth=3, rows=1) for kind, library, seed in picks]
    return [replace(case, threshold=case.threshold - 1.37e-4) for case in cases]


def test_highs_agrees_and_catches_a_greedy_solver():
    """On the same instances; greedy is one box: the greedy start and nothing else, which is often too dear."""
    cases = larger(30)
    assert {c.name.split(", ")[1] for c in cases} == set(LIBRARIES)
    assert disagreements(solve, cases) == 0
    assert disagreements(lambda case: solve(case, boxes=1), cases) >= 2
    for case in cases:
        is_witness(case, solve(case))


def test_limit_gives_bounds_around_the_truth():
    seen = set()
    for case in larger(24, first=300):
        exact = solve(case)
        for boxes in (1, 2, 5):
            rough = solve(case, boxes=boxes)
            assert (rough.lower <= exact.cost + 1e-9).all()
            assert (rough.cost >= exact.cost - 1e-9).all()
            assert np.array_equal(rough.status == "unknown", ~rough.proven)
            assert (rough.status != "safe")[np.isfinite(exact.cost)].all()
            seen |= set(rough.status.tolist())
    assert "unknown" in seen
    assert "exact" in seen


@pytest.mark.parametrize("kind", ["plain", "fixed", "whole chain"])
def test_budget_and_first_decide_the_same_rows(kind):
    for seed in range(4):
        case = instance(kind, "xgboost", seed, trees=10, depth=3, rows=20)
        full = solve(case)
        for money in (0.0, 0.5, 2.0, 8.0):
            cut, quick = solve(case, budget=money), solve(case, budget=money, first=True)
            within = full.cost <= money
            assert np.array_equal(np.isfinite(cut.cost), within)
            assert np.array_equal(np.isfinite(quick.cost), within)
            assert np.array_equal(cut.cost[within], full.cost[within])
            assert (quick.cost[within] <= money * (1 + 1e-9) + 1e-9).all()
            assert (cut.lower[~within] > money).all()
            assert set(quick.status) <= {"exact", "found", "safe"}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_dearer_prices_cost_as_much_more(seed, factor):
    case = instance("fixed", "lightgbm", seed)
    dearer = {n: Price(up=p.up * factor, down=p.down * factor, fixed=p.fixed * factor) for n, p in case.prices.prices.items()}
    assert np.allclose(solve(replace(case, prices=PriceTable(prices=dearer))).cost, solve(case).cost * factor, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(["f0", "f1", "f2", "f3"]))
def test_one_price_less_never_helps_the_attacker(seed, name):
    case = instance("plain", "random forest", seed)
    fewer = {n: p for n, p in case.prices.prices.items() if n != name}
    result = solve(replace(case, prices=PriceTable(prices=fewer)))
    assert (result.cost >= solve(case).cost).all()
    assert (result.witness[:, int(name[1])] == case.rows[:, int(name[1])]).all()


def test_same_rows_twice_and_in_any_order():
    case = instance("real chain", "gradient boosting", 5, trees=10, depth=3, rows=12)
    once, twice = solve(case), solve(replace(case, rows=case.rows[::-1]))
    assert np.array_equal(once.cost, twice.cost[::-1])
    assert np.array_equal(once.witness, solve(case).witness)


def hard_case(seed: int) -> tuple[Instance, Array]:
    """A ratio both of whose parts can change, and many rows that its attacker can make of the first row."""
    case = instance("ratio", "xgboost", seed, rows=2)
    case = replace(case, space=replace(case.space, mutable=np.ones(4, bool), lower=np.array([-7.0, 0.5, -1e9, -7.0])),
                   prices=PriceTable(prices={"f0": Price(up=1.0, down=1.0), "f1": Price(up=1.0, down=1.0), "f3": Price(up=3.0, down=3.0)}))  # fmt: skip
    made = np.repeat(case.rows[:1], 4000, axis=0)
    rng = np.random.default_rng(seed)
    made[:, 0] += rng.normal(size=4000) * rng.integers(0, 2, 4000)
    made[:, 1] = np.abs(made[:, 1] + rng.normal(size=4000) * rng.integers(0, 2, 4000)) + 0.5
    made[:, 2] = made[:, 0] / made[:, 1]
    return case, made


def test_relations_that_are_not_kept_exactly_give_bounds():
    seen = set()
    for seed in range(12):
        case, made = hard_case(seed)
        if case.rows[0, 1] < 0.5:
            continue
        result = solve(case)
        is_witness(case, result)
        clean = np.repeat(case.rows[:1], len(made), axis=0)
        passing = inside(made, clean, case.space, FeatureBudget(money=1e9, prices=case.prices)) & (case.ensemble.predict(made)[:, 1] < case.threshold)
        if passing.any():
            assert result.lower[0] <= price_of(clean, made, case.prices, case.space)[passing].min() + 1e-9
            assert result.status[0] != "safe"
        assert (result.lower <= result.cost).all()
        seen |= set(result.status.tolist())
    assert seen & {"exact", "unknown"}


def test_whole_and_real_features_in_one_relation_are_hard():
    case = instance("whole chain", "lightgbm", 3)
    mixed = replace(case.space, step=np.array([1.0, 0.0, 1.0, 0.0]))
    result = search(case.ensemble, case.rows, case.prices, mixed, threshold=case.threshold)
    whole = solve(case)
    assert (result.lower <= whole.cost + 1e-9).all()  # every whole row is also a mixed one
    is_witness(replace(case, space=mixed), result)


def test_missing_values_stay_missing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3))
    y = (x.sum(1) > 0).astype(int)
    x[rng.random(x.shape) < 0.2] = np.nan
    from xgboost import XGBClassifier

    model = XGBClassifier(n_estimators=8, max_depth=3).fit(x, y)
    space = Space.table(["a", "b", "c"], lower=np.full(3, -4.0), upper=np.full(3, 4.0))
    prices = PriceTable(prices={n: Price(up=1.0, down=1.0) for n in "abc"})
    rows = x[model.predict_proba(x)[:, 1] >= 0.5][:40]
    result = search(ensemble_of(model), rows, prices, space)
    assert np.array_equal(np.isnan(result.witness), np.isnan(rows))
    assert (model.predict_proba(result.witness)[np.isfinite(result.cost), 1] < 0.5).all()
    truth = [cheapest(ensemble_of(model), row, prices, replace(space, mutable=~np.isnan(row)), 0.5) for row in rows[:6]]
    assert all(map(same, result.cost[:6], truth))


@pytest.mark.parametrize("p", [0, 1, 2, np.inf])
@pytest.mark.parametrize("classes", [2, 3])
def test_balls_against_brute_force(p, classes):
    rng = np.random.default_rng([int(p) if np.isfinite(p) else 9, classes])
    x = np.round(rng.normal(size=(200, 3)), 1)
    y = np.digitize(x[:, 0] + x[:, 1] * x[:, 2], [0.0] if classes == 2 else [-0.4, 0.4])
    space = Space.table(["a", "b", "c"], lower=np.full(3, -3.0), upper=np.full(3, 3.0), mutable=np.array([True, True, classes == 2]))
    model = EstimatorModel(estimator=RandomForestClassifier(3, max_depth=3, random_state=1).fit(x, y), space=space, classes=classes)
    threat = LpBall(p=p, eps=1.0 if p else 2.0)
    result = CheapestTree().solve(model, x[:12], y[:12], threat)
    for i in range(12):
        truth = nearest(model.ensemble, x[i], y[i], space, p)
        if truth <= threat.eps:
            assert result.cost[i] == pytest.approx(truth, abs=1e-7)
            assert norms(result.witness[i : i + 1] - x[i : i + 1], p)[0] <= threat.eps + 1e-9
            assert decide(model.predict(result.witness[i : i + 1]))[0] != y[i]
        else:
            assert result.status[i] == "safe"
            assert result.lower[i] >= threat.eps


def test_ball_respects_steps_and_relations():
    x = np.array([[2.0, 3.0], [4.0, 4.0]])
    space = Space.table(["n", "m"], lower=np.zeros(2), upper=np.full(2, 9.0), kind=np.array([Kind.INTEGER, Kind.REAL]),
                        relations=(Linear(features=(0, 1), coefficients=(1.0, -1.0), upper=0.0),), mutable=np.array([True, False]))  # fmt: skip
    trees = ensemble_of(DecisionTreeClassifier().fit([[2.0, 0.0], [3.0, 0.0], [4.0, 0.0], [5.0, 0.0]], [1, 0, 1, 0]))
    result = search_ball(trees, x, np.array([1, 1]), LpBall(eps=1.5), space)
    assert result.witness.tolist() == [[3.0, 3.0], [3.0, 4.0]]
    assert result.cost.tolist() == [1.0, 1.0]


def test_solve_speaks_for_the_model():
    case = instance("plain", "xgboost", 2, trees=10, depth=3, rows=30)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2, threshold=case.threshold)
    threat = FeatureBudget(money=2.0, prices=case.prices)
    y = np.ones(len(case.rows), np.int64)
    y[::3] = 0
    found = CheapestTree().solve(model, case.rows, y, threat)
    assert (found.status[::3] == "safe").all()
    assert np.array_equal(found.witness[::3], case.rows[::3])
    proposal = CheapestTree()(model, case.rows, y, threat, RNG)
    assert np.array_equal(proposal, found.witness)
    hit = np.isfinite(found.cost)
    assert hit.any()
    assert (decide(model.predict(proposal[hit]), model.threshold) == 0).all()


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_threshold_on_a_score_is_met_exactly(library):
    """A row that scores exactly the threshold is caught, one that scores a hair less is not; nothing has a price here."""
    case = instance("plain", library, 4, trees=6)
    score = float(case.estimator.predict_proba(case.rows)[0, 1])
    for threshold, status in ((score, "safe"), (np.nextafter(score, 1), "exact"), (np.nextafter(score, 0), "safe")):
        assert search(case.ensemble, case.rows[:1], PriceTable(prices={}), case.space, threshold=threshold).status[0] == status


def test_rounding_favours_who_it_should():
    case = instance("plain", "lightgbm", 6, trees=6)
    scores = case.estimator.predict_proba(case.rows)[:, 1]
    kinds = [search(case.ensemble, case.rows[:1], case.prices, case.space, threshold=scores[0], rounding=r).cost[0] for r in (1, 0, -1)]
    assert kinds[0] == 0 < kinds[1] <= kinds[2]


class Shifted:
    """A model whose probabilities are a hair off its trees', as a library on another machine might round them."""

    def __init__(self, inner: EstimatorModel, shift: float) -> None:
        self.inner, self.shift = inner, shift
        self.space, self.classes, self.threshold, self.ensemble = inner.space, 2, inner.threshold, inner.ensemble

    def predict(self, x: Array) -> Array:
        p = self.inner.predict(x)[:, 1] + self.shift
        return np.column_stack([1 - p, p])


def test_models_that_round_otherwise_get_brackets_and_others_are_refused():
    case = instance("plain", "xgboost", 8, trees=10, depth=3, rows=20)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2, threshold=case.threshold)
    threat, y = FeatureBudget(money=5.0, prices=case.prices), np.ones(len(case.rows), np.int64)
    exact, near = CheapestTree().solve(model, case.rows, y, threat), CheapestTree().solve(Shifted(model, 3e-8), case.rows, y, threat)
    assert (near.lower <= exact.cost + 1e-9).all()
    hit = np.isfinite(near.cost)
    assert hit.any()
    assert (Shifted(model, 3e-8).predict(near.witness[hit])[:, 1] < case.threshold).all()
    with pytest.raises(InputError, match="differ from its trees"):
        CheapestTree().solve(Shifted(model, 0.01), case.rows, y, threat)


def test_certificate_is_the_search():
    case = instance("fixed", "gradient boosting", 1, trees=6, rows=6)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2, threshold=case.threshold)
    truth = np.array([cheapest(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows])
    x, y = np.concatenate([case.rows, case.rows[:1]]), np.array([1] * len(case.rows) + [0])
    for money in (0.0, 1.0, 3.0):
        certificate = ExactTree()(model, x, y, FeatureBudget(money=money, prices=case.prices), RNG)
        assert np.array_equal(certificate.holds[:-1], truth > money)
        assert not certificate.holds[-1]  # caught, but its label says it should not be
        assert np.allclose(certificate.bound[:-1], np.minimum(truth, money))
        assert certificate.failure_probability == 0
        assert certificate.metric == "robust recall"
    far = ExactTree(reach=4.0)(model, x, y, FeatureBudget(money=1.0, prices=case.prices), RNG)
    assert np.array_equal(far.holds[:-1], truth > 1.0)
    assert np.allclose(far.bound[:-1], np.minimum(truth, 4.0))


def test_certificate_says_what_is_unknown():
    case = instance("plain", "random forest", 11, trees=30, depth=4, rows=30)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2, threshold=case.threshold)
    threat, y = FeatureBudget(money=50.0, prices=case.prices), np.ones(len(case.rows), np.int64)
    full, cut = ExactTree()(model, case.rows, y, threat, RNG), ExactTree(boxes=1)(model, case.rows, y, threat, RNG)
    assert (cut.holds <= full.holds).all()
    assert (cut.bound <= full.bound + 1e-9).all()
    assert len(cut.assumptions) == len(full.assumptions) + 1
    assert "not decided" in cut.assumptions[-1]


def test_refusals_name_the_thing():
    x, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 3
    forest = ensemble_of(RandomForestClassifier(2).fit(x, y))
    prices, space = PriceTable(prices={"a": Price(up=1.0)}), Space.table(["a", "b", "c"])
    with pytest.raises(InputError, match="3 classes apart"):
        search(forest, x, prices, space)
    two = ensemble_of(RandomForestClassifier(2).fit(x, y > 0))
    loop = (Ratio(target=0, numerator=1, denominator=2), Ratio(target=1, numerator=0, denominator=2))
    with pytest.raises(InputError, match="feeds on another"):
        search(two, x, PriceTable(prices={"c": Price(up=1.0)}), replace(space, relations=loop))
    with pytest.raises(InputError, match="no class of the trees"):
        search_ball(two, x[:1], np.array([7]), LpBall(eps=1.0), space)
    with pytest.raises(InputError, match="L1 ball"):
        search_ball(two, x[:1], np.array([1]), LpBall(p=1, eps=1.0), replace(space, relations=loop[:1]))
    for options in ({"boxes": 0}, {"boxes": 1.5}):
        with pytest.raises(InputError, match="cheapest_tree: boxes"):
            CheapestTree(**options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="exact_tree: boxes"):
            ExactTree(**options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="reach is"):
        ExactTree(reach=0.5)


def test_models_without_readable_trees_are_refused():
    x = np.array([[0.0], [1.0]])
    one = EstimatorModel(estimator=DecisionTreeClassifier().fit(x, [1, 1]), space=Space.table(["a"]), classes=2)
    threat = FeatureBudget(money=1.0, prices=PriceTable(prices={"a": Price(up=1.0)}))
    with pytest.raises(InputError, match="train on rows of every class"):
        CheapestTree().solve(one, x, np.array([1, 1]), threat)
    with pytest.raises(InputError, match="shows no trees"):
        CheapestTree().solve(object(), x, np.array([1, 1]), threat)


def test_a_dear_way_down_is_left_out_only_where_it_is_too_dear():
    """Two moves that are each affordable and together too dear: the leaf behind both must not count, the one just within must."""
    x = np.array([[a, b] for a in (0.0, 1.0) for b in (0.0, 1.0)])
    trees = ensemble_of(DecisionTreeClassifier().fit(x, [1, 1, 1, 0]))
    prices, space = PriceTable(prices={"a": Price(fixed=2.0, up=0.0), "b": Price(fixed=3.0, up=0.0)}), Space.table(["a", "b"])
    for money, cost, status in ((4.0, np.inf, "safe"), (4.999, np.inf, "safe"), (5.0, 5.0, "exact"), (np.inf, 5.0, "exact")):
        result = search(trees, x[:1], prices, space, budget=money)
        assert (result.cost[0], result.status[0]) == (cost, status)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(["plain", "matrix", "integer", "whole chain", "ratio"]))
def test_a_tighter_budget_hides_no_cheaper_point(seed, kind):
    """The money left prunes cells and ways down the trees; a budget just above the cost must find the same cost, one just below nothing."""
    case = instance(kind, "xgboost", seed, trees=6, depth=3, rows=2)
    for row, cost in zip(case.rows, solve(case).cost, strict=True):
        if not 0.01 < cost < np.inf:
            continue
        one = replace(case, rows=row[None])
        assert solve(one, budget=cost).cost[0] == cost
        below = solve(one, budget=cost * (1 - 1e-6))
        assert below.status[0] == "safe"
        assert below.lower[0] >= cost * (1 - 1e-6)


def test_trees_with_shared_nodes():
    """Categories become chains of nodes that share children; these trees are cut by the box alone."""
    from lightgbm import LGBMClassifier

    rng = np.random.default_rng(3)
    x = np.column_stack([rng.integers(0, 8, 400), rng.integers(0, 8, 400), rng.normal(size=400)]).astype(float)
    y = (np.isin(x[:, 0], [1, 4, 6]) ^ np.isin(x[:, 1], [0, 3, 5]) ^ (x[:, 2] > 0)).astype(int)
    model = LGBMClassifier(n_estimators=6, num_leaves=8, min_child_samples=3, min_data_per_group=1, cat_smooth=0, verbose=-1, n_jobs=1)
    model.fit(x, y, categorical_feature=[0, 1])
    trees = ensemble_of(model)
    assert np.bincount(trees.children[trees.feature >= 0].ravel()).max() > 1
    moves = Price(matrix=rng.choice([1.0, 2.0, 3.0], (8, 8)) * (1 - np.eye(8)))
    space = Space.table(["a", "b", "c"], lower=np.array([0.0, 0.0, -3.0]), upper=np.array([7.0, 7.0, 3.0]),
                        kind=np.array([Kind.CATEGORICAL, Kind.CATEGORICAL, Kind.REAL]))  # fmt: skip
    prices = PriceTable(prices={"a": moves, "b": moves, "c": Price(up=1.0, down=1.0)})
    rows = x[model.predict_proba(x)[:, 1] >= 0.5][:15]
    result = search(trees, rows, prices, space)
    truth = [cheapest(trees, row, prices, space, 0.5) for row in rows]
    assert all(map(same, result.cost, truth))


def test_a_second_call_with_the_same_trees_is_the_first():
    """What is kept between calls must not mix up labels, thresholds or other trees."""
    cases = [instance("plain", "xgboost", seed, trees=6, depth=3, rows=4) for seed in (1, 2)]
    ball = LpBall(eps=0.5)

    def balls() -> list[Array]:
        return [search_ball(c.ensemble, c.rows, np.full(len(c.rows), label), ball, c.space).cost for c in cases for label in (0, 1)]

    first, costs = balls(), [solve(c).cost for c in cases]
    again = balls()
    assert all(map(np.array_equal, first, again))
    assert all(np.array_equal(solve(instance("plain", "xgboost", s, trees=6, depth=3, rows=4)).cost, c) for s, c in zip((1, 2), costs, strict=True))


def test_calls_that_share_a_space_or_run_beside_each_other_are_as_alone():
    """Plans are kept by space, prices and norm, scratch by trees and axes: neither may hold what another call needs."""
    one, two = (instance("plain", "xgboost", seed, trees=8, depth=3, rows=6) for seed in (3, 4))
    dear = PriceTable(prices={name: replace(price, up=2 * price.up, down=2 * price.down) for name, price in one.prices.prices.items()})

    def ask(case: Instance, prices: PriceTable | None, p: float, eps: float, space: Space) -> list[Array]:
        if prices is not None:
            found = search(case.ensemble, case.rows, prices, space, threshold=case.threshold)
        else:
            found = search_ball(case.ensemble, case.rows, np.ones(len(case.rows), int), LpBall(p=p, eps=eps), space, threshold=case.threshold)
        return [found.cost, found.lower, found.witness]

    questions = [(case, prices, p, eps) for case in (one, two) for prices, p, eps in
                 ((one.prices, 0.0, 0.0), (dear, 0.0, 0.0), (None, np.inf, 0.7), (None, np.inf, 2.0), (None, 1.0, 2.0), (None, 2.0, 2.0), (None, 0.0, 2.0))]  # fmt: skip
    fresh = [ask(*q, replace(one.space)) for q in questions]  # a space that no call has seen
    shared = one.space
    for _ in range(2):
        for q, alone in zip(questions, fresh, strict=True):
            assert all(map(np.array_equal, ask(*q, shared), alone))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: ask(*questions[i % len(questions)], shared), range(20 * len(questions))))
    assert all(np.array_equal(a, b) for i, got in enumerate(found) for a, b in zip(got, fresh[i % len(fresh)], strict=True))
    costs = [f[0] for f in fresh]
    assert len({c.tobytes() for c in costs}) > len(costs) // 2  # the questions do differ
