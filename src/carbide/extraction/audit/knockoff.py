"""Orekondy, Schiele and Fritz 2019, https://arxiv.org/abs/1812.02766: Knockoff Nets, copying a model from its answers to natural rows.

The thief asks for rows it has, in random order (and for mixtures of two rows when they run out), and trains a copy on the
answers. It spends the rest of its queries where that copy is least sure, and trains again on all answers; several kinds of
learner compete on a part of them. The paper rewards queries by a bandit over classes; here they are ranked row by row.

>>> import numpy as np
>>> from carbide.data import builtin
>>> from carbide.extraction.oracle import Oracle
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import Queries, rng_for
>>> from sklearn.linear_model import LogisticRegression
>>> data, threat = builtin("patients"), Queries(n=60, answers="probabilities")
>>> victim = EstimatorRecipe(estimator=LogisticRegression(C=0.01, max_iter=5000)).fit(data.train, rng_for(0))
>>> thief = Knockoff()(Oracle(model=victim, threat=threat), data.validation, threat, rng_for(1))
>>> same = thief.predict(data.test.x).argmax(1) == victim.predict(data.test.x).argmax(1)
>>> bool(same.mean() > 0.95)
True
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from carbide.extraction.oracle import Oracle
from carbide.extraction.surrogates import LEARNERS, Surrogate, copy_of
from carbide.registry import Method
from carbide.types import Access, Array, Dataset, InputError, Queries, Rng, Space

ENOUGH = 60  # queries below which none is saved for a second round
MOST = 5_000  # natural rows among which the second round chooses


@dataclass(frozen=True, kw_only=True)
class Knockoff(Method):
    """Copies the model from its answers to natural rows and mixtures of them.

    ``learners`` names the kinds of copy that compete (empty = all that suit the input): trees, linear, net, cnn, forest, boosting.
    ``adaptive`` is the share of the queries that go where a first copy is least sure. ``points`` is how many
    numbers of queries the curve has; 1 = the full budget with the threat's answers alone.
    """

    threats = (Queries,)
    needs: ClassVar[Access] = Access.LABELS
    scale_free: ClassVar[bool] = True  # it learns from log-probabilities, so that logits and probabilities are the same to it
    learners: tuple[str, ...] = ()
    adaptive: float = 0.5
    points: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "learners", (self.learners,) if isinstance(self.learners, str) else tuple(self.learners))
        for name in self.learners:
            if name not in LEARNERS:
                raise InputError(f"learner {name!r} is not known; choose {', '.join(LEARNERS)}")
        if not 0 <= self.adaptive < 1:
            raise InputError(f"adaptive is {self.adaptive}; give a share of the queries in [0, 1)")
        if self.points < 1:
            raise InputError(f"points is {self.points}; give a whole number >= 1")

    def __call__(self, oracle: Oracle, pool: Dataset, threat: Queries, rng: Rng) -> Surrogate:
        """A copy learned from at most ``threat.n`` answers; ``pool`` are the rows that the thief has, its labels are not looked at.

        Raises:
            InputError: if the pool is empty.
        """
        if not len(pool):
            raise InputError("the thief's pool has no rows; give validation rows that are not training rows")
        n = min(threat.n, oracle.left)
        later = int(self.adaptive * n) if n >= ENOUGH else 0
        natural = min(max(0, len(pool) - (n - later)), MOST)  # rows of its own that the second round can choose from
        mixed = 4 * max(0, later - natural)
        rows = natural_queries(pool.x, pool.space, n - later + natural + mixed if later else n, rng)
        asked, rest = rows[: n - later], rows[n - later :]
        answers, weight = oracle.ask(asked), np.ones(len(asked))
        if later:
            draft = copy_of(asked, answers, oracle.space, oracle.classes, rng, learners=("net",) if pool.space.is_image else ("trees",))
            doubt = certainty(draft, rest)
            if mixed:
                doubt[:natural] = -1.0  # rows of its own come before any mixture
            more = rest[np.argsort(doubt, kind="stable")[:later]]
            asked, answers = np.concatenate([asked, more]), answers.then(oracle.ask(more))
            # The rows of the first round were drawn at random and stand for all that were left; those of the second stand for themselves.
            weight = np.concatenate([weight, np.full(later, min(1.0, (n - later) / max(1, len(rest) - later)))])
        return copy_of(asked, answers, oracle.space, oracle.classes, rng, learners=self.learners or None, weight=weight)

    def quick(self) -> Knockoff:
        """The full budget only."""
        return replace(self, points=1)


def certainty(copied: Surrogate, x: Array) -> Array:
    """How far ``(n,)`` a copy is from saying another label: in log-odds for two classes, else between its two likeliest classes."""
    p = copied.predict(x)
    if p.shape[1] == 2:
        odds = np.log(p[:, 1] + 1e-9) - np.log(p[:, 0] + 1e-9)
        return np.abs(odds - np.log(copied.threshold) + np.log1p(-copied.threshold))
    top = np.sort(p, axis=1)
    return top[:, -1] - top[:, -2]


def natural_queries(x: Array, space: Space, n: int, rng: Rng) -> Array:
    """``n`` rows to ask for: those of ``x`` in random order, then mixtures of two of them.

    In tables each feature (a one-hot group as a whole) comes from one of the two rows, so that values stay possible; images
    are averaged with a random weight.
    """
    order, mixer = rng.permutation(len(x)), np.random.default_rng(int(rng.integers(2**63)))
    natural = x[order[:n]]
    if n <= len(x):
        return natural
    more = n - len(x)
    first, second = x[mixer.integers(len(x), size=more)], x[mixer.integers(len(x), size=more)]
    if space.is_image:
        weight = mixer.uniform(size=(more, 1, 1, 1)).astype(x.dtype)
        mixed = (weight * first + (1 - weight) * second).clip(space.lower, space.upper)
        return np.concatenate([natural, mixed.astype(x.dtype)])
    units = np.arange(x.shape[1])
    for group in space.groups:
        units[list(group)] = group[0]
    choice = mixer.integers(2, size=(more, x.shape[1])).astype(bool)[:, units]
    return np.concatenate([natural, np.where(choice, first, second)])
