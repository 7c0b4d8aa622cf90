"""What evasion is worth, against sums done by hand and a whole audit of two trees."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import carbide
from carbide.evasion._money import Deals, gain_moves, money_findings
from carbide.models.trees import ensemble_of
from carbide.types import FeatureBudget, Finding, Kind, Price, PriceTable, Space
from carbide.verify import verify_run
from tests.oracles.brute import most_profitable

BASE = Finding(metric="robust recall", value=0.0, low=0.0, high=1.0, n=3, method="m", threat="t", access="", seed=0)


def said(findings):
    return {f.metric: f for f in findings}


def test_nobody_changes_a_row_that_does_not_pay():
    gain, cost = np.array([10.0, 10.0, 10.0, 10.0]), np.array([0.0, 4.0, 10.0, np.inf])
    found = said(money_findings(BASE, "$", gain, cost, gain - np.array([0, 3, 3, 0])))
    assert found["frauds that pay"].value == 0.5
    assert found["money lost per 1,000 frauds ($)"].value == pytest.approx((10 + 7) / 4 * 1000)
    assert found["attackers' profit per 1,000 frauds ($)"].value == pytest.approx((10 + 6) / 4 * 1000)
    assert found["break-even price factor"].value == pytest.approx(np.median([10 / 4, 10 / 10]))
    for f in found.values():
        assert f.low <= f.value <= f.high
        assert f.good == -1


def test_prices_above_the_break_even_factor_free_less_than_half():
    rng = np.random.default_rng(0)
    gain, cost = rng.uniform(1, 100, 300), rng.uniform(1, 100, 300)
    factor = said(money_findings(BASE, "$", gain, cost, gain))["break-even price factor"].value
    for k, half in ((factor * 0.999, True), (factor * 1.001, False)):
        assert bool((k * cost < gain).mean() >= 0.5) == half


def test_an_audit_reports_what_is_lost():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(1, 100, 600), rng.uniform(0, 1, 600)])
    y = (x[:, 1] > 0.5).astype(int)
    space = Space.table(["amount", "risk"], lower=np.zeros(2), upper=np.array([100.0, 1.0]))
    tree = DecisionTreeClassifier(max_depth=1).fit(x, y)
    prices = PriceTable(prices={"risk": Price(down=100.0)}, gain="amount")
    report = carbide.audit(tree, (x, y), threats=[carbide.FeatureBudget(money=30, prices=prices)], space=space, quiet=True)
    section = report.results.plain.sections[0]
    cut = tree.tree_.threshold[0]
    test = section.evidence["x"]
    price = (test[:, 1] - cut) * 100
    pays = (price <= 30) & (price < test[:, 0])
    found = said(section.findings)
    assert found["frauds that pay"].value == pytest.approx(pays.mean())
    assert found["money lost per 1,000 frauds ($)"].value == pytest.approx(test[pays, 0].sum() / len(test) * 1000)
    assert found["attackers' profit per 1,000 frauds ($)"].value == pytest.approx((test[pays, 0] - price[pays]).sum() / len(test) * 1000, rel=1e-4)


def test_the_best_offer_is_taken_and_no_row_pays_more_than_it_brings():
    gain = np.array([10.0, 10.0, 10.0, 10.0])
    cheap = np.array([0.0, 1.0, 4.0, np.inf]), np.array([10.0, 2.0, 3.0, 10.0])
    best = np.array([np.inf, 3.0, np.inf, np.inf]), np.array([10.0, 9.0, 10.0, 10.0])
    rows = [np.full((4, 1), 0.0), np.full((4, 1), 1.0)]
    deals = Deals(gain=gain, offers=[cheap, best], witnesses=rows, upper=np.array([10.0, 6.0, 0.0, 2.0]))
    profit, kept = deals.best()
    assert profit.tolist() == [10.0, 6.0, 0.0, 0.0]
    assert kept[:2].tolist() == [10.0, 9.0]
    assert deals.witness().ravel().tolist()[:2] == [0.0, 1.0]
    assert deals.words("$") == "at least: 1 of 4 rows may leave more, all together at most $4500 per 1,000"
    assert Deals(gain=gain, offers=[cheap], upper=np.array([10.0, 1.0, 0.0, 0.0])).words("$").startswith("exact")
    assert Deals(gain=gain, offers=[cheap], how="why").words("$").startswith("at least: of the evasions that were found, others may leave more (why)")
    assert np.array_equal(deals.factor(), [np.nan, 9 / 3, 3 / 4, np.nan], equal_nan=True)
    found = said(deals.findings(BASE, "$"))
    assert found["frauds that pay"].value == 0.5
    assert found["money lost per 1,000 frauds ($)"].value == pytest.approx((10 + 9) / 4 * 1000)
    assert found["attackers' profit per 1,000 frauds ($)"].value == pytest.approx((10 + 6) / 4 * 1000)
    assert "at least" in found["attackers' profit per 1,000 frauds ($)"].note


def test_only_a_gain_that_changes_follow_is_searched():
    space = Space.table(["amount", "risk"])
    table = PriceTable(prices={"amount": Price(up=1.0)}, gain="amount", follows=True)
    assert gain_moves(table, space)
    assert not gain_moves(PriceTable(prices=table.prices, gain="amount"), space)
    assert not gain_moves(PriceTable(prices={"risk": Price(up=1.0)}, gain="amount", follows=True), space)
    assert not gain_moves(PriceTable(prices=table.prices), space)


@pytest.fixture(scope="module")
def market():
    """Frauds that a tree tells by amount and risk, whose amount pays as it is once changed, and what lowering either costs."""
    rng = np.random.default_rng(3)
    x = np.column_stack([rng.integers(1, 60, 500), rng.integers(0, 12, 500)]).astype(float)
    y = ((x[:, 0] > 30) & (x[:, 1] > 4) | (x[:, 0] > 50)).astype(int)
    space = Space.table(["amount", "risk"], lower=np.zeros(2), upper=np.array([60.0, 12.0]), kind=np.full(2, Kind.INTEGER))
    tree = DecisionTreeClassifier(max_depth=3, random_state=0).fit(x, y)
    prices = PriceTable(prices={"amount": Price(down=0.1, up=0.4), "risk": Price(down=4.0, up=1.0)}, gain="amount", follows=True)
    return x, y, space, tree, prices


def audited(market, money, out=None, threats=None, **changes):
    x, y, space, tree, prices = market
    prices = PriceTable(**{"prices": prices.prices, "gain": "amount", "follows": True, **changes})
    threats = threats or [FeatureBudget(money=money, prices=prices)]
    return carbide.audit(tree, (x, y), threats=threats, space=space, quiet=True, workers=1, out=out)


def test_profits_are_those_of_the_best_evasion_where_the_gain_follows(market, tmp_path):
    _, _, space, tree, prices = market
    report = audited(market, 1000, out=tmp_path / "run")
    section = report.results.plain.sections[0]
    rows = section.evidence["x"]
    truth = np.array([most_profitable(ensemble_of(tree), row, prices, space, 0.5) for row in rows])
    cheapest = section.evidence["witness"][:, 0] - section.evidence["cost"]
    assert (truth > np.where(np.isfinite(cheapest), cheapest, 0) + 1).any()  # the cheapest evasion is not the best one
    found = said(section.findings)
    profit = found["attackers' profit per 1,000 frauds ($)"]
    assert profit.value == pytest.approx(truth.mean() * 1000)
    assert "exact: no evasion within the money leaves more" in profit.note
    assert found["frauds that pay"].value == pytest.approx((truth > 0).mean())
    curve = next(f for f in section.figures if f.title == "attacker's profit")
    assert curve.series[0].y[-1] == pytest.approx(truth.mean())
    assert "exact" in curve.note
    assert found["money lost per 1,000 frauds ($)"].value == pytest.approx(section.evidence["deal"][:, 0].sum() / len(rows) * 1000)
    checks = {check.metric: check for check in verify_run(tmp_path / "run")}
    assert all(check.agrees for check in checks.values())
    assert "attackers' profit per 1,000 frauds ($)" in checks


def test_a_best_evasion_beyond_the_money_is_no_deal(market):
    _, _, space, tree, prices = market
    section = audited(market, 2.0).results.plain.sections[0]
    found = said(section.findings)["attackers' profit per 1,000 frauds ($)"]
    truth = np.array([most_profitable(ensemble_of(tree), row, prices, space, 0.5) for row in section.evidence["x"]])
    assert found.value < truth.mean() * 1000 - 1
    assert f"all together at most ${truth.mean() * 1000:.6g} per 1,000" in found.note


def test_without_an_exact_search_profits_are_what_attacks_found(market):
    table = {"prices": {"amount": {"down": 0.1, "up": 0.4}, "risk": {"down": 4, "up": 1}}, "gain": {"feature": "amount", "follows": True}}
    section = audited(market, 0, threats=[{"evasion": {"money": 1000, "prices": table, "audit": ["genetic"]}}]).results.plain.sections[0]
    found = said(section.findings)["attackers' profit per 1,000 frauds ($)"]
    assert "at least: of the evasions that were found, others may leave more (no exact search ran)" in found.note
    exact = said(audited(market, 1000).results.plain.sections[0].findings)["attackers' profit per 1,000 frauds ($)"]
    assert found.value <= exact.value + 1e-9


def test_a_gain_that_stays_is_not_searched_twice(market, monkeypatch):
    from carbide.evasion.audit.cheapest_tree import CheapestTree

    monkeypatch.setattr(CheapestTree, "earn", lambda *_: pytest.fail("it was searched twice"))
    section = audited(market, 1000, follows=False).results.plain.sections[0]
    found = said(section.findings)["attackers' profit per 1,000 frauds ($)"]
    profit = np.maximum(section.evidence["x"][:, 0] - section.evidence["cost"], 0)
    assert found.value == pytest.approx(np.where(np.isfinite(section.evidence["cost"]), profit, 0).mean() * 1000)
    assert "exact: the least price of each row is known" in found.note
    assert "deal" not in section.evidence
