"""Private additive models: curves that sum to the logits, the account, every sensitivity, the size of the noise, a claim with too little noise."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.models import load_saved, pack, save_model, unpack
from carbide.models.training_functions import FunctionRecipe
from carbide.privacy import additive
from carbide.privacy.additive import PrivateAdditiveRecipe, Waves
from carbide.privacy.audit.many_trainings import ManyTrainings
from carbide.privacy.claims import examine
from carbide.privacy.harden.private_additive import PrivateAdditiveModel
from carbide.privacy.linear import REACH, PrivateLinearRecipe
from carbide.privacy.logistic import gradient_sum
from carbide.privacy.prove.dp_bound import DpBound
from carbide.run.store import decode, encode
from carbide.stats.accounting import gdp_epsilon, gdp_mu, gdp_tpr
from carbide.types import Dataset, InputError, Membership, Model, PrivacyClaim, Recipe, Space, rng_for
from tests.privacy.worlds import Remembers, case, table

DELTA = 1e-3


def tabled(x, y, *, classes=2, upper=1.0, step=None):
    d = x.shape[1]
    space = Space.table([f"f{i}" for i in range(d)], lower=np.zeros(d), upper=np.full(d, upper), step=step)
    return Dataset(x=x, y=y, ids=np.arange(len(y)).astype(str), source=np.full(len(y), ""), space=space, classes=classes)


@given(st.integers(0, 10_000), st.integers(1, 12), st.floats(0, 3), st.floats(0, 9))
def test_waves_stay_in_the_ball_and_are_what_they_are_said_to_be(seed, waves, roughness, curve):
    rng, basis = np.random.default_rng(seed), Waves(waves=waves, roughness=roughness, curve=curve)
    space = Space.table(list("abc"), lower=np.array([-1, 0, 0.0]), upper=np.array([1, 3, 1.0]), step=np.array([0, 1, 1.0]))
    x = 3 * rng.normal(size=(9, 3))
    x[0] = [1, 3, 1]  # the far corner, where the waves are longest
    ball, (feature, m) = basis.ball(x, space), basis.blocks(space)
    counts = [waves, min(waves, 3), 1]
    np.testing.assert_array_equal(feature, np.repeat([0, 1, 2], counts))
    assert (np.linalg.norm(ball, axis=1) <= 1 + 1e-12).all()
    assert np.linalg.norm(ball[0]) == pytest.approx(1)
    share = np.clip((x - space.lower) / (space.upper - space.lower), 0, 1)
    bent = np.log1p(curve * share) / np.log1p(curve) if curve > 1e-9 else share
    weights = np.concatenate([np.arange(1, count + 1.0) ** -roughness for count in counts])
    expected = [weights[i] * np.cos(m[i] * np.pi * bent[:, feature[i]]) / np.sqrt((weights**2).sum()) for i in range(len(m))]
    np.testing.assert_allclose(ball, np.transpose(expected), atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
def test_logits_are_sums_of_one_curve_a_feature(classes):
    rng = np.random.default_rng(0)
    x = rng.random((300, 4))
    model = PrivateAdditiveRecipe(epsilon=20.0, delta=DELTA, waves=4).fit(tabled(x, rng.integers(0, classes, 300), classes=classes), rng)
    parts, p = model.parts(x), model.predict(x)
    logits = parts.sum(1) + model.intercept
    told = np.log(p[:, 1:] / p[:, :1])
    np.testing.assert_allclose(logits if classes == 2 else logits[:, 1:] - logits[:, :1], told, atol=1e-8)
    moved = x.copy()
    moved[:, 2] = rng.random(300)
    np.testing.assert_array_equal(np.delete(model.parts(moved), 2, 1), np.delete(parts, 2, 1))
    assert not np.allclose(model.parts(moved)[:, 2], parts[:, 2])


@pytest.mark.parametrize(("size", "classes"), [(16, 2), (400, 2), (4000, 2), (16, 3), (90, 3), (4000, 3)])
@pytest.mark.parametrize("neighbours", ["replace", "remove"])
def test_the_noise_is_that_of_the_account(monkeypatch, size, classes, neighbours):
    """What is released, with the rows' share taken out, has the standard deviations whose mu is the promised one."""
    asked = []

    def mean(rows, sigma, noise):
        longest = np.linalg.norm(rows, axis=1).max()
        assert longest == pytest.approx(1.0 if classes == 2 else REACH)  # the rows lie in a corner, where they are longest
        asked.append(sigma / longest)
        return np.zeros(rows.shape[1])

    def directions(rows, sigma, noise):
        asked.append(sigma)
        return np.zeros((0, rows.shape[1])), np.zeros(0)

    monkeypatch.setattr(additive, "noisy_mean", mean)
    monkeypatch.setattr(additive, "noisy_directions", directions)
    monkeypatch.setattr("carbide.privacy.linear.gradient_sum", lambda rows, y, weights, clip: np.zeros_like(weights))
    recipe = PrivateAdditiveRecipe(epsilon=2.0, delta=1e-6, neighbours=neighbours)
    data = tabled(np.ones((size, 12)), np.zeros(size, np.int64), classes=classes)
    found = np.stack([recipe.fit(data, np.random.default_rng(i)).weights for i in range(80)])
    settings = recipe.settings(size, 24, classes)
    length = additive.DAMPED if settings.damping else additive.LENGTH
    last = settings.steps - int(settings.steps * (1 - 0.25))  # the mean of the last iterates of a random walk
    walk = sum((min(settings.steps - t, last) / last) ** 2 for t in range(settings.steps))
    gradient = found.std() * length * size / settings.rate / math.sqrt(walk)
    row, square = {"replace": (2.0, math.sqrt(2)), "remove": (1.0, 1.0)}[neighbours]
    spent = (row / asked[0]) ** 2 + (square / asked[1]) ** 2 + settings.steps * (row * recipe.clip / gradient) ** 2
    assert math.sqrt(spent) == pytest.approx(gdp_mu(2.0, 1e-6), rel=0.05)
    assert [math.isfinite(sigma) for sigma in asked[:2]] == [settings.centring > 0, settings.damping > 0]
    if classes == 2:
        assert [math.isfinite(sigma) for sigma in asked[:2]] == [size > 16] * 2


@given(st.integers(50, 5000), st.integers(2, 60), st.integers(2, 10), st.sampled_from(["replace", "remove"]))
def test_many_classes_are_followed_slower_by_as_much_as_their_mean_is_blurred(n, waves, classes, neighbours):
    recipe = PrivateAdditiveRecipe(neighbours=neighbours)
    chosen, line = recipe.settings(n, waves, classes), recipe.linear.settings(n, waves, classes)
    assert replace(chosen, rate=line.rate) == line
    if classes == 2 or not line.centring:
        assert chosen == line
    else:
        blur = {"replace": 2, "remove": 1}[neighbours] * 0.7 * math.sqrt(waves / 0.1) / (n * recipe.linear.mu)
        assert chosen.rate == pytest.approx(line.rate * min(1, 0.18 / blur))


@given(st.integers(0, 10_000), st.integers(2, 4))
def test_replacing_a_row_moves_no_sum_by_more_than_is_accounted(seed, classes):
    rng, basis, clip = np.random.default_rng(seed), Waves(waves=3), 0.1
    data = tabled(rng.random((8, 4)), rng.integers(0, classes, 8), classes=classes)
    other, labels = data.x.copy(), data.y.copy()
    other[3], labels[3] = 50 * rng.normal(size=4), rng.integers(classes)
    weights = 4 * rng.normal(size=(1 if classes == 2 else classes, 13))
    sums = []
    for x, y in ((data.x, data.y), (other, labels)):
        ball = basis.ball(x, data.space)
        rows = np.column_stack([20 * ball, np.ones(8)])  # longer than one: the cut alone bounds a gradient
        sums.append((ball.sum(0), gradient_sum(rows, y, weights, clip)))
    moved = [np.linalg.norm(a - b) for a, b in zip(*sums, strict=True)]
    assert (np.array(moved) <= np.array([2, 2 * clip]) * (1 + 1e-9)).all()


def planted(x, y, rng, epsilon):
    """What is released for a promise that may be another than the one claimed."""
    model = PrivateAdditiveRecipe(epsilon=epsilon, delta=DELTA).fit(tabled(np.clip(x, 0, 1), y), rng)
    return np.append(model.weights.ravel(), model.intercept)


def test_an_audit_lets_the_training_stand_and_refutes_half_of_its_noise():
    rng, mu = np.random.default_rng(0), 1.0
    x = rng.random((40, 2))
    data = tabled(x, (x[:, 0] > 0.5).astype(np.int64))
    claim = PrivacyClaim(epsilon=gdp_epsilon(mu, DELTA), delta=DELTA, mu=mu)
    verdicts = []
    for truth in (mu, 2 * mu):
        recipe = FunctionRecipe(function=planted, params={"epsilon": gdp_epsilon(truth, DELTA)})
        verdicts.append(examine(recipe, data, claim, ManyTrainings(trainings=1800), 0))
    assert [verdict.refuted for verdict in verdicts] == [False, True], [verdict.words() for verdict in verdicts]
    assert verdicts[0].epsilon <= claim.epsilon < verdicts[1].epsilon


def test_curves_say_what_lines_cannot():
    rng = np.random.default_rng(1)
    x = rng.random((6000, 5))
    data = tabled(x, (np.abs(x[:, 0] - 0.5) < 0.25).astype(np.int64))  # inside a band: no line tells
    score = {}
    for name, recipe in {"curves": PrivateAdditiveRecipe(epsilon=2.0), "lines": PrivateLinearRecipe(epsilon=2.0)}.items():
        score[name] = (recipe.fit(data, rng_for(0, name)).predict(x).argmax(1) == data.y).mean()
    assert score["curves"] > 0.85
    assert score["lines"] < 0.65


def test_model_and_recipe_are_what_they_should_be(tmp_path):
    data = table(80)
    before = data.x.copy()
    recipe = PrivateAdditiveRecipe(epsilon=4.0, delta=DELTA)
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


def test_the_certificate_is_that_of_the_account():
    recipe = PrivateAdditiveRecipe(epsilon=1.0, delta=1e-5)
    start = case(recipe, n=60)
    certificate = DpBound()(start.model, start.data.test.x, start.data.test.y, Membership(), rng_for(0))
    assert certificate.bound[0] == pytest.approx(gdp_tpr(0.01, recipe.privacy.mu))
    assert DpBound().refuses(start, Membership()) is None


def test_what_cannot_be_trained_on_is_refused():
    method, start = PrivateAdditiveModel(delta=1e-4), case(Remembers(gain=1.0), n=10)
    assert method.refuses(start, Membership()) is None
    endless = replace(start.data.train, space=table(10, bounded=False).space)
    assert "no finite bounds" in method.refuses(replace(start, data=replace(start.data, train=endless)), Membership())
    with pytest.raises(InputError, match="no finite bounds"):
        PrivateAdditiveRecipe().fit(endless, rng_for(0))
    assert "delta is 0.2 for 10 rows" in PrivateAdditiveModel(delta=0.2).refuses(start, Membership())
    assert [m.epsilon for m in method.strengths()] == [4.0, 1.0]


@pytest.mark.parametrize(("options", "words"), [
    ({"epsilon": 0}, "epsilon is 0"), ({"delta": 1}, "delta is 1"), ({"clip": math.inf}, "clip is inf"), ({"waves": 0}, "waves is 0"),
    ({"roughness": -1.0}, "roughness is -1.0"), ({"neighbours": ""}, "neighbours is ''"),
])  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        PrivateAdditiveModel(**options)
