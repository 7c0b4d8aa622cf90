"""Levine and Feizi 2021, https://arxiv.org/abs/2006.14768: deep partition aggregation, a certificate against poisoned rows.

A row goes to the partition that a hash of its own content names, so r poisoned rows reach at most r partitions (2 r if a
changed row may move), and the answer stands while the gap between the two leading classes is wider than that.

>>> PartitionEnsemble(partitions=51).partitions
51
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carbide.poisoning._checks import budget
from carbide.poisoning.partitions import KEYS, WAYS, PartitionVoteRecipe
from carbide.poisoning.ridge import RidgeRecipe
from carbide.poisoning.votes import certified_changes, certified_share, winners
from carbide.registry import Method
from carbide.types import Array, Backdoor, Case, Certificate, Dataset, Flips, InputError, Recipe, Rng, Threat

BASES = ("auto", "recipe", "ridge")


@dataclass(frozen=True, kw_only=True)
class PartitionEnsemble(Method):
    """Certifies, row by row, how many poisoned training rows (or suppliers) cannot change the vote of disjoint partitions.

    ``partitions`` None takes about four a poisoned row, with at least 20 training rows each. ``base`` is what votes:
    the case's ``"recipe"``, a ``"ridge"`` regression on fixed features (gradient histograms for images), or ``"auto"``:
    ridge for images, recipe for tables. A recipe that is a partition vote already is certified as it is.
    """

    threats = (Flips, Backdoor)
    trains = True
    partitions: int | None = None
    by: str = "row"
    key: str = "content"
    base: str = "auto"
    suppliers: int = 1  # compromised suppliers that the claim is about, when by is source
    seed: int = 0

    def __post_init__(self) -> None:
        if self.partitions is not None and self.partitions < 2:
            raise InputError(f"partitions is {self.partitions}; give a whole number >= 2")
        for name, allowed in (("by", WAYS), ("key", KEYS), ("base", BASES)):
            if getattr(self, name) not in allowed:
                raise InputError(f"{name} is {getattr(self, name)!r}; choose {', '.join(allowed)}")
        if self.suppliers < 0:
            raise InputError(f"suppliers is {self.suppliers}; give a whole number >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Suppliers must be known for a certificate by source."""
        if self.by == "source" and len(np.unique(case.data.train.source)) < 3:
            return f"it is by source, and the training rows have {len(np.unique(case.data.train.source))} supplier(s)"
        return None

    def __call__(self, recipe: Recipe, dataset: Dataset, x: Array, y: Array, threat: Flips | Backdoor, rng: Rng) -> Certificate:
        """The certificate for inputs ``x`` with labels ``y``; it holds where the vote is right and stands against the whole threat.

        ``bound`` is the number of poisoned rows (or suppliers) that the right vote of a row stands against, -1 where the vote is wrong.
        """
        voting, words = self._voting(recipe, dataset, threat)
        votes = voting.fit(dataset, rng).votes(x)
        right = winners(votes) == y
        bound = np.where(right, certified_changes(votes) // voting.reach(threat), -1).astype(float)
        asked = self.suppliers if voting.by == "source" else budget(threat, len(dataset))
        same = isinstance(recipe, PartitionVoteRecipe) and isinstance(threat, Flips) and voting.by == "row"
        return Certificate(
            claim=_claim(voting, threat, bound, asked, len(dataset)),
            holds=bound >= asked,
            bound=bound,
            failure_probability=0.0,
            assumptions=(words, *_assumptions(voting, threat)),
            method="partition_ensemble",
            threat=threat.words(),
            unit="suppliers" if voting.by == "source" else "training rows",
            metric="accuracy after poisoning" if same else "",
        )

    def _voting(self, recipe: Recipe, dataset: Dataset, threat: Flips | Backdoor) -> tuple[PartitionVoteRecipe, str]:
        """The voting recipe that is certified, and a sentence about which model it is."""
        if isinstance(recipe, PartitionVoteRecipe):
            return recipe, "the certificate is about the model under test, which is the vote itself, deciding by the most votes"
        base: Recipe = recipe
        words = "the certificate is about a vote of models trained by the recipe on parts of the rows, not about the model under test"
        if self.base == "ridge" or (self.base == "auto" and dataset.space.is_image):
            base = RidgeRecipe(features="gradients" if dataset.space.is_image else "raw")
            words = "the certificate is about a vote of ridge regressions on fixed features (fitted on no data), not about the model under test"
        partitions = self.partitions or _partitions(len(dataset), budget(threat, len(dataset)))
        return PartitionVoteRecipe(inner=base, partitions=partitions, by=self.by, key=self.key, seed=self.seed), words


def _partitions(n: int, poisoned: int) -> int:
    """About four partitions a poisoned row, within what ``n`` rows can feed."""
    return int(np.clip(4 * poisoned + 1, 5, max(5, n // 20)))


def _claim(voting: PartitionVoteRecipe, threat: Threat, bound: Array, asked: int, n: int) -> str:
    """The formal statement, with how far the bound reaches where the threat is larger."""
    if voting.by == "source":
        change = f"what any {asked} supplier(s) do to all their rows, including rows added and taken away"
    else:
        deed = "the labels of" if isinstance(threat, Flips) else "inputs and labels of"
        change = f"any change of {deed} at most {asked} of the {n} training rows"
    reach = voting.partitions // 2 // voting.reach(threat)
    far = (
        f"; that is more than {voting.partitions} partitions can ever certify ({reach}), so the bound of each row says how far it goes"
        if asked > reach
        else ""
    )
    shares = ", ".join(f"{certified_share(bound, np.array([r]))[0]:.1%} at {r}" for r in sorted({0, *(int(reach * q) for q in (0.1, 0.25, 0.5))}))
    return f"the vote of {voting.partitions} partitions gives the right class of the row under {change}{far} (right and certified: {shares} poisoned)"


def _assumptions(voting: PartitionVoteRecipe, threat: Threat) -> tuple[str, ...]:
    """What must be true for the claim to hold."""
    if voting.by == "source":
        known = "the supplier of each row is known and cannot be forged"
    elif voting.key == "id":
        known = "a row keeps the id that it had before the attacker came, and so its partition"
    elif isinstance(threat, Flips):
        known = "a row is known by its inputs, so a flipped row stays in its partition"
    else:
        known = "a row is known by its inputs, so a changed row may leave one partition and enter another, and counts twice"
    return (known, "each partition's model depends on its own rows, its number and the seed alone: nothing is fitted on the whole pool",
            "no threshold is set by poisoned rows: the class with the most votes wins")  # fmt: skip
