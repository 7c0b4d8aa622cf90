"""Shokri et al. 2017, https://arxiv.org/abs/1610.05820: coarse answers, or labels alone, tell less about members.

Probabilities are answered in a few steps. An attacker who knows it trains shadow models that answer in the same steps:
what is left is what the labels tell, and who holds the model's file sees through it.

>>> from carbide.types import Membership
>>> [method.levels for method in CoarseAnswers().strengths()]
[10, 4, 1]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from carbide.privacy.coarse import CoarseModel
from carbide.registry import Method
from carbide.types import Access, Dataset, InputError, Membership, Model, Rng

GRID = (10, 4, 1)


@dataclass(frozen=True, kw_only=True)
class CoarseAnswers(Method):
    """Answers probabilities in steps of ``1 / levels``; 1 = labels alone."""

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    default: ClassVar[bool] = False
    levels: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= 1000:
            raise InputError(f"levels is {self.levels}; give 1 (labels alone) to 1,000 steps")

    def __call__(self, model: Model, dataset: Dataset, rng: Rng) -> CoarseModel:
        """The model behind coarse answers."""
        return CoarseModel(inner=model, levels=self.levels)

    def strengths(self) -> tuple[Method, ...]:
        """Ten steps, four, and labels alone."""
        return tuple(replace(self, levels=levels) for levels in GRID)
