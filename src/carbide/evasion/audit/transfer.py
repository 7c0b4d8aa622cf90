"""Papernot et al. 2017, https://arxiv.org/abs/1602.02697: a surrogate learned from the model's answers, and attacks that transfer from it.

The rows themselves are asked first, then steps along the surrogate's own gradient (Jacobian augmentation), while it learns. Then it is
attacked with momentum (Dong et al. 2018, https://arxiv.org/abs/1710.06081), the model is asked once about each result, a row leaves
when it is wrong, and the surrogate learns from the answers to those that failed. Only answers are seen: labels, or scores where the
model gives them. Every answer is counted, and there are at most ``queries`` a row.

>>> import numpy as np
>>> from types import SimpleNamespace
>>> from carbide.types import Access, LpBall, Space
>>> space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
>>> says = lambda x: np.stack([x[:, 0] <= 0.5, x[:, 0] > 0.5], 1).astype(float)
>>> model = SimpleNamespace(predict=says, threshold=0.5, classes=2, space=space, access=Access.LABELS)
>>> x = np.random.default_rng(0).uniform(size=(40, 2)); y = says(x).argmax(1)
>>> z = Transfer()(model, x, y, LpBall(eps=0.2), np.random.default_rng(0))
>>> bool((says(z).argmax(1) != y)[abs(x[:, 0] - 0.5) < 0.15].mean() > 0.9)
True
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from carbide.evasion._gradients import Ball, array, generator_of, gradient_of, spread
from carbide.evasion._scores import CHUNK, cut
from carbide.evasion._surrogate import BATCH, surrogate_for, teach
from carbide.evasion.audit.pgd import gradient_refusal
from carbide.registry import Method
from carbide.space.balls import norms, project
from carbide.space.repair import repair
from carbide.types import Access, Array, InputError, LpBall, Rng, Threat, decide

FIRST, MORE = 100, 20  # steps of teaching at first and after each round of answers, at least
EPOCHS = (3.0, 0.5)  # and at least so often through all answers
AWAY = (0.5, 2.0)  # least and largest Jacobian step, in multiples of eps


@dataclass(frozen=True, kw_only=True)
class Transfer(Method):
    """Momentum attacks on ``nets`` surrogates taught by at most ``queries`` answers a row, a ``lessons`` share of them before the first attack."""

    queries: int = 20
    lessons: float = 0.5
    nets: int = 2
    steps: int = 10
    decay: float = 1.0
    threats: ClassVar[tuple[type[Threat], ...]] = (LpBall,)
    needs: ClassVar[Access] = Access.LABELS
    default: ClassVar[bool] = False
    rank: ClassVar[int] = 29

    def __post_init__(self) -> None:
        if self.queries < 4:
            raise InputError(f"transfer: queries is {self.queries}; give at least 4 answers a row")
        if not 0 <= self.lessons < 1:
            raise InputError(f"transfer: lessons is {self.lessons}; give a share of the queries in [0, 1), e.g. 0.5")
        if self.nets < 1 or self.steps < 1:
            raise InputError(f"transfer: nets is {self.nets} and steps {self.steps}; give whole numbers >= 1")
        if not (math.isfinite(self.decay) and self.decay >= 0):
            raise InputError(f"transfer: decay is {self.decay}; give the weight of past gradients >= 0, e.g. 1.0")

    def refuses(self, case: Any, threat: Threat) -> str | None:
        """A surrogate's gradients say nothing about how few features an L0 change needs."""
        return gradient_refusal(threat)

    def quick(self) -> Transfer:
        """A third of the queries."""
        return replace(self, queries=max(4, self.queries // 3))

    def __call__(self, model: Any, x: Array, y: Array, threat: LpBall, rng: Rng) -> Array:
        """Inputs ``(n, *shape)`` within the threat for rows ``x`` with labels ``y`` ``(n,)``: the last that each row was tried with."""
        out, y = np.array(x, np.float64), np.asarray(y, np.int64)
        if len(out) == 0:
            return out
        oracle = _Oracle(model, self.queries * len(out))
        wrong = oracle.ask(out) != y
        substitute = _Substitute(self, model, out.copy(), threat, oracle, rng)
        while (spare := oracle.left - round((1 - self.lessons) * oracle.budget)) > 0:
            substitute.augment(spare)
        rows = np.flatnonzero(~wrong)
        while len(rows) and oracle.left:
            rows = rows[rng.permutation(len(rows))[: oracle.left]] if oracle.left < len(rows) else rows
            trial = substitute.craft(rows, y[rows])
            broken = oracle.ask(trial) != y[rows]
            out[rows] = trial
            rows = rows[~broken]
            if len(rows) and oracle.left:
                substitute.learn()
        return out


class _Oracle:
    """The model as one who answers at most ``budget`` questions; all questions and answers are kept."""

    def __init__(self, model: Any, budget: int) -> None:
        self.model, self.budget, self.left = model, budget, budget
        self.questions: list[Array] = []
        self.answers: list[Array] = []

    def ask(self, x: Array) -> Array:
        """The labels ``(n,)`` of inputs."""
        assert len(x) <= self.left
        self.left -= len(x)
        p = np.concatenate([self.model.predict(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)])
        labels = decide(p, self.model.threshold)
        self.questions.append(x)
        self.answers.append(self._lesson(p) if Access.SCORES in self.model.access else np.eye(p.shape[1])[labels])
        return labels

    def _lesson(self, p: Array) -> Array:
        """Probabilities; of two classes, moved so that the model decides at one half."""
        if p.shape[1] != 2:
            return p
        odds = np.log(np.maximum(p, np.finfo(np.float64).tiny))
        gap = np.clip(odds[:, 1] - odds[:, 0] - cut(self.model.threshold), -50, 50)
        return np.stack([1 / (1 + np.exp(gap)), 1 / (1 + np.exp(-gap))], 1)


class _Substitute:
    """The surrogate, the rows that it starts from, and what it is asked for."""

    def __init__(self, options: Transfer, model: Any, x: Array, threat: LpBall, oracle: _Oracle, rng: Rng) -> None:
        self.options, self.x, self.threat, self.space, self.oracle, self.rng = options, x, threat, model.space, oracle, rng
        self.surrogate = surrogate_for(
            model.space, model.classes, x, nets=options.nets, seed=int(rng.integers(2**31)), device=getattr(model, "device", "cpu")
        )
        self.lessons, self.noise = generator_of(rng, "cpu"), generator_of(rng, self.surrogate.device)
        self.turns = self.tries = 0
        space = model.space
        self.plain = not (space.groups or space.relations or (space.step > 0).any() or not space.mutable.all())
        self.learn(FIRST, EPOCHS[0])

    def learn(self, steps: int = MORE, epochs: float = EPOCHS[1]) -> None:
        """From all answers so far."""
        questions, answers = np.concatenate(self.oracle.questions), np.concatenate(self.oracle.answers)
        teach(self.surrogate, questions, answers, steps=max(steps, math.ceil(epochs * len(questions) / BATCH)), generator=self.lessons)

    def augment(self, most: int) -> None:
        """Ask about at most so many steps from the rows along the gradient of the label that the surrogate gives them, now up, now down."""
        rows = self.rng.permutation(len(self.x))[:most]
        ball, sign = Ball.of(self.surrogate, self.x[rows], replace(self.threat, eps=AWAY[1] * self.threat.eps)), -1.0 if self.turns % 2 == 0 else 1.0
        _, _, gradient = gradient_of(self.surrogate, ball.clean, lambda z: z.amax(1))
        size = torch.as_tensor(self.rng.uniform(*AWAY, size=len(rows)) * self.threat.eps, dtype=gradient.dtype, device=gradient.device)
        z = ball.project(ball.clean + sign * spread(size, gradient) * ball.direction(gradient))
        self.oracle.ask(self._allowed(array(z), rows, AWAY[1]))
        self.turns += 1
        self.learn()

    def craft(self, rows: Array, y: Array) -> Array:
        """Momentum steps up the surrogate's cross-entropy for these rows, from the rows themselves at first, later from anywhere in the ball."""
        ball = Ball.of(self.surrogate, self.x[rows], self.threat)
        labels = torch.as_tensor(y, device=ball.clean.device)
        x = ball.clean if self.tries == 0 else ball.random(self.noise)
        self.tries += 1
        x = climb(self.surrogate, ball, x, labels, steps=self.options.steps, decay=self.options.decay)
        return self._allowed(array(x), rows, 1.0)

    def _allowed(self, z: Array, rows: Array, wider: float) -> Array:
        clean = self.x[rows]
        near = project(z, clean, p=self.threat.p, eps=wider * self.threat.eps, lower=self.space.lower, upper=self.space.upper)
        return near if self.plain else repair(near, clean, self.space)


def climb(surrogate: Any, ball: Ball, x: torch.Tensor, y: torch.Tensor, *, steps: int, decay: float) -> torch.Tensor:
    """MI-FGSM: ``steps`` steps of length eps / steps (2.5 times that from a random start) along gradients summed with ``decay``, each of L1 norm 1."""
    size = ball.eps / steps * (1.0 if x is ball.clean else 2.5)
    push = torch.zeros_like(x)
    for _ in range(steps):
        _, _, gradient = gradient_of(surrogate, x, lambda z: torch.nn.functional.cross_entropy(z, y, reduction="none"))
        push = decay * push + gradient / spread(norms(gradient, 1).clamp_min(torch.finfo(x.dtype).tiny), gradient)
        x = ball.project(x + size * ball.direction(push, x=x))
    return x
