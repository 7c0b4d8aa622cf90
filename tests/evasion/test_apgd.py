import numpy as np
import pytest
import torch

from carbide.evasion._ascent import checkpoints, scaled_margin
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.pgd import PGD
from carbide.types import InputError, LpBall, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, linear, tiny


def broken(model, attack, x, y, threat):
    return decide(model.predict(attack(model, x, y, threat, rng_for(0)))) != y


def test_checkpoints_are_the_papers():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("eps", [0.03, 0.08, 0.12])
def test_never_weaker_than_pgd_on_a_set(eps):
    test, model, threat = digits().test, digits_net(), LpBall(eps=eps)
    ours, theirs = (broken(model, attack, test.x, test.y, threat).sum() for attack in (APGD(), PGD()))
    assert ours >= theirs


@pytest.mark.parametrize("seed", [0, 2, 3])
@pytest.mark.parametrize("p", [1, 2, np.inf])
def test_finds_what_a_dense_grid_finds(seed, p):
    model = tiny(seed)
    x = np.random.default_rng(seed).uniform(0.2, 0.8, size=(40, 2))
    y = decide(model.predict(x))
    steps = np.linspace(-1, 1, 81) * 0.1
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    grid = grid[np.linalg.norm(grid, ord=p, axis=1) <= 0.1]
    reachable = np.array([(decide(model.predict(row + grid)) != label).any() for row, label in zip(x, y, strict=True)])
    found = broken(model, APGD(), x, y, LpBall(p=p, eps=0.1))
    assert reachable.any()
    assert not reachable.all()
    assert found[reachable].mean() >= 0.95
    assert not found[~reachable].any() or (found & ~reachable).sum() <= 1  # a grid may miss a sliver


def test_saturated_logits_do_not_hide_the_gradient():
    # Logits times 1000: the cross-entropy's gradient underflows to nothing, the scaled margin's does not.
    w = np.array([2.0, -1.0, 0.5, 0.0])
    x = np.random.default_rng(0).normal(size=(200, 4))
    x = x[np.abs(x @ w) > 0.8]
    model = linear(w, 0.0, scale=1000.0)
    y = decide(model.predict(x))
    threat = LpBall(eps=1.0)
    model.module.float()
    possible = np.abs(x @ w) / np.abs(w).sum() < 0.99
    assert broken(model, APGD(), x, y, threat)[possible].all()
    assert broken(model, PGD(), x, y, threat)[possible].mean() < 0.9, "the case is too easy to show anything"


def test_the_loss_ignores_scale_and_shift_of_the_logits():
    z = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, t = torch.arange(6) % 5, (torch.arange(6) + 1) % 5
    for target in (None, t):
        torch.testing.assert_close(scaled_margin(100 * z + 7, y, target, 0.5), scaled_margin(z, y, target, 0.5))


def test_targets_reach_rows_that_the_runner_up_does_not():
    test, model = digits().test, digits_net()
    sizes = [LpBall(eps=eps) for eps in (0.1, 0.15)]
    alone, all_targets = (sum(broken(model, a, test.x, test.y, t).sum() for t in sizes) for a in (APGD(targets=0), APGD(targets=9)))
    assert all_targets > alone
    assert APGD().quick().targets == 0


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="targets is -1"):
        APGD(targets=-1)
    with pytest.raises(InputError, match="target_steps 0"):
        APGD(target_steps=0)


@pytest.mark.parametrize("p", [1, 2, np.inf])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_within_bounds_a_linear_model_falls_exactly_where_its_plane_is(p, scale):
    model, x, y, distance = bounded(4)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(scale)
    eps = float(np.median(distance[p]))
    found = broken(model, APGD(), x, y, LpBall(p=p, eps=eps))
    sure = np.abs(distance[p] / eps - 1) > 2e-3
    np.testing.assert_array_equal(found[sure], (distance[p] < eps)[sure])


def test_l1_ascent_changes_few_features_and_beats_dense_steps():
    test, model, threat = digits().test, digits_net(), LpBall(p=1, eps=3.0)
    found = APGD(targets=0)(model, test.x, test.y, threat, rng_for(0))
    changed = (np.abs(found - test.x) > 1e-6).reshape(len(found), -1).sum(1)
    assert np.median(changed) <= 16, "an L1 change of least margin is sparse"
    dense = broken(model, PGD(step=1.0, steps=1), test.x, test.y, threat)
    assert broken(model, APGD(), test.x, test.y, threat).sum() > dense.sum() + 10


def test_the_cross_entropy_may_be_followed_and_other_losses_are_refused():
    test, model, threat = digits().test, digits_net(), LpBall(eps=0.08)
    margin, entropy = (broken(model, APGD(targets=0, loss=loss), test.x, test.y, threat).sum() for loss in ("margin", "cross_entropy"))
    assert abs(int(margin) - int(entropy)) <= 3
    model = linear([2.0, -1.0, 0.5, 0.0], 0.0, scale=1000.0)
    model.module.float()
    x = np.random.default_rng(0).normal(size=(200, 4))
    x = x[np.abs(x @ [2.0, -1.0, 0.5, 0.0]) > 0.8]
    y = decide(model.predict(x))
    margin, entropy = (broken(model, APGD(loss=loss), x, y, LpBall(eps=1.0)).sum() for loss in ("margin", "cross_entropy"))
    assert entropy < margin, "the cross-entropy of a sure net has no gradient"
    with pytest.raises(InputError, match="loss is 'dlr'"):
        APGD(loss="dlr")
