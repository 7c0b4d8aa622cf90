"""Training without some columns, and with scores that only rise or only fall along others; any recipe.

A blinded column is held at 0 while training, which no tree can split on: the model keeps its width and ignores it.

>>> import numpy as np
>>> blinded(np.array([[1.0, 2.0], [3.0, 4.0]]), (1,)).tolist()
[[1.0, 0.0], [3.0, 0.0]]
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np

from carbide.types import BLACK_BOX, Access, Array, Dataset, Model, PriceTable, Ratio, Recipe, Rng, Space, Sum, digest


@dataclass(frozen=True, kw_only=True, eq=False)
class BlindRecipe:
    """Training of ``inner`` without the columns."""

    inner: Recipe
    columns: tuple[int, ...]

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The inner recipe's model on blinded rows; one that might still look at the columns is blinded when it predicts, too."""
        model = self.inner.fit(dataset.with_(x=blinded(dataset.x, self.columns)), rng)
        return model if not self.columns or Access.STRUCTURE in model.access else BlindModel(inner=model, columns=self.columns)

    def describe(self) -> dict[str, Any]:
        """The inner recipe and the columns."""
        return {"recipe": "blind", "inner": dict(self.inner.describe()), "columns": list(self.columns)}


@dataclass(frozen=True, kw_only=True, eq=False)
class BlindModel:
    """A model that sees the columns at 0 always."""

    inner: Model
    columns: tuple[int, ...]

    @property
    def space(self) -> Space:
        """The space of the inner model."""
        return self.inner.space

    @property
    def classes(self) -> int:
        """The classes of the inner model."""
        return self.inner.classes

    @property
    def threshold(self) -> float:
        """The threshold of the inner model."""
        return self.inner.threshold

    @property
    def access(self) -> Access:
        """Answers only: the inner model's gradients are those of other rows."""
        return self.inner.access & BLACK_BOX

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        return self.inner.predict(blinded(x, self.columns))

    def at(self, threshold: float) -> BlindModel:
        """The same model deciding at another threshold."""
        return replace(self, inner=self.inner.at(threshold))

    def digest(self) -> str:
        """A hash of the inner model and the columns."""
        return digest(self.inner.digest(), self.columns)

    def to_state(self) -> dict[str, Any]:
        """The inner model and the columns."""
        return {"inner": self.inner, "columns": list(self.columns)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> BlindModel:
        """The model of ``to_state``."""
        return cls(inner=state["inner"], columns=tuple(state["columns"]))


def blinded(x: Array, columns: tuple[int, ...]) -> Array:
    """A copy of rows ``(n, d)`` with the columns at 0."""
    out = np.array(x, copy=True)
    out[:, list(columns)] = 0
    return out


def one_way(space: Space, prices: PriceTable) -> Array:
    """``(d,)``: +1 where the attacker can only raise a feature, -1 where only lower it, 0 otherwise; a ratio follows its numerator."""
    from carbide.space.prices import matrices, price_arrays

    up, down, _ = price_arrays(prices, space)
    way = np.isfinite(up).astype(int) - np.isfinite(down).astype(int)
    way[list(matrices(prices, space))] = 0
    for relation in space.relations:
        if isinstance(relation, Ratio):
            way[relation.target] = way[relation.numerator] if not way[relation.denominator] else 0
        if isinstance(relation, Sum):
            ways = {
                int(way[f] * np.sign(c)) for f, c in zip(relation.features, relation.coefficients, strict=True) if up[f] < np.inf or down[f] < np.inf
            }
            way[relation.target] = ways.pop() if len(ways) == 1 else 0
    return way


def constrained(recipe: Recipe, signs: Array, *, missing: bool = False) -> Recipe | None:
    """The recipe with scores of class 1 that only rise (+1) or only fall (-1) along each column; None if its estimator cannot.

    XGBoost, LightGBM and CatBoost call the setting ``monotone_constraints``, scikit-learn ``monotonic_cst``; an estimator without
    either refuses both names. With ``missing`` values only the first is used: forests refuse the second then.
    """
    held: Any = recipe
    if is_dataclass(recipe) and hasattr(recipe, "estimator"):
        estimator = _set(held.estimator, [int(s) for s in signs], missing)
        return None if estimator is None else replace(held, estimator=estimator)
    if is_dataclass(recipe) and hasattr(recipe, "inner"):
        inner = constrained(held.inner, signs, missing=missing)
        return None if inner is None else replace(held, inner=inner)
    return None


def _set(estimator: Any, signs: list[int], missing: bool) -> Any:
    from sklearn.base import clone

    for name in ("monotone_constraints",) if missing else ("monotone_constraints", "monotonic_cst"):
        copy: Any = clone(estimator)
        try:
            return copy.set_params(**{name: tuple(signs) if name == "monotone_constraints" else signs})
        except ValueError:
            continue
    return None
