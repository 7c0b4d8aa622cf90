"""A target class: brute force on linear nets, black boxes, rows that are misread otherwise, proofs and the command line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide._audit import Ask
from carbide._prove import prove_case
from carbide.data.live import dataset_of
from carbide.evasion._goal import METRIC, aimed
from carbide.evasion.audit.boundary import Boundary
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.audit.standard import Standard
from carbide.evasion.judge import audit, verify
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.callables import CallableModel
from carbide.models.torch_net import TorchModel
from carbide.plan import make_ask
from carbide.types import Case, InputError, LpBall, Space, Splits, UnsoundError, decide

SPACE = Space.table(["a", "b", "c", "d"], lower=np.zeros(4), upper=np.ones(4))


def linear(seed: int = 0) -> TorchModel:
    torch.manual_seed(seed)
    net = nn.Linear(4, 3)
    with torch.no_grad():
        net.bias.copy_(-net.weight.sum(1) / 2)  # every class has its share of the box
    return TorchModel(module=net, space=SPACE, classes=3)


def case_of(model, n: int = 60, seed: int = 0) -> Case:
    x = np.random.default_rng(seed).uniform(size=(n, 4)).astype(np.float32).astype(np.float64)
    y = decide(model.predict(x))
    y[::5] = (y[::5] + 1) % 3  # some rows are misread as they are
    data = replace(dataset_of(x, y, space=SPACE, classes=3), class_names=("x", "y", "z"))
    return Case(model=model, data=Splits(train=data, validation=data, test=data), seed=0)


def reachable(model: TorchModel, x: np.ndarray, eps: float, target: int) -> np.ndarray:
    """How far above the other logits a change within the Linf ball and the bounds can lift the target's: a linear program a row."""
    from scipy.optimize import linprog

    weight, bias = (p.detach().double().numpy() for p in model.module.parameters())
    found = []
    for row in x:
        # maximise t so that every other logit is at least t below the target's
        rows = [[*(weight[j] - weight[target]), 1.0] for j in range(3) if j != target]
        gaps = [bias[target] - bias[j] for j in range(3) if j != target]
        box = [(max(0, v - eps), min(1, v + eps)) for v in row]
        solved = linprog([0, 0, 0, 0, -1.0], A_ub=rows, b_ub=gaps, bounds=[*box, (None, None)])
        found.append(-solved.fun)
    return np.array(found)


@pytest.mark.parametrize("target", [0, 1, 2])
def test_the_rows_that_can_reach_the_target_fall_and_no_others(target):
    model, threat = linear(), LpBall(eps=0.2, target=target)
    case = case_of(model)
    section = audit(case, threat, {"standard": Standard()})
    x, y = section.evidence["x"], section.evidence["y"]
    assert (y != target).all()
    assert len(y) == (case.data.test.y != target).sum()
    lift, fell = reachable(model, x, 0.2, target), section.evidence["broken"]
    assert (lift > 0).any()
    assert (lift[fell] > -1e-6).all()
    assert fell.sum() > 0.75 * (lift > 0).sum()
    assert (lift[~fell] < 0.15 * np.abs(lift).max()).all()  # an attacker may miss what hangs by a thread between two other classes
    said = decide(model.predict(section.evidence["witness"]))
    np.testing.assert_array_equal(said[fell], target)
    headline = section.headline()
    assert headline.metric == METRIC
    assert headline.value == pytest.approx(1 - fell.mean())
    assert "towards class" in headline.threat
    assert "takes for the target" in headline.note
    assert verify(section, model, case, threat) == [(METRIC, headline.value, headline.value)]
    worst = next(f for f in section.findings if f.metric.startswith("worst class"))
    assert worst.value == pytest.approx(min((~fell[y == c]).mean() for c in set(y.tolist())))
    assert any(f.title == f"{METRIC} of each class" and set(f.series[0].x) == {"x", "y", "z"} - {"xyz"[target]} for f in section.figures)


def test_rows_misread_as_something_else_stand_and_rows_read_as_the_target_fall_at_no_cost():
    model, threat = linear(), LpBall(eps=0.0, target=1)
    section = audit(case_of(model), threat, {"pgd": PGD()})
    said = decide(model.predict(section.evidence["x"]))
    np.testing.assert_array_equal(section.evidence["broken"], said == 1)
    assert ((said != section.evidence["y"]) & (said != 1)).any()
    assert (section.evidence["cost"][said == 1] == 0).all()


def test_a_black_box_is_attacked_by_its_labels_alone():
    net = linear()
    box = CallableModel(function=lambda x: decide(net.predict(x)), space=SPACE, classes=3, answers="labels")
    case = replace(case_of(net), model=box)
    section = audit(case, LpBall(eps=0.3, target=2), {"boundary": Boundary(), "pgd": PGD()})
    assert [s.method for s in section.skipped] == ["pgd"]
    assert (reachable(net, section.evidence["x"], 0.3, 2)[section.evidence["broken"]] > -1e-6).all()
    assert section.evidence["broken"].sum() > section.evidence["wrong"].sum()


def test_a_certificate_against_every_class_holds_against_one():
    model = linear()
    section = audit(case_of(model), LpBall(eps=0.1, target=0), {"standard": Standard()})
    proof = IntervalBounds()(model, section.evidence["x"], section.evidence["y"], LpBall(eps=0.1, target=0), np.random.default_rng(0))
    assert proof.holds.any()
    assert not (proof.holds & section.evidence["broken"]).any()
    from carbide.evasion._sandwich import sandwich

    sandwich(replace(section, certificates=(proof,)))
    with pytest.raises(UnsoundError):
        sandwich(replace(section, certificates=(replace(proof, holds=np.ones(len(proof.holds), bool)),)))


def test_the_question_is_answered_as_the_model_answers():
    model = linear()
    x = np.random.default_rng(3).uniform(size=(200, 4))
    says = decide(model.predict(x))
    coarse = lambda x: (np.round(3 * model.predict(x)) + 1e-9) / (np.round(3 * model.predict(x)) + 1e-9).sum(1, keepdims=True)  # noqa: E731
    box = CallableModel(function=coarse, space=SPACE, classes=3, answers="probabilities")
    assert (np.sort(box.predict(x), 1)[:, -1] == np.sort(box.predict(x), 1)[:, -2]).any()  # ties
    for target in range(3):
        np.testing.assert_array_equal(decide(aimed(model, target).predict(x)), says == target)
        view = aimed(box, target)
        np.testing.assert_array_equal(decide(view.predict(x), view.threshold), decide(box.predict(x)) == target)
        assert view.digest() != aimed(box, (target + 1) % 3).digest()
        assert aimed(model, target).digest() != aimed(model, (target + 1) % 3).digest()


def test_targets_that_make_no_sense_are_refused():
    for target in (-1, True, "cat"):
        with pytest.raises(InputError, match="target is"):
            LpBall(eps=0.1, target=target)
    with pytest.raises(InputError, match="from 0 to 2"):
        audit(case_of(linear()), LpBall(eps=0.1, target=3), {"pgd": PGD()})
    two = TorchModel(module=nn.Linear(4, 2), space=SPACE, classes=2)
    with pytest.raises(InputError, match="leave target out"):
        aimed(two, 1)
    case = case_of(linear())
    only = case.data.test.take(np.flatnonzero(case.data.test.y == 1))
    with pytest.raises(InputError, match="of class 1, the target"):
        audit(replace(case, data=replace(case.data, test=only)), LpBall(eps=0.1, target=1), {"pgd": PGD()})
    ask = make_ask({"evasion": {"norm": "linf", "eps": 0.1, "target": 2}}, space=SPACE, base=None, prices=None)
    assert ask.threat == LpBall(eps=0.1, target=2)


def test_what_a_search_finds_against_every_class_is_no_success_against_one():
    model, threat = linear(), LpBall(eps=0.2, target=1)
    case = case_of(model)
    section = audit(case, threat, {"standard": Standard()})
    ask = Ask(threat=threat, methods=None, defend=None, certify={"branch_and_bound": {}, "interval_bounds": {}})
    (proven,) = prove_case(case, [ask], [section])
    np.testing.assert_array_equal(proven.evidence["broken"], section.evidence["broken"])
    free = audit(case, LpBall(eps=0.2), {"standard": Standard()}).evidence["broken"]
    holds = next(c for c in proven.certificates if c.method == "branch_and_bound").holds
    assert holds.sum() == (~free[case.data.test.y != 1]).sum() > 0  # a linear net is decided wholly
