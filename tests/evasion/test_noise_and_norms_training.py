"""Training under noise and in several norms: draws of the right size, the worse of two moves, and nets that gain by it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion.harden.noise_training import GaussianNoise, NoiseTraining
from carbide.evasion.harden.norms_training import NormsTraining, OneOfNorms, same_volume
from carbide.evasion.harden.pgd_training import PGDTraining
from carbide.evasion.inner import Around, PgdPerturb, find_worst
from carbide.evasion.prove.smoothing import Smoothing
from carbide.types import Case, InputError, LpBall, Space, rng_for
from tests.evasion.nets import RECIPE, digits, digits_net

ANY = Space.table([f"f{i}" for i in range(16)])


def net(weight: torch.Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    return layer


def test_noise_is_normal_of_the_asked_size():
    x = torch.full((4000, 5), 0.3)
    moved = GaussianNoise(sigma=0.7)(nn.Identity(), x, torch.zeros(4000), torch.Generator().manual_seed(0)) - x
    z = moved.flatten().double().numpy() / 0.7
    assert abs(z.mean()) < 4 / math.sqrt(z.size)
    assert z.std() == pytest.approx(1, abs=4 / math.sqrt(2 * z.size))
    assert (np.abs(z) < 1).mean() == pytest.approx(0.6827, abs=0.015)


def test_a_net_trained_under_noise_can_be_certified_by_smoothing_and_a_plain_one_less():
    data, threat = digits(), LpBall(p=2, eps=0.25)
    hard = NoiseTraining(sigma=0.5)(replace(RECIPE, epochs=25), threat).fit(data.train, np.random.default_rng(0))
    test = data.test.take(np.arange(60))
    proven = [Smoothing(sigma=0.5, samples=200)(m, test.x, test.y, threat, rng_for(0)).value for m in (hard, digits_net())]
    assert proven[0] > proven[1] + 0.1


def test_sigma_is_the_threats_eps_unless_given():
    threat = LpBall(p=2, eps=0.4)
    assert NoiseTraining()(RECIPE, threat).perturb == GaussianNoise(sigma=0.4)
    assert NoiseTraining(sigma=0.2)(RECIPE, threat).perturb == GaussianNoise(sigma=0.2)
    assert [m(RECIPE, threat).perturb.sigma for m in NoiseTraining().strengths()] == [0.2, 0.4]
    assert [m(RECIPE, threat).perturb.sigma for m in NoiseTraining(sigma=0.3).strengths()] == [0.15, 0.3]
    case = Case(model=digits_net(), data=digits(), recipe=RECIPE)
    assert "l2" in (NoiseTraining().refuses(case, LpBall(eps=0.1)) or "")
    assert NoiseTraining().refuses(case, threat) is None
    with pytest.raises(InputError, match="sigma is -1"):
        NoiseTraining(sigma=-1.0)


def test_the_worse_norm_is_the_one_that_the_dual_norms_say():
    x, y = torch.zeros(6, 16), torch.zeros(6, dtype=torch.int64)
    flat, spike = torch.ones(16), torch.eye(16)[0]
    for weight, p in ((flat, math.inf), (spike, 2.0)):
        module = net(torch.stack([-weight, weight]))
        # Linf gains eps * ||w||_1, L2 gains other * ||w||_2: 1.6 against 1.2 for the flat net, 0.1 against 0.3 for the spike
        perturb = OneOfNorms(own=PgdPerturb(eps=0.1, steps=20), other_eps=0.3)
        moved = perturb(module, x, y, torch.Generator().manual_seed(0), space=ANY)
        gain = (moved @ weight).detach()
        expected = 1.6 if math.isinf(p) else 0.3
        torch.testing.assert_close(gain, torch.full((6,), expected), rtol=0.02, atol=0)


def test_random_norms_are_drawn_evenly_row_by_row():
    x, y = torch.zeros(2000, 16), torch.zeros(2000, dtype=torch.int64)
    module = net(torch.stack([-torch.ones(16), torch.ones(16)]))
    moved = OneOfNorms(own=PgdPerturb(eps=0.1), other_eps=0.8, choice="random")(module, x, y, torch.Generator().manual_seed(0), space=ANY)
    small = (moved.abs().amax(1) <= 0.1 + 1e-6).float().mean()
    assert float(small) == pytest.approx(0.5, abs=0.05)
    assert float(moved.norm(dim=1).max()) <= 0.8 + 1e-5


def test_the_other_ball_has_the_same_volume():
    rng = np.random.default_rng(0)
    for d in (1, 2, 3):  # the share of the cube around the L2 ball that lies in it, counted
        r = same_volume(d)
        inside = (np.linalg.norm(rng.uniform(-r, r, (40000, d)), axis=1) <= r).mean()
        assert inside * (2 * r) ** d == pytest.approx(2.0**d, rel=0.03)
    own, other = OneOfNorms(own=PgdPerturb(eps=0.1)).moves(64)
    assert (own.p, own.eps, other.p, other.eps) == (math.inf, 0.1, 2.0, pytest.approx(0.1 * same_volume(64)))
    own, other = OneOfNorms(own=PgdPerturb(eps=0.4, p=2)).moves(64)
    assert (other.p, other.eps) == (math.inf, pytest.approx(0.4 / same_volume(64)))


def test_a_net_trained_in_two_norms_stands_in_the_other_where_one_norm_does_not():
    data, threat = digits(), LpBall(eps=0.1)
    x, y = torch.as_tensor(data.test.x, dtype=torch.float32), torch.as_tensor(data.test.y)

    def robust(method):
        module = method(replace(RECIPE, epochs=10), threat).fit(data.train, np.random.default_rng(0)).module
        worst = find_worst(module, Around.of(x, eps=1.2, p=2, space=data.test.space), y, steps=20, step=0.2)
        return float((module(worst).argmax(1) == y).float().mean())

    both = robust(NormsTraining(other_eps=1.2, steps=4, step=0.5))
    assert both > robust(PGDTraining(steps=4, step=0.5)) + 0.03


def test_what_cannot_be_is_refused():
    for option, value in {"other_eps": -1.0, "choice": "both", "steps": 0}.items():
        with pytest.raises(InputError, match=f"{option} is"):
            NormsTraining(**{option: value})
    assert not NormsTraining.default
    assert not NoiseTraining.default
