import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from carbide.evasion._intervals import Box, logit_gaps
from carbide.evasion.audit.standard import certified
from carbide.evasion.prove.branch_and_bound import BranchAndBound
from carbide.evasion.prove.crown import CROWN
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.models.torch_net import TorchModel
from carbide.types import Case, InputError, LpBall, Space, decide, rng_for
from tests.evasion.nets import digits

SPACE = Space.table(list("abcd"), lower=np.zeros(4), upper=np.ones(4))


class Made(nn.Module):
    """Two linear layers and something between or around them."""

    def __init__(self, forward, **kept):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.does = nn.Linear(4, 16), nn.Linear(16, 3), forward
        for name, value in kept.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.does(self, x)


class Doubling(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Optional(Made):
    def forward(self, x, shift=None):
        h = x if shift is None else x + shift
        return self.last(torch.relu(self.first(h)))


class Called(Made):
    def __call__(self, x):
        return super().__call__(3 * x)


def layers(between):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), between, nn.Linear(16, 3))


def hooked(place):
    net = layers(nn.ReLU())
    part = net if place is None else net[place]
    if place is None:
        part.register_forward_pre_hook(lambda m, given: (given[0] * 4 - 2,))
    else:
        part.register_forward_hook(lambda m, given, out: torch.sin(3 * out))
    return net


def own_forward():
    net = layers(nn.ReLU())
    net[1].forward = lambda x: torch.sin(3 * x)
    return net


def added_in_place(net, x):
    h = torch.relu(net.first(x))
    before = h
    h += 1
    return net.last(h + before)


def overwritten_view(net, x):
    h = net.first(x)
    a, b = h[:, :8], h[:, :8]
    return net.last(torch.cat([F.relu(a, inplace=True), b], 1))


def in_training(layer):
    net = layers(layer)

    def evaluate(mode=True):
        nn.Module.train(net, mode)
        layer.train()
        return net

    net.train = evaluate
    return net


UNFIT = {
    "dropout on by default": (lambda: Made(lambda n, x: n.last(F.dropout(torch.relu(n.first(x)), 0.5))), "dropout with training"),
    "feature dropout": (lambda: Made(lambda n, x: n.last(F.alpha_dropout(torch.relu(n.first(x)), 0.5, True))), "alpha_dropout"),
    "dropout layer in training": (lambda: in_training(nn.Dropout(0.5)), "Dropout with training on"),
    "batch norm in training": (lambda: in_training(nn.BatchNorm1d(16)), "BatchNorm1d with training on"),
    "batch norm without statistics": (lambda: layers(nn.BatchNorm1d(16, track_running_stats=False)), "statistics of the batch"),
    "negative alpha": (lambda: layers(nn.ELU(alpha=-3.0)), "ELU with the negative alpha -3"),
    "negative alpha of a call": (lambda: Made(lambda n, x: n.last(F.elu(n.first(x), alpha=-3.0))), "elu with the negative alpha -3"),
    "negative beta": (lambda: layers(nn.Softplus(beta=-1.0)), "Softplus with the beta -1"),
    "negative divisor": (lambda: nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.AvgPool2d(2, divisor_override=-1), nn.Flatten(), nn.Linear(1, 3)),
                         "AvgPool2d with a negative divisor"),
    "hook of the net": (lambda: hooked(None), r"the net \(Sequential\) has a forward hook"),
    "hook of a layer": (lambda: hooked(1), r"layer 1 \(ReLU\) has a forward hook"),
    "forward of one layer": (own_forward, r"layer 1 \(ReLU\) has its own way of being called"),
    "call of its own": (lambda: Called(lambda n, x: n.last(torch.relu(n.first(x)))), "its own way of being called"),
    "parametrized subclass": (lambda: layers(parametrizations.weight_norm(Doubling(16, 16))), "a forward of its own"),
    "second input": (lambda: Optional(None), "takes x, shift"),
    "data of a result": (lambda: Made(lambda n, x: n.last(torch.relu(n.first(x))) - 5 * x.data[:, :3]), "getattr with the attribute data"),
    "added in place": (lambda: Made(added_in_place), "otherwise than its layers as they were traced"),
    "view written over": (lambda: Made(overwritten_view), "overwrites a result"),
    "three arguments": (lambda: Made(lambda n, x: n.last(torch.add(n.first(x), 2, torch.relu(n.first(x))))), "add with 3 arguments"),
    "noise that the trace keeps": (lambda: Made(lambda n, x: n.last(torch.relu(n.first(x) + torch.randn(16)))), "when asked again"),
    "own state": (lambda: Made(lambda n, x: n.last(torch.relu(n.first(x) * n.count.pop())), count=[1.0, 2.0] * 20), "when asked again"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:This overload of add is deprecated")
@pytest.mark.parametrize("name", UNFIT)
def test_what_a_trace_leaves_out_is_refused_and_nothing_is_certified(name):
    make, words = UNFIT[name]
    model = TorchModel(module=make(), space=SPACE, classes=3)
    x = np.random.default_rng(0).uniform(size=(12, 4))
    y = np.zeros(12, np.int64)
    for method in (IntervalBounds(), CROWN(), BranchAndBound()):
        assert re.search(words, method.refuses(Case(model=model, data=digits()), LpBall(eps=0.05)) or "")
        with pytest.raises(InputError, match=words):
            method(model, x, y, LpBall(eps=0.05), rng_for(0))


def weights_made_anew():
    net = layers(nn.ReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(net[0])
    net[0].weight_g.data *= 2  # ``weight`` is of before until the net answers
    return net


def pruned():
    net = layers(nn.ReLU())
    prune.random_unstructured(net[0], "weight", 0.5)
    return net


FIT = {
    "weight norm by hook": weights_made_anew,
    "weight norm": lambda: layers(nn.Sequential(nn.ReLU(), parametrizations.weight_norm(nn.Linear(16, 16)))),
    "spectral norm": lambda: layers(nn.Sequential(nn.ReLU(), parametrizations.spectral_norm(nn.Linear(16, 16)))),
    "pruned": pruned,
    "dropout off": lambda: Made(lambda n, x: n.last(F.dropout(torch.relu(n.first(x)), 0.5, n.training))),
    "negations": lambda: Made(lambda n, x: -n.last(torch.relu(-n.first(torch.neg(x))).neg())),
    "large slope": lambda: layers(nn.LeakyReLU(3.0)),
    "soft and steep": lambda: layers(nn.Softplus(3.0, 0.2)),
    "soft below 0": lambda: layers(nn.Softplus(1.0, -0.5)),
    "soft by a call": lambda: Made(lambda n, x: n.last(F.softplus(n.first(x), 2, threshold=0.3))),
    "steep elu": lambda: layers(nn.ELU(alpha=3.0)),
    "the same layer twice": lambda: Made(lambda n, x: n.last(n.act(n.mid(n.act(n.mid(n.first(x)))))), mid=nn.Linear(16, 16), act=nn.ReLU()),
    "in place": lambda: nn.Sequential(nn.Linear(4, 16), nn.ReLU(inplace=True), nn.Linear(16, 3)),
    "shapes": lambda: Made(lambda n, x: n.last(torch.relu(n.first(x)).view(x.shape[0], x.size(1) * 4))),
    "clamp by tensors": lambda: Made(lambda n, x: n.last(torch.clamp(n.first(x), n.low, n.high)), low=torch.full((16,), -0.1), high=torch.ones(16)),
}


@pytest.mark.parametrize("name", FIT)
def test_what_bounds_say_of_odd_nets_is_true_of_ten_thousand_inputs(name):
    model = TorchModel(module=FIT[name](), space=SPACE, classes=3)
    x = np.random.default_rng(0).uniform(size=(6, 4))
    y = decide(model.predict(x))
    eps = 0.05
    for method in (IntervalBounds(reach=20.0), CROWN(reach=20.0)):
        assert method.refuses(Case(model=model, data=digits()), LpBall(eps=eps)) is None
        found = method(model, x, y, LpBall(eps=eps), rng_for(0))
        assert (found.bound > 0).any(), "bounds that hold nowhere show nothing"
        draws = np.random.default_rng(1).uniform(-1, 1, size=(10_000, 1, 4))
        for row in range(6):
            z = np.clip(x[row] + found.bound[row] * 0.999 * np.concatenate([draws, np.sign(draws)])[:, 0], 0, 1)
            assert (decide(model.predict(z)) == y[row]).all()
    box = Box(*(torch.as_tensor(np.clip(x + by, 0, 1)) for by in (-eps, eps)))
    gaps = logit_gaps(model.module, box, torch.as_tensor(y), torch.finfo(torch.float32).eps)
    with torch.no_grad():
        share = torch.rand(5000, 6, 4, dtype=torch.float64)
        logits = model.module((box.lower + share * (box.upper - box.lower)).float().flatten(0, 1)).reshape(5000, 6, 3)
    own = logits.gather(2, torch.as_tensor(y)[None, :, None].expand(5000, 6, 1))
    assert ((own - logits).amin(0) >= gaps).all()


def test_what_was_changed_after_bounds_were_computed_is_seen():
    net = layers(nn.ReLU())
    model, x = TorchModel(module=net, space=SPACE, classes=3), np.random.default_rng(0).uniform(size=(20, 4))
    y, eps = decide(model.predict(x)), LpBall(eps=1e-3)
    assert IntervalBounds()(model, x, y, eps, rng_for(0)).holds.all()
    net[2] = nn.Linear(16, 3)
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    np.testing.assert_array_equal(IntervalBounds()(model, x, y, eps, rng_for(0)).holds, y == 1)
    made = Made(lambda n, x: n.last(torch.relu(n.first(x))) * n.scale, scale=1.0)
    model = TorchModel(module=made, space=SPACE, classes=3)
    y = decide(model.predict(x))
    assert IntervalBounds()(model, x, y, eps, rng_for(0)).holds.any()
    made.scale = -1.0
    held = IntervalBounds()(model, x, y, eps, rng_for(0)).holds
    assert not held[decide(model.predict(x)) != y].any()


@pytest.mark.parametrize("flat", [False, True])
def test_a_net_of_one_logit_has_the_exact_radius_and_one_probability_is_told_what_to_leave_out(flat):
    layer = nn.Linear(4, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0, 0.5, 0.5]]))
        layer.bias.fill_(0.1)
    net = nn.Sequential(layer, nn.Flatten(0)) if flat else layer
    model = TorchModel(module=net, space=Space.table(list("abcd")), classes=2, outputs="one logit")
    x = np.random.default_rng(0).normal(size=(30, 4))
    score = x @ [1.0, -2.0, 0.5, 0.5] + 0.1
    y = (score > 0).astype(np.int64)
    for method in (IntervalBounds(), CROWN(), BranchAndBound()):
        assert method.refuses(Case(model=model, data=digits()), LpBall(eps=0.1)) is None
        if flat and not isinstance(method, IntervalBounds):
            with pytest.raises(InputError, match="keep its axis"):
                method(model, x, y, LpBall(eps=0.1), rng_for(0))
            continue
        np.testing.assert_array_equal(method(model, x, y, LpBall(eps=0.1), rng_for(0)).holds, np.abs(score) / 4 > 0.1)
    odds = TorchModel(module=nn.Sequential(layer, nn.Sigmoid()), space=model.space, classes=2, outputs="one probability")
    assert "without its last sigmoid" in (IntervalBounds().refuses(Case(model=odds, data=digits()), LpBall(eps=0.1)) or "")


def test_a_view_that_asks_in_double_precision_is_examined_in_the_nets_own():
    """Views whose gradients are measured do; the ensemble asks them for certificates as it asks any model."""

    class Doubled(TorchModel):
        def tensor(self, x):
            return super().tensor(x).double()

    net = layers(nn.ReLU()).eval()
    x, threat = np.random.default_rng(0).random((20, 4)), LpBall(eps=0.01)
    plain, view = (kind(module=net, space=SPACE, classes=3) for kind in (TorchModel, Doubled))
    y = plain.predict(x).argmax(1)
    known = certified(plain, x, y, threat)
    assert known.any()
    assert np.array_equal(certified(view, x, y, threat), known)
