"""Confident learning against planted flips and the paper's own definitions."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import make_blobs

from carbide.poisoning import judge
from carbide.poisoning.audit.label_flips import LabelFlips
from carbide.poisoning.confident import confident_joint, confident_labels, noise_joint, suspects, thresholds
from carbide.poisoning.harden.label_check import LabelCheck, fold_of
from carbide.types import Flips, InputError, rng_for
from tests.poisoning.worlds import cancer, case, cut, dataset, digits, logistic, nearest

FLIPS = Flips(fraction=0.1)


def planted(train, fraction, seed=0):
    """Random flips and which rows they are."""
    return LabelFlips(choice="random")(train, Flips(fraction=fraction), rng_for(seed, "flips"))


def hits(found, truth):
    return (found & truth).sum() / max(1, found.sum()), (found & truth).sum() / truth.sum()


@pytest.mark.parametrize(
    ("data", "fraction", "precision", "recall"), [("cancer", 0.05, 0.75, 0.8), ("cancer", 0.1, 0.75, 0.8), ("digits", 0.1, 0.9, 0.7)]
)
def test_planted_flips_are_found(data, fraction, precision, recall):
    train = {"cancer": cancer, "digits": digits}[data]().train
    poison = planted(train, fraction)
    recipe = LabelCheck()(logistic(), FLIPS)
    found = recipe.check(poison.dataset, rng_for(1, "check"))
    p, r = hits(found.rows, poison.rows)
    assert p >= precision, (p, r)
    assert r >= recall, (p, r)
    caught = found.rows & poison.rows
    assert (found.labels[caught] == train.y[caught]).mean() >= 0.95


@pytest.mark.parametrize("checker", ["forest", "recipe"])
def test_clean_data_are_left_nearly_untouched(checker):
    for data in (cancer(), digits()):
        found = LabelCheck(checker=checker)(logistic(), FLIPS).check(data.train, rng_for(1, "check"))
        assert found.rows.mean() <= 0.02


def test_ideal_probabilities_give_back_the_true_joint_and_every_wrong_label():
    """Theorem 1 of the paper: a model that knows only how labels go wrong class by class finds every wrong one."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=3000)
    noise = np.array([[0.7, 0.3, 0.0], [0.0, 0.9, 0.1], [0.2, 0.0, 0.8]])  # P(given | true)
    given_ = np.array([rng.choice(3, p=noise[t]) for t in truth])
    ideal = noise[truth]
    joint = np.array([[((given_ == i) & (truth == j)).mean() for j in range(3)] for i in range(3)])
    np.testing.assert_allclose(noise_joint(given_, ideal), joint, atol=1e-12)
    found = suspects(given_, ideal)
    np.testing.assert_array_equal(found.rows, given_ != truth)
    np.testing.assert_array_equal(found.labels, truth)


def test_one_sided_flips_of_blobs_are_found_and_nothing_else():
    x, y = make_blobs(1200, centers=[[0, 0], [6, 0], [0, 6]], cluster_std=0.8, random_state=0)
    rng = np.random.default_rng(0)
    flipped = (y == 0) & (rng.random(1200) < 0.3)  # class 0 is often labelled 1
    noisy = np.where(flipped, 1, y)
    found = LabelCheck(checker="recipe")(logistic(), FLIPS).check(dataset(x, noisy), rng)
    precision, recall = hits(found.rows, flipped)
    assert precision == 1.0
    assert recall >= 0.5


@st.composite
def opinions(draw):
    k, n = draw(st.integers(2, 4)), draw(st.integers(5, 40))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    y = np.concatenate([np.arange(k), rng.integers(k, size=n)])
    p = rng.dirichlet(np.full(k, 0.5), size=len(y))
    return y, p


@given(opinions())
def test_definitions_of_the_paper(opinion):
    y, p = opinion
    n, k = p.shape
    t = [p[y == j, j].mean() for j in range(k)]
    np.testing.assert_allclose(thresholds(y, p), t)
    counts = np.zeros((k, k))
    for i in range(n):  # the paper's equation, row by row
        reached = [j for j in range(k) if p[i, j] >= t[j] - 1e-12]
        if reached:
            counts[y[i], max(reached, key=lambda j: p[i, j])] += 1
    np.testing.assert_array_equal(confident_joint(y, p), counts)
    joint = noise_joint(y, p)
    np.testing.assert_allclose(joint.sum(), 1)
    np.testing.assert_allclose(joint.sum(1), np.bincount(y, minlength=k) / n)


@given(opinions(), st.integers(1, 10), st.floats(0, 0.9))
def test_never_more_than_estimated_nor_below_what_a_class_keeps(opinion, least, most):
    y, p = opinion
    found = suspects(y, p, least=least, most=most)
    joint = noise_joint(y, p)
    for c in range(p.shape[1]):
        gone, count = int((found.rows & (y == c)).sum()), int((y == c).sum())
        assert gone <= len(y) * (joint[c].sum() - joint[c, c]) + 1e-6
        assert gone <= most * count
        assert count - gone >= min(count, least)
    np.testing.assert_array_equal(found.labels != y, found.rows)
    assert (p[found.rows, found.labels[found.rows]] > p[found.rows, y[found.rows]]).all()


def test_rare_class_is_kept():
    rng = np.random.default_rng(0)
    y = np.array([1] * 15 + [0] * 500)
    p = np.column_stack([rng.uniform(0.6, 1, 515), np.zeros(515)])  # a model that never sees class 1
    p[:, 1] = 1 - p[:, 0]
    assert not suspects(y, p, least=20).rows[:15].any()


def test_confident_labels_may_be_nobody():
    y = np.array([0, 0, 1, 1])
    p = np.array([[0.9, 0.1], [0.5, 0.5], [0.4, 0.6], [0.1, 0.9]])
    assert confident_labels(y, p).tolist() == [0, -1, -1, 1]


def test_folds_are_even_in_every_class_and_nobody_judges_its_own_row():
    y = np.repeat([0, 1, 2], [50, 20, 7])
    fold = fold_of(y, 5, np.random.default_rng(0))
    for c in range(3):
        counts = np.bincount(fold[y == c], minlength=5)
        assert counts.max() - counts.min() <= 1
    x = np.arange(77.0)[:, None] * 1000
    own = LabelCheck(checker="recipe")(nearest(), FLIPS).probabilities(dataset(x, y), np.random.default_rng(1))
    alone = np.random.default_rng(2).integers(3, size=77)  # random labels: a row that votes for itself would always be right
    blind = LabelCheck(checker="recipe")(nearest(), FLIPS).probabilities(dataset(x, alone), np.random.default_rng(1))
    assert own.shape == (77, 3)
    assert (blind.argmax(1) == alone).mean() < 0.7


def test_the_checked_recipe_withstands_random_flips_that_break_the_plain_one():
    data, threat = cancer(), Flips(fraction=0.2)
    attack = {"random": LabelFlips(choice="random")}
    plain, checked, relabelled = (
        judge.audit(case(data, r), threat, attack).headline().value
        for r in (nearest(), LabelCheck()(nearest(), threat), LabelCheck(action="relabel")(nearest(), threat))
    )
    assert plain <= 0.86
    assert checked >= plain + 0.05
    assert relabelled >= plain + 0.05


def test_same_rng_same_model_and_relabel_keeps_every_row():
    train = planted(cancer().train, 0.1).dataset
    recipe = LabelCheck(action="relabel")(logistic(), FLIPS)
    first, second = (recipe.fit(train, np.random.default_rng(4)).digest() for _ in range(2))
    assert first == second
    assert len(recipe.cleaned(train, np.random.default_rng(0))) == len(train)
    removed = LabelCheck()(logistic(), FLIPS).cleaned(train, np.random.default_rng(0))
    assert 0.85 * len(train) < len(removed) < len(train)


def test_strengths_and_description():
    recipes = [s(logistic(), FLIPS) for s in LabelCheck().strengths()]
    assert len({str(r.describe()) for r in recipes}) == len(recipes) == 3
    assert pickle.loads(pickle.dumps(recipes[0])).describe() == recipes[0].describe()


@pytest.mark.parametrize("bad", [{"action": "burn"}, {"checker": "oracle"}, {"folds": 1}, {"least": 0}, {"most": 1.0}])
def test_bad_options_are_named(bad):
    with pytest.raises(InputError, match=str(next(iter(bad)))):
        LabelCheck(**bad)


def test_fewer_rows_than_folds_are_refused():
    data = cut(dataset(np.arange(15.0)[:, None], np.arange(15) % 2)).train
    with pytest.raises(InputError, match="folds is 5"):
        LabelCheck()(logistic(), FLIPS).fit(data, np.random.default_rng(0))
