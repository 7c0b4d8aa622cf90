from dataclasses import dataclass, replace

import numpy as np
import pytest

from carbide.evasion.audit.boundary import Boundary
from carbide.evasion.judge import judge
from carbide.space.membership import allowed
from carbide.types import Access, FeatureBudget, InputError, Kind, LpBall, Price, PriceTable, Space, decide, rng_for
from tests.evasion.nets import digits, digits_net, linear, tiny, unit_space


@dataclass(frozen=True, kw_only=True, eq=False)
class Says:
    """A black box that answers labels only and counts the rows that it is asked about."""

    rule: object
    space: Space
    log: list
    classes: int = 2
    threshold: float = 0.5
    access: Access = Access.LABELS

    def predict(self, x):
        self.log.append(len(x))
        return np.eye(2)[self.rule(x).astype(int)]

    def at(self, threshold):
        return replace(self, threshold=threshold)

    def digest(self):
        return "says"


W = np.array([2.0, -1.0, 0.5, 1.0])


def rows(n=60):
    x = np.random.default_rng(0).uniform(0.1, 0.9, size=(n, 4))
    return x, (x @ W > 1.2).astype(np.int64)


@pytest.mark.parametrize(("p", "eps"), [(np.inf, 0.08), (2, 0.15), (1, 0.2)])
def test_comes_close_to_the_closed_form_of_a_linear_model(p, eps):
    x, y = rows()
    model = Says(rule=lambda x: x @ W > 1.2, space=unit_space(4), log=[])
    threat = LpBall(p=p, eps=eps)
    dual = {np.inf: np.abs(W).sum(), 2: np.linalg.norm(W), 1: np.abs(W).max()}[p]
    distance = np.abs(x @ W - 1.2) / dual
    outcome = judge(model, x, y, Boundary()(model, x, y, threat, rng_for(0)), threat, model.space)
    assert not outcome.success[distance > eps + 1e-9].any()
    assert outcome.success[distance < 0.8 * eps].mean() > 0.95
    assert 5 < (distance < 0.8 * eps).sum() < 55


def test_asks_for_about_as_many_labels_as_it_may():
    x, y = rows(20)
    for p in (np.inf, 2, 1):
        model = Says(rule=lambda x: x @ W > 1.2, space=unit_space(4), log=[])
        Boundary(queries=100)(model, x, y, LpBall(p=p, eps=1e-6), rng_for(0))
        assert 20 * 50 < sum(model.log) < 20 * 500
    assert Boundary().quick().queries < Boundary().queries


@pytest.mark.parametrize("p", [2, np.inf])
def test_finds_most_of_what_a_grid_finds_on_a_net(p):
    model = tiny(0)
    x = np.random.default_rng(0).uniform(0.2, 0.8, size=(150, 2))
    y = decide(model.predict(x))
    side = np.linspace(-1, 1, 61) * 0.1
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    grid = grid[np.linalg.norm(grid, ord=p, axis=1) <= 0.1]
    reachable = np.array([(decide(model.predict(row + grid)) != label).any() for row, label in zip(x, y, strict=True)])
    threat = LpBall(p=p, eps=0.1)
    found = judge(model, x, y, Boundary()(model, x, y, threat, rng_for(0)), threat, model.space).success
    assert reachable.sum() >= 5
    assert found[reachable].mean() >= 0.7


def test_breaks_images_by_their_labels_alone():
    test, net = digits().test.take(np.arange(40)), digits_net()
    threat = LpBall(eps=0.2)
    z = Boundary(queries=500)(net, test.x, test.y, threat, rng_for(0))
    np.testing.assert_array_equal(z, Boundary(queries=500)(net, test.x, test.y, threat, rng_for(0)))
    outcome = judge(net, test.x, test.y, z, threat, test.space)
    noise = np.clip(test.x + 0.2 * np.random.default_rng(1).choice([-1, 1], size=test.x.shape), 0, 1)
    assert outcome.success.mean() > (decide(net.predict(noise)) != test.y).mean() + 0.2


KINDS = np.array([Kind.REAL, Kind.INTEGER, Kind.REAL, Kind.REAL])
TABLE = Space.table(["amount", "count", "fixed", "age"], lower=np.zeros(4), upper=np.array([100.0, 9, 10, 50]), kind=KINDS,
                    mutable=np.array([1, 1, 0, 1], bool))  # fmt: skip
PRICES = PriceTable(prices={"amount": Price(down=1.0), "count": Price(down=4.0, up=4.0), "age": Price(up=0.5, fixed=1.0)})
SCORE = np.array([0.1, 1.0, 5.0, -0.15])


def cheapest(x):
    """The least price by which rows of class 1 come below 10, by trying every count and spending the rest best."""
    need, best = x @ SCORE - 10.0, np.full(len(x), np.inf)
    for count in range(10):
        paid = 4.0 * np.abs(count - x[:, 1])
        left = np.maximum(need + (count - x[:, 1]) * SCORE[1], 0)
        by_age = np.minimum(left, (50 - x[:, 3]) * 0.15)  # $3.33 a point and $1 once, against $10 a point for the amount
        rest = (left - by_age) / 0.1
        aged = np.where(by_age > 0, 1.0, 0.0) + by_age / 0.15 * 0.5 + np.where(rest <= x[:, 0], rest, np.inf)
        plain = np.where(left / 0.1 <= x[:, 0], left / 0.1, np.inf)
        best = np.minimum(best, paid + np.minimum(aged, plain))
    return best


def test_priced_changes_are_rows_that_exist_and_nearly_as_cheap_as_can_be():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0, 100, 80), rng.integers(0, 10, 80), rng.uniform(0, 2, 80), rng.uniform(0, 50, 80)])
    model = Says(rule=lambda x: x @ SCORE >= 10, space=TABLE, log=[])
    x = x[model.rule(x)]
    y, least = np.ones(len(x), np.int64), cheapest(x)
    threat = FeatureBudget(money=30.0, prices=PRICES)
    z = Boundary()(model, x, y, threat, rng_for(0))
    assert allowed(z, x, TABLE).all()
    np.testing.assert_array_equal(z[:, 2], x[:, 2])
    outcome = judge(model, x, y, z, threat, TABLE)
    assert (outcome.cost >= least - 1e-6).all(), "cheaper than the cheapest: a price is wrong"
    assert outcome.success[least < 24].mean() > 0.95
    broken = outcome.success
    assert np.median(outcome.cost[broken] / least[broken]) < 1.15


def test_rows_that_are_wrong_already_stay_and_nothing_found_gives_the_clean_row():
    x, y = rows(10)
    model = Says(rule=lambda x: np.zeros(len(x)), space=unit_space(4), log=[])
    for p in (np.inf, 2, 1):
        np.testing.assert_array_equal(Boundary(queries=50)(model, x, y, LpBall(p=p, eps=0.1), rng_for(0)), x)


def test_no_gradient_is_asked_for_and_masking_does_not_help():
    x, y = rows(40)
    shattered = Says(rule=lambda x: np.round(x, 2) @ W > 1.2, space=unit_space(4), log=[])
    y = shattered.rule(x).astype(np.int64)
    threat = LpBall(eps=0.08)
    success = judge(shattered, x, y, Boundary()(shattered, x, y, threat, rng_for(0)), threat, shattered.space).success
    distance = np.abs(x @ W - 1.2) / np.abs(W).sum()
    assert success[distance < 0.06].all()
    assert Access.GRADIENTS not in Boundary.needs


def test_the_operating_point_counts():
    model = linear(W, -1.2, space=unit_space(4), threshold=0.6)
    x, _ = rows()
    y = decide(model.predict(x), model.threshold)
    z = Boundary()(model, x, y, LpBall(eps=0.1), rng_for(0))
    distance = np.abs(x @ W - 1.2 - np.log(0.6 / 0.4)) / np.abs(W).sum()
    assert ((decide(model.predict(z), model.threshold) != y) | (np.abs(z - x).max(1) > 0.1 + 1e-9))[distance < 0.08].all()


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="queries is 3"):
        Boundary(queries=3)
