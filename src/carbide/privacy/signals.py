"""What a model's answer on a record says about it: the loss, and the logit-scaled confidence; arrays in, numbers out.

>>> import numpy as np
>>> confidence(np.array([[0.2, 0.8]]), np.array([1]))
array([0.8])
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array

FLOOR = 1e-12


def confidence(answers: Array, y: Array) -> Array:
    """The probability ``(..., n)`` given to the true class by answers ``(..., n, k)`` on rows of labels ``(n,)``."""
    return np.take_along_axis(answers, np.broadcast_to(y[:, None], (*answers.shape[:-1], 1)), axis=-1)[..., 0]


def grain(probabilities: Array) -> float:
    """Half the least step by which these probabilities stay away from 0 and 1, within [1e-12, 0.05].

    A forest of 100 full trees answers in hundredths, so that an answer of 1 means "above 0.995": this is the smoothing
    that its logit needs. Smooth models answer arbitrarily close to 0 and 1 and are hardly smoothed at all.
    """
    flat = probabilities[(probabilities > FLOOR) & (probabilities < 1 - FLOOR)]
    if not flat.size:
        return 0.05
    return float(np.clip(np.minimum(flat, 1 - flat).min() / 2, FLOOR, 0.05))


def logit_confidence(answers: Array, y: Array, least: float) -> Array:
    """``log p_y - log(sum of the others)`` ``(..., n)``, both sides kept at or above ``least`` (Carlini et al. 2022, section 4)."""
    true = confidence(answers, y)
    others = np.maximum(answers.sum(-1) - true, 0.0)
    if answers.shape[-1] == 2:  # the other column itself, without the rounding of a difference
        others = confidence(answers, 1 - y)
    return np.log(np.maximum(true, least)) - np.log(np.maximum(others, least))
