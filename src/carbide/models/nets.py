"""Small networks for the built-in cases and for users without one of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn


def small_mlp(*, inputs: int, classes: int, width: int = 64) -> nn.Module:
    """A perceptron with one hidden layer for table rows ``(n, inputs)``."""
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, classes))


def small_cnn(*, shape: tuple[int, int, int] = (1, 8, 8), classes: int = 10, width: int = 32) -> nn.Module:
    """Two convolutions of stride 1 and 2, then two linear layers, for images ``(n, *shape)``; no pooling, no batch norm."""
    channels, height, wide = shape
    half = ((height + 1) // 2) * ((wide + 1) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(2 * width * half, 4 * width), nn.ReLU(), nn.Linear(4 * width, classes),
    )  # fmt: skip


def certified_cnn(
    *, shape: tuple[int, int, int] = (1, 28, 28), classes: int = 10, width: int = 32, hidden: int = 256, norm: bool = True
) -> nn.Sequential:
    """Four convolutions, two of stride 2, and two linear layers, for certified training on images; ``norm``: each but the last with batch norm."""
    channels, height, wide = shape
    quarter = ((height + 3) // 4) * ((wide + 3) // 4)
    layers: list[nn.Module] = []
    for before, after, stride in ((channels, width, 1), (width, width, 2), (width, 2 * width, 1), (2 * width, 2 * width, 2)):
        layers += [nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=not norm), *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]
    layers += [nn.Flatten(), nn.Linear(2 * width * quarter, hidden, bias=not norm), *([nn.BatchNorm1d(hidden)] if norm else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, classes))


def without_batch_norm(*, factory: str, options: Mapping[str, Any]) -> nn.Module:
    """The net that another factory makes, with group norm in the place of batch norm: private training makes such nets."""
    from carbide.models.packing import check_allowed
    from carbide.models.per_sample import group_normed
    from carbide.models.torch_net import make_module

    check_allowed(factory)
    module = make_module(factory, options)
    group_normed(module)
    return module
