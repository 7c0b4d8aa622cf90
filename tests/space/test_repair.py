import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.space.membership import allowed
from carbide.space.repair import repair
from carbide.types import Kind, Linear, Ratio, Space

KINDS = np.array([Kind.REAL, Kind.INTEGER, Kind.REAL, Kind.ONE_HOT, Kind.ONE_HOT, Kind.ONE_HOT, Kind.REAL, Kind.REAL])
SPACE = Space.table(
    ["amount", "count", "fixed", "red", "green", "blue", "limit", "rate"],
    lower=np.array([0.0, 0, 0, 0, 0, 0, 0, 0]), upper=np.array([100.0, 9, 5, 1, 1, 1, 100, 1000]),
    mutable=np.array([1, 1, 0, 1, 1, 1, 1, 0], bool), kind=KINDS, groups=((3, 4, 5),),
    relations=(Linear(features=(0, 6), coefficients=(1.0, -1.0), upper=0.0), Ratio(target=7, numerator=0, denominator=6)),
)  # fmt: skip


def rows(rng, n):
    limit = rng.uniform(10, 100, size=n)
    amount = limit * rng.uniform(size=n)
    one_hot = np.eye(3)[rng.integers(3, size=n)]
    return np.column_stack([amount, rng.integers(0, 10, size=n), rng.uniform(0, 5, size=n), one_hot, limit, amount / limit])


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.sampled_from((0.1, 1.0, 30.0)))
def test_whatever_is_proposed_comes_back_as_a_row_that_exists(seed, size):
    rng = np.random.default_rng(seed)
    clean = rows(rng, 8)
    x = clean + size * rng.normal(size=clean.shape)
    x[0, 0] = np.nan
    fixed = repair(x, clean, SPACE)
    assert allowed(fixed, clean, SPACE).all()
    np.testing.assert_array_equal(fixed[:, 2], clean[:, 2])
    plain = [0, 1, 6]
    assert (np.abs(fixed - clean)[:, plain] <= np.abs(np.nan_to_num(x, nan=clean[0, 0]) - clean)[:, plain] + 1e-9).all(), "a change grew"


def test_a_row_that_exists_is_left_alone():
    rng = np.random.default_rng(0)
    clean, x = rows(rng, 5), rows(rng, 5)
    x[:, 2] = clean[:, 2]
    np.testing.assert_allclose(repair(x, clean, SPACE), x)


def test_whole_numbers_round_towards_the_clean_value_even_off_the_grid():
    space = Space.table(["count"], lower=np.zeros(1), upper=np.full(1, 9.0), kind=np.array([Kind.INTEGER]))
    clean = np.array([[2.0], [2.0], [2.5], [2.5]])
    np.testing.assert_array_equal(repair(np.array([[4.9], [0.1], [2.9], [4.2]]), clean, space), [[4], [1], [2.5], [4]])
