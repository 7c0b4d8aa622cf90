"""Private models of scattered images: the transform against published software's numbers, every sensitivity, the account, the noise."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from carbide.models import load_saved, pack, save_model, unpack
from carbide.privacy.harden.private_scattering import PrivateScattering
from carbide.privacy.prove.dp_bound import DpBound
from carbide.privacy.scattered import (
    CONSTANT,
    FLOOR,
    ScatteredRecipe,
    centred_,
    damped_,
    descend,
    features,
    gradient_sum,
    noisy_directions,
    noisy_mean,
    noisy_moments,
)
from carbide.privacy.scattering import scatter
from carbide.run.store import decode, encode
from carbide.stats.accounting import gdp_tpr
from carbide.stats.intervals import clopper_pearson
from carbide.types import Dataset, InputError, Membership, Model, Recipe, Space, rng_for
from tests.conformance.cases import splits
from tests.privacy.worlds import case, table

PLACES = [(0, 0, 0), (0, 3, 2), (1, 0, 0), (4, 5, 3), (8, 2, 1), (9, 6, 0), (13, 3, 3), (16, 1, 2), (17, 0, 0), (24, 4, 1), (40, 2, 2), (63, 5, 0), (80, 6, 3)]  # fmt: skip
KYMATIO = {  # Scattering2D(J=2, L=8) of Kymatio 0.3.0: values at PLACES, their sum and the sum of squares over the whole picture
    (28, 28): ([0.872161, 0.587268, 0.01887, 0.04564, 0.0327, 0.012115, 0.007057, 0.006124, 0.003965, 0.00449, 0.004911, 0.005163, 0.001029],
               63.495304, 15.282304),
    (30, 17): ([0.833183, 0.534067, 0.024162, 0.046927, 0.032115, 0.019701, 0.02138, 0.003528, 0.004458, 0.005199, 0.004554, 0.005229, 0.001306],
               37.996246, 8.851871),
}  # fmt: skip


def picture(height, width):
    i, j = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return 0.5 + 0.3 * np.sin(0.9 * i + 0.4 * j) + 0.2 * np.cos(i * j / 7.0)


@pytest.mark.parametrize("shape", KYMATIO)
def test_transform_agrees_with_kymatio(shape):
    values, total, squares = KYMATIO[shape]
    maps = scatter(picture(*shape)[None, None])[0]
    np.testing.assert_allclose([maps[place] for place in PLACES], values, rtol=3e-4)
    assert maps.sum() == pytest.approx(total, rel=1e-4)
    assert (maps.astype(float) ** 2).sum() == pytest.approx(squares, rel=1e-4)


def test_transform_goes_along_with_shifts_and_sees_nothing_in_a_constant():
    wide = np.random.default_rng(0).random((1, 1, 32, 48))
    wide[..., :8], wide[..., -12:] = 0, 0
    here, there = scatter(wide[..., :44]), scatter(wide[..., 4:])
    np.testing.assert_allclose(here[..., 2:-1], there[..., 1:-2], atol=0.02 * here.max())
    flat = scatter(np.full((1, 2, 12, 12), 0.7))
    np.testing.assert_allclose(flat[0, [0, 81]], 0.7, rtol=1e-4)
    assert np.abs(np.delete(flat[0], [0, 81], 0)).max() < 1e-3


def unit(rng, n, d):
    rows = rng.normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0.01, 3))
def test_replacing_a_row_moves_no_sum_by_more_than_is_accounted(seed, classes, clip):
    rng = np.random.default_rng(seed)
    heads = 1 if classes == 2 else classes
    rows, y, weights = unit(rng, 12, 5), rng.integers(0, classes, 12), 4 * rng.normal(size=(heads, 6)).astype(np.float32)
    other, labels = rows.copy(), y.copy()
    i = rng.integers(12)
    other[i], labels[i] = unit(rng, 1, 5)[0], rng.integers(classes)
    assert np.linalg.norm(gradient_sum(rows, y, weights, clip) - gradient_sum(other, labels, weights, clip)) <= 2 * clip * (1 + 1e-5)
    assert np.linalg.norm(gradient_sum(rows[:1], y[:1], weights, clip)) <= clip * (1 + 1e-5)
    assert np.linalg.norm(rows.T @ rows - other.T @ other) <= math.sqrt(2) * (1 + 1e-5)
    assert np.linalg.norm(rows[:1].T @ rows[:1]) <= 1 + 1e-5
    assert np.linalg.norm(rows.sum(0) - other.sum(0)) <= 2 * (1 + 1e-5)


def test_gradient_without_a_cut_is_the_derivative_of_the_loss():
    rng = np.random.default_rng(0)
    for classes in (2, 3):
        rows, y = unit(rng, 9, 4), rng.integers(0, classes, 9)
        heads = 1 if classes == 2 else classes
        weights = rng.normal(size=(heads, 5))
        whole = np.column_stack([rows, np.full(9, CONSTANT)]) / math.sqrt(1 + CONSTANT**2)
        scale = math.sqrt(1 + CONSTANT**2)

        def loss(w, whole=whole, y=y, heads=heads, scale=scale):
            logits = scale * whole @ w.T
            logits = np.column_stack([np.zeros(9), logits]) if heads == 1 else logits
            return (np.log(np.exp(logits).sum(1)) - logits[np.arange(9), y]).sum() / scale**2

        found = gradient_sum(rows, y, weights.astype(np.float32), 1e9) / scale
        for place in np.ndindex(weights.shape):
            step = np.zeros_like(weights)
            step[place] = 1e-5
            assert found[place] == pytest.approx((loss(weights + step) - loss(weights - step)) / 2e-5, abs=1e-5)


@given(st.floats(0.1, 8), st.integers(1, 300), st.floats(0.01, 2), st.just(0.0) | st.floats(1e-3, 0.4), st.just(0.0) | st.floats(1e-3, 0.4))
def test_the_account_is_exact(epsilon, steps, clip, centring, damping):
    recipe = ScatteredRecipe(epsilon=epsilon, steps=steps, clip=clip, centring=centring, damping=damping)
    for size in (100, 10_000):  # of the larger no second moments are taken
        noise = recipe.noise(size)
        spent = (2 / noise.mean) ** 2 + 2 / noise.moments**2 + steps * (2 * clip / noise.gradient) ** 2
        assert math.sqrt(spent) == pytest.approx(recipe.privacy.mu, rel=2e-5)
        assert math.sqrt(spent) < recipe.privacy.mu  # what rounding may add is paid for
        assert math.isinf(noise.moments) == (size == 10_000 or damping == 0)
        removed = replace(recipe, neighbours="remove").noise(
            size
        )  # leaving a row out moves the sums by half of it, second moments by the root of half
        np.testing.assert_allclose(
            [2 * removed.mean, math.sqrt(2) * removed.moments, 2 * removed.gradient], [noise.mean, noise.moments, noise.gradient]
        )


def test_noise_has_the_scales_that_are_accounted():
    rng = np.random.default_rng(1)
    rows, y = unit(rng, 30, 5), rng.integers(0, 3, 30)
    recipe = ScatteredRecipe(steps=1, rate=1.0, momentum=0.0, averaged=1.0)
    exact = gradient_sum(rows, y, np.zeros((3, 6), np.float32), recipe.clip)
    draws = np.stack([descend(rows, y, 3, recipe, 7.0, rng) * -30 - exact for _ in range(400)]) / 7.0
    assert chi2.ppf(1e-4, draws.size) < (draws**2).sum() < chi2.ppf(1 - 1e-4, draws.size)
    square = np.stack([noisy_moments(rows, 5.0, rng) - rows.T @ rows for _ in range(400)]) / 5.0
    np.testing.assert_allclose(square, square.transpose(0, 2, 1), atol=1e-6)
    free = np.concatenate([square[:, *np.diag_indices(5)], math.sqrt(2) * square[:, *np.triu_indices(5, 1)]], 1)
    assert chi2.ppf(1e-4, free.size) < (free**2).sum() < chi2.ppf(1 - 1e-4, free.size)
    far = np.tile(unit(rng, 1, 5), (3000, 1))  # a mean so sure that nothing is shrunk to speak of
    means = np.stack([(noisy_mean(far, 3.0, rng) - far[0]) * 1000 for _ in range(400)])
    assert means.std() == pytest.approx(1.0, rel=0.06)


def test_noise_is_drawn_anew_at_every_step():
    flat, rng = np.zeros((4, 2), np.float32), np.random.default_rng(2)
    for steps in (1, 4, 16):
        recipe = ScatteredRecipe(steps=steps, rate=1.0, momentum=0.0, averaged=1 / steps, clip=1e-9)
        final = np.stack([descend(flat, np.array([0, 1, 0, 1]), 1, recipe, 3.0, rng) for _ in range(1000)])
        assert final.std() * 4 == pytest.approx(3.0 * math.sqrt(steps), rel=0.06)


def test_only_what_rises_above_the_noise_is_damped():
    rng = np.random.default_rng(4)
    direction = unit(rng, 1, 40)
    common = np.float32(0.95) * direction * rng.choice([-1, 1], (2000, 1)).astype(np.float32) + np.float32(0.31) * unit(rng, 2000, 40)
    rows = centred_(common, np.zeros(40, np.float32))
    directions, gains = noisy_directions(rows, 40.0, rng)
    assert directions.shape == (1, 40)
    assert abs(directions[0] @ direction[0]) > 0.99
    height = 40.0 * math.sqrt(80) / 2000
    assert gains[0] == pytest.approx(math.sqrt(FLOOR * height / ((rows @ directions[0]) ** 2).mean()), rel=0.05)
    before = rows.copy()
    after = damped_(rows, directions, gains)
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, rtol=1e-5)
    aside = before - np.outer(before @ directions[0], directions[0])
    ratio = (after @ directions[0]) / (before @ directions[0])
    np.testing.assert_allclose(ratio / ((after * aside).sum(1) / (aside**2).sum(1)), gains[0], rtol=1e-3)
    quiet = sum(len(noisy_directions(unit(rng, 400, 40), 300.0, rng)[1]) for _ in range(50))
    assert quiet <= 10  # the height is where the noise ends, give or take


def seen(recipe, base, labels, runs, seed):
    """Models of rows that differ in the label of the last one, projected on that row."""
    data = table(len(base), d=3).with_(y=labels)
    models = (recipe.learn(base.copy(), data, rng_for(seed, run)) for run in range(runs))
    return np.array([damped_(centred_(base[-1:].copy(), m.centre), m.directions, m.gains)[0] @ m.weights[0, :-1] for m in models])


def bound_holds(recipe, mu, runs=600):
    base, labels = unit(np.random.default_rng(5), 16, 6), np.arange(16) % 2
    other = np.where(np.arange(16) == 15, 0, labels)
    outside, inside = seen(recipe, base, labels, runs, 0), seen(recipe, base, other, runs, 1)
    sign = np.sign(inside[: runs // 2].mean() - outside[: runs // 2].mean())
    outside, inside, half = sign * outside, sign * inside, runs // 2
    cut = np.quantile(outside[:half], 0.9)
    alarms = clopper_pearson(int((outside[half:] >= cut).sum()), runs - half, 0.999)
    hits = clopper_pearson(int((inside[half:] >= cut).sum()), runs - half, 0.999)
    return hits.low <= gdp_tpr(alarms.high, mu)


def test_no_distinguisher_beats_the_bound_and_a_broken_one_is_caught():
    honest = ScatteredRecipe(epsilon=2.0, delta=1e-3, steps=6, rate=4.0)
    assert bound_holds(honest, honest.privacy.mu)
    assert not bound_holds(replace(honest, epsilon=60.0), honest.privacy.mu)  # far too little noise for the claim


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    data = Dataset(
        x=x.reshape(-1, 1, 8, 8) / 16, y=y, ids=np.arange(len(y)).astype(str), source=np.full(len(y), ""), space=Space.image((1, 8, 8)), classes=10
    )
    return data.take(np.arange(1200)), data.take(np.arange(1200, 1797))


def test_digits_are_read(digits):
    train, test = digits
    model = ScatteredRecipe(epsilon=8.0).fit(train, np.random.default_rng(0))
    assert (model.predict(test.x).argmax(1) == test.y).mean() > 0.8
    assert model.weights.shape == (10, 325)


def test_rows_are_of_length_one_and_depend_on_nobody(digits):
    train, _ = digits
    rows = features(train.x[:40])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(features(train.x[7:8])[0], rows[7], atol=1e-6)


def test_model_and_recipe_are_what_they_should_be(tmp_path):
    data = splits("large images").train
    before = data.x.copy()
    recipe = ScatteredRecipe(epsilon=8.0)
    model = recipe.fit(data, np.random.default_rng(0))
    assert isinstance(model, Model)
    assert isinstance(recipe, Recipe)
    np.testing.assert_array_equal(data.x, before)
    assert pickle.loads(pickle.dumps(recipe)).fit(data, np.random.default_rng(0)).digest() == model.digest()
    assert recipe.fit(data, np.random.default_rng(1)).digest() != model.digest()
    back = decode(encode(model, pack=pack), unpack=unpack)
    save_model(model, tmp_path)
    for again in (back, load_saved(tmp_path)):
        np.testing.assert_array_equal(again.predict(data.x), model.predict(data.x))
        assert (again.digest(), again.privacy) == (model.digest(), model.privacy)
    assert (model.at(0.2).threshold, model.predict(data.x[:0]).shape) == (0.2, (0, 2))
    assert model.at(0.2).digest() != model.digest()
    secret = replace(recipe, secret_noise=True)
    assert secret.fit(data, np.random.default_rng(0)).digest() != secret.fit(data, np.random.default_rng(0)).digest()
    assert not any("seed" in words for words in secret.privacy.assumptions)
    certificate = DpBound()(model, data.x[:5], data.y[:5], Membership(), np.random.default_rng(0))
    assert certificate.bound[0] == model.privacy.tpr(0.01) < 1


def test_what_it_cannot_train_on_is_refused():
    method = PrivateScattering(delta=1e-4)
    tables = case(recipe=_Nothing(), n=20)
    assert "inputs have the shape (3,)" in method.refuses(tables, Membership())
    pictures = replace(tables, data=splits("large images"))
    assert method.refuses(pictures, Membership()) is None
    assert "delta is 0.2 for 240 rows" in PrivateScattering(delta=0.2).refuses(pictures, Membership())
    assert [m.epsilon for m in method.strengths()] == [12.0, 3.0]
    with pytest.raises(InputError, match="3 x 9 pixels, too small"):
        ScatteredRecipe().fit(replace(splits("images").train, space=Space.image((1, 3, 9))), np.random.default_rng(0))


class _Nothing:
    def fit(self, dataset, rng):
        return None


@pytest.mark.parametrize(("options", "words"), [
    ({"epsilon": 0}, "epsilon is 0"), ({"delta": 1}, "delta is 1"), ({"steps": 0}, "steps is 0"), ({"clip": -1}, "clip is -1"),
    ({"rate": math.nan}, "rate is nan"), ({"averaged": 0}, "averaged is 0"), ({"momentum": 1}, "momentum is 1"), ({"damping": -0.1}, "damping is -0.1"),
    ({"neighbours": "none"}, "neighbours is 'none'"), ({"damping": 0.6, "centring": 0.5}, "leaves nothing for gradients"),
])  # fmt: skip
def test_wrong_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ScatteredRecipe(**options)


@settings(max_examples=10)
@given(st.integers(0, 100), st.floats(0.5, 50))
def test_a_mean_lost_in_noise_is_shrunk_away(seed, sigma):
    rng = np.random.default_rng(seed)
    found = noisy_mean(unit(rng, 10, 50), 100 * sigma, rng)
    assert np.linalg.norm(found) < np.sqrt(50) * 10 * sigma * 0.8
