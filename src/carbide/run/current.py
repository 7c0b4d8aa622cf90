"""The run that work belongs to: workers, progress and the store, set once by a verb and found by any method.

Methods call ``spread`` and ``track``; outside a verb they work all the same, in one process and without a store.

>>> spread(abs, [-1, 2], label="absolute values")
[1, 2]
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from carbide.run import cluster
from carbide.run.progress import Progress
from carbide.run.store import Store
from carbide.types import InputError

T = TypeVar("T")
S = TypeVar("S")
PAUSE = 1.0  # seconds between a worker's looks at whether its parent still lives


@dataclass(frozen=True, kw_only=True)
class Run:
    """How work is executed: ``workers`` processes, a progress display, and the store that remembers finished steps."""

    workers: int = 1
    progress: Progress = field(default_factory=Progress)
    store: Store = field(default_factory=Store)


_current: contextvars.ContextVar[Run] = contextvars.ContextVar("carbide_run", default=Run())  # noqa: B039


def current() -> Run:
    """The run in force."""
    return _current.get()


@contextlib.contextmanager
def use(run: Run) -> Iterator[Run]:
    """Make ``run`` the run in force inside the block."""
    token = _current.set(run)
    try:
        with run.progress:
            yield run
    finally:
        _current.reset(token)


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hands() -> int:
    """As many workers as there are cores: of the Ray cluster, where one is named, else of this machine.

    Raises:
        InputError: if a cluster is named and does not answer.
    """
    return cluster.size() if cluster.named() else cores()


def remember(name: str, inputs: Any, compute: Callable[[], T]) -> T:
    """The stored result of the step ``name`` on ``inputs``, or ``compute()``, stored whole before it is returned."""
    return current().store.step(name, inputs, compute)


def track(items: Iterable[T], *, label: str, total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar when they take longer than two seconds."""
    return current().progress.track(items, label=label, total=total)


def spread(work: Callable[[S], T], items: Sequence[S], *, label: str, key: Any = None, chunk: int = 8) -> list[T]:
    """``[work(item) for item in items]`` over the run's workers, one thread each, in order; over a Ray cluster where one is named.

    With ``key`` (anything that ``carbide.types.digest`` takes and that decides the results) finished chunks of
    ``chunk`` items are stored, so that a killed run goes on after the last whole chunk.
    """
    run = current()
    if cluster.named():
        chunk = max(chunk, run.workers)
    chunks = [list(items[i : i + chunk]) for i in range(0, len(items), chunk)]
    done: list[T] = []
    with run.progress.bar(label, len(items)) as advance:
        for number, part in enumerate(chunks):
            if key is None:
                results = _compute(work, part, run.workers)
            else:
                results = run.store.step(
                    f"{label} {number + 1} of {len(chunks)}", (key, number, chunk), lambda part=part: _compute(work, part, run.workers)
                )
            done.extend(results)
            advance(len(part))
    return done


def _compute(work: Callable[[S], T], items: list[S], workers: int) -> list[T]:
    if workers <= 1 or len(items) <= 1:
        return [work(item) for item in items]
    if cluster.named():
        results: Any = cluster.compute(functools.partial(_refusing, work), items)
    else:
        from joblib import Parallel, delayed

        pool = Parallel(n_jobs=min(workers, len(items)), backend="loky", inner_max_num_threads=1)
        results = list(pool(delayed(_as_child)(os.getpid(), work, item) for item in items))
    for refused, result in results:  # the first in order, whichever process was the first to refuse
        if refused:
            raise result
    return [result for _, result in results]


def _as_child(parent: int, work: Callable[[S], T], item: S) -> tuple[bool, Any]:
    """The same in a worker, which ends soon after its parent, however that one ends."""
    _end_with(parent)
    return _refusing(work, item)


@functools.cache
def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PAUSE)
        os._exit(1)

    if os.getppid() == parent:
        threading.Thread(target=watch, daemon=True).start()


def _refusing(work: Callable[[S], T], item: S) -> tuple[bool, Any]:
    """Whether the work refuses the item, and the refusal or the result."""
    try:
        return False, work(item)
    except InputError as error:
        return True, error
