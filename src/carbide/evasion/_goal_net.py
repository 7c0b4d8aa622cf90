"""The net of a target class: two logits, the largest of the others and the target's.

The largest of several has a gradient that jumps where two are equal, and there, between two other classes, an attacker who follows
it stands still. Its value is therefore exact, and its gradient that of a soft maximum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SOFT = 0.02  # temperature of the soft maximum, as a share of how far a row's logits lie apart


class AimedNet(nn.Module):
    """Whether an input is of the class ``target``, as two logits whose difference is the model's margin towards it.

    >>> from carbide.models.torch_net import TorchModel
    >>> from carbide.types import Space
    >>> model = TorchModel(module=nn.Identity(), space=Space.table(["a", "b", "c"]), classes=3)
    >>> AimedNet(model, 0)(torch.tensor([[1.0, 4.0, 2.0]])).tolist()
    [[4.0, 1.0]]
    """

    def __init__(self, model: Any, target: int) -> None:
        super().__init__()
        self.inner, self.model, self.target = model.module, [model], target  # in a list, so that the module is registered once

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(n, 2)``."""
        logits = self.model[0].logits(x)
        others = torch.cat([logits[:, : self.target], logits[:, self.target + 1 :]], 1)
        apart = (logits.amax(1) - logits.amin(1)).detach() * SOFT + torch.finfo(logits.dtype).tiny
        soft = apart * (others / apart[:, None]).logsumexp(1)
        most = soft + (others.amax(1) - soft).detach()
        return torch.stack([most, logits[:, self.target]], 1)

    def extra_repr(self) -> str:
        """What tells two targets apart."""
        return f"target={self.target}"
