"""Distillation, subsampling, early stopping and coarse answers: what was asked for happens, and the adaptive attacker finds less."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.ensemble import BaggingClassifier, GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from carbide._harden import AS_IT_IS
from carbide.models.estimators import EstimatorRecipe
from carbide.models.packing import pack, unpack
from carbide.models.recipes import make_recipe
from carbide.privacy.audit.lira import Lira
from carbide.privacy.coarse import CoarseModel, coarse
from carbide.privacy.distilled import DistilledRecipe, _counts, left_out
from carbide.privacy.edited import EditedRecipe, agreed
from carbide.privacy.front import candidates, explore, leakage, least_shadows, undominated
from carbide.privacy.harden.coarse_answers import CoarseAnswers
from carbide.privacy.harden.early_stopping import EarlyStopping
from carbide.privacy.harden.self_distillation import SelfDistillation
from carbide.privacy.harden.subsampling import Subsampling
from carbide.privacy.shadows import train_shadows
from carbide.stats.roc import enough
from carbide.types import Access, InputError, Membership, OperatingPoint, decide
from tests.privacy.test_harden import noisy
from tests.privacy.worlds import Remembers, case, table

T = Membership()


def of(estimator):
    return EstimatorRecipe(estimator=estimator)


@given(st.integers(2, 12), st.data(), st.integers(0, 20))
def test_every_row_is_kept_from_as_many_teachers_as_asked(teachers, data, seed):
    out = data.draw(st.integers(1, teachers - 1))
    outside = left_out(40, teachers=teachers, out=out, rng=np.random.default_rng(seed))
    assert outside.shape == (teachers, 40)
    assert (outside.sum(0) == out).all()


@dataclass(frozen=True, kw_only=True)
class Spy:
    """Remembers its rows: sure of those it was trained on, even-handed on others; keeps a list of what it was trained on."""

    seen: list

    def fit(self, dataset, rng):
        self.seen.append(dataset)
        return Remembers(gain=50.0, noise=0.0).fit(dataset, rng)

    def describe(self):
        return {"recipe": "spy"}


def test_labels_come_from_teachers_that_did_not_see_the_row():
    # Remembers answers 1 / (1 + e^-1) on rows it does not hold and certainty on those it holds: no certainty may reach a label
    rows, spy = table(400), Spy(seen=[])
    DistilledRecipe(inner=spy, teachers=6, out=2).fit(rows, np.random.default_rng(0))
    teachers, student = spy.seen[:-1], spy.seen[-1]
    assert len(teachers) == 6
    truth = {row.tobytes(): label for row, label in zip(rows.x, rows.y, strict=True)}
    kept = np.mean([truth[row.tobytes()] == label for row, label in zip(student.x, student.y, strict=True)])
    assert len(student) == 8 * 400
    assert kept == pytest.approx(1 / (1 + np.exp(-1)), abs=0.03)


def test_copies_stand_for_probabilities():
    soft = np.random.default_rng(0).dirichlet([1, 1, 1], 4000)
    counts = _counts(soft, np.random.default_rng(1))
    assert (counts.sum(1) == 8).all()
    assert np.abs(counts / 8 - soft).max() <= 0.126
    assert np.abs((counts / 8 - soft).mean(0)).max() < 0.005


def test_a_forest_is_taught_by_trees_that_did_not_draw_the_row():
    data = noisy(200, 0)
    forest = RandomForestClassifier(n_estimators=60)
    plain, distilled = (recipe.fit(data, np.random.default_rng(0)) for recipe in (of(forest), DistilledRecipe(inner=of(forest))))
    out_of_bag = RandomForestClassifier(n_estimators=60, oob_score=True, random_state=int(np.random.default_rng(0).integers(2**31)))
    soft = out_of_bag.fit(data.x, data.y).oob_decision_function_
    on = np.arange(200)
    assert np.abs(plain.predict(data.x)[on, data.y] - 1).mean() < 0.15  # it knows its rows
    assert np.abs(distilled.predict(data.x) - soft).mean() < 0.08  # and this one answers as if it did not
    assert np.abs(plain.predict(data.x) - soft).mean() > 0.15
    assert DistilledRecipe(inner=of(KNeighborsClassifier())).fit(data, np.random.default_rng(0)).predict(data.x).shape == (200, 2)
    with pytest.raises(InputError, match="4 rows are too few for 10 teachers"):
        DistilledRecipe(inner=of(forest)).fit(data.take(on[:4]), np.random.default_rng(0))


def test_torch_nets_are_distilled_and_stopped_early():
    pytest.importorskip("torch")
    data = noisy(60, 1)
    net = make_recipe({"torch": {"epochs": 20}}, space=data.space, classes=2)
    assert EarlyStopping(share=0.1)(net, T).epochs == 2
    assert SelfDistillation(teachers=2, out=1)(EarlyStopping(share=0.1)(net, T), T).fit(data, np.random.default_rng(0)).predict(data.x).shape == (
        60,
        2,
    )


def test_defences_against_members_keep_adversarial_training():
    from carbide.evasion.harden.nfgsm import NFGSM
    from carbide.models.torch_net import TorchRecipe
    from carbide.privacy.harden.regularisation import Regularisation
    from carbide.types import LpBall

    robust = NFGSM(stretch=1.0)(TorchRecipe(factory="carbide.models.nets:small_cnn", epochs=20), LpBall(eps=0.1))
    stopped = EarlyStopping(share=0.5)(robust, Membership())
    assert (stopped.epochs, stopped.perturb, stopped.batch) == (10, robust.perturb, robust.batch)
    assert Regularisation(c=0.1)(robust, Membership()).perturb == robust.perturb is not None
    assert SelfDistillation()(robust, Membership()).inner.perturb == robust.perturb


def test_bags_hold_the_share_asked_for():
    data = noisy(300, 0)
    fit = lambda estimator, **options: Subsampling(**options)(of(estimator), T).fit(data, np.random.default_rng(0)).estimator  # noqa: E731
    forest = fit(RandomForestClassifier(n_estimators=5), share=0.1, leaf=3)
    assert all(t.tree_.weighted_n_node_samples[0] == 30 and t.tree_.n_node_samples[t.tree_.children_left < 0].min() >= 1 for t in forest.estimators_)
    assert (forest.max_samples, forest.min_samples_leaf) == (0.1, 3)
    assert fit(GradientBoostingClassifier(n_estimators=2), share=0.3).subsample == 0.3
    bags = fit(DecisionTreeClassifier(), share=0.1, models=7)
    assert isinstance(bags, BaggingClassifier)
    assert [len(np.unique(rows)) for rows in bags.estimators_samples_] == [30] * 7
    votes = fit(make_pipeline(StandardScaler(), MLPClassifier()), share=0.2, c=10.0, models=4)
    assert [e[-1].C for e in votes.estimators_] == [10.0] * 4
    assert isinstance(votes.estimators_[0][-1], LogisticRegression)
    told = Subsampling(share=0.2, c=10.0, models=4, levels=4)(of(MLPClassifier()), T).fit(data, np.random.default_rng(0)).predict(data.x)
    assert set(np.unique(4 * told)) <= {0, 1, 2, 3, 4}
    small = case(Remembers(gain=1.0), n=50)
    assert "no scikit-learn-style estimator" in Subsampling().refuses(small, T)
    assert "holds fewer than 10" in Subsampling().refuses(replace(small, recipe=of(DecisionTreeClassifier())), T)


def test_rounds_are_cut_and_forests_have_none():
    assert EarlyStopping(share=0.1)(of(GradientBoostingClassifier(n_estimators=50)), T).estimator.n_estimators == 5
    assert EarlyStopping(share=0.1)(of(make_pipeline(StandardScaler(), MLPClassifier(max_iter=300))), T).estimator[-1].max_iter == 30
    with pytest.raises(InputError, match="RandomForestClassifier does not learn in rounds"):
        EarlyStopping()(of(RandomForestClassifier()), T)
    start = replace(case(Remembers(gain=1.0), n=10), recipe=of(RandomForestClassifier()))
    assert "cannot stop early" in EarlyStopping().refuses(start, T)
    xgboost = pytest.importorskip("xgboost")
    assert EarlyStopping(share=0.1)(of(xgboost.XGBClassifier()), T).estimator.n_estimators == 10


@given(st.integers(2, 5), st.integers(1, 20), st.floats(0.05, 0.95), st.integers(0, 30))
def test_coarse_answers_keep_every_decision(k, levels, threshold, seed):
    exact = np.random.default_rng(seed).dirichlet(np.full(k, 0.5), 50)
    threshold = threshold if k == 2 else 0.5
    labels = decide(exact, threshold)
    told = coarse(exact, labels, levels, threshold)
    np.testing.assert_allclose(told.sum(1), 1)
    assert told.min() >= 0
    np.testing.assert_allclose(told * levels, np.round(told * levels), atol=1e-9)
    np.testing.assert_array_equal(decide(told, threshold), labels)


def test_a_coarse_model_can_be_stored_and_answers_labels_alone_at_one_level():
    data = noisy(100, 2)
    inner = of(LogisticRegression()).fit(data, np.random.default_rng(0)).at(0.3)
    for levels in (1, 4):
        model = CoarseAnswers(levels=levels)(inner, data, np.random.default_rng(0))
        again = unpack(pack(model))
        np.testing.assert_array_equal(again.predict(data.x), model.predict(data.x))
        np.testing.assert_array_equal(decide(model.predict(data.x), model.threshold), decide(inner.predict(data.x), 0.3))
        assert (Access.SCORES in model.access) == (levels > 1)
    assert CoarseModel(inner=inner, levels=2).digest() != CoarseModel(inner=inner, levels=3).digest()


def test_the_second_training_has_no_rows_whose_label_the_others_deny():
    data = table(200, seed=6, d=4)
    wrong = np.arange(len(data)) % 10 == 0
    flipped = data.with_(y=np.where(wrong, 1 - data.y, data.y))
    seen = []

    @dataclass(frozen=True, kw_only=True, eq=False)
    class Spy:
        estimator: Any

        def fit_estimator(self, dataset, rng, weight=None):
            return of(self.estimator).fit_estimator(dataset, rng)

        def fit(self, dataset, rng):
            seen.append(set(dataset.ids))
            return of(self.estimator).fit(dataset, rng)

        def describe(self):
            return {}

    bags = Subsampling(share=0.3, c=10.0, kernel=True, edit=True)(of(DecisionTreeClassifier()), T).inner.estimator
    EditedRecipe(inner=Spy(estimator=bags)).fit(flipped, np.random.default_rng(0))
    assert not seen[0] & set(data.ids[wrong])
    assert len(seen[0] & set(data.ids[~wrong])) > 0.9 * (~wrong).sum()
    with pytest.raises(InputError, match="no estimator on bootstrap samples"):
        EditedRecipe(inner=of(LogisticRegression())).fit(data, np.random.default_rng(0))


def test_edited_rows_are_those_whose_label_others_give_them():
    votes = np.array([[0.7, 0.3], [0.2, 0.8], [0.4, 0.6], [np.nan, np.nan], [0.0, 0.0]])
    assert agreed(votes, np.array([0, 1]), np.array([0, 1, 0, 0, 0])).tolist() == [True, True, False, False, False]  # without votes: not known
    assert agreed(votes[:3], np.array([4, 2]), np.array([4, 4, 2])).tolist() == [True, False, True]


def test_edited_votes_of_kernel_machines_are_repeatable_stored_and_answer_labels():
    data = noisy(120, 7)
    recipe = Subsampling(share=0.3, c=10.0, kernel=True, models=5, levels=1, edit=True)(of(RandomForestClassifier()), T)
    one, two = (recipe.fit(data, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.predict(data.x), two.predict(data.x))
    np.testing.assert_array_equal(unpack(pack(one)).predict(data.x), one.predict(data.x))
    assert set(np.unique(one.predict(data.x))) == {0.0, 1.0}
    assert recipe.describe() != replace(recipe, inner=recipe.inner.inner).describe()


@pytest.mark.parametrize(("cls", "options", "words"), [
    (Subsampling, {"share": 1.0}, "share is 1.0"), (Subsampling, {"leaf": 0}, "leaf is 0"), (Subsampling, {"models": 1}, "models is 1"),
    (Subsampling, {"c": -1.0}, "c is -1.0"), (Subsampling, {"kernel": True}, "kernel is true without c"), (Subsampling, {"levels": 0}, "levels is 0"), (EarlyStopping, {"share": 0.0}, "share is 0.0"),
    (SelfDistillation, {"teachers": 1}, "teachers is 1"), (SelfDistillation, {"out": 10}, "out is 10"), (CoarseAnswers, {"levels": 0}, "levels is 0")])  # fmt: skip
def test_wrong_options_are_refused(cls, options, words):
    with pytest.raises(InputError, match=words):
        cls(**options)


def test_the_front_and_the_choice_within_the_budget():
    pool = noisy(150, 3)
    forest = of(RandomForestClassifier(n_estimators=10))
    some = {
        "bags": Subsampling(share=0.2)(forest, T),
        "constant": Subsampling(share=0.9, c=1e-8, models=2)(forest, T),
        "refuses": of(RandomForestClassifier(max_depth=-1)),
    }
    found = explore(forest, pool, some, accuracy_loss=0.02, seed=0, shadows=16)
    by_name = {p.leak.name: p for p in found.points}
    assert list(found.skipped) == ["refuses"]
    assert by_name[AS_IT_IS].lost == 0
    assert by_name["constant"].lost > 0.1
    assert found.chosen.leak.name == "bags"
    assert by_name["bags"].leak.tpr < by_name[AS_IT_IS].leak.tpr
    assert [p.leak.tpr for p in found.points] == sorted(p.leak.tpr for p in found.points)
    free = explore(forest, pool, some, accuracy_loss=1.0, seed=0, shadows=16)
    assert free.chosen.leak.name == free.points[0].leak.name
    inside = by_name["bags"]
    outside = inside.leak.counted
    direct = by_name[AS_IT_IS].leak.right[outside].mean() - inside.leak.right[outside].mean()
    assert inside.lost == pytest.approx(direct)
    assert inside.lost_interval.low <= inside.lost <= inside.lost_interval.high
    again = leakage("bags", some["bags"], pool, seed=1, shadows=16, attacks={"lira": Lira(shadows=16)})
    assert again.tpr != inside.leak.tpr
    assert again.tpr < 0.1
    with pytest.raises(InputError, match="1,000 are needed"):
        leakage("few", forest, pool, seed=0, shadows=4)
    with pytest.raises(InputError, match="accuracy_loss is -1"):
        explore(forest, pool, {}, accuracy_loss=-1, seed=0)


def test_at_an_operating_point_the_front_counts_recall_at_each_models_own_threshold():
    pool, point = noisy(300, 4), OperatingPoint(false_positive_rate=0.1)
    recipe = of(LogisticRegression())
    found = leakage("plain", recipe, pool, seed=3, shadows=8, point=point)
    shadows = train_shadows(recipe, pool, 8, 3)
    recalls = []
    for answers, inside in zip(shadows.answers, shadows.members, strict=True):
        negatives = np.sort(answers[~inside & (pool.y == 0), 1])
        allowed = int(0.1 * len(negatives))
        recalls.append(answers[~inside & (pool.y == 1), 1] >= negatives[len(negatives) - allowed])
    assert found.accuracy == pytest.approx(np.concatenate(recalls).mean())
    assert found.accuracy != pytest.approx(leakage("plain", recipe, pool, seed=3, shadows=8).accuracy)


def test_so_many_models_that_the_rate_can_be_claimed():
    assert [least_shadows(n) for n in (10_000, 426, 126, 124, 20)] == [16, 16, 16, 18, 100]
    assert all(enough(least_shadows(n) * n // 2, 0.01) for n in range(4, 300))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8))
def test_undominated_by_brute_force(points):
    good, bad = zip(*points, strict=True)
    for i, kept in enumerate(undominated(good, bad)):
        better = [j for j in range(len(points)) if good[j] >= good[i] and bad[j] <= bad[i] and points[j] != points[i]]
        assert kept == (not better)


def test_candidates_are_every_defence_at_every_strength():
    start = case(Remembers(gain=1.0), n=120)
    found = candidates(replace(start, recipe=of(RandomForestClassifier(n_estimators=3))))
    assert {name.rpartition(" ")[0] for name in found} == {"coarse_answers", "leaf_size", "regularisation", "self_distillation", "subsampling"}
    assert len(found) == sum((3, 4, 3, 2, 10))
