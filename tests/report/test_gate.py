"""The gate: conservative, and nothing that was not measured ever passes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carbide.report.gate import gate_keys, judge_gate, parse_gate, passed
from carbide.results import GateLine, Results
from carbide.stats.intervals import clopper_pearson
from carbide.types import InputError, LpBall, Section, Skip
from tests.report import make

HARD = make.fraud()
HEAD = HARD.phases[1].sections[0].findings[0]  # robust recall of the hardened model


def judge(gate: dict, results: Results = HARD) -> GateLine:
    (line,) = judge_gate(parse_gate(gate), results)
    return line


def with_sections(results: Results, *sections: Section) -> Results:
    return replace(results, phases=(results.phases[0], replace(results.phases[1], sections=sections)))


@pytest.mark.parametrize(
    ("op", "bound", "expected"), [(">=", 0.76, False), (">=", 0.75, True), ("<", 0.76, True), (">", HEAD.value, False), ("<=", HEAD.value, True)]
)
def test_the_worst_attack_is_compared_with_the_bound(op: str, bound: float, expected: bool) -> None:
    if op.startswith("<"):  # the worst for an upper bound is the highest of the three attacks
        top = max(f.value for f in HARD.phases[1].sections[0].findings)
        line = judge({"robust_recall": f"{op} {bound!r}"})
        assert line.value == top
        assert line.passed is False
    else:
        line = judge({"robust_recall": f"{op} {bound!r}"})
        assert line.value == HEAD.value
        assert line.passed is expected


def test_the_hardened_model_is_judged_and_the_plain_one_where_it_is_alone() -> None:
    assert judge({"robust_accuracy": ">= 0.5"}, make.images()).passed
    alone = judge({"robust_accuracy": ">= 0.5"}, make.images(hardened=False))
    assert not alone.passed
    assert alone.value == pytest.approx(0.18, abs=0.01)


def test_strict_compares_the_worse_end_of_the_interval() -> None:
    bound = (HEAD.low + HEAD.value) / 2
    assert judge({"robust_recall": f">= {bound}"}).passed
    line = judge({"robust_recall": f">= {bound}", "strict": True})
    assert not line.passed
    assert "strict" in line.reason
    assert judge({"fidelity": "<= 0.945"}).passed
    assert not judge({"fidelity": "<= 0.945", "strict": "true"}).passed


def test_strict_certificates_count_the_sampling_of_rows() -> None:
    bracket = HARD.phases[1].brackets[0]
    low = clopper_pearson(round(bracket.certified * bracket.n), bracket.n).low
    assert judge({"certified_robust_recall": f">= {low - 1e-6}", "strict": True}).passed
    assert not judge({"certified_robust_recall": f">= {low + 1e-6}", "strict": True}).passed
    assert judge({"certified_robust_recall": f">= {bracket.certified - 1e-9}"}).passed


MEASURED = {"robust_recall", "fidelity", "thief_accuracy", "certified_robust_recall", "accuracy", "worst_class", "recall", "false_positive_rate",
            "accuracy_loss", "worst_class_loss", "recall_loss"}  # fmt: skip


@pytest.mark.parametrize("key", sorted(set(gate_keys()) - MEASURED))
@pytest.mark.parametrize("rule", [">= -1e9", "<= 1e9"])
def test_what_was_not_measured_never_passes(key: str, rule: str) -> None:
    line = judge({key: rule})
    assert not line.passed
    assert math.isnan(line.value)
    assert line.reason.startswith("not measured")


def test_a_nan_is_not_measured() -> None:
    section = HARD.phases[1].sections[0]
    broken = replace(section, findings=(*section.findings, replace(HEAD, value=math.nan, method="other")))
    line = judge({"robust_recall": ">= 0"}, with_sections(HARD, broken))
    assert not line.passed
    assert "not measured" in line.reason


def test_a_threat_whose_attacks_failed_fails_the_rule() -> None:
    other = LpBall(eps=0.3)
    failed = Section(
        threat=other.words(), room="evasion", skipped=(Skip(method="pgd", threat=other.words(), reason="out of memory", status="failed"),)
    )
    assert judge({"robust_recall": ">= 0.1"}).passed
    line = judge({"robust_recall": ">= 0.1"}, with_sections(HARD, *HARD.phases[1].sections, failed))
    assert not line.passed
    assert other.words() in line.reason


def test_a_threat_without_certificate_fails_the_certified_rule() -> None:
    section = HARD.phases[1].sections[0]
    other = replace(section, threat="feature changes worth at most $99 a row", certificates=(),
                    findings=tuple(replace(f, threat="feature changes worth at most $99 a row") for f in section.findings))  # fmt: skip
    assert judge({"certified_robust_recall": ">= 0.1"}).passed
    line = judge({"certified_robust_recall": ">= 0.1"}, with_sections(HARD, section, other))
    assert not line.passed
    assert "$99" in line.reason


def test_findings_at_other_strengths_do_not_count() -> None:
    section = HARD.phases[1].sections[0]
    stronger = replace(HEAD, value=0.01, threat="feature changes worth at most $500 a row", headline=False)
    line = judge({"robust_recall": ">= 0.7"}, with_sections(HARD, replace(section, findings=(*section.findings, stronger))))
    assert line.passed


def test_a_second_threat_can_only_make_it_fail() -> None:
    section = HARD.phases[1].sections[0]
    weak = replace(section, threat="t", findings=(replace(HEAD, value=0.2, threat="t"),))
    strong = replace(section, threat="t", findings=(replace(HEAD, value=0.99, threat="t"),))
    assert not judge({"robust_recall": ">= 0.7"}, with_sections(HARD, section, weak)).passed
    assert judge({"robust_recall": ">= 0.7"}, with_sections(HARD, section, strong)).value == HEAD.value


def test_upper_bounds_certified_by_a_bracket() -> None:
    patients = make.patients()
    assert judge({"certified_membership_tpr_at_1pct": "<= 0.03"}, patients).passed
    assert not judge({"certified_membership_tpr_at_1pct": "<= 0.02"}, patients).passed


def test_losses() -> None:
    line = judge({"recall_loss": "<= 0.0122"})
    assert line.passed
    assert line.value == pytest.approx(0.7791 - 0.767)
    assert not judge({"recall_loss": "<= 0.0122", "strict": True}).passed
    assert "not measured" in judge({"accuracy_loss": "<= 1"}, make.images(hardened=False)).reason


@pytest.mark.parametrize(("gate", "says"), [
    ({"robust_recal": ">= 0.7"}, "robust_recall"), ({"robust_recall": 0.7}, "robust_recall is 0.7"),
    ({"robust_recall": "0.7"}, "comparison"), ({"robust_recall": "== 0.7"}, "comparison"), ({"robust_recall": ">= nan"}, "comparison"),
    ({"robust_recall": ">= 1e999"}, "comparison"),
    ({"robust_recall": ">= 1-2"}, "comparison"), ({"robust_recall": ">= 0.7", "strict": "perhaps"}, "strict"),
    ({"certified_accuracy": ">= 0.1"}, "there is no metric"),
])  # fmt: skip
def test_wrong_rules_are_named(gate: dict, says: str) -> None:
    with pytest.raises(InputError, match=says):
        parse_gate(gate)


def test_percent_and_metrics_from_outside() -> None:
    assert parse_gate({"recall": ">= 70%"})[0].bound == pytest.approx(0.7)
    assert parse_gate({"toy_metric": ">= 1"}, also=("toy_metric",))[0].key == "toy_metric"
    section = replace(HARD.phases[1].sections[0], findings=(replace(HEAD, metric="toy metric", value=2.0),))
    (line,) = judge_gate(parse_gate({"toy_metric": ">= 1"}, also=("toy_metric",)), with_sections(HARD, section))
    assert line.passed


@given(st.floats(0, 1), st.sampled_from([">=", "<=", ">", "<"]))
def test_strict_is_never_easier(bound: float, op: str) -> None:
    for key in ("robust_recall", "fidelity", "accuracy", "certified_robust_recall", "recall_loss"):
        rule = {key: f"{op} {bound!r}"}
        assert judge(rule).passed or not judge({**rule, "strict": True}).passed


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_an_input_error(text: str) -> None:
    try:
        rules = parse_gate({"recall": text})
    except InputError:
        return
    assert math.isfinite(rules[0].bound)


def test_passed_needs_every_line() -> None:
    lines = judge_gate(parse_gate({"recall": ">= 0", "fidelity": "<= 0.1"}), HARD)
    assert [line.passed for line in lines] == [True, False]
    assert not passed(lines)
    assert passed(())
