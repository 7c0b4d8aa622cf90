"""What evasion is worth, against sums done by hand and a whole audit of two trees."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import carbide
from carbide.evasion._money import money_findings
from carbide.types import Finding, Price, PriceTable, Space

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
