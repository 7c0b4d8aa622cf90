"""Space files: read back as written, and one sentence for whatever is wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.space.files import load_space, save_space, space_of
from carbide.types import InputError, Kind, Linear, Ratio, Space


def same(one: Space, two: Space) -> None:
    for key in ("lower", "upper", "step", "mutable", "kind"):
        np.testing.assert_array_equal(getattr(one, key), getattr(two, key))
    for key in ("shape", "names", "groups", "relations"):
        assert getattr(one, key) == getattr(two, key)
    assert dict(one.categories) == dict(two.categories)


@st.composite
def spaces(draw):
    """Tables of 1 to 7 features of every kind, with groups and relations that can hold."""
    d = draw(st.integers(1, 7))
    names = draw(st.lists(st.text(min_size=1, max_size=8).map(str.strip).filter(bool), min_size=d, max_size=d, unique=True))
    kinds = [draw(st.sampled_from([Kind.REAL, Kind.INTEGER, Kind.CATEGORICAL])) for _ in names]
    pair = d >= 2 and draw(st.booleans())
    if pair:
        kinds[:2] = [Kind.ONE_HOT, Kind.ONE_HOT]
    lower, upper, step, categories = [], [], [], {}
    for name, kind in zip(names, kinds, strict=True):
        low, high = sorted(draw(st.tuples(st.integers(-99, 99), st.integers(-99, 99))))
        if kind == Kind.REAL:
            low, high = low + draw(st.floats(0, 0.5)), high + 0.5 + draw(st.floats(0, 0.5))
        if kind == Kind.CATEGORICAL:
            categories[name] = tuple(f"c{i}" for i in range(draw(st.integers(1, 4))))
            low, high = 0, len(categories[name]) - 1
        if kind == Kind.ONE_HOT:
            low, high = 0, 1
        free = kind in (Kind.REAL, Kind.INTEGER) and draw(st.booleans())
        lower.append(-np.inf if free else low)
        upper.append(np.inf if free else high)
        step.append(0.0 if kind == Kind.REAL else 1.0)
    relations = []
    if d >= 3:
        relations.append(Ratio(target=0, numerator=1, denominator=2))
        reach = float(np.abs([b for b in lower + upper if np.isfinite(b)]).sum()) + 1
        relations.append(Linear(features=(0, 2), coefficients=(1.5, -1.0), upper=10 * reach))
    space = Space.table(names, lower=np.array(lower, float), upper=np.array(upper, float), step=np.array(step), kind=np.array(kinds),
                        mutable=np.array(draw(st.lists(st.booleans(), min_size=d, max_size=d))), groups=((0, 1),) if pair else (),
                        relations=tuple(relations))  # fmt: skip
    return replace(space, categories=categories)


@settings(max_examples=60, deadline=None)
@given(space=spaces())
def test_a_table_comes_back_as_it_was(space, tmp_path_factory):
    path = tmp_path_factory.mktemp("space") / "space.json"
    save_space(space, path)
    same(load_space(path), space)
    json.loads(path.read_text(), parse_constant=lambda c: pytest.fail(f"{c} is no JSON"))


@pytest.mark.parametrize("varied", [False, True])
def test_an_image_comes_back_as_it_was(tmp_path, varied):
    space = Space.image((2, 3, 4))
    if varied:
        space.mutable[0, 1] = False
        space.lower[:] = -np.arange(24).reshape(2, 3, 4)
    save_space(space, tmp_path / "image.json")
    same(load_space(tmp_path / "image.json"), space)


def test_the_fraud_case_has_a_file_of_this_form():
    from carbide.data.cases import SPACE, builtin

    same(replace(load_space(SPACE), categories={}), replace(builtin("fraud").train.space, categories={}))


def test_what_a_file_may_leave_out():
    space = space_of({"features": [{"name": "a"}, {"name": "b", "categories": ["x", "y", "z"]}, {"name": "c", "kind": "integer"},
                                   {"name": "d", "kind": "one-hot"}, {"name": "e", "kind": "one-hot"}], "groups": [["d", "e"]]})  # fmt: skip
    assert space.kind.tolist() == [Kind.REAL, Kind.CATEGORICAL, Kind.INTEGER, Kind.ONE_HOT, Kind.ONE_HOT]
    assert space.upper.tolist() == [np.inf, 2.0, np.inf, 1.0, 1.0]
    assert space.step.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert space.mutable.all()


A = {"name": "a", "lower": 0, "upper": 1}
B = {"name": "b", "lower": 3, "upper": 5}


@pytest.mark.parametrize(("raw", "match"), [
    ({}, "lists no features"),
    ({"features": []}, "lists no features"),
    ({"features": ["a"]}, "feature 0 is 'a'"),
    ({"features": [{"name": ""}]}, "with a name"),
    ({"features": [A], "feature": []}, "no key 'feature'"),
    ({"features": [{**A, "low": 1}]}, "feature 'a' has no key 'low'"),
    ({"features": [A, A]}, "'a' occurs twice"),
    ({"features": [{**A, "lower": 2}]}, "lower is 2, above upper 1"),
    ({"features": [{**A, "lower": "0"}]}, "lower is '0'"),
    ({"features": [{**A, "lower": True}]}, "lower is True"),
    ({"features": [{**A, "upper": float("nan")}]}, "finite"),
    ({"features": [{**A, "upper": 10**400}]}, "finite"),
    ({"features": [{**A, "kind": "int"}]}, "kind is 'int'; choose real, integer"),
    ({"features": [{**A, "step": -1}]}, "step is -1"),
    ({"features": [{"name": "a", "step": 0.5}]}, "add lower"),
    ({"features": [{"name": "a", "kind": "integer", "upper": 1.5}]}, "not whole"),
    ({"features": [{"name": "a", "kind": "integer", "step": 0.5}]}, "whole step"),
    ({"features": [{**A, "mutable": 1}]}, "mutable is 1"),
    ({"features": [{**A, "kind": "integer", "categories": ["x"]}]}, "make it categorical"),
    ({"features": [{"name": "a", "categories": ["x", "x"]}]}, "different texts"),
    ({"features": [{"name": "a", "categories": ["x", "y"], "upper": 5}]}, "leave what a categorical"),
    ({"features": [{"name": "a", "kind": "one-hot"}]}, "no group names it"),
    ({"features": [A, B], "groups": [["a", "b"]]}, "make it one-hot"),
    ({"features": [A, B], "groups": [["a"]]}, "at least two"),
    ({"features": [A, B], "groups": "a"}, "list of lists"),
    ({"features": [A, B], "relations": [{"linear": {"aa": 1}, "upper": 0}]}, "'aa', which is not a feature; did you mean 'a'"),
    ({"features": [A, B], "relations": [{"linear": {"a": 1}}]}, "upper: a number"),
    ({"features": [A, B], "relations": [{"linear": {"a": None}, "upper": 1}]}, "coefficient is null"),
    ({"features": [A, B], "relations": [{"linear": {"b": 1, "a": -1}, "upper": 1}]}, "cannot hold.*at least 2, above 1"),
    ({"features": [A, B], "relations": [{"target": "a", "numerator": "b", "denominator": "b"}]}, "one feature twice"),
    ({"features": [A, B], "relations": [3]}, "relation 0 is 3"),
    ({"image": [1, 2]}, "channels, height, width"),
    ({"image": [1, 2, 2], "lower": [0, 1]}, "nested list of shape"),
    ({"image": [1, 2, 2], "lower": 2}, "lower bound 2.0 above"),
    ({"image": [10**5, 10**5, 10**5]}, "channels, height, width"),
])  # fmt: skip
def test_what_is_wrong_is_said(raw, match):
    with pytest.raises(InputError, match=match):
        space_of(raw)


@pytest.mark.parametrize(("text", "match"), [
    ("", "not valid JSON"), ("{", "not valid JSON"), ("[1]", "holds a list"), ('{"features": [{"name": "a", "name": "b"}]}', "occurs twice in one object"),
    ("[" * 100_000, "not valid JSON"), ("\ud800", "cannot be read"),
])  # fmt: skip
def test_files_that_are_no_space(tmp_path, text, match):
    path = tmp_path / "space.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=match):
        load_space(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_space(tmp_path / "none.json")


nested = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
                      lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(
                          ["features", "name", "kind", "lower", "upper", "groups", "relations", "linear", "image", "categories", "a"]), inner, max_size=4)),
                      max_leaves=12)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(raw=st.dictionaries(st.sampled_from(["features", "groups", "relations", "image", "lower", "upper", "step", "mutable"]), nested, max_size=4))
def test_nothing_but_an_input_error_comes_out(raw):
    try:
        space_of(raw)
    except InputError as error:
        assert "\n" not in str(error)
