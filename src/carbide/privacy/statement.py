"""Where a model or a recipe states what differential privacy it was trained with.

>>> privacy_of(object()) is None
True
"""

from __future__ import annotations

from typing import Any

from carbide.stats.accounting import PrivacyStatement

WRAPPED = ("inner", "model", "base")  # the fields under which wrappers keep what they wrap


def privacy_of(thing: Any) -> PrivacyStatement | None:
    """The statement of a model, found through its wrappers, or None.

    What a wrapper does to answers cannot undo differential privacy, so the statement of the model inside holds for the
    whole. That is not so for recipes, where a wrapper may have looked at the data first: see ``stated_by``.
    """
    for _ in range(8):
        found = getattr(thing, "privacy", None)
        if isinstance(found, PrivacyStatement):
            return found
        thing = next((getattr(thing, name) for name in WRAPPED if hasattr(thing, name)), None)
        if thing is None:
            return None
    return None


def stated_by(recipe: Any) -> PrivacyStatement | None:
    """The statement that a recipe itself makes about the models it trains; wrappers must make it themselves."""
    found = getattr(recipe, "privacy", None)
    return found if isinstance(found, PrivacyStatement) else None
