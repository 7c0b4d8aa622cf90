"""How well a model does its job: accuracy, worst class, recall at the operating point; arrays in, numbers out.

>>> import numpy as np
>>> threshold_at_fpr(np.array([0.1, 0.2, 0.3, 0.4]), 0.25)  # one of four negatives may pass
0.4
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carbide.types import Array, decide


@dataclass(frozen=True, kw_only=True)
class Performance:
    """``accuracy`` and ``worst_class`` (the least recall of a class); ``recall`` and ``false_positive_rate`` for two classes, else nan."""

    accuracy: float
    worst_class: float
    recall: float
    false_positive_rate: float
    n: int


def performance(y: Array, probabilities: Array, threshold: float = 0.5) -> Performance:
    """The performance of predicted probabilities ``(n, k)`` against labels ``(n,)``."""
    predicted = decide(probabilities, threshold)
    recalls = [float((predicted[y == c] == c).mean()) for c in np.unique(y)]
    two = probabilities.shape[1] == 2 and {0, 1} <= set(np.unique(y).tolist())
    return Performance(accuracy=float((predicted == y).mean()), worst_class=min(recalls),
                       recall=float((predicted[y == 1] == 1).mean()) if two else math.nan,
                       false_positive_rate=float((predicted[y == 0] == 1).mean()) if two else math.nan, n=len(y))  # fmt: skip


def threshold_at_fpr(negatives: Array, rate: float) -> float:
    """The least threshold t at which at most ``rate`` of the negatives' scores ``(n,)`` are >= t.

    Raises:
        ValueError: if there are no negatives.
    """
    if len(negatives) == 0:
        raise ValueError("there are no negatives to set the threshold by")
    allowed = math.floor(rate * len(negatives) + 1e-9)
    ordered = np.sort(negatives)[::-1]
    candidates = np.unique(negatives)  # thresholds worth trying, ascending
    passing = len(ordered) - np.searchsorted(ordered[::-1], candidates, side="left")
    good = candidates[passing <= allowed]
    return float(good[0]) if len(good) else float(np.nextafter(ordered[0], np.inf))
