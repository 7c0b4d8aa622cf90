"""The recipes of adversarial training: what they share, and what they learn where the truth is known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

from carbide._harden import _given
from carbide.data.live import dataset_of
from carbide.evasion.harden.mart import MART, MartObjective, mart_loss
from carbide.evasion.harden.nfgsm import NFGSM
from carbide.evasion.harden.pgd_training import PGDTraining
from carbide.evasion.harden.trades import TRADES, TradesObjective, trades_loss
from carbide.evasion.inner import Around, PgdPerturb, RobustWatch, find_worst
from carbide.models import training
from carbide.models.estimators import EstimatorRecipe
from carbide.models.torch_net import TorchRecipe
from carbide.types import Case, InputError, LpBall, Space, decide
from tests.evasion.nets import RECIPE, digits, digits_net

METHODS = [PGDTraining, TRADES, MART, NFGSM]


def fragile(n: int, seed: int):
    """Two features: the first is far from its boundary but wrong now and then, the second is never wrong and within reach."""
    rng = np.random.default_rng(seed)
    y = rng.integers(2, size=n)
    sign = 2.0 * y - 1
    x = np.stack([np.where(rng.uniform(size=n) < 0.2, -sign, sign), 0.2 * sign], 1) + rng.uniform(-0.05, 0.05, (n, 2))
    return dataset_of(x, y, space=Space.table(["robust", "fragile"]), classes=2)


def two_weights() -> nn.Module:
    return nn.Linear(2, 2)


LINEAR = TorchRecipe(factory=two_weights, epochs=60, batch=64, rate=0.1, decay=0.0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [math.inf, 2])
def test_a_feature_within_reach_is_ignored_and_a_plain_net_lives_on_it(method, p):
    data, threat = fragile(400, 0), LpBall(p=p, eps=0.4)
    plain = LINEAR.fit(data, np.random.default_rng(0))
    hard = method(pace=1.0)(LINEAR, threat).fit(data, np.random.default_rng(0))
    share = []
    for model in (plain, hard):
        w = (model.module.weight[1] - model.module.weight[0]).detach()
        share.append(float(w[1].abs() / w.abs().sum()))
    assert share[0] > 0.7
    assert share[1] < (0.1 if math.isinf(p) else 0.45)  # in L2 a little of every feature is worth having
    test = fragile(400, 1)
    for model, floor, top in ((plain, 0.0, 0.3), (hard, 0.72, 1.0)):
        x, y = torch.as_tensor(test.x, dtype=torch.float32), torch.as_tensor(test.y)
        worst = find_worst(model.module, Around.of(x, eps=0.4, p=p), y, steps=20, step=0.2)
        assert floor <= float((model.module(worst).argmax(1) == y).float().mean()) <= top


@pytest.mark.parametrize("p", [math.inf, 2])
def test_weights_go_where_the_closed_form_of_the_worst_case_has_its_minimum(p):
    data, eps = fragile(400, 0), 0.4
    sign = 2.0 * data.y - 1

    def worst_loss(v):  # of a linear net the attacker takes eps times the dual norm of the weights from every margin
        size = np.abs(v[:2]).sum() if math.isinf(p) else np.linalg.norm(v[:2])
        return np.logaddexp(0, -sign * (data.x @ v[:2] + v[2]) + eps * size).mean()

    truth = minimize(worst_loss, [0.5, 0.5, 0.0], method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 2000})
    module = PGDTraining(pace=1.0)(LINEAR, LpBall(p=p, eps=eps)).fit(data, np.random.default_rng(0)).module
    w, b = (module.weight[1] - module.weight[0]).detach(), (module.bias[1] - module.bias[0]).detach()
    found = np.array([*w.double().numpy(), float(b)])
    assert worst_loss(found) < truth.fun + 2e-3
    assert worst_loss(np.array([1.0, 1.0, 0.0])) > truth.fun + 0.01


def test_the_losses_are_those_of_a_hand_computation():
    clean, moved, y = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]]), torch.tensor([[0.5, 0.3, -1.0], [0.2, 0.1, 0.9]]), torch.tensor([0, 1])
    p, q = (np.exp(z.double().numpy()) / np.exp(z.double().numpy()).sum(1, keepdims=True) for z in (clean, moved))
    kl = (p * np.log(p / q)).sum(1)
    own_p, own_q = p[[0, 1], [0, 1]], q[[0, 1], [0, 1]]
    rival = np.array([q[0, 1], q[1, 2]])
    assert float(trades_loss(clean, moved, y, weight=3.0)) == pytest.approx(np.mean(-np.log(own_p) + 3 * kl), rel=1e-6)
    expected = np.mean(-np.log(own_q) - np.log(1 - rival) + 4 * kl * (1 - own_p))
    assert float(mart_loss(clean, moved, y, weight=4.0)) == pytest.approx(expected, rel=1e-6)
    extreme = torch.tensor([[80.0, -80.0]], requires_grad=True)
    loss = mart_loss(extreme, -extreme, torch.tensor([0]), weight=4.0)
    (gradient,) = torch.autograd.grad(loss, extreme)
    assert bool(torch.isfinite(loss))
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("objective", [TradesObjective(weight=2.0), MartObjective(weight=2.0)])
def test_gradients_are_those_of_finite_differences(objective):
    torch.manual_seed(0)
    net = nn.Linear(3, 3).double()
    x, y = torch.rand(8, 3, dtype=torch.float64), torch.randint(0, 3, (8,))
    moved = x + 0.1 * torch.randn(8, 3, dtype=torch.float64)
    loss = lambda: objective(net, x, y, moved=moved, progress=0.0, generator=torch.Generator(), space=Space.table(["a", "b", "c"]))  # noqa: E731
    (gradient,) = torch.autograd.grad(loss(), net.weight)
    slope = torch.zeros_like(gradient)
    with torch.no_grad():
        for i in range(3):
            for j in range(3):
                net.weight[i, j] += 1e-5
                up = loss()
                net.weight[i, j] -= 2e-5
                slope[i, j] = (up - loss()) / 2e-5
                net.weight[i, j] += 1e-5
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=1e-7)


def test_one_pass_for_both_batches_is_two_where_rows_are_mixed():
    seen = []

    class Counted(nn.Sequential):
        def forward(self, x):
            seen.append(len(x))
            return super().forward(x)

    x, moved, y = torch.rand(6, 3), torch.rand(6, 3), torch.zeros(6, dtype=torch.int64)
    for parts, passes in (((nn.Linear(3, 2),), [12]), ((nn.BatchNorm1d(3), nn.Linear(3, 2)), [6, 6])):
        seen.clear()
        net = Counted(*parts).train()
        TradesObjective()(net, x, y, moved=moved, progress=0.0, generator=torch.Generator(), space=Space.table(["a", "b", "c"]))
        assert seen == passes


@pytest.mark.parametrize("method", [PGDTraining(steps=5, step=0.5), TRADES(steps=5, step=0.5, weight=3), MART(steps=5, step=0.5)])
def test_digits_become_robust(method):
    data, threat = digits(), LpBall(eps=0.12)
    hard = method(replace(RECIPE, epochs=10), threat).fit(data.train, np.random.default_rng(0))

    def robust(model):
        x, y = torch.as_tensor(data.test.x, dtype=torch.float32), torch.as_tensor(data.test.y)
        moved = PgdPerturb(eps=0.12, steps=20, step=0.2)(model.module, x, y, torch.Generator().manual_seed(0), space=data.test.space)
        return float((model.module(moved).argmax(1) == y).float().mean())

    assert robust(hard) > robust(digits_net()) + 0.1
    assert (decide(hard.predict(data.test.x)) == data.test.y).mean() > 0.8


def returns(monkeypatch) -> list[bool]:
    """Notes each time that training goes back."""
    found = []
    go_back = training._Training._go_back
    monkeypatch.setattr(training._Training, "_go_back", lambda self, seen: found.append(True) or go_back(self, seen))
    return found


def test_a_robust_net_that_careless_single_steps_ruin_is_kept_by_the_watch(monkeypatch):
    data, threat, noted = digits(), LpBall(eps=0.2), returns(monkeypatch)
    x, y = torch.as_tensor(data.test.x, dtype=torch.float32), torch.as_tensor(data.test.y)
    robust = NFGSM(stretch=4)(RECIPE, threat).fit(data.train, np.random.default_rng(0))
    assert not noted
    careless = NFGSM(start="weights", noise=0.0, step=3.0, pace=1.0, stretch=1.5, schedule="flat")
    strong = []
    for method in (careless, replace(careless, holdout=0.3)):
        module = method(RECIPE.starting_from(robust), threat).fit(data.train, np.random.default_rng(0)).module
        strong.append(RobustWatch(eps=0.2)(module, x, y, torch.Generator().manual_seed(0), data.test.space).strong)
    assert strong[0] < 0.2
    assert strong[1] > 0.3
    assert noted


def test_sound_training_is_never_sent_back(monkeypatch):
    noted = returns(monkeypatch)
    for method in (NFGSM(holdout=0.2), PGDTraining(holdout=0.2, steps=4, step=0.5)):
        method(replace(RECIPE, epochs=15), LpBall(eps=0.12)).fit(digits().train, np.random.default_rng(0))
    assert not noted


@pytest.mark.parametrize("method", METHODS)
def test_options_reach_the_recipe_and_the_users_stays(method):
    threat = LpBall(p=2, eps=0.5)
    recipe = method(scale=0.5, stretch=1.5, pace=2.0, schedule="flat", ema=0.9, awp=0.01, holdout=0.1, patience=3)(RECIPE, threat)
    assert (recipe.perturb.eps, recipe.perturb.p, recipe.epochs, recipe.schedule, recipe.ema, recipe.awp) == (0.25, 2, 18, "flat", 0.9, 0.01)
    assert recipe.rate == pytest.approx(2 * RECIPE.rate)
    assert (recipe.watch.eps, recipe.watch.p, recipe.watch.holdout, recipe.watch.patience) == (0.5, 2, 0.1, 3)  # judged at the threat's own eps
    assert RECIPE.perturb is None
    assert method()(RECIPE, threat).watch is None
    assert recipe.describe() != method()(RECIPE, threat).describe()
    assert method().strengths()[-1] == method()
    assert method.default == (method is NFGSM)


def test_a_defence_goes_on_from_the_weights_of_the_model_that_is_hardened():
    case = Case(model=digits_net(), data=digits(), recipe=RECIPE)
    method = PGDTraining(start="weights", pace=1e-9, steps=1)
    assert method.refuses(case, LpBall(eps=0.1)) is None
    tuned = method(_given(case, method), LpBall(eps=0.1)).fit(digits().train, np.random.default_rng(0))
    torch.testing.assert_close(dict(tuned.module.state_dict()), dict(digits_net().module.state_dict()), atol=1e-5, rtol=0)
    fresh = PGDTraining()
    assert not _given(case, fresh).start
    assert not fresh(_given(case, method), LpBall(eps=0.1)).start  # from scratch is from scratch
    with pytest.raises(InputError, match="starting_from"):
        method(RECIPE, LpBall(eps=0.1))


@pytest.mark.parametrize("method", METHODS)
def test_what_cannot_be_is_refused(method):
    from sklearn.tree import DecisionTreeClassifier

    name = method.__name__.lower()
    case = Case(model=digits_net(), data=digits(), recipe=EstimatorRecipe(estimator=DecisionTreeClassifier()))
    assert "torch" in (method().refuses(case, LpBall(eps=0.1)) or "")
    assert "l2" in (method().refuses(replace(case, recipe=RECIPE), LpBall(p=0, eps=3)) or "")
    bad = {"scale": 0.0, "stretch": -1.0, "pace": math.nan, "step": 0.0, "schedule": "x", "ema": 1.0, "awp": -0.1, "holdout": 1.0, "start": "best"}
    for option, value in bad.items():
        with pytest.raises(InputError, match=f"{name}: .*{option} is"):
            method(**{option: value})
    if method is not NFGSM:
        with pytest.raises(InputError, match="steps is 0"):
            method(steps=0)
