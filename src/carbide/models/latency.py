"""How long a model takes to answer one row, as the user would ask it: one row at a time.

>>> from types import SimpleNamespace
>>> import numpy as np
>>> latency(SimpleNamespace(predict=lambda x: x, digest=lambda: "instant"), np.zeros((3, 2))).p50 < 1000
True
"""

from __future__ import annotations

import time

import numpy as np

from carbide.results import Latency
from carbide.run import remember
from carbide.types import Array, Model

ROWS = 64  # rows that are asked for, one after the other


def latency(model: Model, x: Array) -> Latency:
    """Median and 99th percentile in milliseconds over at most 64 of the rows ``(n, *shape)``; measured once a run and remembered."""

    def measure() -> tuple[float, float]:
        rows = x[:ROWS]
        model.predict(rows[:1])
        seconds = []
        for i in range(len(rows)):
            start = time.perf_counter()
            model.predict(rows[i : i + 1])
            seconds.append(time.perf_counter() - start)
        return float(np.percentile(seconds, 50) * 1e3), float(np.percentile(seconds, 99) * 1e3)

    p50, p99 = remember("latency", model, measure)
    return Latency(p50=p50, p99=p99)
