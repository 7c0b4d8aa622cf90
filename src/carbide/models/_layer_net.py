"""Lists of layers as torch modules in float64, made of layers that interval bounds know.

>>> import numpy as np
>>> from carbide.models._sklearn_layers import Dense, Each
>>> net = net_of((Each(op="sub", value=np.array([2.0])), Dense(weight=np.array([[3.0]]), bias=np.array([1.0]))), flatten=False)
>>> net(torch.tensor([[4.0]], dtype=torch.float64)).item()
7.0
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from carbide.models._sklearn_layers import Act, Clip, Dense, Each, Layer, Pick, Side

OPERATORS = {"sub": operator.sub, "div": operator.truediv, "mul": operator.mul, "add": operator.add}


class Constant(nn.Module):
    """Each feature by one operation with a constant of its own."""

    def __init__(self, op: str, value: Tensor) -> None:
        super().__init__()
        self.op = op
        self.register_buffer("value", value)

    def forward(self, x: Tensor) -> Tensor:
        return OPERATORS[self.op](x, self.value)

    def extra_repr(self) -> str:
        return self.op


class Columns(nn.Module):
    """Some columns ``(n, c)`` of rows ``(n, d)``."""

    def __init__(self, columns: Sequence[int]) -> None:
        super().__init__()
        self.columns = list(columns)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, self.columns]

    def extra_repr(self) -> str:
        return str(self.columns)


class Beside(nn.ModuleList):
    """Several nets on the same rows, their results side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self], 1)


def net_of(layers: Sequence[Layer], *, flatten: bool) -> nn.Sequential:
    """The net of these layers; ``flatten`` brings rows of more axes to ``(n, d)`` first."""
    return nn.Sequential(*([nn.Flatten()] if flatten else []), *(_module(layer) for layer in layers))


def _module(layer: Layer) -> nn.Module:
    if isinstance(layer, Dense):
        linear = nn.Linear(layer.weight.shape[1], layer.weight.shape[0], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.as_tensor(layer.weight))
            linear.bias.copy_(torch.as_tensor(layer.bias))
        return linear
    if isinstance(layer, Each):
        return Constant(layer.op, torch.as_tensor(layer.value))
    if isinstance(layer, Clip):
        return nn.Hardtanh(layer.low, layer.high)
    if isinstance(layer, Pick):
        return Columns(layer.columns)
    if isinstance(layer, Side):
        return Beside([net_of(part, flatten=False) for part in layer.parts])
    assert isinstance(layer, Act)
    # Softplus turns straight beyond its threshold, which is where float64 no longer sees the difference.
    return {"relu": nn.ReLU, "tanh": nn.Tanh, "logistic": nn.Sigmoid, "softplus": lambda: nn.Softplus(threshold=40.0)}[layer.name]()
