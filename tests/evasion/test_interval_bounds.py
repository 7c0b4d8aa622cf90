import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion._intervals import Box, logit_gaps, traced
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.torch_net import TorchModel
from carbide.types import Case, InputError, LpBall, Space, decide, rng_for
from tests.evasion.nets import digits, digits_net, linear, tiny


class Residual(nn.Module):
    """Normalisation, a residual block, batch norm, pooling and a functional head: what real nets are made of."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor(0.3))
        self.first, self.norm, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.pool, self.average, self.head = nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Linear(4, 3)

    def forward(self, x):
        x = (x - self.mean) / 0.5
        h = torch.relu(self.norm(self.first(x)))
        h = h + nn.functional.leaky_relu(self.second(h), 0.1)
        h = self.average(self.pool(h))
        return self.head(torch.tanh(h).view(h.size(0), -1)) * 2.0


def residual():
    torch.manual_seed(0)
    net = Residual()
    net.norm.running_mean.uniform_(-0.5, 0.5)
    net.norm.running_var.uniform_(0.5, 2.0)
    net.norm.weight.data.uniform_(-1.5, 1.5)
    return TorchModel(module=net, space=Space.image((1, 4, 4)), classes=3)


def mixed(layers):
    torch.manual_seed(1)
    return TorchModel(module=nn.Sequential(*layers), space=Space.table(list("abcdef")), classes=4)


NETS = {
    "residual": residual,
    "smooth": lambda: mixed([nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Softplus(), nn.Dropout(0.5), nn.Linear(8, 4), nn.Identity()]),
    "kinked": lambda: mixed(
        [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.LeakyReLU(0.2), nn.Linear(8, 8), nn.ReLU6(), nn.ELU(), nn.Linear(8, 4), nn.Sigmoid()]
    ),
    "no bias": lambda: mixed([nn.Linear(6, 8, bias=False), nn.Hardtanh(), nn.Linear(8, 4, bias=False)]),
}


@pytest.mark.parametrize("name", NETS)
def test_the_gaps_of_a_hundred_thousand_inputs_stay_above_the_bounds(name):
    model, eps = NETS[name](), 0.1
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, *model.space.shape, generator=generator)
    y = torch.tensor([0, 2])
    bounds = logit_gaps(model.module, Box(x.double() - eps, x.double() + eps), y, torch.finfo(torch.float32).eps)
    assert torch.isfinite(bounds).all()
    with torch.no_grad():
        for row in range(2):
            corners = torch.rand(25_000, *x.shape[1:], generator=generator).round() * 2 - 1
            inner = torch.rand(25_000, *x.shape[1:], generator=generator) * 2 - 1
            logits = model.module(x[row] + eps * torch.cat([corners, inner]))
            gaps = (logits[:, y[row]][:, None] - logits).amin(0)
            others = torch.arange(gaps.shape[0]) != y[row]
            assert (gaps[others] >= bounds[row][others]).all()
            tightness = gaps[others].amin() - bounds[row][others].amin()
            assert tightness < 50 * eps, "the bounds are far too wide to mean anything"


def test_a_linear_model_has_its_exact_radius():
    w = np.array([2.0, -1.0, 0.5])
    x = np.random.default_rng(0).normal(size=(100, 3))
    y = (x @ w + 0.2 > 0).astype(np.int64)
    radius = np.abs(x @ w + 0.2) / np.abs(w).sum()
    found = IntervalBounds(halvings=30, reach=50.0)(linear(w, 0.2), x, y, LpBall(eps=0.1), rng_for(0))
    np.testing.assert_array_equal(found.holds, radius > 0.1)
    np.testing.assert_allclose(found.bound, radius, rtol=1e-6)
    assert (found.bound <= radius).all()
    assert found.metric == "robust accuracy"
    assert found.failure_probability == 0


def test_bounds_of_the_space_make_the_box_smaller_and_thresholds_shift_it():
    model = linear([1.0], -0.5, space=Space.table(["a"], lower=np.array([0.0]), upper=np.array([1.0])))
    x = np.array([[0.9]])
    found = IntervalBounds(halvings=20)(model, x, np.array([1]), LpBall(eps=0.3), rng_for(0))
    assert found.bound[0] == pytest.approx(0.4, abs=1e-4)
    assert found.metric == "robust recall"
    strict = IntervalBounds(halvings=20)(model.at(0.55), x, np.array([1]), LpBall(eps=0.1), rng_for(0))
    assert strict.bound[0] == pytest.approx(0.4 - math.log(0.55 / 0.45), abs=1e-4)
    wrong = IntervalBounds()(model, x, np.array([0]), LpBall(eps=0.1), rng_for(0))
    assert not wrong.holds[0]
    assert wrong.bound[0] == 0


@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_no_attack_breaks_a_certified_row(p):
    model = tiny(3)
    x = np.random.default_rng(1).uniform(size=(300, 2))
    y = decide(model.predict(x))
    found = IntervalBounds()(model, x, y, LpBall(p=p, eps=0.01), rng_for(0))
    assert 0.05 < found.value < 1
    box = LpBall(eps=0.01)
    z = APGD()(model, x, y, box, rng_for(0))
    assert not (decide(model.predict(z)) != y)[found.holds].any()
    outside = IntervalBounds()(model, x, y, LpBall(p=p, eps=0.3), rng_for(0))
    assert outside.value < found.value


def test_the_certificate_does_not_change_with_the_batch_or_the_model_with_the_certificate():
    model, test = digits_net(), digits().test
    before = model.digest()
    whole = IntervalBounds()(model, test.x, test.y, LpBall(eps=0.002), rng_for(0))
    part = IntervalBounds()(model, test.x[:5], test.y[:5], LpBall(eps=0.002), rng_for(0))
    np.testing.assert_allclose(whole.bound[:5], part.bound, rtol=1e-9)
    assert model.digest() == before
    assert whole.value > 0.2


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("net", "words"),
    [(nn.Sequential(nn.Linear(2, 2), nn.Softmax(1)), "Softmax"), (nn.Sequential(nn.Linear(2, 2), nn.GELU()), "GELU"), (Branch(), "cannot be traced")],
)
def test_what_it_does_not_know_is_refused_by_name(net, words):
    with pytest.raises(InputError, match=words):
        traced(net)
    model = TorchModel(module=net, space=Space.table(["a", "b"]), classes=2)
    assert words in (IntervalBounds().refuses(Case(model=model, data=digits()), LpBall(eps=0.1)) or "")


class Scaled(nn.Module):
    def forward(self, x):
        return torch.add(x, x, alpha=2)


class Rising(nn.Module):
    def forward(self, x):
        return nn.functional.leaky_relu(x, -0.5)


@pytest.mark.parametrize(("net", "words"), [(Scaled(), "add with alpha"), (Rising(), "leaky_relu with a negative slope")])
def test_options_that_change_a_layer_are_not_overlooked(net, words):
    with pytest.raises(InputError, match=words):
        traced(net)


def test_nets_of_probabilities_l0_balls_and_wrong_options_are_refused():
    model = linear([1.0], 0.0)
    case = Case(model=replace(model, outputs="probabilities"), data=digits())
    assert "softmax" in (IntervalBounds().refuses(case, LpBall(eps=0.1)) or "")
    assert "L0" in (IntervalBounds().refuses(replace(case, model=model), LpBall(p=0, eps=1)) or "")
    with pytest.raises(InputError, match=r"reach is 0\.5"):
        IntervalBounds(reach=0.5)
