"""The inner maximum against closed forms on linear nets, and the watch's two accuracies against brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from carbide.evasion.inner import Around, PgdPerturb, RobustWatch, find_worst
from carbide.types import Space
from tests.evasion.nets import unit_space

W = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]])


def net(weight=W) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()
    return layer


def rows(n: int = 50, d: int = 3):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, d, generator=generator), torch.randint(0, 2, (n,), generator=generator)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([math.inf, 2.0]), st.floats(0, 2), st.integers(0, 2**31))
def test_points_come_back_into_ball_and_bounds_and_those_inside_stay(p, eps, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(20, 3, generator=generator) * 1.4 - 0.2  # some rows lie outside the bounds
    space = unit_space(3, mutable=np.array([True, True, False]))
    around = Around.of(x, eps=eps, p=p, space=space)
    back = around.back(x + 3 * torch.randn(20, 3, generator=generator))
    size = (back - x).abs().amax(1) if math.isinf(p) else (back - x).norm(dim=1)
    assert size.max() <= eps + 1e-5
    assert (back >= torch.minimum(x, torch.zeros(()))).all()
    assert (back <= torch.maximum(x, torch.ones(()))).all()
    assert torch.equal(back[:, 2], x[:, 2])
    torch.testing.assert_close(around.back(back), back)


def test_the_worst_corner_of_a_linear_net_is_reached_within_the_bounds():
    x, y = rows()
    moved = PgdPerturb(eps=0.2)(net(), x, y, torch.Generator().manual_seed(0), space=unit_space(3))
    toward = (W[1] - W[0]).sign() * torch.where(y == 0, 1.0, -1.0)[:, None]
    torch.testing.assert_close(moved, (x + 0.2 * toward).clamp(0, 1))


def test_the_worst_l2_move_of_a_linear_net_is_along_its_normal():
    x, y = rows()
    around = Around.of(x, eps=0.2, p=2)
    normal = (W[1] - W[0]) / (W[1] - W[0]).norm() * torch.where(y == 0, 1.0, -1.0)[:, None]
    torch.testing.assert_close(find_worst(net(), around, y, steps=4, step=0.25), x + 0.2 * normal)  # straight from the row
    moved = find_worst(net(), around, y, steps=40, step=0.25, generator=torch.Generator().manual_seed(0))
    gain = ((moved - x) * normal).sum(1)
    assert gain.min() > 0.199
    assert gain.max() <= 0.2 + 1e-6


def test_without_labels_it_leaves_the_clean_answer_for_one_of_the_two_worst_corners():
    x, _ = rows()
    moved = find_worst(net(), Around.of(x, eps=0.2), None, steps=10, step=0.25, generator=torch.Generator().manual_seed(0))
    side = ((moved - x) / 0.2 * (W[0] - W[1]).sign()).round(decimals=4)
    torch.testing.assert_close(side.abs(), torch.ones_like(side))
    assert (side == side[:, :1]).all()
    assert (side[:, 0] > 0).any()
    assert (side[:, 0] < 0).any()


def test_crafting_leaves_the_net_as_it_was():
    module = nn.Sequential(nn.BatchNorm1d(3), net(), nn.Dropout(0.5)).train()
    module[0].eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    x, y = rows()
    clean = x.clone()
    PgdPerturb(eps=0.1)(module, x, y, torch.Generator().manual_seed(0))
    assert module.training
    assert not module[0].training
    assert torch.equal(x, clean)
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


def test_the_same_generator_state_finds_the_same_inputs():
    x, y = rows()
    first, again, other = (PgdPerturb(eps=0.1, steps=1)(net(), x, y, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_watch_counts_what_stands():
    x, y = rows(400)
    space = unit_space(3)
    watch = RobustWatch(eps=0.05)
    look = watch(net(), x, y, torch.Generator().manual_seed(0), space)
    toward = (W[1] - W[0]).sign() * torch.where(y == 0, 1.0, -1.0)[:, None]
    truth = (net()((x + 0.05 * toward).clamp(0, 1)).argmax(1) == y).float().mean()
    assert look.strong == pytest.approx(float(truth), abs=1e-6)
    assert look.weak == pytest.approx(float(truth), abs=1e-6)  # one step is all that a linear net takes


def test_the_watch_sees_a_masked_gradient_as_collapse_would_look():
    class Masked(nn.Module):
        """Right on the row and one step away, wrong in between: what catastrophic overfitting learns."""

        def forward(self, x):
            bump = torch.exp(-(((x[:, 0] - 0.6) / 0.05) ** 2))
            z = 2 * (x[:, 0] - 0.2) - 4 * bump
            return torch.stack([-z, z], 1)

    x, y = torch.full((40, 1), 0.7), torch.ones(40, dtype=torch.int64)
    look = RobustWatch(eps=0.2)(Masked(), x, y, torch.Generator().manual_seed(0), Space.table(["a"]))
    assert look.weak == 1.0
    assert look.strong < 0.1
