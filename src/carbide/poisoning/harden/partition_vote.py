"""Levine and Feizi 2021, https://arxiv.org/abs/2006.14768: deep partition aggregation as the model itself.

One model is trained on each of several disjoint parts of the training rows, and they vote. Against a few poisoned rows,
flipped or triggered, the vote holds and can be certified (see the certificate ``partition_ensemble``); it costs accuracy.

>>> from carbide.poisoning.ridge import RidgeRecipe
>>> PartitionVote(partitions=5)(RidgeRecipe(features="raw"), Flips(fraction=0.1)).partitions
5
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from carbide.poisoning.partitions import KEYS, WAYS, PartitionVoteRecipe
from carbide.registry import Method
from carbide.types import Backdoor, Flips, InputError, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class PartitionVote(Method):
    """Trains one model on each of several disjoint parts of the rows and lets them vote."""

    threats = (Flips, Backdoor)
    trains = True
    partitions: int = 5
    by: str = "row"
    key: str = "content"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.partitions < 2:
            raise InputError(f"partitions is {self.partitions}; give a whole number >= 2")
        if self.by not in WAYS:
            raise InputError(f"by is {self.by!r}; choose {' or '.join(WAYS)}")
        if self.key not in KEYS:
            raise InputError(f"key is {self.key!r}; choose {' or '.join(KEYS)}")

    def __call__(self, recipe: Recipe, threat: Threat) -> PartitionVoteRecipe:
        """The recipe that trains the parts and votes."""
        return PartitionVoteRecipe(inner=recipe, partitions=self.partitions, by=self.by, key=self.key, seed=self.seed)

    def strengths(self) -> tuple[PartitionVote, ...]:
        """As many parts as stated, three times and nine times as many."""
        return tuple(replace(self, partitions=self.partitions * more) for more in (1, 3, 9))
