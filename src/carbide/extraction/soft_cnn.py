"""A small CNN trained against probabilities instead of labels, for copies of image models."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from carbide.models.nets import small_cnn
from carbide.models.torch_net import TorchModel
from carbide.types import Array, Space


@dataclass(frozen=True, kw_only=True, eq=False)
class Cnn:
    """The trained net as a function of rows."""

    model: TorchModel

    def __call__(self, x: Array) -> Array:
        return self.model.predict(x)


def train_cnn(x: Array, target: Array, seed: int, *, batch: int = 64, rate: float = 3e-3, width: int = 16) -> Cnn:
    """A CNN of images ``(n, c, h, w)`` trained on cross-entropy with ``target`` ``(n, k)`` by Adam with a one-cycle rate."""
    steps = int(np.clip(30 * len(x) / batch, 120, 400))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = small_cnn(shape=tuple(x.shape[1:]), classes=target.shape[1], width=width)  # type: ignore[arg-type]
    inputs, wanted = torch.as_tensor(np.asarray(x), dtype=torch.float32), torch.as_tensor(target, dtype=torch.float32)
    optimizer = torch.optim.Adam(module.parameters(), lr=rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    loss = nn.CrossEntropyLoss()
    module.train()
    for _ in range(steps):
        rows = torch.randint(len(inputs), (min(batch, len(inputs)),), generator=generator)
        optimizer.zero_grad(set_to_none=True)
        loss(module(inputs[rows]), wanted[rows]).backward()
        optimizer.step()
        schedule.step()
    return Cnn(model=TorchModel(module=module, space=Space.image(tuple(x.shape[1:])), classes=target.shape[1]))
