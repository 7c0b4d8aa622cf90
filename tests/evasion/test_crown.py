import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import carbide.evasion.prove.crown as crown
from carbide.evasion._intervals import Box
from carbide.evasion._linear_bounds import LinearBounds, Net, Region
from carbide.evasion._lines import SIGMOID, TANH, bend, hinge
from carbide.evasion._tightening import rivals, tightened
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.prove.crown import CROWN
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.torch_net import TorchModel
from carbide.types import Case, InputError, LpBall, Space, decide, rng_for
from tests.evasion.exact import least, robust
from tests.evasion.nets import digits, digits_net, linear, tiny, unit_space
from tests.evasion.test_interval_bounds import NETS


class Crossed(nn.Module):
    """Overlapping pooling, concatenation, padding, moved axes, a slice and a factor: everything that has a table or a transpose."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 3, 3, padding="same", bias=False), nn.Conv2d(2, 3, 2, stride=2, dilation=2, padding=1, groups=1)
        self.pool, self.head = nn.MaxPool2d(3, stride=2, padding=1), nn.Linear(18, 3)

    def forward(self, x):
        a = self.pool(torch.sigmoid(2 * self.first(x)))
        b = nn.functional.leaky_relu(nn.functional.pad(self.second(x), (1, 0), value=0.5), 0.3)[:, :, :2, :2]
        h = torch.cat([a[:, :, :2, :2], b], 1).permute(0, 2, 3, 1)
        h = torch.cat([h.flatten(1)[:, ::2], (1.0 - h.reshape(h.size(0), -1))[:, :6]], dim=1)
        return self.head(h) / 0.5


def crossed():
    torch.manual_seed(3)
    return TorchModel(module=Crossed(), space=Space.image((2, 4, 4)), classes=3)


def bounds_of(model, x, p, eps, *, refine=True):
    region = Region.of(model, x, p, eps)
    net = Net(model.module, region, torch.finfo(model.dtype).eps)
    return LinearBounds(net, region, refine=refine)


@pytest.mark.parametrize("name", [*NETS, "crossed"])
@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_the_gaps_of_a_hundred_thousand_inputs_stay_above_the_bounds(name, p):
    model = (NETS | {"crossed": crossed})[name]()
    eps = 0.1 if math.isinf(p) else 0.3
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, *model.space.shape, generator=generator), torch.tensor([0, 2])
    with torch.no_grad():
        bounds = bounds_of(model, x.numpy(), p, eps)
        low = bounds.lower(bounds.net.output, rivals(y, model.classes))
        loose = bounds_of(model, x.numpy(), p, eps, refine=False)
        assert (low >= loose.lower(loose.net.output, rivals(y, model.classes)) - 1e-6).all()
        low = torch.maximum(low, tightened(bounds, rivals(y, model.classes), steps=3, goal=math.inf).low)
        moves = torch.randn(50_000, *x.shape[1:], generator=generator)
        moves = moves.sign() if math.isinf(p) else moves / moves.flatten(1).norm(p=p, dim=1).reshape(-1, *[1] * (x.ndim - 1))
        seen = torch.stack([(model.module((x[i] + eps * moves).clamp(0, 1)) @ rivals(y, model.classes)[i].float().T).amin(0) for i in range(2)])
    assert (seen >= low).all()
    assert (seen - low).max() < 6 * eps, "the bounds are far too wide to mean anything"


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_a_linear_model_has_its_exact_radius_in_the_dual_norm(p):
    w = np.array([2.0, -1.0, 0.5])
    x = np.random.default_rng(0).normal(size=(40, 3))
    y = (x @ w + 0.2 > 0).astype(np.int64)
    radius = np.abs(x @ w + 0.2) / {1: 2.0, 2: np.sqrt(5.25), math.inf: 3.5}[p]
    found = CROWN(halvings=25, reach=50.0)(linear(w, 0.2), x, y, LpBall(p=p, eps=0.1), rng_for(0))
    np.testing.assert_array_equal(found.holds, radius > 0.1)
    np.testing.assert_allclose(found.bound, radius, rtol=1e-5)
    assert (found.bound <= radius).all()
    assert found.failure_probability == 0
    assert found.metric == "robust accuracy"


def test_bounds_thresholds_and_fixed_features_count():
    space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2), mutable=np.array([True, False]))
    model = linear([1.0, 5.0], -0.5, space=space)
    x, y = np.array([[0.9, 0.0]]), np.array([1])
    assert CROWN(halvings=20)(model, x, y, LpBall(eps=0.3), rng_for(0)).bound[0] == pytest.approx(0.4, abs=1e-5)  # b would cost 6 a unit
    strict = CROWN(halvings=20)(model.at(0.55), x, y, LpBall(eps=0.1), rng_for(0))
    assert strict.bound[0] == pytest.approx(0.4 - math.log(0.55 / 0.45), abs=1e-5)
    assert not CROWN()(model, x, 1 - y, LpBall(eps=0.1), rng_for(0)).bound.any()


@pytest.mark.parametrize("seed", range(4))
def test_between_nothing_and_the_truth_lies_the_triangle_relaxation(seed):
    """A theorem: walked back over the same boxes, lines never say more than the linear program, and the best lines say as much."""
    model, eps = tiny(seed, inputs=3, width=8), 0.15
    x, y = np.random.default_rng(seed).uniform(size=(3, 3)), torch.tensor([0, 1, 2])
    with torch.no_grad():
        bounds = bounds_of(model, x, math.inf, eps)
        low = bounds.lower(bounds.net.output, rivals(y, 3))
    best = tightened(bounds, rivals(y, 3), steps=150, goal=math.inf, rate=0.1).low
    hidden = [bounds.boxes[bounds.net.steps[node].parents[0]] for node in bounds.hinges()]
    gaps = []
    for i in range(3):
        box = np.maximum(x[i] - eps, 0), np.minimum(x[i] + eps, 1)
        for k, c in enumerate(rivals(y, 3)[i].numpy()):
            relaxed = least(model.module, c, *box, boxes=[(b.lower[i].numpy(), b.upper[i].numpy()) for b in hidden])
            truth = least(model.module, c, *box)
            assert low[i, k] <= best[i, k] + 1e-9
            assert best[i, k] <= relaxed + 1e-6 <= truth + 2e-6
            gaps.append((relaxed - float(low[i, k]), relaxed - float(best[i, k])))
    plain, chosen = np.array(gaps).T
    assert chosen.mean() < 0.02 * max(plain.mean(), 1) or chosen.mean() < 0.2 * plain.mean()


@given(st.floats(-20, 20), st.floats(0, 20), st.sampled_from(["hinge", "leaky", "sigmoid", "tanh"]))
def test_lines_enclose_their_activation(lower, width, kind):
    box = Box(torch.tensor([lower], dtype=torch.float64), torch.tensor([lower + width], dtype=torch.float64))
    f = {"hinge": torch.relu, "leaky": lambda t: nn.functional.leaky_relu(t, 0.2), "sigmoid": torch.sigmoid, "tanh": torch.tanh}[kind]
    lines = hinge(box, 0.2 if kind == "leaky" else 0.0) if kind in ("hinge", "leaky") else bend(box, SIGMOID if kind == "sigmoid" else TANH)
    x = torch.linspace(0, 1, 501, dtype=torch.float64) * width + lower
    room = 1e-13 * (1 + abs(lower) + width)
    assert (lines.low.slope * x + lines.low.shift <= f(x) + room).all()
    assert (lines.high.slope * x + lines.high.shift >= f(x) - room).all()
    gap = (lines.high.slope - lines.low.slope) * x + lines.high.shift - lines.low.shift
    assert gap.max() <= max(width, 1e-12) * (1 if "hinge" in kind or kind == "leaky" else 1.01) + room


def test_the_nets_own_rounding_is_inside_the_bounds():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight.mul_(1e3)
    model = TorchModel(module=net, space=unit_space(64), classes=2)
    x, y = torch.rand(200, 64), torch.zeros(200, dtype=torch.int64)
    with torch.no_grad():
        bounds = bounds_of(model, x.double().numpy(), math.inf, 0.0)
        low = bounds.lower(bounds.net.output, rivals(y, 2))[:, 0]
        exact = -(net.double()(x.double()) @ torch.tensor([-1.0, 1.0], dtype=torch.float64))
        net.float()
        for order in (torch.arange(64), torch.randperm(64)):  # sums may be taken in any order
            hidden = sum((x[:, j, None] * net[0].weight[:, j] for j in order), net[0].bias).relu()
            gap = sum((hidden[:, j, None] * net[2].weight[:, j] for j in order), net[2].bias) @ torch.tensor([1.0, -1.0])
            assert (gap.double() >= low).all()
            assert (gap.double() < exact).any(), "rounding that takes nothing away tests nothing"
        assert (exact - low).max() < 1e-2 * exact.abs().mean()


@pytest.mark.parametrize("p", [2, math.inf])
def test_certified_rows_are_those_of_no_attack_and_more_than_by_intervals(p):
    model, test = digits_net(), digits().test
    x, y, threat = test.x[:40], test.y[:40], LpBall(p=p, eps=0.03 if math.isinf(p) else 0.2)
    found = CROWN(halvings=1, alpha=3)(model, x, y, threat, rng_for(0))
    quick = IntervalBounds(halvings=10)(model, x, y, threat, rng_for(0))
    assert found.value > quick.value + 0.2
    assert (found.bound >= quick.bound).all()
    for eps in (threat.eps, float(np.median(found.bound))):
        z = APGD(targets=3)(model, x, y, replace(threat, eps=eps), rng_for(0))
        assert not (decide(model.predict(z)) != y)[found.bound >= eps].any()


def test_on_tiny_nets_it_holds_for_no_row_that_can_be_broken():
    model = tiny(10, width=6)
    x = np.random.default_rng(1).uniform(size=(60, 2))
    y, eps = decide(model.predict(x)), 0.04
    truth = robust(model, x, y, eps)
    found = CROWN(halvings=0, alpha=10)(model, x, y, LpBall(eps=eps), rng_for(0))
    assert not found.holds[truth < 0].any()
    assert found.holds[truth > 0].mean() > 0.8
    assert (truth < 0).sum() > 5


def test_rows_that_intervals_certify_or_the_model_misreads_never_reach_the_walk(monkeypatch):
    model, threat = tiny(3), LpBall(eps=0.01)
    x = np.random.default_rng(1).uniform(size=(100, 2))
    y = np.where(np.arange(100) < 10, (decide(model.predict(x)) + 1) % 3, decide(model.predict(x)))
    quick, seen = IntervalBounds()(model, x, y, threat, rng_for(0)).holds, []
    monkeypatch.setattr(crown, "LinearBounds", lambda net, region, **more: seen.append(len(region.clean)) or LinearBounds(net, region, **more))
    CROWN(halvings=0)(model, x, y, threat, rng_for(0))
    assert 0 < quick.sum() < 90
    assert sum(seen[::2]) <= 90 - quick.sum()
    assert all(later <= first for first, later in zip(seen[::2], seen[1::2], strict=False))


def test_memory_is_bounded_and_batches_do_not_matter(monkeypatch):
    import carbide.evasion._linear_bounds as shared

    model, x, y = digits_net(), digits().test.x[:6], torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        whole = bounds_of(model, x, math.inf, 0.02)
        monkeypatch.setattr(shared, "CELLS", 1)
        monkeypatch.setattr(shared.LinearBounds, "_gains", lambda self, step: step.shape.numel() < 50 and math.prod(step.shape) > 20)
        part = bounds_of(model, x[:2], math.inf, 0.02)
        a = whole.lower(whole.net.output, rivals(y, 10))[:2]
        b = whole.take(torch.arange(2)).lower(whole.net.output, rivals(y[:2], 10))
    torch.testing.assert_close(a, b)
    monkeypatch.undo()
    with torch.no_grad():
        again = bounds_of(model, x[:2], math.inf, 0.02)
        torch.testing.assert_close(a, again.lower(again.net.output, rivals(y[:2], 10)))
        assert (part.lower(part.net.output, rivals(y[:2], 10)) <= a + 1e-9).all()


class Shared(nn.Module):
    def __init__(self, inplace):
        super().__init__()
        self.layer, self.relu = nn.Linear(2, 2), nn.ReLU(inplace=inplace)

    def forward(self, x):
        h = self.layer(x)
        return self.relu(h.view(h.size(0), -1)) + h


def test_what_it_cannot_bound_is_refused():
    model = linear([1.0], 0.0)
    case = Case(model=model, data=digits())
    assert CROWN().refuses(case, LpBall(eps=0.1)) is None
    assert "L0" in (CROWN().refuses(case, LpBall(p=0, eps=1)) or "")
    shared = TorchModel(module=Shared(True), space=unit_space(2), classes=2)
    with pytest.raises(InputError, match="inplace=False"):
        bounds_of(shared, np.zeros((1, 2)), math.inf, 0.1)
    bounds_of(replace(shared, module=Shared(False)), np.zeros((1, 2)), math.inf, 0.1)
    with pytest.raises(InputError, match="alpha is -1"):
        CROWN(alpha=-1)
    with pytest.raises(InputError, match=r"reach is 0\.5"):
        CROWN(reach=0.5)
