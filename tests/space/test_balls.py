import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from carbide.space.balls import inside_ball, norms, project

NORMS = (1, 2, math.inf)


def scene(seed, d=5, n=6):
    rng = np.random.default_rng(seed)
    clean = rng.uniform(size=(n, d))
    return rng, clean, clean + rng.normal(size=(n, d)) * rng.choice([0.05, 0.5, 5.0], size=(n, 1))


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from((0, *NORMS)), eps=st.sampled_from((0.0, 0.1, 1.0, 2.5)))
def test_projections_land_in_the_ball_and_the_bounds_and_stay_there(seed, p, eps):
    _, clean, x = scene(seed)
    z = project(x, clean, p=p, eps=eps, lower=0.0, upper=1.0)
    assert inside_ball(z, clean, p=p, eps=eps, lower=0.0, upper=1.0, slack=1e-12).all()
    np.testing.assert_allclose(project(z, clean, p=p, eps=eps, lower=0.0, upper=1.0), z, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from(NORMS), eps=st.sampled_from((0.1, 0.7, 2.0)))
def test_projections_are_the_nearest_points(seed, p, eps):
    # A point of a convex set is nearest to x exactly when no other point of the set lies on the x side of it.
    rng, clean, x = scene(seed)
    z = project(x, clean, p=p, eps=eps, lower=0.0, upper=1.0)
    for _ in range(40):
        other = clean + rng.normal(size=clean.shape) * rng.choice([0.01, 0.3, 3.0])
        size = norms(other - clean, p)[:, None]
        other = np.clip(clean + (other - clean) * np.minimum(1, eps / size), 0, 1)
        assert (((x - z) * (other - z)).sum(1) <= 1e-9).all()


@pytest.mark.parametrize("eps", [0, 1, 2, 3.5])
def test_l0_against_every_choice_of_coordinates(eps):
    _, clean, x = scene(3, d=5)
    z = project(x, clean, p=0, eps=eps, lower=0.0, upper=1.0)
    target = np.clip(x, 0, 1)
    for i in range(len(x)):
        best = min(
            ((np.where(np.isin(np.arange(5), keep), target[i], clean[i]) - x[i]) ** 2).sum() for keep in itertools.combinations(range(5), int(eps))
        )
        assert ((z[i] - x[i]) ** 2).sum() == pytest.approx(best, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from((0, *NORMS)))
def test_torch_gives_what_numpy_gives(seed, p):
    _, clean, x = scene(seed)
    eps = 1.3
    expected = project(x, clean, p=p, eps=eps, lower=0.0, upper=1.0)
    got = project(torch.as_tensor(x), torch.as_tensor(clean), p=p, eps=eps, lower=0.0, upper=1.0)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(norms(torch.as_tensor(x), p).numpy(), norms(x, p))
    single = project(torch.as_tensor(x).float(), torch.as_tensor(clean).float(), p=p, eps=eps, lower=0.0, upper=1.0)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, atol=2e-5)


def test_norms_are_numpys():
    change = np.random.default_rng(0).normal(size=(4, 2, 3))
    change[:, 0, 0] = 0
    for p in (0, *NORMS):
        np.testing.assert_allclose(norms(change, p), np.linalg.norm(change.reshape(4, -1), ord=p, axis=1))


def test_what_is_not_finite_becomes_the_clean_value():
    clean = np.array([[0.2, 0.4]])
    x = np.array([[np.nan, np.inf]])
    for p in (0, *NORMS):
        np.testing.assert_array_equal(project(x, clean, p=p, eps=1.0, lower=0.0, upper=1.0), clean)
    assert not inside_ball(x, clean, p=np.inf, eps=9.0).any()


def test_a_clean_row_outside_the_bounds_is_allowed_where_it_is():
    clean = np.array([[1.4, 0.5]])
    z = project(clean + 0.5, clean, p=np.inf, eps=0.3, lower=0.0, upper=1.0)
    np.testing.assert_allclose(z, [[1.4, 0.8]])
    assert inside_ball(z, clean, p=np.inf, eps=0.3, lower=0.0, upper=1.0).all()


def test_outside_is_seen():
    clean = np.zeros((1, 4))
    assert not inside_ball(clean + 0.11, clean, p=np.inf, eps=0.1).any()
    assert not inside_ball(clean + 0.06, clean, p=2, eps=0.1).any()
    assert not inside_ball(clean + 0.03, clean, p=1, eps=0.1).any()
    assert not inside_ball(np.array([[1e-3, 0, 0, 1e-3]]), clean, p=0, eps=1).any()
    assert not inside_ball(clean - 0.05, clean, p=np.inf, eps=0.1, lower=0.0, upper=1.0).any()


def nearest(change, low, high, eps):
    """The nearest point of the ball and the bounds to one change, by a general solver on its positive and negative parts."""
    d = len(change)
    bounds = [(0, max(h, 0)) for h in high] + [(0, max(-v, 0)) for v in low]
    whole = {"type": "ineq", "fun": lambda u: eps - u.sum(), "jac": lambda u: -np.ones(2 * d)}

    def fun(u):
        gap = u[:d] - u[d:] - change
        return (gap * gap).sum(), 2 * np.concatenate([gap, -gap])

    found = minimize(fun, np.zeros(2 * d), jac=True, bounds=bounds, constraints=[whole], method="SLSQP", options={"maxiter": 500, "ftol": 1e-14})
    return found.x[:d] - found.x[d:]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), eps=st.sampled_from((0.05, 0.3, 0.8, 2.0)))
def test_l1_is_what_a_general_solver_finds(seed, eps):
    rng, clean, x = scene(seed, d=6, n=3)
    x[0] = clean[0] + rng.choice([-0.4, 0.0, 0.4], size=6)  # ties
    z = project(x, clean, p=1, eps=eps, lower=0.0, upper=1.0)
    for i in range(3):
        best = nearest(x[i] - clean[i], -clean[i], 1 - clean[i], eps)
        np.testing.assert_allclose(z[i] - clean[i], best, atol=2e-5)
        assert ((z[i] - x[i]) ** 2).sum() <= ((clean[i] + best - x[i]) ** 2).sum() + 1e-9


def test_l1_in_single_precision_and_many_features_stays_in_the_ball():
    rng = np.random.default_rng(0)
    clean = torch.as_tensor(rng.uniform(size=(20, 3000)), dtype=torch.float32)
    x = clean + torch.as_tensor(rng.normal(size=clean.shape), dtype=torch.float32)
    z = project(x, clean, p=1, eps=12.0, lower=0.0, upper=1.0)
    size = norms((z - clean).double(), 1)
    assert (size <= 12.0 * (1 + 1e-5)).all()
    assert (size >= 12.0 * (1 - 1e-5)).all(), "the ball's border is where a far point lands"


def test_l1_without_bounds_is_soft_thresholding():
    z = project(np.array([[3.0, -1.0, 0.5]]), np.zeros((1, 3)), p=1, eps=2.0)
    np.testing.assert_allclose(z, [[2.0, 0.0, 0.0]])
    z = project(np.array([[3.0, -2.5, 0.5]]), np.zeros((1, 3)), p=1, eps=2.0)
    np.testing.assert_allclose(z, [[1.25, -0.75, 0.0]])


@pytest.mark.parametrize("p", [0, 1, 2, math.inf])
def test_a_radius_for_each_row_is_what_one_radius_is_to_one_row(p):
    _, clean, x = scene(7)
    eps = np.array([0.0, 0.3, 0.7, 1.0, 2.2, 50.0])
    rows = np.concatenate([project(x[i : i + 1], clean[i : i + 1], p=p, eps=float(eps[i]), lower=0.0, upper=1.0) for i in range(6)])
    np.testing.assert_allclose(project(x, clean, p=p, eps=eps, lower=0.0, upper=1.0), rows, atol=1e-12)
    torched = project(torch.as_tensor(x), torch.as_tensor(clean), p=p, eps=torch.as_tensor(eps), lower=0.0, upper=1.0)
    np.testing.assert_allclose(torched.numpy(), rows, atol=1e-12)
