"""Private training of nets: its account, its draws, what it refuses, and that its statement goes with the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.data.live import dataset_of
from carbide.evasion.inner import PgdPerturb
from carbide.models.packing import pack, unpack
from carbide.models.per_sample import clipped_sum, trainable
from carbide.models.saving import load_saved, save_model
from carbide.models.torch_net import TorchRecipe
from carbide.privacy import dp_sgd
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.dp_sgd import PrivateTorchRecipe
from carbide.privacy.harden.dp_sgd import DPSGD
from carbide.privacy.judge import audit
from carbide.privacy.prove.dp_bound import DpBound
from carbide.stats.accounting import ADD_OR_REMOVE
from carbide.stats.spending import Spending
from carbide.types import Case, InputError, Membership, Space, Splits
from tests.privacy.worlds import Remembers, case, table

T = Membership()
INNER = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 3, "classes": 2, "width": 8}, epochs=4, batch=32)
RECIPE = PrivateTorchRecipe(inner=INNER, epsilon=2.0, delta=1e-4)


def normed(*, classes: int = 2, drop: float = 0.0) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(drop), nn.Linear(12, classes))


def mixing() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2), nn.Softmax(dim=0))


def test_the_statement_is_that_of_the_steps_taken():
    rows = table(300)
    model = RECIPE.fit(rows, np.random.default_rng(0))
    steps = RECIPE.steps(rows=300)
    assert (steps.rate, steps.count) == (32 / 300, round(4 * 300 / 32))
    account = Spending([steps])
    assert 1.999 < account.epsilon(1e-4) <= 2.0
    assert (model.privacy.epsilon, model.privacy.delta, model.privacy.adjacency) == (2.0, 1e-4, ADD_OR_REMOVE)
    assert account.tpr(0.01) <= model.privacy.presence_tpr(0.01) <= 1.02 * account.tpr(0.01)
    assert RECIPE.privacy.presence_tpr(0.01) >= model.privacy.presence_tpr(0.01)
    assert any("seed" in a for a in model.privacy.assumptions)
    assert not any("seed" in a for a in replace(RECIPE, secret_noise=True).privacy.assumptions)


def test_every_step_is_the_noisy_cut_sum_over_the_expected_batch(monkeypatch):
    # The steps are watched: which rows were drawn, the weights before, and the gradient that was followed.
    rows, seen = table(200), []
    inside = dp_sgd.noisy_gradients_

    def watched(module, x, y, **options):
        before = [p.detach().clone() for p in trainable(module)]
        inside(module, x, y, **options)
        exact = clipped_sum(module, x, y, clip=options["clip"]).gradients
        noise = torch.cat([(p.grad - g / options["expected"]).flatten() for p, g in zip(trainable(module), exact, strict=True)])
        seen.append((len(x), options, before, noise))

    monkeypatch.setattr(dp_sgd, "noisy_gradients_", watched)
    recipe = replace(RECIPE, inner=replace(INNER, epochs=20, batch=5), clip=0.3)
    recipe.fit(rows, np.random.default_rng(1))
    steps = recipe.steps(rows=200)
    sizes = np.array([n for n, *_ in seen])
    assert len(sizes) == steps.count == 800
    assert {options["expected"] for _, options, *_ in seen} == {5.0}
    assert sizes.mean() == pytest.approx(5.0, abs=0.3)
    assert (sizes == 0).any()
    noise = torch.stack([z for *_, z in seen]).numpy()
    deviation = steps.noise * 0.3 / 5.0
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert noise.std(0).min() > 0.85 * deviation  # in every coordinate
    assert abs(np.corrcoef(noise[:-1].ravel(), noise[1:].ravel())[0, 1]) < 0.02  # new in every step


def test_the_same_rng_gives_the_same_weights_and_another_one_others():
    rows = table(120)
    recipe = replace(RECIPE, inner=replace(INNER, factory=normed, options={"drop": 0.3}))
    first, again, other = (recipe.fit(rows, np.random.default_rng(seed)).digest() for seed in (0, 0, 1))
    assert first == again
    assert first != other
    secret = replace(recipe, secret_noise=True)
    assert secret.fit(rows, np.random.default_rng(0)).digest() != secret.fit(rows, np.random.default_rng(0)).digest()


def test_ways_agree_and_both_learn():
    rows, test = table(600, 1), table(300, 2)
    recipe = PrivateTorchRecipe(inner=replace(INNER, epochs=20, batch=200), epsilon=8.0, delta=1e-4)
    models = [replace(recipe, way=way).fit(rows, np.random.default_rng(3)) for way in ("book-keeping", "vmap")]
    np.testing.assert_allclose(models[0].predict(test.x), models[1].predict(test.x), atol=1e-3)
    assert (models[0].predict(test.x).argmax(1) == test.y).mean() > 0.85
    averaged = replace(recipe, inner=replace(recipe.inner, ema=0.9)).fit(rows, np.random.default_rng(3))
    assert (averaged.predict(test.x).argmax(1) == test.y).mean() > 0.85


def test_the_statement_is_stored_and_read_back(tmp_path):
    rows = table(120)
    for recipe in (RECIPE, replace(RECIPE, inner=replace(INNER, factory=f"{__name__}:normed", options={}))):
        model = recipe.fit(rows, np.random.default_rng(0))
        save_model(model, tmp_path / "net")
        for back in (unpack(pack(model)), load_saved(tmp_path / "net")):
            np.testing.assert_array_equal(back.predict(rows.x), model.predict(rows.x))
            assert back.privacy == model.privacy
            assert back.at(0.7).privacy == model.privacy


def test_batch_norm_is_replaced_or_refused():
    recipe = replace(RECIPE, inner=replace(INNER, factory=normed, options={}))
    layers = [type(layer).__name__ for layer in recipe.fit(table(120), np.random.default_rng(0)).module]
    assert layers[1] == "GroupNorm"
    with pytest.raises(InputError, match="has batch normalisation, which mixes rows"):
        replace(recipe, batch_norm="refuse").fit(table(120), np.random.default_rng(0))
    with pytest.raises(InputError, match="when other rows of the batch change"):
        replace(RECIPE, inner=replace(INNER, factory=mixing, options={})).fit(table(120), np.random.default_rng(0))


@pytest.mark.parametrize(("make", "words"), [
    (lambda: replace(RECIPE, epsilon=0), "epsilon is 0; give a number > 0"), (lambda: replace(RECIPE, epsilon=-1.0), "epsilon is -1"),
    (lambda: replace(RECIPE, clip=0), "clip is 0"), (lambda: replace(RECIPE, delta=1.0), "delta is 1"), (lambda: replace(RECIPE, way="x"), "way is 'x'"),
    (lambda: replace(RECIPE, batch_norm="keep"), "batch_norm is 'keep'"), (lambda: replace(RECIPE, momentum=1.0), "momentum is 1"),
    (lambda: replace(RECIPE, inner=replace(INNER, awp=0.1)), "sets awp"), (lambda: replace(RECIPE, inner=replace(INNER, precision="bfloat16")), "precision is"),
    (lambda: replace(RECIPE, inner=replace(INNER, perturb=PgdPerturb(eps=0.1, p=2, steps=1, step=1.0, labels=True))), "sets perturb"),
    (lambda: DPSGD(epsilon=0), "epsilon is 0"), (lambda: DPSGD(delta=0), "delta is 0"), (lambda: DPSGD(widen=0), "widen is 0"),
    (lambda: DPSGD(way="x"), "way is 'x'"), (lambda: DPSGD(ema=1), "ema is 1"),
    (lambda: replace(RECIPE, delta=0.01).fit(table(100), np.random.default_rng(0)), "delta is 0.01 for 100 rows, which allows giving one row away"),
])  # fmt: skip
def test_nonsense_is_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_the_method_makes_the_recipe_and_refuses_others():
    hardened = DPSGD(epsilon=1.5, widen=2, stretch=3, ema=0.9)(INNER, T)
    assert isinstance(hardened, PrivateTorchRecipe)
    assert (hardened.inner.batch, hardened.inner.epochs, hardened.inner.ema, hardened.epsilon) == (64, 12, 0.9, 1.5)
    assert [m.epsilon for m in DPSGD(epsilon=2.0).strengths()] == [8.0, 2.0]
    start = case(Remembers(gain=1.0), n=10)
    assert "trains no torch net" in DPSGD().refuses(start, T)
    assert DPSGD().refuses(replace(start, recipe=INNER), T) is None
    assert "not below one over the 10 training rows" in DPSGD(delta=0.1).refuses(replace(start, recipe=INNER), T)
    with pytest.raises(InputError, match="Remembers trains no torch net"):
        DPSGD()(Remembers(gain=1.0), T)
    with pytest.raises(InputError, match="PrivateTorchRecipe trains no torch net"):
        DPSGD()(hardened, T)


def test_the_bound_is_for_swaps_and_says_what_it_is_for_presence():
    parts = Splits(train=table(100, seed=1), validation=table(20, seed=2), test=table(100, seed=3))
    private = Case(model=RECIPE.fit(parts.train, np.random.default_rng(0)), data=parts, recipe=RECIPE)
    assert DpBound().refuses(private, T) is None
    certificate = DpBound()(private.model, parts.test.x, parts.test.y, T, np.random.default_rng(0))
    statement = private.model.privacy
    np.testing.assert_allclose(certificate.bound, statement.presence_tpr(statement.presence_tpr(0.01)))
    assert f"{statement.presence_tpr(0.01):.3g}" in certificate.claim
    assert "adding or removing" in certificate.claim
    section = audit(replace(private, recipe=None), T, {"loss_threshold": LossThreshold()})
    assert section.findings


def test_images_and_an_image_net():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=80)
    x = (rng.uniform(0, 0.5, size=(80, 1, 6, 6)) + 0.5 * (np.arange(6) >= 3) * y[:, None, None, None]).clip(0, 1)
    rows = dataset_of(x, y, space=Space.image((1, 6, 6)), classes=2)
    inner = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": (1, 6, 6), "classes": 2, "width": 4}, epochs=15, batch=40)
    model = PrivateTorchRecipe(inner=inner, epsilon=8.0, delta=1e-3).fit(rows, np.random.default_rng(0))
    assert (model.predict(rows.x).argmax(1) == y).mean() > 0.9
