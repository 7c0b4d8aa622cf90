"""How the search's inner functions are compiled: without counting references.

They are handed dozens of arrays at a time, which their caller holds, and never make one. Counting up and down what each of them takes
from its arguments, as numba does otherwise, takes three quarters of a search.
"""

from __future__ import annotations

from typing import Any

from numba import njit

UNCOUNTED: dict[str, Any] = {"cache": True, "_nrt": False}


def _decorator() -> Any:
    """numba's decorator with these options, or without the second where a numba does not know it: slower, and the same otherwise."""
    try:
        njit(**UNCOUNTED)(lambda: None)
    except KeyError:
        return njit(cache=True)
    return njit(**UNCOUNTED)


uncounted = _decorator()
