"""Many private logistic regressions trained one beside the other: the arithmetic of ``PrivateLogisticRecipe.fit``, compiled.

An audit needs thousands of complete trainings of a small model, whose cost is mostly calls. Each training here has the noise that its
own generator would have given ``fit``, so the weights are those of ``fit`` up to the rounding of sums.

>>> callable(train_stack)
True
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from carbide._numba import njit
from carbide.privacy.logistic import PrivateLogisticRecipe
from carbide.run import cores
from carbide.types import Array, Dataset, InputError, Rng

CHUNK = 64  # trainings that a thread takes at once
FAST = {"reassoc", "contract", "arcp"}  # sums in any order; infinities keep their meaning


def train_stack(recipe: PrivateLogisticRecipe, pool: Dataset, parts: Sequence[Array], rngs: Sequence[Rng]) -> Array:
    """Weights and centre ``(m, 2 d + 1)`` of one training for each of ``parts``, rows of the pool, with its own generator.

    Raises:
        InputError: if the recipe cannot be stacked (see its ``stacks``), or the pool does not fit it.
    """
    if not recipe.stacks(pool):
        raise InputError("trainings with more than two classes or with secret noise are not stacked; train them one after the other")
    ball = recipe.scaling.ball(pool.x, pool.space)
    columns, y, first = np.ascontiguousarray(ball.T), pool.y.astype(np.float64), int(recipe.steps * (1 - recipe.averaged))
    d, steps = ball.shape[1], recipe.steps
    leading = d if recipe.centring else 0
    spread = recipe.sigma_mean if recipe.centring else 0.0
    out = np.empty((len(parts), 2 * d + 1))

    def work(start: int) -> None:
        for i in range(start, min(start + CHUNK, len(parts))):
            drawn, part = rngs[i].standard_normal(leading + steps * (d + 1)), np.asarray(parts[i], np.int64)
            centre = spread * drawn[:leading] if leading else np.zeros(d)
            noise = drawn[leading:].reshape(steps, d + 1)
            rows = _rows(columns, part, centre, leading > 0, recipe.scaling.constant)
            out[i, : d + 1] = _descend(rows, y[part], noise, recipe.clip, recipe.sigma, recipe.rate / len(part), first)
            out[i, d + 1 :] = centre

    with ThreadPoolExecutor(cores()) as threads:
        list(threads.map(work, range(0, len(parts), CHUNK)))
    return out


@njit(cache=True, fastmath=FAST, nogil=True)
def _rows(columns, part, centre, centred, constant):  # type: ignore[no-untyped-def]
    """The rows ``(d + 1, n)`` of a training, feature by feature; noise in ``centre`` ``(d,)`` becomes the noisy mean."""
    d, n = len(columns), len(part)
    rows, lengths = np.empty((d + 1, n)), np.zeros(n)
    for j in range(d):
        for i in range(n):
            rows[j, i] = columns[j, part[i]]
        if centred:
            centre[j] = (rows[j].sum() + centre[j]) / n
        for i in range(n):
            rows[j, i] -= centre[j]
            lengths[i] += rows[j, i] * rows[j, i]
    whole = np.sqrt(1 + constant * constant)
    for i in range(n):
        lengths[i] = 1 / (max(np.sqrt(lengths[i]), 1e-12) * whole)
    for j in range(d):
        for i in range(n):
            rows[j, i] *= lengths[i]
    rows[d] = constant / whole
    return rows


@njit(cache=True, fastmath=FAST, nogil=True)
def _descend(rows, y, noise, clip, sigma, rate, first):  # type: ignore[no-untyped-def]
    """The mean ``(d,)`` of the last iterates, with rows ``(d, n)`` feature by feature, so that the loops over rows are vectors."""
    d, n = rows.shape
    weights, total, pull, norms = np.zeros(d), np.zeros(d), np.empty(n), np.zeros(n)
    for j in range(d):
        for i in range(n):
            norms[i] += rows[j, i] * rows[j, i]
    for step in range(len(noise)):
        pull[:] = 0.0
        for j in range(d):
            weight = -weights[j]
            for i in range(n):
                pull[i] += weight * rows[j, i]
        for i in range(n):
            pull[i] = 1.0 / (1.0 + np.exp(pull[i])) - y[i]
        for i in range(n):
            pull[i] *= min(1.0, clip / max(abs(pull[i]) * np.sqrt(norms[i]), 1e-300))
        for j in range(d):
            gradient = 0.0
            for i in range(n):
                gradient += pull[i] * rows[j, i]
            weights[j] -= rate * (gradient + sigma * noise[step, j])
            if step >= first:
                total[j] += weights[j]
    return total / (len(noise) - first)
