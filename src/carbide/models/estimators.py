"""Estimators with scikit-learn's interface (scikit-learn, XGBoost, LightGBM) as models, and the recipe that trains them.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> EstimatorRecipe(estimator=DecisionTreeClassifier(max_depth=2)).describe()["estimator"]
'DecisionTreeClassifier'
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.models.trees import ensemble_of, is_tree_ensemble
from carbide.models.trees.ensemble import Ensemble
from carbide.types import BLACK_BOX, TREE_BOX, Access, Array, Dataset, Rng, Space


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorModel:
    """A fitted classifier with ``predict_proba``; ``columns`` are the classes it saw, in the order of its outputs.

    Rows are flattened to ``(n, d)`` before the estimator sees them; classes it never saw get probability 0.
    """

    estimator: Any
    space: Space
    classes: int
    threshold: float = 0.5

    @property
    def access(self) -> Access:
        """Trees also show their structure."""
        return TREE_BOX if is_tree_ensemble(self.estimator) else BLACK_BOX

    @functools.cached_property
    def ensemble(self) -> Ensemble:
        """The trees in Carbide's intermediate form.

        Raises:
            InputError: if the estimator is no tree ensemble that Carbide can read.
        """
        return ensemble_of(self.estimator)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        raw = np.asarray(self.estimator.predict_proba(x.reshape(len(x), -1)), np.float64)
        columns = np.asarray(self.estimator.classes_, np.int64)
        if raw.shape[1] == self.classes and (columns == np.arange(self.classes)).all():
            return raw
        out = np.zeros((len(x), self.classes))
        out[:, columns] = raw
        return out

    def at(self, threshold: float) -> EstimatorModel:
        """The same model deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the fitted estimator."""
        import joblib

        state = self.estimator
        if hasattr(state, "get_booster"):
            state = bytes(state.get_booster().save_raw("json"))
        elif hasattr(state, "booster_"):
            state = state.booster_.model_to_string()
        return f"{joblib.hash(state)}{self.threshold}"


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorRecipe:
    """Training of a clone of an unfitted scikit-learn-style classifier; ``random_state`` is drawn from the rng."""

    estimator: Any

    def fit(self, dataset: Dataset, rng: Rng) -> EstimatorModel:
        """A model trained on the data set; ``weights`` are never used here."""
        return EstimatorModel(estimator=self.fit_estimator(dataset, rng), space=dataset.space, classes=dataset.classes)

    def fit_estimator(self, dataset: Dataset, rng: Rng, *, weight: Array | None = None) -> Any:
        """The fitted estimator itself, on rows weighted by ``weight`` ``(n,)`` (None = all 1)."""
        from sklearn.base import clone

        estimator = clone(self.estimator)
        seed = int(rng.integers(2**31))
        seeds = {name: seed for name in estimator.get_params(deep=True) if name == "random_state" or name.endswith("__random_state")}
        estimator.set_params(**seeds)
        x = dataset.x.reshape(len(dataset), -1)
        return estimator.fit(x, dataset.y) if weight is None else estimator.fit(x, dataset.y, sample_weight=weight)

    def describe(self) -> dict[str, Any]:
        """The estimator's class and parameters."""
        return {"recipe": "estimator", "estimator": type(self.estimator).__name__,
                "params": {k: repr(v) for k, v in sorted(self.estimator.get_params(deep=True).items())}}  # fmt: skip
