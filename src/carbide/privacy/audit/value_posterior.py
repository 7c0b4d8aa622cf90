"""Fredrikson et al. 2014, https://www.usenix.org/system/files/conference/usenixsecurity14/sec14-paper-fredrikson-privacy.pdf: the likeliest value.

Each value of the sensitive feature is tried in the person's row. The one is taken under which the person's label is likeliest by the model,
weighed by how common the value is; instead of the paper's table of errors, the model's own confidence says how likely a label is.

>>> import numpy as np
>>> from carbide.privacy.puzzle import Puzzle
>>> half = np.full((1, 2), 0.5)
>>> puzzle = Puzzle(x=np.array([[[0.0], [1.0]]]), y=np.array([1]), shares=half[0], blind=half, imputed=half)
>>> model = type("Step", (), {"predict": lambda self, x: np.hstack([0.9 - 0.8 * x, 0.1 + 0.8 * x])})()
>>> ValuePosterior()(model, puzzle, None, np.random.default_rng(0)).argmax(1).tolist()
[1]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.puzzle import Puzzle
from carbide.privacy.signals import FLOOR
from carbide.registry import Method
from carbide.types import Access, Array, AttributeInference, InputError, Model, Rng

PRIORS = ("imputed", "shares")


@dataclass(frozen=True, kw_only=True)
class ValuePosterior(Method):
    """Takes the value that makes the person's label likeliest, weighed by what is believed before.

    ``prior`` is ``imputed`` (from the person's other features, learned on other people) or ``shares`` (how common each value is, as in
    the paper).
    """

    threats = (AttributeInference,)
    needs: ClassVar[Access] = Access.SCORES
    prior: str = "imputed"

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise InputError(f"prior is {self.prior!r}; choose {' or '.join(PRIORS)}")

    def __call__(self, model: Model, puzzle: Puzzle, threat: AttributeInference, rng: Rng) -> Array:
        """Log posteriors ``(n, v)`` up to a constant a person."""
        believed = puzzle.blind if self.prior == "imputed" else puzzle.shares[None]
        return np.log(np.maximum(puzzle.confidence(puzzle.ask(model)), FLOOR)) + np.log(np.maximum(believed, FLOOR))
