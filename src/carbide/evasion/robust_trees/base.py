"""What both estimators share: checking of input, one tree sequence a class, answers through the intermediate form, files that XGBoost reads."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from carbide.evasion.robust_trees.attackers import Box, Reach, Spender
from carbide.evasion.robust_trees.bins import MOST
from carbide.evasion.robust_trees.grow import Tree
from carbide.models.trees.to_xgboost import ServedTree, as_ensemble, booster_of_trees, xgboost_json
from carbide.types import Array, InputError


class RobustTrees(ClassifierMixin, BaseEstimator):
    """Base of the two: a subclass says how the trees of one class against the rest are trained.

    ``ensemble_`` holds the trees in Carbide's intermediate form, which the exact audit and its proof read.
    """

    attacker: Any
    n_estimators: int
    max_depth: int
    max_bins: int
    random_state: Any
    n_features_in_: int

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows ``X`` ``(n, d)`` (NaN = missing, which no attacker changes) with labels ``y`` ``(n,)``.

        Raises:
            InputError: if a parameter is out of its range or the attacker does not fit the rows.
            ValueError: if the rows cannot be used, or are of one class.
        """
        self._check()
        checked: Any = validate_data(self, X, y, dtype=np.float64, ensure_all_finite="allow-nan")
        x, y = checked
        check_classification_targets(y)
        weight = _check_sample_weight(sample_weight, x, dtype=np.float64, ensure_non_negative=True)
        if not (weight > 0).all():
            x, y, weight = x[weight > 0], y[weight > 0], weight[weight > 0]
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} can't train when only one class is present; its rows are all of class {self.classes_[:1].tolist()}"
            )
        rng = check_random_state(self.random_state)
        seeds = rng.randint(np.iinfo(np.int32).max, size=max(1, len(self.classes_)))
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        attacker = self._attacker()
        if outputs > 1 and getattr(attacker, "movers", "both") != "both":
            raise InputError(f"the attacker moves rows of class 1 of two, but the labels have {outputs} classes; let it move both")
        found = []
        for k in range(outputs):
            positive = codes == (1 if outputs == 1 else k)
            reach = attacker.reach(x, positive.astype(np.int64), most=self.max_bins)
            found.append([_served(t, reach, k) for t in self._grow(reach, positive, weight, int(seeds[k]))])
        self.trees_ = [tree for several in zip(*found, strict=True) for tree in several]
        self.ensemble_ = as_ensemble(self.trees_, outputs=outputs, features=x.shape[1], classes=self.classes_)
        return self

    @abstractmethod
    def _grow(self, reach: Reach, positive: Array, weight: Array, seed: int) -> list[Tree]:
        """The trees of one class against the rest, their leaves as they are added up."""

    @property
    def _outputs(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def decision_function(self, X: Any) -> Array:
        """The sums of leaves ``(n,)`` of two classes, else ``(n, k)``, in float32 as XGBoost adds them."""
        check_is_fitted(self)
        x: Any = validate_data(self, X, dtype=np.float64, ensure_all_finite="allow-nan", reset=False)
        found = self.ensemble_.margins(x)
        return found[:, 0] if self._outputs == 1 else found

    def predict_proba(self, X: Any) -> Array:
        """Probabilities ``(n, k)`` in the order of ``classes_``: sigmoid of the sum, or softmax of the sums of all classes."""
        found = self.decision_function(X)
        return self.ensemble_.probabilities(found[:, None] if found.ndim == 1 else found)

    def predict(self, X: Any) -> Array:
        """The class ``(n,)`` of the largest probability; of two, the second where its sum is above 0."""
        found = self.decision_function(X)
        return self.classes_[(found > 0).astype(int) if found.ndim == 1 else found.argmax(1)]

    def save_model(self, path: str | Path) -> None:
        """Write XGBoost JSON, which ``xgboost`` loads and answers the same by; classes are numbered in the order of ``classes_``."""
        from carbide.run import write_whole

        check_is_fitted(self)
        write_whole(Path(path), xgboost_json(self.trees_, outputs=self._outputs, features=self.n_features_in_, names=self._names()))

    def to_booster(self) -> Any:
        """The same model as an ``xgboost.Booster``.

        Raises:
            InputError: if XGBoost is not installed.
        """
        check_is_fitted(self)
        return booster_of_trees(self.trees_, outputs=self._outputs, features=self.n_features_in_, names=self._names())

    def _names(self) -> list[str]:
        return [str(name) for name in getattr(self, "feature_names_in_", ())]

    def _attacker(self) -> Box | Spender:
        if isinstance(self.attacker, Box | Spender):
            return self.attacker
        if isinstance(self.attacker, bool) or not isinstance(self.attacker, int | float | np.number) or not 0 <= float(self.attacker) < math.inf:
            raise InputError(f"attacker is {self.attacker!r}; give the radius of an Linf ball, a Box or a Spender")
        return Box(up=float(self.attacker), down=float(self.attacker))

    def _check(self) -> None:
        self._attacker()
        for name, least, most in (("n_estimators", 1, math.inf), ("max_depth", 1, 16), ("max_bins", 2, MOST)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
                raise InputError(f"{name} is {value!r}; give a whole number from {least}" + (f" to {most}" if most < math.inf else " up"))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def columns_drawn(share: Any, d: int) -> int:
    """How many of ``d`` columns are drawn: ``sqrt``, or a share in (0, 1].

    Raises:
        InputError: if the share is neither.
    """
    if share == "sqrt":
        return max(1, round(math.sqrt(d)))
    if isinstance(share, bool | str) or not 0 < share <= 1:
        raise InputError(f"max_features is {share!r}; give a share in (0, 1] or 'sqrt'")
    return max(1, round(share * d))


def _served(tree: Tree, reach: Reach, output: int) -> ServedTree:
    """The tree with thresholds instead of bins."""
    inner = tree.feature >= 0
    threshold = np.zeros(len(tree.feature), np.float32)
    threshold[inner] = reach.cuts[tree.feature[inner], tree.cut[inner]]
    return ServedTree(feature=tree.feature, threshold=threshold, children=tree.children, missing_left=tree.missing_left,
                      value=tree.value.astype(np.float32), cover=tree.cover, gain=tree.gain, output=output)  # fmt: skip
