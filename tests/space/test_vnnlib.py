import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.space.vnnlib import parse_vnnlib, read_vnnlib
from carbide.types import InputError

HEAD = "(declare-const X_0 Real)\n(declare-const X_1 Real)\n(declare-const Y_0 Real)\n(declare-const Y_1 Real)\n(declare-const Y_2 Real)\n"
BOX = "(assert (<= X_0 1)) (assert (>= X_0 -1.5e0)) (assert (and (<= X_1 0.25) (>= X_1 0)))\n"


def test_a_box_and_a_disjunction_of_rivals(tmp_path):
    file = tmp_path / "a.vnnlib"
    file.write_text("; class 0 must win\n" + HEAD + BOX + "(assert (or (and (>= Y_1 Y_0)) (and (>= Y_2 Y_0) (<= Y_2 7.0))))")
    found = read_vnnlib(file)
    assert (found.inputs, found.outputs, len(found.cases)) == (2, 3, 2)
    np.testing.assert_array_equal(found.cases[0].lower, [-1.5, 0])
    np.testing.assert_array_equal(found.cases[0].upper, [1, 0.25])
    np.testing.assert_array_equal(found.cases[0].coefficients, [[1, -1, 0]])
    np.testing.assert_array_equal(found.cases[1].limits, [0, 7])
    x = np.array([0.0, 0.1])
    assert found.broken_by(x, np.array([1.0, 2.0, 0.0]))
    assert not found.broken_by(x, np.array([1.0, 0.0, 8.0]))
    assert not found.broken_by(x + 1, np.array([1.0, 2.0, 0.0]))


def test_boxes_may_be_alternatives_and_empty_ones_are_left_out():
    text = (
        HEAD + "(assert (or (and (<= X_0 1) (>= X_0 0) (<= X_1 1) (>= X_1 0)) (and (<= X_0 -1) (>= X_0 0) (<= X_1 1) (>= X_1 0))))(assert (>= Y_0 5))"
    )
    assert len(parse_vnnlib(text).cases) == 1


numbers = st.integers(-8, 8).map(lambda k: k / 4)
atoms = st.tuples(st.sampled_from(["<=", ">="]), st.sampled_from(["Y_0", "Y_1", "Y_2"]), st.one_of(numbers, st.sampled_from(["Y_0", "Y_1", "Y_2"])))
linears = st.tuples(st.sampled_from(["<=", ">="]), numbers, numbers).map(lambda t: (t[0], f"(+ (* {t[1]} Y_0) (- Y_1 (* Y_2 0.5)) (- 1))", t[2]))
formulas = st.recursive(
    st.one_of(atoms, linears), lambda inner: st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3)), max_leaves=8
)


def written(formula) -> str:
    if formula[0] in ("and", "or"):
        return f"({formula[0]} {' '.join(written(part) for part in formula[1])})"
    return f"({formula[0]} {formula[1]} {formula[2]})"


def truth(formula, y) -> bool:
    if formula[0] in ("and", "or"):
        return (all if formula[0] == "and" else any)(truth(part, y) for part in formula[1])
    value = lambda side: y[int(side[2])] if isinstance(side, str) and side[0] == "Y" else side  # noqa: E731
    left = float(formula[1].split()[2]) * y[0] + (y[1] - 0.5 * y[2]) - 1 if formula[1].startswith("(") else value(formula[1])
    return left <= value(formula[2]) if formula[0] == "<=" else left >= value(formula[2])


@given(st.lists(formulas, min_size=1, max_size=2), st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=8))
def test_formulas_mean_what_they_say(asserted, outputs):
    found = parse_vnnlib(HEAD + BOX + "".join(f"(assert {written(f)})" for f in asserted).replace(") Y_0) (- Y_1", ") Y_0) (- Y_1"))
    for y in outputs:
        assert found.broken_by(np.zeros(2), np.array(y)) == all(truth(f, y) for f in asserted)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + BOX + "(assert (<= Y_0 Y_1)", "not closed"),
        (HEAD + BOX + ")", "not opened"),
        (HEAD + "(check-sat)", "check-sat"),
        (HEAD + BOX + "(assert (<= (* Y_0 Y_1) 1))", "not linear"),
        (HEAD + BOX + "(assert (<= (+ X_0 X_1) 1))", "one by one"),
        (HEAD + BOX + "(assert (<= X_0 Y_1))", "apart from outputs"),
        (HEAD + BOX + "(assert (<= Y_7 1))", "Y_7 is used"),
        (HEAD + BOX + "(assert (<= Y_0 one))", "'one'"),
        (HEAD + BOX + "(assert (= Y_0 1))", "= Y_0 1"),
        (HEAD + BOX + "(assert (<= Y_0 nan))", "'nan'"),
        (HEAD + "(assert (<= X_0 1))(assert (>= X_0 0))(assert (>= X_1 0))", "X_1 has no"),
        (HEAD + BOX + "(assert (>= X_0 2))", "no input"),
        ("(declare-const X_1 Real)(declare-const Y_0 Real)", "none left out"),
        ("(declare-const Z_1 Real)", "Z_1"),
        (HEAD + BOX + "(assert (or))", "(or)"),
        (HEAD + BOX + "(assert (or (>= Y_0 1) (>= Y_1 1)))" * 17, "more than"),
        ("hello", "outside"),
    ],
)
def test_what_is_not_understood_is_said(text, words):
    with pytest.raises(InputError) as error:
        parse_vnnlib(text)
    assert words in str(error.value)


def test_a_file_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_vnnlib(tmp_path / "no.vnnlib")
