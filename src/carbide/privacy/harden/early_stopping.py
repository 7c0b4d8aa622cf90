"""Song and Mittal 2021, https://arxiv.org/abs/2003.10595: training that stops early remembers less.

Perceptrons, boosted trees and torch nets are trained for a share of their rounds. It is the yardstick for every other
defence: what does not tell less at the same accuracy is not worth its trouble (their section 4.2).

>>> from carbide.models.estimators import EstimatorRecipe
>>> from sklearn.neural_network import MLPClassifier
>>> from carbide.types import Membership
>>> EarlyStopping(share=0.1)(EstimatorRecipe(estimator=MLPClassifier(max_iter=300)), Membership()).estimator.max_iter
30
"""

from __future__ import annotations

from dataclasses import dataclass, is_dataclass, replace
from typing import Any, ClassVar

from carbide.privacy.harden._estimators import estimator_of, with_estimator
from carbide.registry import Method
from carbide.types import Case, InputError, Membership, Recipe, Threat

GRID = (0.5, 0.2, 0.1, 0.05)
ROUNDS = ("max_iter", "n_estimators", "iterations")  # of estimators that learn round after round


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Method):
    """Trains for a ``share`` of the rounds: epochs of nets, trees of boosting."""

    threats = (Membership,)
    default: ClassVar[bool] = False
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise InputError(f"share is {self.share}; give a share of the rounds in (0, 1)")

    def __call__(self, recipe: Recipe, threat: Threat) -> Recipe:
        """The recipe with fewer rounds.

        Raises:
            InputError: if the recipe does not learn in rounds.
        """
        if _has_epochs(recipe):
            return replace(recipe, epochs=self._fewer(recipe.epochs))  # type: ignore[type-var, attr-defined]
        return with_estimator(recipe, self._change)

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """The recipe must train a net or boosted trees."""
        if _has_epochs(case.recipe):
            return None
        estimator = estimator_of(case.recipe)
        return None if estimator is not None and _rounds(estimator) else "the recipe does not learn in rounds, so it cannot stop early"

    def strengths(self) -> tuple[Method, ...]:
        """Half, a fifth, a tenth and a twentieth of the rounds."""
        return tuple(replace(self, share=share) for share in GRID)

    def _fewer(self, rounds: int) -> int:
        return max(1, round(self.share * rounds))

    def _change(self, estimator: Any) -> Any:
        found = _rounds(estimator)
        if not found:
            raise InputError(f"{type(estimator).__name__} does not learn in rounds; early_stopping is for nets and boosted trees")
        return estimator.set_params(**{name: self._fewer(rounds) for name, rounds in found.items()})


def _has_epochs(recipe: Any) -> bool:
    return is_dataclass(recipe) and isinstance(getattr(recipe, "epochs", None), int)


def _rounds(estimator: Any) -> dict[str, int]:
    """The parameters that count rounds, of boosting and of nets alone: more trees of a forest tell less, not more."""
    prefix = f"{estimator.steps[-1][0]}__" if hasattr(estimator, "steps") else ""
    last = estimator.steps[-1][1] if prefix else estimator
    params = last.get_params(deep=False)
    if not ("learning_rate" in params or "learning_rate_init" in params) or not hasattr(last, "fit"):
        return {}
    defaults = {"n_estimators": 100}
    found = {name: defaults.get(name) if params[name] is None else params[name] for name in ROUNDS if name in params}
    return {prefix + name: value for name, value in found.items() if isinstance(value, int)}
