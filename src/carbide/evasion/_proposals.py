"""An attack's proposals for many rows: made in shards, in processes of their own where the model allows it, and none that touched what it was given.

How rows are cut into shards depends on their number alone, so that any number of workers gives the same proposals.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.evasion._counted import Counted
from carbide.registry import Method
from carbide.run import halving, spread
from carbide.types import CarbideError, Dataset, Model, Rng, Threat

SHARD = 1000  # rows that a process attacks at a time
CHANGED = "the model's parameters changed while it was attacked; put it in inference mode and freeze its buffers"


class Changed(CarbideError):
    """The model is not what it was: nothing that was measured on it counts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Proposing:
    """A method that attacks ``model`` as ``view`` shows it."""

    model: Model
    view: Model
    method: Method
    threat: Threat

    def all_rows(self, data: Dataset, name: str, key: Any, stream: Callable[..., Rng]) -> dict[str, Any]:
        """Inputs ``x`` ``(n, *shape)``, ``queries`` and ``stage`` ``(n,)`` or None; ``stream(number)`` draws for each shard but the first, ``stream()``.

        Finished shards are stored under ``key``, so that a killed run goes on after the last ones.
        """
        count = -(-len(data) // SHARD) if getattr(self.model, "apart", False) else 1
        parts = [data.take(rows) for rows in np.array_split(np.arange(len(data)), count)]
        work = [(part, stream(number) if number else stream()) for number, part in enumerate(parts)]
        found = spread(self, work, label=name, key=(*key, "shards") if count > 1 else None)
        return {"x": np.concatenate([f["x"] for f in found]), "queries": sum(f["queries"] for f in found),
                "stage": None if found[0]["stage"] is None else np.concatenate([f["stage"] for f in found])}  # fmt: skip

    def __call__(self, shard: tuple[Dataset, Rng]) -> dict[str, Any]:
        """The same for one shard and its stream, which is copied, so that a second try draws the same."""
        data, start = shard

        def work() -> dict[str, Any]:
            counted, x, y, rng = Counted(self.view), data.x.copy(), data.y.copy(), copy.deepcopy(start)
            before = self.model.digest()
            propose = getattr(self.method, "propose", None)
            staged = None if propose is None else propose(counted, x, y, self.threat, rng)
            proposal = self.method(counted, x, y, self.threat, rng) if staged is None else staged.x
            if self.model.digest() != before:
                raise Changed(CHANGED)
            if not (np.array_equal(x, data.x) and np.array_equal(y, data.y)):
                raise CarbideError("it changed its inputs in place, so what it returned cannot be trusted")
            return {"x": np.asarray(proposal, np.float64), "queries": counted.queries, "stage": None if staged is None else staged.stage.astype(str)}

        return halving(work)
