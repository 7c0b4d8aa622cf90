import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from carbide.evasion.audit.apgd import APGD
from carbide.evasion.harden.nfgsm import NFGSM, NFgsmPerturb
from carbide.models.estimators import EstimatorRecipe
from carbide.types import Case, InputError, LpBall, decide, rng_for
from tests.evasion.nets import RECIPE, digits, digits_net


def test_a_batch_moves_by_noise_and_one_step_along_the_known_gradient():
    net = nn.Linear(3, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, -0.5]]))
    x, y = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)), torch.zeros(500, dtype=torch.int64)
    quiet = NFgsmPerturb(eps=0.1, noise=0.0)(net, x, y, torch.Generator().manual_seed(0))
    # The loss of class 0 rises against the sign of w0 - w1.
    torch.testing.assert_close(quiet - x, torch.tensor([-0.1, 0.1, -0.1]).expand(500, 3))
    loud = NFgsmPerturb(eps=0.1, noise=2.0)(net, x, y, torch.Generator().manual_seed(0)) - x - torch.tensor([-0.1, 0.1, -0.1])
    assert loud.abs().max() <= 0.2 + 1e-6
    assert loud.std() == pytest.approx(0.2 / math.sqrt(3), rel=0.05)
    l2 = NFgsmPerturb(eps=0.1, p=2, noise=0.0)(net, x, y, torch.Generator().manual_seed(0))
    torch.testing.assert_close((l2 - x).norm(dim=1), torch.full((500,), 0.1))
    assert net.weight.grad is None


def test_training_with_it_makes_a_net_robust_and_the_strength_matters():
    data, threat = digits(), LpBall(eps=0.12)

    def robust(model):
        test = data.test
        return (decide(model.predict(APGD(targets=3)(model, test.x, test.y, threat, rng_for(0)))) == test.y).mean()

    recipe = NFGSM()(replace(RECIPE, epochs=20), threat)
    hardened = recipe.fit(data.train, np.random.default_rng(0))
    assert robust(hardened) > robust(digits_net()) + 0.2
    clean = (decide(hardened.predict(data.test.x)) == data.test.y).mean()
    assert clean > (decide(digits_net().predict(data.test.x)) == data.test.y).mean() - 0.06


def test_the_recipe_is_the_users_with_the_perturbation_described():
    recipe = NFGSM(scale=0.5, stretch=1.5)(RECIPE, LpBall(eps=0.2, p=2))
    assert recipe.perturb == NFgsmPerturb(eps=0.1, p=2)
    assert recipe.epochs == round(1.5 * RECIPE.epochs)
    assert recipe.factory == RECIPE.factory
    assert RECIPE.perturb is None
    assert recipe.describe()["perturb"] != RECIPE.describe()["perturb"]
    assert [m.scale for m in NFGSM().strengths()] == [0.5, 1.0]


def test_what_it_cannot_train_is_refused():
    from sklearn.tree import DecisionTreeClassifier

    case = Case(model=digits_net(), data=digits(), recipe=EstimatorRecipe(estimator=DecisionTreeClassifier()))
    assert "torch" in (NFGSM().refuses(case, LpBall(eps=0.1)) or "")
    assert "l2" in (NFGSM().refuses(replace(case, recipe=RECIPE), LpBall(p=0, eps=3)) or "")
    assert NFGSM().refuses(replace(case, recipe=RECIPE), LpBall(eps=0.1)) is None
    with pytest.raises(InputError, match="scale is 0"):
        NFGSM(scale=0.0)
    with pytest.raises(InputError, match="noise is -1"):
        NFGSM(noise=-1.0)
