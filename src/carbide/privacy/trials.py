"""Playing the membership game: which records are asked about, who is a member, and what an attack's scores are.

>>> from carbide.privacy.audit.loss_threshold import LossThreshold
>>> asked_for({"loss_threshold": LossThreshold()})
16
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carbide.privacy.shadows import Prober, Recorded, Shadows, Wanted, ask, no_shadows, train_shadows
from carbide.registry import Method
from carbide.run import remember, track
from carbide.types import Array, Case, Dataset, InputError, Model, decide, rng_for

TARGETS = 16  # models trained when no method asks for a number
UNKNOWN = ("which rows the given model was trained on is unknown, because Carbide itself cut the data; give the rows it saw as train and others as test "
           "(two files under data:, in Python Splits or {'train': (x, y), 'test': (x, y)}), or give a recipe in place of the model")  # fmt: skip
RECORDS = 5000  # records that are asked about; more would only narrow the intervals


@dataclass(frozen=True, kw_only=True, eq=False)
class Game:
    """The records that are asked about, which of them the given model holds (``inside`` ``(n,)``), and the shadow models.

    ``mixed`` are the same shadow models with memberships drawn anew. Both are None without a recipe. ``wanted`` is what
    the methods ask of every model besides, and ``twice`` counts rows that were given to train and to test. ``told`` keeps what the
    given model said, so that one behind an endpoint is asked about each record once, however many methods want to know.
    """

    records: Dataset
    inside: Array
    shadows: Shadows | None = None
    mixed: Shadows | None = None
    wanted: Wanted = field(default_factory=Wanted)
    twice: int = 0
    told: dict[str, Array] = field(default_factory=dict, repr=False)

    @property
    def folds(self) -> int:
        """Into how many folds the rows were cut: each target was trained on all but one."""
        return 2 if self.shadows is None else self.shadows.folds

    @property
    def accuracy(self) -> Array:
        """Each shadow model's accuracy on the records that it was not trained on ``(m,)``."""
        if self.shadows is None:
            return np.zeros(0)
        return np.where(self.shadows.members, 0, self._hits).sum(1) / np.maximum(1, (~self.shadows.members).sum(1))

    @property
    def right(self) -> Array:
        """The share ``(n,)`` of the shadow models not trained on a record that get it right; 0 without shadow models."""
        if self.shadows is None:
            return np.zeros(len(self.records))
        return np.where(self.shadows.members, 0, self._hits).sum(0) / np.maximum(1, (~self.shadows.members).sum(0))

    @functools.cached_property
    def _hits(self) -> Array:
        """Which records ``(m, n)`` each shadow model gets right."""
        assert self.shadows is not None
        return np.stack([decide(answers) == self.records.y for answers in self.shadows.answers])


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """A method's scores ``(targets, records)``, what is true, and the same in a world where nothing can be learned.

    ``own`` are the scores ``(records,)`` for the given model where the targets are others, else None.
    """

    scores: Array
    members: Array
    control: Array
    control_members: Array
    own: Array | None = None


def asked_for(methods: Mapping[str, Method]) -> int:
    """How many shadow models the methods want: the most that any asks for."""
    return max((getattr(m, "shadows", 0) for m in methods.values()), default=0) or TARGETS


def set_up(case: Case, methods: Mapping[str, Method], *, folds: int = 2) -> Game:
    """The records in an order that says nothing about who is a member, and trained shadow models where there is a recipe.

    Raises:
        InputError: if all rows are members or none is, so that there is nobody to tell apart, or ``folds`` do not fit the rows.
    """
    pool, trained, twice = pool_of(case)
    chosen = rng_for(case.seed, "privacy", "records").permutation(len(pool))[:RECORDS]
    records = pool.take(chosen)
    wanted = _wanted(methods, case, pool)
    if case.recipe is None:
        two_sides(trained[chosen])
        return Game(records=records, inside=trained[chosen], wanted=wanted, twice=twice)
    count = asked_for(methods) if folds == 2 else folds * max(2, -(-asked_for(methods) // folds))
    shadows = train_shadows(case.recipe, pool, count, case.seed, records=chosen, wanted=wanted, folds=folds)
    mixed = shadows.shuffled(records.y, rng_for(case.seed, "privacy", "control"))
    return Game(records=records, inside=trained[chosen], shadows=shadows, mixed=mixed, wanted=wanted, twice=twice)


def two_sides(inside: Array) -> None:
    """Whether some rows were trained on and some were not.

    Raises:
        InputError: if all were or none was.
    """
    if inside.all() or not inside.any():
        side = "was trained on" if inside.all() else "was not trained on"
        raise InputError(
            f"the model {side} all {len(inside)} distinct rows, so there is nobody to tell apart; give the train rows it saw and test rows it did not see"
        )


def _wanted(methods: Mapping[str, Method], case: Case, pool: Dataset) -> Wanted:
    """What the methods ask of every model: validation rows that are not in the pool, and probes."""
    probes = {repr(method): method for method in methods.values() if isinstance(method, Prober)}
    if not any(getattr(method, "apart", False) for method in methods.values()):
        return Wanted(probes=probes)
    return Wanted(probes=probes, apart=rows_unseen(case, pool))


def rows_apart(case: Case, pool: Dataset) -> Dataset:
    """The validation rows that are not in the pool. A model that is given may have been trained on them, the shadow models are not."""
    return _beside(case.data.validation, pool)


def rows_unseen(case: Case, pool: Dataset) -> Dataset:
    """The validation rows that are not in the pool and that no model of a game was trained on, the given one included."""
    return _beside(case.data.validation.take(~case.data.saw("validation")), pool)


def rows_seen(case: Case) -> Dataset:
    """All rows that the model was trained on: train, and what it saw of the other parts."""
    data, rows = case.data, case.data.train
    for part in (data.validation.take(data.saw("validation")), data.test.take(data.saw("test"))):
        rows = rows.joined(_beside(part, rows)) if len(part) else rows
    return rows


def _beside(rows: Dataset, pool: Dataset) -> Dataset:
    """The rows that are not in the pool."""
    held = {_bytes(row, label) for row, label in zip(np.ascontiguousarray(pool.x), pool.y, strict=True)}
    fresh = [_bytes(row, label) not in held for row, label in zip(np.ascontiguousarray(rows.x), rows.y, strict=True)]
    return rows.take(np.array(fresh, bool))


def unknown_rows(case: Case) -> str | None:
    """Why nobody can say which rows the model was trained on, and what to do; None = it is known."""
    return UNKNOWN if case.data.seen is None else None


def _bytes(row: Array, label: int) -> bytes:
    return row.tobytes() + int(label).to_bytes(8, "little")


def play(name: str, method: Method, case: Case, game: Game) -> Trial:
    """The method against every target; stored, so that a killed run does not play twice.

    Raises:
        InputError: if the method cannot run or does not give one number a record.
    """

    def compute() -> dict[str, Array]:
        own = _scores(name, method, _own(case, method, game), game.records, _references(game), case.seed, "own", 0)
        if game.shadows is None or game.mixed is None:
            return {"own": own}
        return {"own": own, "scores": _against_all(name, method, case, game.records, game.shadows, "scores"),
                "control": _against_all(name, method, case, game.records, game.mixed, "control")}  # fmt: skip

    decided = (case.recipe, case.model, case.data.train, game.records, method, case.seed, game.shadows and game.shadows.answers, *_more(game))
    found = remember(f"privacy {name}", decided, compute)
    if game.shadows is None or game.mixed is None:
        drawn = game.inside[rng_for(case.seed, "privacy", "control").permutation(len(game.inside))]
        own = found["own"][None]
        return Trial(scores=own, members=game.inside[None], control=own, control_members=drawn[None])
    return Trial(scores=found["scores"], members=game.shadows.members, control=found["control"], control_members=game.mixed.members, own=found["own"])


def _own(case: Case, method: Method, game: Game) -> Model:
    """The given model; with shadow models or a probe, as a recorded one that was asked once what every shadow model was asked."""
    if game.shadows is None and not isinstance(method, Prober):
        return case.model
    if not game.told:
        game.told.update(ask(case.model, game.records, game.wanted, case.seed))
    probes = {name: game.told[f"probe {name}"] for name in game.wanted.probes}
    return Recorded(records=game.records, answers=game.told["answers"], probes=probes, apart=game.wanted.apart, apart_answers=game.told.get("apart"),
                    threshold=case.model.threshold, access=case.model.access)  # fmt: skip


def _references(game: Game) -> Shadows | None:
    return no_shadows(game.records, game.wanted.apart) if game.shadows is None and game.wanted.apart is not None else game.shadows


def _more(game: Game) -> tuple[Any, ...]:
    """What decides scores beside the answers on the records."""
    return (game.wanted.apart, game.shadows and game.shadows.folds, sorted(game.wanted.probes)) if game.wanted or game.folds != 2 else ()


def pool_of(case: Case) -> tuple[Dataset, Array, int]:
    """The distinct train and test rows, which of them the given model was trained on (a row in both parts was), and how many are in both.

    A test row that repeats one that was named as train is in both, though the cut has left it in test alone.
    """
    train = case.data.train
    seen = np.concatenate([np.ones(len(train), bool), case.data.saw("test")])
    both = train.joined(case.data.test)
    first: dict[bytes, int] = {}
    twice: set[bytes] = set()
    for i, (row, label) in enumerate(zip(np.ascontiguousarray(both.x), both.y, strict=True)):
        said = _bytes(row, label)
        if first.setdefault(said, i) < len(train) <= i:
            twice.add(said)
    keep = np.fromiter(first.values(), np.int64, len(first))
    return both.take(keep), seen[keep], len(twice) + int((seen[keep] & (keep >= len(train))).sum())


def _against_all(name: str, method: Method, case: Case, records: Dataset, shadows: Shadows, word: str) -> Array:
    targets = track(range(len(shadows)), label=f"{name}, {word}")
    return np.stack([_scores(name, method, shadows.target(t, records), records, shadows.without(t), case.seed, word, t)
                     for t in targets])  # fmt: skip


def _scores(name: str, method: Method, model: Model, records: Dataset, shadows: Shadows | None, seed: int, word: str, target: int) -> Array:
    scores = np.asarray(method(model, records, rng_for(seed, "privacy", name, word, target), shadows), np.float64)
    if scores.shape != (len(records),):
        raise InputError(f"attack {name} gave scores of shape {scores.shape} for {len(records)} records; give one number a record")
    if np.isnan(scores).any():
        raise InputError(f"attack {name} gave {int(np.isnan(scores).sum())} NaN among {len(records)} scores; give one number a record")
    return scores
