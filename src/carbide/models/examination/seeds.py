"""Draws of a model that answers at random, made to repeat without touching anybody else's draws.

>>> import numpy as np
>>> with seeded(None, 3):
...     first = np.random.random()
>>> with seeded(None, 3):
...     first == np.random.random()
True
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np


@contextlib.contextmanager
def seeded(model: Any, seed: int) -> Iterator[None]:
    """Within, torch draws by the seed; afterwards its generators (and numpy's old one) stand where they stood."""
    kept = np.random.get_state()  # noqa: NPY002  (a model may draw from it)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        with _torch_seeded(str(getattr(model, "device", "cpu")), seed):
            yield
    finally:
        np.random.set_state(kept)  # noqa: NPY002


@contextlib.contextmanager
def _torch_seeded(device: str, seed: int) -> Iterator[None]:
    torch = sys.modules.get("torch")
    if torch is None:  # then no model here draws from it
        yield
        return
    with torch.random.fork_rng(devices=[torch.device(device)] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield
