"""Nets trained at once against the same nets trained alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.data.live import dataset_of
from carbide.evasion.inner import PgdPerturb
from carbide.models.stacked import layers_of
from carbide.models.torch_net import TorchRecipe, weights_bytes
from carbide.privacy import shadows
from carbide.types import InputError, Space


def net(*, inputs: int, classes: int, bias: bool = True, deep: bool = False) -> nn.Module:
    middle = [nn.Linear(7, 5, bias=bias), nn.Tanh()] if deep else [nn.Identity()]
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, 7, bias=bias), nn.ReLU(), *middle, nn.Linear(5 if deep else 7, classes))


def data(n: int = 90, classes: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    y = (x @ rng.normal(size=(4, classes))).argmax(1)
    y[:classes] = np.arange(classes)
    return dataset_of(x, y, space=Space.table(list("abcd")), classes=classes)


RECIPE = TorchRecipe(factory=net, options={"inputs": 4, "classes": 3}, epochs=4, batch=16)
CHANGES = ({}, {"batch": 7}, {"batch": 500}, {"smoothing": 0.1, "decay": 0.02}, {"schedule": "cyclic"}, {"options": {"inputs": 4, "classes": 3, "bias": False}},
           {"options": {"inputs": 4, "classes": 3, "deep": True}})  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_each_net_is_the_one_that_training_alone_gives(change):
    recipe, rows = replace(RECIPE, **change), data()
    draws = np.random.default_rng(1)
    parts = [np.sort(draws.permutation(90)[:size]) for size in (40, 33, 48, 49, 1, 40)]  # other numbers of rows, and of steps
    many = recipe.fit_many(rows, parts, [np.random.default_rng(i) for i in range(6)])
    alone = [recipe.fit(rows.take(part), np.random.default_rng(i)) for i, part in enumerate(parts)]
    plain = recipe.fit(rows.take(parts[0]), np.random.default_rng(5))
    for a, b in zip(many, alone, strict=True):
        np.testing.assert_allclose(a.predict(rows.x), b.predict(rows.x), atol=2e-5)
        assert not a.module.training
        assert a.to_state()["factory"] == b.to_state()["factory"]
    assert np.abs(many[0].predict(rows.x) - plain.predict(rows.x)).max() > 1e-3


def test_start_weights_are_where_every_net_begins():
    first = RECIPE.fit(data(), np.random.default_rng(0))
    still = replace(RECIPE, rate=1e-9, start=weights_bytes(first.module))
    for model in still.fit_many(data(), [np.arange(30), np.arange(60)], [np.random.default_rng(i) for i in range(2)]):
        np.testing.assert_allclose(model.predict(data().x), first.predict(data().x), atol=1e-5)
    with pytest.raises(InputError, match="weights to start from"):
        replace(still, start=b"no weights").fit_many(data(), [np.arange(30)], [np.random.default_rng(0)])


class Odd(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


def odd() -> nn.Module:
    return Odd(nn.Linear(4, 3))


def dropping() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 3))


def test_what_is_not_the_same_net_at_once_is_trained_alone():
    assert layers_of(RECIPE) == ["Flatten", "Linear", "ReLU", "Identity", "Linear"]
    others = [replace(RECIPE, awp=0.1), replace(RECIPE, ema=0.9), replace(RECIPE, perturb=PgdPerturb(eps=0.1)), replace(RECIPE, precision="bfloat16"),
              TorchRecipe(factory=odd), TorchRecipe(factory=dropping), TorchRecipe(factory="carbide.models.nets:small_cnn")]  # fmt: skip
    assert [layers_of(other) for other in others] == [None] * len(others)
    recipe = replace(RECIPE, ema=0.9)
    (model,) = recipe.fit_many(data(), [np.arange(50)], [np.random.default_rng(0)])
    assert model.digest() == recipe.fit(data().take(np.arange(50)), np.random.default_rng(0)).digest()


def test_shadows_trained_at_once_answer_as_those_trained_alone(monkeypatch):
    rows = data(classes=3)
    state = torch.get_rng_state()
    found = shadows.train_shadows(RECIPE, rows, 6, 3)
    assert torch.equal(state, torch.get_rng_state())
    monkeypatch.setattr(TorchRecipe, "many", lambda self: False)
    alone = shadows.train_shadows(RECIPE, rows, 6, 3)
    np.testing.assert_array_equal(found.members, alone.members)
    np.testing.assert_allclose(found.answers, alone.answers, atol=2e-5)
