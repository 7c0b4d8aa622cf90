"""Steinke et al. 2023, https://arxiv.org/abs/2305.08846, Mahloujifar et al. 2024, https://arxiv.org/abs/2410.22235: audited with one training.

Many canaries go into one training, each by the fall of a coin. Afterwards the attacker guesses the coins of those it is surest of, and
under differential privacy too many right guesses are unlikely. How unlikely, the whole trade-off function of the claim says more closely
than its epsilon and delta do. The bound is weaker than that of many trainings, and costs one.

>>> OneRunAudit(canaries=100, guessed=0.4).guessed
0.4
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.privacy._neighbours import crowd
from carbide.privacy.claims import OneRun, too_loose
from carbide.privacy.pilot import Pilot
from carbide.registry import Method
from carbide.types import Access, Case, Dataset, InputError, PrivacyClaim, Rng, Threat


@dataclass(frozen=True, kw_only=True)
class OneRunAudit(Method):
    """Puts ``canaries`` into one training, each in or out (or one of two labels) by a coin, and guesses the coins of the share ``guessed``.

    The canaries lie in random corners of the space with random labels; the surest guesses are those where the model's answer is furthest
    to either side. By default there are as many as training rows, at most 1,000.
    """

    threats = (PrivacyClaim,)
    needs: ClassVar[Access] = Access.SCORES
    trains: ClassVar[bool] = True
    default: ClassVar[bool] = False
    canaries: int | None = None
    guessed: float = 0.3

    def __post_init__(self) -> None:
        if self.canaries is not None and self.canaries < 10:
            raise InputError(f"canaries is {self.canaries}; give a whole number >= 10")
        if not 0 < self.guessed <= 1:
            raise InputError(f"guessed is {self.guessed}; give a share in (0, 1]")

    def budget(self, recipe: Any, dataset: Dataset | None) -> tuple[int, int]:
        """No trainings but the one."""
        return 1, 0

    def quick(self) -> OneRunAudit:
        """At most 200 canaries where a number is given."""
        return self if self.canaries is None else replace(self, canaries=min(self.canaries, 200))

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The claimed delta must be below one over the number of training rows."""
        return too_loose(case, threat)

    def __call__(self, pilot: Pilot, dataset: Dataset, threat: PrivacyClaim, rng: Rng) -> OneRun:
        """The canaries, and how many guesses are to be counted; the judge throws the coins and trains."""
        count = self.canaries or max(10, min(1000, len(dataset)))
        planted = crowd(dataset, count, rng)
        return OneRun(rest=dataset, canaries=planted, guesses=2 * max(1, int(self.guessed * count) // 2))
