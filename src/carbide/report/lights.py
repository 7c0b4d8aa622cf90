"""Traffic lights: when a number is green, amber or red; the rules are printed in the report.

Robust accuracy and recall are judged by the share of the clean value that is left, leakage by absolute bounds (see
``metrics``). A green number whose interval reaches into red is amber, and a rule of the gate that fails is always red.

>>> light_of_value(0.9, METRICS["robust_accuracy"], clean=0.95)
<Light.GREEN: 'held'>
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from typing import Any

from carbide.report.metrics import CLEAN, EPSILON, METRICS, Metric, key_of, metric_named
from carbide.results import GateLine, Phase, Results, Timings
from carbide.types import Finding


class Light(enum.Enum):
    """A light and its word, so that colour is never the only sign."""

    GREEN = "held"
    AMBER = "partly"
    RED = "at risk"
    GREY = "not measured"
    NONE = "no rule"


def light_of_value(value: float, metric: Metric, *, clean: float = math.nan) -> Light:
    """The light of one value; ``clean`` is the same phase's clean value, for metrics that are judged against it."""
    judged = value / clean if metric.clean else value
    if math.isnan(judged):
        return Light.GREY
    if metric.good > 0:
        return Light.GREEN if judged >= metric.green else Light.AMBER if judged >= metric.red else Light.RED
    return Light.GREEN if judged <= metric.green else Light.AMBER if judged <= metric.red else Light.RED


def light_of(finding: Finding | None, phase: Phase | None, gate: tuple[GateLine, ...] = ()) -> Light:
    """The light of a finding of a phase; ``gate`` holds the lines that judged this phase."""
    if finding is None or math.isnan(finding.value):
        return Light.GREY
    if any(line.metric == key_of(finding.metric) and not line.passed for line in gate):
        return Light.RED
    metric = metric_named(finding.metric)
    if finding.metric == EPSILON:  # its upper end is the accounted one, and a refuted claim stops the run
        return Light.GREEN if finding.value <= finding.high else Light.RED
    if metric is None:
        return Light.NONE
    measure = phase.performance.get(metric.clean) if phase and metric.clean else None
    if measure and measure.value == 0 and metric.good > 0:
        return Light.RED  # wrong as it is on every row
    clean = measure.value if measure and measure.value > 0 else math.nan
    light = light_of_value(finding.value, metric, clean=clean)
    worst = light_of_value(finding.low if metric.good > 0 else finding.high, metric, clean=clean)
    return Light.AMBER if light is Light.GREEN and worst is Light.RED else light


def allowance(results: Results) -> float:
    """The loss of accuracy that the plan allows, as a share (0.02 unless it says otherwise)."""
    return float(_harden(results).get("accuracy_loss", 0.02))


def light_of_loss(name: str, results: Results) -> Light:
    """The light of a clean number after hardening: green within the plan's allowed loss, red beyond twice as much."""
    before = results.plain.performance.get(name) if results.plain else None
    after = results.hardened.performance.get(name) if results.hardened else None
    if before is None or after is None or math.isnan(before.value) or math.isnan(after.value):
        return Light.NONE
    loss = (before.value - after.value) * CLEAN[name].good if name in CLEAN else 0.0
    allowed = allowance(results)
    return Light.GREEN if loss <= allowed + 1e-9 else Light.AMBER if loss <= 2 * allowed + 1e-9 else Light.RED


def light_of_latency(results: Results, timings: Timings) -> Light:
    """The light of the hardened model's latency: green within the plan's factor (1.5 unless it says otherwise), red beyond twice that."""
    if not {"plain", "hardened"} <= set(timings.latency) or not timings.latency["plain"].p50 > 0:
        return Light.NONE
    factor = timings.latency["hardened"].p50 / timings.latency["plain"].p50
    allowed = float(_harden(results).get("latency_factor") or 1.5)
    return Light.GREEN if factor <= allowed else Light.AMBER if factor <= 2 * allowed else Light.RED


def rules() -> tuple[tuple[str, str, str], ...]:
    """The rules of the lights in words: metric, green when, red when."""
    rows = []
    for metric in METRICS.values():
        than = f" of the clean {CLEAN[metric.clean].name}" if metric.clean else ""
        at_least, below = ("at least", "below") if metric.good > 0 else ("at most", "above")
        show = (lambda v: f"{v:.2f}") if metric.key.endswith("_auc") else (lambda v: f"{v:.1%}")
        rows.append((metric.name, f"{at_least} {show(metric.green)}{than}", f"{below} {show(metric.red)}{than}"))
    return tuple(rows)


def _harden(results: Results) -> Mapping[str, Any]:
    section = results.plan.get("harden")
    return section if isinstance(section, Mapping) else {}
