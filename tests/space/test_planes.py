import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

from carbide.space.balls import norms
from carbide.space.planes import to_plane


def scene(seed, n=4, d=5):
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(n, d)) * rng.choice([0.0, 1.0], p=[0.2, 0.8], size=(n, d))
    down, up = rng.uniform(0, 1, size=(2, n, d)) * rng.choice([0.0, 1.0], p=[0.1, 0.9], size=(2, n, d))
    best = np.where(w > 0, w * up, -w * down).sum(1)
    worst = -np.where(w > 0, w * down, -w * up).sum(1)
    share = rng.uniform(-1, 1, size=n) * 0.95
    return w, np.where(share > 0, share * best, -share * worst), down, up


def least(w, gap, down, up, p):
    """The least norm by a general solver."""
    d = len(w)
    if p == 2:
        found = minimize(lambda z: (z @ z, 2 * z), np.zeros(d), jac=True, bounds=list(zip(-down, up, strict=True)), method="SLSQP",
                         constraints=[{"type": "eq", "fun": lambda z: w @ z - gap, "jac": lambda z: w}], options={"ftol": 1e-14, "maxiter": 300})  # fmt: skip
        return math.sqrt(found.fun)
    eye = np.eye(d)
    extra = eye if p == 1 else np.ones((d, 1))  # |z_i| <= t_i, or all below one t
    k = extra.shape[1]
    both = np.concatenate([np.hstack([eye, -extra]), np.hstack([-eye, -extra])])
    found = linprog(np.concatenate([np.zeros(d), np.ones(k)]), A_ub=both, b_ub=np.zeros(2 * d), A_eq=[[*w, *np.zeros(k)]], b_eq=[gap],
                    bounds=[*zip(-down, up, strict=True), *[(0, None)] * k])  # fmt: skip
    return found.fun


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from((1, 2, math.inf)))
def test_the_change_is_the_least_that_a_general_solver_finds(seed, p):
    w, gap, down, up = scene(seed)
    z = to_plane(w, gap, p=p, down=down, up=up)
    np.testing.assert_allclose((w * z).sum(1), gap, atol=1e-9)
    assert (z >= -down - 1e-12).all()
    assert (z <= up + 1e-12).all()
    for i in range(len(w)):
        assert norms(z, p)[i] == pytest.approx(least(w[i], gap[i], down[i], up[i], p), abs=2e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), p=st.sampled_from((1, 2, math.inf)))
def test_torch_gives_what_numpy_gives(seed, p):
    w, gap, down, up = scene(seed)
    got = to_plane(*(torch.as_tensor(v) for v in (w, gap)), p=p, down=torch.as_tensor(down), up=torch.as_tensor(up))
    np.testing.assert_allclose(got.numpy(), to_plane(w, gap, p=p, down=down, up=up), atol=1e-12)


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_without_bounds_the_distance_is_the_dual_norm(p):
    w = np.array([[3.0, -4.0, 0.0]])
    wide = np.full((1, 3), np.inf)
    z = to_plane(w, np.array([-2.0]), p=p, down=wide, up=wide)
    assert float(w[0] @ z[0]) == pytest.approx(-2.0)
    assert norms(z, p)[0] == pytest.approx(2 / {1: 4.0, 2: 5.0, math.inf: 7.0}[p])


@pytest.mark.parametrize("p", [1, 2, math.inf])
def test_where_the_bounds_leave_too_little_it_goes_to_their_corner(p):
    w, down, up = np.array([[2.0, -1.0, 0.0]]), np.full((1, 3), 0.25), np.full((1, 3), 0.5)
    np.testing.assert_allclose(to_plane(w, np.array([9.0]), p=p, down=down, up=up), [[0.5, -0.25, 0.0]])
    np.testing.assert_array_equal(to_plane(0 * w, np.array([9.0]), p=p, down=down, up=up), 0 * w)
    np.testing.assert_array_equal(to_plane(w, np.array([0.0]), p=p, down=down, up=up), 0 * w)
