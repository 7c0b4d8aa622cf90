import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import carbide._prove as verb
from carbide._audit import Ask, audit_case
from carbide._prove import brackets_of, prove_case
from carbide.data.live import dataset_of
from carbide.evasion._sandwich import fates, sandwich
from carbide.evasion.prove.crown import CROWN
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.report.figures import draw
from carbide.types import Case, Certificate, Finding, LpBall, Section, Splits, UnsoundError, decide
from tests.evasion.exact import robust
from tests.evasion.nets import tiny


def certificate(holds, bound=None, **more) -> Certificate:
    holds = np.asarray(holds, bool)
    given = {"claim": "c", "failure_probability": 0.0, "assumptions": ("a",), "method": "m", "threat": "t", "metric": "robust accuracy"} | more
    return Certificate(holds=holds, bound=np.where(holds, 0.1, 0.0) if bound is None else np.asarray(bound, float), **given)


def section(broken, *certificates, cost=None, **evidence) -> Section:
    broken = np.asarray(broken, bool)
    cost = np.where(broken, 0.1, np.inf) if cost is None else np.asarray(cost, float)
    value = 1 - broken.mean()
    told = Finding(
        metric="robust accuracy", value=value, low=0, high=1, n=len(broken), method="all attacks", threat="t", access="", seed=0, headline=True
    )
    return Section(threat="t", room="evasion", findings=(told,), certificates=certificates, evidence={"broken": broken, "cost": cost, **evidence})


def test_each_row_is_broken_certified_or_open_and_the_union_counts():
    s = section([1, 0, 0, 0, 0], certificate([0, 1, 0, 0, 0]), certificate([0, 1, 1, 0, 0], method="n", assumptions=("b", "a")))
    rows = fates(s)
    np.testing.assert_array_equal(rows, np.array([[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]], bool))
    full = sandwich(s)
    told = full.findings[-1]
    assert (told.metric, told.value, told.n, told.good) == ("open rows", 0.4, 5, -1)
    assert told.low < 0.4 < told.high
    assert full.headline() is s.findings[0]
    union = full.certificates[-1]
    assert union.method == "all certificates"
    assert union.value == 0.4
    assert union.assumptions == ("a", "b")
    assert max(b.certified for b in brackets_of(full)) == 0.4
    bars = full.figures[-1].series[0]
    assert dict(zip(bars.x, bars.y, strict=True)) == {"broken": 0.2, "certified": 0.4, "open": 0.4}
    assert draw(full.figures[-1]).startswith("<svg")


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=20))
def test_a_row_that_is_broken_inside_any_certificate_stops_the_run(rows):
    broken, first, second = np.array(rows, bool).T
    s = section(broken, certificate(first), certificate(second, method="n"))
    if (broken & (first | second)).any():
        with pytest.raises(UnsoundError, match="an attack broke"):
            sandwich(s)
    else:
        assert np.sum(fates(s), axis=0).tolist() == [1] * len(rows)


def test_a_witness_closer_than_a_certified_radius_stops_the_run_too():
    near = certificate([0, 1], bound=[0.05, 0.2])
    assert fates(section([1, 0], near, cost=[0.06, np.inf])).certified.sum() == 1
    with pytest.raises(UnsoundError, match=r"row 0, by a change of 0\.04 within a bound of 0\.05"):
        fates(section([1, 0], near, cost=[0.04, np.inf]))


def test_recall_and_accuracy_are_one_claim_here_and_undecided_rows_are_not_broken():
    with pytest.raises(UnsoundError):
        fates(section([1, 0], certificate([1, 0], metric="robust recall")))
    rows = fates(section([1, 1, 0], certificate([1, 0, 0]), unknown=np.array([True, False, False]), cost=[np.inf, 0.1, np.inf]))
    assert (rows.broken.sum(), rows.certified.sum(), rows.open.sum()) == (1, 1, 1)


def test_certificates_that_may_fail_or_speak_of_another_model_stand_apart():
    chance = certificate([1, 1], failure_probability=0.01, metric="", method="smoothing")
    assert sandwich(section([1, 0], chance)).figures == ()
    both = sandwich(section([1, 0], chance, certificate([0, 1])))
    assert fates(both).certified.sum() == 1
    assert "smoothing" in both.figures[-1].note
    assert len(both.certificates) == 2, "one deterministic certificate needs no union"
    assert sandwich(section([1, 0])).figures == ()


def test_a_real_audit_and_three_real_certificates_agree_with_the_truth():
    model = tiny(10, inputs=2, width=6)
    x = np.random.default_rng(1).uniform(size=(40, 2))
    y = decide(model.predict(x))
    data = dataset_of(x, y, space=model.space, classes=3)
    ask = Ask(threat=LpBall(eps=0.04), methods={"pgd": {}}, certify={"interval_bounds": {}, "crown": {"halvings": 0}, "branch_and_bound": {}})
    case = Case(model=model, data=Splits(train=data, validation=data, test=data))
    (found,) = prove_case(case, [ask], audit_case(case, [ask]))
    rows, truth = fates(found), robust(model, x, y, 0.04)
    np.testing.assert_array_equal(rows.certified, truth > 0)
    assert (rows.broken <= (truth < 0)).all()
    assert [c.method for c in found.certificates] == ["branch_and_bound", "crown", "interval_bounds", "all certificates"]
    assert found.certificates[2].value < found.certificates[1].value <= found.certificates[0].value == found.certificates[3].value


def audited(certify, *, eps=0.04, attack="pgd", seed=10):
    """A tiny net, its rows, what one attack leaves, and what these certificates say, in order."""
    model = tiny(seed, inputs=2, width=6)
    x = np.random.default_rng(1).uniform(size=(60, 2))
    y = decide(model.predict(x))
    y[:3] = (y[:3] + 1) % 3  # rows that are wrong as they are
    data = dataset_of(x, y, space=model.space, classes=3)
    ask = Ask(threat=LpBall(eps=eps), methods={attack: {"steps": 1} if attack == "pgd" else {}}, certify=certify)
    case = Case(model=model, data=Splits(train=data, validation=data, test=data))
    sections = audit_case(case, [ask])
    return sections[0], lambda: prove_case(case, [ask], sections)[0], robust(model, x, y, eps)


THREE = {"interval_bounds": {"halvings": 0}, "crown": {"halvings": 0}, "branch_and_bound": {}}


def test_dearer_certificates_are_asked_only_about_what_is_open_and_a_few_broken_rows(monkeypatch):
    before, prove, truth = audited(THREE)
    asked = {}
    for cls in (IntervalBounds, CROWN):
        real = cls.__call__
        monkeypatch.setattr(
            cls, "__call__", lambda self, m, x, *a, real=real, name=cls.__name__: asked.setdefault(name, []).append(len(x)) or real(self, m, x, *a)
        )
    monkeypatch.setattr(verb, "CHECKED", 2)
    found = prove()
    certified = {c.method: c.holds for c in found.certificates}
    broken = before.evidence["broken"]
    assert asked["IntervalBounds"][0] == 60
    assert asked["CROWN"][0] == (~certified["interval_bounds"] & ~broken).sum() + 2
    np.testing.assert_array_equal(certified["branch_and_bound"], truth > 0)
    assert (certified["interval_bounds"] <= certified["crown"]).all()
    assert (certified["crown"] <= certified["branch_and_bound"]).all()
    alone = audited({"branch_and_bound": {}})[1]().certificates[0]
    np.testing.assert_array_equal(alone.holds, certified["branch_and_bound"])


def test_what_the_search_breaks_is_broken_and_the_headline_stays_the_attacks():
    before, prove, truth = audited(THREE)
    found = prove()
    rows, missed = fates(found), (truth < 0) & ~before.evidence["broken"]
    assert missed.sum() >= 1, "the attack is too good for this test"
    np.testing.assert_array_equal(rows.broken, truth < 0)
    np.testing.assert_array_equal(rows.certified, truth > 0)
    assert found.headline() == before.headline()
    told = next(f for f in found.findings if f.metric == "open rows")
    assert f"{missed.sum()} of them by the search of a certificate" in told.note
    z, x = found.evidence["proof.witness"][missed], found.evidence["x"][missed]
    assert (np.abs(z - x).max(1) <= 0.04 + 1e-9).all()
    np.testing.assert_array_equal(found.evidence["broken"], before.evidence["broken"])


def test_a_dear_certificate_that_holds_for_broken_rows_stops_the_run_though_they_are_known(monkeypatch):
    _, prove, _ = audited({name: THREE[name] for name in ("interval_bounds", "crown")})
    monkeypatch.setattr(CROWN, "certified", lambda self, model, x, y, p, eps: np.ones(len(x), bool))
    with pytest.raises(UnsoundError, match="certificate crown holds for"):
        prove()


def test_when_nothing_is_open_dear_certificates_still_answer(monkeypatch):
    monkeypatch.setattr(verb, "CHECKED", 0)
    found = audited(THREE, eps=1e-6)[1]()
    assert fates(found).open.sum() == 0
    assert [c.method for c in found.certificates] == ["branch_and_bound", "crown", "interval_bounds", "all certificates"]
