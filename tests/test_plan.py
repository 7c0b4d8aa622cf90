"""The plan door: what a plan may say, and that anything else is one clear sentence."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from carbide.plan import Plan, make_ask, number, plan_schema, read_plan
from carbide.types import (
    AttributeInference,
    Backdoor,
    Corruption,
    Distortion,
    FeatureBudget,
    Flips,
    InputError,
    LpBall,
    Membership,
    Patch,
    Price,
    PriceTable,
    Queries,
    Reconstruction,
    SinglingOut,
    Space,
)  # fmt: skip

GOOD = {"data": {"source": "patients"}, "recipe": {"estimator": "random_forest"}, "threats": [{"membership": {}}]}
SPACE = Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2))


def ask(entry, prices=None):
    return make_ask(entry, space=SPACE, base=None, prices=prices).threat


def test_threats_read_as_nouns(tmp_path):
    assert ask({"evasion": {"norm": "linf", "eps": "8/255"}}) == LpBall(eps=8 / 255)
    assert ask({"evasion": {"norm": "l2", "eps": 0.5}}) == LpBall(p=2, eps=0.5)
    table = PriceTable(prices={"a": Price(up=1)})
    money = ask({"evasion": {"money": 50}}, table)
    assert isinstance(money, FeatureBudget)
    assert money.prices is table
    image = lambda own: make_ask({"evasion": own}, space=Space.image((1, 8, 8)), base=None, prices=None).threat  # noqa: E731
    assert image({"patch": 0.1}) == Patch(area=0.1)
    assert image({"rotation": 30, "translation": "3/2", "audit": "grid"}) == Distortion(rotation=30, translation=1.5)
    assert image({"jpeg": 40, "blur": 1}) == Distortion(jpeg=40, blur=1)
    assert image({"corruption": 4}) == Corruption(severity=4)
    assert image({"corruption": 2, "kinds": ["contrast", "pixelate"]}) == Corruption(severity=2, kinds=("contrast", "pixelate"))
    assert ask({"poisoning": {"flips": 0.01}}) == Flips(fraction=0.01)
    assert ask({"poisoning": {"backdoor": 0.02, "target": 1}}) == Backdoor(fraction=0.02, target=1)
    assert ask({"membership": None}) == Membership()
    assert ask({"attribute": {"feature": "b", "label": False, "bins": 4}}) == AttributeInference(feature="b", label=False, bins=4)
    assert ask({"singling_out": {"weight": 0.1}}) == SinglingOut(weight=0.1)
    assert ask({"reconstruction": {}}) == Reconstruction()
    assert ask({"reconstruction": {"known": "others"}}) == Reconstruction(known="others")
    assert ask({"extraction": {"queries": 10, "answers": "labels"}}) == Queries(n=10, answers="labels")


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"evasion": {}}, "eps"),
        ({"evasion": {"eps": 2.0}}, "2"),
        ({"evasion": {"eps": 0.1, "norm": "l7"}}, "l7"),
        ({"evasion": {"eps": "1/0"}}, "1/0"),
        ({"evasion": {"money": 5}}, "price"),
        ({"evasion": {"money": 5, "eps": 1}}, "both"),
        ({"evasion": {"epsilon": 1}}, "epsilon"),
        ({"evasions": {"eps": 1}}, "evasions"),
        ({"evasion": {"eps": 0.1}, "membership": {}}, "exactly one"),
        ({"poisoning": {}}, "flips"),
        ({"poisoning": {"flips": 3}}, "3"),
        ({"poisoning": {"flips": True}}, "flips is True"),
        ({"poisoning": {"flips": 0.1, "target": 1}}, "flips and target"),
        ({"poisoning": {"flips": 0.1, "area": "foo"}}, "flips and area"),
        ({"poisoning": {"backdoor": 0.1, "target": "x"}}, "target is 'x'"),
        ({"poisoning": {"backdoor": 0.1, "target": None}}, "target is None"),
        ({"poisoning": {"backdoor": 0.1, "target": 0.7}}, "target is 0.7"),
        ({"poisoning": {"backdoor": 0.1, "features": 99}}, "features is 99, but a row has 2"),
        ({"poisoning": {"backdoor": 0.1, "features": -1}}, "features is -1"),
        ({"extraction": {"queries": 10**21}}, "queries is 1000000000000000000000; give a whole number from 1 to 1,000,000,000"),
        ({"evasion": {"eps": True}}, "eps is True"),
        ({"evasion": {"money": float("inf"), "prices": {"prices": {"a": {"up": 1}}}}}, "money is inf"),
        ({"evasion": {"money": 5, "prices": {"prices": {}}}}, "prices no change"),
        ({"evasion": {"money": 5, "prices": {"prices": {"a": {"fixed": 3}}}}}, "prices no change"),
        ({"extraction": {"queries": "many"}}, "many"),
        ({"membership": [1]}, "[1]"),
        ({"membership": {"feature": "a"}}, "feature"),
        ({"attribute": {}}, "names no feature"),
        ({"attribute": {"feature": "c"}}, "'c' is not in the space"),
        ({"attribute": {"feature": "a", "label": "no"}}, "label is 'no'"),
        ({"attribute": {"feature": "a", "bins": 1}}, "bins is 1"),
        ({"attribute": {"feature": "a", "folds": 2}}, "folds"),
        ({"reconstruction": {"known": "some"}}, "known is 'some'"),
    ],
)
def test_wrong_threats_are_named(entry, word):
    with pytest.raises(InputError) as caught:
        ask(entry)
    assert word in str(caught.value)


@pytest.mark.parametrize(
    ("own", "word"),
    [
        ({"patch": 2}, "patch is 2"),
        ({"patch": 0.001}, "one pixel"),
        ({"patch": "big"}, "'big'"),
        ({"patch": 0.1, "eps": 0.1}, "both eps and patch"),
        ({"patch": 0.1, "rotation": 3}, "both patch and rotation"),
        ({"rotation": 400}, "rotation is 400"),
        ({"jpeg": "inf"}, "jpeg"),
        ({"jpeg": 7.5}, "jpeg is 7.5"),
        ({"blur": "nan"}, "blur"),
        ({"rotation": 0}, "names no change"),
        ({"corruption": 9}, "corruption is 9"),
        ({"corruption": "3"}, "corruption is '3'"),
        ({"corruption": [3]}, "corruption is [3]"),
        ({"corruption": 3, "kinds": 4}, "kinds is 4"),
        ({"corruption": 3, "kinds": ["rain"]}, "'rain'"),
    ],
)
def test_wrong_changes_of_images_are_named(own, word):
    with pytest.raises(InputError) as caught:
        make_ask({"evasion": own}, space=Space.image((1, 8, 8)), base=None, prices=None)
    assert word in str(caught.value)
    with pytest.raises(InputError, match=r"images|both|names"):
        ask({"evasion": own})


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"thread": []}, "thread"),
        ({"threats": []}, "threats"),
        ({"data": {"sauce": "x"}}, "sauce"),
        ({"seed": -1}, "seed"),
        ({"seed": True}, "seed is True"),
        ({"seed": "3"}, "seed is '3'"),
        ({"attack_rows": True}, "attack_rows is True"),
        ({"data": {"source": "d.csv", "train": "nope.csv"}}, "source 'd.csv' and train 'nope.csv'"),
        ({"harden": {"accuracy_loss": 2}}, "accuracy_loss"),
        ({"operating_point": {"false_positive_rate": 1}}, "false_positive_rate"),
        ({"threats": [{"membership": {"audit": {"liar": {}}}}]}, "liar"),
        ({"threats": [{"membership": {"audit": {"lira": {"shadow": 3}}}}]}, "shadow"),
        ({"gate": {"a": {"b": 1}}}, "gate"),
        ({"data": {"source": "t.csv", "label": "ill"}, "threats": [{"attribute": {"feature": "ill"}}]}, "which is the label"),
    ],
)
def test_wrong_plans_are_named(change, word):
    with pytest.raises(InputError) as caught:
        read_plan(GOOD | change)
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_plan(tmp_path):
    cases = {"absent.yaml": None, "empty.yaml": b"", "binary.yaml": b"\xff\xfe\x00", "list.yaml": b"- 1\n- 2\n", "broken.yaml": b"a: [1,\nb: {"}
    for name, content in cases.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InputError, match=name):
            read_plan(path)
    with pytest.raises(InputError):
        read_plan(tmp_path)


def test_a_plan_runs_no_code(tmp_path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"data: !!python/object/apply:os.system ['touch {tmp_path}/pwned']\n")
    with pytest.raises(InputError):
        read_plan(path)
    assert not (tmp_path / "pwned").exists()


keys = st.sampled_from(["data", "threats", "model", "recipe", "seed", "harden", "gate", "evasion", "eps", "membership", "x", "source"])
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], deadline=None)
@given(st.dictionaries(keys, junk, max_size=6), st.booleans())
def test_any_mapping_is_a_plan_or_a_sentence(raw, with_good):
    try:
        plan, _ = read_plan((GOOD if with_good else {}) | raw)
    except InputError as error:
        assert str(error)
    else:
        assert isinstance(plan, Plan)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_file_is_a_plan_or_a_sentence(tmp_path, content):
    path = tmp_path / "p.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError):
        read_plan(path)


@given(st.one_of(junk, st.text()))
def test_numbers_are_numbers_or_a_sentence(value):
    try:
        assert isinstance(number(value, "v"), float)
    except InputError as error:
        assert "v is" in str(error)


def test_the_schema_accepts_the_stories_and_refuses_nonsense():
    import jsonschema

    from carbide.stories import story_plan

    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in ("fraud", "patients", "images"):
        jsonschema.validate(json.loads(json.dumps(story_plan(name))), schema)
        read_plan(story_plan(name))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(GOOD | {"threats": [{"membership": {"audit": {"lira": {"shadowz": 1}}}}]}, schema)


def test_round_trip_through_yaml():
    plan, _ = read_plan(GOOD)
    again, _ = read_plan(yaml.safe_load(yaml.safe_dump(plan.model_dump(mode="json", exclude_defaults=True))))
    assert again == plan
    assert math.isclose(again.budget().accuracy_loss, 0.02)


def test_what_was_not_tested_names_only_kinds_of_change_that_were_not_asked_about():
    from types import SimpleNamespace

    from carbide.pipeline import BLIND, _blind_evasion
    from carbide.types import Corruption, Distortion, LpBall, Patch

    def said(*threats):
        return _blind_evasion(SimpleNamespace(asks=[SimpleNamespace(threat=threat) for threat in threats]))  # type: ignore[arg-type]

    ball, patch, turn, worn = LpBall(eps=0.1), Patch(area=0.1), Distortion(rotation=10.0), Corruption()
    assert said(ball) == BLIND["evasion"]
    assert "rotation" in said(ball, patch)
    assert "patches" not in said(ball, patch)
    assert "every pixel" in said(turn)
    assert "(" not in said(ball, patch, turn, worn)
