import numpy as np
import pytest
import torch

from carbide.evasion._counted import Counted
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.fab import FAB
from carbide.space.balls import norms
from carbide.types import InputError, LpBall, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, linear, tiny

NORMS = [1, 2, np.inf]


def distances(model, attack, x, y, p, eps=0.0):
    z = attack(model, x, y, LpBall(p=p, eps=eps), rng_for(0))
    wrong = decide(model.predict(z), model.threshold) != y
    return np.where(wrong, norms(z - x, p), np.inf), z


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_distance_to_a_plane_within_bounds_is_met(p, scale):
    model, x, y, distance = bounded(4)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(scale)
    found, z = distances(model, FAB(), x, y, p)
    assert (found >= distance[p] * (1 - 1e-9)).all()
    reached = np.isfinite(distance[p])
    assert (found[reached] <= 1.05 * distance[p][reached]).all()
    assert z.min() >= 0
    assert z.max() <= 1


@pytest.mark.parametrize("p", NORMS)
def test_on_tiny_nets_it_comes_near_what_a_dense_grid_finds(p):
    ratios = []
    steps = np.linspace(-1, 1, 161) * 0.4
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    for seed in (0, 2, 3):
        model = tiny(seed)
        x = np.random.default_rng(seed).uniform(0.2, 0.8, size=(15, 2))
        y = decide(model.predict(x))
        found, _ = distances(model, FAB(), x, y, p)
        for i in range(len(x)):
            points = x[i] + grid
            points = points[((points >= 0) & (points <= 1)).all(1)]
            wrong = decide(model.predict(points)) != y[i]
            if wrong.any():
                ratios.append(found[i] / norms(points[wrong] - x[i], p).min())
    assert len(ratios) > 20
    assert np.median(ratios) <= 1.05
    assert np.mean(np.array(ratios) <= 1.1) >= 0.75


def test_the_operating_point_is_what_is_attacked():
    w = np.array([2.0, -1.0, 0.5, 0.0])
    x = np.random.default_rng(0).normal(size=(50, 4))
    model = linear(w, 0.3, threshold=0.8)
    score = x @ w + 0.3 - np.log(0.8 / 0.2)
    found, _ = distances(model, FAB(), x, (score > 0).astype(np.int64), 2)
    np.testing.assert_allclose(found, np.abs(score) / np.linalg.norm(w), rtol=0.05)


@pytest.mark.parametrize(("p", "eps"), [(np.inf, 0.08), (2, 0.4), (1, 2.0)])
def test_on_a_net_it_breaks_nearly_what_apgd_breaks(p, eps):
    test, model = digits().test, digits_net()
    x, y = test.x[:60], test.y[:60]
    ours, theirs = (distances(model, attack, x, y, p, eps)[0] <= eps + 1e-6 for attack in (FAB(steps=20, targets=4), APGD(targets=4)))
    assert ours.sum() >= 0.93 * theirs.sum()


def test_rows_that_are_within_eps_are_not_tried_on_the_next_class():
    test, model = digits().test, digits_net()
    few, many = Counted(model), Counted(model)
    distances(few, FAB(steps=5), test.x, test.y, np.inf, eps=1.0)
    distances(many, FAB(steps=5), test.x, test.y, np.inf, eps=0.0)
    assert few.queries < many.queries / 3


def test_a_flat_model_leaves_every_row_where_it_is():
    model = linear(np.zeros(4), -1.0)
    x = np.zeros((5, 4))
    _, z = distances(model, FAB(steps=3), x, np.zeros(5, np.int64), 2)
    np.testing.assert_array_equal(z, x)


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="targets 0"):
        FAB(targets=0)
    assert FAB().quick().steps < FAB().steps
    assert "l1" in (FAB().refuses(None, LpBall(p=0, eps=1.0)) or "")
