"""The intermediate form of tree ensembles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class Ensemble:
    """Placeholder that the tree room replaces."""
