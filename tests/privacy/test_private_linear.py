"""Private linear models: the account for every size of table, the sensitivities of what is released, settings that look at no row."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.data import builtin
from carbide.models import load_saved, pack, save_model, unpack
from carbide.privacy import linear
from carbide.privacy.harden.private_linear import PrivateLinearModel
from carbide.privacy.linear import PrivateLinearRecipe, Settings, _rows, cut, unit
from carbide.privacy.logistic import gradient_sum
from carbide.run.store import decode, encode
from carbide.stats.accounting import gdp_tpr
from carbide.stats.intervals import clopper_pearson
from carbide.types import Dataset, InputError, Membership, Model, Recipe, Space, decide, rng_for
from tests.privacy.worlds import Remembers, case, table


@given(st.floats(0.1, 8), st.integers(2, 10**6), st.integers(1, 200), st.floats(0.01, 2), st.integers(2, 10))
def test_the_account_is_exact(epsilon, n, d, clip, classes):
    recipe, reach = PrivateLinearRecipe(epsilon=epsilon, delta=1e-7, clip=clip), 1.0 if classes == 2 else linear.REACH
    chosen = recipe.settings(n, d, classes)
    noise = recipe.noise(chosen)
    spent = (2 * reach / noise.mean) ** 2 + 2 / noise.moments**2 + chosen.steps * (2 * clip / noise.gradient) ** 2
    assert math.sqrt(spent) == pytest.approx(recipe.privacy.mu, rel=2e-5)
    assert math.sqrt(spent) < recipe.privacy.mu
    weaker = replace(recipe, neighbours="remove")
    chosen = weaker.settings(n, d, classes)
    noise = weaker.noise(chosen)
    spent = (reach / noise.mean) ** 2 + 1 / noise.moments**2 + chosen.steps * (clip / noise.gradient) ** 2
    assert math.sqrt(spent) == pytest.approx(recipe.privacy.mu, rel=2e-5)
    assert "leaving out" in weaker.privacy.adjacency != recipe.privacy.adjacency


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_replacing_a_row_moves_no_sum_by_more_than_is_accounted(seed, classes):
    rng, recipe = np.random.default_rng(seed), PrivateLinearRecipe()
    space = Space.table(list("abcd"), lower=np.zeros(4), upper=np.array([1, 2, 3, 4.0]))
    x, y = rng.normal(0.5, 1, (8, 4)), rng.integers(0, classes, 8)
    other, labels = x.copy(), y.copy()
    other[3], labels[3] = 50 * rng.normal(size=4), rng.integers(classes)
    centre, directions, gains = 0.3 * rng.normal(size=4), np.eye(4)[:2], np.array([0.1, 0.4])
    weights = 4 * rng.normal(size=(1 if classes == 2 else classes, 5))
    sums = []
    for rows, targets in ((x, y), (other, labels)):
        ball = recipe.scaling.ball(rows, space)
        away, whole = unit(ball - centre), _rows(ball, centre, directions, gains, recipe.scaling)
        assert (np.linalg.norm(whole, axis=1) <= 1 + 1e-12).all()
        sums.append((ball.sum(0), cut(ball, 0.7).sum(0), away.T @ away, gradient_sum(whole, targets, weights, recipe.clip)))
    moved = [np.linalg.norm(a - b) for a, b in zip(*sums, strict=True)]
    assert np.linalg.norm(ball[0]) <= 1 + 1e-12
    assert (np.array(moved) <= np.array([2, 1.4, math.sqrt(2), 2 * recipe.clip]) * (1 + 1e-9)).all()


def test_settings_follow_from_the_size_alone():
    recipe = PrivateLinearRecipe(epsilon=1.0, delta=1e-5)
    tiny, small, large = recipe.settings(100, 13), recipe.settings(400, 30), recipe.settings(50_000, 46)
    assert (tiny.steps, small.steps, large.steps) == (5, 16, 100)
    assert (tiny.centring, small.centring, large.centring) == (0.0, 0.15, 0.15)
    assert (tiny.damping, small.damping, large.damping) == (0.0, 0.15, 0.15)
    assert [recipe.settings(400, d).damping for d in (10, 19, 20)] == [0.0, 0.0, 0.15]  # few features have no directions to spare
    assert [recipe.settings(n, 30, 3).damping for n in (400, 20_000, 200_000)] == [0.0, 0.15, 0.15]  # what varies most tells classes apart
    assert (tiny.reach, recipe.settings(100, 13, 3).reach) == (1.0, 0.7)
    assert [recipe.settings(n, 30, 3).centring for n in (100, 400, 50_000)] == [0.0, 0.1, 0.1]  # the mean of many classes costs less,
    assert [recipe.settings(240, 30, k).centring for k in (2, 3)] == [0.0, 0.1]  # and is clear of noise with fewer rows
    assert tiny.rate == small.rate < large.rate
    assert isinstance(large, Settings)


@pytest.mark.parametrize("damped", [False, True])
def test_no_distinguisher_beats_the_bound_and_a_broken_one_is_caught(damped, monkeypatch):
    import carbide.privacy.linear as module

    if damped:  # have mean and second moments asked for, however few rows there are
        monkeypatch.setattr(module, "BLURRED", math.inf)
        monkeypatch.setattr(module, "HIGH", math.inf)
    base = table(16, seed=5)
    first = base.with_(x=np.vstack([base.x[:-1], np.ones(3)]), y=np.append(base.y[:-1], 0))
    second = first.with_(y=np.append(base.y[:-1], 1))
    honest = PrivateLinearRecipe(epsilon=2.0, delta=1e-3)
    assert bool(honest.settings(16, 3).damping) == damped

    def holds(recipe, runs=400):
        scores = []
        for i, data in enumerate((first, second)):
            models = (recipe.fit(data, rng_for(i, run)) for run in range(runs))
            scores.append(np.array([m.predict(np.ones((1, 3)))[0, 1] for m in models]))
        outside, inside = scores
        cut = np.quantile(outside[: runs // 2], 0.9)
        alarms = clopper_pearson(int((outside[runs // 2 :] >= cut).sum()), runs // 2, 0.999)
        hits = clopper_pearson(int((inside[runs // 2 :] >= cut).sum()), runs // 2, 0.999)
        return hits.low <= gdp_tpr(alarms.high, honest.privacy.mu)

    assert holds(honest)
    assert not holds(replace(honest, epsilon=60.0))


@given(st.integers(0, 10_000), st.floats(0.1, 1))
def test_cut_rows_are_no_longer_and_point_where_they_did(seed, length):
    rng = np.random.default_rng(seed)
    rows = unit(rng.normal(size=(9, 4))) * rng.random((9, 1))
    rows[0] = 0
    short, far = cut(rows, length), np.linalg.norm(rows, axis=1)
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), np.minimum(far, length), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(short * far[:, None], rows * np.minimum(far, length)[:, None], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("classes", [2, 3])
def test_without_noise_the_centre_is_the_mean_of_the_cut_rows(classes):
    rng, recipe = np.random.default_rng(2), PrivateLinearRecipe(epsilon=1e6)
    space = Space.table(list("abc"), lower=np.zeros(3), upper=np.ones(3))
    x = rng.beta(0.3, 0.6, (500, 3))  # many near the corners, which are a length of one away
    data = Dataset(x=x, y=rng.integers(0, classes, 500), ids=np.arange(500).astype(str), source=np.full(500, ""), space=space, classes=classes)
    ball = recipe.scaling.ball(x, space)
    means = {k: cut(ball, length).mean(0) for k, length in {2: 1.0, 3: 0.7}.items()}
    np.testing.assert_allclose(recipe.fit(data, rng).centre, means[classes], atol=1e-4)
    assert np.linalg.norm(means[2] - means[3]) > 0.01


def test_accurate_on_patients_at_epsilon_one():
    found = []
    for seed in range(16):
        parts = builtin("patients", seed=seed)
        model = PrivateLinearRecipe(epsilon=1.0, delta=1e-5).fit(parts.train, rng_for(seed, "train"))
        found.append((decide(model.predict(parts.test.x)) == parts.test.y).mean())
    assert np.mean(found) >= 0.925


def test_many_rows_and_classes():
    rng = np.random.default_rng(3)
    x = rng.random((20_000, 6))
    x[:, 0] = 0.5 + 0.02 * (x[:, 0] - 0.5)  # what decides varies least
    y = np.clip((3 * (50 * (x[:, 0] - 0.5) + 0.5)).astype(int), 0, 2)
    space = Space.table(list("abcdef"), lower=np.zeros(6), upper=np.array([1, *[1.0] * 5]))
    data = Dataset(x=x, y=y, ids=np.arange(len(y)).astype(str), source=np.full(len(y), ""), space=space, classes=3)
    model = PrivateLinearRecipe(epsilon=8.0).fit(data, rng)
    assert len(model.gains) == 5  # all but the one that decides
    assert (model.predict(x).argmax(1) == y).mean() > 0.6


def test_model_and_recipe_are_what_they_should_be(tmp_path):
    data = table(80)
    before = data.x.copy()
    recipe = PrivateLinearRecipe(epsilon=4.0, delta=1e-3)
    model = recipe.fit(data, np.random.default_rng(0))
    assert isinstance(model, Model)
    assert isinstance(recipe, Recipe)
    np.testing.assert_array_equal(data.x, before)
    assert pickle.loads(pickle.dumps(recipe)).fit(data, np.random.default_rng(0)).digest() == model.digest()
    assert recipe.fit(data, np.random.default_rng(1)).digest() != model.digest()
    save_model(model, tmp_path)
    for again in (decode(encode(model, pack=pack), unpack=unpack), load_saved(tmp_path)):
        np.testing.assert_array_equal(again.predict(data.x), model.predict(data.x))
        assert (again.digest(), again.privacy) == (model.digest(), model.privacy)
    assert (model.at(0.2).threshold, model.predict(data.x[:0]).shape) == (0.2, (0, 2))
    secret = replace(recipe, secret_noise=True)
    assert secret.fit(data, np.random.default_rng(0)).digest() != secret.fit(data, np.random.default_rng(0)).digest()


def test_what_cannot_be_trained_on_is_refused():
    method, start = PrivateLinearModel(delta=1e-4), case(Remembers(gain=1.0), n=10)
    assert method.refuses(start, Membership()) is None
    endless = replace(start.data.train, space=table(10, bounded=False).space)
    assert "no finite bounds" in method.refuses(replace(start, data=replace(start.data, train=endless)), Membership())
    assert "delta is 0.2 for 10 rows" in PrivateLinearModel(delta=0.2).refuses(start, Membership())
    assert [m.epsilon for m in method.strengths()] == [4.0, 1.0]


@pytest.mark.parametrize(("options", "words"), [
    ({"epsilon": 0}, "epsilon is 0"), ({"delta": 1}, "delta is 1"), ({"clip": math.inf}, "clip is inf"), ({"averaged": 0}, "averaged is 0"),
    ({"neighbours": ""}, "neighbours is ''"),
])  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        PrivateLinearRecipe(**options)


@pytest.mark.parametrize("steps", [1, 4, 25])
def test_gradients_get_the_noise_that_is_accounted_anew_at_every_step(monkeypatch, steps):
    monkeypatch.setattr(linear, "gradient_sum", lambda rows, y, weights, clip: np.zeros_like(weights))
    rows, recipe = np.zeros((10, 500)), PrivateLinearRecipe(averaged=1e-6)  # the last iterate alone
    weights = recipe.descend(rows, np.zeros(10, int), 8, Settings(steps=steps, rate=1.0, centring=0.0, damping=0.0), 3.0, np.random.default_rng(0))
    assert weights.std() * len(rows) == pytest.approx(3.0 * math.sqrt(steps), rel=0.05)


def test_where_a_row_may_be_left_out_another_in_its_place_is_two_steps():
    """With noise for leaving one out, data sets that differ in one row are two means apart: 2 mu, by the trade-off of two Gaussians."""
    weaker, recipe = (PrivateLinearRecipe(epsilon=2.0, delta=1e-3, neighbours=way).privacy for way in ("remove", "replace"))
    for fpr in (0.001, 0.01, 0.1):
        assert weaker.tpr(fpr) == pytest.approx(gdp_tpr(fpr, 2 * weaker.mu), rel=1e-9)
        assert recipe.tpr(fpr) == pytest.approx(gdp_tpr(fpr, recipe.mu), rel=1e-9)
        assert weaker.presence_tpr(fpr) == pytest.approx(recipe.tpr(fpr), rel=1e-9)
