"""Dong et al. 2019, https://arxiv.org/abs/1905.02383: what differential privacy leaves to every membership attack.

A model trained with (epsilon, delta)-differential privacy, or mu-GDP, answers a record's owner: whoever sees it, however
strong, cannot tell that record's presence with more than this true-positive rate at a given false-positive rate.

>>> from carbide.stats.accounting import PrivacyStatement
>>> round(PrivacyStatement(epsilon=1.0, delta=1e-5).tpr(0.01), 4)
0.0272
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.statement import beyond_promise, privacy_of, stated_by
from carbide.registry import Method
from carbide.stats.accounting import ADJACENCY, PrivacyStatement
from carbide.types import Access, Array, Case, Certificate, InputError, Membership, Model, Rng, Threat

OTHERS = (0.001, 0.1)  # false-positive rates whose bounds the claim names besides


@dataclass(frozen=True, kw_only=True)
class DpBound(Method):
    """The true-positive rate at a false-positive rate ``fpr`` that the model's stated differential privacy allows at most."""

    threats = (Membership,)
    needs: ClassVar[Access] = Access.LABELS
    fpr: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise InputError(f"fpr is {self.fpr}; give a rate in (0, 1)")

    def __call__(self, model: Model, x: Array, y: Array, threat: Threat, rng: Rng) -> Certificate:
        """One bound for every record, ``bound`` ``(n,)``; it holds for records that are not listed as well.

        Raises:
            InputError: if the model states no differential privacy.
        """
        statement = privacy_of(model)
        if statement is None:
            raise InputError(_MISSING)
        bound = statement.tpr(self.fpr)
        others = ", ".join(f"{statement.tpr(fpr):.3g} at {100 * fpr:g}%" for fpr in OTHERS if fpr != self.fpr)
        claim = (f"no attack tells whether a record was trained on with a true-positive rate above {bound:.3g} at {100 * self.fpr:g}% "
                 f"false positives ({others}), because the training was {statement.words()}{_presence(statement, self.fpr)}")  # fmt: skip
        return Certificate(claim=claim, holds=np.ones(len(x), bool), bound=np.full(len(x), bound), failure_probability=0.0,
                           assumptions=statement.assumptions, method="dp_bound", threat=threat.words(),
                           unit=f"true-positive rate at {100 * self.fpr:g}% FPR", metric=f"membership TPR at {100 * self.fpr:g}% FPR")  # fmt: skip

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The model must state differential privacy, and nothing outside its account may have looked at the rows; a person has one row."""
        if privacy_of(case.model) is None:
            return _MISSING
        if case.recipe is not None and stated_by(case.recipe) is None:
            return "the recipe does something to the rows before the private training, which its account does not cover"
        return beyond_promise(case)


def _presence(statement: PrivacyStatement, fpr: float) -> str:
    """What holds where only a record's presence is in question, if that is less than where another may have its place."""
    if statement.adjacency == ADJACENCY:
        return ""
    return f"; where all other records are the same and only its presence is in question, {statement.presence_tpr(fpr):.3g}"


_MISSING = (
    "the model states no differential privacy, so nothing bounds what an attacker could learn; harden with private_logistic or dp_sgd to get a bound"
)
