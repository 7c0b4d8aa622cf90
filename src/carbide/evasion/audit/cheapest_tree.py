"""Kantchelian et al. 2016, https://arxiv.org/abs/1509.07892: the cheapest evasion of a tree ensemble, exact, by branch and bound.

Every threshold cuts a feature into cells, and a price table says what moving into each cell costs. Boxes of cells are searched depth
first: what the remaining money does not afford is clipped away, and a box falls when its least leaves cannot bring the score down.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.estimators import EstimatorModel
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> space = Space.table(["amount"])
>>> model = EstimatorModel(estimator=DecisionTreeClassifier().fit([[1.0], [3.0]], [0, 1]), space=space, classes=2)
>>> threat = FeatureBudget(money=5, prices=PriceTable(prices={"amount": Price(down=1.0)}))
>>> found = CheapestTree().solve(model, np.array([[5.0], [9.0]]), np.array([1, 1]), threat)
>>> found.cost.round(3).tolist(), found.status.tolist()
([3.0, inf], ['exact', 'safe'])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.evasion._tree_search import ProfitResult, SearchResult, best_profit, search, search_ball
from carbide.models.trees import Ensemble
from carbide.registry import Method
from carbide.types import Access, Array, Case, FeatureBudget, InputError, LpBall, PriceTable, Rng, Threat, decide

CLOSE = 1e-5  # how far a model's answers may be from its trees' by rounding


@dataclass(frozen=True, kw_only=True)
class CheapestTree(Method):
    """The least price or norm of a change that a tree ensemble decides otherwise, proven to be the least.

    ``boxes``: the most boxes to look at for a row, beyond which the row is ``unknown`` with an upper and a lower bound. ``first``:
    be content with any evasion within a budget, which is faster and decides the same rows.
    """

    boxes: int = 200_000
    first: bool = False
    rank: ClassVar[int] = 0
    threats: ClassVar[tuple[type[Threat], ...]] = (FeatureBudget, LpBall)
    needs: ClassVar[Access] = Access.STRUCTURE

    def __post_init__(self) -> None:
        if not (isinstance(self.boxes, int) and self.boxes >= 1):
            raise InputError(f"cheapest_tree: boxes is {self.boxes!r}; give a whole number >= 1")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """It needs trees in the intermediate form, and two classes where changes have prices."""
        if not hasattr(case.model, "ensemble"):
            return "it reads the trees of scikit-learn, XGBoost, LightGBM, CatBoost and ONNX classifiers only"
        if isinstance(threat, FeatureBudget) and case.model.classes != 2:
            return f"priced changes need two classes, and the model has {case.model.classes}"
        try:
            self.solve(case.model, case.data.test.x[:0], case.data.test.y[:0], threat)
        except InputError as error:
            return str(error)
        return _without_missing(case, threat)

    def quick(self) -> CheapestTree:
        """The variant that only asks whether a row can be evaded within the budget."""
        return replace(self, first=True)

    def __call__(self, model: Any, x: Array, y: Array, threat: Threat, rng: Rng) -> Array:
        """The changed rows ``(n, *shape)``, each the cheapest one that the model decides otherwise; a row that has none stays.

        Raises:
            InputError: if the model's trees cannot be read or the threat cannot be searched.
        """
        return self.solve(model, x, y, threat).witness

    def solve(self, model: Any, x: Array, y: Array, threat: Threat, rng: Rng | None = None) -> SearchResult:
        """Cost, witness and proven lower bound of every row ``x`` ``(n, *shape)`` with labels ``y`` ``(n,)``, as the model itself decides.

        Rows that the model gets wrong cost nothing. Under a ``FeatureBudget`` rows of class 0 are nobody's to change: they are ``safe``.

        Raises:
            InputError: if the model's trees cannot be read or the threat cannot be searched.
        """
        model = getattr(model, "scorer", model)  # an output policy hides scores, it does not change decisions
        trees = trees_of(model)
        attacked = np.flatnonzero(y == 1) if isinstance(threat, FeatureBudget) else np.arange(len(x))
        flat = np.ascontiguousarray(x, np.float64).reshape(len(x), model.space.lower.size)
        same = same_answers(model, trees, x)
        result = self._search(trees, model, flat[attacked], y[attacked], threat, 0 if same else -1)
        bound = result if same else self._search(trees, model, flat[attacked], y[attacked], threat, 1)
        result = _bracket(result, bound)
        fooled = decide(model.predict(result.witness.reshape(-1, *x.shape[1:])), model.threshold) != y[attacked]
        failed = np.flatnonzero(np.isfinite(result.cost) & ~fooled)
        if len(failed):
            result = result.put(failed, self._again(trees, model, flat[attacked][failed], y[attacked][failed], threat))
        every = SearchResult(cost=np.full(len(x), np.inf), lower=np.full(len(x), np.inf), witness=flat.copy(), status=np.full(len(x), "safe", "U7"),
                             nodes=np.zeros(len(x), np.int64)).put(attacked, result)  # fmt: skip
        return replace(every, witness=every.witness.reshape(x.shape))

    def earn(self, model: Any, x: Array, y: Array, prices: PriceTable) -> ProfitResult:
        """The most profitable evasion of every row ``x`` ``(n, *shape)`` of class 1, as the model itself decides; others earn nothing.

        Raises:
            InputError: if the model's trees cannot be read, or the table names no gain or one without a most profitable value.
        """
        model = getattr(model, "scorer", model)
        trees, mine = trees_of(model), np.flatnonzero(y == 1)
        rows = np.ascontiguousarray(x, np.float64).reshape(len(x), model.space.lower.size)
        same = same_answers(model, trees, x)

        def ask(part: Array, rounding: int) -> ProfitResult:
            return best_profit(trees, part, prices, model.space, threshold=model.threshold, boxes=self.boxes, rounding=rounding)

        found = ask(rows[mine], 0 if same else -1)
        upper = found.upper if same else np.maximum(found.upper, ask(rows[mine], 1).upper)
        passes = decide(model.predict(found.witness.reshape(-1, *x.shape[1:])), model.threshold) == 0
        if ((found.profit > 0) & ~passes).any():  # within a hair of the threshold: look for one that is clear of it
            found, upper = ask(rows[mine], -1), np.maximum(upper, ask(rows[mine], 1).upper)
            passes = decide(model.predict(found.witness.reshape(-1, *x.shape[1:])), model.threshold) == 0
        pays = (found.profit > 0) & passes
        n, status = len(x), np.where(upper > np.where(pays, found.profit, 0.0), "unknown", np.where(pays, "exact", "none"))
        every = {"profit": np.zeros(n), "upper": np.zeros(n), "gain": np.zeros(n), "price": np.zeros(n), "status": np.full(n, "none", "U7"),
                 "nodes": np.zeros(n, np.int64), "witness": rows.copy()}  # fmt: skip
        for name, part in (("profit", found.profit), ("gain", found.gain), ("price", found.price)):
            every[name][mine] = np.where(pays, part, 0.0)
        every["upper"][mine], every["status"][mine], every["nodes"][mine] = upper, status, found.nodes
        every["witness"][mine] = np.where(pays[:, None], found.witness, rows[mine])
        return ProfitResult(**{**every, "witness": every["witness"].reshape(x.shape)})

    def _search(self, trees: Ensemble, model: Any, x: Array, y: Array, threat: Threat, rounding: int) -> SearchResult:
        if isinstance(threat, FeatureBudget):
            return search(trees, x, threat.prices, model.space, threshold=model.threshold, budget=threat.money, first=self.first, boxes=self.boxes,
                          rounding=rounding)  # fmt: skip
        assert isinstance(threat, LpBall)
        return search_ball(trees, x, y, threat, model.space, threshold=model.threshold, boxes=self.boxes, rounding=rounding)

    def _again(self, trees: Ensemble, model: Any, x: Array, y: Array, threat: Threat) -> SearchResult:
        """Rows whose witness the model itself withstands by a hair: look for one that is clear of the threshold, keep the lower bound."""
        result = _bracket(self._search(trees, model, x, y, threat, -1), self._search(trees, model, x, y, threat, 1))
        fooled = decide(model.predict(result.witness), model.threshold) != y
        lost = np.isfinite(result.cost) & ~fooled
        status = np.where(lost, "unknown", result.status).astype("U7")
        return replace(result, cost=np.where(lost, np.inf, result.cost), witness=np.where(lost[:, None], x, result.witness), status=status)


def _without_missing(case: Case, threat: Threat) -> str | None:
    """Why a price for making a value missing leads nowhere: the model takes none."""
    if not isinstance(threat, FeatureBudget) or not len(case.data.test.x):
        return None
    hidden = [name for name, price in threat.prices.prices.items() if price.hide < np.inf]
    if hidden:
        row = case.data.test.x[:1].astype(float).copy()
        row[0, case.model.space.index(hidden[0])] = np.nan
        try:
            case.model.predict(row)
        except ValueError:
            return f"the price table lets {hidden[0]} go missing, and the model takes no missing values; leave out the price hide"
    return None


def trees_of(model: Any) -> Ensemble:
    """The trees of a model in the intermediate form.

    Raises:
        InputError: if it has none, or its classes are not those of its trees.
    """
    trees = getattr(model, "ensemble", None)
    if trees is None:
        raise InputError(f"{type(model).__name__} shows no trees; give a tree classifier of scikit-learn, XGBoost, LightGBM or CatBoost")
    if trees.classes.tolist() != list(range(model.classes)):
        raise InputError(
            f"the trees were trained on the classes {trees.classes.tolist()}, but the data has {model.classes}; train on rows of every class"
        )
    return trees


def same_answers(model: Any, trees: Ensemble, x: Array) -> bool:
    """Whether the trees' probabilities are the model's to the last digit; else their sums are taken with room for rounding."""
    if len(x) == 0:
        return True
    given, mine = model.predict(x), trees.predict(x)
    if not np.allclose(given, mine, rtol=0, atol=CLOSE):
        raise InputError(
            f"the model's probabilities differ from its trees' by {np.abs(given - mine).max():.2g}; search the model without what changes them"
        )
    return trees.outputs <= 2 and len(trees.classes) == 2 and bool(np.array_equal(given, mine))


def _bracket(result: SearchResult, bound: SearchResult) -> SearchResult:
    """A result with the lower bound of a search that decided every close call for the attacker."""
    lower = np.minimum(result.lower, bound.lower)
    exact = (result.status == "exact") & (lower >= result.cost)
    gap = (lower < result.cost) & ((result.status == "exact") | ((result.status == "safe") & (bound.status != "safe")))
    status = np.where(exact, "exact", np.where(gap, "unknown", result.status))
    return replace(result, lower=lower, status=status.astype("U7"))
