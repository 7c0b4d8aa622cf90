"""Carbide audits, hardens, proves and guards machine-learning models.

The names below load what they need on first use; importing ``carbide`` itself loads neither torch nor scikit-learn.

>>> import carbide
>>> carbide.LpBall(eps=0.1).words()
'Linf change of at most 0.1'
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "audit": "carbide.api", "harden": "carbide.api", "prove": "carbide.api", "prove_claims": "carbide.api", "prove_property": "carbide.api", "load_model": "carbide.api", "load_data": "carbide.api", "run": "carbide.api",
    "Plan": "carbide.plan", "Report": "carbide.pipeline",
    "Monotone": "carbide.evasion.claims", "NeverFlips": "carbide.evasion.claims",
    **dict.fromkeys(("Access", "AttributeInference", "Backdoor", "Bracket", "CarbideError", "Certificate", "Corruption", "Dataset", "Decision", "Distortion", "FeatureBudget", "Finding", "Flips", "InputError", "LpBall", "Membership", "OperatingPoint", "Outcome", "Patch", "Poison", "Price", "PriceTable", "PrivacyClaim", "Queries", "Reconstruction", "SinglingOut", "Space", "Splits", "Threat", "UnsoundError"), "carbide.types"),
}  # fmt: skip

__all__ = [
    "Access",
    "AttributeInference",
    "Backdoor",
    "Bracket",
    "CarbideError",
    "Certificate",
    "Corruption",
    "Dataset",
    "Decision",
    "Distortion",
    "FeatureBudget",
    "Finding",
    "Flips",
    "InputError",
    "LpBall",
    "Membership",
    "Monotone",
    "NeverFlips",
    "OperatingPoint",
    "Outcome",
    "Patch",
    "Plan",
    "Poison",
    "Price",
    "PriceTable",
    "PrivacyClaim",
    "Queries",
    "Reconstruction",
    "Report",
    "SinglingOut",
    "Space",
    "Splits",
    "Threat",
    "UnsoundError",
    "__version__",
    "audit",
    "harden",
    "load_data",
    "load_model",
    "prove",
    "prove_claims",
    "prove_property",
    "run",
]  # fmt: skip

if TYPE_CHECKING:
    from carbide.api import audit, harden, load_data, load_model, prove, prove_claims, prove_property, run
    from carbide.evasion.claims import Monotone, NeverFlips
    from carbide.pipeline import Report
    from carbide.plan import Plan
    from carbide.types import (
        Access,
        AttributeInference,
        Backdoor,
        Bracket,
        CarbideError,
        Certificate,
        Corruption,
        Dataset,
        Decision,
        Distortion,
        FeatureBudget,
        Finding,
        Flips,
        InputError,
        LpBall,
        Membership,
        OperatingPoint,
        Outcome,
        Patch,
        Poison,
        Price,
        PriceTable,
        PrivacyClaim,
        Queries,
        Reconstruction,
        SinglingOut,
        Space,
        Splits,
        Threat,
        UnsoundError,
    )  # fmt: skip


class _Package(ModuleType):
    """The package, of which a name above stays what it is: importing the sub-package ``carbide.run`` would put it in the place of the verb ``run``."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'carbide' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
