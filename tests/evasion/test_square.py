from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from carbide.evasion._counted import Counted
from carbide.evasion._windows import Windows, hill, two_hills
from carbide.evasion.audit.apgd import APGD
from carbide.evasion.audit.square import Square
from carbide.evasion.judge import judge
from carbide.models.estimators import EstimatorModel
from carbide.models.torch_net import TorchModel
from carbide.space.balls import inside_ball
from carbide.types import Access, InputError, Kind, LpBall, Space, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, linear, unit_space


def broken(model, attack, x, y, threat):
    return judge(model, x, y, attack(model, x, y, threat, rng_for(0)), threat, model.space).success


@pytest.mark.parametrize(("p", "near"), [(np.inf, 0.97), (2, 0.85), (1, 0.85)])
@pytest.mark.parametrize("threshold", [0.5, 0.8])
def test_a_linear_model_falls_where_its_plane_says(p, near, threshold):
    model, x, y, distance = bounded(4)
    if threshold != 0.5:
        with torch.no_grad():  # the same boundary, at another threshold
            model.module.bias[1] += np.log(threshold / (1 - threshold))
        model = model.at(threshold)
    eps = float(np.median(distance[p]))
    found = broken(model, Square(queries=500), x, y, LpBall(p=p, eps=eps))
    assert found[distance[p] < near * eps].mean() > 0.9
    assert not found[distance[p] > eps * 1.0001].any()


@pytest.mark.parametrize(("p", "eps", "share"), [(np.inf, 0.08, 0.9), (2, 0.5, 0.65)])
def test_on_images_scores_alone_break_most_of_what_gradients_break(p, eps, share):
    test, model, threat = digits().test, digits_net(), LpBall(p=p, eps=eps)
    x, y = test.x[:80], test.y[:80]
    white, black, blind = (broken(model, a, x, y, threat).sum() for a in (APGD(targets=3), Square(queries=400), Square(queries=10)))
    assert black >= share * white
    assert black > blind


def test_logits_of_any_scale_are_followed():
    test, net, threat = digits().test, digits_net(), LpBall(eps=0.08)

    class Loud(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net.module

        def forward(self, x):
            return 1e4 * self.inner(x)

    loud = TorchModel(module=Loud(), space=net.space, classes=10)
    quiet, shouted = (broken(m, Square(queries=100), test.x[:60], test.y[:60], threat) for m in (net, loud))
    assert abs(int(quiet.sum()) - int(shouted.sum())) <= 2


def test_trees_and_anything_else_with_scores():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(300, 5))
    y = (x.sum(1) > 2.5).astype(np.int64)
    forest = EstimatorModel(estimator=RandomForestClassifier(20, random_state=0, n_jobs=1).fit(x, y), space=unit_space(5), classes=2)
    threat = LpBall(eps=0.1)
    z = Square(queries=150)(forest, x[:60], y[:60], threat, rng_for(0))
    found = judge(forest, x[:60], y[:60], z, threat, forest.space).success
    noise = judge(forest, x[:60], y[:60], x[:60] + rng.choice([-0.1, 0.1], size=(60, 5)), threat, forest.space).success
    assert found.sum() > noise.sum() + 3
    assert found.sum() == (decide(forest.predict(z)) != y[:60]).sum()


def test_queries_are_kept_and_broken_rows_ask_no_more():
    test, model = digits().test, digits_net()
    counted = Counted(model)
    Square(queries=40)(counted, test.x, test.y, LpBall(eps=1e-4), rng_for(0))
    assert 30 * len(test) < counted.queries <= 40 * len(test)
    counted = Counted(model)
    Square(queries=1000)(counted, test.x, test.y, LpBall(eps=1.0), rng_for(0))
    assert counted.queries < 30 * len(test)


@pytest.mark.parametrize(("p", "eps"), [(np.inf, 1.5), (2, 2.0), (1, 3.0)])
def test_tables_keep_their_steps_and_fixed_features(p, eps):
    space = Space.table(["count", "fixed", "free"], lower=np.zeros(3), upper=np.full(3, 9.0), kind=np.array([Kind.INTEGER, Kind.REAL, Kind.REAL]),
                        mutable=np.array([True, False, True]))  # fmt: skip
    x = np.array([[4.0, 5.0, 3.0]] * 8)

    class Sum:
        access, threshold, classes = Access.LABELS | Access.SCORES, 0.5, 2

        def predict(self, z):
            high = 1 / (1 + np.exp(-(z.sum(1) - 13.2)))
            return np.stack([1 - high, high], 1)

    model = Sum()
    model.space = space
    z = Square(queries=200)(model, x, np.zeros(8, np.int64), LpBall(p=p, eps=eps), rng_for(0))
    assert (z[:, 1] == 5).all()
    np.testing.assert_array_equal(z[:, 0], z[:, 0].round())
    assert inside_ball(z, x, p=p, eps=eps, lower=space.lower, upper=space.upper, slack=1e-9).all()
    assert (z.sum(1) > 13.2).all()


def test_windows_are_squares_inside_the_image_and_hills_have_norm_one():
    windows = Windows(Space.image((3, 7, 9)), np.random.default_rng(0))
    mask, hills = windows.draw(200, 0.15)
    sides = mask.reshape(200, 7, 9)
    assert (sides.any(2).sum(1) == 3).all()
    assert (sides.any(1).sum(1) == 3).all()
    assert (mask.sum(1) == 9).all()
    assert len({tuple(m) for m in mask.tolist()}) > 20, "squares lie everywhere"
    np.testing.assert_allclose((hills**2).sum(1), 1)
    assert (hills[~mask] == 0).all()
    for side in (1, 2, 3, 8):
        assert np.linalg.norm(two_hills(side)) == pytest.approx(1)
    assert hill(5, 5)[2, 2] == hill(5, 5).max()
    np.testing.assert_allclose(hill(5, 5), hill(5, 5)[::-1])
    assert windows.tiles(4).shape == (4, 3, 63)


def test_wrong_options_are_refused_by_name():
    with pytest.raises(InputError, match="queries is 3"):
        Square(queries=3)
    assert Square().quick() == replace(Square(), queries=200)
    assert "l2" in (Square().refuses(None, LpBall(p=0, eps=1.0)) or "")


def test_rows_that_are_all_wrong_as_they_are_stay():
    model = linear([2.0, -1.0], 0.0)
    x = np.random.default_rng(0).uniform(size=(5, 2))
    np.testing.assert_array_equal(Square(queries=20)(model, x, 1 - decide(model.predict(x)), LpBall(eps=0.1), rng_for(0)), x)
