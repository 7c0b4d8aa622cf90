"""Nasr et al. 2023, https://arxiv.org/abs/2302.07956: tight audits of a claimed epsilon, by thousands of complete trainings.

Pairs of neighbouring data sets are tried on trainings set aside; on the pair that is told apart best a score of everything released is
fitted. The judge counts its errors on fresh trainings. Where the paper inserts canaries into gradients, here only data sets are chosen, so
that any training function can be audited from outside.

>>> ManyTrainings(trainings=1000).budget(None, None)
(500, 500)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.privacy._distinguishers import Distinguisher, choose, separation
from carbide.privacy._neighbours import Neighbours, candidates
from carbide.privacy.claims import too_loose, trade_off_of
from carbide.privacy.pilot import Pilot, stacks
from carbide.registry import Method
from carbide.types import Access, Array, Case, Dataset, InputError, PrivacyClaim, Rng, Threat

PLENTY, FEW = 300_000, 3_000  # trainings where they are stacked, and where each is a call
WORK, LITTLE = 3_000_000_000, 20_000  # numbers that stacked trainings go through, and trainings that are made all the same
LEAST = 1000  # trainings set aside, where there are twice as many
FINE = 20_000  # trainings set aside from which on designs of small gain are tried


@dataclass(frozen=True, kw_only=True)
class ManyTrainings(Method):
    """Trains on pairs of neighbouring data sets many times over, and tells from what is released which of the two it was.

    ``trainings`` of the whole recipe are made (default: 300,000 where they can be stacked, fewer on large tables, else 3,000), the share
    ``held_out`` of them, at least 1,000 or half of all, to choose the pair, the score and its thresholds. An attacker of differential privacy knows everything
    but one record, sees the weights, and may choose the other records.
    """

    threats = (PrivacyClaim,)
    needs: ClassVar[Access] = Access.LABELS
    trains: ClassVar[bool] = True
    trainings: int | None = None
    held_out: float = 0.2

    def __post_init__(self) -> None:
        if self.trainings is not None and self.trainings < 200:
            raise InputError(f"trainings is {self.trainings}; give a whole number >= 200")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out is {self.held_out}; give a share in (0, 1)")

    def budget(self, recipe: Any, dataset: Dataset | None) -> tuple[int, int]:
        """How many trainings are set aside and how many are counted."""
        total = self.trainings
        if total is None:
            total = min(PLENTY, max(LITTLE, WORK // dataset.x.size)) if dataset is not None and stacks(recipe, dataset) else FEW
        aside = max(int(self.held_out * total), min(total // 2, LEAST))
        return aside, total - aside

    def quick(self) -> ManyTrainings:
        """At most 1,000 trainings."""
        return replace(self, trainings=min(self.trainings or 1000, 1000))

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The claimed delta must be below one over the number of training rows."""
        return too_loose(case, threat)

    def __call__(self, pilot: Pilot, dataset: Dataset, threat: PrivacyClaim, rng: Rng) -> Distinguisher:
        """The neighbours that are told apart best, with the score and thresholds to do it.

        Raises:
            InputError: if there are fewer than three rows, or no training returns a finite number.
        """
        if len(dataset) < 3:
            raise InputError(f"there are {len(dataset)} training rows; neighbouring data sets need at least 3")
        share, kept = pilot.left // 4, candidates(dataset, threat, rng, fine=pilot.left >= FINE)
        seen: dict[str, tuple[Array, Array]] = {}
        for rounds in (3, 1):
            each = max(8, share // len(kept))
            for pair in kept:
                seen[pair.name] = _joined(seen.get(pair.name), pilot.train(pair, min(each, pilot.left)))
            if not any(np.isfinite(side).any() for sides in seen.values() for side in sides):
                raise InputError(
                    "every training returned NaN or infinite numbers only, so there is nothing to audit; return finite weights or a model"
                )
            kept = _best(kept, seen, rounds)
        winner = kept[0]
        outside, inside = _joined(seen[winner.name], pilot.train(winner, pilot.left))
        order = rng.permutation(len(outside))
        return choose(winner, outside[order], inside[order], trade_off_of(threat), threat.delta)


def _joined(before: tuple[Array, Array] | None, more: tuple[Array, Array]) -> tuple[Array, Array]:
    return more if before is None else (np.concatenate([before[0], more[0]]), np.concatenate([before[1], more[1]]))


def _best(pairs: list[Neighbours], seen: dict[str, tuple[Array, Array]], count: int) -> list[Neighbours]:
    """The pairs told apart best; the first, which leaves the most of a sound training's trace, gives way only beyond chance."""

    def merit(pair: Neighbours) -> float:
        return separation(pair, *seen[pair.name]) + (1 / len(seen[pair.name][0]) ** 0.5 if pair is pairs[0] else 0.0)

    found = {pair.name: merit(pair) for pair in pairs}
    kept = sorted(pairs, key=lambda pair: -found[pair.name])[:count]
    return [pair for pair in pairs if pair in kept]
