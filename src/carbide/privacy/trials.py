"""Playing the membership game: which records are asked about, who is a member, and what an attack's scores are.

>>> from carbide.privacy.audit.loss_threshold import LossThreshold
>>> asked_for({"loss_threshold": LossThreshold()})
16
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from carbide.privacy.shadows import Recorded, Shadows, train_shadows
from carbide.registry import Method
from carbide.run import remember, track
from carbide.types import Array, Case, Dataset, InputError, Model, decide, rng_for

TARGETS = 16  # models trained when no method asks for a number
RECORDS = 5000  # records that are asked about; more would only narrow the intervals


@dataclass(frozen=True, kw_only=True, eq=False)
class Game:
    """The records that are asked about, which of them the given model holds (``inside`` ``(n,)``), and the shadow models.

    ``mixed`` are the same shadow models with memberships drawn anew. Both are None without a recipe.
    """

    records: Dataset
    inside: Array
    shadows: Shadows | None = None
    mixed: Shadows | None = None

    @property
    def accuracy(self) -> Array:
        """Each shadow model's accuracy on the records that it was not trained on ``(m,)``."""
        if self.shadows is None:
            return np.zeros(0)
        right = np.stack([decide(answers) == self.records.y for answers in self.shadows.answers])
        return np.where(self.shadows.members, 0, right).sum(1) / np.maximum(1, (~self.shadows.members).sum(1))


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


def set_up(case: Case, methods: Mapping[str, Method]) -> Game:
    """The records in an order that says nothing about who is a member, and trained shadow models where there is a recipe."""
    pool, trained = _pool(case)
    chosen = rng_for(case.seed, "privacy", "records").permutation(len(pool))[:RECORDS]
    records = pool.take(chosen)
    if case.recipe is None:
        return Game(records=records, inside=trained[chosen])
    shadows = train_shadows(case.recipe, pool, asked_for(methods), case.seed, records=chosen)
    mixed = shadows.shuffled(records.y, rng_for(case.seed, "privacy", "control"))
    return Game(records=records, inside=trained[chosen], shadows=shadows, mixed=mixed)


def play(name: str, method: Method, case: Case, game: Game) -> Trial:
    """The method against every target; stored, so that a killed run does not play twice.

    Raises:
        InputError: if the method cannot run or does not give one number a record.
    """

    def compute() -> dict[str, Array]:
        own = _scores(name, method, case.model, game.records, game.shadows, case.seed, "own", 0)
        if game.shadows is None or game.mixed is None:
            return {"own": own}
        return {"own": own, "scores": _against_all(name, method, case, game.records, game.shadows, "scores"),
                "control": _against_all(name, method, case, game.records, game.mixed, "control")}  # fmt: skip

    decided = (case.recipe, case.model, case.data.train, game.records, method, case.seed, game.shadows and game.shadows.answers)
    found = remember(f"privacy {name}", decided, compute)
    if game.shadows is None or game.mixed is None:
        drawn = game.inside[rng_for(case.seed, "privacy", "control").permutation(len(game.inside))]
        own = found["own"][None]
        return Trial(scores=own, members=game.inside[None], control=own, control_members=drawn[None])
    return Trial(scores=found["scores"], members=game.shadows.members, control=found["control"], control_members=game.mixed.members, own=found["own"])


def _pool(case: Case) -> tuple[Dataset, Array]:
    """The distinct train and test rows, and which of them the given model was trained on; a row in both parts was."""
    train, test = case.data.train, case.data.test
    both = {name: np.concatenate([getattr(train, name), getattr(test, name)]) for name in ("x", "y", "ids", "source")}
    first: dict[bytes, int] = {}
    for i, (row, label) in enumerate(zip(np.ascontiguousarray(both["x"]), both["y"], strict=True)):
        first.setdefault(row.tobytes() + int(label).to_bytes(8, "little"), i)
    keep = np.fromiter(first.values(), np.int64, len(first))
    return replace(train, **both).take(keep), keep < len(train)


def _against_all(name: str, method: Method, case: Case, records: Dataset, shadows: Shadows, word: str) -> Array:
    targets = track(range(len(shadows)), label=f"{name}, {word}")
    return np.stack([_scores(name, method, Recorded(records=records, answers=shadows.answers[t]), records, shadows.without(t), case.seed, word, t)
                     for t in targets])  # fmt: skip


def _scores(name: str, method: Method, model: Model, records: Dataset, shadows: Shadows | None, seed: int, word: str, target: int) -> Array:
    scores = np.asarray(method(model, records, rng_for(seed, "privacy", name, word, target), shadows), np.float64)
    if scores.shape != (len(records),):
        raise InputError(f"attack {name} gave scores of shape {scores.shape} for {len(records)} records; give one number a record")
    if np.isnan(scores).any():
        raise InputError(f"attack {name} gave {int(np.isnan(scores).sum())} NaN among {len(records)} scores; give one number a record")
    return scores
