"""How many threads the layers of a net are worth: one for a small net, all that torch has for others.

Threads that share a layer wait for one another at its end, awake. Where the layer takes less time than the system lets another program run
before it takes a core back, a single busy neighbour makes every layer wait for it, and a small net gains little from a second thread even alone.
The number follows from the net and nothing else, so that what is computed does not depend on who else is using the machine.

>>> from carbide.models.nets import small_cnn
>>> multiplications(small_cnn(), torch.zeros(3, 1, 8, 8))
445696
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 1_000_000  # multiplications a row up to which one thread takes the net


def multiplications(module: nn.Module, x: Tensor) -> int:
    """The multiplications a row of a pass of ``x`` ``(n, *shape)`` through layers that hold a weight, and at least as many as there are parameters.

    The pass is one in inference mode, and left out where there are more than ``SMALL`` parameters; the module's mode, gradients and torch's
    random state stay as they are.
    """
    parameters, counts = sum(p.numel() for p in module.parameters()), [0]
    if parameters > SMALL:
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


@contextlib.contextmanager
def one_if_small(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside, torch takes one thread if the module is small for rows such as ``x`` ``(n >= 1, *shape)`` on a processor; its number is put back on leaving."""
    before = torch.get_num_threads()
    if before == 1 or x.device.type != "cpu" or multiplications(module, x) > SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
