"""Spaces guessed from rows: kinds, groups, bounds and relations that were put there, and none that were not."""

from __future__ import annotations

import numpy as np
import pytest

from carbide.space.files import space_of, table_json
from carbide.space.infer import describe_space, holding, infer_space
from carbide.types import InputError, Kind, Linear, Ratio, Space


def named(space, *names):
    return tuple(space.index(n) for n in names)


@pytest.fixture
def rows():
    """400 rows of ten features with known kinds and relations."""
    rng = np.random.default_rng(0)
    low, mid, high = np.sort(rng.gamma(2, 10, (3, 400)), axis=0)
    count, total = rng.integers(1, 30, 400).astype(float), rng.gamma(3, 40, 400)
    colour = np.eye(3)[rng.integers(3, size=400)]
    names = ("min_amount", "avg amount", "amountMax", "visits", "total spent", "mean_spent", "is_new", "colour_red", "colour_green", "colour_blue")
    return np.column_stack([low, mid, high, count, total, total / count, rng.integers(0, 2, 400), colour]), names


def test_kinds_groups_and_relations_that_were_put_there(rows):
    x, names = rows
    space = infer_space(x, names=names)
    assert [Kind(int(k)) for k in space.kind] == [Kind.REAL] * 3 + [Kind.INTEGER, Kind.REAL, Kind.REAL, Kind.INTEGER] + [Kind.ONE_HOT] * 3
    assert space.groups == (named(space, "colour_red", "colour_green", "colour_blue"),)
    chain = [Linear(features=named(space, a, b), coefficients=(1.0, -1.0), upper=0.0)
             for a, b in (("min_amount", "avg amount"), ("avg amount", "amountMax"))]  # fmt: skip
    ratio = Ratio(target=space.index("mean_spent"), numerator=space.index("total spent"), denominator=space.index("visits"))
    assert set(space.relations) == {*chain, ratio}
    assert ((x >= space.lower) & (x <= space.upper)).all()
    assert (space.lower >= 0).all()


def test_one_row_against_a_relation_ends_it(rows):
    x, names = rows
    broken = x.copy()
    broken[7, 0] = broken[7, 1] + 1
    broken[9, 5] *= 1.01
    kept = infer_space(broken, names=names).relations
    assert [type(r) for r in kept] == [Linear]


def test_two_ones_in_a_row_end_a_group(rows):
    x, names = rows
    broken = x.copy()
    broken[3, 7:] = 1
    space = infer_space(broken, names=names)
    assert space.groups == ()
    assert (space.kind[7:] == Kind.INTEGER).all()


def test_neighbours_without_a_common_name_are_a_group_from_three_on():
    x = np.eye(4)[np.random.default_rng(0).integers(4, size=60)]
    assert infer_space(np.column_stack([x, x[:, 0]]), names=list("abcde")).groups == ((0, 1, 2, 3),)
    pair = np.column_stack([x[:, 0], 1 - x[:, 0]])
    assert infer_space(pair, names=["old", "rich"]).groups == ()


def test_bounds_reach_a_margin_beyond_the_rows():
    x = np.array([[-10.0, 5, 0.2, 7], [10.0, 15.5, 0.9, 7]])
    space = infer_space(x, names=list("abcd"), margin=0.5)
    assert space.lower.tolist() == [-20.0, 0.0, 0.0, 7.0]
    assert space.upper.tolist() == [20.0, 20.75, 1.0, 7.0]
    assert infer_space(x, names=list("abcd"), margin=0.0).upper.tolist() == [10.0, 15.5, 0.9, 7.0]


def test_gaps_and_categories_are_respected():
    from carbide.types import Dataset

    bare = Space.table(["n", "town"], lower=np.array([-np.inf, 0]), upper=np.array([np.inf, 4]), kind=np.array([Kind.REAL, Kind.CATEGORICAL]))
    x = np.array([[np.nan, 0], [1.5, 2], [2.0, 1]])
    data = Dataset(x=x, y=np.array([0, 1, 0]), ids=np.array(["a", "b", "c"]), source=np.array(["s"] * 3), space=bare, classes=2)
    space = infer_space(data)
    assert space.kind.tolist() == [Kind.REAL, Kind.CATEGORICAL]
    assert space.upper[1] == 4
    assert space.lower[0] == pytest.approx(1.45)


def test_the_words_name_every_feature_and_relation_and_the_file_round_trips(rows):
    x, names = rows
    space = infer_space(x, names=names)
    words = describe_space(space)
    assert all(name in words for name in names)
    assert "always: min_amount <= avg amount" in words
    assert "always: mean_spent = total spent / visits" in words
    assert "a whole number from" in words
    assert "group 1" in words
    again = space_of(table_json(space))
    assert again.relations == space.relations
    np.testing.assert_array_equal(again.upper, space.upper)
    assert describe_space(Space.image((3, 8, 9))) == "images of 3 channel(s), 8 by 9 pixels, values 0 to 1"


def test_rows_that_cannot_be_used():
    with pytest.raises(InputError, match="at least one row"):
        infer_space(np.zeros((0, 3)))
    with pytest.raises(InputError, match="margin is -1"):
        infer_space(np.zeros((3, 3)), margin=-1)
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="'b' holds no numbers"):
        infer_space(pandas.DataFrame({"a": [1], "b": ["x"]}))


def test_a_draft_is_moved_out_to_hold_other_rows():
    space = Space.table(
        ["a", "b", "c"], lower=np.array([0.0, 0.0, 0.0]), upper=np.array([1.0, 3.0, 2.0]), kind=[Kind.REAL, Kind.INTEGER, Kind.CATEGORICAL]
    )
    held = holding(space, np.array([[-2.0, 1.0, 7.0], [np.nan, 9.0, 0.0]]))
    assert (held.lower.tolist(), held.upper.tolist()) == ([-2.0, 0.0, 0.0], [1.0, 9.0, 2.0])  # categories are codes: there are no others
    np.testing.assert_array_equal(holding(space, np.zeros((0, 3))).upper, space.upper)
