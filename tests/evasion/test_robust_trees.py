"""Robust trees against truth: brute force over placements, points and cells, and XGBoost itself."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.estimator_checks import check_estimator

from carbide.evasion._robust_recipe import RobustRecipe
from carbide.evasion._tree_search import search_ball
from carbide.evasion.harden.monotone import Monotone
from carbide.evasion.harden.robust_boosting import RobustBoosting
from carbide.evasion.harden.robust_forest import RobustForest
from carbide.evasion.prove.exact_tree import ExactTree
from carbide.evasion.robust_trees import Box, RobustBoostingClassifier, RobustForestClassifier, Spender
from carbide.evasion.robust_trees.bins import binned, cuts_of
from carbide.evasion.robust_trees.grow import grow
from carbide.evasion.robust_trees.leaves import by_row, refined
from carbide.evasion.robust_trees.splits import NEWTON, gini_split, newton_split, rules
from carbide.models.estimators import EstimatorModel, EstimatorRecipe
from carbide.models.packing import pack, unpack
from carbide.space.prices import cost
from carbide.types import FeatureBudget, InputError, Kind, LpBall, Price, PriceTable, Ratio, Space
from tests.conformance.cases import ONE_WAY, splits

UNIT = Space.table(["a", "b", "c"], lower=np.zeros(3), upper=np.ones(3))
sums = st.lists(st.floats(0.1, 5), min_size=12, max_size=12)


def rows(n, seed, d=3):
    """Rows in the unit cube; the label follows the first two columns, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, d))
    return x, ((x[:, 0] + 0.5 * x[:, 1] + 0.1 * rng.normal(size=n)) > 0.75).astype(int)


@given(sums, st.lists(st.floats(-3, 3), min_size=6, max_size=6))
@settings(max_examples=60, deadline=None)
def test_newton_split_is_the_best_pair_of_values(hessians, slopes):
    kinds = np.zeros((3, 4))
    kinds[:, 1], kinds[:, 3] = hessians[:3], hessians[3:6]
    kinds[:, 0], kinds[:, 2] = -np.abs(slopes[:3]), np.abs(slopes[3:])  # class 1 wants larger values, class 0 smaller ones
    left, right, both = kinds
    score, a, b, order = newton_split(left, right, both, 1.0, 0.0)

    def loss(low, high):  # a row that reaches both sides counts at its worse one
        worst1, worst0 = np.minimum(low, high), np.maximum(low, high)
        parts = [(left, low, low), (right, high, high), (both, worst1, worst0)]
        return sum(k[0] * p + k[1] * p**2 / 2 + k[2] * q + k[3] * q**2 / 2 for k, p, q in parts) + low**2 / 2 + high**2 / 2

    if order != 0:
        assert loss(a, b) == pytest.approx(-score / 2, abs=1e-9)
        grid = np.linspace(-4, 4, 161)
        near = np.meshgrid(a + 0.01 * grid, b + 0.01 * grid)
        assert loss(*near).min() >= loss(a, b) - 1e-9
        assert (order < 0) == (a < b)


@given(sums)
@settings(max_examples=80, deadline=None)
def test_gini_split_is_the_worst_placement(weights):
    left, right, both = np.zeros((3, 4))
    left[1], right[1], both[1], left[3], right[3], both[3] = np.round(weights[:6], 2)
    both[1:4:2] *= np.array([weights[6] > 2, weights[7] > 2])  # one class moves, or both, or none

    def impurity(a, b):
        parts = [(left[1] + a, left[3] + b), (right[1] + both[1] - a, right[3] + both[3] - b)]
        return sum(2 * p * n / (p + n) for p, n in parts)

    score, share1, share0 = gini_split(left, right, both, 0.0)
    worst = impurity(*np.meshgrid(np.linspace(0, both[1], 101), np.linspace(0, both[3], 101))).max()
    assert -score >= worst - 1e-9
    assert -score == pytest.approx(impurity(share1 * both[1], share0 * both[3]), abs=1e-9)


def leaf_boxes(tree):
    """The bins of every leaf as a list of ``(first, last)`` by feature."""
    boxes, todo = {}, [(0, [(0, 254)] * 10)]
    while todo:
        node, box = todo.pop()
        if tree.feature[node] < 0:
            boxes[node] = box
            continue
        f, k = tree.feature[node], tree.cut[node]
        for child, side in zip(tree.children[node], ((box[f][0], k), (k + 1, box[f][1])), strict=True):
            todo.append((child, [side if g == f else old for g, old in enumerate(box)]))
    return boxes


def grown(reach, y, depth=4):
    positive = y == 1
    return grow(reach, rules(kind=NEWTON, depth=depth, features=len(reach.count)), positive, 0.5 - positive, np.full(len(y), 0.25),
                np.arange(len(y), dtype=np.int32), np.arange(len(reach.count)), 0)  # fmt: skip


def test_rows_are_in_every_leaf_that_their_box_meets():
    x, y = rows(120, 0)
    x[::7, 1] = np.nan
    reach = Box(up=[0.1, 0.2, 0.0], down=0.05, lower=0, upper=1).reach(x, y, most=40)
    tree = grown(reach, y)
    pairs = set(zip(tree.rows.tolist(), tree.leaves.tolist(), strict=True))
    assert len(tree.feature) >= 9
    for node, box in leaf_boxes(tree).items():
        for i in range(len(x)):
            if not np.isnan(x[i]).any():
                low, high = np.maximum(x[i] - 0.05, 0), np.minimum(x[i] + [0.1, 0.2, 0.0], 1)
                meets = all(binned(high[f : f + 1], reach.cuts[f][: reach.count[f]])[0] >= box[f][0] and
                            binned(low[f : f + 1], reach.cuts[f][: reach.count[f]])[0] <= box[f][1] for f in range(3))  # fmt: skip
                assert ((i, node) in pairs) == meets
    assert all(pairs & {(i, leaf) for leaf in leaf_boxes(tree)} for i in range(len(x)))  # a row with missing values is somewhere


def test_rows_are_in_every_leaf_that_their_money_buys():
    rng = np.random.default_rng(1)
    space = Space.table(["rate", "amount", "mean", "count", "shop"], lower=np.zeros(5), upper=np.array([np.inf, np.inf, np.inf, 9, 2]),
                        kind=np.array([0, 0, 0, Kind.INTEGER, Kind.CATEGORICAL]), relations=(Ratio(target=0, numerator=1, denominator=2),))  # fmt: skip
    n = 90
    amount, mean = rng.uniform(1, 9, n), rng.uniform(1, 3, n)
    x = np.column_stack([amount / mean, amount, mean, rng.integers(0, 10, n), rng.integers(0, 3, n)]).astype(float)
    y = ((x[:, 0] > 2) ^ (x[:, 3] > 5) | (x[:, 4] == 2)).astype(int)
    matrix = np.array([[0, 1, 4], [2, 0, 1], [np.inf, 3, 0]])
    prices = PriceTable(prices={"amount": Price(down=1.0), "count": Price(up=1.5, down=0.7, fixed=0.3), "shop": Price(matrix=matrix, fixed=0.2)})
    threat = FeatureBudget(money=3.0, prices=prices)
    reach = Spender(threat=threat, space=space).reach(x, y, most=30)
    tree = grown(reach, y, depth=5)
    pairs = set(zip(tree.rows.tolist(), tree.leaves.tolist(), strict=True))
    used = set(tree.feature[tree.feature >= 0].tolist())
    assert {0, 3, 4} <= used
    seen = np.zeros(2, int)
    for i in np.flatnonzero(y == 1):
        amounts = np.unique(np.concatenate([np.linspace(max(x[i, 1] - 3, 0), x[i, 1], 601), x[i, 1:2]]))
        points = np.array([[a / x[i, 2], a, x[i, 2], c, s] for a in amounts for c in range(10) for s in range(3)])
        points = points[cost(np.tile(x[i], (len(points), 1)), points, prices, space) <= 3.0]
        bins = np.column_stack([binned(points[:, f], reach.cuts[f][: reach.count[f]]) for f in range(5)])
        for node, box in leaf_boxes(tree).items():
            bought = bool(np.all([(bins[:, f] >= box[f][0]) & (bins[:, f] <= box[f][1]) for f in range(5)], axis=0).any())
            assert not bought or (i, node) in pairs  # nothing that the attacker reaches is left out
            seen += [(i, node) in pairs, bought]
    assert seen[1] <= seen[0] <= 1.1 * seen[1]  # and little is added: an amount and its ratio may part within a leaf
    for i in np.flatnonzero(y == 0):
        assert (tree.rows == i).sum() == 1  # honest rows stay


def test_leaf_values_are_the_least_robust_loss():
    from scipy.optimize import minimize

    x, y = rows(60, 2)
    tree = grown(Box(up=0.1, down=0.1).reach(x, y, most=20), y, depth=2)
    start, leaf = by_row(tree.rows, tree.leaves, len(x))
    leaves, score = np.flatnonzero(tree.feature < 0), np.zeros(len(x))

    def loss(value):
        reached = [value[leaf[a:b]] for a, b in itertools.pairwise(start)]
        margins = np.array([r.min() if c else -r.max() for r, c in zip(reached, y, strict=True)])
        return np.logaddexp(0, -margins).sum() + 0.5 * (value**2).sum()

    def full(free):
        out = np.zeros(len(tree.feature))
        out[leaves] = free
        return loss(out)

    best = minimize(full, np.zeros(len(leaves)), method="Nelder-Mead", options={"maxiter": 4000, "xatol": 1e-6, "fatol": 1e-9}).fun
    value, _ = refined(np.where(tree.feature < 0, tree.value, 0.0), start, leaf, np.repeat(score, np.diff(start)), y == 1, np.ones(len(x)), 1.0, 50)
    assert loss(value) <= best + 0.02 * abs(best)
    assert loss(value) < loss(np.where(tree.feature < 0, tree.value, 0.0))


@pytest.mark.parametrize("depth", [1, 3])
def test_robust_loss_bounds_every_change_and_is_exact_for_stumps(depth):
    x, y = rows(80, 3)
    model = RobustBoostingClassifier(attacker=Box(up=0.1, down=0.1, lower=0, upper=1), n_estimators=12, max_depth=depth, learning_rate=0.3).fit(x, y)
    cuts = [np.unique(np.concatenate([t.threshold[t.feature == f] for t in model.trees_])) for f in range(3)]
    worst = []
    for row, label in zip(x, y, strict=True):
        low, high = np.maximum(row - 0.1, 0), np.minimum(row + 0.1, 1)
        sides = [np.concatenate([[a], c[(c > a) & (c <= b)].astype(float), [b]]) for a, b, c in zip(low, high, cuts, strict=True)]
        margin = model.decision_function(np.array(list(itertools.product(*sides))))
        worst.append(np.logaddexp(0, -margin.min() if label else margin.max()))
    assert np.mean(worst) <= model.robust_loss_[-1] + 1e-6
    if depth == 1:
        assert np.mean(worst) == pytest.approx(model.robust_loss_[-1], abs=1e-6)
    assert (np.diff(model.robust_loss_) < 1e-9).all()  # every round lowers the bound


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("make", [RobustBoostingClassifier, RobustForestClassifier])
def test_xgboost_answers_the_same_bits(make, classes, tmp_path):
    import xgboost

    x, y = rows(300, 4)
    y = y if classes == 2 else np.digitize(x[:, 0], [0.3, 0.6])
    x[::9, 1] = np.nan
    model = make(0.03, n_estimators=15, random_state=0).fit(x, y)
    cuts = np.concatenate([t.threshold[t.feature >= 0] for t in model.trees_]).astype(float)
    edges = np.repeat(np.concatenate([cuts, np.nextafter(cuts, -1), np.nextafter(cuts, 2)])[:, None], 3, axis=1)
    both = np.concatenate([x, edges, np.full((1, 3), np.nan)])
    model.save_model(tmp_path / "model.json")
    served = xgboost.XGBClassifier()
    served.load_model(tmp_path / "model.json")
    np.testing.assert_array_equal(served.predict(both, output_margin=True), model.decision_function(both).astype(np.float32))
    np.testing.assert_array_equal(served.predict_proba(both), model.predict_proba(both).astype(np.float32))
    assert (served.predict(both) == model.predict(both)).all()


@pytest.mark.parametrize("estimator", [RobustBoostingClassifier(n_estimators=12), RobustForestClassifier(n_estimators=12),
                                       RobustBoostingClassifier(0.05, n_estimators=12, max_depth=1)])  # fmt: skip
def test_they_are_estimators_of_scikit_learn(estimator):
    check_estimator(estimator, on_skip=None)


def test_robust_training_withstands_what_plain_training_does_not():
    x, y = rows(400, 5, d=4)
    rng = np.random.default_rng(6)
    x[:, 3] = np.clip(y + rng.normal(0, 0.05, len(y)), 0, 1) * 0.1 + 0.45  # tells the classes apart and moves across with ease
    space = Space.table(list("abcd"), lower=np.zeros(4), upper=np.ones(4))
    broken = {}
    for make, eps in itertools.product((RobustBoostingClassifier, RobustForestClassifier), (0.0, 0.1)):
        fitted = make(eps, n_estimators=20, random_state=0).fit(x[:300], y[:300])
        found = search_ball(fitted.ensemble_, x[300:], y[300:], LpBall(eps=0.1), space)
        broken[make.__name__, eps] = (found.status != "safe").mean()
    assert broken["RobustBoostingClassifier", 0.1] < 0.5 < broken["RobustBoostingClassifier", 0.0]
    assert broken["RobustForestClassifier", 0.1] < broken["RobustForestClassifier", 0.0] - 0.3


@pytest.mark.parametrize("method", [RobustBoosting(n_estimators=20, max_depth=3), RobustForest(n_estimators=20)])
def test_hardened_models_are_xgboosts_proven_and_stored(method):
    data = splits("many")
    threat = FeatureBudget(money=1.0, prices=PriceTable(prices={"a": Price(up=10.0, down=10.0), "b": Price(down=8.0)}))
    from sklearn.ensemble import RandomForestClassifier

    plain = EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=20, max_depth=4))
    x, y = data.test.x[data.test.y == 1], np.ones((data.test.y == 1).sum(), int)
    held = {}
    for name, recipe in (("plain", plain), ("robust", method(plain, threat))):
        model = recipe.fit(data.train, np.random.default_rng(0))
        held[name] = ExactTree()(model, x, y, threat, np.random.default_rng(0)).holds.mean()
    assert held["robust"] > held["plain"] + 0.03
    assert type(model.estimator).__name__ == "XGBClassifier"
    again = unpack(pack(model))
    np.testing.assert_array_equal(again.predict(data.test.x), model.predict(data.test.x))


def test_a_live_estimator_is_audited_and_stored_by_its_trees():
    x, y = rows(200, 7)
    model = EstimatorModel(estimator=RobustBoostingClassifier(0.05, n_estimators=10).fit(x, y), space=UNIT, classes=2)
    assert model.ensemble.trees == 10
    again = unpack(pack(model))
    np.testing.assert_array_equal(again.predict(x), model.predict(x))
    np.testing.assert_array_equal(again.ensemble.predict(x), model.predict(x))


def test_monotone_scores_never_fall_where_the_attacker_lowers():
    data = splits("many")
    threat = FeatureBudget(money=2.0, prices=ONE_WAY)
    from sklearn.ensemble import HistGradientBoostingClassifier

    recipe = Monotone()(EstimatorRecipe(estimator=HistGradientBoostingClassifier(max_iter=20)), threat)
    model = recipe.fit(data.train, np.random.default_rng(0))
    lowered = data.test.x.copy()
    lowered[:, 0] -= np.random.default_rng(0).uniform(0, 0.5, size=len(lowered))
    assert (model.predict(lowered)[:, 1] >= model.predict(data.test.x)[:, 1]).all()


def test_a_recipe_takes_over_what_its_estimator_says():
    from xgboost import XGBClassifier

    plain = EstimatorRecipe(estimator=XGBClassifier(n_estimators=7, learning_rate=0.3))
    recipe = RobustBoosting(max_depth=2)(plain, LpBall(eps=0.1))
    assert isinstance(recipe, RobustRecipe)
    assert {k: recipe.settings()[k] for k in ("n_estimators", "learning_rate", "max_depth")} == {
        "n_estimators": 7,
        "learning_rate": 0.3,
        "max_depth": 2,
    }
    assert recipe.describe() != RobustBoosting(max_depth=2, share=0.5)(plain, LpBall(eps=0.1)).describe()


def test_cuts_meet_no_value_and_stay_within_their_number():
    values = np.random.default_rng(0).normal(size=5000)
    cuts = cuts_of([values, values - 0.1], most=20)
    assert 10 < len(cuts) < 20
    assert not np.isin(cuts, values.astype(np.float32)).any()
    counts = np.bincount(binned(values, cuts))
    assert counts.max() < 3 * counts[counts > 0].mean()


@pytest.mark.parametrize(("make", "words"), [
    (lambda: RobustBoostingClassifier("far").fit(*rows(20, 0)), "attacker is 'far'"),
    (lambda: RobustBoostingClassifier(-1).fit(*rows(20, 0)), "attacker is -1"),
    (lambda: RobustBoostingClassifier(max_bins=300).fit(*rows(20, 0)), "max_bins is 300"),
    (lambda: RobustBoostingClassifier(learning_rate=0).fit(*rows(20, 0)), "learning_rate is 0"),
    (lambda: RobustForestClassifier(max_features="log").fit(*rows(20, 0)), "max_features is 'log'"),
    (lambda: RobustForestClassifier(Box(up=[1, 2])).fit(*rows(20, 0)), "up has shape"),
    (lambda: Box(up=-1), "up is -1"),
    (lambda: Box(movers="all"), "movers is 'all'"),
    (lambda: RobustBoosting(share=-1), "share is -1"),
    (lambda: RobustForest(max_depth=0), "max_depth is 0"),
    (lambda: Monotone(directions="up"), "directions is 'up'"),
    (lambda: RobustBoosting()(None, LpBall(p=0, eps=1)), "L0 ball"),
])  # fmt: skip
def test_wrong_values_are_named(make, words):
    with pytest.raises(InputError, match=words):
        make()
