"""Hayes et al. 2023, https://arxiv.org/abs/2302.07225: what differential privacy leaves to whoever rebuilds a training row.

An attacker who knows all other rows and would guess the missing one blindly with probability ``prior`` succeeds with the model in hand at
most as often as the best membership test with that false-positive rate finds members (theorem 2).

>>> from carbide.stats.accounting import PrivacyStatement
>>> round(PrivacyStatement(epsilon=1.0, delta=1e-5, mu=0.27).presence_tpr(0.001), 5)
0.0024
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.statement import beyond_promise, privacy_of, stated_by
from carbide.registry import Method
from carbide.types import Access, Array, Case, Certificate, InputError, Model, Reconstruction, Rng, Threat

MISSING = (
    "the model states no differential privacy, so nothing bounds what an attacker could rebuild; harden membership with private_logistic or dp_sgd"
)


@dataclass(frozen=True, kw_only=True)
class ReconstructionBound(Method):
    """The highest probability of rebuilding a row that could be guessed blindly with probability ``prior``."""

    threats = (Reconstruction,)
    needs: ClassVar[Access] = Access.LABELS
    prior: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.prior < 1:
            raise InputError(f"prior is {self.prior}; give the probability of the best blind guess, in (0, 1)")

    def __call__(self, model: Model, x: Array, y: Array, threat: Threat, rng: Rng) -> Certificate:
        """One bound for every training row, ``bound`` ``(n,)``.

        Raises:
            InputError: if the model states no differential privacy.
        """
        statement = privacy_of(model)
        if statement is None:
            raise InputError(MISSING)
        bound = statement.presence_tpr(self.prior)
        claim = (f"whoever knows all other training rows, and would guess the missing one blindly with a probability of {self.prior:g}, rebuilds it "
                 f"with at most {bound:.3g}, because the training was {statement.words()}")  # fmt: skip
        assumptions = (*statement.assumptions, f"the best blind guess succeeds with a probability of at most {self.prior:g}")
        return Certificate(claim=claim, holds=np.ones(len(x), bool), bound=np.full(len(x), bound), failure_probability=0.0, assumptions=assumptions,
                           method="reconstruction_bound", threat=threat.words(), unit="probability of rebuilding a row")  # fmt: skip

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The model must state differential privacy, and nothing outside its account may have looked at the rows; a person has one row."""
        if privacy_of(case.model) is None:
            return MISSING
        if case.recipe is not None and stated_by(case.recipe) is None:
            return "the recipe does something to the rows before the private training, which its account does not cover"
        return beyond_promise(case)
