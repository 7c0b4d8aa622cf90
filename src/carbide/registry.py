"""Finds every method by walking the threat folders; no list is kept by hand.

A method is a frozen keyword-only dataclass with ``__call__`` in ``carbide/<threat>/<verb>/<name>.py``. The first line of
its module cites the paper and its address; its fields are the keys of the plan file.

>>> entries = methods(room="evasion", verb="audit")
>>> all(entry.room == "evasion" for entry in entries)
True
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import numbers
import pkgutil
import types
import typing
from typing import Any, ClassVar

from carbide.types import Access, Case, InputError, Threat

ROOMS = ("evasion", "poisoning", "privacy", "extraction")
VERBS = ("audit", "harden", "prove", "guard")

# The parameters after self that each slot takes; harden and prove come in two forms, told apart by the first name.
SLOTS: dict[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    ("evasion", "audit"): (("model", "x", "y", "threat", "rng"),),
    ("poisoning", "audit"): (("dataset", "threat", "rng"),),
    ("privacy", "audit"): (
        ("model", "dataset", "rng", "shadows"),
        ("pilot", "dataset", "threat", "rng"),
        ("model", "puzzle", "threat", "rng"),
        ("model", "others", "threat", "rng"),
        ("model", "known", "weight", "rng"),
    ),
    ("extraction", "audit"): (("oracle", "pool", "threat", "rng"),),
    **{(room, "harden"): (("recipe", "threat"), ("model", "dataset", "rng")) for room in ROOMS},
    **{(room, "prove"): (("model", "x", "y", "threat", "rng"), ("recipe", "dataset", "x", "y", "threat", "rng")) for room in ROOMS},
    **{(room, "guard"): (("features", "state"),) for room in ROOMS},
}

# Packages that belong to an extra of Carbide: a method whose import lacks one is listed as not installed.
EXTRAS = {"torch": "torch", "safetensors": "torch", "xgboost": "xgboost", "lightgbm": "lightgbm", "catboost": "catboost", "onnx": "onnx",
          "onnxruntime": "onnx", "skops": "skops", "cleanlab": "cleanlab", "opacus": "opacus"}  # fmt: skip


class Method:
    """Base of every method: a subclass is a final, frozen, keyword-only dataclass with ``__call__``.

    ``threats`` are the nouns it speaks, ``needs`` the access it needs from the model, ``trains`` whether it needs the
    recipe (or the training data), ``default`` whether it runs unless the plan names other methods. ``after`` names cheaper
    certificates of single rows that it contains: the verb prove does not ask it about rows that they or attacks have decided.
    """

    threats: ClassVar[tuple[type[Threat], ...]] = ()
    needs: ClassVar[Access] = Access.LABELS
    trains: ClassVar[bool] = False
    default: ClassVar[bool] = True
    after: ClassVar[tuple[str, ...]] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Why this method cannot run on this case beyond access and threat, in one sentence; None = it can."""
        return None

    def unasked(self, case: Case, threat: Threat) -> bool:
        """Whether it runs on this case where the plan names no methods."""
        return self.default

    def quick(self) -> Method:
        """A cheaper variant of an audit method, used where harden chooses among candidates on validation data."""
        return self

    def strengths(self) -> tuple[Method, ...]:
        """For harden: the variants from weak to strong among which the search chooses on validation data."""
        return (self,)

    def lighter(self) -> Method | None:
        """For harden: a variant whose models answer sooner, tried where this one's are slower than the user allows; None = there is none."""
        return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One method as the registry sees it; ``cls`` is None when an extra is missing (then ``missing`` names it)."""

    name: str
    room: str
    verb: str
    cls: type[Method] | None
    paper: str
    summary: str
    missing: str = ""

    @property
    def key(self) -> str:
        """``room/verb/name``, unique."""
        return f"{self.room}/{self.verb}/{self.name}"

    @property
    def form(self) -> str:
        """The name of the first argument: ``model``, ``recipe``, ``dataset`` or ``oracle``."""
        return self.signature[0] if self.cls else ""

    @property
    def signature(self) -> tuple[str, ...]:
        """The parameter names of ``__call__`` after self."""
        return tuple(inspect.signature(self.cls.__call__).parameters)[1:] if self.cls else ()

    def make(self, options: dict[str, Any] | None = None) -> Method:
        """The method with these options.

        Raises:
            InputError: if an extra is missing or an option is unknown or refused by the method.
        """
        if self.cls is None:
            raise InputError(f"method {self.name} needs the {self.missing} extra; install it with: pip install 'carbide[{self.missing}]'")
        known = {f.name for f in dataclasses.fields(self.cls) if f.init}  # type: ignore[arg-type]
        for option in options or {}:
            if option not in known:
                raise InputError(f"method {self.name} has no option {option!r}; its options are {', '.join(sorted(known)) or 'none'}")
        hints = typing.get_type_hints(self.cls) if options else {}
        return self.cls(**{option: _taken(self.name, option, value, hints.get(option)) for option, value in (options or {}).items()})

    def speaks(self, threat: Threat) -> bool:
        """Whether the method speaks this kind of threat."""
        return self.cls is not None and isinstance(threat, self.cls.threats)


WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", type(None): "null"}


def _taken(name: str, option: str, value: Any, hint: Any) -> Any:
    """The value of an option whose type is a plain one, or some of them; whole floats become whole numbers where these are asked for."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if not set(kinds) <= WORDS.keys():
        return value
    if isinstance(value, bool) or value is None or isinstance(value, str):
        fits = type(value) in kinds
    elif isinstance(value, numbers.Real):
        number = float(typing.cast(Any, value))
        fits = float in kinds or (int in kinds and number.is_integer())
        value = int(number) if fits and not isinstance(value, int) and float not in kinds else value
    else:
        fits = False
    if not fits:
        raise InputError(f"{name}: {option} is {value!r}; give {' or '.join(WORDS[kind] for kind in kinds)}")
    return value


def refusal(method: Method, case: Case, threat: Threat) -> str | None:
    """Why a method cannot run on a case, in one sentence; None = it can."""
    if not isinstance(threat, method.threats):
        return f"it does not speak {type(threat).__name__}"
    if method.needs not in case.model.access:
        return f"it needs {method.needs.words()}, and the model gives only {case.model.access.words()}"
    if method.trains and case.recipe is None:
        return "it needs to train models, and the plan has no recipe; add one under recipe:"
    return method.refuses(case, threat)


def methods(*, room: str | None = None, verb: str | None = None) -> tuple[Entry, ...]:
    """Every method of a threat room and verb (None = all), in order of room, verb and name."""
    found = [entry for r in ROOMS for v in VERBS if room in (None, r) and verb in (None, v) for entry in _walk(r, v)]
    return tuple(found)


def method(room: str, verb: str, name: str) -> Entry:
    """The method with this name.

    Raises:
        InputError: if the room has no method of that name.
    """
    entries = methods(room=room, verb=verb)
    for entry in entries:
        if entry.name == name:
            return entry
    raise InputError(f"{room} has no {verb} method {name!r}; it has {', '.join(e.name for e in entries) or 'none'}")


@functools.cache
def _walk(room: str, verb: str) -> tuple[Entry, ...]:
    package = importlib.import_module(f"carbide.{room}.{verb}")
    names = sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))
    return tuple(_entry(room, verb, name) for name in names)


def _entry(room: str, verb: str, name: str) -> Entry:
    path = f"carbide.{room}.{verb}.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        return Entry(name=name, room=room, verb=verb, cls=None, paper="", summary=f"needs the {extra} extra", missing=extra)
    found = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, Method) and c.__module__ == path]
    if len(found) != 1:
        raise TypeError(f"{path} must define exactly one method, but it defines {len(found)}")
    cls = found[0]
    params = getattr(cls, "__dataclass_params__", None)
    if params is None or not params.frozen or not cls.threats:
        raise TypeError(f"{path}: {cls.__name__} must be a frozen keyword-only dataclass that declares its threats")
    paper = (module.__doc__ or "").strip().splitlines()[0] if module.__doc__ else ""
    summary = (cls.__doc__ or "").strip().splitlines()[0] if cls.__doc__ else ""
    return Entry(name=name, room=room, verb=verb, cls=cls, paper=paper, summary=summary)
