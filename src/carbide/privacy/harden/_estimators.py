"""Changing the estimator inside a recipe, however deep, by the names of its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import is_dataclass, replace
from typing import Any

from carbide.types import InputError, Recipe

INSIDE = ("inner", "recipe", "base")  # the fields under which recipes keep the recipe that they wrap


def estimator_of(recipe: Any) -> Any:
    """The estimator that a recipe trains, or None."""
    for _ in range(8):
        if hasattr(recipe, "estimator"):
            return recipe.estimator
        recipe = next((getattr(recipe, name) for name in INSIDE if hasattr(recipe, name)), None)
    return None


def with_estimator(recipe: Any, change: Callable[[Any], Any]) -> Recipe:
    """The same recipe around ``change(a clone of its estimator)``.

    Raises:
        InputError: if it trains no estimator.
    """
    from sklearn.base import clone

    if is_dataclass(recipe) and not isinstance(recipe, type):
        if hasattr(recipe, "estimator"):
            return replace(recipe, estimator=change(clone(recipe.estimator)))  # type: ignore[return-value]
        for name in INSIDE:
            if hasattr(recipe, name):
                return replace(recipe, **{name: with_estimator(getattr(recipe, name), change)})  # type: ignore[return-value]
    raise InputError(f"recipe {type(recipe).__name__} trains no scikit-learn-style estimator; give recipe: {{estimator: ...}}")


def places(estimator: Any, names: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an estimator (steps of a pipeline included) whose last name is listed, each with its listed value."""
    return {key: names[key.rpartition("__")[2]] for key in sorted(estimator.get_params(deep=True)) if key.rpartition("__")[2] in names}
