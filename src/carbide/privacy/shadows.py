"""Shadow models: one recipe trained many times on known halves of a pool, so that membership is known for every answer.

The halves come in complementary pairs. Every row is in exactly half of the models, and in exactly half of what is left
when a target and its partner are set aside, whether or not the target holds the row: counting references tells nothing.

>>> import numpy as np
>>> design(np.zeros(4, int), 6, np.random.default_rng(0)).sum(0).tolist()
[3, 3, 3, 3]
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from carbide.run import spread
from carbide.types import BLACK_BOX, Access, Array, Dataset, InputError, Recipe, Rng, Space, digest, rng_for

CHUNK = 16  # models a stored step
STACK = 512  # nets that are trained at once and make a stored step: here, not in workers, whose start would cost more


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """``members`` ``(m, n)`` bool: which records each model was trained on; ``answers`` ``(m, n, k)``: its probabilities on them all."""

    members: Array
    answers: Array

    def __post_init__(self) -> None:
        if self.members.shape != self.answers.shape[:2]:
            raise InputError(f"members has shape {self.members.shape} but answers {self.answers.shape}; give answers (models, records, classes)")

    def __len__(self) -> int:
        return len(self.members)

    def without(self, target: int) -> Shadows:
        """The models that stay when a target and its complementary partner are set aside."""
        keep = np.arange(len(self)) // 2 != target // 2
        return Shadows(members=self.members[keep], answers=self.answers[keep])

    def shuffled(self, y: Array, rng: Rng) -> Shadows:
        """The same answers with memberships drawn anew: a world in which nothing can be learned about membership."""
        return replace(self, members=design(y, len(self), rng))


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """The recorded answers ``(n, k)`` of a model that was not kept: it knows the ``n`` rows of ``records`` and no others."""

    records: Dataset
    answers: Array
    threshold: float = 0.5
    access: Access = BLACK_BOX

    @property
    def space(self) -> Space:
        """The records' space."""
        return self.records.space

    @property
    def classes(self) -> int:
        """The number of classes."""
        return self.records.classes

    def predict(self, x: Array) -> Array:
        """The recorded probabilities ``(n, k)`` of these rows.

        Raises:
            InputError: if a row is not among the records.
        """
        if x is self.records.x:
            return self.answers
        try:
            rows = [self._rows[row.tobytes()] for row in np.ascontiguousarray(x, self.records.x.dtype)]
        except KeyError:
            raise InputError("a recorded model was asked about a row that it has no answer for; ask about its own records only") from None
        return self.answers[np.array(rows, np.int64)]

    def at(self, threshold: float) -> Recorded:
        """The same answers deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the records and the answers."""
        return digest(self.records.x, self.answers, self.threshold)

    @functools.cached_property
    def _rows(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in reversed(list(enumerate(np.ascontiguousarray(self.records.x))))}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    recipe: Recipe
    pool: Dataset
    rows: Array
    records: Array
    seed: int
    number: int


def design(y: Array, count: int, rng: Rng) -> Array:
    """Memberships ``(count, n)`` bool in complementary pairs of halves, each class halved too (labels ``y`` ``(n,)``).

    Raises:
        InputError: if ``count`` is odd or below 2.
    """
    if count < 2 or count % 2:
        raise InputError(f"shadows is {count}; give an even number >= 2")
    members = np.zeros((count, len(y)), bool)
    for first in range(0, count, 2):
        for label in np.unique(y):
            rows = rng.permutation(np.flatnonzero(y == label))
            half = (len(rows) + int(rng.integers(2))) // 2
            members[first, rows[:half]] = True
        members[first + 1] = ~members[first]
    return members


def train_shadows(recipe: Recipe, pool: Dataset, count: int, seed: int, *, records: Array | None = None) -> Shadows:
    """``count`` models trained by the recipe on halves of the pool, and their answers on the pool rows ``records`` (None = all).

    Finished models are stored in chunks, so that a killed run goes on; each model has a random stream of its own.

    Raises:
        InputError: if ``count`` is odd or below 2, or the pool has fewer than 4 rows.
    """
    if len(pool) < 4:
        raise InputError(f"the pool of members and non-members has {len(pool)} rows; give at least 4")
    chosen = np.arange(len(pool)) if records is None else records
    members = design(pool.y, count, rng_for(seed, "privacy", "design"))
    jobs = [_Job(recipe=recipe, pool=pool, rows=np.flatnonzero(members[i]), records=chosen, seed=seed, number=i) for i in range(count)]
    key = digest("shadows", recipe.describe(), pool, chosen, seed, count)
    many = getattr(recipe, "many", None)
    if many is not None and many():
        stacks = [jobs[i : i + STACK] for i in range(0, count, STACK)]
        answers = [a for stack in spread(_train_stack, stacks, label="stacks of shadow models", key=key, chunk=1) for a in stack]
    else:
        answers = spread(_train, jobs, label="shadow models", key=key, chunk=CHUNK)
    return Shadows(members=members[:, chosen], answers=np.stack(answers))


def _train_stack(jobs: list[_Job]) -> list[Array]:
    """The answers of several models that are trained at once."""
    first, rngs = jobs[0], [_rng(job) for job in jobs]
    return first.recipe.ask_many(first.pool, [job.rows for job in jobs], rngs, first.pool.x[first.records])  # type: ignore[attr-defined]


def _rng(job: _Job) -> Rng:
    return rng_for(job.seed, "privacy", "shadow", job.number)


def _train(job: _Job) -> Array:
    model = job.recipe.fit(job.pool.take(job.rows), _rng(job))
    return model.predict(job.pool.x[job.records])
