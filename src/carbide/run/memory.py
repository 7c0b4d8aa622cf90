"""When memory runs out: half as many rows at once, and go on.

Loops over batches ask ``rows_at_once`` how many rows to take; ``halving`` runs such a loop again with half of them whenever a device
(or the machine) has no memory left.

>>> def work():
...     if rows_at_once(1024) > 300:
...         raise MemoryError
...     return rows_at_once(1024)
>>> halving(work)
256
>>> rows_at_once(1024)
1024
"""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Callable
from typing import TypeVar

from carbide.types import InputError

T = TypeVar("T")
HALVINGS = 12  # of the usual numbers of rows, after which one row at a time is what is left
_halvings: contextvars.ContextVar[int] = contextvars.ContextVar("carbide_halvings", default=0)


def rows_at_once(usual: int) -> int:
    """How many rows a batch may have where ``usual`` are taken when there is room."""
    return max(1, usual >> _halvings.get())


def halving(work: Callable[[], T]) -> T:
    """``work()``; begun anew with half as many rows at once each time memory runs out.

    Raises:
        InputError: if one row at a time does not fit either.
    """
    for halvings in range(_halvings.get(), HALVINGS + 1):
        token = _halvings.set(halvings)
        try:
            return work()
        except (MemoryError, RuntimeError) as error:
            if not full(error):
                raise
        finally:
            _halvings.reset(token)
        _let_go()
    raise InputError("memory ran out even with one row at a time; choose another device, a smaller model, or close what else uses the memory")


def full(error: BaseException) -> bool:
    """Whether an error says that memory ran out, in the words of Python, numpy or torch."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in said or "can't allocate memory" in said


def _let_go() -> None:
    """Give back what torch keeps for later."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
