"""What attacks that see scores share: margins at the operating point from whatever a model answers, and queries counted per row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from carbide.types import Access, Array, decide

CHUNK = 4096  # rows asked at once
SURE = 1e-6  # a row counts as broken inside a loop when its margin is below minus this share of its logits


def cut(threshold: float) -> float:
    """The difference of logits at which a two-class model starts to say class 1."""
    inside = min(max(threshold, 1e-300), 1 - 1e-16)
    return math.log(inside) - math.log1p(-inside)


class Scorer:
    """Asks a model for the scores of changes of rows with labels ``y`` ``(n,)``; ``asked`` ``(n,)`` counts the queries for each row.

    Scores are logits where the model shows them, else logarithms of its probabilities.
    """

    def __init__(self, model: Any, y: Array) -> None:
        self.model, self.y = model, np.asarray(y)
        self.asked = np.zeros(len(self.y), np.int64)
        self.open = Access.GRADIENTS in model.access

    def margins(self, rows: Array, x: Array) -> tuple[Array, Array]:
        """How far each input is from a wrong decision ``(n,)``, in logits, and whether it is wrong ``(n,)`` bool; ``rows`` may repeat."""
        np.add.at(self.asked, rows, 1)
        y = self.y[rows]
        found = [self._part(y[i : i + CHUNK], x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
        margin, wrong = (np.concatenate([part[side] for part in found]) if found else np.zeros(0) for side in (0, 1))
        return margin, wrong.astype(bool)

    def _part(self, y: Array, x: Array) -> tuple[Array, Array]:
        if self.open:
            scores = self._logits(x)
            margin = self._margin(scores, y)
            return margin, margin < -SURE * (1 + np.abs(scores).max(1))
        answers = self.model.predict(x)
        margin = self._margin(np.log(np.maximum(answers, np.finfo(np.float64).tiny)), y)
        return margin, decide(answers, self.model.threshold) != y

    def _logits(self, x: Array) -> Array:
        import torch

        with torch.no_grad():
            return self.model.logits(self.model.tensor(x)).double().cpu().numpy()

    def _margin(self, scores: Array, y: Array) -> Array:
        if scores.shape[1] == 2:
            return (scores[:, 1] - scores[:, 0] - cut(self.model.threshold)) * (2 * y - 1)
        every = np.arange(len(y))
        others = scores.copy()
        others[every, y] = -np.inf
        return scores[every, y] - others.max(1)
