"""Kantchelian et al. 2016, https://arxiv.org/abs/1509.07892: an exact search that finds nothing is a proof that there is nothing.

The search for the cheapest evasion of a tree ensemble looks at every box of cells or shows why it holds no evasion, so what it
leaves is certified: no change worth less than the bound flips the row. Attack and certificate meet, up to undecided rows.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.estimators import EstimatorModel
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> model = EstimatorModel(estimator=DecisionTreeClassifier().fit([[1.0], [3.0]], [0, 1]), space=Space.table(["amount"]), classes=2)
>>> threat = FeatureBudget(money=2, prices=PriceTable(prices={"amount": Price(down=1.0)}))
>>> certificate = ExactTree()(model, np.array([[3.5], [9.0]]), np.array([1, 1]), threat, np.random.default_rng(0))
>>> certificate.holds.tolist(), certificate.bound.round(3).tolist()
([False, True], [1.5, 2.0])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.registry import Method
from carbide.types import Access, Array, Case, Certificate, FeatureBudget, InputError, LpBall, Rng, Threat, decide


@dataclass(frozen=True, kw_only=True)
class ExactTree(Method):
    """What no priced change, or no change within an Lp ball, can do to a tree ensemble.

    Statement: for each row that holds, the model decides the row as its label says, and so it does every row that the threat's
    attacker can make of it. ``bound``: no change that costs less flips the row (0 where the model is wrong as it is).
    ``boxes``: the most boxes to look at for a row; ``reach``: evasions are looked for up to this many times the budget.
    """

    boxes: int = 200_000
    reach: float = 1.0
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.STRUCTURE

    def __post_init__(self) -> None:
        if not (isinstance(self.boxes, int) and self.boxes >= 1):
            raise InputError(f"exact_tree: boxes is {self.boxes!r}; give a whole number >= 1")
        if not self.reach >= 1:
            raise InputError(f"exact_tree: reach is {self.reach!r}; give a factor >= 1")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """As the search itself."""
        return CheapestTree(boxes=self.boxes).refuses(case, threat)

    def __call__(self, model: Any, x: Array, y: Array, threat: Threat, rng: Rng) -> Certificate:
        """The certificate for rows ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``; ``bound`` is in the price table's currency or a norm.

        Raises:
            InputError: if the model's trees cannot be read or the threat cannot be searched.
        """
        budget = isinstance(threat, FeatureBudget)
        limit = threat.money if budget else threat.eps  # type: ignore[attr-defined]
        found = CheapestTree(boxes=self.boxes).solve(model, x, y, _wider(threat, self.reach))
        caught = decide(model.predict(x), model.threshold) == y
        holds = caught & (found.lower > limit)
        unit = threat.prices.currency if budget else "input units"  # type: ignore[attr-defined]
        recall = budget or (model.classes == 2 and len(y) > 0 and bool((y == 1).all()))
        claim = (
            f"no change worth less than the row's bound in {unit} flips it" if budget else "no change of a smaller norm than the row's bound flips it"
        )
        return Certificate(claim=claim, holds=holds, bound=np.where(caught, np.minimum(found.lower, self.reach * limit), 0.0), failure_probability=0.0,
                           assumptions=_assumptions(threat, int((~found.proven).sum())), method="exact_tree", threat=threat.words(), unit=unit,
                           metric="robust recall" if recall else "robust accuracy")  # fmt: skip


def _wider(threat: Threat, reach: float) -> Threat:
    from dataclasses import replace

    if isinstance(threat, FeatureBudget):
        return replace(threat, money=threat.money * reach)
    assert isinstance(threat, LpBall)
    return replace(threat, eps=threat.eps * reach)


def _assumptions(threat: Threat, unknown: int) -> tuple[str, ...]:
    gone = isinstance(threat, FeatureBudget) and any(min(p.hide, p.fill) < float("inf") for p in threat.prices.prices.values())
    missing = "values go missing or are filled only where that has a price" if gone else "values that are missing stay missing"
    said = [f"the model answers as its trees do; {missing}"]
    if isinstance(threat, FeatureBudget):
        said.append("the attacker pays by the price table; a feature without a price, or immutable in the space, does not change")
    said.append("changed rows keep the space's bounds, steps and relations; ratios and sums follow their parts, and a ratio over 0 cannot be moved")
    if unknown:
        said.append(
            f"{unknown} rows were not decided within the search's limit or by its relations; they do not count as certified beyond their lower bound"
        )
    return tuple(said)
