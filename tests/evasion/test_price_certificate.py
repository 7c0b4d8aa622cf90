"""Certificates beside scores: against every combination of values, with a limit, over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeClassifier

from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.evasion.guard.price_certificate import PriceCertificate
from carbide.guard.serve import Budget, Certifier, Shield, shield_of
from carbide.models.estimators import EstimatorModel
from carbide.space.prices import save_prices
from carbide.types import FeatureBudget, InputError, Kind, Price, PriceTable, Space
from tests.guard.test_serve import Ramp, ask
from tests.oracles.brute import cheapest
from tests.oracles.instances import instance

KINDS = ("plain", "fixed", "integer", "matrix", "ratio", "real chain")


def ready(kind, library, *, money=1e3, boxes=100_000, **size):
    case = instance(kind, library, 1, **size)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2).at(case.threshold)
    guard = PriceCertificate(boxes=boxes)
    return case, guard, guard.state(model, FeatureBudget(money=money, prices=case.prices))


@pytest.mark.parametrize("kind", KINDS)
def test_the_price_is_the_least_one_of_all_changes(kind):
    case, guard, state = ready(kind, "xgboost")
    bounds = guard.certify(case.rows, state)
    least = [cheapest(case.ensemble, row, case.prices, case.space, case.threshold) for row in case.rows]
    assert all(b.alert for b in bounds)
    assert [b.price for b in bounds] == pytest.approx([min(v, 1e3) for v in least], abs=1e-6)
    assert [b.exact for b in bounds] == [v < np.inf for v in least]


@pytest.mark.parametrize("library", ["lightgbm", "random forest"])
def test_a_search_that_ends_early_never_promises_too_much(library):
    case = instance("plain", library, 1, trees=60, depth=5, rows=30)
    model = EstimatorModel(estimator=case.estimator, space=case.space, classes=2).at(case.threshold)
    guard = PriceCertificate(boxes=100_000)
    state = guard.state(model, FeatureBudget(money=1e3, prices=PriceTable(prices={f"f{i}": Price(up=1.0, down=1.0) for i in range(4)})))
    whole, few = guard.certify(case.rows, state), PriceCertificate(boxes=2).certify(case.rows, state)
    assert all(b.price <= w.price + 1e-9 for b, w in zip(few, whole, strict=True))
    assert all(w.exact for w in whole)
    assert not all(b.exact for b in few)


def test_decisions_flag_alerts_with_words():
    case, guard, state = ready("plain", "xgboost")
    decision = guard(case.rows[0], state)
    assert decision.action == "flag"
    assert decision.score >= case.threshold
    assert decision.reason.startswith("no change under $")
    low = np.array([np.full(4, -7.0), np.full(4, 7.0), np.zeros(4)])
    quiet = low[state.model.predict(low)[:, 1] < case.threshold]
    assert len(quiet)
    assert guard(quiet[0], state).action == "allow"
    assert guard(quiet[0], state).reason == "no alert"


def test_the_shield_answers_certificates():
    case, guard, state = ready("plain", "xgboost", money=2.0)
    shield = Shield(model=state.model, budget=Budget(rows=100, clock=lambda: 0.0), certifier=Certifier(method=guard, state=state))
    rows = np.concatenate([case.rows, np.full((1, 4), -7.0)])
    status, answer = ask(shield, json.dumps({"inputs": rows.tolist()}).encode())
    assert status == 200
    assert len(answer["certificates"]) == len(rows)
    assert "probabilities" in answer
    for label, said, bound in zip(answer["labels"], answer["certificates"], guard.certify(rows, state), strict=True):
        assert (said["no_flip_under"] is not None) == (label == 1)
        assert said["no_flip_under"] in (None, bound.price)
        assert said["exact"] == bound.exact
        assert bound.price <= 2.0


def test_a_row_outside_the_space_has_a_score_and_no_certificate():
    space = Space.table(["amount", "visits"], lower=np.zeros(2), upper=np.array([99.0, 9.0]), kind=np.array([Kind.REAL, Kind.INTEGER], np.int8))
    x = np.stack(np.meshgrid(np.arange(100.0), np.arange(10.0)), -1).reshape(-1, 2)
    model = EstimatorModel(estimator=DecisionTreeClassifier().fit(x, x[:, 0] > 40), space=space, classes=2)
    certifier = Certifier.of(model, FeatureBudget(money=99, prices=PriceTable(prices={"amount": Price(down=1.0)})))
    shield = Shield(model=model, budget=Budget(rows=100), certifier=certifier)
    status, answer = ask(shield, b'{"inputs": [[60, 1], [100, 1], [60, 0.5], [99, 9], [-5, 1]]}')
    assert (status, answer["labels"]) == (200, [1, 1, 1, 1, 0])
    said = answer["certificates"]
    assert [c["no_flip_under"] for c in said] == [pytest.approx(19.5), None, None, pytest.approx(58.5), None]
    assert ["outside the space" in c["words"] for c in said] == [False, True, True, False, False]
    assert len(answer["probabilities"]) == 5


def test_prices_and_money_come_together(tmp_path):
    case, _, state = ready("plain", "xgboost")
    path = tmp_path / "prices.json"
    save_prices(case.prices, path)
    assert shield_of(state.model, budget=5, prices=path, money=3.0).certifier.state.threat.money == 3.0
    assert shield_of(state.model, budget=5).certifier is None
    with pytest.raises(InputError, match="money is not given"):
        shield_of(state.model, budget=5, prices=path)
    with pytest.raises(InputError, match="money is inf"):
        shield_of(state.model, budget=5, prices=path, money=float("inf"))
    with pytest.raises(InputError, match="prices is not given"):
        shield_of(state.model, budget=5, money=3.0)


def test_what_cannot_be_certified_is_refused():
    threat = FeatureBudget(money=1, prices=PriceTable(prices={"a": Price(up=1.0)}))
    with pytest.raises(InputError, match="shows no trees"):
        PriceCertificate().state(Ramp(space=Space.table(["a", "b"])), threat)
    _case, guard, state = ready("plain", "xgboost")
    with pytest.raises(InputError, match="'a' is not in the space"):
        guard.state(state.model, threat)
    with pytest.raises(InputError, match="boxes is 0"):
        PriceCertificate(boxes=0)


def test_a_price_is_exact_only_if_the_model_gives_way_at_it():
    """Where ties count for the attacker a row at the threshold costs nothing, but the model still calls it an alert."""
    tree = DecisionTreeClassifier().fit([[0.0], [2.0], [2.0]], [0, 1, 0])  # 0.5 above 1
    model = EstimatorModel(estimator=tree, space=Space.table(["a"]), classes=2, threshold=0.5)
    threat, guard = FeatureBudget(money=5, prices=PriceTable(prices={"a": Price(down=1.0)})), PriceCertificate()
    state = guard.state(model, threat)
    (sure,), (tied,) = guard.certify(np.array([[2.0]]), state), guard.certify(np.array([[2.0]]), replace(state, rounding=1))
    assert (sure.alert, sure.exact) == (True, True)
    assert sure.price == pytest.approx(1.0)
    assert (tied.alert, tied.price, tied.exact) == (True, 0.0, False)


def test_trees_that_only_ask_whether_a_value_is_missing():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 3)).round(1)
    x[rng.random(300) < 0.3, 2] = np.nan
    forest = RandomForestClassifier(10, random_state=0).fit(x, (x[:, 0] > 0) | np.isnan(x[:, 2]))
    model = EstimatorModel(estimator=forest, space=Space.table(["a", "b", "c"]), classes=2)
    assert np.isinf(model.ensemble.threshold[model.ensemble.feature >= 0]).any()
    threat = FeatureBudget(money=50, prices=PriceTable(prices={"a": Price(up=1.0, down=1.0)}))
    guard = PriceCertificate(boxes=10_000)
    bounds = guard.certify(x[:40], guard.state(model, threat))
    solved = CheapestTree().solve(model, x[:40], (model.predict(x[:40])[:, 1] >= 0.5).astype(int), threat)
    assert sum(bound.alert for bound in bounds) > 10
    assert [bound.price for bound in bounds if bound.alert] == pytest.approx(
        [min(c, 50) for b, c in zip(bounds, solved.lower, strict=True) if b.alert]
    )
