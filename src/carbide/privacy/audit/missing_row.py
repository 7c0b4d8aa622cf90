"""Balle, Cherubin & Hayes 2022, https://arxiv.org/abs/2201.04845: the one training row that an informed adversary does not know.

Of a convex model the training row follows in closed form from its weights and all other rows, because the gradient at the minimum is zero
(section 3 of the paper). Nothing is searched; what a short training leaves undone is taken off by training again.

>>> MissingRow().needs.words()
'weights'
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from carbide.models.stationary import stationary, why_not
from carbide.privacy.rebuilt import Rebuilt
from carbide.registry import Method
from carbide.types import Access, Case, Dataset, InputError, Model, Reconstruction, Rng, Threat


@dataclass(frozen=True, kw_only=True)
class MissingRow(Method):
    """Solves the equations of a logistic regression's minimum for the row that is missing among the others.

    Trainings stop short of the minimum. An attacker who knows how the model was trained trains again with the row that was found, up to
    ``retrainings`` times, and takes off by how much the equations are wrong about it; 0 = the closed form alone.
    """

    threats = (Reconstruction,)
    needs: ClassVar[Access] = Access.WEIGHTS
    retrainings: int = 4

    def __post_init__(self) -> None:
        if self.retrainings < 0:
            raise InputError(f"retrainings is {self.retrainings}; give a whole number >= 0")

    def quick(self) -> MissingRow:
        """The closed form alone."""
        return replace(self, retrainings=0)

    def __call__(self, model: Model, others: Dataset | None, threat: Reconstruction, rng: Rng) -> Rebuilt:
        """The row and its label, within the bounds of the space.

        Raises:
            InputError: if the others are not known, the model is none whose minimum is known, or was trained on other rows.
        """
        if others is None:
            raise InputError("missing_row solves for one row among known ones; ask with known: others")
        flat, label = stationary(model).settled(others.x.reshape(len(others), -1).astype(float), others.y, self.retrainings)
        flat = flat if np.isfinite(flat).all() else others.x.reshape(len(others), -1).mean(0)  # its pull is too small to be told
        x = np.clip(flat.reshape(1, *model.space.shape), model.space.lower, model.space.upper)
        return Rebuilt(x=x, y=np.array([label], np.int64))

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The attacker must know the other rows, and the model must be a logistic regression at its minimum."""
        if getattr(threat, "known", "others") != "others":
            return "it solves for one row among known ones; ask with known: others"
        return why_not(case.model)
