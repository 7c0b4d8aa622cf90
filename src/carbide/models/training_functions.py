"""Any function that trains as a recipe: ``function(x, y, rng, **params)`` returns a model, or the weights of a linear one.

>>> import numpy as np
>>> from carbide.types import Space
>>> recipe = FunctionRecipe(function=lambda x, y, rng: x[y == 1].mean(0) - x[y == 0].mean(0) + rng.normal(size=2))
>>> recipe.describe()["recipe"]
'<lambda>'
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carbide.models._files import one_line
from carbide.models.callables import resolve
from carbide.models.doors import wrap
from carbide.types import BLACK_BOX, Access, Array, Dataset, InputError, Model, Rng, Space, digest


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearAnswers:
    """A linear model with weights ``(1 or k, d or d + 1)``, the intercept last; one row of weights is the logit of class 1."""

    weights: Array
    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        """Labels and scores."""
        return BLACK_BOX

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64 of rows ``(n, *shape)``."""
        d = int(np.prod(self.space.shape))
        logits = x.reshape(len(x), -1) @ self.weights[:, :d].T + (self.weights[:, d] if self.weights.shape[1] > d else 0.0)
        if len(self.weights) == 1:
            logits = np.column_stack([np.zeros(len(x)), logits[:, 0]])
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    def at(self, threshold: float) -> LinearAnswers:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of weights, space and threshold."""
        return digest(self.weights, self.space, self.threshold)

    def to_state(self) -> dict[str, Any]:
        """Plain values and arrays."""
        return {"weights": self.weights, "space": self.space, "classes": self.classes, "threshold": self.threshold}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> LinearAnswers:
        """The model that ``to_state`` was taken from."""
        return cls(**state)


@dataclass(frozen=True, kw_only=True, eq=False)
class FunctionRecipe:
    """Trains by calling ``function(x, y, rng, **params)`` with rows ``(n, *shape)``, labels ``(n,)`` and a numpy generator.

    It returns a model as ``carbide.models.wrap`` takes it (a fitted estimator, a torch module, a function of rows) or an array of
    linear weights: ``(d,)`` or ``(d + 1,)`` with the intercept last for two classes, ``(k, d)`` or ``(k, d + 1)`` for k. What is drawn
    from another source than ``rng`` does not repeat. ``address`` is ``"module:function"`` where it was named so.
    """

    function: Callable[..., Any]
    address: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(f"the training function {self.name} is a {type(self.function).__name__}; give a function of (x, y, rng)")

    @property
    def name(self) -> str:
        """The function's address or name."""
        return self.address or getattr(self.function, "__qualname__", type(self.function).__name__)

    def call(self, dataset: Dataset, rng: Rng) -> Any:
        """What the function returns.

        Raises:
            InputError: if it fails.
        """
        try:
            return self.function(dataset.x.copy(), dataset.y.copy(), rng, **self.params)
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"the training function {self.name} failed on rows of shape {dataset.x.shape} ({type(error).__name__}: "
                             f"{one_line(error)}); make it take (x, y, rng)") from error  # fmt: skip

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The model that the function returns.

        Raises:
            InputError: if it returns nothing that answers.
        """
        return as_model(self.call(dataset, rng), self.name, dataset.space, dataset.classes)

    def describe(self) -> dict[str, Any]:
        """Name, source text, parameters and what the function closes over: as much of it as can be seen from outside."""
        try:
            text = inspect.getsource(self.function)
        except (OSError, TypeError):
            text = ""
        held = [repr(cell.cell_contents) for cell in getattr(self.function, "__closure__", None) or ()]
        return {
            "recipe": self.name,
            "source": text,
            "params": dict(self.params),
            "closure": held,
            "partial": repr(getattr(self.function, "keywords", "")),
        }


def function_recipe(spec: Any) -> FunctionRecipe:
    """The recipe of a plan's entry: an address ``"module:function"``, or a mapping with ``function`` and further parameters.

    Raises:
        InputError: if the entry is another thing or the function is not there.
    """
    if not isinstance(spec, Mapping):
        spec = {"function": spec}
    given = {str(key): value for key, value in spec.items()}
    address = given.pop("function", None)
    if not isinstance(address, str):
        raise InputError(f"recipe callable is {address!r}; give the address of a training function, e.g. callable: mine.training:fit")
    return FunctionRecipe(function=resolve(address), address=address, params=given)


def as_model(result: Any, name: str, space: Space, classes: int) -> Model:
    """What a training function returned, as a model.

    Raises:
        InputError: if it is an array that is no linear model, or nothing that answers.
    """
    if not isinstance(result, np.ndarray):
        return wrap(result, space=space, classes=classes)
    d = int(np.prod(space.shape))
    weights = np.atleast_2d(np.asarray(result, np.float64))
    if weights.ndim != 2 or weights.shape[1] not in (d, d + 1) or len(weights) not in ({1, 2} if classes == 2 else {classes}):
        raise InputError(f"the training function {name} returned an array of shape {result.shape}, which is no linear model of {d} features and "
                         f"{classes} classes; return weights ({d + 1},) or ({classes}, {d + 1}), or a model that answers")  # fmt: skip
    return LinearAnswers(weights=weights, space=space, classes=classes)
