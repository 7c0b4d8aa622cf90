import numpy as np
import pytest
from scipy.stats import norm

from carbide.evasion.prove.smoothing import Smoothing
from carbide.types import Case, InputError, Kind, LpBall, Space, rng_for
from tests.evasion.nets import digits, linear

W = np.array([3.0, -4.0])


def test_radii_of_a_linear_model_are_below_the_closed_form_and_close_to_it():
    # Smoothed by any noise, a linear model has the radius |w x + b| / ||w||, capped by what the samples can show.
    x = np.random.default_rng(0).normal(size=(60, 2)) * 0.5
    y = (x @ W + 0.5 > 0).astype(np.int64)
    radius = np.abs(x @ W + 0.5) / 5
    found = Smoothing(sigma=0.5, samples=4000)(linear(W, 0.5), x, y, LpBall(p=2, eps=0.2), rng_for(0))
    assert (found.bound <= radius + 1e-12).all()
    cap = 0.5 * norm.ppf((0.001 / 60) ** (1 / 4000))
    inner = (radius > 0.15) & (radius < 0.8)
    assert inner.sum() > 20
    assert (found.bound[inner] > 0.75 * radius[inner] - 0.02).all()
    assert found.bound.max() <= cap + 1e-12
    np.testing.assert_array_equal(found.holds, found.bound > 0.2)
    assert found.failure_probability == 0.001
    assert found.metric == ""
    assert "smoothed" in found.claim


def test_it_abstains_on_coins_and_never_certifies_a_wrong_label():
    class Coin:
        classes, threshold = 2, 0.5

        def predict(self, x):
            return np.eye(2)[(np.abs(x[:, 0] * 1e6) % 2 < 1).astype(int)]

    x, y = np.zeros((200, 1)), np.zeros(200, np.int64)
    threat = LpBall(p=2, eps=0.1)
    assert Smoothing(samples=200, failure=0.05)(Coin(), x, y, threat, rng_for(0)).bound.max() < 0.1
    sure = linear([5.0], 5.0)
    assert not Smoothing()(sure, x, y, threat, rng_for(0)).holds.any()
    assert Smoothing()(sure, x, y + 1, threat, rng_for(0)).holds.all()


def test_more_samples_prove_more_and_the_seed_decides():
    model, x = linear(W, 0.5), np.random.default_rng(0).normal(size=(30, 2))
    y, threat = (x @ W + 0.5 > 0).astype(np.int64), LpBall(p=2, eps=0.2)
    few, many = (Smoothing(samples=n)(model, x, y, threat, rng_for(0)).bound.mean() for n in (100, 3000))
    assert many > few
    a, b = (Smoothing(samples=100)(model, x, y, threat, rng_for(0)).bound for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_what_it_cannot_certify_is_refused():
    case = Case(model=linear(W, 0.5), data=digits())
    assert "l2" in (Smoothing().refuses(case, LpBall(eps=0.1)) or "")
    assert Smoothing().refuses(case, LpBall(p=2, eps=0.1)) is None
    whole = Space.table(["a", "b"], kind=np.array([Kind.REAL, Kind.INTEGER]))
    assert "whole" in (Smoothing().refuses(Case(model=linear(W, 0.5, space=whole), data=digits()), LpBall(p=2, eps=0.1)) or "")
    with pytest.raises(InputError, match="failure is 0"):
        Smoothing(failure=0.0)
    with pytest.raises(InputError, match="sigma is -1"):
        Smoothing(sigma=-1.0)
