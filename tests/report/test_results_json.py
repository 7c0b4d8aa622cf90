"""results.json: what goes in comes out, the bytes repeat, the schema is kept and damage is named."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide import results as nouns
from carbide import types
from carbide.report.results_json import (
    dumps,
    from_json,
    number,
    read_results,
    read_timings,
    results_schema,
    to_json,
    write_results,
    write_timings,
)
from carbide.results import Measure, Phase, Results, Timings
from carbide.types import InputError
from tests.report import make

RUNS = {"fraud": make.fraud, "patients": make.patients, "images": make.images, "audit only": lambda: make.images(hardened=False)}


@pytest.fixture(params=RUNS, scope="module")
def run(request: pytest.FixtureRequest) -> Results:
    return RUNS[request.param]()


def sections(results: Results) -> dict[str, tuple[types.Section, ...]]:
    return {phase.name: phase.sections for phase in results.phases}


def test_real_results_follow_the_schema(run: Results) -> None:
    jsonschema.Draft202012Validator(results_schema()).validate(json.loads(dumps(to_json(run))))


def test_round_trip_gives_the_same_bytes(run: Results) -> None:
    blob = dumps(to_json(run))
    again = from_json(json.loads(blob), sections(run))
    assert dumps(to_json(again)) == blob
    assert again.phases[0].sections[0].evidence.keys() == run.phases[0].sections[0].evidence.keys()


def test_without_evidence_only_the_arrays_are_lost(run: Results) -> None:
    lean = from_json(json.loads(dumps(to_json(run))))
    for phase, whole in zip(lean.phases, run.phases, strict=True):
        for section, full in zip(phase.sections, whole.sections, strict=True):
            assert [c.value for c in section.certificates] == [c.value for c in full.certificates]
            assert [c.failure_probability for c in section.certificates] == [c.failure_probability for c in full.certificates]
            assert [(f.metric, f.n, f.headline) for f in section.findings] == [(f.metric, f.n, f.headline) for f in full.findings]
            assert section.figures == ()
            assert section.examination == full.examination
    assert lean.data.classes == run.data.classes
    assert lean.gate == tuple(replace(g, value=number(g.value)) for g in run.gate)


def test_same_run_twice_is_byte_identical() -> None:
    assert dumps(to_json(make.fraud())) == dumps(to_json(make.fraud()))


def test_order_of_mappings_does_not_matter() -> None:
    run = make.fraud()
    turned = replace(run, versions=dict(reversed(run.versions.items())), plan=dict(reversed(run.plan.items())))
    assert dumps(to_json(turned)) == dumps(to_json(run))


def test_every_field_of_every_noun_is_in_the_schema() -> None:
    schema = results_schema()
    defs = schema["$defs"]
    pairs = {
        "measure": nouns.Measure, "cost": nouns.Cost, "phase": nouns.Phase, "option": nouns.Option, "gate_line": nouns.GateLine,
        "data": nouns.DataFacts, "finding": types.Finding, "bracket": types.Bracket, "skip": types.Skip, "symptom": types.Symptom, "figure": types.Figure,
    }  # fmt: skip
    for name, cls in pairs.items():
        assert set(defs[name]["properties"]) == {f.name for f in fields(cls)} - {"answers"}, name
    assert set(defs["section"]["properties"]) == {f.name for f in fields(types.Section)} - {"noun"}
    assert set(defs["certificate"]["properties"]) == {f.name for f in fields(types.Certificate)} - {"holds", "bound"} | {"held", "n", "median_bound"}
    assert set(schema["properties"]) == {f.name for f in fields(Results)} | {"format"}


def test_the_schema_refuses_what_is_wrong() -> None:
    check = jsonschema.Draft202012Validator(results_schema())
    good = json.loads(dumps(to_json(make.fraud())))
    for spoil in (
        lambda d: d.pop("seed"), lambda d: d.update(extra=1), lambda d: d["data"].update(features=-1),
        lambda d: d["phases"][0].update(name="other"), lambda d: d["gate"][0].update(value="high"),
        lambda d: d["phases"][0]["sections"][0]["findings"][0].update(confidence=2),
    ):  # fmt: skip
        bad = json.loads(json.dumps(good))
        spoil(bad)
        assert not check.is_valid(bad)


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_numbers_keep_twelve_digits(value: float) -> None:
    kept = number(value)
    assert number(math.nan if kept is None else float(kept)) == kept  # once rounded, always the same
    if kept is None:
        assert math.isnan(value)
    elif isinstance(kept, str):
        assert float(kept) == value
    else:
        assert kept == pytest.approx(value, rel=1e-11, abs=0)
        assert math.copysign(1, kept) == 1 or kept < 0  # no minus zero


@settings(max_examples=60, deadline=None)
@given(
    accuracy=st.floats(allow_nan=True, allow_infinity=True), threshold=st.floats(allow_nan=True), n=st.integers(0, 10**9),
    title=st.text(max_size=20), notes=st.lists(st.text(max_size=10), max_size=3),
)  # fmt: skip
def test_any_numbers_and_texts_survive(accuracy: float, threshold: float, n: int, title: str, notes: list[str]) -> None:
    base = make.images(hardened=False)
    phase = base.phases[0]
    odd = Phase(name=phase.name, model=title, sections=phase.sections, cost=phase.cost, threshold=threshold,
                performance={"accuracy": Measure(metric="accuracy", value=accuracy, n=n)})  # fmt: skip
    run = replace(base, title=title, phases=(odd,), warnings=tuple(notes))
    blob = dumps(to_json(run))
    assert dumps(to_json(from_json(json.loads(blob), sections(run)))) == blob
    jsonschema.Draft202012Validator(results_schema()).validate(json.loads(blob))


def test_numpy_values_become_plain() -> None:
    run = replace(make.fraud(), plan={"a": np.float64(0.5), "b": np.int64(3), "c": np.array([1.0, np.nan]), "d": np.bool_(True), "e": None})
    assert to_json(run)["plan"] == {"a": 0.5, "b": 3, "c": [1.0, None], "d": True, "e": None}


def test_what_cannot_be_written_is_named() -> None:
    with pytest.raises(TypeError, match="object"):
        to_json(replace(make.fraud(), plan={"a": object()}))


def test_files(tmp_path) -> None:
    run = make.patients()
    write_results(run, tmp_path / "results.json")
    write_timings(make.timings(), tmp_path / "timings.json")
    assert dumps(to_json(read_results(tmp_path, sections=sections(run)))) == (tmp_path / "results.json").read_bytes()
    assert read_timings(tmp_path).latency == make.timings().latency
    assert read_timings(tmp_path / "none.json") == Timings() or read_timings(tmp_path / "none.json").steps == {}
    assert not list(tmp_path.glob(".*")), "temporary files were left behind"


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '{"format": 2}', '{"format": 1}', '{"format": 1, "title": 3}', "\x00"])
def test_damaged_files_are_named(tmp_path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(InputError):
        read_results(tmp_path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match=r"results\.json does not exist"):
        read_results(tmp_path)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_damage_crashes_the_reader(data: st.DataObject) -> None:
    """Whatever one value of a document becomes, the reader reads it or says what is wrong in an InputError."""
    document = json.loads(dumps(to_json(make.images(hardened=False))))
    here = document
    while True:
        key = data.draw(st.sampled_from(sorted(here) if isinstance(here, dict) else list(range(len(here)))))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
            continue
        here[key] = data.draw(st.sampled_from([None, "x", -1, 0.5, [], {}, [1], {"a": 1}, True]))
        break
    try:
        from_json(document)
    except InputError:
        return
