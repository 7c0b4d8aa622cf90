"""The built-in cases: real enough to learn from, made or shipped offline.

>>> sorted(CASES)
['fraud', 'images', 'patients']
>>> builtin("patients").test.class_names
('benign', 'malignant')
"""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

from carbide.types import InputError, PriceTable, Splits

CASES = {"fraud": "payments and the frauds among them (made)", "patients": "breast-tumour records", "images": "handwritten digits"}
HERE = Path(__file__).parent
PRICES = HERE / "fraud-prices.json"
SPACE = HERE / "fraud-space.json"


def builtin(name: str, *, seed: int = 0) -> Splits:
    """Train, validation and test of a built-in case; the same seed gives the same rows, made once a process.

    Raises:
        InputError: if there is no such case.
    """
    if name not in CASES:
        raise InputError(f"built-in case {name!r} is not known; choose {', '.join(CASES)}")
    return _made(name, seed)


def builtin_prices(name: str) -> PriceTable | None:
    """What an attacker of the case pays to change a row; None where no price is known.

    Raises:
        InputError: if there is no such case.
    """
    if name not in CASES:
        raise InputError(f"built-in case {name!r} is not known; choose {', '.join(CASES)}")
    return _fraud_prices() if name == "fraud" else None


@functools.lru_cache(maxsize=8)
def _made(name: str, seed: int) -> Splits:
    return importlib.import_module(f"carbide.data.cases.{name}").splits(seed)


@functools.cache
def _fraud_prices() -> PriceTable:
    from carbide.data.cases.fraud import fraud_space
    from carbide.space.prices import load_prices

    return load_prices(PRICES, fraud_space())
