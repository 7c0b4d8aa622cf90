"""Models of every framework behind one protocol; nothing heavy is imported before it is needed.

``load_model`` reads files without running code from them, ``wrap`` takes live objects, ``make_recipe`` says how a model
is trained, ``pack`` and ``unpack`` store models without pickles, ``save_model`` and ``load_saved`` write and read the
folder that users serve from.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carbide.models.checks import check_model
    from carbide.models.doors import load_model, wrap
    from carbide.models.packing import allow_factory, pack, unpack
    from carbide.models.recipes import make_recipe
    from carbide.models.saving import forget_model, load_saved, save_model

__all__ = ["allow_factory", "check_model", "forget_model", "load_model", "load_saved", "make_recipe", "pack", "save_model", "unpack", "wrap"]

_HOMES = {"allow_factory": "packing", "check_model": "checks", "forget_model": "saving", "load_model": "doors", "load_saved": "saving", "make_recipe": "recipes",
          "pack": "packing", "save_model": "saving", "unpack": "packing", "wrap": "doors"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"carbide.models.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
