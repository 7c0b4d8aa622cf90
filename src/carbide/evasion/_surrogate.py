"""A net of the attacker's own that is taught by a model's answers, and whose gradients then stand in for the model's.

>>> x = np.random.default_rng(0).uniform(size=(200, 2))
>>> p = 1 / (1 + np.exp(20 * (x[:, 0] - x[:, 1])))
>>> from carbide.types import Space
>>> surrogate = surrogate_for(Space.table(["a", "b"]), 2, x, nets=1, seed=0)
>>> teach(surrogate, x, np.stack([1 - p, p], 1), steps=150, generator=torch.Generator().manual_seed(0))
>>> bool(((surrogate.predict(x)[:, 1] > 0.5) == (p > 0.5)).mean() > 0.95)
True
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from carbide.models.nets import small_cnn, small_mlp
from carbide.models.torch_net import TorchModel
from carbide.types import Array, Space

WIDTHS = (16, 128)  # of a CNN and of a perceptron
BATCH, RATE, DECAY = 64, 3e-3, 1e-4


class Ensemble(nn.Module):
    """Several nets on inputs of mean 0 and deviation 1; they answer the mean of their logits."""

    def __init__(self, nets: list[nn.Module], mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        self.mean: Tensor
        self.scale: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def each(self, x: Tensor) -> Tensor:
        """The logits of each net, ``(nets, n, k)``."""
        x = (x.nan_to_num(0.0) - self.mean) / self.scale
        return torch.stack([net(x) for net in self.nets])

    def forward(self, x: Tensor) -> Tensor:
        """Mean logits ``(n, k)``."""
        return self.each(x).mean(0)


def surrogate_for(space: Space, classes: int, x: Array, *, nets: int, seed: int, device: str = "cpu") -> TorchModel:
    """``nets`` untaught nets for inputs of a space, scaled by rows ``x``: for images CNNs and perceptrons by turns, else perceptrons."""
    flat = np.nan_to_num(x.reshape(len(x), *space.shape))
    mean, scale = flat.mean(0), flat.std(0)
    if space.is_image:  # a pixel that never varies in the rows may do so in an attack: one scale for all
        scale = np.full(space.shape, flat.std())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = [_net(space, classes, number) for number in range(nets)]
    module = Ensemble(made, *(torch.as_tensor(v, dtype=torch.float32) for v in (mean, np.where(scale > 0, scale, 1.0))))
    return TorchModel(module=module, space=space, classes=classes, device=device)


def _net(space: Space, classes: int, number: int) -> nn.Module:
    if space.is_image and number % 2 == 0:
        return small_cnn(shape=space.shape, classes=classes, width=WIDTHS[0])  # type: ignore[arg-type]
    return nn.Sequential(nn.Flatten(), small_mlp(inputs=math.prod(space.shape), classes=classes, width=WIDTHS[1]))


def teach(surrogate: TorchModel, x: Array, target: Array, *, steps: int, generator: torch.Generator) -> None:
    """``steps`` steps of Adam on the cross-entropy with answers ``target`` ``(n, k)`` to rows ``x``; the surrogate changes in place."""
    inputs, wanted = surrogate.tensor(x), surrogate.tensor(target)
    module = surrogate.module
    assert isinstance(module, Ensemble)
    optimizer = torch.optim.Adam(module.parameters(), lr=RATE, weight_decay=DECAY, fused=True)
    for _ in range(steps):
        rows = torch.randint(len(inputs), (min(BATCH, len(inputs)),), generator=generator).to(inputs.device)
        optimizer.zero_grad(set_to_none=True)
        logits = module.each(inputs[rows])
        loss = -(wanted[rows] * logits.log_softmax(2)).sum(2).mean()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
