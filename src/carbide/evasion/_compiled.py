"""How functions are compiled that compiled code alone calls: without a door for Python and, inside a search, without counting references.

Such functions are handed dozens of arrays at a time, which their caller holds, and make none. Counting up and down what each of them takes
from its arguments, as numba does otherwise, is three quarters of the time of a search. Called from Python such a function would lose memory,
and so it cannot be.
"""

from __future__ import annotations

from typing import Any

from carbide._numba import njit

WRAPPERLESS: dict[str, Any] = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
inner: Any = njit(cache=True, nogil=True, **WRAPPERLESS)


def _uncounted() -> Any:
    """numba's decorator without counted references or, where a numba does not know that, with them: slower, and the same otherwise."""
    options: dict[str, Any] = {"cache": True, **WRAPPERLESS}
    try:
        njit(**options, _nrt=False)(lambda: None)
    except KeyError:
        return njit(**options)
    return njit(**options, _nrt=False)


uncounted: Any = _uncounted()
