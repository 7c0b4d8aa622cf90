"""Whether a gradient accounts for what the answers do within the ball, why it does not, and which view helps.

What a view mends is tried: a repair counts only if a few steps along it lower the untouched model's margin clearly further
than the old gradient does, and no less than as many random changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carbide.evasion._gradients import Ball, unit
from carbide.evasion.examination.probe import GUARD, SEED, Probe, ask
from carbide.evasion.examination.truth import Truth, compare, slope
from carbide.evasion.examination.views import Passing, Repair, View
from carbide.models.examination.seeds import seeded
from carbide.types import Rng, Symptom

STEPS = 8  # of the short attack by which a repair is tried
BETTER = 1.2  # how much further than the old gradient a repair must get to count
NO_VIEW = "no view gets further than the gradient itself: read the figures of attacks without gradients beside it"


def examine_structure(probe: Probe, repair: Repair, rng: Rng) -> tuple[list[Symptom], Repair]:
    """Whether the gradient accounts for what the answers do within the ball; if not, why, and which view helps."""
    score = probe.margin(probe.twin)
    a, b = _segments(probe, score, rng)
    fine = probe.twin.dtype == torch.float64
    truth = compare(score, a, b, near=1e-4 if fine else 1e-2, grain=1e-9 if fine else 1e-4)
    found, hard = [], _hard(probe)
    if truth.broken > 0:
        found.append(Symptom(name="NaN", done="noted", value=f"the answer or its gradient is NaN or infinite at {truth.broken:.1%} of inputs in the ball",
                             mend=GUARD))  # fmt: skip
    if not (truth.far_lies or hard):
        return found, repair
    passing = Passing()
    with passing, seeded(probe.model, SEED):
        probe.twin.logits(probe.ball.clean.detach().requires_grad_(True))
    name, value = _named(truth, passing.seen, hard)
    better = None if hard else _best(probe, repair, passing.seen, rng)
    done, mend = ("noted", NO_VIEW) if better is None else ("repaired", _mended(better))
    return [*found, Symptom(name=name, value=value, done=done, mend=mend)], repair if better is None else better


def _segments(probe: Probe, score: Callable[[Tensor], Tensor], rng: Rng) -> tuple[Tensor, Tensor]:
    """Two random segments a row and one along the gradient, across the ball and inside the bounds."""
    ball = probe.ball
    signs = torch.as_tensor(rng.choice([-1.0, 1.0], size=(2, *ball.clean.shape)), dtype=ball.clean.dtype, device=ball.clean.device)
    _, gradient = slope(score, ball.clean)
    ways = [ball.direction(s) if math.isinf(ball.p) else unit(s, 2) for s in (*signs, gradient.nan_to_num(0.0))]
    ends = [(ball.project(ball.clean - ball.eps * way), ball.project(ball.clean + ball.eps * way)) for way in ways]
    return torch.cat([a for a, _ in ends]), torch.cat([b for _, b in ends])


def _hard(probe: Probe) -> bool:
    """Whether outputs take two values only."""
    with torch.no_grad(), seeded(probe.model, SEED):
        out = probe.model.module(probe.model.tensor(probe.x))
    return len(out) > 2 and len(out.unique()) == 2


def _named(truth: Truth, seen: set[str], hard: bool) -> tuple[str, str]:
    if hard:
        return "hard labels", "the model's outputs are labels (two values only), which have no gradient"
    stops = seen & {"detach", "no_grad", "data", "numpy"}
    steps = seen - stops
    what = f" ({', '.join(sorted(seen))} on the way)" if seen else ""
    if not truth.near_moves and (steps or truth.dead):
        return "non-differentiable step", f"answers move by steps that the gradient does not see{what}"
    if truth.near_lies and (stops or truth.dead):
        return "stopped gradient", f"answers move although the gradient says that they do not{what}"
    if truth.near_lies and truth.near_moves:
        return "false gradient", f"the gradient is not the slope of the answers, nearby or across the ball{what}"
    return "shattered gradient", "the gradient holds only right beside an input: across the ball answers move otherwise"


def _mended(repair: Repair) -> str:
    if repair.layers:
        return f"attacks pass the gradient through {', '.join(repair.layers)} as the identity"
    if repair.passing:
        return "attacks pass the gradient through rounding, sign and detach as the identity"
    if repair.estimate:
        return f"attacks measure the gradient from answers at inputs {repair.estimate:g} away"
    return f"attacks follow the mean gradient of inputs within {repair.noise:g}"


def _best(probe: Probe, repair: Repair, seen: set[str], rng: Rng) -> Repair | None:
    """The repair whose short attack gets furthest, if that is clearly further than the old gradient and no less than luck."""
    double = replace(repair, double=probe.twin.dtype == torch.float64)
    bar = max(BETTER * _fall(probe, probe.twin), 0.95 * _luck(probe, rng), 1e-12)
    layers = _untrue_layers(probe, rng)
    through = [replace(double, passing=True)] * bool(seen) + [replace(double, layers=layers)] * bool(layers)
    around = [replace(double, noise=probe.ball.eps * share / _reach(probe.ball)) for share in (0.5, 1.0)]
    measured = [replace(double, estimate=0.5 * probe.ball.eps / _reach(probe.ball))]
    for tries in (through, around, measured):  # many inputs a step are dear, so they come last
        falls = [_fall(probe, View(probe.model, t, seed=SEED)) for t in tries]
        if falls and max(falls) > bar:
            return tries[int(np.argmax(falls))]
    return None


def _reach(ball: Ball) -> float:
    """How far one feature moves when a change of norm eps is spread evenly, as a divisor of eps."""
    return 1.0 if math.isinf(ball.p) else math.sqrt(ball.clean[0].numel())


def _fall(probe: Probe, view: Any) -> float:
    """How far a short attack along a view lowers the model's margins, on average, at its best points."""
    true, score, x = probe.margin(probe.model), probe.margin(view), probe.ball.clean
    low = first = ask(true, x, probe)
    for turn in range(STEPS):
        _, gradient = slope(score, x)
        x = probe.ball.project(x - probe.ball.eps * (0.5 if turn < STEPS // 2 else 0.2) * probe.ball.direction(gradient.nan_to_num(0.0)))
        low = torch.minimum(low, ask(true, x, probe))
    return float((first - low).nan_to_num(0.0).mean())


def _luck(probe: Probe, rng: Rng) -> float:
    """The same by random changes of full size."""
    true = probe.margin(probe.model)
    low = first = ask(true, probe.ball.clean, probe)
    for _ in range(STEPS):
        signs = torch.as_tensor(rng.choice([-1.0, 1.0], size=probe.ball.clean.shape), dtype=probe.ball.clean.dtype, device=probe.ball.clean.device)
        low = torch.minimum(low, ask(true, probe.ball.project(probe.ball.clean + probe.ball.eps * probe.ball.direction(signs)), probe))
    return float((first - low).nan_to_num(0.0).mean())


def _untrue_layers(probe: Probe, rng: Rng) -> tuple[str, ...]:
    """The innermost modules that keep their input's shape and whose gradient does not account for what they do."""
    module = probe.twin.module
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(part: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor) and inputs[0].shape == output.shape:
                seen[name] = inputs[0].detach()

        return hook

    handles = [part.register_forward_hook(keep(name)) for name, part in module.named_modules() if name]
    with torch.no_grad(), seeded(probe.model, SEED):
        probe.twin.logits(probe.ball.clean)
    for handle in handles:
        handle.remove()
    parts = dict(module.named_modules())
    untrue = [name for name, given in seen.items() if given.is_floating_point() and _lies(parts[name], given, probe, rng)]
    return tuple(name for name in untrue if not any(other.startswith(f"{name}.") for other in untrue))


def _lies(part: nn.Module, given: Tensor, probe: Probe, rng: Rng) -> bool:
    size = 0.1 * float(given.std())
    draw = lambda: torch.as_tensor(rng.standard_normal(given.shape), dtype=given.dtype, device=given.device)  # noqa: E731
    weights, way = draw(), size * draw()

    def score(x: Tensor) -> Tensor:
        with seeded(probe.model, SEED):
            return (part(x) * weights).flatten(1).sum(1)

    fine = given.dtype == torch.float64
    return size > 0 and compare(score, given - way, given + way, near=1e-4 if fine else 1e-2, grain=1e-9 if fine else 1e-4).far_lies
