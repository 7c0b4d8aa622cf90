"""Interval training on a short schedule and on small boxes, against closed forms and sampled points."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion._interval_training import IntervalGrowth, bounded, input_box, small_boxes_, warm_up_loss
from carbide.evasion._intervals import Box, logit_gaps
from carbide.evasion.harden.interval_training import IntervalTraining
from carbide.evasion.harden.short_interval_training import ShortIntervalTraining
from carbide.evasion.harden.small_box_training import SmallBoxTraining
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.nets import certified_cnn
from carbide.types import Case, InputError, LpBall, rng_for
from tests.evasion.nets import RECIPE, digits, digits_net, unit_space


def around(x, eps=0.1):
    return input_box(x, eps, torch.zeros(()), torch.ones(()))


def test_weights_start_so_that_boxes_keep_their_width():
    torch.manual_seed(0)
    net = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(400, 400, bias=False), nn.ReLU())], nn.Linear(400, 2))
    small_boxes_(net, torch.Generator().manual_seed(0))
    x = torch.randn(64, 400)
    boxes = bounded(net, x, Box(x - 0.05, x + 0.05), torch.zeros(64, dtype=torch.int64)).boxes
    for box in boxes:  # what enters a rectifier is twice as wide, and half of it goes on
        assert float((box.upper - box.lower).detach().mean()) == pytest.approx(0.2, rel=0.15)
    before = copy.deepcopy(net.state_dict())
    small_boxes_(net, torch.Generator().manual_seed(0))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_worst_logits_are_those_of_the_prover_where_no_layer_mixes_rows():
    net, test = digits_net().module, digits().test
    x, y = torch.as_tensor(test.x[:20], dtype=torch.float32), torch.as_tensor(test.y[:20])
    found = bounded(net, x, around(x), y)
    torch.testing.assert_close(found.worst, -logit_gaps(net, around(x), y))
    torch.testing.assert_close(found.clean, net(x))
    assert len(found.boxes) == 3


def test_batch_norm_takes_the_clean_batch_for_the_boxes_and_bounds_hold():
    torch.manual_seed(0)
    net = certified_cnn(shape=(1, 8, 8), classes=4, width=4, hidden=8).train()
    x, y = torch.rand(16, 1, 8, 8), torch.randint(0, 4, (16,))
    frozen = copy.deepcopy(net)
    entered = {}
    for layer in frozen.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.momentum = 1.0
            layer.register_forward_pre_hook(lambda layer, inputs: entered.setdefault(layer, inputs[0].numel() // layer.num_features) and None)
    with torch.no_grad():
        clean = frozen(x)  # its running statistics are now the batch's, but for the correction of the variance
        for layer in frozen.modules():
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.running_var.mul_((entered[layer] - 1) / entered[layer])
        frozen.eval()
        torch.testing.assert_close(frozen(x), clean, atol=1e-4, rtol=1e-4)
        found = bounded(net, x, around(x, 0.02), y)
        torch.testing.assert_close(found.clean, clean)
        exact = bounded(copy.deepcopy(net), x, Box(x, x), y)
        torch.testing.assert_close(exact.worst, clean - clean.gather(1, y[:, None]), atol=1e-4, rtol=1e-4)
        for seed in range(50):
            noise = torch.empty_like(x).uniform_(-0.02, 0.02, generator=torch.Generator().manual_seed(seed)).sign() * 0.02
            logits = frozen((x + noise).clamp(0, 1))
            assert (logits - logits.gather(1, y[:, None]) <= found.worst + 1e-3).all()
    assert all(int(layer.num_batches_tracked) == 1 for layer in net.modules() if isinstance(layer, nn.BatchNorm2d))


def test_the_warm_up_is_that_of_a_hand_computation():
    given = Box(torch.full((1, 4), -0.1), torch.full((1, 4), 0.1))
    seen = Box(torch.tensor([[1.0, -1.5, -0.5, 2.0]]), torch.tensor([[2.0, -0.5, 0.5, 3.0]]))  # centres 1.5, -1, 0, 2.5; radius 0.5
    tight = (0.5 - 0.1 / 0.5) / 0.5
    on, off = (1.5 + 2.5), 1.0
    mean = (0.5 - off / on) / 0.5
    spread = [(c - 0.75) ** 2 for c in (1.5, -1, 2.5)]
    variance = max(0.0, 0.5 - min(spread[1] / (spread[0] + spread[2]), (spread[0] + spread[2]) / spread[1])) / 0.5
    assert float(warm_up_loss(given, [seen])) == pytest.approx(tight + mean + variance, rel=1e-5)
    wide = Box(torch.tensor([[-0.1, -0.1]]), torch.tensor([[0.1, 0.1]]))
    assert float(warm_up_loss(wide, [wide])) == 0.0
    assert float(warm_up_loss(wide, [])) == 0.0


@pytest.mark.parametrize("box", [1.0, 0.5, 0.2])
def test_a_linear_nets_loss_is_that_of_the_worst_corner_however_small_the_box(box):
    torch.manual_seed(0)
    net = nn.Linear(2, 2)
    x, y = 0.4 + 0.2 * torch.rand(40, 2), torch.randint(0, 2, (40,))
    objective = IntervalGrowth(eps=0.2, box=box, steps=4)
    space = unit_space(2)
    found = objective(net, x, y, progress=0.9, generator=torch.Generator().manual_seed(0), space=space)
    w = net.weight[1] - net.weight[0]
    margin = (x @ w + net.bias[1] - net.bias[0]) * (2 * y - 1) - 0.2 * w.abs().sum()
    torch.testing.assert_close(found, nn.functional.softplus(-margin).mean())
    early = objective(net, x, y, progress=0.0, generator=torch.Generator().manual_seed(0), space=space)
    torch.testing.assert_close(early, nn.functional.cross_entropy(net(x), y))


def test_clean_and_worst_are_mixed_as_asked():
    net, test = digits_net().module, digits().test
    x, y = torch.as_tensor(test.x[:20], dtype=torch.float32), torch.as_tensor(test.y[:20])
    loss = lambda clean: float(IntervalGrowth(eps=0.05, clean=clean)(net, x, y, progress=0.9, generator=torch.Generator(), space=test.space).detach())  # noqa: E731
    found = bounded(net, x, around(x, 0.05), y)
    worst, clean = (float(nn.functional.cross_entropy(z, y).detach()) for z in (found.worst, found.clean))
    assert loss(0.0) == pytest.approx(worst, rel=1e-5)
    assert loss(0.25) == pytest.approx(0.75 * worst + 0.25 * clean, rel=1e-5)


def test_more_is_certified_than_by_plain_interval_training_in_the_same_epochs():
    data, threat = digits(), LpBall(eps=0.1)
    test = data.test

    def certified(method):
        model = method(replace(RECIPE, epochs=14), threat).fit(data.train, np.random.default_rng(0))
        return IntervalBounds(halvings=0)(model, test.x, test.y, threat, rng_for(0)).value

    assert certified(ShortIntervalTraining()) > max(0.6, certified(IntervalTraining()) + 0.03)


def test_small_boxes_keep_more_clean_accuracy_and_still_certify_something():
    data, threat = digits(), LpBall(eps=0.12)
    test = data.test
    model = SmallBoxTraining(box=0.4, steps=1)(replace(RECIPE, epochs=15), threat).fit(data.train, np.random.default_rng(0))
    assert (model.predict(test.x).argmax(1) == test.y).mean() > 0.8
    small = IntervalBounds(halvings=0)(model, test.x, test.y, LpBall(eps=0.04), rng_for(0)).value
    plain = IntervalBounds(halvings=0)(digits_net(), test.x, test.y, LpBall(eps=0.04), rng_for(0)).value
    assert small > plain + 0.3


@pytest.mark.parametrize("method", [ShortIntervalTraining, SmallBoxTraining])
def test_what_cannot_be_is_refused(method):
    case = Case(model=digits_net(), data=digits(), recipe=RECIPE)
    assert "linf" in (method().refuses(case, LpBall(p=2, eps=0.1)) or "")
    assert method().refuses(case, LpBall(eps=0.1)) is None
    assert "torch" in (method().refuses(replace(case, recipe=None), LpBall(eps=0.1)) or "")
    for option, value in {"scale": 0.0, "stretch": -1.0, "pace": math.inf, "full": 0.0, "warmth": -1.0}.items():
        with pytest.raises(InputError, match=f"{option} is"):
            method(**{option: value})
    with pytest.raises(InputError, match="clean is 1"):
        ShortIntervalTraining(clean=1.0)
    with pytest.raises(InputError, match="box is 1"):
        SmallBoxTraining(box=1.0)
    assert method.default is False
    assert len(method().strengths()) == 2
