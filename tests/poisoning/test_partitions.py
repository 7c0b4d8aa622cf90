"""Partitions, their vote and the certificate, against retraining on every poisoned set."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.tree import DecisionTreeClassifier

from carbide.models.estimators import EstimatorRecipe
from carbide.models.packing import pack, unpack
from carbide.poisoning import judge
from carbide.poisoning.audit.label_flips import LabelFlips
from carbide.poisoning.harden.partition_vote import PartitionVote
from carbide.poisoning.partitions import OneClass, PartitionVoteRecipe, content_keys, partition_of
from carbide.poisoning.prove.partition_ensemble import PartitionEnsemble
from carbide.poisoning.ridge import RidgeRecipe, gradient_histograms
from carbide.poisoning.votes import certified_changes, winners
from carbide.registry import refusal
from carbide.run.store import decode, encode
from carbide.types import Backdoor, Dataset, Flips, InputError, Section, Space, rng_for
from tests.poisoning.worlds import cancer, case, cut, dataset, digits, forest, logistic, nearest, stump

RNG = np.random.default_rng(0)


def tiny(n: int = 12, classes: int = 2) -> Dataset:
    """A few rows on a line with a noisy order."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n, 2))
    return dataset(x, (np.digitize(x[:, 0], np.quantile(x[:, 0], np.linspace(0, 1, classes + 1)[1:-1]))), classes=classes, suppliers=6)


# The hash -----------------------------------------------------------------------------------------------------------


@given(st.permutations(range(12)), st.integers(1, 7))
def test_partition_depends_on_the_row_alone(order, k):
    data = tiny()
    for by, key in (("row", "content"), ("row", "id"), ("source", "content")):
        recipe = PartitionVoteRecipe(inner=stump(), partitions=k, by=by, key=key)
        np.testing.assert_array_equal(recipe.homes(data)[list(order)], recipe.homes(data.take(np.array(order))))
        np.testing.assert_array_equal(recipe.homes(data)[:5], recipe.homes(data.take(np.arange(5))))


def test_partitions_are_about_evenly_filled():
    counts = np.bincount(partition_of(np.arange(20_000), 20), minlength=20)
    statistic = ((counts - 1000) ** 2 / 1000).sum()
    assert statistic < 43.8  # chi-square with 19 degrees of freedom, 0.1%


def test_content_key_sees_inputs_only():
    data = tiny()
    np.testing.assert_array_equal(content_keys(data.x), content_keys(data.with_(y=1 - data.y).x))
    assert len(set(content_keys(data.x))) == 12
    assert content_keys(np.array([[0.0]]))[0] == content_keys(np.array([[-0.0]], np.float32))[0]


@pytest.mark.parametrize("inner", [forest(5), stump(), RidgeRecipe(features="raw")])
def test_the_order_and_the_names_of_rows_never_matter(inner):
    data = cancer().train
    shuffled = data.take(np.random.default_rng(3).permutation(len(data)))
    shuffled = replace(shuffled, ids=np.arange(len(data)).astype(str))
    models = [PartitionVoteRecipe(inner=inner, partitions=7).fit(d, rng_for(i, "other")) for i, d in enumerate((data, shuffled))]
    x = cancer().test.x
    np.testing.assert_array_equal(models[0].votes(x), models[1].votes(x))


# The certificate against brute force ----------------------------------------------------------------------------------


def answers(recipe: PartitionVoteRecipe, data: Dataset, x: np.ndarray) -> np.ndarray:
    return winners(recipe.fit(data, RNG).votes(x))


@pytest.mark.parametrize(("classes", "key"), [(2, "content"), (3, "content"), (2, "id")])
def test_no_flip_of_the_certified_number_of_labels_changes_an_answer(classes, key):
    n = 10 + 2 * classes
    data = tiny(n, classes)
    x = np.random.default_rng(8).normal(size=(40, 2)) * 2
    recipe = PartitionVoteRecipe(inner=nearest(), partitions=5, key=key)
    before = answers(recipe, data, x)
    bound = certified_changes(recipe.fit(data, RNG).votes(x)) // recipe.reach(Flips(fraction=0.1))
    assert {0, 1} <= set(bound.tolist())
    changed = np.zeros(40, bool)
    for r in (1, 2):
        for rows in itertools.combinations(range(n), r):
            for labels in itertools.product(range(1, classes), repeat=r):
                y = data.y.copy()
                y[list(rows)] = (y[list(rows)] + labels) % classes
                differs = answers(recipe, data.with_(y=y), x) != before
                assert not (differs & (bound >= r)).any(), (rows, labels)
                changed |= differs
    assert changed.any(), "no flip changed anything, so the test shows nothing"


def test_no_changed_added_or_removed_row_changes_a_certified_answer():
    data = tiny(14)
    rng = np.random.default_rng(9)
    x = rng.normal(size=(60, 2))
    recipe = PartitionVoteRecipe(inner=nearest(), partitions=5)
    before = answers(recipe, data, x)
    partitions = certified_changes(recipe.fit(data, RNG).votes(x))
    rows = partitions // recipe.reach(Backdoor(fraction=0.1))
    assert recipe.reach(Backdoor(fraction=0.1)) == 2
    changed = np.zeros(60, bool)
    for i in range(14):
        for _ in range(12):
            new = data.x.copy()
            new[i] = rng.normal(size=2) * 2
            poisoned = data.with_(x=new, y=np.where(np.arange(14) == i, rng.integers(2), data.y))
            differs = answers(recipe, poisoned, x) != before
            assert not (differs & (rows >= 1)).any()
            changed |= differs
        removed = data.take(np.arange(14) != i)
        assert not ((answers(recipe, removed, x) != before) & (partitions >= 1)).any()
        added = data.take(np.append(np.arange(14), i))
        added = added.with_(x=np.concatenate([data.x, rng.normal(size=(1, 2))]))
        assert not ((answers(recipe, added, x) != before) & (partitions >= 1)).any()
    assert changed.any()


def test_repeated_rows_move_together_when_one_of_them_changes():
    data = tiny(12)
    x = data.x.copy()
    x[:4] = x[0]
    data = data.with_(x=x)
    recipe = PartitionVoteRecipe(inner=nearest(), partitions=5)
    homes = recipe.homes(data)
    assert len(set(homes[:4])) == 1
    x[0] += 1
    moved = recipe.homes(data.with_(x=x)) != homes
    assert not moved[1:].any()


def test_no_supplier_changes_an_answer_that_is_certified_against_suppliers():
    data = tiny(24)
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 2))
    certificate = PartitionEnsemble(partitions=6, by="source")(nearest(), data, x, np.zeros(60, int), Flips(fraction=0.1), RNG)
    recipe = PartitionVoteRecipe(inner=nearest(), partitions=6, by="source")
    before = answers(recipe, data, x)
    np.testing.assert_array_equal(certificate.holds, (before == 0) & (certificate.bound >= 1))
    assert certificate.unit == "suppliers"
    assert certificate.holds.any()
    changed = np.zeros(60, bool)
    for supplier in np.unique(data.source):
        own = data.source == supplier
        for _ in range(10):
            new = np.where(own[:, None], rng.normal(size=data.x.shape), data.x)
            differs = answers(recipe, data.with_(x=new, y=np.where(own, rng.integers(2, size=24), data.y)), x) != before
            assert not (differs & certificate.holds).any()
            changed |= differs
    assert changed.any()


# The certificate as a result -----------------------------------------------------------------------------------------


def test_certificate_counts_right_rows_that_stand_against_the_whole_threat():
    data = cancer()
    threat = Flips(fraction=0.02)  # 6 of 341 rows
    certificate = PartitionEnsemble(partitions=31)(logistic(), data.train, data.test.x, data.test.y, threat, RNG)
    votes = PartitionVoteRecipe(inner=logistic(), partitions=31).fit(data.train, RNG).votes(data.test.x)
    right = winners(votes) == data.test.y
    np.testing.assert_array_equal(certificate.bound, np.where(right, certified_changes(votes), -1))
    np.testing.assert_array_equal(certificate.holds, right & (certificate.bound >= 6))
    assert certificate.value > 0.6
    assert certificate.metric == ""  # it is about another model than the one under test
    assert certificate.failure_probability == 0
    assert any("not about the model under test" in a for a in certificate.assumptions)


def test_a_change_of_inputs_counts_twice_unless_ids_are_trusted():
    data = cancer()
    args = (logistic(), data.train, data.test.x, data.test.y)
    flips, doors = Flips(fraction=0.01), Backdoor(fraction=0.01)
    by_flip, by_door = (PartitionEnsemble(partitions=15)(*args, threat, RNG).bound for threat in (flips, doors))
    np.testing.assert_array_equal(by_door, np.where(by_flip < 0, -1, by_flip // 2))
    by_id = [PartitionEnsemble(partitions=15, key="id")(*args, threat, RNG).bound for threat in (flips, doors)]
    np.testing.assert_array_equal(*by_id)


def test_a_threat_beyond_every_certificate_is_said_so():
    data = cancer()
    certificate = PartitionEnsemble(partitions=11)(logistic(), data.train, data.test.x, data.test.y, Flips(fraction=0.2), RNG)
    assert not certificate.holds.any()
    assert certificate.bound.max() == 5
    assert "more than 11 partitions can ever certify (5)" in certificate.claim


def test_partitions_follow_the_threat_unless_given():
    data = cancer()
    args = (stump(), data.train, data.test.x, data.test.y)
    few, many = (PartitionEnsemble()(*args, Flips(fraction=f), RNG) for f in (0.006, 0.1))
    assert "of 9 partitions" in few.claim  # 2 rows
    assert "of 17 partitions" in many.claim  # 34 rows, but each partition keeps about 20


def test_images_are_certified_with_fixed_features_and_say_so():
    data = digits()
    certificate = PartitionEnsemble(partitions=21)(forest(), data.train, data.test.x, data.test.y, Flips(fraction=0.004), RNG)
    assert "fixed features" in certificate.assumptions[0]
    assert certificate.value > 0.75
    assert (certificate.bound >= 0).mean() > 0.9


def test_a_partition_vote_is_certified_as_it_is_and_its_attack_stays_outside():
    data = cancer()
    threat = Flips(fraction=0.02)
    recipe = PartitionVote(partitions=31)(logistic(), threat)
    certificate = PartitionEnsemble()(recipe, data.train, data.test.x, data.test.y, threat, rng_for(5, "any"))
    section = judge.audit(case(data, recipe, seed=3), threat, {"best": LabelFlips(), "near": LabelFlips(choice="near")})
    assert certificate.metric == section.headline().metric == "accuracy after poisoning"
    assert section.evidence["broken"].any()
    assert not (section.evidence["broken"] & certificate.holds).any()
    assert certificate.value <= section.headline().value


def test_one_source_is_refused_in_words():
    data = cancer()
    lone = replace(data, train=replace(data.train, source=np.full(len(data.train), "one")))
    assert "1 supplier" in refusal(PartitionEnsemble(by="source"), case(lone, stump()), Flips(fraction=0.1))
    assert refusal(PartitionEnsemble(by="source"), case(data, stump()), Flips(fraction=0.1)) is None


# The model -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inner", [logistic(), RidgeRecipe(features="raw")])
def test_the_voting_model_is_stored_without_pickle_and_comes_back(inner):
    data = cancer()
    model = PartitionVoteRecipe(inner=inner, partitions=9).fit(data.train, RNG).at(0.4)
    back = decode(encode(model, pack=pack), unpack=unpack)
    np.testing.assert_array_equal(back.predict(data.test.x), model.predict(data.test.x))
    assert back.threshold == 0.4
    assert back.digest() == model.digest()
    assert model.digest() != model.at(0.5).digest()


def test_empty_and_one_class_partitions_vote_for_nobody_and_for_their_class():
    x = np.arange(12.0)[:, None]
    data = dataset(x, np.repeat([2, 0], 6), classes=3)
    model = PartitionVoteRecipe(inner=nearest(), partitions=6, by="source").fit(data.take(np.arange(3)), RNG)
    assert all(isinstance(m, OneClass) for m in model.members)
    present = len(model.members)
    assert present < 6
    votes = model.votes(np.zeros((1, 1)))
    np.testing.assert_array_equal(votes, [[0, 0, present]])
    np.testing.assert_allclose(model.predict(np.zeros((1, 1))), [[(6 - present) / 18, (6 - present) / 18, (6 - present) / 18 + present / 6]])


def test_classes_that_a_partition_lacks_get_none_of_its_votes():
    data = digits()
    model = PartitionVoteRecipe(inner=EstimatorRecipe(estimator=DecisionTreeClassifier()), partitions=60).fit(data.train, RNG)
    assert any(len(seen) < 10 for seen in model.seen)
    assert (model.votes(data.test.x).sum(1) == 60).all()
    alone = model.members[0].predict(data.test.x)[:, : len(model.seen[0])].argmax(1)
    assert set(model.seen[0][alone]) <= set(model.seen[0])
    np.testing.assert_allclose(model.predict(data.test.x).sum(1), 1)


def test_the_vote_is_nearly_as_good_as_the_model_and_harder_to_backdoor():
    data = cancer()
    plain = logistic().fit(data.train, RNG)
    vote = PartitionVote(partitions=9)(logistic(), Flips(fraction=0.1)).fit(data.train, RNG)
    scores = [(m.predict(data.test.x).argmax(1) == data.test.y).mean() for m in (plain, vote)]
    assert scores[1] >= scores[0] - 0.03


def test_recipes_are_picklable_and_described():
    recipe = PartitionVote(partitions=4)(RidgeRecipe(features="raw"), Flips(fraction=0.1))
    assert pickle.loads(pickle.dumps(recipe)).describe() == recipe.describe()
    assert recipe.describe() != PartitionVote(partitions=5)(RidgeRecipe(features="raw"), Flips(fraction=0.1)).describe()


@pytest.mark.parametrize("bad", [{"partitions": 1}, {"by": "colour"}, {"key": "luck"}])
def test_bad_options_are_named(bad):
    for method in (PartitionVote, PartitionEnsemble):
        with pytest.raises(InputError, match=str(next(iter(bad)))):
            method(**bad)


def test_too_many_partitions_are_refused():
    with pytest.raises(InputError, match="at most 6"):
        PartitionVoteRecipe(inner=stump(), partitions=7).fit(tiny(12), RNG)


# The ridge -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [10, 200])
def test_ridge_is_sklearns(rows):
    from sklearn.linear_model import Ridge

    data = cancer().train.take(np.arange(rows))
    model = RidgeRecipe(features="raw", penalty=0.3).fit(data, RNG)
    z = (data.x - data.x.mean(0)) / data.x.std(0)
    oracle = Ridge(alpha=0.3 * (z**2).sum(1).mean()).fit(z, np.eye(2)[data.y])
    np.testing.assert_allclose(model.weights.T, oracle.coef_, atol=1e-9)
    np.testing.assert_allclose(model.bias, oracle.intercept_, atol=1e-9)


def test_gradient_histograms_see_one_image_at_a_time_and_ignore_brightness_in_blocks():
    x = digits().test.x[:20]
    z = gradient_histograms(x)
    np.testing.assert_allclose(gradient_histograms(x[5:6])[0], z[5])
    np.testing.assert_allclose(gradient_histograms(0.5 * x + 0.2)[:, :288], z[:, :288], atol=0.25)
    flat = gradient_histograms(np.full((1, 3, 28, 28), 0.7))
    np.testing.assert_allclose(flat[:, : -7 * 7], 0)
    np.testing.assert_allclose(flat[:, -7 * 7 :], 0.7)


def test_gradients_of_a_table_are_refused():
    with pytest.raises(InputError, match="not images"):
        RidgeRecipe().fit(cancer().train, RNG)
    with pytest.raises(InputError, match="fitted on the training pool"):
        RidgeRecipe(features="pca")


def test_section_and_space_are_nouns_of_the_store():
    assert isinstance(decode(encode(Section(threat="t", room="poisoning"))), Section)
    assert decode(encode(Space.table(["a"]))).names == ("a",)
    assert len(cut(tiny(20)).train) == 12
