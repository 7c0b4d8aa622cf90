import itertools

import numpy as np
import pytest
import torch

from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.fmn import FMN
from carbide.space.balls import norms
from carbide.types import InputError, LpBall, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, linear, tiny, unit_space

NORMS = [1, 2, np.inf]


def distances(model, attack, x, y, p):
    z = attack(model, x, y, LpBall(p=p, eps=0.0), rng_for(0))
    wrong = decide(model.predict(z), model.threshold) != y
    return np.where(wrong, norms(z - x, p), np.inf), z


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_distance_to_a_plane_within_bounds_is_met(p, scale):
    model, x, y, distance = bounded(4)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.mul_(scale)
    found, z = distances(model, FMN(), x, y, p)
    assert (found >= distance[p] * (1 - 1e-9)).all()
    reached = np.isfinite(distance[p])
    assert (found[reached] <= 1.05 * distance[p][reached]).mean() >= 0.95
    assert z.min() >= 0
    assert z.max() <= 1


def fewest(model, x, y):
    """The fewest features to set to a bound until a linear model is fooled, by trying all."""
    for count in range(len(x) + 1):
        for chosen in itertools.combinations(range(len(x)), count):
            for bounds in itertools.product((0.0, 1.0), repeat=count):
                z = x.copy()
                z[list(chosen)] = bounds
                if decide(model.predict(z[None]))[0] != y:
                    return count
    return np.inf


def test_the_fewest_features_of_a_linear_model_are_found():
    model, x, y, _ = bounded(4, rows=12, features=5)
    truth = np.array([fewest(model, row, label) for row, label in zip(x, y, strict=True)])
    found, z = distances(model, FMN(), x, y, 0)
    assert (found >= truth).all()
    assert (found == truth).mean() >= 0.75
    assert (found[np.isfinite(truth)] <= truth[np.isfinite(truth)] + 1).all()
    assert ((z == x).sum(1) == 5 - np.where(np.isfinite(found), found, 0)).all(), "features that have not moved keep every digit"


@pytest.mark.parametrize("p", NORMS)
def test_on_tiny_nets_it_comes_near_what_a_dense_grid_finds(p):
    ratios = []
    steps = np.linspace(-1, 1, 161) * 0.4
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    for seed in (0, 2, 3):
        model = tiny(seed)
        x = np.random.default_rng(seed).uniform(0.2, 0.8, size=(15, 2))
        y = decide(model.predict(x))
        found, _ = distances(model, FMN(), x, y, p)
        for i in range(len(x)):
            points = x[i] + grid
            points = points[((points >= 0) & (points <= 1)).all(1)]
            wrong = decide(model.predict(points)) != y[i]
            if wrong.any():
                ratios.append(found[i] / norms(points[wrong] - x[i], p).min())
    assert len(ratios) > 20
    assert np.median(ratios) <= 1.05


@pytest.mark.parametrize(("p", "sizes"), [(np.inf, (0.05, 0.08, 0.12)), (2, (0.3, 0.5, 0.8)), (1, (1.0, 2.0, 3.0))])
def test_one_run_gives_the_curve_that_an_attack_at_each_eps_gives(p, sizes):
    model = digits_net()
    x, y = digits().test.x[:40], digits().test.y[:40]
    found, _ = distances(model, FMN(), x, y, p)
    for eps in sizes:
        attacked = decide(model.predict(APGD(targets=3)(model, x, y, LpBall(p=p, eps=eps), rng_for(0)))) != y
        assert abs(int((found <= eps).sum()) - int(attacked.sum())) <= 3


def test_more_steps_come_nearer_and_wrong_rows_are_left_alone():
    model = digits_net()
    x, y = digits().test.x[:40], digits().test.y[:40].copy()
    y[:5] = (y[:5] + 1) % 10
    short, long = (distances(model, FMN(steps=s), x, y, 1) for s in (3, 60))
    assert long[0].mean() < 0.95 * short[0].mean()
    np.testing.assert_array_equal(long[1][:5], x[:5])


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="steps is 1"):
        FMN(steps=1)
    with pytest.raises(InputError, match="step is 0"):
        FMN(step=0)
    assert FMN().quick().steps < FMN().steps


def test_the_report_draws_its_curve_from_one_run(monkeypatch):
    from carbide.evasion import judge as room
    from tests.evasion.test_judge import case_of, table

    model = linear([2.0, -1.0, 0.5, 0.0], -0.8, space=unit_space(4))
    data = table(80)
    ran = []
    attempt = room.attempt
    monkeypatch.setattr(room, "attempt", lambda *a, **k: ran.append(k.get("label")) or attempt(*a, **k))
    section = room.audit(case_of(model, data), LpBall(eps=0.1), {"fmn": FMN()})
    assert ran == [0, "curve"]
    figure = next(f for f in section.figures if f.kind == "lines")
    away = np.abs(data.x @ [2.0, -1.0, 0.5, 0.0] - 0.8) / 3.5  # the bounds bind nowhere near these sizes for most rows
    for eps, standing in zip(figure.series[0].x, figure.series[0].y, strict=True):
        assert standing == pytest.approx((away > eps).mean(), abs=0.06)
