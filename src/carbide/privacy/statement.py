"""Where a model or a recipe states what differential privacy it was trained with.

>>> privacy_of(object()) is None
True
"""

from __future__ import annotations

from typing import Any

from carbide.stats.accounting import PrivacyStatement
from carbide.types import Case, InputError, Space

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


SEEN = (
    "the bounds of the features were read off the training rows, so that a model which is scaled by them, or keeps them, gives rows away whatever its noise; declare them: "
    "carbide space infer DATA -o space.json, check each bound against what is known beforehand, and name the file under data: {space: space.json} "
    "(in Python: space=Space.table(names, lower=..., upper=...))"
)


def refuse_seen(space: Space) -> None:
    """Private training takes the space for public knowledge.

    Raises:
        InputError: if its bounds were read off the training rows.
    """
    if space.from_rows:
        raise InputError(SEEN)


def beyond_promise(case: Case) -> str | None:
    """Why what a model states about one row promises nobody anything here, in one sentence; None = it does."""
    if case.model.space.from_rows or (case.recipe is not None and case.data.train.space.from_rows):
        return SEEN
    return next(iter(case.data.train.beyond), None)
