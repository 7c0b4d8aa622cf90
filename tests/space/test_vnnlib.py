"""VNN-LIB properties: small files by hand, texts that come back as the same numbers, and whatever else is refused in one sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from carbide.space import vnnlib
from carbide.space.vnnlib import Property, Region, load_vnnlib, parse_vnnlib
from carbide.types import InputError


def declared(inputs: int, outputs: int) -> str:
    return "".join(f"(declare-const X_{i} Real)\n" for i in range(inputs)) + "".join(f"(declare-const Y_{i} Real)\n" for i in range(outputs))


def boxed(inputs: int, low: float = 0.0, high: float = 1.0) -> str:
    return "".join(f"(assert (>= X_{i} {low}))\n(assert (<= X_{i} {high}))\n" for i in range(inputs))


def test_an_image_property_as_competitions_write_it() -> None:
    """Robustness of label 1 of 3: the box, and either other output at least as large."""
    text = "; Property with label: 1\n" + declared(2, 3) + boxed(2, -0.1, 0.25) + "(assert (or\n  (and (>= Y_0 Y_1))\n  (and (>= Y_2 Y_1))\n))\n"
    unsafe = parse_vnnlib(text)
    assert (unsafe.inputs, unsafe.outputs, len(unsafe.regions)) == (2, 3, 2)
    for region, row in zip(unsafe.regions, ([-1.0, 1.0, 0.0], [0.0, 1.0, -1.0]), strict=True):
        assert region.lower.tolist() == [-0.1, -0.1]
        assert region.upper.tolist() == [0.25, 0.25]
        assert region.matrix.tolist() == [row]
        assert region.bound.tolist() == [0.0]
    x, y = np.zeros((4, 2)), np.array([[0.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 1.0, 1.0], [5.0, 1.0, 0.0]])
    x[3] = 0.3
    assert unsafe.met(x, y).tolist() == [False, True, True, False]


def test_a_control_property_with_several_boxes() -> None:
    """Disjunctions over inputs, and constants on either side, as for aircraft collision avoidance."""
    text = (
        declared(2, 2).replace("declare-const X_0 Real", "declare-fun X_0 () Real")
        + """
    (set-info :source |by hand; (with parentheses|)
    (assert (or (and (<= X_0 -0.5) (>= X_0 -1)) (and (<= 0.5 X_0) (>= 1.0e0 X_0))))
    (assert (= X_1 (- 2))) (assert (<= (- (* 2 Y_0) Y_1 3) (+ Y_1 1)))
    (assert (>= Y_0 -1.5e-2)) (check-sat)"""
    )
    unsafe = parse_vnnlib(text)
    assert [(r.lower.tolist(), r.upper.tolist()) for r in unsafe.regions] == [([-1.0, -2.0], [-0.5, -2.0]), ([0.5, -2.0], [1.0, -2.0])]
    for region in unsafe.regions:
        assert region.matrix.tolist() == [[2.0, -2.0], [-1.0, 0.0]]
        assert region.bound.tolist() == [4.0, 0.015]


def test_nested_alternatives_are_multiplied_out() -> None:
    text = declared(1, 2) + boxed(1) + "(assert (and (or (<= Y_0 1) (<= Y_1 1)) (or (>= Y_0 0) (and (>= Y_1 0) (<= X_0 0.5)))))"
    unsafe = parse_vnnlib(text)
    assert len(unsafe.regions) == 4
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-0.5, 1.5, (500, 1)), rng.uniform(-2, 3, (500, 2))
    inside = ((x >= 0) & (x <= 1)).all(1)
    truth = inside & ((y[:, 0] <= 1) | (y[:, 1] <= 1)) & ((y[:, 0] >= 0) | ((y[:, 1] >= 0) & (x[:, 0] <= 0.5)))
    assert np.array_equal(unsafe.met(x, y), truth)


def test_the_tightest_bound_counts_and_empty_boxes_go() -> None:
    text = declared(1, 1) + boxed(1) + "(assert (>= (* -2 X_0) -1.0)) (assert (<= X_0 0.75)) (assert (or (<= X_0 -1) (<= Y_0 0)))"
    (region,) = parse_vnnlib(text).regions
    assert region.upper.tolist() == [0.5]
    none = parse_vnnlib(declared(1, 1) + boxed(1) + "(assert (<= 1 0))")
    assert none.regions == ()
    assert none.met(np.zeros((2, 1)), np.zeros((2, 1))).tolist() == [False, False]
    assert parse_vnnlib(none.text()).regions == ()
    assert len(parse_vnnlib(declared(1, 1) + boxed(1) + "(assert (<= (- Y_0 Y_0) 0))").regions) == 1


def test_plain_and_packed_files(tmp_path: Path) -> None:
    text = declared(1, 1) + boxed(1) + "(assert (<= Y_0 0))"
    (tmp_path / "a.vnnlib").write_text(text)
    (tmp_path / "b.vnnlib.gz").write_bytes(gzip.compress(text.encode()))
    first, second = (load_vnnlib(tmp_path / name) for name in ("a.vnnlib", "b.vnnlib.gz"))
    assert first.text() == second.text()
    for name, blob in (("cut.gz", gzip.compress(text.encode())[:-12]), ("bad.gz", b"\x1f\x8b\x08" + bytes(20)), ("bytes", b"\xff\xfe(assert)")):
        (tmp_path / name).write_bytes(blob)
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            load_vnnlib(tmp_path / name)
    with pytest.raises(InputError, match="No such file"):
        load_vnnlib(tmp_path / "absent.vnnlib")


def test_files_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vnnlib, "LIMIT", 1 << 16)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b" " * (1 << 20)))
    (tmp_path / "long").write_bytes(b" " * (1 << 17))
    for name in ("bomb.gz", "long"):
        with pytest.raises(InputError, match="more than 65536 bytes"):
            load_vnnlib(tmp_path / name)


@pytest.mark.parametrize(("text", "match"), [
    ("", "declares 0 inputs and 0 outputs"),
    ("(declare-const X_1 Real)", r"line 1, declares X_1 where X_0 is due"),
    ("(declare-const X_0 Int)", "declare real variables"),
    ("(declare-const Z_0 Real)", "declare real variables"),
    ("(declare-const X_0 Real) (declare-const X_0 Real)", "X_0 where X_1 is due"),
    ("(declare-network net (declare-input X Real [1]))", "write VNN-LIB 1.0"),
    (declared(1, 1) + "(assert (<= Y_0 0))", "X_0 no lower bound"),
    (declared(2, 1) + boxed(1) + "(assert (>= X_1 0))", "X_1 no upper bound"),
    (declared(2, 1) + boxed(2) + "(assert (<= X_0 X_1))", "relates X_0, X_1 in one inequality"),
    (declared(1, 1) + boxed(1) + "(assert (<= X_0 Y_0))", "relates X_0, Y_0"),
    (declared(1, 1) + boxed(1) + "(assert (<= (* Y_0 Y_0) 1))", r"multiplies variables in '\(\* Y_0 Y_0\)'"),
    (declared(1, 1) + boxed(1) + "(assert (< Y_0 1))", "reads and, or, <=, >= and ="),
    (declared(1, 1) + boxed(1) + "(assert (not (<= Y_0 1)))", "reads and, or"),
    (declared(1, 1) + boxed(1) + "(assert (<= (/ Y_0 2) 1))", r"computes '\(/ Y_0 2\)'"),
    (declared(1, 1) + boxed(1) + "(assert (<= Y_1 1))", "uses Y_1 before it is declared"),
    (declared(1, 1) + boxed(1) + "(assert (<= Y_0 nan))", "'nan' where a finite number"),
    (declared(1, 1) + boxed(1) + "(assert (<= Y_0 1e999))", "'1e999' where a finite number"),
    (declared(1, 1) + boxed(1) + "(assert (<= (* 1e200 1e200 Y_0) 1))", "numbers that overflow"),
    (declared(1, 1) + boxed(1) + "(assert (<= Y_0 0x10))", "finite number"),
    (declared(1, 1) + boxed(1) + "(assert (<= Y_0 1)", "ends inside the expression of line 5"),
    (declared(1, 1) + boxed(1) + "(assert (<= Y_0 1)))", "closes a parenthesis"),
    (declared(1, 1) + "hello", "outside of parentheses"),
    (declared(1, 1) + '(set-info "open)', "quotation that does not end"),
    (declared(1, 1) + "(())", "is no command"),
    ("(" * 100 + ")" * 100, "more than 64 parentheses"),
    (declared(1, 2) + boxed(1) + "(assert (or (<= Y_0 0) (<= Y_1 0)))" * 20, "1048576 alternatives"),
    (declared(1, 2) + boxed(1) + "(assert (and " + "(or (<= Y_0 0) (<= Y_1 0))" * 20 + "))", "more than 10000 alternatives"),
])  # fmt: skip
def test_what_is_wrong_is_one_sentence(text: str, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        parse_vnnlib(text)
    assert "\n" not in str(caught.value)
    assert "the property" in str(caught.value)


numbers = st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: v + 0.0)


@st.composite
def properties(draw: st.DrawFn) -> Property:
    d, k = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    regions = []
    for _ in range(draw(st.integers(1, 3))):
        ends = draw(arrays(np.float64, (2, d), elements=numbers))
        m = draw(st.integers(0, 3))
        matrix = draw(arrays(np.float64, (m, k), elements=numbers))
        matrix[np.abs(matrix).sum(1) == 0, 0] = 1.0
        regions.append(Region(lower=ends.min(0), upper=ends.max(0), matrix=matrix, bound=draw(arrays(np.float64, m, elements=numbers))))
    return Property(inputs=d, outputs=k, regions=tuple(regions))


@settings(max_examples=150, deadline=None)
@given(unsafe=properties())
def test_a_written_property_is_read_as_the_same_numbers(unsafe: Property) -> None:
    again = parse_vnnlib(unsafe.text())
    assert (again.inputs, again.outputs, len(again.regions)) == (unsafe.inputs, unsafe.outputs, len(unsafe.regions))
    for mine, theirs in zip(unsafe.regions, again.regions, strict=True):
        for part in ("lower", "upper", "matrix", "bound"):
            assert np.array_equal(getattr(mine, part), getattr(theirs, part)), part


words = st.sampled_from(
    ["(", ")", "assert", "or", "and", "<=", ">=", "=", "+", "-", "*", "X_0", "Y_0", "Y_1", "1.5", "-2", "declare-const", "Real", "|", '"', ";", "\n"]
)


@settings(max_examples=300, deadline=None)
@given(soup=st.lists(words, max_size=25), bounded=st.booleans())
def test_any_words_are_read_or_refused(soup: list[str], bounded: bool) -> None:
    text = (declared(1, 1) + boxed(1) if bounded else "") + " ".join(soup)
    try:
        assert parse_vnnlib(text).inputs == 1
    except InputError as error:
        assert "\n" not in str(error)


def test_regions_must_fit_each_other() -> None:
    good = Region(lower=np.zeros(2), upper=np.ones(2), matrix=np.ones((1, 3)), bound=np.zeros(1))
    with pytest.raises(InputError, match="region 0 has 2 inputs and 3 outputs, the property 1 and 3"):
        Property(inputs=1, outputs=3, regions=(good,))
    with pytest.raises(InputError, match="region has bounds of shapes"):
        Region(lower=np.zeros(2), upper=np.ones(2), matrix=np.ones((2, 3)), bound=np.zeros(1))
    images = Property(inputs=2, outputs=3, regions=(good,))
    assert images.met(np.full((1, 1, 1, 2), 0.5), np.full((1, 3), -1.0)).tolist() == [True]


def test_a_property_of_many_inputs_is_read_quickly() -> None:
    import time

    d = 10_000
    text = declared(d, 10) + boxed(d) + "(assert (or " + "".join(f"(and (>= Y_{j} Y_3))" for j in range(10) if j != 3) + "))"
    start = time.perf_counter()
    assert len(parse_vnnlib(text).regions) == 9
    assert time.perf_counter() - start < 5
