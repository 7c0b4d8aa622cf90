"""Mehnaz et al. 2022, https://arxiv.org/abs/2201.09370: the confidence-score attack in three cases (CSMIA), no prior needed.

Each value is tried in the person's row. If exactly one gives the person's label, it is that; if several do, the one of highest confidence;
if none does, the one of lowest.

>>> import numpy as np
>>> from carbide.privacy.puzzle import Puzzle
>>> half = np.full((1, 2), 0.5)
>>> puzzle = Puzzle(x=np.array([[[0.0], [1.0]]]), y=np.array([0]), shares=half[0], blind=half, imputed=half)
>>> model = type("Step", (), {"predict": lambda self, x: np.hstack([0.3 + 0.1 * x, 0.7 - 0.1 * x])})()
>>> ValueCases()(model, puzzle, None, np.random.default_rng(0)).argmax(1).tolist()
[1]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.puzzle import Puzzle
from carbide.registry import Method
from carbide.types import Access, Array, AttributeInference, Case, Model, Rng, Threat


@dataclass(frozen=True, kw_only=True)
class ValueCases(Method):
    """Takes the value that gives the person's label with the highest confidence, or misses it with the lowest.

    Models that answer labels only have equal confidence everywhere; among equals the value is taken that is likeliest without the model.
    """

    threats = (AttributeInference,)
    needs: ClassVar[Access] = Access.LABELS

    def __call__(self, model: Model, puzzle: Puzzle, threat: AttributeInference, rng: Rng) -> Array:
        """Confidences ``(n, v)`` where the label is right, else minus the confidence in the wrong one."""
        answers = puzzle.ask(model)
        said, top = answers.argmax(2), answers.max(2)
        assert puzzle.y is not None
        return np.where(said == puzzle.y[:, None], top, -top)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs people's labels."""
        return None if getattr(threat, "label", True) else "it compares answers with people's labels, which this attacker does not know"
