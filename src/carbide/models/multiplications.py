"""How much work a row is for a net: the multiplications of the layers that hold a weight.

>>> from carbide.models.nets import small_cnn
>>> multiplications(small_cnn(), torch.zeros(3, 1, 8, 8), most=1_000_000)
445696
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def multiplications(module: nn.Module, x: Tensor, *, most: int) -> int:
    """The multiplications a row of a pass of ``x`` ``(n >= 1, *shape)`` through layers that hold a weight, and at least as many as there are parameters.

    The pass is one in inference mode, and left out where there are more than ``most`` parameters, who asks for no more; the module's mode,
    gradients and torch's random state stay as they are.
    """
    parameters, counts = sum(p.numel() for p in module.parameters()), [0]
    if parameters > most:
        return parameters

    def count(layer: nn.Module, _: Any, out: Any) -> None:
        weight = getattr(layer, "weight", None)
        if isinstance(out, Tensor) and isinstance(weight, Tensor) and weight.ndim > 1:
            counts.append(out.numel() // len(x) * weight[0].numel())

    modes = [(layer, layer.training) for layer in module.modules()]
    hooks = [layer.register_forward_hook(count) for layer, _ in modes]
    try:
        for layer, _ in modes:
            layer.training = False
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(x)
    finally:
        for hook in hooks:
            hook.remove()
        for layer, mode in modes:
            layer.training = mode
    return max(sum(counts), parameters)
