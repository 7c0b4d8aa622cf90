"""Data: file formats, splits and built-in cases.

>>> from carbide.data import builtin
>>> splits = builtin("patients")
>>> splits.train.space.shape
(30,)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from carbide.types import Splits

if TYPE_CHECKING:
    from carbide.data.cases import builtin
    from carbide.data.load import Loaded, load_data

__all__ = ["Loaded", "Splits", "builtin", "load_data"]
_HOMES = {"load_data": "carbide.data.load", "Loaded": "carbide.data.load", "builtin": "carbide.data.cases"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'carbide.data' has no attribute {name!r}")
