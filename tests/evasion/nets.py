"""Small torch models with known answers for the tests of this room."""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import nn

from carbide.data.live import dataset_of
from carbide.models.torch_net import TorchModel, TorchRecipe
from carbide.types import Space, Splits


def unit_space(d: int, **more) -> Space:
    """d real features in [0, 1]."""
    return Space.table([f"f{i}" for i in range(d)], lower=np.zeros(d), upper=np.ones(d), **more)


def linear(w, b: float, *, space: Space | None = None, scale: float = 1.0, threshold: float = 0.5) -> TorchModel:
    """Class 1 when ``w @ x + b`` exceeds 0 (in float64, so that truth can be met to the last digits)."""
    w = np.asarray(w, float)
    layer = nn.Linear(len(w), 2).double()
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(np.stack([-w, w]) * scale / 2))
        layer.bias.copy_(torch.as_tensor([-b * scale / 2, b * scale / 2], dtype=torch.float64))
    return TorchModel(module=layer, space=space or Space.table([f"f{i}" for i in range(len(w))]), classes=2, threshold=threshold)


def tiny(seed: int, *, inputs: int = 2, classes: int = 3, width: int = 16) -> TorchModel:
    """An untrained perceptron with large weights, so that its regions are small."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (1.5 if parameter.ndim == 2 else 0.5))
    return TorchModel(module=net, space=unit_space(inputs), classes=classes)


@functools.cache
def digits() -> Splits:
    """Every fourth of the digits, split by row."""
    from sklearn.datasets import load_digits

    from carbide.data.splits import cut_rows

    found = load_digits()
    x, y = (found.images / 16.0)[::4, None], found.target[::4].astype(np.int64)
    data = dataset_of(x, y, space=Space.image((1, 8, 8)), classes=10)
    train, validation, test = (data.take(rows) for rows in cut_rows(len(y), (0.6, 0.1, 0.3), np.random.default_rng(0), y=y))
    return Splits(train=train, validation=validation, test=test)


RECIPE = TorchRecipe(factory="carbide.models.nets:small_cnn", options={"shape": (1, 8, 8), "classes": 10, "width": 8}, epochs=12, batch=32)


@functools.cache
def digits_net() -> TorchModel:
    """A small CNN trained on them."""
    return RECIPE.fit(digits().train, np.random.default_rng(0))


def bounded(seed: int, *, rows: int = 60, features: int = 6) -> tuple[TorchModel, np.ndarray, np.ndarray, dict[float, np.ndarray]]:
    """A linear model of features in [0, 1], rows it gets right, and by norm how far each is from the boundary within the bounds."""
    from carbide.space.balls import norms
    from carbide.space.planes import to_plane

    rng = np.random.default_rng(seed)
    w, x = rng.normal(size=features), rng.uniform(size=(rows, features))
    b = -float(np.median(x @ w))
    score = x @ w + b
    many = np.repeat(w[None], rows, 0)
    changes = {p: to_plane(many, -score, p=p, down=x, up=1 - x) for p in (1, 2, np.inf)}
    reached = np.abs((many * changes[1]).sum(1) + score) < 1e-9
    distance = {p: np.where(reached, norms(change, p), np.inf) for p, change in changes.items()}
    return linear(w, b, space=unit_space(features)), x, (score > 0).astype(np.int64), distance
