"""Dwork & Roth 2014, https://www.cis.upenn.edu/~aaroth/Papers/privacybook.pdf: the epsilon that a training's account comes to.

The other side of an audited epsilon: what the accountant says no attacker of any kind can exceed. It is as good as the account, the
noise and the code are, which is what the audit tests.

>>> from carbide.types import PrivacyClaim
>>> AccountedEpsilon()(None, np.zeros((1, 2)), np.zeros(1, int), PrivacyClaim(epsilon=4.0, delta=1e-5), np.random.default_rng(0)).bound
array([4.])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.privacy.claims import AUDITED, too_loose
from carbide.privacy.statement import privacy_of
from carbide.registry import Method
from carbide.types import Access, Array, Case, Certificate, PrivacyClaim, Rng, Threat

ASSUMED = ("the account is of the training as it is coded, of its sampling and of every choice made on the same rows",)


@dataclass(frozen=True, kw_only=True)
class AccountedEpsilon(Method):
    """The claimed epsilon as a certificate, which makes a bracket with the audited one."""

    threats = (PrivacyClaim,)
    needs: ClassVar[Access] = Access.LABELS

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The claimed delta must be below one over the number of training rows."""
        return too_loose(case, threat)

    def __call__(self, model: Any, x: Array, y: Array, threat: PrivacyClaim, rng: Rng) -> Certificate:
        """The claimed epsilon for every record, ``bound`` ``(n,)``."""
        statement = privacy_of(model)
        claim = f"no attacker, whatever they know, exceeds the error rates of epsilon {threat.epsilon:.3g} at delta {threat.delta:g}"
        return Certificate(claim=claim, holds=np.ones(len(x), bool), bound=np.full(len(x), threat.epsilon), failure_probability=0.0,
                           assumptions=(*ASSUMED, *(statement.assumptions if statement else ())), method="accounted_epsilon", threat=threat.words(),
                           unit=f"epsilon at delta {threat.delta:g}", metric=AUDITED)  # fmt: skip
