"""The training loop's parts against closed forms, and its watch on planted trainings."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.data.live import dataset_of
from carbide.models.torch_net import TorchModel, TorchRecipe
from carbide.models.training import Average, Look, collapsed, pushed, rate_schedule, statistics_kept
from carbide.types import InputError, Space


def data(n: int = 60, seed: int = 0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, 2))
    return dataset_of(x, (x[:, 0] > 0.5).astype(np.int64), space=Space.table(["a", "b"]), classes=2)


RECIPE = TorchRecipe(factory="carbide.models.nets:small_mlp", options={"inputs": 2, "classes": 2, "width": 8}, epochs=6, batch=20)


def test_the_average_is_the_weighted_sum_of_all_weights_seen():
    net = nn.Linear(1, 1, bias=False)
    seen = [float(net.weight.detach())]
    average, mean = Average(net, decay=0.6), seen[0]
    for t in range(9):
        with torch.no_grad():
            net.weight.add_(float(t) - 2)
        average.update()
        seen.append(float(net.weight.detach()))
    kept = np.array([min(0.6, (1 + t) / (10 + t)) for t in range(9)])
    shares = np.array([np.prod(kept)] + [(1 - kept[t]) * np.prod(kept[t + 1 :]) for t in range(9)])
    mean = float(shares @ seen)
    assert shares.sum() == pytest.approx(1)
    last = net.weight.detach().clone()
    with average.within():
        assert float(net.weight.detach()) == pytest.approx(mean, rel=1e-5)
    assert torch.equal(net.weight.detach(), last)


def test_pushed_weights_move_up_the_loss_by_their_share_and_come_back_to_the_last_bit():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    x, y = torch.rand(16, 3), torch.randint(0, 2, (16,))
    loss = lambda: nn.functional.cross_entropy(net(x), y)  # noqa: E731
    before = copy.deepcopy(net.state_dict())
    first = loss()
    gradients = torch.autograd.grad(loss(), [net[0].weight, net[2].weight])
    with pushed(net, first, 0.05):
        for layer, gradient in zip((net[0], net[2]), gradients, strict=True):
            move = layer.weight.detach() - before[f"{0 if layer is net[0] else 2}.weight"]
            size = 0.05 * before[f"{0 if layer is net[0] else 2}.weight"].norm()
            torch.testing.assert_close(move.norm(), size, rtol=1e-4, atol=0)
            torch.testing.assert_close(move, size * gradient / gradient.norm(), rtol=1e-3, atol=1e-6)
            assert torch.equal(layer.bias, before[f"{0 if layer is net[0] else 2}.bias"])
        worse = loss()
        worse.backward()
    assert worse > first
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert all(p.grad is not None for p in net.parameters())


def test_statistics_are_put_back():
    net = nn.Sequential(nn.BatchNorm1d(2)).train()
    with statistics_kept(net):
        net(torch.rand(8, 2) + 5)
    assert torch.equal(net[0].running_mean, torch.zeros(2))
    net(torch.rand(8, 2) + 5)
    assert net[0].running_mean.min() > 0


@pytest.mark.parametrize("name", ["one-cycle", "cyclic", "flat"])
def test_rates_follow_their_schedule(name):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule, seen = rate_schedule(optimizer, name, 0.4, 300), []
    for _ in range(300):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    peaks = sum(a < b >= c for a, b, c in zip(seen, seen[1:], seen[2:], strict=False))
    assert max(seen) == pytest.approx(0.4, rel=0.03)
    assert peaks == {"one-cycle": 1, "cyclic": 3, "flat": 1}[name]
    assert (seen[-1] < 0.02) == (name != "flat")


def test_collapse_is_strong_accuracy_gone_while_weak_accuracy_stays():
    good = [Look(0.3, 0.5), Look(0.6, 0.7)]
    assert collapsed(Look(0.05, 0.9), good, rows=200, floor=0.1)
    assert not collapsed(Look(0.5, 0.9), good, rows=200, floor=0.1)  # weaker, but no collapse
    assert not collapsed(Look(0.05, 0.4), good, rows=200, floor=0.1)  # both fell: it is learning something else
    assert not collapsed(Look(0.05, 0.9), good, rows=200, floor=0.6)  # it never was better than one class
    assert not collapsed(Look(0.2, 0.9), good, rows=4, floor=0.1)  # too few rows to say
    assert not collapsed(Look(0.0, 1.0), [], rows=200, floor=0.1)


@dataclass
class Script:
    """A watch that says what a script says and remembers the weights it was shown."""

    says: list[Look]
    holdout: float = 0.4
    limit: int = 256
    looks: int = 100
    patience: int = 0
    retries: int = 3
    seen: list[dict] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    def __call__(self, module, x, y, generator, space):
        self.seen.append({name: tensor.detach().clone() for name, tensor in module.state_dict().items()})
        self.rows.append(len(y))
        assert not module.training
        return self.says[len(self.seen) - 1]


def fitted(watch, **more) -> TorchModel:
    return replace(RECIPE, watch=watch, **more).fit(data(), np.random.default_rng(0))


def same(model: TorchModel, weights: dict) -> bool:
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.module.state_dict().items())


def test_the_weights_of_the_best_look_are_kept():
    watch = Script([Look(s, s) for s in (0.1, 0.3, 0.8, 0.5, 0.7, 0.6)])
    model = fitted(watch)
    assert same(model, watch.seen[2])
    assert not same(model, watch.seen[5])
    assert watch.rows == [24] * 6


def test_patience_ends_training():
    watch = Script([Look(s, s) for s in (0.1, 0.8, 0.5, 0.7, 0.6, 0.9)], patience=2)
    assert same(fitted(watch), watch.seen[1])
    assert len(watch.seen) == 4


def test_after_a_collapse_training_goes_on_from_the_last_good_weights_with_half_the_rate():
    quiet = Script([Look(s, s) for s in (0.8, 0.9, 0.91, 0.92, 0.93, 0.94)])
    fitted(quiet, schedule="flat")
    loud = Script([Look(0.8, 0.8), Look(0.9, 0.9), Look(0.0, 1.0), Look(0.9, 0.9), Look(0.9, 0.9), Look(0.9, 0.9)])
    fitted(loud, schedule="flat")
    key = "0.weight"
    step = lambda watch, a, b: float((watch.seen[b][key] - watch.seen[a][key]).norm())  # noqa: E731
    assert torch.equal(quiet.seen[2][key], loud.seen[2][key])
    assert step(loud, 1, 3) < 0.75 * step(quiet, 2, 3)  # from look 1, not from look 2, at half the rate
    assert step(loud, 1, 3) < step(loud, 2, 3) + step(loud, 1, 2)


def test_a_collapse_that_takes_several_looks_goes_back_to_before_it_began():
    watch = Script([Look(0.9, 0.9), Look(0.5, 0.5), Look(0.46, 0.46), Look(0.1, 0.9), Look(0.9, 0.9), Look(0.9, 0.9)])
    slow = replace(RECIPE, watch=watch, schedule="flat", rate=1e-5)
    slow.fit(data(), np.random.default_rng(0))
    key = "0.weight"
    far = [float((watch.seen[4][key] - watch.seen[i][key]).norm()) for i in range(4)]
    assert far[0] < min(far[2], far[3]) / 2  # one epoch at half the rate from the first look, further from those after the fall


def test_collapses_without_end_end_training_at_the_best():
    watch = Script([Look(0.8, 0.8), *[Look(0.0, 1.0)] * 5], retries=2)
    assert same(fitted(watch), watch.seen[0])
    assert len(watch.seen) == 4


def test_weights_that_are_not_finite_are_left():
    @dataclass(frozen=True)
    class Burst:
        def __call__(self, module, x, y, *, progress, generator, space):
            return nn.functional.cross_entropy(module(x), y) * (1.0 if progress < 0.5 else float("nan"))

    watch = Script([Look(0.8, 0.8)] * 6)
    model = fitted(watch, objective=Burst())
    assert same(model, watch.seen[2])


def test_the_average_is_what_is_looked_at_and_kept():
    watch = Script([Look(0.5, 0.5)] * 12)
    model = fitted(watch, ema=0.9)
    assert same(model, watch.seen[11])  # raw and averaged weights are shown in turn; of equals the last are kept
    assert not same(model, watch.seen[10])


@pytest.mark.parametrize("change", [{"ema": 0.9}, {"awp": 0.02}, {"schedule": "flat"}, {"schedule": "cyclic"}, {"precision": "bfloat16"}])
def test_each_option_changes_training_the_same_way_each_time_and_is_described(change):
    recipe = replace(RECIPE, **change)
    first, again, plain = (r.fit(data(), np.random.default_rng(3)) for r in (recipe, recipe, RECIPE))
    assert first.digest() == again.digest() != plain.digest()
    assert recipe.describe() != RECIPE.describe()


@pytest.mark.parametrize("awp", [0.0, 0.5])
def test_half_the_bits_are_for_the_products_of_layers_alone(awp):
    seen = []

    @dataclass(frozen=True, kw_only=True)
    class Notes:
        def __call__(self, module, x, y, *, progress, generator, space):
            answers = module(x)
            seen.append((module[0](x).dtype, answers.dtype, module[0].weight.detach().clone(), module[0](x).detach().float(), x))
            return nn.functional.cross_entropy(answers, y)

    recipe = replace(RECIPE, precision="bfloat16", awp=awp, objective=Notes(), epochs=1)
    model = recipe.fit(data(), np.random.default_rng(0))
    assert {(s[0], s[1]) for s in seen} == {(torch.bfloat16, torch.float32)}
    assert all(p.dtype == torch.float32 for p in model.module.parameters())
    assert model.module(torch.rand(2, 2)).dtype == torch.float32
    for _, _, weight, hidden, x in seen:  # each product is of the weights as they are then, moved ones too
        torch.testing.assert_close(hidden, x @ weight.T + (hidden - x @ weight.T).mean(0), atol=0.03, rtol=0.03)
    if awp:
        assert not torch.allclose(seen[0][2], seen[1][2])


def test_training_goes_on_from_given_weights():
    model = RECIPE.fit(data(), np.random.default_rng(0))
    short = replace(RECIPE.starting_from(model), epochs=1, rate=1e-8)
    tuned = short.fit(data(), np.random.default_rng(1))
    torch.testing.assert_close(dict(tuned.module.state_dict()), dict(model.module.state_dict()), atol=1e-5, rtol=0)
    assert short.describe()["start"] != RECIPE.describe()["start"]
    with pytest.raises(InputError, match="start: scratch"):
        RECIPE.starting_from(object())
    with pytest.raises(InputError, match="weights to start from"):
        replace(short, options={"inputs": 2, "classes": 2, "width": 9}).fit(data(), np.random.default_rng(1))


def test_what_makes_no_sense_is_refused():
    for change, said in (
        ({"schedule": "spiral"}, "spiral"),
        ({"ema": 1.0}, "ema is 1"),
        ({"awp": -1.0}, "awp is -1"),
        ({"precision": "half"}, "precision"),
    ):
        with pytest.raises(InputError, match=said):
            replace(RECIPE, **change)
    with pytest.raises(InputError, match="1 row"):
        replace(RECIPE, watch=Script([])).fit(data().take(np.arange(1)), np.random.default_rng(0))
