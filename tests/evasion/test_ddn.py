import numpy as np
import pytest

from carbide.evasion.audit.ddn import DDN
from carbide.evasion.audit.fmn import FMN
from carbide.space.balls import norms
from carbide.types import InputError, LpBall, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, tiny


def distances(model, attack, x, y):
    z = attack(model, x, y, LpBall(p=2, eps=0.0), rng_for(0))
    return np.where(decide(model.predict(z), model.threshold) != y, norms(z - x, 2), np.inf), z


def test_the_distance_to_a_plane_within_bounds_is_met():
    model, x, y, distance = bounded(4)
    found, z = distances(model, DDN(), x, y)
    assert (found >= distance[2] * (1 - 1e-9)).all()
    reached = np.isfinite(distance[2])
    assert (found[reached] <= 1.05 * distance[2][reached]).mean() >= 0.95
    assert z.min() >= 0
    assert z.max() <= 1


def test_on_tiny_nets_it_comes_near_what_a_dense_grid_finds():
    ratios = []
    steps = np.linspace(-1, 1, 161) * 0.4
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    for seed in (0, 2, 3):
        model = tiny(seed)
        x = np.random.default_rng(seed).uniform(0.2, 0.8, size=(15, 2))
        y = decide(model.predict(x))
        found, _ = distances(model, DDN(start=0.3), x, y)
        for i in range(len(x)):
            points = x[i] + grid
            points = points[((points >= 0) & (points <= 1)).all(1)]
            wrong = decide(model.predict(points)) != y[i]
            if wrong.any():
                ratios.append(found[i] / norms(points[wrong] - x[i], 2).min())
    assert len(ratios) > 20
    assert np.median(ratios) <= 1.05


def test_on_digits_it_agrees_with_fmn_and_leaves_wrong_rows_alone():
    model = digits_net()
    x, y = digits().test.x[:40], digits().test.y[:40].copy()
    y[:5] = (y[:5] + 1) % 10
    ours, z = distances(model, DDN(), x, y)
    theirs, _ = distances(model, FMN(), x, y)
    assert np.isfinite(ours).all()
    right = theirs > 0
    assert np.median(ours[right] / theirs[right]) == pytest.approx(1.0, abs=0.05)
    np.testing.assert_array_equal(z[:5], x[:5])


def test_wrong_options_and_norms_are_refused_by_name():
    for options, words in (({"steps": 1}, "steps is 1"), ({"change": 1.0}, "change is 1.0"), ({"start": 0.0}, "start is 0.0")):
        with pytest.raises(InputError, match=words):
            DDN(**options)
    assert DDN().refuses(None, LpBall(p=2, eps=1)) is None
    assert "l2" in str(DDN().refuses(None, LpBall(eps=1)))
    assert DDN().quick().steps < DDN().steps
