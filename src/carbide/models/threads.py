"""How many threads the layers of a net are worth: one for a small net, all that torch has for others.

Threads that share a layer wait for one another at its end, awake. Where the layer takes less time than the system lets another program run
before it takes a core back, a single busy neighbour makes every layer wait for it, and a small net gains little from a second thread even alone.
The number follows from the net and nothing else, so that what is computed does not depend on who else is using the machine.

>>> from carbide.models.nets import small_cnn
>>> with one_if_small(small_cnn(), torch.zeros(3, 1, 8, 8)):
...     torch.get_num_threads()
1
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from carbide.models.multiplications import multiplications

SMALL = 1_000_000  # multiplications a row up to which one thread takes the net


@contextlib.contextmanager
def one_if_small(module: nn.Module, x: Tensor) -> Iterator[None]:
    """Inside, torch takes one thread if the module is small for rows such as ``x`` ``(n >= 1, *shape)`` on a processor; its number is put back on leaving."""
    before = torch.get_num_threads()
    if before == 1 or x.device.type != "cpu" or multiplications(module, x, most=SMALL) > SMALL:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
