"""What the model's own precision does to its gradient: it vanishes, explodes or saturates where float64 still knows one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from carbide.evasion.examination.probe import GUARD, SEED, Probe, ask
from carbide.evasion.examination.truth import slope
from carbide.evasion.examination.views import Repair, View
from carbide.models.examination.seeds import seeded
from carbide.types import Symptom

SHARE = 0.1  # of inputs that must show a flaw before it is one
HALF = (torch.float16, torch.bfloat16)
UNDERFLOW = 80  # a margin whose exponential float32 barely holds


@dataclass(frozen=True, kw_only=True)
class _Lost:
    """Shares of inputs: a gradient not finite in float64, not finite in the model's precision alone, zero there, zero of the cross-entropy."""

    unknown: float
    wild: float
    faded: float
    flat: float
    gap: float  # the largest median margin on the way, in logits


def examine_precision(probe: Probe, repair: Repair) -> tuple[list[Symptom], Repair]:
    """Symptoms of rounding at the rows and on a short way to where the model is fooled, and the repair with what they need."""
    lost, double, half = _lost(probe), probe.twin.dtype == torch.float64, probe.model.dtype in HALF
    found: list[Symptom] = []
    if half:
        name = str(probe.model.dtype).removeprefix("torch.")
        found.append(_rounded("half precision", f"the model computes in {name}, whose steps are as large as small changes", double))
    if lost.unknown > SHARE / 2:
        found.append(Symptom(name="NaN", value=f"the gradient is NaN or infinite at {lost.unknown:.0%} of the inputs looked at, in float64 too",
                             done="noted", mend=GUARD))  # fmt: skip
    if lost.wild > SHARE / 2:
        found.append(_rounded("exploding gradient", f"the gradient is infinite or NaN at {lost.wild:.0%} of the inputs looked at", double))
    if lost.faded > SHARE and lost.gap < UNDERFLOW and not half:
        found.append(_rounded("vanishing gradient", f"the gradient is exactly 0 at {lost.faded:.0%} of the inputs, but not in float64", double))
    elif max(lost.faded, lost.flat) > SHARE:
        symptom, repair = _saturated(probe, repair, max(lost.faded, lost.flat), double)
        found.append(symptom)
    mended = any(s.done == "repaired" for s in found)
    return found, replace(repair, double=repair.double or double) if mended else repair


def _saturated(probe: Probe, repair: Repair, share: float, double: bool) -> tuple[Symptom, Repair]:
    repair = replace(repair, double=double, inner=probe.model.outputs in ("probabilities", "one probability"))
    with torch.no_grad():
        gap = float(probe.margin(View(probe.model, repair))(probe.ball.clean).abs().nan_to_num(0.0).median())
    repair = replace(repair, scale=max(gap / 5, 1.0))
    how = f"attacks compute {'in float64 ' if double else ''}on logits divided by {repair.scale:.3g}"
    value = f"the cross-entropy has no gradient at {share:.0%} of the inputs (the logits' median margin is {gap:.3g})"
    return Symptom(name="saturation", value=value, done="repaired", mend=how), repair


def _rounded(name: str, value: str, double: bool) -> Symptom:
    mend = "attacks compute in float64" if double else "the module cannot compute in float64; scale its weights so that float32 holds them"
    return Symptom(name=name, value=value, done="repaired" if double else "noted", mend=mend)


def _lost(probe: Probe) -> _Lost:
    own, twin, entropy = probe.margin(probe.model), probe.margin(probe.twin), _entropy(probe)
    flaws, gaps = [], []
    for x in _way(probe):
        near = x.to(probe.model.dtype)
        gaps.append(float(ask(own, x, probe).abs().nan_to_num(0.0, 0.0, 0.0).median()))
        true, real, cross = (slope(f, at)[1].flatten(1) for f, at in ((twin, x), (own, near), (entropy, near)))
        known = true.isfinite().all(1)  # what is not finite in float64 either is no matter of rounding
        alive = known & (true != 0).any(1)
        flaws.append(torch.stack([~known, known & ~real.isfinite().all(1), alive & (real == 0).all(1), alive & (cross == 0).all(1)]))
    shares = torch.cat(flaws, 1).double().mean(1).tolist()
    return _Lost(unknown=shares[0], wild=shares[1], faded=shares[2], flat=shares[3], gap=float(np.max(gaps)))


def _way(probe: Probe) -> Iterator[Tensor]:
    """The rows, and three steps of the float64 gradient towards a wrong answer: a loop may lose a gradient that a row has."""
    x, score = probe.ball.clean, probe.margin(probe.twin)
    for _ in range(4):
        yield x
        _, gradient = slope(score, x)
        x = probe.ball.project(x - probe.ball.eps / 3 * probe.ball.direction(gradient.nan_to_num(0.0)))


def _entropy(probe: Probe) -> Callable[[Tensor], Tensor]:
    def score(x: Tensor) -> Tensor:
        with seeded(probe.model, SEED):
            return nn.functional.cross_entropy(probe.model.logits(x), probe.y, reduction="none")

    return score
