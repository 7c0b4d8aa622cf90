"""What a model's answer on a record says about it: the logit-scaled confidence; arrays in, numbers out.

>>> import numpy as np
>>> confidence(np.array([[0.2, 0.8]]), np.array([1]))
array([0.8])
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array

FLOOR = 1e-12  # below this a probability counts as 0
FLOORS = (0.005, 0.02)  # coarser floors worth trying: half a vote of 100 trees, and two votes


def confidence(answers: Array, y: Array) -> Array:
    """The probability ``(..., n)`` given to the true class by answers ``(..., n, k)`` on rows of labels ``(n,)``."""
    return np.take_along_axis(answers, np.broadcast_to(y[:, None], (*answers.shape[:-1], 1)), axis=-1)[..., 0]


def grain(probabilities: Array) -> float:
    """Half the least step by which these probabilities stay away from 0 and 1, within [1e-12, 0.05].

    A forest of 100 full trees answers in hundredths, so that an answer of 1 means "above 0.995": this is the floor that
    its logit needs. Smooth models answer arbitrarily close to 0 and 1 and are hardly floored at all.
    """
    flat = probabilities[(probabilities > FLOOR) & (probabilities < 1 - FLOOR)]
    if not flat.size:
        return 0.05
    return float(np.clip(np.minimum(flat, 1 - flat).min() / 2, FLOOR, 0.05))


def odds(answers: Array, y: Array) -> tuple[Array, Array]:
    """The probability of the true class and the sum of the others, ``(..., n)`` each, without the rounding of a difference for two classes."""
    true = confidence(answers, y)
    others = confidence(answers, 1 - y) if answers.shape[-1] == 2 else np.maximum(answers.sum(-1) - true, 0.0)
    return true, others


def logit(true: Array, others: Array, least: float) -> Array:
    """``log(true) - log(others)``, both kept at or above ``least`` (Carlini et al. 2022, section 4)."""
    return np.log(np.maximum(true, least)) - np.log(np.maximum(others, least))
