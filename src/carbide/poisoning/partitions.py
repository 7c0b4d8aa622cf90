"""Levine and Feizi 2021, https://arxiv.org/abs/2006.14768: training on disjoint partitions and voting (deep partition aggregation).

Each row is sent to one of k partitions by a hash of its own content (or of its id, or of its supplier), whatever the
other rows are; one model is trained a partition, and the models vote. A poisoned row thus reaches one vote or two.

>>> import numpy as np
>>> partition_of(np.array(["a", "b", "a"]), 5).tolist()  # depends on the row alone
[4, 2, 4]
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from carbide.run import spread
from carbide.types import BLACK_BOX, Access, Array, Dataset, Flips, InputError, Model, Recipe, Rng, Space, Threat, digest, rng_for

KEYS = ("content", "id")
WAYS = ("row", "source")


def partition_of(keys: Array, partitions: int, salt: int = 0) -> Array:
    """The partition ``(n,)`` int64 of each key: sha256 of the key and the salt, modulo ``partitions``."""
    unique, inverse = np.unique(np.asarray(keys).astype(str), return_inverse=True)
    homes = [int.from_bytes(hashlib.sha256(f"{salt}:{key}".encode()).digest()[:8], "big") % partitions for key in unique.tolist()]
    return np.asarray(homes, np.int64)[inverse.ravel()]


def content_keys(x: Array) -> Array:
    """A hash ``(n,)`` of each row's own inputs, labels left out."""
    rows = (np.asarray(row, np.float64) + 0.0 for row in x)  # -0.0 and 0.0 are the same input
    return np.array([hashlib.sha256(row.tobytes()).hexdigest() for row in rows], dtype=str)


@dataclass(frozen=True, kw_only=True, eq=False)
class PartitionVoteModel:
    """Models of disjoint partitions that vote; ``seen[i]`` are the classes that partition i had, in its model's order.

    A partition without rows has no member: its vote is shared equally by all classes, so that it decides nothing.
    """

    members: tuple[Model, ...]
    seen: tuple[Array, ...]
    partitions: int
    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        """Labels and scores."""
        return BLACK_BOX

    def votes(self, x: Array) -> Array:
        """The votes ``(n, classes)`` int64 of the partitions that had rows."""
        counts = np.zeros((len(x), self.classes), np.int64)
        prepared: dict[Any, Any] = {}
        for member, seen in zip(self.members, self.seen, strict=True):
            if len(seen) == 1:
                counts[:, seen[0]] += 1
                continue
            scores = _scores(member, x, prepared)[:, : len(seen)]
            counts[np.arange(len(x)), seen[scores.argmax(1)]] += 1
        return counts

    def predict(self, x: Array) -> Array:
        """The shares of the votes ``(n, classes)``."""
        votes = self.votes(x)
        return (votes + (self.partitions - votes.sum(1, keepdims=True)) / self.classes) / self.partitions

    def at(self, threshold: float) -> PartitionVoteModel:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of every member and of the threshold."""
        return digest([member.digest() for member in self.members], list(self.seen), self.partitions, self.classes, self.threshold)

    def to_state(self) -> dict[str, Any]:
        """Plain values and nested models from which ``from_state`` makes the model again."""
        return {"members": list(self.members), "seen": list(self.seen), "partitions": self.partitions, "space": self.space,
                "classes": self.classes, "threshold": self.threshold}  # fmt: skip

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The model that ``to_state`` described."""
        return cls(**{**state, "members": tuple(state["members"]), "seen": tuple(state["seen"])})


@dataclass(frozen=True, kw_only=True, eq=False)
class PartitionVoteRecipe:
    """Training of one ``inner`` model on each of ``partitions`` disjoint parts, and their vote.

    ``by`` is ``"row"`` or ``"source"`` (all rows of a supplier stay together); ``key`` says what a row is known by: its
    ``"content"`` (the inputs without the label), or its ``"id"`` if the attacker cannot choose ids. The rng is not used: ``seed`` decides everything,
    because a certificate is about one fixed training procedure; and the order of the rows never matters.
    """

    inner: Recipe
    partitions: int
    by: str = "row"
    key: str = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.partitions < 1:
            raise InputError(f"partitions is {self.partitions}; give a whole number >= 1")
        if self.by not in WAYS:
            raise InputError(f"by is {self.by!r}; choose row or source")
        if self.key not in KEYS:
            raise InputError(f"key is {self.key!r}; choose id or content")

    def homes(self, dataset: Dataset) -> Array:
        """The partition ``(n,)`` of each row."""
        return self._homes(dataset, content_keys(dataset.x))

    def _homes(self, dataset: Dataset, content: Array) -> Array:
        keys = dataset.source if self.by == "source" else dataset.ids if self.key == "id" else content
        return partition_of(keys, self.partitions, self.seed)

    def reach(self, threat: Threat) -> int:
        """How many partitions one poisoned row (or supplier) of the threat can touch: 2 if its new content sends it elsewhere."""
        return 2 if self.by == "row" and self.key == "content" and not isinstance(threat, Flips) else 1

    def fit(self, dataset: Dataset, rng: Rng) -> PartitionVoteModel:
        """The voting model.

        Raises:
            InputError: if there are fewer than two rows a partition.
        """
        if self.by == "row" and len(dataset) < 2 * self.partitions:
            raise InputError(f"partitions is {self.partitions}, but {len(dataset)} training rows are fewer than 2 a partition; "
                             f"give at most {max(1, len(dataset) // 2)}")  # fmt: skip
        content = content_keys(dataset.x)
        homes = self._homes(dataset, content)
        order = np.lexsort((dataset.y, content, homes))  # inputs and labels alone decide, not how rows come or are named
        cuts = np.searchsorted(homes[order], np.arange(self.partitions + 1))
        rows = [order[a:b] for a, b in itertools.pairwise(cuts)]
        work = [_Part(recipe=self.inner, dataset=dataset.take(r), seed=self.seed, number=i) for i, r in enumerate(rows) if len(r)]
        fitted = spread(_fit_part, work, label="training partitions", chunk=max(8, self.partitions // 8))
        return PartitionVoteModel(members=tuple(m for m, _ in fitted), seen=tuple(s for _, s in fitted), partitions=self.partitions,
                                  space=dataset.space, classes=dataset.classes)  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        return {"recipe": "partition vote", "inner": dict(self.inner.describe()), "partitions": self.partitions, "by": self.by, "key": self.key,
                "seed": self.seed}  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class OneClass:
    """The model of a partition whose rows all have one class."""

    space: Space
    classes: int
    label: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        """Labels and scores."""
        return BLACK_BOX

    def predict(self, x: Array) -> Array:
        """Probability 1 for the class."""
        return np.tile(np.eye(self.classes)[self.label], (len(x), 1))

    def at(self, threshold: float) -> OneClass:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the class."""
        return digest("one class", self.classes, self.label, self.threshold)

    def to_state(self) -> dict[str, Any]:
        """Plain values."""
        return {"space": self.space, "classes": self.classes, "label": self.label, "threshold": self.threshold}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The model that ``to_state`` described."""
        return cls(**state)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Part:
    """One partition's training: a function of its rows, its number and the seed only."""

    recipe: Recipe
    dataset: Dataset
    seed: int
    number: int


def _fit_part(part: _Part) -> tuple[Model, Array]:
    """The partition's model and the classes that it saw; labels are made dense, because some libraries insist."""
    rows = part.dataset
    seen = np.unique(rows.y)
    if len(seen) == 1:
        return OneClass(space=rows.space, classes=rows.classes, label=int(seen[0])), seen
    dense = replace(rows, y=np.searchsorted(seen, rows.y).astype(np.int64))
    return part.recipe.fit(dense, rng_for(part.seed, "partition", part.number)), seen


def _scores(member: Model, x: Array, prepared: dict[Any, Any]) -> Array:
    """The member's scores; features that many members share (``prepare``) are computed once."""
    if not hasattr(member, "prepare"):
        return member.predict(x)
    kind = member.features  # type: ignore[attr-defined]
    if kind not in prepared:
        prepared[kind] = member.prepare(x)  # type: ignore[attr-defined]
    return member.predict_prepared(prepared[kind])  # type: ignore[attr-defined]
