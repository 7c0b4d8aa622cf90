import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from carbide._audit import Ask, audit_case
from carbide.data.live import dataset_of
from carbide.evasion._draws import Draws
from carbide.evasion._market import Market
from carbide.evasion.audit.constrained_gradient import ConstrainedGradient
from carbide.evasion.audit.genetic import Genetic
from carbide.evasion.judge import judge
from carbide.models.estimators import EstimatorModel
from carbide.models.torch_net import TorchModel
from carbide.space.membership import allowed, inside
from carbide.types import Case, FeatureBudget, InputError, Kind, Linear, LpBall, Price, PriceTable, Ratio, Space, Splits, rng_for
from tests.evasion.tables import cheapest_linear, every_change, linear_table, whole_table


def test_a_proposal_that_costs_too_much_keeps_what_it_can_afford():
    space = Space.table(["way", "kind"], lower=np.zeros(2), upper=np.array([100.0, 2.0]), kind=[Kind.REAL, Kind.CATEGORICAL])
    dear = np.array([[0.0, 2.0, 50.0], [2.0, 0.0, 50.0], [50.0, 50.0, 0.0]])
    prices = PriceTable(prices={"way": Price(up=1.0, down=1.0), "kind": Price(matrix=dear)})
    market = Market(np.array([[10.0, 0.0]] * 3), FeatureBudget(money=5.0, prices=prices), space)
    wish = np.array([[90.0, 0.0], [90.0, 1.0], [12.0, 2.0]])
    found, paid = market.afford(wish, np.arange(3))
    np.testing.assert_allclose(
        found, [[15.0, 0.0], [13.0, 1.0], [12.0, 0.0]], atol=0.01
    )  # all of the money, after the choices; none that is too dear
    np.testing.assert_allclose(paid, [5.0, 5.0, 2.0], atol=0.01)
    assert (paid <= 5.0).all()


def judged(method, table):
    return judge(table.model, table.x, table.y, method(table.model, table.x, table.y, table.threat, rng_for(0)), table.threat, table.model.space)


@pytest.mark.parametrize("relations", [False, True])
def test_linear_nets_are_evaded_at_the_least_price(relations):
    table = linear_table(5, relations=relations, n=16)
    least, outcome = cheapest_linear(table), judged(ConstrainedGradient(), table)
    can = (least > 0) & (least < 0.999 * table.threat.money)
    assert can.sum() >= 8
    assert outcome.success[can].all()
    assert (outcome.cost[can] <= least[can] * 1.005 + 1e-4).all()
    assert (outcome.cost >= least * (1 - 1e-6) - 1e-6).all()


@pytest.mark.parametrize("method", [ConstrainedGradient(), Genetic()])
@pytest.mark.parametrize("seed", [0, 1])
def test_whole_numbers_categories_and_groups_against_every_change(method, seed):
    table = whole_table(seed)
    least, outcome = every_change(table), judged(method, table)
    clean = outcome.cost == 0
    assert np.array_equal(outcome.success, clean | np.isfinite(least))
    moved = outcome.success & ~clean
    assert moved.any()
    assert (outcome.cost[moved] >= least[moved] - 1e-9).all()
    assert (outcome.cost[moved] <= 1.15 * least[moved] + 1e-9).all()
    assert (outcome.cost[moved] <= least[moved] + 1e-9).mean() >= 0.7


@st.composite
def bound_spaces(draw):
    """Spaces of six features of many kinds with random orders, sums and a ratio, all of which a row of ones and twos keeps."""
    kind = np.array([draw(st.sampled_from([Kind.REAL, Kind.INTEGER])) for _ in range(6)])
    kind[5] = Kind.REAL
    row = np.array([float(draw(st.integers(1, 4))) for _ in range(6)])
    row[5] = row[0] / row[1]
    relations = [Ratio(target=5, numerator=0, denominator=1)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        features = tuple(draw(st.permutations(range(6)))[: draw(st.integers(2, 3))])
        weights = tuple(draw(st.sampled_from([-2.0, -1.0, 1.0, 3.0])) for _ in features)
        relations.append(
            Linear(features=features, coefficients=weights, upper=float(row[list(features)] @ weights) + draw(st.sampled_from([0.0, 1.0])))
        )
    mutable = np.array([draw(st.booleans()) for _ in range(6)])
    space = Space.table(list("abcdef"), lower=np.zeros(6), upper=np.full(6, 9.0), kind=kind, mutable=mutable, relations=tuple(relations))
    return space, row


@settings(max_examples=15, deadline=None)
@given(bound_spaces(), st.integers(0, 5), st.sampled_from(["money", "linf", "l2"]))
def test_proposals_are_always_allowed(found, seed, kind):
    space, row = found
    rng = np.random.default_rng(seed)
    free = [name for i, name in enumerate("abcde") if i != 5]
    prices = PriceTable(prices={name: Price(up=float(rng.uniform(0, 2)), down=float(rng.uniform(0.1, 2))) for name in free})
    threat = FeatureBudget(money=3.0, prices=prices) if kind == "money" else LpBall(p=np.inf if kind == "linf" else 2, eps=1.5)
    torch.manual_seed(seed)
    model = TorchModel(module=torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)), space=space, classes=2)
    x, y = row[None], np.array([1])
    model = model.at(float(model.predict(x)[0, 1]) - 0.05)
    for method in (ConstrainedGradient(steps=8, restarts=4, cheaper=2, queries=40), Genetic(queries=40, population=10)):
        z = method(model, x, y, threat, rng_for(seed))
        assert inside(z, x, space, threat)[0]
        assert allowed(z, x, space)[0]


def test_steps_and_projections_spend_what_they_may():
    table = linear_table(1, relations=False)
    market, rows = Market(table.x, table.threat, table.model.space), np.arange(len(table.x))
    rng = np.random.default_rng(0)
    spare = rng.uniform(0.1, 1.5, len(rows))
    gradient = rng.normal(size=table.x.shape) * (np.arange(8) != 2)  # the feature that is free is left out
    step = market.steepest(gradient, table.x, rows, spare)
    near = market.project(table.x + rng.normal(size=table.x.shape), rows, spare)
    for x in (step, near):
        assert (market.price(x, rows) <= spare + 1e-9).all()
        assert ((x >= market.low - 1e-12) & (x <= market.high + 1e-12)).all()
    for _ in range(200):  # nothing that costs as much rises more
        other = market.project(table.x + rng.normal(size=table.x.shape) * 3, rows, spare)
        assert ((gradient * (other - table.x)).sum(1) <= (gradient * (step - table.x)).sum(1) + 1e-9).all()


@pytest.mark.parametrize("method", [ConstrainedGradient(queries=200), Genetic(queries=200)])
def test_rows_come_in_any_order_and_seeds_repeat(method):
    table = whole_table(3)
    turned = np.arange(len(table.x))[::-1]
    one = method(table.model, table.x, table.y, table.threat, rng_for(4))
    other = method(table.model, table.x[turned], table.y, table.threat, rng_for(4))
    np.testing.assert_allclose(one[turned], other, atol=1e-9)
    np.testing.assert_array_equal(one, method(table.model, table.x, table.y, table.threat, rng_for(4)))


def test_draws_are_uniform_and_rows_differ():
    u = Draws(np.random.default_rng(0), np.random.default_rng(1).normal(size=(300, 3))).uniform(np.arange(300), 7, 50)
    assert abs(u.mean() - 0.5) < 0.01
    assert abs(u.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.15
    assert len(np.unique(u)) == u.size


def test_balls_with_whole_numbers_are_attacked_among_rows_that_exist():
    table = whole_table(1)
    threat = LpBall(p=np.inf, eps=2.0)
    z = ConstrainedGradient()(table.model, table.x, table.y, threat, rng_for(0))
    outcome = judge(table.model, table.x, table.y, z, threat, table.model.space)
    assert inside(z, table.x, table.model.space, threat).all()
    assert allowed(z, table.x, table.model.space).all()
    assert outcome.success.mean() > 0.6


class Cheat:
    """Takes what it was not sold: the found change and the fixed feature too."""

    def __call__(self, model, x, y, threat, rng):
        z = ConstrainedGradient()(model, x, y, threat, rng)
        z[:, 5] = 1 - z[:, 5]
        return z


def test_the_judge_takes_no_gifts():
    table = whole_table(0)
    assert (judged(Cheat(), table).cost[judged(Cheat(), table).success] == 0).all()
    assert judged(lambda model, x, *_: x.copy(), table).success.mean() <= 0.25


def test_the_default_ensemble_on_tables_of_nets():
    table = whole_table(2, n=12)
    data = dataset_of(table.x, table.y, space=table.model.space, classes=2)
    case = Case(model=table.model, data=Splits(train=data, validation=data, test=data))
    (section,) = audit_case(case, [Ask(threat=table.threat)])
    ran = [f.method for f in section.findings if f.metric == "attacked rows broken"]
    assert ran[:2] == ["constrained_gradient", "genetic"]
    least = every_change(table)
    assert section.findings[0].value >= np.isinf(least).mean() - 1e-9


@pytest.mark.parametrize(
    ("estimator", "named"), [(KNeighborsClassifier(3), ["genetic", "boundary"]), (DecisionTreeClassifier(max_depth=2), ["cheapest_tree"])]
)
def test_neighbours_are_attacked_by_scores_and_trees_exactly(estimator, named):
    rng = np.random.default_rng(0)
    x = np.round(rng.uniform(size=(80, 2)), 2)
    data = dataset_of(x, (x[:, 0] > 0.5).astype(np.int64), space=Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2)), classes=2)
    model = EstimatorModel(estimator=estimator.fit(data.x, data.y), space=data.space, classes=2)
    case = Case(model=model, data=Splits(train=data, validation=data, test=data.take(np.arange(20))))
    (section,) = audit_case(case, [Ask(threat=FeatureBudget(money=0.3, prices=PriceTable(prices={"a": Price(down=1.0)})))])
    ran = [f.method for f in section.findings if f.metric == "attacked rows broken"]
    assert ran == named
    assert not {"genetic", "constrained_gradient"} & {skip.method for skip in section.skipped if "tree" in named[0]}


def test_wrong_options_are_refused_by_name_and_value():
    for make, said in ((lambda: ConstrainedGradient(steps=0), "steps is 0"), (lambda: ConstrainedGradient(queries=-1), "queries -1"),
                       (lambda: Genetic(population=2), "population is 2"), (lambda: Genetic(queries=9), "queries is 9")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            make()
