"""Kantchelian et al. 2016, https://arxiv.org/abs/1509.07892: training on exact evasions, each round judged by an exact search.

Frauds on which attackers spent the budget, at random and by the exact cheapest evasion of the last round's model, join the
training set as frauds. Scores may only follow the features that the attacker moves one way, and features that are cheap
to change may be left out. Naive retraining collapses; here the settings and the round are chosen by exact robust recall
on the last part of the training set.

>>> from sklearn.ensemble import RandomForestClassifier
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import FeatureBudget, Price, PriceTable
>>> threat = FeatureBudget(money=50, prices=PriceTable(prices={"amount": Price(down=1.0)}))
>>> Retraining(rounds=1)(EstimatorRecipe(estimator=RandomForestClassifier()), threat).describe()["rounds"]
1
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from carbide.evasion._retraining import RetrainingRecipe
from carbide.registry import Method
from carbide.types import Access, Case, FeatureBudget, InputError, Recipe, Threat


@dataclass(frozen=True, kw_only=True)
class Retraining(Method):
    """Trains tree ensembles with manipulated frauds; settings and round are chosen by exact robust recall.

    ``rounds`` of exact evasions after the first; ``copies`` of every fraud with the money spent at random; at most ``weight``
    manipulated rows a fraud; attackers in training have ``margin`` times the budget; ``cheap``: shares of the budget up to which
    features that give a fraud an ordinary value are tried without; ``loss``: clean recall that may be lost, at
    ``false_positive_rate``; ``holdout``: the last share of the training rows, in their order, by which is chosen;
    ``bags``: how many models are averaged into one of as many times the trees (8 unless said otherwise, where the recipe trains XGBoost,
    LightGBM or a forest of scikit-learn, else 1), each trained on all frauds, random spenders of its own and at most as many honest rows
    (balanced bags, Chen, Liaw, Breiman 2004; the odds are brought back; forests get all honest rows): more is caught and dearer to free than
    by one model, and answers take longer.
    """

    rounds: int = 2
    copies: int = 10
    weight: float = 15.0
    margin: float = 2.0
    cheap: tuple[float, ...] = (0.15, 0.4)
    loss: float = 0.03
    false_positive_rate: float = 0.01
    holdout: float = 0.3
    bags: int | None = None
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget,)
    needs: ClassVar[Access] = Access.STRUCTURE
    trains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("rounds", "copies"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 0):
                raise InputError(f"retraining: {name} is {getattr(self, name)!r}; give a whole number >= 0")
        if self.bags is not None and not (isinstance(self.bags, int) and self.bags >= 1):
            raise InputError(f"retraining: bags is {self.bags!r}; give a whole number >= 1")
        for name in ("weight", "margin"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise InputError(f"retraining: {name} is {getattr(self, name)!r}; give a number > 0")
        for name in ("false_positive_rate", "holdout"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"retraining: {name} is {getattr(self, name)!r}; give a share in (0, 1)")
        if not 0 <= self.loss <= 1:
            raise InputError(f"retraining: loss is {self.loss!r}; give a share in [0, 1]")
        object.__setattr__(self, "cheap", tuple(float(c) for c in self.cheap))
        if any(not c >= 0 for c in self.cheap):
            raise InputError(f"retraining: cheap is {list(self.cheap)}; give shares of the budget >= 0")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs two classes."""
        return None if case.model.classes == 2 else f"it needs two classes, and the model has {case.model.classes}"

    def lighter(self) -> Retraining | None:
        """The same with one model, where bags were nobody's wish."""
        return replace(self, bags=1) if self.bags is None else None

    def __call__(self, recipe: Recipe, threat: FeatureBudget) -> RetrainingRecipe:
        """The recipe that trains with manipulated rows."""
        return RetrainingRecipe(inner=recipe, threat=threat, rounds=self.rounds, copies=self.copies, weight=self.weight, margin=self.margin, cheap=self.cheap,
                                loss=self.loss, false_positive_rate=self.false_positive_rate, holdout=self.holdout, bags=self.bags)  # fmt: skip
