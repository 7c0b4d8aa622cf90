"""Tramer et al. 2016, https://arxiv.org/abs/1609.02943: answers that tell less, rounded probabilities or the label alone.

The model's decisions stay as they are, so accuracy is not touched; what falls is how much each answer tells a thief. No
policy that keeps the label can do better than answering the label alone: a thief can always look at the label only, so the
label column of the audit is where every such policy ends.

>>> import numpy as np
>>> from carbide.data import builtin
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import rng_for
>>> from sklearn.linear_model import LogisticRegression
>>> data = builtin("patients")
>>> model = EstimatorRecipe(estimator=LogisticRegression(C=0.01, max_iter=5000)).fit(data.train, rng_for(0))
>>> OutputPolicy(answers="rounded", decimals=1)(model, data.train, rng_for(0)).predict(data.test.x[:1]).round(6)
array([[0., 1.]])
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from carbide.extraction.policy_model import PolicyModel
from carbide.registry import Method
from carbide.types import Dataset, InputError, Model, Queries, Rng

ANSWERS = ("rounded", "labels")


@dataclass(frozen=True, kw_only=True)
class OutputPolicy(Method):
    """Rounds the answered probabilities to ``decimals`` places, or answers labels only; decisions stay as they are."""

    threats = (Queries,)
    answers: str = "labels"
    decimals: int = 2

    def __post_init__(self) -> None:
        if self.answers not in ANSWERS:
            raise InputError(f"answers is {self.answers!r}; choose {' or '.join(ANSWERS)}")
        if not 1 <= self.decimals <= 12:
            raise InputError(f"decimals is {self.decimals}; give 1 to 12")

    def __call__(self, model: Model, dataset: Dataset, rng: Rng) -> PolicyModel:
        """The model behind the policy; nothing is trained, so the rows and the rng are not looked at."""
        return PolicyModel(inner=model, decimals=None if self.answers == "labels" else self.decimals)

    def strengths(self) -> tuple[OutputPolicy, ...]:
        """Three, two and one decimal, then labels alone."""
        return (*(replace(self, answers="rounded", decimals=d) for d in (3, 2, 1)), replace(self, answers="labels"))
