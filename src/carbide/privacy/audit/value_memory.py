"""Yeom et al. 2018, https://arxiv.org/abs/1709.01604: a feature's value by asking which version of a person was trained on.

Who can tell members can tell values: of a person's row with each value in turn, the true one was in the training set. How much surer the
model is of it than models trained on other rows is what membership shows (Watson et al. 2022, https://arxiv.org/abs/2111.08440), and it
moves the belief that the attacker had without the model.

>>> ValueMemory(references=4).references
4
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.puzzle import Puzzle
from carbide.privacy.signals import grain
from carbide.registry import Method
from carbide.types import Access, Array, AttributeInference, InputError, Model, Rng


@dataclass(frozen=True, kw_only=True)
class ValueMemory(Method):
    """Takes the value whose row the model is surer of than ``references`` models that the recipe trains on validation rows.

    The score is the belief without the model plus ``trust`` times the difference of log-odds, in standard deviations of the references'
    own differences.
    """

    threats = (AttributeInference,)
    needs: ClassVar[Access] = Access.SCORES
    trains: ClassVar[bool] = True
    references: int = 8
    trust: float = 1.0

    def __post_init__(self) -> None:
        if self.references < 2:
            raise InputError(f"references is {self.references}; give a whole number >= 2")
        if not self.trust > 0:
            raise InputError(f"trust is {self.trust}; give a number > 0")

    def __call__(self, model: Model, puzzle: Puzzle, threat: AttributeInference, rng: Rng) -> Array:
        """Log beliefs moved by what the model remembers, ``(n, v)``.

        Raises:
            InputError: if there are no reference models.
        """
        if puzzle.references is None:
            raise InputError("value_memory compares with reference models, and there are none; add a recipe so that they can be trained")
        floor = grain(puzzle.references)
        others, own = (_odds(puzzle.confidence(a), floor) for a in (puzzle.references, puzzle.ask(model)))
        spread = np.sqrt(np.mean(np.var(others, axis=0, ddof=1))) + 1e-9
        return puzzle.prior + self.trust * (own - others.mean(0)) / spread


def _odds(confidence: Array, floor: float) -> Array:
    kept = np.clip(confidence, floor, 1 - floor)
    return np.log(kept) - np.log1p(-kept)
