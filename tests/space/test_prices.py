"""Price tables: what they charge, what they refuse, and the round trip through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.space.prices import as_mapping, check_prices, cost, load_prices, matrices, price_arrays, save_prices
from carbide.types import InputError, Kind, Price, PriceTable, Ratio, Space

SPACE = Space.table(["amount", "hour", "country", "limit", "rate"], lower=np.array([0.0, 0, 0, 0, 0]), upper=np.array([np.inf, 23, 2, np.inf, np.inf]),
                    kind=np.array([Kind.REAL, Kind.INTEGER, Kind.CATEGORICAL, Kind.REAL, Kind.REAL]), mutable=np.array([1, 1, 1, 0, 1], bool),
                    relations=(Ratio(target=4, numerator=0, denominator=3),))  # fmt: skip
GIVEN = {"currency": "EUR", "gain": "amount",
         "prices": {"amount": {"down": 1.5}, "hour": {"up": 0, "down": 2, "fixed": 3}, "country": {"matrix": [[0, 4, None], [1, 0, 2], [5, 6, 0]], "fixed": 1},
                    "limit": {"up": 1, "down": 1}}}  # fmt: skip
ROW = np.array([[100.0, 5.0, 1.0, 50.0, 2.0]])


def changed(**values: float) -> np.ndarray:
    row = ROW.copy()
    for name, value in values.items():
        row[0, SPACE.index(name)] = value
    return row


@pytest.mark.parametrize(("values", "paid"), [
    ({}, 0.0), ({"amount": 90.0}, 15.0), ({"amount": 110.0}, np.inf), ({"hour": 7.0}, 3.0), ({"hour": 4.0}, 5.0), ({"amount": 90.0, "hour": 4.0}, 20.0),
    ({"country": 0.0}, 2.0), ({"country": 2.0}, 3.0), ({"country": 7.0}, np.inf), ({"country": 0.5}, np.inf), ({"limit": 51.0}, np.inf),
    ({"amount": 90.0, "rate": 1.8}, 15.0), ({"amount": np.nan}, np.inf),
])  # fmt: skip
def test_cost_is_what_the_table_says(values, paid):
    assert cost(ROW, changed(**values), load_prices(GIVEN, SPACE), SPACE)[0] == pytest.approx(paid)


def test_matrix_reads_from_row_to_column_and_null_is_impossible():
    start = np.repeat(ROW, 3, axis=0)
    start[:, 2] = 0.0
    end = start.copy()
    end[:, 2] = (0.0, 1.0, 2.0)
    assert cost(start, end, load_prices(GIVEN, SPACE), SPACE).tolist() == [0.0, 5.0, np.inf]


def test_missing_values_that_stay_cost_nothing():
    row = changed(amount=np.nan, country=np.nan)
    assert cost(row, row.copy(), load_prices(GIVEN, SPACE), SPACE)[0] == 0.0


def test_immutable_and_unnamed_features_have_no_price():
    up, down, fixed = price_arrays(load_prices(GIVEN, SPACE), SPACE)
    assert np.isinf(up[[0, 2, 3, 4]]).all()
    assert np.isinf(down[[2, 3, 4]]).all()
    assert (down[0], up[1], down[1], fixed[1]) == (1.5, 0.0, 2.0, 3.0)
    assert list(matrices(load_prices(GIVEN, SPACE), SPACE)) == [2]


def test_round_trip(tmp_path):
    table = load_prices(GIVEN, SPACE)
    save_prices(table, tmp_path / "prices.json")
    again = load_prices(tmp_path / "prices.json", SPACE)
    assert as_mapping(again) == as_mapping(table)
    assert again.currency == "EUR"
    assert again.gain == "amount"
    assert "Infinity" not in (tmp_path / "prices.json").read_text()


positive = st.floats(0, 1e6)


@given(up=positive, down=positive, fixed=positive, a=st.floats(-1e6, 1e6), b=st.floats(-1e6, 1e6))
def test_cost_of_one_feature_is_its_formula(up, down, fixed, a, b):
    space = Space.table(["v"])
    table = load_prices(json.loads(json.dumps({"prices": {"v": {"up": up, "down": down, "fixed": fixed}}})), space)
    expected = 0.0 if a == b else fixed + (up * (b - a) if b > a else down * (a - b))
    assert cost(np.array([[a]]), np.array([[b]]), table, space)[0] == pytest.approx(expected)


@pytest.mark.parametrize(("given", "words"), [
    ({}, "has no prices"), ({"prices": 3}, "has no prices"), ([1], "has no prices"), ({"prices": {}, "colour": 1}, "key 'colour'"),
    ({"prices": {"weight": {"up": 1}}}, "'weight' is not in the space"), ({"prices": {"amount": 3}}, "price of amount is 3"),
    ({"prices": {"amount": {"upp": 1}}}, "key 'upp'"), ({"prices": {"amount": {"up": -1}}}, "price up of amount is -1"),
    ({"prices": {"amount": {"up": "1"}}}, "price up of amount is '1'"), ({"prices": {"amount": {"up": True}}}, "is True"),
    ({"prices": {"amount": {"fixed": float("inf")}}}, "price fixed of amount is inf"), ({"prices": {"amount": {"up": float("nan")}}}, "is nan"),
    ({"prices": {"rate": {"up": 1}}}, "ratio that follows its parts"), ({"prices": {}, "gain": "profit"}, "'profit' is not in the space"),
    ({"prices": {}, "currency": 5}, "currency is 5"),
    ({"prices": {"country": {"matrix": [[0, 1], [1, 0]]}}}, "has 2 rows, but its values are 0 to 2"),
    ({"prices": {"country": {"matrix": [[0, 1, 1], [1, 0, 1]]}}}, "has shape"), ({"prices": {"country": {"matrix": [[0, 1], [1]]}}}, "not a table of numbers"),
    ({"prices": {"country": {"matrix": [[0, 1, -1], [1, 0, 1], [1, 1, 0]]}}}, "holds -1"),
    ({"prices": {"country": {"matrix": [[1, 1, 1], [1, 0, 1], [1, 1, 0]]}}}, "charges 1 for staying"),
])  # fmt: skip
def test_wrong_tables_are_named(given, words):
    with pytest.raises(InputError, match=words):
        load_prices(given, SPACE)


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.json cannot be read"):
        load_prices(tmp_path / "none.json", SPACE)
    (tmp_path / "broken.json").write_text('{"prices": ')
    with pytest.raises(InputError, match="is not JSON"):
        load_prices(str(tmp_path / "broken.json"), SPACE)


def test_matrix_needs_a_first_value():
    with pytest.raises(InputError, match="needs a lower bound"):
        check_prices(PriceTable(prices={"v": Price(matrix=np.zeros((2, 2)))}), Space.table(["v"]))


def test_blanks_around_a_name_are_the_data_files_not_the_users():
    space = Space.table(["amount", "hour"])
    assert set(load_prices({"prices": {" amount": {"up": 1}}, "gain": "hour "}, space).prices) == {"amount"}
    padded = Space.table([" amount", "hour"])
    assert set(load_prices({"prices": {" amount": {"up": 1}}}, padded).prices) == {" amount"}
