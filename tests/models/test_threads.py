"""Threads by the size of a net: counts against layers by hand, and what the user set is set again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import carbide
from carbide.data.live import dataset_of
from carbide.models import threads
from carbide.models.multiplications import multiplications
from carbide.models.nets import certified_cnn, small_cnn
from carbide.models.threads import one_if_small
from carbide.models.torch_net import TorchModel, TorchRecipe
from carbide.types import InputError, LpBall, Space, Splits


@pytest.fixture(autouse=True)
def two_threads():
    """Torch's number as a user may have set it; it must be the same after every test."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    now = torch.get_num_threads()
    torch.set_num_threads(before)
    assert now == 2


def test_multiplications_are_those_of_the_layers_by_hand():
    by_hand = 8 * 8 * 9 * 32 + 4 * 4 * 9 * 32 * 64 + (64 * 16) * 128 + 128 * 10
    assert (
        multiplications(small_cnn(), torch.rand(2, 1, 8, 8), most=1_000_000)
        == multiplications(small_cnn(), torch.rand(1, 1, 8, 8), most=1_000_000)
        == by_hand
    )
    grouped = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1, stride=2), nn.Flatten(), nn.Linear(72, 3))
    assert multiplications(grouped, torch.rand(2, 4, 6, 6), most=1_000_000) == 8 * 9 * 2 * 9 + 72 * 3


class Shared(nn.Module):
    """Multiplies by parameters of its own, in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(5, 40))

    def forward(self, x):
        return x @ self.kernel


def test_what_no_layer_holds_counts_once_a_parameter_and_a_large_net_is_not_asked():
    assert multiplications(Shared(), torch.rand(2, 5), most=1_000_000) == 200
    large = nn.Linear(2000, 600)
    large.forward = None  # type: ignore[assignment]
    assert multiplications(large, torch.rand(2, 2000), most=1_000_000) == 2000 * 600 + 600


def test_counting_leaves_mode_statistics_random_state_and_gradients_alone():
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2))
    net[2].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state, modes = torch.get_rng_state(), [layer.training for layer in net.modules()]
    assert multiplications(net, torch.ones(3, 4), most=1_000_000) == sum(p.numel() for p in net.parameters()) > 24 + 12
    assert torch.equal(torch.get_rng_state(), state)
    assert [layer.training for layer in net.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert not any(layer._forward_hooks for layer in net.modules())


def test_a_small_net_takes_one_thread_a_larger_one_all_and_both_give_them_back():
    with one_if_small(small_cnn(), torch.rand(2, 1, 8, 8)):
        assert torch.get_num_threads() == 1
    with one_if_small(certified_cnn(), torch.rand(2, 1, 28, 28)):
        assert torch.get_num_threads() == 2
    with one_if_small(small_cnn(), torch.rand(2, 1, 8, 8, device="meta")):
        assert torch.get_num_threads() == 2
    with pytest.raises(KeyError), one_if_small(small_cnn(), torch.rand(2, 1, 8, 8)):
        raise KeyError
    assert torch.get_num_threads() == 2
    with pytest.raises(RuntimeError), one_if_small(small_cnn(), torch.rand(2, 3, 9, 9)):
        raise AssertionError
    assert not any(layer.training for layer in small_cnn().eval().modules())


def rows(n: int = 40):
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(n, 2))
    return dataset_of(x, (x[:, 0] > 0.5).astype(np.int64), space=Space.table(["a", "b"]), classes=2)


class Spy(nn.Sequential):
    """Notes how many threads torch has whenever it is asked."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        if len(x) > 2 and hasattr(self, "seen"):  # what counts its multiplications asks about two rows
            self.seen.add(torch.get_num_threads())
        if hasattr(self, "fails") and len(x) > 2:
            raise ArithmeticError
        return super().forward(x)


def spy(seen: set[int]) -> nn.Module:
    module = Spy()
    module.seen = seen
    return module


@pytest.mark.parametrize(("least", "number"), [(threads.SMALL, 1), (3, 2)])
def test_training_takes_what_the_net_is_worth(monkeypatch, least, number):
    monkeypatch.setattr(threads, "SMALL", least)
    seen: set[int] = set()
    TorchRecipe(factory=lambda: spy(seen), epochs=1).fit(rows(), np.random.default_rng(0))
    assert seen == {number}


def test_training_that_fails_gives_the_threads_back():
    module = Spy()
    module.fails = True
    with pytest.raises(ArithmeticError):
        TorchRecipe(factory=lambda: module, epochs=1).fit(rows(), np.random.default_rng(0))
    assert torch.get_num_threads() == 2


def test_an_audit_takes_what_the_net_is_worth_and_gives_it_back():
    seen: set[int] = set()
    module = spy(seen)
    space = Space.image((1, 1, 2))
    model = TorchModel(module=nn.Sequential(nn.Flatten(), module), space=space, classes=2)
    data = rows()
    pictures = dataset_of(data.x.reshape(-1, 1, 1, 2), data.y, space=space, classes=2)
    splits = Splits(train=pictures, validation=pictures, test=pictures)
    seen.clear()
    with pytest.raises(InputError):
        carbide.audit(model, splits, threats=[])
    report = carbide.audit(model, splits, threats=[LpBall(eps=0.1)], quiet=True, workers=1)
    assert report.results.plain.sections[0].findings
    assert 1 in seen
    assert torch.get_num_threads() == 2
