"""Threads that share out compiled work which releases the interpreter; as many as numba was told to use (``NUMBA_NUM_THREADS``)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from numba import config


class Threads:
    """``count`` threads (None = as many as numba's), which start where work is first shared; closed by a ``with`` block."""

    def __init__(self, count: int | None = None) -> None:
        self.count: int = config.NUMBA_NUM_THREADS if count is None else count  # type: ignore[attr-defined]  # get_num_threads would set torch's threads
        self.pool: ThreadPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool is not None:
            self.pool.shutdown()

    def share(self, work: Callable[[int, int], object], size: int, *, even: int = 2) -> None:
        """``work(begin, end)`` on parts of ``range(size)`` that begin at multiples of ``even``, twice as many parts as threads."""
        step = -(-size // (2 * self.count * even)) * even
        begins = iter(range(0, size, step))  # shared: whoever is free takes the next part

        def run() -> None:
            for begin in begins:
                work(begin, min(begin + step, size))

        self.beside(run, 1 if step >= size else self.count)

    def beside(self, run: Callable[[], object], times: int) -> None:
        """``run()`` so many times beside itself, at most once a thread."""
        others = min(times, self.count) - 1
        if others > 0:
            self.pool = self.pool or ThreadPoolExecutor(self.count - 1)
        waiting = [self.pool.submit(run) for _ in range(others)] if self.pool is not None else []
        run()
        for done in waiting:
            done.result()
