"""Plain words and lights: every number said is the number measured."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.report import words
from carbide.report.lights import Light, light_of, light_of_latency, light_of_loss, rules
from carbide.report.metrics import ATLAS, METRICS, key_of
from carbide.report.numerals import interval, of_100, percent, seconds, size
from carbide.results import Latency, Results
from carbide.types import (
    AttributeInference,
    Backdoor,
    Certificate,
    Corruption,
    Distortion,
    FeatureBudget,
    Flips,
    LpBall,
    Membership,
    Patch,
    PriceTable,
    Queries,
    Reconstruction,
    Section,
    SinglingOut,
    Skip,
    Threat,
)
from tests.report import make

THREATS: dict[Threat, str] = {
    FeatureBudget(money=50, prices=PriceTable(prices={})): "An attacker who may spend $50",
    FeatureBudget(money=12.5, prices=PriceTable(prices={}, currency="EUR ")): "An attacker who may spend EUR 12.5",
    LpBall(eps=0.15): "An attacker who may change every value by up to 0.15",
    LpBall(p=2, eps=1.5): "An attacker who may change an input by a distance of up to 1.5",
    LpBall(p=1, eps=3): "An attacker whose changes may add up to 3",
    LpBall(p=0, eps=4): "An attacker who may change any 4 values",
    Patch(area=0.05): "An attacker who may stick one patch on 5% of an image",
    Distortion(rotation=30, jpeg=40): "An attacker who may distort an image by rotation of up to 30 degrees, JPEG of quality 40 and better",
    Corruption(severity=3): "The worst of the common corruptions of severity 3",
    Corruption(severity=1, kinds=("contrast",)): "The worst of the common corruptions of severity 1 (contrast)",
    Flips(fraction=0.01): "An attacker who may change the labels of 1% of the training rows",
    Backdoor(fraction=0.015, target=3): "An attacker who may tamper with 1.50% of the training rows",
    Membership(): "Someone who wants to know who was in the training data",
    AttributeInference(feature="hiv"): "Someone who wants to know 'hiv' of people in the training data",
    AttributeInference(feature="hiv", label=False): "Someone who wants to know 'hiv' of people in the training data whose labels are not known",
    Reconstruction(): "Someone who has the model and wants to see training data",
    Reconstruction(known="others"): "Someone who has the model and all training data but one row",
    SinglingOut(): "Someone who wants to describe exactly one training row",
    Queries(n=10000, answers="labels"): "A thief who may ask 10,000 questions, answered with labels,",
}


@pytest.mark.parametrize("threat", THREATS, ids=lambda t: t.words())
def test_every_threat_has_an_attacker(threat: Threat) -> None:
    assert words.attacker(threat.words()) == THREATS[threat]


def test_a_difference_below_zero_is_none() -> None:
    assert of_100(-0.03) == "0 of 100"


def test_an_unknown_threat_is_said_as_it_is() -> None:
    assert words.attacker("moon phase") == "An attacker (moon phase)"


@given(st.floats(0, 1))
def test_of_100_is_right_to_a_half_and_never_claims_none_or_all(share: float) -> None:
    said = of_100(share)
    k = int(re.search(r"\d+", said)[0])  # type: ignore[index]
    if said.startswith(("fewer", "more")):
        assert (k == 1 and share < 0.01) or (k == 99 and share > 0.99)
    else:
        assert abs(k - 100 * share) <= 0.5 + 1e-9
        assert k != 0 or share == 0
        assert k != 100 or share == 1


@given(st.floats(0, 1), st.sampled_from(sorted(METRICS)))
def test_what_attackers_get_mirrors_what_models_keep(value: float, key: str) -> None:
    metric = METRICS[key]
    finding = make.finding(metric.name, value, 200, Membership(), method="m", good=metric.good)
    got = words.harm(finding)
    assert got is not None
    assert got.value == pytest.approx(1 - value if metric.good > 0 else value)
    assert got.low <= got.value + 0.01
    assert got.value - 0.01 <= got.high


def test_the_sentence_about_fraud() -> None:
    line = words.lines(make.fraud())[0]
    assert line.words == "An attacker who may spend $50 gets 71 of 100 frauds past the model; after hardening 24 of 100."
    assert line.detail == "95% sure: 66 to 75, then 20 to 28 of 100; without any attack 23; measured on 412 rows"


def test_sentences_of_every_metric_hold_both_numbers() -> None:
    run = make.fraud()
    for metric in METRICS.values():
        before = make.finding(metric.name, 0.81, 1000, Membership(), method="m", good=metric.good)
        after = make.finding(metric.name, 0.62, 1000, Membership(), method="m", good=metric.good)
        first, second = ("19", "38") if metric.good > 0 else ("81", "62")
        said = words.sentence(before, after, run)
        assert re.search(rf"\b{first} of 100 .*; after hardening {second} of 100\.$", said), said
        assert metric.name not in said  # no jargon
        assert metric.meaning


def test_a_metric_from_outside_is_said_by_its_name() -> None:
    f = make.finding("toy damage", 0.5, 10, Membership(), method="toy")
    assert (
        words.sentence(f, None, make.images(hardened=False)) == "Someone who wants to know who was in the training data brings the toy damage to 0.5."
    )
    assert light_of(f, None) is Light.NONE
    assert key_of("toy damage") == "toy_damage"


def test_a_side_that_was_not_measured_is_said_with_its_reason() -> None:
    line = words.lines(make.patients())[1]
    assert line.light is Light.GREY
    assert line.words.endswith("after hardening: not measured (the recipe did not converge on the poisoned rows).")
    assert line.command == "carbide audit RUN/plan.yaml"


def test_a_threat_without_any_number_is_not_measured() -> None:
    base = make.images(hardened=False)
    nothing = Section(
        threat=Membership().words(), room="privacy", skipped=(Skip(method="all", threat="", reason="the plan has no recipe", status="unknown"),)
    )
    run = replace(base, phases=(replace(base.phases[0], sections=(nothing,)),))
    (line,) = words.lines(run)
    assert line.light is Light.GREY
    assert "not measured (the plan has no recipe)" in line.words
    assert words.verdict(run) == "As it is, the attack is not held off; not measured: leaks about people."


def test_every_red_line_names_a_command() -> None:
    for run in (make.fraud(), make.patients(), make.images(), make.images(hardened=False)):
        for line in words.lines(run, "runs/x"):
            assert bool(line.command) == (line.light in (Light.RED, Light.AMBER, Light.GREY))
            assert not line.command or line.command.startswith("carbide ")


@pytest.mark.parametrize(("run", "said"), [
    (make.fraud(), "After hardening, 1 of 2 attacks is held off; at risk: copying the model."),
    (make.images(), "After hardening, 1 of 2 attacks is held off; only in part: changed inputs."),
    (make.images(hardened=False), "As it is, none of 2 attacks is held off; at risk: changed inputs and poisoned training data."),
], ids=["fraud", "images", "audit"])  # fmt: skip
def test_verdicts(run: Results, said: str) -> None:
    assert words.verdict(run) == said


def test_certificates_are_told_where_no_attack_ran() -> None:
    base = make.images(hardened=False)
    proof = Certificate(claim="", holds=np.array([True, True, False]), bound=np.zeros(3), failure_probability=0.0, method="crown", threat="",
                        unit="input units", metric="robust accuracy", assumptions=())  # fmt: skip
    section = Section(threat=LpBall(eps=0.1).words(), room="evasion", certificates=(proof,))
    (line,) = words.lines(replace(base, phases=(replace(base.phases[0], sections=(section,)),)))
    assert "crown proves that 2 of 3 inputs stand whatever the attack" in line.words


def test_a_model_that_is_wrong_on_every_row_is_red() -> None:
    phase = make.fraud().phases[1]
    head = phase.sections[0].findings[0]
    measure = phase.performance["recall"]
    wrong = replace(phase, performance={**phase.performance, "recall": replace(measure, value=0.0)})
    assert light_of(replace(head, value=0.0, low=0.0, high=0.1), wrong) is Light.RED


def test_lights_follow_their_rules() -> None:
    phase = make.fraud().phases[1]  # clean recall .767
    head = phase.sections[0].findings[0]

    def of(value: float, low: float, high: float) -> Light:
        return light_of(replace(head, value=value, low=low, high=high), phase)

    assert of(0.76 * 0.767, 0.74 * 0.767, 0.8) is Light.GREEN
    assert of(0.74 * 0.767, 0.7 * 0.767, 0.8) is Light.AMBER
    assert of(0.49 * 0.767, 0.4, 0.5) is Light.RED
    assert of(0.76 * 0.767, 0.49 * 0.767, 0.9) is Light.AMBER  # its interval reaches into red
    assert of(math.nan, math.nan, math.nan) is Light.GREY
    assert light_of(None, phase) is Light.GREY


def test_lights_of_leakage_are_absolute() -> None:
    def of(value: float) -> Light:
        f = make.finding("membership AUC", value, 10**6, Membership(), method="m", good=-1)
        return light_of(f, None)

    assert [of(v) for v in (0.5, 0.549, 0.57, 0.61)] == [Light.GREEN, Light.GREEN, Light.AMBER, Light.RED]


def test_a_broken_gate_is_red_and_a_kept_one_changes_nothing() -> None:
    run = make.fraud()
    section = run.phases[1].sections[1]
    calm = replace(section.findings[0], value=0.5, low=0.45, high=0.55)
    assert light_of(calm, run.phases[1]) is Light.GREEN
    assert light_of(calm, run.phases[1], run.gate) is Light.RED
    kept = tuple(replace(g, passed=True) for g in run.gate)
    assert light_of(section.findings[0], run.phases[1], kept) is Light.RED


def test_lights_of_costs() -> None:
    run = make.images()  # allowed loss .02; accuracy fell by .009, the worst class by .027
    assert light_of_loss("accuracy", run) is Light.GREEN
    assert light_of_loss("worst_class", run) is Light.AMBER
    assert light_of_loss("recall", run) is Light.NONE
    assert light_of_loss("accuracy", make.images(hardened=False)) is Light.NONE
    for slow, light in ((0.3, Light.GREEN), (0.5, Light.AMBER), (0.7, Light.RED)):
        timings = replace(make.timings(), latency={"plain": Latency(p50=0.2, p99=1), "hardened": Latency(p50=slow, p99=1)})
        assert light_of_latency(run, timings) is light


def test_rules_of_the_lights_are_said_for_every_metric() -> None:
    assert [row[0] for row in rules()] == [m.name for m in METRICS.values()]
    assert ("membership AUC", "at most 0.55", "above 0.60") in rules()


def test_what_was_done() -> None:
    assert words.done(make.images(hardened=False)) == ("Nothing yet: this run only measured the model as it is.",)
    (said,) = words.done(make.patients())
    assert "private logistic (epsilon 1, clip 1)" in said
    assert said.endswith("It carries epsilon 1 at delta 1e-05.")
    kept = tuple(replace(o, chosen=o.kind == "baseline" and not o.settings and o.name == "as it is") for o in make.fraud().options)
    (said,) = words.done(replace(make.fraud(), options=kept))
    assert said == "Nothing was changed against feature changes worth at most $50 a row: none of 5 other options was safer within the allowed loss."


def test_summary_says_gate_cost_and_gaps() -> None:
    text = "\n".join(words.summary(make.fraud()))
    assert "gate: FAILED fidelity <= 0.9 (measured 0.94)" in text
    assert "recall 77.9% -> 76.7%" in text
    assert text.count("not tested:") == 4


def test_changes_in_points() -> None:
    a, b = make.images().phases
    assert words.change(a.performance["accuracy"], b.performance["accuracy"]) == "−0.9 points"
    assert words.change(a.performance["accuracy"], a.performance["accuracy"]) == "no change"
    assert words.change(None, a.performance["accuracy"]) == ""


def test_small_numbers() -> None:
    assert [size(v) for v in (0, 999, 12_345, 2_000_000)] == ["unknown", "999 B", "12.3 kB", "2.0 MB"]
    assert [seconds(v) for v in (math.nan, 12.4, 60)] == ["unknown", "12 s", "1 min 0 s"]
    assert percent(math.nan) == "unknown"
    assert interval(math.nan, 1.0) == ""


def test_atlas_ids() -> None:
    assert {room: t.id for room, t in ATLAS.items()} == {
        "evasion": "AML.T0015",
        "poisoning": "AML.T0020",
        "privacy": "AML.T0024.000",
        "extraction": "AML.T0024.002",
    }
