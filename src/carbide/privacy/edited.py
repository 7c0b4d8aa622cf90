"""Training twice: the second time without the rows whose label the models that did not see them deny.

Wilson 1972, https://doi.org/10.1109/TSMC.1972.4309137, with out-of-bag votes for neighbours. The rows that give their owners
away are those that a model gets right only because it holds them; these are left out, whoever they are.

>>> import numpy as np
>>> agreed(np.array([[0.9, 0.1], [0.6, 0.4], [0.0, 0.0]]), np.array([0, 1]), np.array([0, 1, 1]))
array([ True, False, False])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.privacy.distilled import bagged
from carbide.types import Array, Dataset, InputError, Model, Recipe, Rng


@dataclass(frozen=True, kw_only=True, eq=False)
class EditedRecipe:
    """``inner``, whose estimator trains its parts on bootstrap samples, trained again on the rows that its out-of-bag votes get right."""

    inner: Recipe

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The model of the rows that are left; of all rows where a class would vanish.

        Raises:
            InputError: if the inner recipe's estimator draws no bootstrap samples.
        """
        voters = bagged(getattr(self.inner, "estimator", None))
        if voters is None:
            raise InputError("the recipe trains no estimator on bootstrap samples, so no vote of models that did not see a row is known")
        inner: Any = self.inner
        if len(np.unique(dataset.y)) < 2:
            return inner.fit(dataset, rng)
        fitted = replace(inner, estimator=voters).fit_estimator(dataset, rng)
        last = fitted.steps[-1][1] if hasattr(fitted, "steps") else fitted
        left = dataset.take(agreed(last.oob_decision_function_, np.asarray(last.classes_, np.int64), dataset.y))
        return inner.fit(left if len(np.unique(left.y)) == len(np.unique(dataset.y)) else dataset, rng)

    def describe(self) -> dict[str, Any]:
        """The inner recipe."""
        return {"recipe": "edited", "inner": self.inner.describe()}


def agreed(votes: Array, classes: Array, y: Array) -> Array:
    """Whether the most voted of the ``classes`` ``(k,)`` is the label ``(n,)``; rows without votes ``(n, k)`` do not agree."""
    known = np.isfinite(votes).all(1) & (votes.sum(1) > 0)
    return known & (classes[np.where(known[:, None], votes, 0.0).argmax(1)] == y)
