"""Abadi et al. 2016, https://arxiv.org/abs/1607.00133: training on noisy sums of clipped gradients, here of a logistic regression.

The recipe is replaced by a logistic regression that is differentially private by construction: what it learns hardly
depends on any one row. On small tables it is often about as accurate as a model that leaks.

>>> from carbide.types import Membership
>>> PrivateLogisticRegression(epsilon=2.0)(None, Membership()).describe()["epsilon"]
2.0
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.registry import Method
from carbide.types import Case, Membership, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class PrivateLogisticRegression(Method):
    """Trains a logistic regression with an accounted (epsilon, delta) instead of the recipe's model.

    The account is for replacing one row; ``steps``, ``rate`` and ``clip`` are those of the noisy gradient descent.
    """

    threats = (Membership,)
    epsilon: float = 1.0
    delta: float = 1e-5
    steps: int = 60
    rate: float = 16.0
    clip: float = 0.1
    secret_noise: bool = False

    def __post_init__(self) -> None:
        self._recipe()

    def __call__(self, recipe: Recipe | None, threat: Threat) -> Recipe:
        """The private recipe; of the given one nothing is kept."""
        return self._recipe()

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Features must have finite bounds, and delta must be below one over the number of rows."""
        space, n = case.data.train.space, len(case.data.train)
        if not (np.isfinite(space.lower).all() and np.isfinite(space.upper).all()):
            return "it needs finite bounds of every feature that are public knowledge; give them in the space"
        if self.delta * n >= 1:
            return f"delta {self.delta:g} is not below one over the {n} training rows; give a smaller delta"
        return None

    def strengths(self) -> tuple[Method, ...]:
        """Four times the epsilon, then the epsilon asked for."""
        return (replace(self, epsilon=4 * self.epsilon), self)

    def _recipe(self) -> PrivateLogisticRecipe:
        return PrivateLogisticRecipe(epsilon=self.epsilon, delta=self.delta, steps=self.steps, rate=self.rate, clip=self.clip,
                                     secret_noise=self.secret_noise)  # fmt: skip
