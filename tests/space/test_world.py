"""One-hot prices, stairs, missing values, implications and sums: files, words, prices, membership and contradictions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from carbide.cli import app
from carbide.space.feasible import contradiction
from carbide.space.files import load_space, save_space, space_of, table_json
from carbide.space.infer import describe_space, infer_space
from carbide.space.membership import allowed
from carbide.space.prices import as_mapping, cost, group_moves, load_prices, price_arrays
from carbide.space.relations import keeps, recompute
from carbide.space.repair import repair
from carbide.space.words import describe_prices
from carbide.types import Implication, InputError, Space, Sum

CASE = {
    "features": [{"name": "amount", "lower": 0, "upper": 5000}, {"name": "new", "kind": "integer", "lower": 0, "upper": 1},
                 {"name": "age", "lower": 0, "upper": 900}, {"name": "red", "kind": "one-hot"}, {"name": "green", "kind": "one-hot"},
                 {"name": "blue", "kind": "one-hot"}, {"name": "fees", "lower": 0, "upper": 50}, {"name": "total", "lower": 0, "upper": 5050},
                 {"name": "income", "lower": 0, "upper": 9, "missing": True}],
    "groups": [["red", "green", "blue"]],
    "relations": [{"if": {"new": {"equals": 1}}, "then": {"age": {"at_most": 0}}}, {"target": "total", "sum": {"amount": 1, "fees": 2}}],
    "currency": "EUR ",
    "gain": {"feature": "amount", "follows": True},
    "prices": {"amount": {"down": [[10, 1], [None, 4]], "up": 2}, "new": {"up": 3, "fixed": 1}, "income": {"up": 1, "hide": 2.5, "fill": 7}},
    "group_prices": [{"features": ["blue", "red", "green"], "matrix": [[0, 1, None], [2, 0, 3], [4, 5, 0]], "fixed": 0.5}],
}  # fmt: skip
SPACE = space_of(CASE)
PRICES = load_prices(CASE, SPACE)
ROW = np.array([[100.0, 0, 5, 1, 0, 0, 10, 120, 4]])


def changed(**values: float) -> np.ndarray:
    row = ROW.copy()
    for name, value in values.items():
        row[0, SPACE.index(name)] = value
    return recompute(row, SPACE)


@pytest.mark.parametrize(("values", "paid"), [
    ({"amount": 95}, 1.0), ({"amount": 90}, 1.0), ({"amount": 89.9}, 4.0), ({"amount": 101}, 2.0), ({"new": 1}, 4.0), ({"red": 0, "green": 1}, 3.5),
    ({"red": 0, "blue": 1}, 2.5), ({"income": np.nan}, 2.5), ({"income": 6}, 2.0), ({"red": 0}, np.inf), ({"fees": 11}, np.inf),
    ({"amount": 95, "red": 0, "blue": 1, "income": np.nan}, 6.0),
])  # fmt: skip
def test_what_moves_cost(values, paid):
    assert cost(ROW, changed(**values), PRICES, SPACE)[0] == pytest.approx(paid)


def test_a_missing_value_is_filled_at_its_price_and_a_group_that_is_none_cannot_be_moved():
    assert cost(changed(income=np.nan), changed(income=8), PRICES, SPACE).tolist() == [7.0]
    assert cost(changed(red=0), ROW, PRICES, SPACE).tolist() == [np.inf]
    assert group_moves(PRICES, SPACE)[0].tolist() == [[0.0, 3.5, 2.5], [5.5, 0.0, 4.5], [1.5, np.inf, 0.0]]  # in the order of the space


@pytest.mark.parametrize(("values", "good"), [
    ({"new": 1}, False), ({"new": 1, "age": 0}, True), ({"age": 7}, True), ({"income": np.nan}, True), ({"age": np.nan}, False), ({"amount": 90}, True),
    ({"red": 0, "blue": 1}, True),
])  # fmt: skip
def test_what_rows_may_become(values, good):
    assert allowed(changed(**values), ROW, SPACE).tolist() == [good]


def test_sums_follow_and_are_repaired():
    assert changed(amount=50, fees=5)[0, 7] == 60
    stale = ROW.copy()
    stale[0, 0] = 50.0
    assert not allowed(stale, ROW, SPACE)[0]
    assert repair(stale, ROW, SPACE)[0, 7] == 70


@given(st.floats(-3, 3), st.floats(-3, 3))
def test_an_implication_is_its_formula(a, b):
    r = Implication(cause=0, effect=1, at_least=-1.0, at_most=1.0, lower=0.0)
    assert keeps(np.array([[a, b]]), r)[0] == (not -1 <= a <= 1 or b >= 0)


def test_a_missing_cause_implies_nothing_and_a_missing_effect_breaks():
    r = Implication(cause=0, effect=1, at_least=1.0, upper=0.0)
    assert keeps(np.array([[np.nan, 5.0], [1.0, np.nan], [0.0, np.nan]]), r).tolist() == [True, False, True]


def test_linear_relaxation_never_charges_more():
    up, down, fixed = price_arrays(PRICES, SPACE)
    rng = np.random.default_rng(0)
    for _ in range(300):
        row = changed(amount=rng.uniform(0, 200), new=rng.integers(0, 2), income=rng.uniform(0, 9))
        row[0, 3:6] = np.eye(3)[rng.integers(3)]
        moves = row - ROW
        cheap = np.where(moves > 0, fixed + np.where(moves > 0, up * moves, 0), 0) + np.where(
            moves < 0, fixed - np.where(moves < 0, down * moves, 0), 0
        )
        cheap[0, 7] = 0
        assert cheap.sum() <= cost(ROW, row, PRICES, SPACE)[0] + 1e-9


def test_files_come_back_as_they_were(tmp_path):
    save_space(SPACE, tmp_path / "space.json")
    again = load_space(tmp_path / "space.json")
    assert again.relations == SPACE.relations
    assert np.array_equal(again.missing, SPACE.missing)
    assert as_mapping(load_prices(as_mapping(PRICES), SPACE)) == as_mapping(PRICES)
    assert as_mapping(PRICES) == {key: CASE[key] for key in ("currency", "gain", "prices", "group_prices")} | {"prices": {
        "amount": {"up": 2.0, "down": [[10.0, 1.0], [None, 4.0]]}, "new": {"up": 3.0, "fixed": 1.0}, "income": {"up": 1.0, "hide": 2.5, "fill": 7.0}}}  # fmt: skip
    assert table_json(SPACE)["relations"] == CASE["relations"]


def test_the_command_prints_everything_in_words(tmp_path):
    (tmp_path / "case.json").write_text(json.dumps(CASE))
    result = CliRunner().invoke(app, ["space", "show", str(tmp_path / "case.json")])
    assert result.exit_code == 0
    said = " ".join(result.output.split())
    for words in ("if new = 1, then age <= 0", "total = amount + 2 fees", "exactly one is 1 (group 1): red, green, blue", "a changed row may lack it",
                  "EUR 2 a unit up; down by at most 10 EUR 1, by any distance EUR 4", "EUR 2.5 to make it missing", "EUR 7 to fill it",
                  "another one of blue, red, green: a matrix of prices, EUR 1.5 to EUR 5.5", "earns its amount as it is once changed"):  # fmt: skip
        assert words in said, words
    assert describe_space(SPACE) in result.output
    assert describe_prices(PRICES, SPACE) in result.output


def without(**changes: object) -> dict:
    return {**CASE, **changes}


@pytest.mark.parametrize(("raw", "match"), [
    (without(relations=[{"if": {"nw": {"equals": 1}}, "then": {"age": {"at_most": 0}}}]), "'nw', which is not a feature; did you mean 'new'"),
    (without(relations=[{"if": {"new": {"equals": 1}}, "then": {"age": {"most": 0}}}]), "no key 'most'; its keys are at_least"),
    (without(relations=[{"if": {"new": {"equals": 1, "at_most": 1}}, "then": {"age": {"at_most": 0}}}]), "has equals and another bound"),
    (without(relations=[{"if": {"new": {"equals": 1}}, "then": {"age": {"at_least": 5, "at_most": 1}}}]), "at_least 5 and at_most 1"),
    (without(relations=[{"if": {"new": {"equals": 1}}, "then": {"new": {"at_most": 0}}}]), "'new' on both sides"),
    (without(relations=[{"if": {"new": {"equals": 1}}, "then": {}}]), "name one feature"),
    (without(relations=[{"if": {"new": {"at_least": 0}}, "then": {"age": {"at_least": 1000}}}]), "cannot hold"),
    (without(relations=[{"target": "total", "sum": {"total": 1}}]), "part of its own sum"),
    (without(relations=[{"target": "total", "sum": {"amount": None}}]), "coefficient is null"),
    (without(relations=[{"if": {"new": {"equals": 1}}, "then": {"age": {"at_most": 0}}}, {"if": {"new": {"equals": 0}}, "then": {"age": {"at_least": 5}}},
                        {"linear": {"age": -1}, "upper": -1}, {"linear": {"age": 1}, "upper": 4}]), "relations 0, 1, 2, 3 contradict"),
    (without(prices={"amount": {"down": -1}}), "price down of amount is -1"),
    (without(prices={"amount": {"down": []}}), "stairs such as"),
    (without(prices={"amount": {"down": [[10, 2], [20, 1]]}}), "steps to 1 at 20"),
    (without(prices={"amount": {"down": [[10, 2], [5, 3]]}}), "steps to 3 at 5"),
    (without(prices={"amount": {"down": [[10, None]]}}), "is None; give a number"),
    (without(prices={"amount": {"hide": 1}}), "does not let it be; add missing: true"),
    (without(prices={"amount": {"fill": 1}}), "a relation or one-hot group holds it"),
    (without(prices={"red": {"up": 1}}), "red has a price of its own and one in its group"),
    (without(prices={"total": {"up": 1}}), "a sum that follows its parts"),
    (without(group_prices=[{"features": ["red", "green"], "fixed": 1}]), "no one-hot group of the space"),
    (without(group_prices=[{"features": ["red", "green", "blue"], "fixed": -1}]), "below 0"),
    (without(group_prices=[{"features": ["red", "green", "blue"]}]), "neither fixed nor matrix"),
    (without(group_prices=[{"features": ["red", "green", "blue"], "matrix": [[0, 1], [1, 0]]}]), "shape .2, 2.; give 3 rows"),
    (without(group_prices=[{"features": ["red", "green", "blue"], "fixed": 1, "up": 1}]), "has a key 'up'"),
    (without(group_prices=CASE["group_prices"] * 2), "has two prices"),
    (without(gain={"feature": "amount", "follow": True}), "gain has a key 'follow'"),
    (without(gain={"follows": True}), "write {\"feature\""),
    (without(features=[*CASE["features"][:8], {"name": "income", "missing": 1}]), "missing is 1"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(raw, match):
    with pytest.raises(InputError, match=match) as error:
        space_of(raw)
    assert "\n" not in str(error.value)


def test_contradictions_of_implications_are_found_where_no_row_keeps_them():
    space = Space.table(["a", "b", "c"], lower=np.zeros(3), upper=np.full(3, 9.0), kind=np.array([1, 0, 0]))
    low, high = (Implication(cause=0, effect=1, at_most=4.0, upper=2.0), Implication(cause=0, effect=1, at_least=5.0, upper=2.0))
    total = Sum(target=2, features=(1,), coefficients=(2.0,))
    above = Implication(cause=1, effect=2, at_least=0.0, lower=5.0)
    assert contradiction(space, (low, high, total)) == ()
    assert contradiction(space, (low, high, total, above)) == (0, 1, 2, 3)
    assert contradiction(space, (low, total, above)) == ()


def test_columns_that_lack_values_may_lack_them():
    space = infer_space(np.array([[1.0, 2.0], [np.nan, 3.0]]), names=("a", "b"))
    assert space.missing is not None
    assert space.missing.tolist() == [True, False]
