"""Liu et al. 2020, https://arxiv.org/abs/2008.09845: a vote of models that each saw few rows hardly depends on any one.

Bagging with small bags is private by itself: a row is in few of the bags, and its owner sees it in few of the votes. Forests
and boosted trees get smaller samples and larger leaves; any other estimator is trained many times on a share of the rows. On
small tables a vote of logistic regressions or of kernel machines, answered in coarse steps, is often as accurate as what it
replaces and tells least; trained again without the rows whose label the others' vote denies, it tells less still.

>>> from carbide.models.estimators import EstimatorRecipe
>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.types import Membership
>>> Subsampling(share=0.1)(EstimatorRecipe(estimator=RandomForestClassifier()), Membership()).estimator.max_samples
0.1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from carbide.privacy.coarse import CoarseRecipe
from carbide.privacy.edited import EditedRecipe
from carbide.privacy.harden._estimators import estimator_of, places, with_estimator
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat

GRID: tuple[dict[str, Any], ...] = ({"share": 0.3}, {"share": 0.1}, {"share": 0.1, "leaf": 3}, {"share": 0.3, "c": 10.0},
                                    {"share": 0.1, "c": 10.0}, {"share": 0.1, "c": 10.0, "levels": 4}, {"share": 0.05, "c": 10.0, "levels": 4},
                                    {"share": 0.1, "c": 10.0, "levels": 1},
                                    {"share": 0.2, "c": 10.0, "kernel": True, "models": 15, "levels": 1},
                                    {"share": 0.3, "c": 10.0, "kernel": True, "models": 20, "levels": 1, "edit": True})  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Subsampling(Method):
    """Trains each tree, or each of ``models`` copies of another estimator, on a ``share`` of the rows.

    Trees get leaves of ``leaf`` rows. With ``c``, the inverse strength of the penalty, standardised logistic regressions vote
    instead of the estimator, or with ``kernel`` support vector machines with a Gaussian kernel; with ``edit`` everything is trained
    twice, the second time without the rows whose label the parts that did not draw them deny (``EditedRecipe``); with ``levels``
    probabilities are answered in steps of ``1 / levels``, 1 = labels alone.
    """

    threats = (Membership,)
    default: ClassVar[bool] = False
    share: float = 0.1
    leaf: int = 1
    models: int = 30
    c: float | None = None
    kernel: bool = False
    edit: bool = False
    levels: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"share is {self.share}; give a share of the rows in (0, 1)")
        if self.leaf < 1:
            raise InputError(f"leaf is {self.leaf}; give a whole number of rows >= 1")
        if self.models < 2:
            raise InputError(f"models is {self.models}; give a whole number >= 2")
        if self.c is not None and not (math.isfinite(self.c) and self.c > 0):
            raise InputError(f"c is {self.c}; give a number > 0, or leave it out to keep the estimator")
        if self.kernel and self.c is None:
            raise InputError("kernel is true without c; give c, the inverse strength of the penalty of the kernel machines, e.g. 10")
        if self.levels is not None and not 1 <= self.levels <= 1000:
            raise InputError(f"levels is {self.levels}; give 1 (labels alone) to 1,000 steps, or leave it out")

    def __call__(self, recipe: Recipe, threat: Threat) -> Recipe:
        """The recipe whose parts see fewer rows.

        Raises:
            InputError: if the recipe trains no estimator.
        """
        thinned = with_estimator(recipe, self._change)
        thinned = EditedRecipe(inner=thinned) if self.edit else thinned
        return thinned if self.levels is None else CoarseRecipe(inner=thinned, levels=self.levels)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The recipe must train an estimator, on enough rows for a bag to hold two."""
        if estimator_of(case.recipe) is None:
            return "the recipe trains no scikit-learn-style estimator"
        bag = self.share * len(case.data.train)
        return f"a bag of {self.share:g} of {len(case.data.train)} rows holds fewer than 10; give a larger share" if bag < 10 else None

    def strengths(self) -> tuple[Method, ...]:
        """Shares of 0.3 and 0.1, larger leaves; votes of logistic regressions, in four steps, on a share of 0.05, labels alone; of kernel machines."""
        return tuple(replace(self, **options) for options in GRID)

    def _change(self, estimator: Any) -> Any:
        if self.c is not None:
            return self._bag(_kernel(self.c) if self.kernel else _logistic(self.c))
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        params = last.get_params(deep=False)
        if params.get("bootstrap") is True and "max_samples" in params:
            return estimator.set_params(**places(estimator, {"max_samples": self.share}), **self._leaves(estimator))
        if "subsample" in params:
            frequency = places(estimator, {"subsample_freq": 1})  # LightGBM draws no samples without it
            return estimator.set_params(**places(estimator, {"subsample": self.share}), **frequency, **self._leaves(estimator))
        return self._bag(estimator.set_params(**self._leaves(estimator)))

    def _bag(self, estimator: Any) -> Any:
        from sklearn.ensemble import BaggingClassifier

        return BaggingClassifier(estimator, n_estimators=self.models, max_samples=self.share, bootstrap=self.edit, n_jobs=1)

    def _leaves(self, estimator: Any) -> dict[str, Any]:
        return places(estimator, {"min_samples_leaf": self.leaf}) if self.leaf > 1 else {}


def _logistic(c: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500))


def _kernel(c: float) -> Any:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MinMaxScaler
    from sklearn.svm import SVC

    return make_pipeline(MinMaxScaler(), SVC(C=c))
