"""Tree ensembles of every library in one intermediate form."""

from __future__ import annotations

from typing import Any

from carbide.models.trees.ensemble import Ensemble
from carbide.types import InputError


def is_tree_ensemble(estimator: Any) -> bool:
    """Whether ``ensemble_of`` can read this fitted estimator."""
    return False


def ensemble_of(estimator: Any) -> Ensemble:
    """The trees of a fitted estimator in the intermediate form."""
    raise InputError(f"{type(estimator).__name__} is no tree ensemble that Carbide can read")
