"""Training on manipulated rows: spenders keep to the money, choices follow their rules, and what comes out resists better than what went in."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from xgboost import XGBClassifier

from carbide.evasion import _retraining as room
from carbide.evasion.harden.retraining import Retraining
from carbide.evasion.harden.robust_boosting import RobustBoosting
from carbide.models.estimators import EstimatorRecipe
from carbide.space.membership import inside
from carbide.space.prices import cost
from carbide.stats.performance import threshold_at_fpr
from carbide.types import Dataset, FeatureBudget, InputError, Price, PriceTable, Space, rng_for

SPACE = Space.table(["cheap", "dear", "count", "fixed"], lower=np.zeros(4), upper=np.full(4, 10.0), step=np.array([0, 0, 1.0, 0]),
                    mutable=np.array([True, True, True, False]))  # fmt: skip
THREAT = FeatureBudget(
    money=2.0, prices=PriceTable(prices={"cheap": Price(up=0.2, down=0.2), "dear": Price(up=4.0, down=4.0), "count": Price(up=0.5)})
)
RECIPE = EstimatorRecipe(estimator=XGBClassifier(n_estimators=15, max_depth=3, learning_rate=0.3, n_jobs=1))


def payments(n: int, seed: int) -> Dataset:
    """Frauds lie low in all columns; the cheap one tells them best."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.15).astype(np.int64)
    middle = np.where(y[:, None] == 1, [2.0, 3.5, 2.0, 4.0], [8.0, 6.0, 4.0, 5.0])
    x = np.clip(middle + rng.normal(size=(n, 4)) * [0.6, 1.0, 1.5, 1.5], 0, 10)
    x[:, 2] = np.round(x[:, 2])
    return Dataset(x=x, y=y, space=SPACE, classes=2, ids=np.array([f"r{i}" for i in range(n)]), source=np.full(n, "made"))


def recall(model, data: Dataset, *, grid: int = 0) -> float:
    """The share of frauds that the model catches at 5% false positives; with ``grid`` the share that no affordable change of the grid frees."""
    threshold = threshold_at_fpr(model.predict(data.x[data.y == 0])[:, 1], 0.05)
    frauds = data.x[data.y == 1]
    stands = model.predict(frauds)[:, 1] >= threshold
    if grid:
        for row in np.flatnonzero(stands):
            axes = [np.unique(np.clip(np.append(np.linspace(-reach, reach, grid), 0) + frauds[row, f], 0, 10)) for f, reach in ((0, 10.0), (1, 0.5))]
            axes.append(frauds[row, 2] + np.arange(5.0))
            tried = np.stack([a.ravel() for a in np.meshgrid(*axes)], 1)
            tried = np.column_stack([tried, np.full(len(tried), frauds[row, 3])])
            at = np.repeat(frauds[row : row + 1], len(tried), 0)
            tried = tried[inside(tried, at, SPACE, THREAT)]
            stands[row] = bool((model.predict(tried)[:, 1] >= threshold).all())
    return float(stands.mean())


def recipe(**options):
    return Retraining(**{"rounds": 1, "copies": 3, "loss": 0.3, "false_positive_rate": 0.05, **options})(RECIPE, THREAT)


def test_hardened_models_resist_a_grid_that_breaks_the_plain_one():
    train, test = payments(1200, 0), payments(500, 1)
    plain = RECIPE.fit(train, rng_for(0, "train"))
    assert recall(plain, test) > 0.9
    assert recall(plain, test, grid=9) < 0.2
    for options in ({}, {"bags": 1, "margin": 1.3}):
        model = recipe(**options).fit(train, rng_for(0, "train"))
        assert recall(model, test) > 0.7
        assert recall(model, test, grid=9) > recall(plain, test, grid=9) + 0.4


def test_bags_are_the_average_of_models_with_other_draws():
    train, x = payments(600, 2), payments(200, 3).x
    hardened = recipe(bags=3, rounds=0)
    model = hardened.fit(train, rng_for(0, "train"))
    seed = int(rng_for(0, "train").integers(2**62))
    best = hardened.best(train, seed)
    pool = hardened.pool(best, train, seed)
    alone = [room._bag(room._Bag(recipe=hardened, best=best, pool=pool, dataset=train, seed=seed, number=i)) for i in range(3)]
    margins = [m.ensemble.margins(x)[:, 0] + share for m, share in alone]
    assert all(share < 0 for _, share in alone)
    assert all(np.abs(margins[0] - m).max() > 1e-3 for m in margins[1:])
    np.testing.assert_allclose(model.ensemble.margins(x)[:, 0], np.mean(margins, 0), atol=1e-5)
    assert model.ensemble.trees == 3 * alone[0][0].ensemble.trees
    np.testing.assert_array_equal(model.predict(x), recipe(bags=3, rounds=0).fit(train, rng_for(0, "train")).predict(x))


def test_bags_leave_the_odds_as_one_model_has_them():
    train, test = payments(3000, 8), payments(3000, 9)
    options = {"rounds": 0, "copies": 4, "weight": 2.0, "margin": 0.5}  # 1.35 rows of class 1 for 2.55 honest ones, so thinned to half
    one, bags = (recipe(bags=b, **options).fit(train, rng_for(0, "train")).predict(test.x)[:, 1] for b in (1, 6))
    assert abs(bags.mean() - one.mean()) < 0.01
    assert ((bags >= 0.5) != (one >= 0.5)).mean() < 0.02


@pytest.mark.parametrize(("weight", "honest"), [(1.0, None), (15.0, 0.7)])
def test_a_bag_holds_every_fraud_and_as_many_honest_rows_up_to_a_share(weight, honest):
    train, seen = payments(400, 4), []

    @dataclass(frozen=True)
    class Spy:
        def fit(self, dataset, rng):
            seen.append(dataset)
            return SimpleNamespace()

    work = recipe(copies=30, weight=weight)
    best = SimpleNamespace(recipe=Spy())
    for number in (0, 1):
        room._bag(room._Bag(recipe=work, best=best, pool=np.zeros((0, 4)), dataset=train, seed=0, number=number))  # type: ignore[arg-type]
    frauds = int(train.y.sum())
    for bag in seen:
        real = np.char.startswith(bag.ids, "r")
        assert set(bag.ids[real & (bag.y == 1)]) == set(train.ids[train.y == 1])
        assert (~real).sum() == weight * frauds
        assert (bag.y[~real] == 1).all()
        expected = (bag.y == 1).sum() if honest is None else np.ceil(honest * (train.y == 0).sum())
        assert (bag.y == 0).sum() == expected
    forests = replace(work, inner=EstimatorRecipe(estimator=RandomForestClassifier()))
    _, share = room._bag(room._Bag(recipe=forests, best=best, pool=np.zeros((0, 4)), dataset=train, seed=0, number=2))  # type: ignore[arg-type]
    assert (seen.pop().y == 0).sum() == (train.y == 0).sum()  # a forest gets them all
    assert share == 0
    first, second = ({*bag.ids[bag.y == 0]} for bag in seen)
    assert first != second


def test_robust_boosters_are_averaged_too_as_the_xgboost_models_that_they_become():
    train, threat = payments(1500, 1), recipe().threat
    robust = RobustBoosting(n_estimators=4, max_depth=2, share=0.5)(EstimatorRecipe(estimator=XGBClassifier()), threat)
    options = {"rounds": 0, "copies": 1, "cheap": (), "false_positive_rate": 0.05}
    several, one = (Retraining(bags=b, **options)(robust, threat) for b in (None, 1))
    assert several.averaged() == room.BAGS
    models = [work.fit(train, rng_for(0, "train")) for work in (several, one)]
    trees = [len(m.estimator.get_booster().get_dump()) for m in models]
    assert trees == [4 * room.BAGS, 4]
    scores = [m.predict(train.x)[:, 1].mean() for m in models]
    assert abs(scores[0] - scores[1]) < 0.1  # bags of few honest rows, brought back to the odds of all


def test_models_that_cannot_be_averaged_are_refused_in_a_sentence():
    work = Retraining(rounds=0, copies=1, bags=2, false_positive_rate=0.05)
    unsaid = Retraining(rounds=0, copies=1, false_positive_rate=0.05)(EstimatorRecipe(estimator=HistGradientBoostingClassifier(max_iter=4)), THREAT)
    assert unsaid.fit(payments(400, 5), rng_for(0, "train")).ensemble.trees == 4
    histogram = work(EstimatorRecipe(estimator=HistGradientBoostingClassifier(max_iter=4)), THREAT)
    with pytest.raises(InputError, match=r"HistGradientBoostingClassifier; set bags to 1"):
        histogram.fit(payments(400, 5), rng_for(0, "train"))
    forest = work(EstimatorRecipe(estimator=RandomForestClassifier(5, max_depth=4, random_state=0)), THREAT)
    assert forest.fit(payments(400, 5), rng_for(0, "train")).ensemble.trees == 10
    with pytest.raises(InputError, match=r"bags is 0; give a whole number >= 1"):
        Retraining(bags=0)


@pytest.mark.parametrize("seed", range(5))
def test_spenders_keep_to_the_money_and_the_space(seed):
    data, rng = payments(200, seed), np.random.default_rng(seed)
    frauds = np.repeat(data.x[data.y == 1], 20, 0)
    start = room.imitating(frauds, data.x[data.y == 0], SPACE, THREAT, rng)
    out = room.spent(start, frauds, SPACE, THREAT, rng)
    for rows in (start, out):
        assert inside(rows, frauds, SPACE, THREAT).all()
        assert (cost(frauds, rows, THREAT.prices, SPACE) <= THREAT.money + 1e-9).all()
    assert (start != frauds).any(1).mean() > 0.2
    paid = cost(frauds, out, THREAT.prices, SPACE)
    assert np.median(paid) > 0.6 * THREAT.money  # the rest is spent, but for steps and bounds
    assert (out[:, 3] == frauds[:, 3]).all()
    assert (out[:, 2] >= frauds[:, 2]).all()  # a count goes up only


def test_signs_and_cheap_columns_are_what_one_reads_off_the_data():
    x = np.array([[1.0, 5.0], [2.0, 5.5], [8.0, 1.0], [9.0, 2.0], [8.5, 1.5]])
    space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.full(2, 10.0))
    data = Dataset(x=x, y=np.array([1, 1, 0, 0, 0]), space=space, classes=2, ids=np.arange(5).astype(str), source=np.full(5, "made"))
    assert room.natural_signs(data, np.array([1, 1])).tolist() == [-1, 0]  # frauds lie low in a, which attackers raise; in b they lie high already
    assert room.natural_signs(data, np.array([-1, -1])).tolist() == [0, 1]
    assert room.natural_signs(data, np.array([0, 0])).tolist() == [0, 0]
    threat = FeatureBudget(money=10.0, prices=PriceTable(prices={"a": Price(up=1.0), "b": Price(down=1.0)}))  # 7 and 3.75 dollars to the medians
    assert room.cheap_columns(data, threat, 0.3) == ()
    assert room.cheap_columns(data, threat, 0.38) == (1,)
    assert room.cheap_columns(data, threat, 0.7) == (0, 1)


def trial(clean: float, robust: float, columns: tuple[int, ...] = ()) -> room.Trial:
    return room.Trial(recipe=SimpleNamespace(columns=columns), number=0, model=None, pool=np.zeros((0, 1)), clean=clean, robust=robust)  # type: ignore[arg-type]


def test_the_choice_keeps_to_the_floor_and_prefers_fewer_columns_within_an_error():
    best = trial(0.9, 0.6)
    assert room.chosen([trial(0.5, 0.9), best, trial(0.95, 0.2)], 0.9, 100) is best
    blind = trial(0.9, 0.56, (1,))  # an error of 0.6 among 100 frauds is 0.049
    assert room.chosen([best, blind], 0.9, 100) is blind
    assert room.chosen([best, trial(0.9, 0.54, (1,))], 0.9, 100) is best
    cleaner = trial(0.92, 0.6)
    assert room.chosen([best, cleaner], 0.9, 100) is cleaner
    assert room.chosen([trial(0.5, 0.5), trial(0.6, 0.1)], 0.9, 100).clean == 0.6  # none reaches the floor


def test_manipulated_rows_are_counted_named_and_labelled():
    data, work = payments(300, 6), recipe(weight=2.0)
    frauds = int(data.y.sum())
    pool = np.random.default_rng(0).uniform(0, 1, (10 * frauds, 4))
    more = work.enlarged(data, pool, 0)
    assert len(more) == len(data) + 2 * frauds
    assert (more.y[len(data) :] == 1).all()
    assert len(set(more.ids)) == len(more)
    assert {tuple(row) for row in more.x[len(data) :]} <= {tuple(row) for row in pool}
    assert work.enlarged(data, pool[:0], 0) is data


def test_too_few_rows_to_choose_by_are_refused():
    with pytest.raises(InputError, match="chooses by the last 30%"):
        recipe().fit(payments(60, 7), rng_for(0, "train"))
