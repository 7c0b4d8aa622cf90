"""Any function from inputs to answers as a model: black box, by what it answers.

>>> import numpy as np
>>> from carbide.types import Space
>>> model = CallableModel(function=lambda x: (x[:, 0] > 0).astype(int), space=Space.table(["a"]), classes=2, answers="labels")
>>> model.predict(np.array([[-1.0], [2.0]])).tolist(), model.access.words()
([[1.0, 0.0], [0.0, 1.0]], 'labels')
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.models._answers import check_answers, detect, probe_rows, to_probabilities
from carbide.models._files import one_line
from carbide.types import BLACK_BOX, Access, Array, InputError, Space, digest, rng_for


@dataclass(frozen=True, kw_only=True, eq=False)
class CallableModel:
    """A function that maps ``(n, *shape)`` to ``answers``: probabilities, logits (both ``(n, k)``) or labels ``(n,)``.

    ``address`` is ``"module:function"`` where the function was named so; only then can the model be stored.
    ``labels`` are the function's own names of classes 0, 1, ... where it answers other labels than these numbers.
    """

    function: Callable[[Array], Any]
    space: Space
    classes: int
    answers: str = "auto"
    address: str = ""
    labels: tuple[Any, ...] = ()
    batch: int = 4096
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise InputError(f"{self.name} is a {type(self.function).__name__}, not a function; give something that can be called with rows")
        if check_answers(self.answers) == "auto":
            object.__setattr__(self, "answers", "labels" if self.labels else detect(self._ask(self._probe), classes=self.classes, name=self.name))

    @property
    def name(self) -> str:
        """The function's address or name."""
        return self.address or getattr(self.function, "__qualname__", type(self.function).__name__)

    @property
    def access(self) -> Access:
        """Labels alone, or scores too."""
        return Access.LABELS if self.answers == "labels" else BLACK_BOX

    @property
    def _probe(self) -> Array:
        return probe_rows(self.space, rng_for(0, "probe"))

    def _ask(self, x: Array) -> Any:
        try:
            return self.function(x)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"{self.name} failed on rows of shape {x.shape} ({type(error).__name__}: {one_line(error)}); make it take (n, *{self.space.shape})"
            ) from error

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64; one-hot where the function answers labels."""
        parts = [to_probabilities(self._ask(part), rows=len(part), classes=self.classes, answers=self.answers, name=self.name, labels=self.labels)
                 for part in (x[i : i + self.batch] for i in range(0, len(x), self.batch))]  # fmt: skip
        return np.concatenate(parts) if parts else np.zeros((0, self.classes))

    def at(self, threshold: float) -> CallableModel:
        """The same model deciding at another threshold.

        Raises:
            InputError: if it answers labels only, whose threshold nobody can move.
        """
        if self.answers == "labels" and threshold != self.threshold:
            raise InputError(f"{self.name} answers labels only, so its threshold cannot be set to {threshold:g}; leave out operating_point")
        return replace(self, threshold=threshold)

    @functools.cached_property
    def _identity(self) -> str:
        """Name, source text and answers to a few fixed rows: as much of a function as can be seen from outside."""
        try:
            text = inspect.getsource(self.function)
        except (OSError, TypeError):
            text = ""
        return digest(self.name, text, self.answers, self.classes, self.labels, np.round(self.predict(self._probe), 6))

    def digest(self) -> str:
        """A hash of the function's name, its source text and its answers to a few fixed rows."""
        return f"{self._identity}{self.threshold}"

    def to_state(self) -> dict[str, Any]:
        """The function's address and how it answers.

        Raises:
            InputError: if the function was given live, because code cannot be stored.
        """
        if not self.address:
            raise InputError(f"{self.name} is a live function and cannot be stored; name it in the plan as callable: package.module:function")
        return {"address": self.address, "space": self.space, "classes": self.classes, "answers": self.answers, "labels": list(self.labels),
                "batch": self.batch, "threshold": self.threshold}  # fmt: skip

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> CallableModel:
        """The model of ``to_state``; the function must have been named by the user in this process."""
        from carbide.models.packing import check_allowed

        check_allowed(state["address"])
        return cls(function=resolve(state["address"]), **{**state, "labels": tuple(state["labels"])})


def resolve(address: str) -> Any:
    """The object that ``"package.module:name"`` names.

    Raises:
        InputError: if there is none.
    """
    module_name, colon, name = str(address).partition(":")
    if not (colon and module_name and name):
        raise InputError(f"{address!r} is no address of a function; write it as package.module:function")
    try:
        return functools.reduce(getattr, name.split("."), importlib.import_module(module_name))
    except Exception as error:  # the user's module may fail with anything while it is imported
        raise InputError(
            f"{address!r} cannot be imported ({type(error).__name__}: {one_line(error)}); write it as package.module:function"
        ) from error
