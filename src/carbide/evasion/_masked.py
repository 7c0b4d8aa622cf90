"""What the standard ensemble adds where the examination of a net found that its gradients lead astray or that its answers are random.

Where gradients are shattered, or another's stand in for them, the net's own from many starts and random search from several still break most
rows (Athalye et al. 2018, https://arxiv.org/abs/1802.00420, on why neither is enough alone). Where answers are random, a row that fell on
average may stand in most single answers: it is taken further beyond the boundary, and asked about with other draws.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from carbide.evasion._ascent import ascend
from carbide.evasion._gradients import BATCH, Ball, Best, array, generator_of
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.square import Square
from carbide.evasion.examination.views import OTHER
from carbide.evasion.examination.votes import Asked
from carbide.registry import Method
from carbide.types import Array, LpBall, Rng

ROUNDS, WIDELY = 6, APGD(steps=24, target_steps=24)  # of the net's own gradient, towards every class, for as long as rows break
COPIES, SEARCH = 4, Square(queries=500)  # and the random search that follows, from so many starts
ANSWERS, SURELY = 33, 0.8  # of a net that answers at random: how often it is asked, and the share of wrong answers from which on a row surely fell
FURTHER = (2.0, 4.0)  # times as far beyond the boundary as attacks on its mean answers go
STEPS = 24  # of each of these runs


def surround(rows: Callable[[], Array], let: Callable[[str, Method, Array], None]) -> None:
    """Let the net's own gradient and random search try the ``rows()`` that are left, through ``let(stage, attack, rows)``."""
    for _ in range(ROUNDS):
        left = rows()
        let("targeted", WIDELY, left)
        if len(rows()) == len(left):
            break
    let("square", SEARCH, np.repeat(rows(), COPIES))


def deepen(view: Any, x: Array, y: Array, near: Array, threat: LpBall, rng: Rng) -> tuple[Array, Array]:
    """From the inputs ``near`` ``(n, *shape)`` that attacks came to, others that more of the net's answers get wrong, and the share ``(n,)`` that do."""
    most = Asked(view.model, draws=ANSWERS, seed=OTHER)
    best = near.copy()
    wrong = (most.labels(best) != y).mean(0)
    for times in FURTHER:
        deep, some = view.cautious(times), np.flatnonzero(wrong < SURELY)
        for start in range(0, len(some), BATCH):
            rows = some[start : start + BATCH]
            z = _climbed(deep, x[rows], y[rows], best[rows], threat, rng)
            share = (most.labels(z) != y[rows]).mean(0)
            better = share > wrong[rows]
            best[rows[better]], wrong[rows[better]] = z[better], share[better]
    return best, wrong


def _climbed(view: Any, x: Array, y: Array, near: Array, threat: LpBall, rng: Rng) -> Array:
    """The inputs of least margin ``(n, *shape)`` of one ascent from ``near``."""
    ball, labels = Ball.of(view, x, threat), torch.as_tensor(y, device=view.device)
    best = Best(ball.clean)
    rows = torch.arange(len(labels), device=labels.device)
    ascend(view, ball, labels, None, rows, best, STEPS, generator_of(rng, labels.device), view.tensor(near))
    return array(best.x)
