"""Kantchelian et al. 2016, https://arxiv.org/abs/1509.07892: beside the score of an alert, the price below which nothing turns it off.

The exact search for the cheapest evasion, with a limit that keeps it within milliseconds: where it ends early, its lower bound is
still proven. All that does not depend on the row is made once, when the state is made.

>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.estimators import EstimatorModel
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> model = EstimatorModel(estimator=DecisionTreeClassifier().fit([[1.0], [3.0]], [0, 1]), space=Space.table(["amount"]), classes=2)
>>> guard = PriceCertificate()
>>> state = guard.state(model, FeatureBudget(money=5, prices=PriceTable(prices={"amount": Price(down=1.0)})))
>>> [guard(np.array([amount]), state).reason for amount in (3.5, 9.0, 1.0)]
['no change under $1.49 turns this alert off', 'no change under $5 turns this alert off', 'no alert']
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._tree_search import SearchResult, search
from carbide.evasion.audit.cheapest_tree import same_answers, trees_of
from carbide.models.trees import Ensemble
from carbide.registry import Method
from carbide.space.prices import check_prices
from carbide.types import Access, Array, Decision, FeatureBudget, InputError, Threat

PROBES = 64  # random rows on which the trees' probabilities are compared with the model's


@dataclass(frozen=True, kw_only=True)
class PriceBound:
    """No change that costs less than ``price`` turns the row's alert off; ``exact`` = one at that price does, ``alert`` False = there is none."""

    alert: bool
    price: float
    exact: bool

    def words(self, currency: str) -> str:
        """The bound in a few words; prices are rounded down."""
        return f"no change under {currency}{np.floor(self.price * 100) / 100:.15g} turns this alert off" if self.alert else "no alert"


@dataclass(frozen=True, kw_only=True, eq=False)
class CertifiedModel:
    """A model made ready: its trees, its threat, and how sums at the threshold count (1 = for the attacker, where rounding is not known)."""

    model: Any
    trees: Ensemble
    threat: FeatureBudget
    rounding: int


@dataclass(frozen=True, kw_only=True)
class PriceCertificate(Method):
    """Flags alerts and says below which price nothing turns them off.

    ``boxes``: the most boxes that the search looks at for a row; beyond them the bound is proven and may not be the largest.
    """

    boxes: int = 400
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget,)
    needs: ClassVar[Access] = Access.STRUCTURE

    def __post_init__(self) -> None:
        if not (isinstance(self.boxes, int) and not isinstance(self.boxes, bool) and self.boxes >= 1):
            raise InputError(f"price_certificate: boxes is {self.boxes!r}; give a whole number >= 1")

    def state(self, model: Any, threat: FeatureBudget) -> CertifiedModel:
        """What is made once for a model.

        Raises:
            InputError: if the model shows no trees or has not two classes, or the prices cannot be searched.
        """
        model = getattr(model, "scorer", model)
        if model.classes != 2:
            raise InputError(f"price_certificate needs two classes, and the model has {model.classes}")
        trees = trees_of(model)
        check_prices(threat.prices, model.space)
        rows = _probes(trees)
        ready = CertifiedModel(model=model, trees=trees, threat=threat, rounding=0 if same_answers(model, trees, rows) else 1)
        self._search(rows[:1], ready)  # compiles, and refuses what cannot be searched
        return ready

    def certify(self, x: Array, state: CertifiedModel, alert: Array | None = None) -> list[PriceBound]:
        """The bounds of rows ``(n, d)``; ``alert`` ``(n,)`` bool = the model's decisions, asked of it when left out."""
        rows = np.ascontiguousarray(x, np.float64).reshape(len(x), -1)
        flagged = np.asarray(state.model.predict(rows)[:, 1] >= state.model.threshold if alert is None else alert, bool)
        price, exact = np.zeros(len(rows)), np.zeros(len(rows), bool)
        if flagged.any():
            found = self._search(rows[flagged], state)
            price[flagged], exact[flagged] = np.minimum(found.lower, state.threat.money), self._met(found, state)
        return [PriceBound(alert=bool(a), price=float(p), exact=bool(e)) for a, p, e in zip(flagged, price, exact, strict=True)]

    @staticmethod
    def _met(found: SearchResult, state: CertifiedModel) -> Array:
        """Whether a change at the price found turns an alert off; where ties counted for the attacker the model itself is asked."""
        exact = found.status == "exact"
        if state.rounding and exact.any():
            exact[exact] = state.model.predict(found.witness[exact])[:, 1] < state.model.threshold
        return exact

    def _search(self, rows: Array, state: CertifiedModel) -> SearchResult:
        model, threat = state.model, state.threat
        return search(state.trees, rows, threat.prices, model.space, threshold=model.threshold, budget=threat.money, boxes=self.boxes,
                      rounding=state.rounding)  # fmt: skip

    def __call__(self, features: Array, state: CertifiedModel) -> Decision:
        """One row ``(d,)``: ``flag`` for an alert, else ``allow``; the score is the model's probability of class 1."""
        start = time.perf_counter()
        row = np.asarray(features, float).reshape(1, -1)
        score = float(state.model.predict(row)[0, 1])
        (bound,) = self.certify(row, state, np.array([score >= state.model.threshold]))
        return Decision(action="flag" if bound.alert else "allow", score=score, reason=bound.words(state.threat.prices.currency),
                        milliseconds=(time.perf_counter() - start) * 1e3)  # fmt: skip


def _probes(trees: Ensemble) -> Array:
    """Rows of random thresholds, where trees answer in many ways."""
    rng = np.random.default_rng(0)
    rows = np.zeros((PROBES, trees.features))
    for f in range(trees.features):
        cuts = trees.threshold[(trees.feature == f) & np.isfinite(trees.threshold)]  # infinite ones tell only missing values from others
        if len(cuts):
            rows[:, f] = np.nextafter(rng.choice(cuts, PROBES), rng.choice([-np.inf, np.inf], PROBES))
    return rows
