"""The search in half precision: the net itself decides wherever it is close, and nothing is found or missed that float32 would not."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion import _coarse
from carbide.evasion._coarse import Coarse, coarse
from carbide.evasion._counted import Counted
from carbide.evasion.audit import standard
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.fab import FAB
from carbide.evasion.audit.pgd import PGD
from carbide.evasion.audit.standard import Standard
from carbide.evasion.judge import judge
from carbide.models.torch_net import TorchModel
from carbide.types import LpBall, Space


@pytest.fixture(autouse=True)
def capable(monkeypatch):
    """Bfloat16 runs on every processor; only its speed differs."""
    monkeypatch.setattr(_coarse, "_capable", lambda model: True)
    monkeypatch.setattr(_coarse, "WORTH", 1)


def linear(seed=0, d=12, classes=3):
    """A linear net, rows and their labels, as it decides."""
    torch.manual_seed(seed)
    net = nn.Linear(d, classes)
    model = TorchModel(module=net, space=Space.table([f"f{i}" for i in range(d)]), classes=classes)
    x = np.random.default_rng(seed).normal(size=(200, d))
    return model, x, model.predict(x).argmax(1)


def distances(model, x, y, dual):
    """The closed form: the least distance of each row to another class."""
    w, b = (p.detach().double().numpy() for p in model.module.parameters())
    found = []
    for row, label in zip(x, y, strict=True):
        others = [c for c in range(len(b)) if c != label]
        found.append(min((w[label] - w[c]) @ row + b[label] - b[c] for c in others) if dual is None else
                     min(((w[label] - w[c]) @ row + b[label] - b[c]) / np.linalg.norm(w[label] - w[c], dual) for c in others))  # fmt: skip
    return np.array(found)


def test_where_two_classes_are_close_the_net_itself_answers():
    model, x, y = linear()
    view = coarse(model, x, y, LpBall(eps=1.0))
    assert isinstance(view, Coarse)
    z = model.tensor(x)
    with torch.no_grad():
        exact, mixed = model.logits(z), view.logits(z)
        rough = view.module(z.bfloat16()).float()
    top = rough.topk(2, dim=1).values
    near = (top[:, 0] - top[:, 1]) <= view.slack * (1 + rough.abs().amax(1))
    assert 0 < int(near.sum()) < len(x)
    torch.testing.assert_close(mixed[near], exact[near])
    torch.testing.assert_close(mixed[~near], rough[~near])
    assert not torch.equal(mixed, exact)
    np.testing.assert_array_equal(mixed.argmax(1), exact.argmax(1))


@pytest.mark.parametrize("p", [1, 2, math.inf])
@pytest.mark.parametrize("attack", [Standard(), APGD(), FAB(), PGD(steps=40)], ids=lambda a: type(a).__name__)
def test_a_linear_net_breaks_just_where_the_closed_form_says(attack, p):
    model, x, y = linear(1)
    away = distances(model, x, y, {1: math.inf, 2: 2, math.inf: 1}[p])
    threat = LpBall(p=p, eps=float(np.median(away)))
    assert isinstance(coarse(model, x, y, threat), Coarse)
    fell = judge(model, x, y, attack(model, x, y, threat, np.random.default_rng(0)), threat, model.space).success
    assert not fell[away > threat.eps * 1.001].any()
    if not isinstance(attack, PGD):  # its cross-entropy may follow the wrong one of three classes
        assert fell[away < threat.eps * 0.98].all()


def test_rounding_that_moves_a_margin_as_far_as_the_threat_can_is_refused():
    model, x, y = linear()
    assert coarse(model, x, y, LpBall(eps=1e-4)) is model
    assert coarse(model, 100 + x, model.predict(100 + x).argmax(1), LpBall(eps=0.01)) is model


def test_what_is_small_has_few_rows_another_dtype_or_insists_on_it_stays_as_it_is(monkeypatch):
    model, x, y = linear()
    threat = LpBall(eps=1.0)
    assert coarse(model, x[:10], y[:10], threat) is model
    assert coarse(object(), x, y, threat) is not None
    monkeypatch.setattr(_coarse, "WORTH", 40)
    assert coarse(model, x, y, threat) is model  # 12 x 3 multiplications, and 3 parameters more
    monkeypatch.setattr(_coarse, "WORTH", 39)
    assert isinstance(coarse(model, x, y, threat), Coarse)
    monkeypatch.undo()
    double = TorchModel(module=nn.Linear(12, 3).double(), space=model.space, classes=3)
    assert coarse(double, x, y, threat) is double

    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.shift = nn.Linear(12, 3), torch.ones(3, 3)  # no buffer, so that it stays float32

        def forward(self, z):
            return self.inner(z) @ self.shift

    stubborn = TorchModel(module=Stubborn(), space=model.space, classes=3)
    monkeypatch.setattr(_coarse, "_capable", lambda model: True)
    monkeypatch.setattr(_coarse, "WORTH", 1)
    assert coarse(stubborn, x, y, threat) is stubborn


def test_a_threshold_of_two_classes_moves_where_it_is_close():
    torch.manual_seed(0)
    model = TorchModel(module=nn.Linear(12, 2), space=Space.table([f"f{i}" for i in range(12)]), classes=2, threshold=0.9)
    x = np.random.default_rng(0).normal(size=(200, 12))
    y = (model.predict(x)[:, 1] >= 0.9).astype(np.int64)
    view = coarse(model, x, y, LpBall(eps=1.0))
    w = (model.module.weight[1] - model.module.weight[0]).detach().double().numpy()
    gap = np.log(model.predict(x)[:, 1] / model.predict(x)[:, 0]) - math.log(9)
    moved = model.tensor(x - np.outer((gap + np.random.default_rng(1).choice([-1e-4, 1e-4], len(x))) / (w @ w), w))
    with torch.no_grad():
        exact, mixed, rough = model.logits(moved), view.logits(moved), view.module(moved.bfloat16()).float()
    torch.testing.assert_close(mixed, exact)
    assert ((rough.softmax(1)[:, 1] >= 0.9) != (exact.softmax(1)[:, 1] >= 0.9)).any()


def test_what_the_copy_is_asked_is_counted():
    model, x, y = linear()
    counted = Counted(model)
    view = coarse(counted, x, y, LpBall(eps=1.0))
    assert isinstance(view, Coarse)
    before = counted.queries
    with torch.no_grad():
        view.logits(model.tensor(x))
    assert counted.queries == before + len(x)


def test_what_the_copy_wrongly_calls_broken_is_not_given_up(monkeypatch):
    model, x, y = linear(1)
    away = distances(model, x, y, 1)
    eps = float(np.median(away))

    class Liar(nn.Module):
        def forward(self, z):
            return -model.module(z.float()).bfloat16()  # sure of the wrong class everywhere

    monkeypatch.setattr(standard, "certified", lambda model, x, *_: np.zeros(len(x), bool))
    monkeypatch.setattr(standard, "coarse", lambda *_: Coarse(model, Liar(), slack=0.0))
    found = Standard().propose(model, x, y, LpBall(eps=eps), np.random.default_rng(0))
    fell = judge(model, x, y, found.x, LpBall(eps=eps), model.space).success
    assert not (found.stage[away > eps * 1.001] != "").any()
    assert fell[away < eps * 0.98].all()
