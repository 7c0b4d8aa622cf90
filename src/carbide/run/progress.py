"""Progress bars for whatever takes longer than two seconds; silent when the output is not a terminal."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

from carbide._visible import visible

T = TypeVar("T")
PATIENCE = 2.0  # seconds before a bar appears


class Progress:
    """A display of nested bars on standard error; ``quiet`` True never draws, None draws on terminals only."""

    def __init__(self, *, quiet: bool | None = None) -> None:
        self.quiet = not sys.stderr.isatty() if quiet is None else quiet
        self._display: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._display is not None:
            self._display.stop()
            self._display = None

    def say(self, words: str) -> None:
        """One line about what happens now, unless quiet."""
        if not self.quiet:
            (self._display.console.print if self._display else lambda w: print(w, file=sys.stderr))(visible(words))

    @contextlib.contextmanager
    def bar(self, label: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """A function that advances a bar of ``total`` steps; the bar appears after two seconds."""
        start, done, task = time.monotonic(), 0, None

        def advance(steps: int = 1) -> None:
            nonlocal done, task
            done += steps
            if self.quiet or time.monotonic() - start < PATIENCE:
                return
            if task is None:
                task = self._open().add_task(visible(label), total=total)
            self._display.update(task, completed=done)

        try:
            yield advance
        finally:
            if task is not None:
                self._display.remove_task(task)

    def track(self, items: Iterable[T], *, label: str, total: int | None = None) -> Iterator[T]:
        """The items, advancing a bar after each."""
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        with self.bar(label, total) as advance:
            for item in items:
                yield item
                advance(1)

    def _open(self) -> Any:
        if self._display is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            self._display = Bars(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
                                 console=Console(stderr=True), transient=True)  # fmt: skip
            self._display.start()
        return self._display
