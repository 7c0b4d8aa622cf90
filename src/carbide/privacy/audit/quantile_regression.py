"""Bertran et al. 2023, https://arxiv.org/abs/2307.03694: how sure would the model be of this record, had it not been trained on it?

Quantiles of the confidence that the model shows on rows it was surely not trained on are regressed on these rows' features
and labels. A record of which the model is surer than its own predicted quantile is called a member. One model is enough:
nothing is trained but two small regressions.

>>> QuantileRegression(level=0.9).level
0.9
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.privacy.shadows import Shadows
from carbide.privacy.signals import grain, logit, odds
from carbide.registry import Method
from carbide.types import Access, Array, Case, Dataset, InputError, Membership, Model, Rng, Threat

LEAST = 40  # rows from which quantiles are regressed


@dataclass(frozen=True, kw_only=True)
class QuantileRegression(Method):
    """Compares the confidence on each record with its quantile predicted from rows set apart, here the validation rows.

    The score is the distance above the predicted median in units of that from the median to the ``level`` quantile, which
    is 1 where the paper's attack at a false-positive rate of ``1 - level`` starts to say member. Boosted trees of ``depth``
    levels, ``trees`` of them, predict both.
    """

    threats = (Membership,)
    needs: ClassVar[Access] = Access.SCORES
    default: ClassVar[bool] = False
    apart: ClassVar[bool] = True
    level: float = 0.95
    trees: int = 40
    depth: int = 2

    def __post_init__(self) -> None:
        if not 0.5 < self.level < 1:
            raise InputError(f"level is {self.level}; give a quantile in (0.5, 1)")
        if self.trees < 1:
            raise InputError(f"trees is {self.trees}; give a whole number >= 1")
        if self.depth < 1:
            raise InputError(f"depth is {self.depth}; give a whole number of levels >= 1")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """There must be enough validation rows to regress on."""
        n, seen = len(case.data.validation), int(case.data.saw("validation").sum())
        if n - seen >= LEAST:
            return None
        saw = f", on {seen} of which the given model was trained; give validation rows of their own" if seen else ""
        return f"quantiles are regressed from at least {LEAST} validation rows that no model was trained on, and there are {n}{saw}"

    def __call__(self, model: Model, dataset: Dataset, rng: Rng, shadows: Shadows | None) -> Array:
        """Scores ``(n,)``, higher = member.

        Raises:
            InputError: if no rows, or fewer than 40, are set apart.
        """
        apart = None if shadows is None else shadows.apart
        if apart is None or len(apart) < LEAST:
            found = 0 if apart is None else len(apart)
            raise InputError(
                f"quantiles are regressed from at least {LEAST} rows that no model was trained on, and there are {found}; give more validation rows"
            )
        there, here = model.predict(apart.x), model.predict(dataset.x)
        least = grain(there)
        known, seen = logit(*odds(there, apart.y), least), logit(*odds(here, dataset.y), least)
        seed = int(rng.integers(2**31))
        middle, upper = (self._regress(apart, known, level, seed).predict(_features(dataset)) for level in (0.5, self.level))
        width = np.maximum(upper - middle, 0.05 * np.std(known) + 1e-9)
        return (seen - middle) / width

    def _regress(self, apart: Dataset, known: Array, level: float, seed: int) -> Any:
        from sklearn.ensemble import GradientBoostingRegressor

        fit = GradientBoostingRegressor(
            loss="quantile", alpha=level, n_estimators=self.trees, max_depth=self.depth, min_samples_leaf=10, random_state=seed
        )
        return fit.fit(_features(apart), known)


def _features(rows: Dataset) -> Array:
    """The rows' features ``(n, d)`` and their labels as one column a class."""
    return np.concatenate([rows.x.reshape(len(rows), -1), np.eye(rows.classes)[rows.y]], axis=1)
