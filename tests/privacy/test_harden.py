"""Defences: the fitted trees and penalties are what was asked for, and members are harder to tell."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from carbide.models.estimators import EstimatorRecipe
from carbide.privacy.audit.lira import Lira
from carbide.privacy.harden.leaf_size import LeafSize
from carbide.privacy.harden.private_logistic import PrivateLogisticRegression
from carbide.privacy.harden.regularisation import Regularisation
from carbide.privacy.judge import audit
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.types import Case, Dataset, InputError, Membership, Recipe, Splits
from tests.privacy.worlds import Remembers, case, table

T = Membership()


def noisy(n, seed):
    rng = np.random.default_rng(seed)
    base = table(n, seed=seed, d=4)
    y = (base.x[:, 0] + 0.3 * rng.normal(size=n) > 0.5).astype(np.int64)
    return Dataset(x=base.x, y=y, ids=base.ids, source=base.source, space=base.space, classes=2)


def leaves_of_sklearn(tree):
    return tree.tree_.n_node_samples[tree.tree_.children_left < 0]


def fitted(estimator, method, data):
    return method(EstimatorRecipe(estimator=estimator), T).fit(data, np.random.default_rng(0)).estimator


@pytest.mark.parametrize("leaf", [1, 7, 30])
def test_leaves_of_trees_and_forests_hold_that_many_rows(leaf):
    data = noisy(300, 0)
    tree = fitted(DecisionTreeClassifier(), LeafSize(leaf=leaf), data)
    forest = fitted(RandomForestClassifier(n_estimators=5), LeafSize(leaf=leaf, depth=3), data)
    assert leaves_of_sklearn(tree).min() >= leaf
    assert all(leaves_of_sklearn(t).min() >= leaf and t.get_depth() <= 3 for t in forest.estimators_)
    plain = RandomForestClassifier(n_estimators=5, random_state=0).fit(data.x, data.y)
    if leaf > 1:
        assert min(leaves_of_sklearn(t).min() for t in plain.estimators_) < leaf


def test_leaves_of_histogram_boosting_and_of_a_pipeline():
    data = noisy(400, 1)
    boosted = fitted(HistGradientBoostingClassifier(max_iter=5), LeafSize(leaf=40), data)
    for stage in boosted._predictors:
        for tree in stage:
            assert tree.nodes["count"][tree.nodes["is_leaf"].astype(bool)].min() >= 40
    inside = fitted(make_pipeline(StandardScaler(), GradientBoostingClassifier(n_estimators=3)), LeafSize(leaf=25), data)
    assert min(leaves_of_sklearn(t[0]).min() for t in inside[-1].estimators_) >= 25


def test_leaves_of_lightgbm_and_xgboost():
    lightgbm, xgboost = pytest.importorskip("lightgbm"), pytest.importorskip("xgboost")
    data = noisy(400, 2)
    light = fitted(lightgbm.LGBMClassifier(n_estimators=5, verbose=-1), LeafSize(leaf=40), data)
    rows = light.booster_.trees_to_dataframe()
    assert rows[rows["left_child"].isna()]["count"].min() >= 40
    assert light.get_params()["min_child_weight"] == lightgbm.LGBMClassifier().min_child_weight
    extreme = fitted(xgboost.XGBClassifier(n_estimators=5), LeafSize(leaf=40), data)
    rows = extreme.get_booster().trees_to_dataframe()
    assert rows[rows["Feature"] == "Leaf"]["Cover"].min() >= 10  # a quarter of 40: the most that 40 rows can weigh


def test_what_has_no_leaves_is_refused():
    linear = EstimatorRecipe(estimator=LogisticRegression())
    with pytest.raises(InputError, match="LogisticRegression has no leaf size"):
        LeafSize()(linear, T)
    with pytest.raises(InputError, match="Remembers trains no scikit-learn-style estimator"):
        LeafSize()(Remembers(gain=1.0), T)
    start = case(Remembers(gain=1.0), n=10)
    assert "no trees" in LeafSize().refuses(start, T)
    assert "no trees" in LeafSize().refuses(replace(start, recipe=linear), T)
    assert LeafSize().refuses(replace(start, recipe=EstimatorRecipe(estimator=DecisionTreeClassifier())), T) is None


def test_the_given_recipe_is_left_as_it_is():
    recipe = EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=3))
    before = recipe.describe()
    LeafSize(leaf=9)(recipe, T)
    Regularisation(c=0.5)(recipe, T)
    assert recipe.describe() == before


def test_penalties_are_set():
    data = noisy(200, 3)
    assert fitted(LogisticRegression(C=5.0), Regularisation(c=0.1), data).C == 0.1
    assert fitted(make_pipeline(StandardScaler(), LogisticRegression()), Regularisation(c=0.01), data)[-1].C == 0.01
    assert fitted(SGDClassifier(loss="log_loss", alpha=1e-4), Regularisation(c=0.1), data).alpha == pytest.approx(1e-3)
    swapped = fitted(GaussianNB(), Regularisation(c=0.2), data)
    assert (type(swapped[0]), type(swapped[1]), swapped[1].C) == (StandardScaler, LogisticRegression, 0.2)
    weak, strong = (np.abs(fitted(LogisticRegression(), Regularisation(c=c), data).coef_).sum() for c in (1.0, 0.001))
    assert strong < 0.2 * weak
    with pytest.raises(InputError, match="neither C nor alpha"):
        Regularisation(swap=False)(EstimatorRecipe(estimator=GaussianNB()), T)


@dataclass(frozen=True, kw_only=True)
class Net:
    """A recipe with weight decay, as networks have it."""

    decay: float = 0.0

    def fit(self, dataset, rng):
        raise NotImplementedError

    def describe(self):
        return {"recipe": "net", "decay": self.decay}


@dataclass(frozen=True, kw_only=True)
class Around:
    """A recipe around another."""

    inner: Recipe

    def fit(self, dataset, rng):
        return self.inner.fit(dataset, rng)

    def describe(self):
        return {"recipe": "around", "inner": self.inner.describe()}


def test_networks_get_weight_decay_and_wrapped_recipes_are_reached():
    assert Regularisation(c=0.01)(Net(), T).decay == pytest.approx(0.1)
    wrapped = Around(inner=EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=2)))
    deep = LeafSize(leaf=11)(Around(inner=wrapped), T)
    assert deep.inner.inner.estimator.min_samples_leaf == 11
    assert Regularisation().refuses(replace(case(Remembers(gain=1.0), n=10), recipe=Net()), T) is None
    assert "neither an estimator" in Regularisation().refuses(case(Remembers(gain=1.0), n=10), T)


def test_private_logistic_replaces_the_recipe_and_refuses_what_it_cannot_scale():
    method = PrivateLogisticRegression(epsilon=0.5, delta=1e-4)
    recipe = method(Remembers(gain=1.0), T)
    assert isinstance(recipe, PrivateLogisticRecipe)
    assert (recipe.epsilon, recipe.delta) == (0.5, 1e-4)
    start = case(Remembers(gain=1.0), n=10)
    assert method.refuses(start, T) is None
    endless = replace(start.data.train, space=table(10, bounded=False).space)
    assert "finite bounds" in method.refuses(replace(start, data=replace(start.data, train=endless)), T)
    assert "delta is 0.2" in PrivateLogisticRegression(delta=0.2).refuses(start, T)
    assert [m.epsilon for m in method.strengths()] == [2.0, 0.5]
    with pytest.raises(InputError, match="epsilon is -1"):
        PrivateLogisticRegression(epsilon=-1)


@pytest.mark.parametrize(("make", "words"), [(lambda: LeafSize(leaf=0), "leaf is 0"), (lambda: LeafSize(depth=0), "depth is 0"),
                                             (lambda: Regularisation(c=0), "c is 0"), (lambda: Regularisation(c=float("inf")), "c is inf")])  # fmt: skip
def test_wrong_options_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_strengths_run_from_weak_to_strong():
    assert [m.leaf for m in LeafSize().strengths()] == [5, 10, 20, 20]
    assert [m.c for m in Regularisation().strengths()] == [1.0, 0.1, 0.01]


def test_hardened_models_tell_less():
    parts = Splits(train=noisy(90, 4), validation=noisy(30, 5), test=noisy(90, 6))
    plain = EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=20))
    dangers = []
    for recipe in (plain, LeafSize(leaf=20)(plain, T), Regularisation(c=0.1)(plain, T)):
        start = Case(model=recipe.fit(parts.train, np.random.default_rng(0)), data=parts, recipe=recipe)
        section = audit(start, T, {"lira": Lira(shadows=16)})
        dangers.append({f.metric: f.value for f in section.findings})
    areas = [d["membership AUC"] for d in dangers]
    assert areas[0] > 0.8
    assert areas[1] < 0.65
    assert areas[2] < 0.6
    rates = [d["membership TPR at 1% FPR"] for d in dangers]
    assert max(rates[1:]) - 0.01 < (rates[0] - 0.01) / 3
