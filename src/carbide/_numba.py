"""numba's ``njit`` for a user who may write neither to the package nor to a home: what is compiled is kept in a folder of theirs among the
temporary ones, and where that cannot be had either, it is compiled anew in each process.

>>> int(njit(cache=True)(lambda a: a + 1)(1))
2
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba

_njit: Any = numba.njit


def njit(**options: Any) -> Any:
    """``numba.njit`` with these options; ``cache=True`` is a wish."""

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return _njit(**options)(function)
        except RuntimeError:  # numba finds no place to write
            if not options.get("cache"):
                raise
        folder = _own_folder()
        if folder is not None:
            numba.config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"] = str(folder)  # type: ignore[attr-defined]  # workers inherit the variable
            with contextlib.suppress(RuntimeError):
                return _njit(**options)(function)
        return _njit(**{**options, "cache": False})(function)

    return compiled


def _own_folder() -> Path | None:
    """A temporary folder that nobody else can write to, the same one each time: what lies in a cache is executed."""
    if not hasattr(os, "getuid"):
        return None
    folder = Path(tempfile.gettempdir()) / f"carbide-numba-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return None
    return folder if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022 else None
