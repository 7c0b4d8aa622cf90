"""Andriushchenko & Hein 2019, https://arxiv.org/abs/1906.03526: boosting on an upper bound of the worst-case loss.

The worst case of a sum of trees is at least the sum of their worst cases. Each round grows a tree where the worst cases so far leave the
steepest loss, sets its leaf values by convex search, and adds each row's worst case over that tree. So ``robust_loss_`` bounds what any
allowed change of the training rows makes of the training loss, round by round.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> x = rng.uniform(size=(200, 2))
>>> model = RobustBoostingClassifier(attacker=0.1, n_estimators=20).fit(x, (x[:, 0] > 0.5).astype(int))
>>> bool(model.robust_loss_[-1] < model.robust_loss_[0])
True
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.special import logit

from carbide.evasion._threads import Threads
from carbide.evasion.robust_trees.attackers import Reach
from carbide.evasion.robust_trees.base import RobustTrees, columns_drawn
from carbide.evasion.robust_trees.grow import Grower, Tree
from carbide.evasion.robust_trees.leaves import add_worst_, bases, by_row, refined, slopes
from carbide.evasion.robust_trees.splits import NEWTON, Rules, rules
from carbide.evasion.robust_trees.stumps import stump
from carbide.types import Array, InputError

CLOSE = 0.5  # how near to each other, in values of a round, two sides of a stump are for a row to count on both


class RobustBoostingClassifier(RobustTrees):
    """Boosted trees trained on worst cases.

    ``attacker``: the radius of an Linf ball, a ``Box`` or a ``Spender``. ``reg_lambda``: ridge of the leaf values; ``min_child_weight``: hessian a leaf
    needs; ``min_gain``: what a split must gain; ``max_features``: share of the columns drawn a node; ``refinements``: Newton steps of all leaves
    together. More than two classes are trained one against the rest.
    """

    def __init__(self, attacker: Any = 0.0, *, n_estimators: int = 100, learning_rate: float = 0.1, max_depth: int = 4, max_bins: int = 255,
                 reg_lambda: float = 1.0, min_child_weight: float = 1.0, min_gain: float = 0.0, max_features: Any = 1.0, refinements: int = 3,
                 random_state: Any = None) -> None:  # fmt: skip
        self.attacker, self.n_estimators, self.learning_rate, self.max_depth, self.max_bins = (
            attacker,
            n_estimators,
            learning_rate,
            max_depth,
            max_bins,
        )
        self.reg_lambda, self.min_child_weight, self.min_gain, self.max_features = reg_lambda, min_child_weight, min_gain, max_features
        self.refinements, self.random_state = refinements, random_state

    def _check(self) -> None:
        super()._check()
        if not 0 < self.learning_rate <= 1:
            raise InputError(f"learning_rate is {self.learning_rate!r}; give a number in (0, 1]")
        for name in ("reg_lambda", "min_child_weight", "min_gain", "refinements"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} is {getattr(self, name)!r}; give a number >= 0")

    def _grow(self, reach: Reach, positive: Array, weight: Array, seed: int) -> list[Tree]:
        least, columns = max(self.min_child_weight, 1e-9), columns_drawn(self.max_features, len(reach.count))
        asked = rules(kind=NEWTON, depth=self.max_depth, ridge=self.reg_lambda, least=least, gain=self.min_gain, features=columns)
        prior = float(np.clip(logit(weight[positive].sum() / weight.sum()), -10, 10))
        score, derivatives = np.full(len(positive), prior), (np.empty(len(positive)), np.empty(len(positive)))
        slopes(score, positive, weight, *derivatives)
        rounds = self._stumps if self.max_depth == 1 and not reach.priced else self._trees
        trees, losses = [], []
        for tree in rounds(reach, asked, positive, weight, score, derivatives, seed):
            trees.append(tree)
            losses.append(slopes(score, positive, weight, *derivatives))
        trees[0] = trees[0]._replace(value=trees[0].value + prior * (trees[0].feature < 0))
        self.robust_loss_ = np.array(losses)
        return trees

    def _trees(
        self, reach: Reach, asked: Rules, positive: Array, weight: Array, score: Array, derivatives: tuple[Array, Array], seed: int
    ) -> Iterator[Tree]:
        """The trees round by round; ``score`` ``(n,)`` is kept up to date, its ``derivatives`` are brought up to date between rounds."""
        n = len(positive)
        start, columns = np.arange(n, dtype=np.int32), np.arange(len(reach.count))
        with Threads() as threads:
            grower = Grower(reach, asked, threads)
            for number in range(self.n_estimators):
                tree = grower.grow(positive, *derivatives, start, columns, seed + (number << 32))
                first, leaf = by_row(tree.rows, tree.leaves, n)
                value = np.where(tree.feature < 0, tree.value, 0.0)
                value, worst = refined(value, first, leaf, bases(score, first), positive, weight, self.reg_lambda, self.refinements)
                add_worst_(score, value, leaf, worst, self.learning_rate)
                yield tree._replace(value=self.learning_rate * value)

    def _stumps(
        self, reach: Reach, asked: Rules, positive: Array, weight: Array, score: Array, derivatives: tuple[Array, Array], seed: int
    ) -> Iterator[Tree]:
        """The same for stumps against a box, by their exact worst case."""
        rng, d = np.random.default_rng(seed), len(reach.count)
        steps, worst = np.zeros((d, 256)), np.zeros((d, len(positive)))
        for _ in range(self.n_estimators):
            columns = np.sort(rng.permutation(d)[: asked.features])
            yield stump(
                reach,
                asked,
                positive,
                weight,
                *derivatives,
                steps,
                worst,
                score,
                columns,
                self.learning_rate,
                self.learning_rate * CLOSE,
                self.refinements,
            )
