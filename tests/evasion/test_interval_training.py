from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion.audit.apgd import APGD
from carbide.evasion.harden.interval_training import IntervalObjective, IntervalTraining
from carbide.evasion.prove.interval_bounds import IntervalBounds
from carbide.types import Case, InputError, LpBall, Space, decide, rng_for
from tests.evasion.nets import RECIPE, digits, digits_net


def loss(objective, progress, x, y, net):
    space = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))
    return objective(net, x, y, progress=progress, generator=torch.Generator(), space=space)


def test_the_loss_of_a_linear_net_is_that_of_its_worst_corner():
    torch.manual_seed(0)
    net = nn.Linear(2, 3)
    x, y = torch.rand(40, 2), torch.randint(0, 3, (40,))
    objective = IntervalObjective(eps=0.2, weight=1.0)
    corners = torch.stack([torch.tensor([a, b]) for a in (-0.2, 0.2) for b in (-0.2, 0.2)])
    moved = (x[:, None] + corners).clamp(0, 1)
    logits = net(moved)
    gaps = (logits.gather(2, y[:, None, None].expand(-1, 4, 1)) - logits).amin(1)  # each rival at its own worst corner
    expected = nn.functional.cross_entropy(-gaps, y)
    torch.testing.assert_close(loss(objective, 0.9, x, y, net), expected)
    clean = nn.functional.cross_entropy(net(x), y)
    torch.testing.assert_close(loss(objective, 0.0, x, y, net), clean)
    assert clean < loss(replace(objective, weight=0.5), 0.3, x, y, net) < expected


def test_a_net_trained_so_can_be_certified_and_a_plain_one_cannot():
    data, threat = digits(), LpBall(eps=0.1)
    recipe = IntervalTraining()(replace(RECIPE, epochs=25), threat)
    model = recipe.fit(data.train, np.random.default_rng(0))
    test = data.test
    proof = IntervalBounds()(model, test.x, test.y, threat, rng_for(0))
    plain = IntervalBounds()(digits_net(), test.x, test.y, threat, rng_for(0))
    attacked = decide(model.predict(APGD(targets=3)(model, test.x, test.y, threat, rng_for(0)))) == test.y
    clean = (decide(model.predict(test.x)) == test.y).mean()
    assert plain.value < 0.02
    assert proof.value > 0.4
    assert proof.value <= attacked.mean() <= clean
    assert not (proof.holds & ~attacked).any()
    assert clean > 0.8


def test_the_recipe_says_what_it_does_and_keeps_the_users():
    recipe = IntervalTraining(scale=1.1, stretch=2)(RECIPE, LpBall(eps=0.1))
    assert recipe.objective.eps == pytest.approx(0.11)
    assert recipe.epochs == 2 * RECIPE.epochs
    assert recipe.describe() != RECIPE.describe()
    assert RECIPE.objective is None


def test_what_it_cannot_train_is_refused():
    case = Case(model=digits_net(), data=digits(), recipe=RECIPE)
    assert "linf" in (IntervalTraining().refuses(case, LpBall(p=2, eps=0.1)) or "")
    assert IntervalTraining().refuses(case, LpBall(eps=0.1)) is None
    assert "torch" in (IntervalTraining().refuses(replace(case, recipe=None), LpBall(eps=0.1)) or "")
    with pytest.raises(InputError, match="weight is 0"):
        IntervalTraining(weight=0.0)
    unknown = replace(RECIPE, factory=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.GELU()), options={}, epochs=2)
    with pytest.raises(InputError, match="GELU"):
        IntervalTraining()(unknown, LpBall(eps=0.1)).fit(digits().train, np.random.default_rng(0))
