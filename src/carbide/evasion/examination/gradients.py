"""The examination of a torch model's gradient: what would let an attack fail although the model can be fooled.

A copy in float64 tells structure (a step, a stopped, a false, a shattered gradient) from rounding (a gradient that vanishes or
explodes in the model's own precision).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from carbide.evasion._gradients import margins
from carbide.evasion.examination.precision import examine_precision
from carbide.evasion.examination.probe import SEED, Probe, ask, probe_of
from carbide.evasion.examination.structure import examine_structure
from carbide.evasion.examination.views import Repair
from carbide.models.examination.seeds import seeded
from carbide.types import Array, LpBall, Rng, Symptom

DRAWS = 8  # answers whose mean a gradient attack follows where answers are random


def examine_gradients(model: Any, x: Array, y: Array, threat: LpBall, rng: Rng, *, random: bool) -> tuple[list[Symptom], Repair]:
    """Symptoms of the gradient at rows ``x`` with labels ``y`` ``(n,)`` within the threat, and how attacks should see the model."""
    probe = probe_of(model, x, y, threat)
    repair = Repair(draws=DRAWS if random else 1)
    if random and probe.twin.dtype == torch.float64:
        repair = replace(repair, caution=_spread_of_draws(probe))
    if random and not _repeats(probe):
        return [], repair  # two looks at such a gradient cannot be compared
    found = [] if random else _watched(probe)
    if found:
        return found, repair
    rounding, repair = examine_precision(probe, repair)
    structure, repair = examine_structure(probe, repair, rng)
    return [*rounding, *structure], repair


def _repeats(probe: Probe) -> bool:
    """Whether a random model's draws can be seeded."""
    score = probe.margin(probe.model)
    first, again = (ask(score, probe.ball.clean, probe) for _ in range(2))
    return bool(torch.equal(first, again))


def _spread_of_draws(probe: Probe) -> float:
    """The standard deviation of a row's margin from draw to draw, averaged over rows."""
    found = []
    for number in range(DRAWS):
        with torch.no_grad(), seeded(probe.model, SEED + number):
            found.append(margins(probe.twin.logits(probe.ball.clean), probe.y, probe.model.threshold))
    return float(torch.stack(found).std(0).mean())


def _watched(probe: Probe) -> list[Symptom]:
    """A model that answers otherwise while its gradient is taken deceives every gradient attack."""
    x = probe.model.tensor(probe.x)
    with seeded(probe.model, SEED), torch.no_grad():
        plain = probe.model.logits(x)
    with seeded(probe.model, SEED):
        watched = probe.model.logits(x.detach().requires_grad_(True)).detach()
    gap = float((plain - watched).abs().max() / (1 + plain.abs().max()))
    if not gap > 1e-3:
        return []
    return [Symptom(name="answers differ under gradients", done="refused",
                    value=f"the model answers otherwise while its gradient is taken (logits differ by {gap:.2g} of their size)",
                    mend="remove what asks for requires_grad or is_grad_enabled in the forward pass")]  # fmt: skip
