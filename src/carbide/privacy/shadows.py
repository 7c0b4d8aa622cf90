"""Shadow models: one recipe trained many times on known halves of a pool, so that membership is known for every answer.

The halves come in complementary pairs. Every row is in exactly half of the models, and in exactly half of what is left
when a target and its partner are set aside, whether or not the target holds the row: counting references tells nothing,
and a target's own answer never moves the references that it is compared with (Jalko et al. 2026,
https://arxiv.org/abs/2605.25819, on the bias of attacks where it does). With more ``folds`` the models come in rings that
each leave every row out once: a model holds all rows but a fold, at last all but one.

>>> import numpy as np
>>> design(np.zeros(4, int), 6, np.random.default_rng(0)).sum(0).tolist()
[3, 3, 3, 3]
>>> design(np.zeros(4, int), 8, np.random.default_rng(0), folds=4).sum(0).tolist()
[6, 6, 6, 6]
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from carbide.run import spread
from carbide.types import BLACK_BOX, Access, Array, Dataset, InputError, Model, Recipe, Rng, Space, digest, rng_for

CHUNK = 16  # models a stored step
STACK = 512  # nets that are trained at once and make a stored step: here, not in workers, whose start would cost more


@runtime_checkable
class Prober(Protocol):
    """A method that must ask a living model: ``probe`` gives one number a record, and stands for the model once it is gone."""

    def probe(self, model: Model, records: Dataset, rng: Rng) -> Array: ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Wanted:
    """What is asked of a model beside its answers on the records: answers on rows that no model was trained on, and numbers by name."""

    apart: Dataset | None = None
    probes: Mapping[str, Prober] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.apart is not None or bool(self.probes)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shadows:
    """``members`` ``(m, n)`` bool: which records each model was trained on; ``answers`` ``(m, n, k)``: its probabilities on them all.

    The models come in rings of ``folds``, of which each leaves a row out once. ``apart`` are rows that no model was trained
    on, with ``apart_answers`` ``(m, a, k)``; ``probes`` are ``(m, n)`` by name.
    """

    members: Array
    answers: Array
    folds: int = 2
    apart: Dataset | None = None
    apart_answers: Array | None = None
    probes: Mapping[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.members.shape != self.answers.shape[:2]:
            raise InputError(f"members has shape {self.members.shape} but answers {self.answers.shape}; give answers (models, records, classes)")

    def __len__(self) -> int:
        return len(self.members)

    def without(self, target: int) -> Shadows:
        """The models that stay when a target and the others of its ring are set aside."""
        keep = np.arange(len(self)) // self.folds != target // self.folds
        return replace(self, members=self.members[keep], answers=self.answers[keep], probes={name: found[keep] for name, found in self.probes.items()},
                       apart_answers=None if self.apart_answers is None else self.apart_answers[keep])  # fmt: skip

    def shuffled(self, y: Array, rng: Rng) -> Shadows:
        """The same answers with memberships drawn anew: a world in which nothing can be learned about membership."""
        return replace(self, members=design(y, len(self), rng, folds=self.folds))

    def target(self, number: int, records: Dataset) -> Recorded:
        """One of the models as an attack sees it, by its answers on these records."""
        return Recorded(records=records, answers=self.answers[number], apart=self.apart, probes={k: v[number] for k, v in self.probes.items()},
                        apart_answers=None if self.apart_answers is None else self.apart_answers[number])  # fmt: skip


def no_shadows(records: Dataset, apart: Dataset | None = None) -> Shadows:
    """No models at all, but perhaps rows that the target was not trained on."""
    n, k = len(records), records.classes
    return Shadows(members=np.zeros((0, n), bool), answers=np.zeros((0, n, k)), apart=apart)


@dataclass(frozen=True, kw_only=True, eq=False)
class Recorded:
    """The recorded answers ``(n, k)`` of a model that was not kept: it knows the ``n`` rows of ``records``, those ``apart``, and no others."""

    records: Dataset
    answers: Array
    threshold: float = 0.5
    access: Access = BLACK_BOX
    apart: Dataset | None = None
    apart_answers: Array | None = None
    probes: Mapping[str, Array] = field(default_factory=dict)

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
        if self.apart is not None and self.apart_answers is not None and x is self.apart.x:
            return self.apart_answers
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


def probed(method: Any, model: Model, records: Dataset, rng: Rng) -> Array:
    """A method's probe ``(n,)`` of a model, asked now or recorded while the model lived.

    Raises:
        InputError: if the model is a recorded one of which the method asked nothing.
    """
    if not isinstance(model, Recorded):
        return method.probe(model, records, rng)
    if repr(method) not in model.probes:
        raise InputError(f"a recorded model was not asked what {type(method).__name__} needs to know; name its probe when shadow models are trained")
    return model.probes[repr(method)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    recipe: Recipe
    pool: Dataset
    rows: Array
    records: Array
    seed: int
    number: int
    wanted: Wanted


def design(y: Array, count: int, rng: Rng, *, folds: int = 2) -> Array:
    """Memberships ``(count, n)`` bool in rings of ``folds`` models, each class spread over the folds too (labels ``y`` ``(n,)``).

    Two folds are complementary halves; as many folds as rows leave one row out of each model.

    Raises:
        InputError: if ``folds`` is not in 2..n, or ``count`` is no multiple of it, or 0.
    """
    if folds != 2:
        return _rings(y, count, rng, folds)
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


def _rings(y: Array, count: int, rng: Rng, folds: int) -> Array:
    """As ``design``: rows are dealt out to the folds class by class, where the last class stopped."""
    if not 2 <= folds <= len(y):
        raise InputError(f"folds is {folds}; give a whole number from 2 (halves) to the {len(y)} rows (all but one)")
    if count < folds or count % folds:
        raise InputError(f"shadows is {count}; give a multiple of the {folds} folds")
    members = np.ones((count, len(y)), bool)
    for first in range(0, count, folds):
        order = np.concatenate([rng.permutation(np.flatnonzero(y == label)) for label in np.unique(y)])
        names = rng.permutation(folds)[np.arange(len(y)) % folds]
        members[first + names, order] = False
    return members


def train_shadows(recipe: Recipe, pool: Dataset, count: int, seed: int, *, records: Array | None = None, wanted: Wanted | None = None,
                  folds: int = 2) -> Shadows:  # fmt: skip
    """``count`` models trained by the recipe on halves of the pool, and their answers on the pool rows ``records`` (None = all).

    With ``folds`` each model is trained on all folds but one instead. ``wanted`` is what is asked of the models besides.
    Finished models are stored in chunks, so that a killed run goes on; each model has a random stream of its own.

    Raises:
        InputError: if ``count`` and ``folds`` are refused by ``design``, or the pool has fewer than 4 rows.
    """
    if len(pool) < 4:
        raise InputError(f"the pool of members and non-members has {len(pool)} rows; give at least 4")
    wanted = wanted or Wanted()
    chosen = np.arange(len(pool)) if records is None else records
    members = design(pool.y, count, rng_for(seed, "privacy", "design"), folds=folds)
    jobs = [_Job(recipe=recipe, pool=pool, rows=np.flatnonzero(members[i]), records=chosen, seed=seed, number=i, wanted=wanted) for i in range(count)]
    more = () if folds == 2 and not wanted else (folds, wanted.apart, {name: repr(probe) for name, probe in wanted.probes.items()})
    key = digest("shadows", recipe.describe(), pool, chosen, seed, count, *more)
    many = getattr(recipe, "many", None)
    if many is not None and many():
        stacks = [jobs[i : i + STACK] for i in range(0, count, STACK)]
        train = _train_stack if not wanted else _train_stack_more
        told = [a for stack in spread(train, stacks, label="stacks of shadow models", key=key, chunk=1) for a in stack]
    else:
        told = spread(_train if not wanted else _train_more, jobs, label="shadow models", key=key, chunk=CHUNK)
    return _gathered(told, members[:, chosen], folds, wanted)


def _gathered(told: list[Any], members: Array, folds: int, wanted: Wanted) -> Shadows:
    if not wanted:
        return Shadows(members=members, answers=np.stack(told), folds=folds)
    return Shadows(members=members, answers=np.stack([t["answers"] for t in told]), folds=folds, apart=wanted.apart,
                   apart_answers=None if wanted.apart is None else np.stack([t["apart"] for t in told]),
                   probes={name: np.stack([t[f"probe {name}"] for t in told]) for name in wanted.probes})  # fmt: skip


def ask(model: Model, records: Dataset, wanted: Wanted, seed: int) -> dict[str, Array]:
    """A model's ``answers`` on the records, those ``apart``, and every probe; the probes draw the same for every model."""
    told = {"answers": model.predict(records.x)}
    if wanted.apart is not None:
        told["apart"] = model.predict(wanted.apart.x)
    for name, method in wanted.probes.items():
        told[f"probe {name}"] = np.asarray(method.probe(model, records, rng_for(seed, "privacy", "probe", name)), np.float64)
    return told


def _train_stack(jobs: list[_Job]) -> list[Array]:
    """The answers of several models that are trained at once."""
    first, rngs = jobs[0], [_rng(job) for job in jobs]
    return first.recipe.ask_many(first.pool, [job.rows for job in jobs], rngs, first.pool.x[first.records])  # type: ignore[attr-defined]


def _train_stack_more(jobs: list[_Job]) -> list[dict[str, Array]]:
    """The same, with what is wanted besides."""
    first, rngs = jobs[0], [_rng(job) for job in jobs]
    records = first.pool.take(first.records)
    models = first.recipe.fit_many(first.pool, [job.rows for job in jobs], rngs)  # type: ignore[attr-defined]
    return [ask(model, records, first.wanted, first.seed) for model in models]


def _rng(job: _Job) -> Rng:
    return rng_for(job.seed, "privacy", "shadow", job.number)


def _train(job: _Job) -> Array:
    model = job.recipe.fit(job.pool.take(job.rows), _rng(job))
    return model.predict(job.pool.x[job.records])


def _train_more(job: _Job) -> dict[str, Array]:
    model = job.recipe.fit(job.pool.take(job.rows), _rng(job))
    return ask(model, job.pool.take(job.records), job.wanted, job.seed)
