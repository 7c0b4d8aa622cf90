import math

import numpy as np
import pytest
import torch

from carbide.evasion._counted import Counted
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.judge import judge
from carbide.space.balls import inside_ball
from carbide.types import Case, InputError, LpBall, decide, rng_for
from tests.evasion.nets import digits, digits_net, linear, unit_space

W = np.array([2.0, -1.0, 0.5, 0.0])


def rows(n=200):
    x = np.random.default_rng(0).normal(size=(n, 4))
    return x, (x @ W + 0.3 > 0).astype(np.int64)


@pytest.mark.parametrize("attack", [PGD(), APGD()])
@pytest.mark.parametrize(("p", "eps"), [(math.inf, 0.2), (2, 0.5), (1, 0.8)])
def test_a_linear_model_falls_exactly_where_the_dual_norm_says(attack, p, eps):
    x, y = rows()
    distance = np.abs(x @ W + 0.3) / {1: np.abs(W).max(), 2: np.linalg.norm(W), math.inf: np.abs(W).sum()}[p]
    threat = LpBall(p=p, eps=eps)
    model = linear(W, 0.3)
    outcome = judge(model, x, y, attack(model, x, y, threat, rng_for(0)), threat, model.space)
    sure = np.abs(distance - eps) > 1e-3
    np.testing.assert_array_equal(outcome.success[sure], (distance < eps)[sure])


@pytest.mark.parametrize("attack", [PGD(), APGD()])
def test_the_operating_point_is_what_is_attacked(attack):
    x, y = rows()
    threat = LpBall(eps=0.2)
    model = linear(W, 0.3, threshold=0.8)
    score = x @ W + 0.3 - math.log(0.8 / 0.2)
    y = (score > 0).astype(np.int64)
    outcome = judge(model, x, y, attack(model, x, y, threat, rng_for(0)), threat, model.space)
    distance = np.abs(score) / np.abs(W).sum()
    sure = np.abs(distance - 0.2) > 1e-3
    np.testing.assert_array_equal(outcome.success[sure], (distance < 0.2)[sure])


@pytest.mark.parametrize("attack", [PGD(), APGD()])
@pytest.mark.parametrize(("p", "eps"), [(math.inf, 0.15), (2, 0.6), (1, 3.0)])
def test_proposals_stay_in_the_ball_and_bounds_and_leave_the_model_alone(attack, p, eps):
    test, model = digits().test, digits_net()
    threat = LpBall(p=p, eps=eps)
    before = model.digest()
    for parameter in model.module.parameters():
        parameter.grad = None
    kept = test.x.copy()
    z = attack(model, test.x, test.y, threat, rng_for(0))
    assert inside_ball(z, test.x, p=p, eps=eps, lower=0.0, upper=1.0, slack=1e-6).all()
    np.testing.assert_array_equal(test.x, kept)
    assert model.digest() == before
    assert all(parameter.grad is None for parameter in model.module.parameters())
    np.testing.assert_array_equal(attack(model, test.x, test.y, threat, rng_for(0)), z)
    fooled = decide(model.predict(z)) != test.y
    noise = np.clip(test.x + eps * np.random.default_rng(0).choice([-1, 1], size=test.x.shape) / {1: 64, 2: 8, math.inf: 1}[p], 0, 1)
    assert fooled.mean() > (decide(model.predict(noise)) != test.y).mean() + 0.3


def test_more_steps_break_more_and_restarts_never_break_less():
    test, model, threat = digits().test, digits_net(), LpBall(eps=0.08)

    def share(attack):
        return (decide(model.predict(attack(model, test.x, test.y, threat, rng_for(0)))) != test.y).mean()

    assert share(PGD(steps=1, step=0.3)) < share(PGD(steps=20)) <= share(PGD(steps=20, restarts=3))


def test_broken_rows_leave_the_batch():
    x, y = rows()
    counted = Counted(linear(W, 0.3))
    PGD(steps=50)(counted, x, y, LpBall(eps=50.0), rng_for(0))
    assert counted.queries < 5 * len(x), "rows far inside the ball were asked about again and again"


def test_fixed_features_are_never_touched():
    space = unit_space(3, mutable=np.array([True, False, True]))
    model = linear([1.0, 5.0, 1.0], -3.0, space=space)
    x = np.full((1, 3), 0.6)
    for attack in (PGD(), APGD()):
        z = attack(model, x, np.array([1]), LpBall(eps=0.3), rng_for(0))
        assert z[0, 1] == pytest.approx(0.6)


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="steps is 0"):
        PGD(steps=0)
    with pytest.raises(InputError, match="step is -1"):
        PGD(step=-1)
    case = Case(model=linear(W, 0.3), data=digits())
    assert "l1" in (PGD().refuses(case, LpBall(p=0, eps=1.0)) or "")
    assert PGD().refuses(case, LpBall(p=1, eps=1.0)) is None
    assert PGD().quick().steps < PGD().steps


def test_the_start_is_random_inside_the_ball():
    x, y = np.zeros((2000, 4)), np.zeros(2000, np.int64)
    model = linear(W * 0, -1.0)
    z = PGD(steps=1, step=1e-9)(model, x, y, LpBall(eps=0.5), rng_for(3))
    assert np.abs(z).max() <= 0.5 + 1e-9
    assert abs(z.mean()) < 0.02
    assert z.std() == pytest.approx(0.5 / math.sqrt(3), rel=0.05)
    assert torch.is_grad_enabled()
