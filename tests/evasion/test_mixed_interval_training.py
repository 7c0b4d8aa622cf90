"""MTL-IBP against closed forms, by parts, and against training by intervals alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion._interval_training import bounded, input_box
from carbide.evasion.harden.mixed_interval_training import MixedIntervalTraining, MixedObjective
from carbide.evasion.harden.short_interval_training import ShortIntervalTraining
from carbide.evasion.inner import PgdPerturb
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.nets import certified_cnn
from carbide.types import Case, InputError, LpBall, rng_for
from tests.evasion.nets import RECIPE, digits, digits_net, unit_space


def batch(n=20):
    test = digits().test
    return torch.as_tensor(test.x[:n], dtype=torch.float32), torch.as_tensor(test.y[:n]), test.space


def loss_of(net, x, y, space, *, share, progress=0.9, eps=0.05, steps=3):
    objective = MixedObjective(eps=eps, share=share, steps=steps, warmth=0.0)
    return objective(net, x, y, progress=progress, generator=torch.Generator().manual_seed(0), space=space)


@pytest.mark.parametrize("share", [0.1, 0.8])
@pytest.mark.parametrize("steps", [1, 4])
def test_a_linear_nets_loss_is_that_of_the_worst_corner_whatever_the_share(share, steps):
    torch.manual_seed(0)
    net, x, y = nn.Linear(2, 2), 0.4 + 0.2 * torch.rand(40, 2), torch.randint(0, 2, (40,))
    w = net.weight[1] - net.weight[0]
    margin = (x @ w + net.bias[1] - net.bias[0]) * (2 * y - 1) - 0.2 * w.abs().sum()
    objective = MixedObjective(eps=0.2, share=share, steps=steps if steps > 1 else 2)
    found = objective(net, x, y, progress=0.9, generator=torch.Generator().manual_seed(0), space=unit_space(2))
    torch.testing.assert_close(found, nn.functional.softplus(-margin).mean())
    early = objective(net, x, y, progress=0.0, generator=torch.Generator().manual_seed(0), space=unit_space(2))
    torch.testing.assert_close(early, nn.functional.cross_entropy(net(x), y))


def test_the_loss_is_the_mean_of_attack_and_intervals_and_grows_with_the_ball():
    net, (x, y, space) = digits_net().module, batch()
    moved = PgdPerturb(eps=0.05, steps=3, step=2.5 / 3)(net, x, y, torch.Generator().manual_seed(0), space=space)
    box = input_box(x, 0.05, torch.zeros(()), torch.ones(()))
    attacked, worst = (float(nn.functional.cross_entropy(z, y).detach()) for z in (net(moved), bounded(net, x, box, y).worst))
    assert worst > attacked + 0.1
    for share in (0.0, 0.3, 1.0):
        assert float(loss_of(net, x, y, space, share=share).detach()) == pytest.approx((1 - share) * attacked + share * worst, rel=1e-5)
    values = [float(loss_of(net, x, y, space, share=0.5, progress=p).detach()) for p in (0.0, 0.2, 0.4, 0.9)]
    assert values == sorted(values)
    assert values[0] < values[-1]


def test_batch_norm_follows_the_clean_batch_alone_and_every_weight_has_a_gradient():
    torch.manual_seed(0)
    net = certified_cnn(shape=(1, 8, 8), classes=10, width=4, hidden=8).train()
    x, y, space = batch(16)
    loss_of(net, x, y, space, share=0.5).backward()
    norm = next(layer for layer in net if isinstance(layer, nn.BatchNorm2d))
    assert int(norm.num_batches_tracked) == 1
    torch.testing.assert_close(norm.running_mean, 0.1 * net[0](x).mean((0, 2, 3)).detach())
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in net.parameters() if p.ndim > 1)


def test_it_certifies_like_intervals_and_keeps_more_accuracy_with_a_smaller_share():
    data, threat = digits(), LpBall(eps=0.12)
    recipe, test = replace(RECIPE, epochs=12), data.test

    def measured(method):
        model = method(recipe, threat).fit(data.train, np.random.default_rng(0))
        return float((model.predict(test.x).argmax(1) == test.y).mean()), IntervalBounds(halvings=0)(model, test.x, test.y, threat, rng_for(0)).value

    little, alone = measured(MixedIntervalTraining(share=0.1)), measured(ShortIntervalTraining())
    assert little[0] > alone[0]
    assert little[1] > IntervalBounds(halvings=0)(digits_net(), test.x, test.y, threat, rng_for(0)).value + 0.1


def test_what_cannot_be_is_refused():
    case = Case(model=digits_net(), data=digits(), recipe=RECIPE)
    assert "linf" in (MixedIntervalTraining().refuses(case, LpBall(p=2, eps=0.1)) or "")
    assert MixedIntervalTraining().refuses(case, LpBall(eps=0.1)) is None
    for option, value in {"scale": 0.0, "stretch": -1.0, "pace": math.inf, "full": 0.0, "warmth": -1.0, "share": 1.0, "steps": 0}.items():
        with pytest.raises(InputError, match=f"{option} is"):
            MixedIntervalTraining(**{option: value})
    assert [m.share for m in MixedIntervalTraining(share=0.3).strengths()] == pytest.approx([0.1, 0.3])
