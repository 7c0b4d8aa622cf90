"""Small networks for the built-in cases and for users without one of their own."""

from __future__ import annotations

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
