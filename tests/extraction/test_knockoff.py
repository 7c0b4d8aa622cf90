"""The thief against victims whose copies are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import RandomForestClassifier

from carbide.data import builtin
from carbide.extraction.audit.knockoff import Knockoff, certainty, natural_queries
from carbide.extraction.oracle import Answers, Oracle
from carbide.extraction.surrogates import LEARNERS, _boundary, copy_of
from carbide.models.estimators import EstimatorRecipe
from carbide.types import InputError, Kind, Queries, Space, decide, rng_for
from tests.extraction.worlds import rows, softmax


def agreement(thief, victim, x):
    return float((decide(thief.predict(x), thief.threshold) == decide(victim.predict(x), victim.threshold)).mean())


@pytest.mark.parametrize(("d", "k"), [(5, 2), (8, 2), (4, 5)])
def test_a_linear_victim_is_recovered_exactly_from_one_answer_more_than_features(d, k):
    """d + 1 rows of log-odds determine the d + 1 coefficients of each: a linear system, solved independently."""
    victim, n = softmax(d, k, seed=d), d + 1
    threat = Queries(n=n, answers="logits")
    oracle, pool = Oracle(model=victim, threat=threat), rows(victim, 50, 1)
    thief = Knockoff(learners=("linear",))(oracle, pool, threat, rng_for(0))
    assert oracle.asked == n
    x = rows(victim, 300, 2).x
    np.testing.assert_allclose(thief.predict(x), victim.predict(x), atol=1e-7)
    asked = natural_queries(pool.x, pool.space, n, rng_for(0))
    odds = np.log(victim.predict(asked))
    solved = np.linalg.solve(np.column_stack([asked, np.ones(n)]), odds[:, 1:] - odds[:, :1])
    np.testing.assert_allclose(solved[:-1], victim.w[:, 1:] - victim.w[:, :1], atol=1e-6)


def test_one_answer_fewer_does_not_recover_it():
    victim, x = softmax(8, 2), rows(softmax(8, 2), 300, 2).x
    threat = Queries(n=6, answers="logits")
    thief = Knockoff(learners=("linear",))(Oracle(model=victim, threat=threat), rows(victim, 50, 1), threat, rng_for(0))
    assert np.abs(thief.predict(x) - victim.predict(x)).max() > 0.05


@pytest.mark.parametrize("n", [1, 3, 7, 20, 59, 60, 61, 200])
@pytest.mark.parametrize("answers", ["probabilities", "labels"])
def test_the_budget_is_used_and_never_exceeded(n, answers):
    victim, threat = softmax(), Queries(n=n, answers=answers)
    oracle = Oracle(model=victim, threat=threat)
    thief = Knockoff(learners=("linear",))(oracle, rows(victim, 40, 1), threat, rng_for(0))
    assert oracle.asked == n
    assert thief.predict(rows(victim, 5, 2).x).shape == (5, 2)


def test_labels_are_never_worth_more_than_scores_on_average():
    gains = []
    for seed in range(6):
        victim = softmax(6, 3, seed=seed)
        pool, x = rows(victim, 150, 1), rows(victim, 1000, 2).x
        by = {}
        for answers in ("logits", "labels"):
            threat = Queries(n=50, answers=answers)
            by[answers] = agreement(Knockoff()(Oracle(model=victim, threat=threat), pool, threat, rng_for(seed)), victim, x)
        gains.append(by["logits"] - by["labels"])
    assert np.mean(gains) > 0.03


def test_more_queries_are_worth_more():
    victim = softmax(10, 2, seed=3)
    pool, x = rows(victim, 600, 1), rows(victim, 2000, 2).x
    found = []
    for n in (20, 100, 500):
        threat = Queries(n=n, answers="labels")
        thieves = [Knockoff()(Oracle(model=victim, threat=threat), pool, threat, rng_for(seed)) for seed in range(3)]
        found.append(np.mean([agreement(t, victim, x) for t in thieves]))
    assert found[0] + 0.05 < found[1] < found[2]
    assert found[2] > 0.95


def test_a_forest_is_copied_better_than_by_a_rival_who_never_asks():
    data = builtin("patients")
    victim = EstimatorRecipe(estimator=RandomForestClassifier(60, random_state=0)).fit(data.train, rng_for(0))
    threat, pool = Queries(n=1000), data.validation
    thieves = [Knockoff()(Oracle(model=victim, threat=threat), pool, threat, rng_for(seed)) for seed in range(3)]
    rivals = [copy_of(pool.x, Answers(labels=pool.y), pool.space, 2, rng_for(seed)) for seed in range(3)]
    stolen, own = (np.mean([agreement(c, victim, data.test.x) for c in copies]) for copies in (thieves, rivals))
    assert stolen > own + 0.01


def test_the_same_rng_gives_the_same_copy():
    victim, threat = softmax(), Queries(n=80)
    x = rows(victim, 100, 2).x
    one, two, other = (Knockoff()(Oracle(model=victim, threat=threat), rows(victim, 60, 1), threat, rng_for(s)).predict(x) for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_victim_that_always_says_one_thing_is_copied():
    victim = softmax().at(1.5)
    for answers in ("labels", "probabilities"):
        threat = Queries(n=30, answers=answers)
        thief = Knockoff()(Oracle(model=victim, threat=threat), rows(victim, 60, 1), threat, rng_for(0))
        assert agreement(thief, victim, rows(victim, 200, 2).x) == 1.0


@pytest.mark.parametrize("threshold", [0.02, 0.5, 0.97])
def test_the_victims_threshold_is_found_between_its_answers(threshold):
    victim = softmax(6, 2, seed=1).at(threshold)
    x = rows(victim, 2000, 1).x
    answers = Oracle(model=victim, threat=Queries(n=2000)).ask(x)
    p = victim.predict(x)[:, 1]
    cut = _boundary(answers)
    assert p[p < threshold].max() <= cut <= p[p >= threshold].min()
    thief = copy_of(x[:200], answers.take(np.arange(200)), victim.space, 2, rng_for(0))
    assert agreement(thief, victim, rows(victim, 1000, 2).x) > 0.985


def test_gaps_in_rows_are_no_obstacle():
    victim = EstimatorRecipe(estimator=RandomForestClassifier(20, random_state=0))
    data = builtin("patients")
    holes = np.where(np.random.default_rng(0).uniform(size=data.train.x.shape) < 0.1, np.nan, data.train.x)
    model = victim.fit(data.train.with_(x=holes), rng_for(0))
    pool = data.validation.with_(x=np.where(np.random.default_rng(1).uniform(size=data.validation.x.shape) < 0.1, np.nan, data.validation.x))
    threat = Queries(n=100)
    thief = Knockoff()(Oracle(model=model, threat=threat), pool, threat, rng_for(0))
    assert agreement(thief, model, data.test.x) > 0.85


@pytest.mark.parametrize("learner", [name for name in LEARNERS if name != "cnn"])
@pytest.mark.parametrize("answers", ["probabilities", "labels"])
@pytest.mark.parametrize("k", [2, 4])
def test_every_learner_learns(learner, answers, k):
    victim, threat = softmax(4, k), Queries(n=300, answers=answers)
    thief = Knockoff(learners=learner)(Oracle(model=victim, threat=threat), rows(victim, 300, 1), threat, rng_for(0))
    shares = thief.predict(rows(victim, 50, 2).x)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares >= 0).all()
    assert agreement(thief, victim, rows(victim, 1000, 2).x) > 0.8


def test_the_cnn_copies_a_net_of_images():
    pytest.importorskip("torch")
    from carbide.models.torch_net import TorchRecipe

    data = builtin("images")
    recipe = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": [1, 8, 8], "classes": 10, "width": 8}, epochs=6)
    victim, threat = recipe.fit(data.train, rng_for(0)), Queries(n=250)
    thief = Knockoff(learners=("cnn",))(Oracle(model=victim, threat=threat), data.validation, threat, rng_for(0))
    assert agreement(thief, victim, data.test.x) > 0.9


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), pool=st.integers(1, 30), seed=st.integers(0, 99))
def test_queries_are_pool_rows_first_and_then_possible_mixtures(n, pool, seed):
    rng = np.random.default_rng(seed)
    space = Space.table(list("abcde"), kind=np.array([Kind.INTEGER, Kind.ONE_HOT, Kind.ONE_HOT, Kind.ONE_HOT, Kind.REAL]), groups=((1, 2, 3),))
    x = np.column_stack([rng.integers(0, 9, pool), np.eye(3)[rng.integers(3, size=pool)], rng.normal(size=pool)])
    asked = natural_queries(x, space, n, rng_for(seed))
    assert len(asked) == n
    natural = {row.tobytes() for row in x}
    assert all(row.tobytes() in natural for row in asked[: min(n, pool)])
    assert len({row.tobytes() for row in asked[: min(n, pool)]}) == len({r.tobytes() for r in asked[: min(n, pool)]} & natural)
    assert (asked[:, 1:4].sum(1) == 1).all()
    for j in (0, 4):
        assert set(asked[:, j]) <= set(x[:, j])


def test_images_are_averaged_within_their_range():
    x = np.random.default_rng(0).uniform(size=(5, 1, 3, 3)).astype(np.float32)
    asked = natural_queries(x, Space.image((1, 3, 3)), 40, rng_for(0))
    assert asked.shape == (40, 1, 3, 3)
    assert asked.dtype == np.float32
    assert x.min() - 1e-6 <= asked.min()
    assert asked.max() <= x.max() + 1e-6


def test_the_second_round_asks_near_the_boundary():
    victim, threat = softmax(5, 2, seed=4), Queries(n=200)
    seen = []

    class Watched(Oracle):
        def ask(self, x):
            seen.append(x)
            return super().ask(x)

    Knockoff()(Watched(model=victim, threat=threat), rows(victim, 1500, 1), threat, rng_for(0))
    first, second = (certainty(victim, x) for x in seen)
    assert [len(x) for x in seen] == [100, 100]
    assert np.median(second) < np.median(first) / 2


@pytest.mark.parametrize(
    ("options", "match"), [({"learners": ("magic",)}, "'magic'"), ({"adaptive": 1.0}, "adaptive is 1.0"), ({"points": 0}, "points is 0")]
)
def test_wrong_options_are_named(options, match):
    with pytest.raises(InputError, match=match):
        Knockoff(**options)


def test_an_empty_pool_is_refused():
    victim = softmax()
    pool = rows(victim, 10, 1)
    with pytest.raises(InputError, match="pool has no rows"):
        Knockoff()(Oracle(model=victim, threat=Queries(n=5)), replace(pool.take(np.arange(0))), Queries(n=5), rng_for(0))
