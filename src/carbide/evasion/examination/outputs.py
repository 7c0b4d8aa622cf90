"""What kind of numbers a torch model returns: logits, their logs of probabilities, or probabilities through one softmax too many."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from carbide.evasion.examination.views import Repair
from carbide.types import Array, Symptom

NEAR = 1e-4


def examine_outputs(model: Any, x: Array, repair: Repair) -> tuple[list[Symptom], Repair]:
    """Symptoms of the outputs for rows ``x``, and the repair with what they need."""
    with torch.no_grad():
        z = model.logits(model.tensor(x)).double()
    if not bool(z.isfinite().all()):
        return [], repair
    if _twice(z, model.outputs):
        high = float(z.softmax(1).amax())
        return [Symptom(name="softmax twice", done="repaired", value=f"no answer is surer than {high:.3f}, as when a softmax follows a softmax",
                        mend="attacks undo one of them; return logits from the module")], replace(repair, undo=True, double=True)  # fmt: skip
    if model.outputs == "logits" and bool((z.logsumexp(1).abs() < NEAR).all()):
        return [Symptom(name="log-probabilities", done="noted", value="the model returns logs of probabilities",
                        mend="they are read as logits, which gives the same answers and gradients")], repair  # fmt: skip
    return [], repair


def _twice(z: torch.Tensor, outputs: str) -> bool:
    """Whether logits ``(n, k)`` are themselves probabilities (up to a constant a row) that pile up near one."""
    k = z.shape[1]
    if outputs == "logits" and not bool(((z.sum(1) - 1).abs() < NEAR).all()):
        return False
    inner = z + (1 - z.sum(1, keepdim=True)) / k
    inside = bool(((inner > -NEAR) & (inner < 1 + NEAR)).all())
    return inside and float((inner.amax(1) > 0.98).double().mean()) > 0.1
