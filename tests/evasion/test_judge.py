from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.tree import DecisionTreeClassifier
from torch import nn

from carbide.data.live import dataset_of
from carbide.evasion import _proposals
from carbide.evasion._alarm import SAMPLE
from carbide.evasion._counted import Counted
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.boundary import Boundary
from carbide.evasion.audit.cheapest_tree import CheapestTree
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.audit.standard import Standard
from carbide.evasion.judge import admit, audit, judge, judged_rows, verify
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.estimators import EstimatorModel
from carbide.models.torch_net import TorchModel
from carbide.registry import Method
from carbide.run.current import Run, use
from carbide.run.store import Store, decode, encode
from carbide.stats.intervals import clopper_pearson
from carbide.types import (
    Access,
    Array,
    CarbideError,
    Case,
    FeatureBudget,
    Kind,
    LpBall,
    OperatingPoint,
    Price,
    PriceTable,
    Space,
    Splits,
    decide,
    rng_for,
)  # fmt: skip
from tests.evasion.nets import digits, digits_net, linear, tiny, unit_space

W = np.array([2.0, -1.0, 0.5, 0.0])


def rows(n=300, seed=0):
    x = np.random.default_rng(seed).uniform(size=(n, 4))
    return x, (x @ W > 0.8).astype(np.int64)


def table(n=300, seed=0):
    x, y = rows(n, seed)
    return dataset_of(x, y, space=unit_space(4), classes=2)


def case_of(model, test=None, **more):
    test = test or table()
    return Case(model=model, data=Splits(train=table(50, 1), validation=table(50, 2), test=test), **more)


LINE = linear(W, -0.8, space=unit_space(4))


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """A made-up attack: moves every row as ``how`` says."""

    how: str = "nothing"
    threats: ClassVar = (LpBall, FeatureBudget)
    needs: ClassVar[Access] = Access.LABELS

    def __call__(self, model, x: Array, y: Array, threat, rng) -> Array:
        if self.how == "nothing":
            return x
        if self.how == "far":  # a point of the other class, wherever it is
            return np.where((y == 1)[:, None], x - 10 * W, x + 10 * W)
        if self.how == "in place":
            x += 0.5
            return x
        if self.how == "labels":
            y[:] = 1 - y
            return x
        if self.how == "nan":
            return x * np.nan
        if self.how == "shape":
            return x[:, :2]
        if self.how == "crash":
            raise RuntimeError("no such device")
        with torch.no_grad():
            model.module.weight.mul_(-1)
        return x


def headline(section):
    found = [f for f in section.findings if f.headline]
    assert len(found) == 1
    return found[0]


# One proposal --------------------------------------------------------------------------------------------------


def test_a_point_outside_the_ball_is_judged_where_the_ball_ends():
    x, y = rows()
    threat = LpBall(eps=0.1)
    distance = np.abs(x @ W - 0.8) / np.abs(W).sum()
    outcome = judge(LINE, x, y, Fixed(how="far")(LINE, x, y, threat, None), threat, unit_space(4))
    moved = np.abs(outcome.witness - x).max(1)
    assert moved.max() <= 0.1 + 1e-12
    assert not outcome.success[distance > 0.1].any(), "a cheat from outside the ball was believed"
    assert outcome.success.any()
    np.testing.assert_allclose(outcome.cost[outcome.success], moved[outcome.success])
    assert np.isinf(outcome.cost[~outcome.success]).all()


@pytest.mark.parametrize("how", ["nothing", "nan"])
def test_nothing_done_is_nothing_achieved(how):
    x, y = rows()
    outcome = judge(LINE, x, y, Fixed(how=how)(LINE, x.copy(), y, LpBall(eps=0.3), None), LpBall(eps=0.3), unit_space(4))
    assert not outcome.success.any()
    np.testing.assert_array_equal(outcome.witness, x)


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_rows_in_single_precision_are_judged_like_the_same_rows_in_double(p):
    x, y = rows()
    x = x.astype(np.float32)
    threat, space = LpBall(p=p, eps=0.1), unit_space(4)
    step = threat.eps * (np.sign(W) if np.isinf(p) else W / np.abs(W).max() * (np.abs(W) == np.abs(W).max()) if p == 1 else W / np.linalg.norm(W))
    proposal = (x + np.where(y == 1, -1, 1)[:, None] * step.astype(np.float32)).clip(0, 1)
    single, double = (judge(LINE, rows_, y, proposal, threat, space) for rows_ in (x, x.astype(np.float64)))
    assert double.success.mean() > 0.05
    np.testing.assert_array_equal(single.success, double.success)
    np.testing.assert_array_equal(single.cost, double.cost)
    np.testing.assert_array_equal(single.witness, double.witness)
    assert single.witness.dtype == np.float64


def test_an_audit_of_images_in_single_precision_finds_the_same_and_verifies():
    found = {}
    for dtype in (np.float32, np.float64):
        test = digits().test
        model = digits_net()
        case = Case(model=model, data=replace(digits(), test=test.with_(x=(0.9 * test.x + 0.05).astype(np.float32).astype(dtype))))
        section = audit(case, LpBall(eps=0.1), {"pgd": PGD()})
        assert [a == b for _, a, b in verify(section, model, None, LpBall(eps=0.1))] == [True]
        found[dtype] = section.findings
    assert found[np.float32] == found[np.float64]
    assert found[np.float32][0].value < 0.7


def test_rows_that_are_wrong_as_they_are_count_as_broken_at_no_cost():
    x, y = rows()
    y = y.copy()
    y[:20] = 1 - y[:20]
    outcome = judge(LINE, x, y, x, LpBall(eps=0.1), unit_space(4))
    assert outcome.success[:20].all()
    assert not outcome.success[20:].any()
    assert (outcome.cost[:20] == 0).all()


def test_only_rows_that_exist_and_are_paid_for_count():
    kinds = np.array([Kind.REAL, Kind.REAL, Kind.INTEGER])
    space = Space.table(["amount", "limit", "count"], lower=np.zeros(3), kind=kinds, mutable=np.array([1, 0, 1], bool))
    threat = FeatureBudget(money=5.0, prices=PriceTable(prices={"amount": Price(down=1.0), "count": Price(up=2.0)}))
    x = np.tile([10.0, 20.0, 3.0], (6, 1))
    proposal = x + [[-4, 0, 0], [-6, 0, 0], [1, 0, 0], [-1, 1, 0], [0, 0, 0.5], [-1, 0, 2]]
    allowed, cost = admit(proposal, x, threat, space)
    np.testing.assert_array_equal((allowed != x).any(1), [True, False, False, False, False, True])
    np.testing.assert_allclose(cost, [4, 0, 0, 0, 0, 5])


def test_integers_and_fixed_features_hold_in_a_ball_too():
    space = Space.table(
        ["a", "b"], lower=np.zeros(2), upper=np.full(2, 9.0), kind=np.array([Kind.INTEGER, Kind.REAL]), mutable=np.array([True, False])
    )
    allowed, _ = admit(np.array([[5.0, 5.0]]), np.array([[2.0, 2.0]]), LpBall(eps=1.5), space)
    np.testing.assert_array_equal(allowed, [[3.0, 2.0]])


def test_queries_are_counted_whatever_door_is_used():
    counted = Counted(LINE)
    counted.predict(np.zeros((5, 4)))
    counted.logits(torch.zeros(7, 4, dtype=torch.float64))
    assert counted.queries == 12
    assert counted.space is LINE.space


# A whole audit -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eps", [0.02, 0.1])
def test_the_headline_on_a_linear_model_is_the_closed_form(eps):
    case = case_of(LINE)
    x, y = case.data.test.x, case.data.test.y
    # In the box [0, 1] the best change moves each feature by eps, or to its bound.
    push = -np.sign(W) * np.where(y == 1, 1, -1)[:, None]
    worst = np.clip(x + eps * push, 0, 1) @ W - 0.8
    truth = np.where(y == 1, worst > 0, worst <= 0).mean()
    section = audit(case, LpBall(eps=eps), {"apgd": APGD(), "boundary": Boundary(queries=100), "pgd": PGD()})
    found = headline(section)
    assert found.metric == "robust accuracy"
    assert found.value == pytest.approx(truth)
    assert found.n == len(y)
    low, high = clopper_pearson(round(found.value * found.n), found.n)
    assert (found.low, found.high) == (low, high)
    order = [f.method for f in section.findings if f.metric == "attacked rows broken"]
    assert order == ["pgd", "apgd", "boundary"]


def test_the_curve_falls_starts_clean_and_meets_the_headline_and_the_truth():
    case = case_of(LINE)
    x, y = case.data.test.x, case.data.test.y
    section = audit(case, LpBall(eps=0.1), {"pgd": PGD(), "apgd": APGD()})
    curve = next(f for f in section.figures if "against eps" in f.title).series[0]
    assert curve.x[0] == 0
    assert curve.y[0] == (decide(LINE.predict(x)) == y).mean()
    assert (np.diff(curve.y) <= 0).all()
    assert curve.y[list(curve.x).index(0.1)] == headline(section).value
    for eps, share in zip(curve.x, curve.y, strict=True):
        worst = np.clip(x - eps * np.sign(W) * np.where(y == 1, 1, -1)[:, None], 0, 1) @ W - 0.8
        assert share == pytest.approx(np.where(y == 1, worst > 0, worst <= 0).mean(), abs=0.011)
    bars = next(f for f in section.figures if f.kind == "bars")
    assert [s.name for s in bars.series] == ["clean", "under attack"]


def test_doing_nothing_breaks_nothing_and_cheating_breaks_nothing_more():
    idle = audit(case_of(LINE), LpBall(eps=0.05), {"idle": Fixed()})
    assert headline(idle).value == 1.0
    honest = audit(case_of(LINE), LpBall(eps=0.05), {"apgd": APGD()})
    cheat = audit(case_of(LINE), LpBall(eps=0.05), {"cheat": Fixed(how="far")})
    assert headline(cheat).value >= headline(honest).value


@pytest.mark.parametrize(("how", "words"), [("in place", "in place"), ("labels", "in place"), ("shape", "shape"), ("crash", "no such device")])
def test_a_method_that_fails_is_said_to_have_failed_and_is_no_pass(how, words):
    section = audit(case_of(LINE), LpBall(eps=0.05), {"bad": Fixed(how=how)})
    assert section.headline() is None
    assert [s.status for s in section.skipped] == ["failed"]
    assert words in section.skipped[0].reason
    beside = audit(case_of(LINE), LpBall(eps=0.05), {"bad": Fixed(how=how), "pgd": PGD()})
    assert headline(beside).value < 1
    assert len(beside.skipped) == 1


def test_a_model_that_changes_stops_the_audit():
    model = linear(W, -0.8, space=unit_space(4))
    with pytest.raises(CarbideError, match="parameters changed"):
        audit(case_of(model), LpBall(eps=0.05), {"bad": Fixed(how="model")})


def test_masked_gradients_do_not_make_a_model_look_safe():
    masked = linear(W, -0.8, space=unit_space(4), scale=1e5)
    masked.module.float()
    section = audit(case_of(masked), LpBall(eps=0.1), {"pgd": PGD(), "apgd": APGD()})
    assert headline(section).value == pytest.approx(headline(audit(case_of(LINE), LpBall(eps=0.1), {"apgd": APGD()})).value, abs=0.01)


class Hard(nn.Module):
    """Labels of a net: nothing has a gradient, and no view can give one back."""

    def __init__(self):
        super().__init__()
        self.line = linear(W, -0.8).module.float()

    def forward(self, x):
        return nn.functional.one_hot(self.line(x).argmax(1), 2).to(x.dtype) + 0 * x[:, :2]


def test_where_gradients_show_nothing_labels_do_and_the_page_says_so():
    model = TorchModel(module=Hard(), space=unit_space(4), classes=2)
    section = audit(case_of(model), LpBall(eps=0.1), {"pgd": PGD(), "boundary": Boundary(queries=200)})
    last = next(f for f in section.findings if f.method == "boundary")
    assert last.value > 0.05
    assert "masked" in last.note
    assert last.n > SAMPLE


def test_a_black_box_attack_tries_a_sample_of_a_nets_survivors_first():
    section = audit(case_of(LINE), LpBall(eps=0.1), {"apgd": APGD(), "boundary": Boundary(queries=60)})
    last = next(f for f in section.findings if f.method == "boundary")
    assert last.n == SAMPLE
    assert last.value == 0
    assert f"sample of {SAMPLE}" in last.note


def test_the_audit_repeats_to_the_last_bit_and_draws_its_rows_by_the_seed():
    case = replace(case_of(LINE, table(500)), rows=150)
    methods = {"pgd": PGD(steps=3)}
    first, again = (audit(case, LpBall(eps=0.05), methods) for _ in range(2))
    assert encode(first) == encode(again)
    assert headline(first).n == 150
    other = judged_rows(replace(case, seed=1), LpBall(eps=0.05))
    assert not np.array_equal(other.ids, first.evidence["ids"])


def test_verify_recomputes_the_headline_and_catches_a_changed_number():
    case, threat = case_of(LINE), LpBall(eps=0.1)
    section = decode(encode(audit(case, threat, {"apgd": APGD()})))
    for given in ((None, None), (LINE, None), (LINE, case)):
        [(metric, said, found)] = verify(section, *given, threat)
        assert metric == "robust accuracy"
        assert said == found
    better = replace(section, evidence=dict(section.evidence) | {"witness": section.evidence["x"]})
    [(_, said, found)] = verify(better, LINE, case, threat)
    assert found > said
    smaller = LpBall(eps=0.05)
    assert verify(section, LINE, None, smaller)[0][2] > said
    strange = replace(case, data=replace(case.data, test=table(300, 9)))
    assert np.isnan(verify(section, LINE, strange, threat)[0][2])


def test_at_an_operating_point_the_denominator_is_every_row_of_class_1():
    model = LINE.at(0.6)
    case = case_of(model, operating_point=OperatingPoint(false_positive_rate=0.1))
    section = audit(case, LpBall(eps=0.05), {"pgd": PGD()})
    test = case.data.test
    found = headline(section)
    assert found.metric == "robust recall"
    assert found.n == (test.y == 1).sum()
    ones = test.x[test.y == 1]
    worst = np.clip(ones - 0.05 * np.sign(W), 0, 1) @ W - 0.8 - np.log(0.6 / 0.4)
    assert found.value == pytest.approx((worst >= 0).mean(), abs=0.011)


def test_attack_and_certificate_bracket_the_truth_on_the_same_rows():
    case, threat = case_of(digits_net(), digits().test), LpBall(eps=0.005)
    section = audit(case, threat, {"pgd": PGD(), "apgd": APGD(targets=3)})
    proof = IntervalBounds()(case.model, section.evidence["x"], section.evidence["y"], threat, rng_for(0))
    assert proof.metric == headline(section).metric
    assert len(proof.holds) == headline(section).n
    assert not (proof.holds & section.evidence["broken"]).any()
    assert 0 < proof.value <= headline(section).value


def test_images_come_with_a_gallery_of_real_witnesses():
    case, threat = case_of(digits_net(), digits().test), LpBall(eps=0.12)
    section = audit(case, threat, {"apgd": APGD(targets=3)})
    gallery = next(f for f in section.figures if f.kind == "gallery")
    clean, altered, change = (s.y for s in gallery.series)
    assert clean.shape[1:] == (1, 8, 8)
    assert 1 <= len(clean) <= 8
    assert 0 <= altered.min() <= altered.max() <= 1
    assert 0 <= change.min() <= change.max() <= 1
    assert np.abs(clean - altered).max() <= 0.12 + 1e-9
    for before, after in zip(gallery.series[0].x, gallery.series[1].x, strict=True):
        assert before != after


# Prices --------------------------------------------------------------------------------------------------------

PRICES = PriceTable(prices={"f0": Price(down=10.0), "f2": Price(down=4.0)}, gain="f1")


def tree_case():
    train = table(400, 3)
    tree = DecisionTreeClassifier(max_depth=4, random_state=0).fit(train.x, train.y)
    return case_of(EstimatorModel(estimator=tree, space=unit_space(4), classes=2))


def brute(case, x):
    """The least price at which each row passes, over every cell of the tree's cuts."""
    tree = case.model.estimator.tree_
    cuts = [np.unique(tree.threshold[tree.feature == f]) for f in (0, 2)]
    least = np.full(len(x), np.inf)
    for a in [np.inf, *cuts[0]]:
        for b in [np.inf, *cuts[1]]:
            z = x.copy()
            z[:, 0], z[:, 2] = np.minimum(x[:, 0], a - 1e-7), np.minimum(x[:, 2], b - 1e-7)
            price = 10 * (x[:, 0] - z[:, 0]) + 4 * (x[:, 2] - z[:, 2])
            fits = (z >= 0).all(1) & (decide(case.model.predict(z)) == 0)
            least = np.where(fits, np.minimum(least, price), least)
    return least


def test_robust_recall_under_prices_is_brute_forces():
    case = tree_case()
    threat = FeatureBudget(money=1.5, prices=PRICES)
    section = audit(case, threat, {"cheapest_tree": CheapestTree(), "boundary": Boundary()})
    test = case.data.test
    ones = test.x[test.y == 1]
    least = brute(case, ones)
    sure = np.abs(least - 1.5) > 1e-5
    assert sure.all()
    found = headline(section)
    assert found.metric == "robust recall"
    assert found.n == len(ones)
    assert found.value == pytest.approx((least > 1.5).mean())
    assert [s.method for s in section.skipped] == ["boundary"]
    fell = section.evidence["broken"]
    np.testing.assert_allclose(section.evidence["cost"][fell], least[fell], atol=1e-5)
    curve, profit = section.figures
    for budget, share in zip(curve.series[0].x[1:-1], curve.series[0].y[1:-1], strict=True):
        assert share == pytest.approx((least > budget + 1e-5).mean(), abs=1e-9)
    gain = np.where(least <= 1.5, np.maximum(ones[:, 1] - least, 0), 0).mean()
    assert profit.series[0].y[-1] == pytest.approx(gain, abs=1e-5)
    [(_, said, again)] = verify(section, case.model, case, threat)
    assert said == again


def test_labels_alone_come_near_the_exact_search():
    case = tree_case()
    threat = FeatureBudget(money=1.5, prices=PRICES)
    exact, labels = (headline(audit(case, threat, {n: m})).value for n, m in (("cheapest_tree", CheapestTree()), ("boundary", Boundary())))
    assert exact <= labels <= exact + 0.1


@dataclass(frozen=True, kw_only=True)
class Solver(Fixed):
    """An exact method that claims what it cannot show, or says that it does not know."""

    claims: float = 0.5
    knows: bool = True

    def solve(self, model, x, y, threat, rng):
        from types import SimpleNamespace

        return SimpleNamespace(cost=np.full(len(x), self.claims), proven=np.full(len(x), self.knows), witness=x)


@pytest.mark.parametrize(("claims", "knows"), [(0.5, True), (np.inf, False)])
def test_what_an_exact_method_cannot_show_or_decide_is_undecided_and_never_a_pass(claims, knows):
    section = audit(tree_case(), FeatureBudget(money=1.5, prices=PRICES), {"solver": Solver(claims=claims, knows=knows)})
    assert headline(section).value == 0
    assert "undecided" in headline(section).note
    assert section.evidence["unknown"].sum() == (~section.evidence["wrong"]).sum()


def test_many_rows_are_attacked_in_shards_that_depend_on_no_number_of_workers(monkeypatch, tmp_path):
    net = tiny(0)
    x = np.random.default_rng(0).uniform(0, 1, (90, 2))
    data = dataset_of(x, decide(net.predict(x)), space=net.space, classes=3)
    monkeypatch.setattr(_proposals, "SHARD", 40)
    case = case_of(net, data)
    found = []
    for workers in (1, 2):
        with use(Run(workers=workers, store=Store(tmp_path / str(workers)))) as run:
            found.append(audit(case, LpBall(eps=0.05), {"standard": Standard()}))
            assert any("1 of 1" in line["step"] for line in run.store.timings())
    assert encode(found[0]) == encode(found[1])
    whole = judge(net, data.x, data.y, Standard()(net, data.x, data.y, LpBall(eps=0.05), rng_for(0)), LpBall(eps=0.05), net.space)
    assert abs(headline(found[0]).value - (~whole.success).mean()) <= 0.02
    assert headline(found[0]).n == 90


def test_a_model_that_is_wrong_on_every_row_has_robust_accuracy_0_of_n():
    model, test = LINE, table(40)
    data = test.with_(y=1 - decide(model.predict(test.x)))
    section = audit(case_of(model, data), LpBall(eps=0.05), {"pgd": PGD(), "boundary": Boundary(queries=10)})
    found = headline(section)
    assert (found.value, found.n, found.low) == (0.0, 40, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert not section.skipped


class NoWayBack(nn.Module):
    """A net whose answers are chosen, not computed."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return nn.functional.one_hot(self.net(x).argmax(1), 2).float()


def test_gradient_attacks_on_answers_without_a_gradient_say_so_and_the_others_decide():
    inner, test = LINE, table(40)
    model = replace(inner, module=NoWayBack(inner.module).eval())
    data = test.with_(y=decide(model.predict(test.x)))
    section = audit(case_of(model, data), LpBall(eps=0.2), {"pgd": PGD(), "standard": Standard(), "boundary": Boundary(queries=200)})
    assert {skip.method: skip.status for skip in section.skipped} == {"pgd": "not applicable", "standard": "not applicable"}
    assert all("the answers have none" in skip.reason and "\n" not in skip.reason for skip in section.skipped)
    assert headline(section).value < 1
