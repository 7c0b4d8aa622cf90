"""Models as plain values and back, without pickles: what the store and the run folder keep.

``pack`` gives ``{"class": "carbide.x.y:Name", "state": {...}}``; ``unpack`` imports classes of Carbide alone, so that a
stored file can choose among Carbide's own constructors and nothing else.

>>> try:
...     unpack({"class": "os:system", "state": {}})
... except ValueError as error:
...     print(str(error).partition(";")[0])
'os:system' is not a class of Carbide that can be stored
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from typing import Any

from carbide.models._files import one_line
from carbide.types import InputError

_ADDRESS = re.compile(r"(carbide(?:\._?[a-z][a-z0-9_]*)+):([A-Za-z][A-Za-z0-9_]*)")
_allowed: set[str] = set()


def pack(model: Any) -> dict[str, Any]:
    """A model of Carbide as its class and its state (plain values, arrays, bytes and models inside).

    Raises:
        TypeError: if it has no ``to_state``.
        InputError: if it holds something that cannot be stored, such as a live function.
    """
    cls = type(model)
    if not (hasattr(cls, "to_state") and hasattr(cls, "from_state") and cls.__module__.startswith("carbide.")):
        raise TypeError(f"cannot store a {cls.__name__}")
    return {"class": f"{cls.__module__}:{cls.__qualname__}", "state": model.to_state()}


def unpack(packed: Mapping[str, Any]) -> Any:
    """The model that ``pack`` described.

    Raises:
        InputError: if it names anything but a class of Carbide that can be stored.
    """
    if not isinstance(packed, Mapping) or set(packed) != {"class", "state"} or not isinstance(packed["state"], Mapping):
        raise InputError("a stored model has neither class nor state; delete the step and run again")
    match = _ADDRESS.fullmatch(str(packed["class"]))
    cls = None
    if match:
        try:
            module = importlib.import_module(match[1])
        except ModuleNotFoundError as error:
            if not (error.name or "").startswith("carbide"):
                raise InputError(f"stored model {packed['class']} needs the package {error.name}; install it") from error
        else:
            cls = vars(module).get(match[2])
    if not (isinstance(cls, type) and cls.__module__ == (match[1] if match else "") and hasattr(cls, "to_state") and hasattr(cls, "from_state")):
        raise InputError(f"{packed['class']!r} is not a class of Carbide that can be stored; the file was not written by this version")
    try:
        return cls.from_state(dict(packed["state"]))  # type: ignore[attr-defined]
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise InputError(
            f"stored model {packed['class']} cannot be rebuilt ({type(error).__name__}: {one_line(error)}); delete the step and run again"
        ) from error


def allow_factory(address: str) -> str:
    """Note that the user named this ``"package.module:function"`` in this process, so stored models may call it."""
    _allowed.add(str(address))
    return address


def check_allowed(address: str) -> None:
    """Whether a stored model may call the function at this address.

    Raises:
        InputError: if it is neither one of ``carbide.models.nets`` nor named by the user in this process.
    """
    if address in _allowed or re.fullmatch(r"carbide\.models\.nets:[a-z][a-z0-9_]*", str(address)):
        return
    raise InputError(f"a stored model wants to call {address!r}, which nothing in this process has named; if you trust it, "
                     f"name it in the plan or with --allow {address}, or call carbide.models.allow_factory on it")  # fmt: skip
