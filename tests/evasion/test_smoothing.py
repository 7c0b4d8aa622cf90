import math

import numpy as np
import pytest
from scipy.stats import norm

from carbide.evasion._counted import Counted
from carbide.evasion.prove.smoothing import Smoothing, at_least, followed, radius
from carbide.types import Case, InputError, Kind, LpBall, Space, rng_for
from tests.evasion.nets import digits, linear

W = np.array([3.0, -4.0])


def test_radii_of_a_linear_model_are_below_the_closed_form_and_close_to_it():
    # Smoothed by any noise, a linear model has the radius |w x + b| / ||w||, capped by what the samples can show.
    x = np.random.default_rng(0).normal(size=(60, 2)) * 0.5
    y = (x @ W + 0.5 > 0).astype(np.int64)
    radius = np.abs(x @ W + 0.5) / 5
    found = Smoothing(sigma=0.5, samples=4000, reach=math.inf)(linear(W, 0.5), x, y, LpBall(p=2, eps=0.2), rng_for(0))
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
    few, many = (Smoothing(samples=n, reach=math.inf)(model, x, y, threat, rng_for(0)).bound.mean() for n in (100, 3000))
    assert many > few
    a, b = (Smoothing(samples=100)(model, x, y, threat, rng_for(0)).bound for _ in range(2))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("p", [0.55, 0.8, 0.86, 0.99])
def test_whenever_it_stops_it_errs_no_more_often_than_stated(p):
    rng, n, failure = np.random.default_rng(int(1000 * p)), 20_000, 0.2
    truth = float(radius(np.array([p]), 1.0)[0])

    def ask(rows, more):
        return rng.binomial(more, p, size=len(rows))

    for reach, eps in ((1.0, 0.98 * truth), (1.0, 0.9 * truth), (math.inf, 0.5 * truth)):
        bound = followed(ask, n, samples=3000, sigma=1.0, eps=eps, reach=reach, failure=failure)
        assert (bound > truth).mean() <= failure + 3 * np.sqrt(failure / n)
    # Looking as often without sharing the failure out errs more often than stated: the test would see it.
    hits = np.cumsum([rng.binomial(k, p, size=n) for k in (100, 100, 200, 400, 800, 1400)], axis=0)
    naive = np.max([radius(at_least(h, k, failure), 1.0) for h, k in zip(hits, (100, 200, 400, 800, 1600, 3000), strict=True)], axis=0)
    assert (naive > truth).mean() > failure + 3 * np.sqrt(failure / n)


def test_it_certifies_as_many_rows_as_a_fixed_number_of_answers_for_a_fifth_of_them():
    """Against the procedure with all 10,000 answers: rows whose fate is plain are left early, the others are followed."""
    rng, n = np.random.default_rng(0), 400
    p = rng.beta(6, 0.7, size=n)  # most rows are clear, some lie about the limit
    asked = [0]

    def ask(rows, more):
        asked[0] += more * len(rows)
        return rng.binomial(more, p[rows])

    bound = followed(ask, n, samples=10_000, sigma=1.0, eps=1.0, reach=1.0, failure=0.001 / n)
    fixed = radius(at_least(rng.binomial(10_000, p), 10_000, 0.001 / n), 1.0)
    assert 0.4 < (fixed > 1).mean() < 0.9
    assert (bound > 1).mean() >= (fixed > 1).mean() - 0.01
    assert asked[0] < 10_000 * n / 5


def test_few_answers_are_looked_at_once():
    bound = followed(lambda rows, more: np.full(len(rows), more), 2, samples=30, sigma=1.0, eps=9.0, reach=1.0, failure=0.01)
    np.testing.assert_allclose(bound, norm.ppf(0.01 ** (1 / 30)))


def test_the_answers_it_asks_for_are_counted_and_stop_early():
    counted, x = Counted(linear(W, 0.5)), np.array([[2.0, 0.0], [-0.1, 0.0], [0.03, 0.1]])
    found = Smoothing(sigma=0.2)(counted, x, np.array([1, 0, 1]), LpBall(p=2, eps=0.1), rng_for(0))
    np.testing.assert_array_equal(found.holds, [True, False, False])
    assert 300 <= counted.queries < 12_000


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
    with pytest.raises(InputError, match=r"reach is 0\.5"):
        Smoothing(reach=0.5)


def test_a_column_that_never_varies_is_no_whole_number():
    from types import SimpleNamespace

    from carbide.data.live import dataset_of

    x = np.random.default_rng(0).uniform(size=(50, 3))
    x[:, 0] = 2.0
    y = np.arange(50) % 2
    case = SimpleNamespace(model=SimpleNamespace(space=dataset_of(x, y).space))
    assert (case.model.space.step > 0).any()
    assert Smoothing().refuses(case, LpBall(p=2, eps=0.1)) is None
    x[:, 0] = np.arange(50) % 5
    case = SimpleNamespace(model=SimpleNamespace(space=dataset_of(x, y).space))
    assert "whole numbers" in (Smoothing().refuses(case, LpBall(p=2, eps=0.1)) or "")
