"""The examination of a torch model's gradient: what would let an attack fail although the model can be fooled.

A copy in float64 tells structure (a step, a stopped, a false, a shattered gradient) from rounding (a gradient that vanishes or
explodes in the model's own precision). What a view mends is tried: a repair counts only if a few steps along it lower the
untouched model's margin clearly further than the old gradient does, and no less than as many random changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from carbide.evasion._gradients import Ball, margins, unit
from carbide.evasion.examination.truth import Truth, compare, slope
from carbide.evasion.examination.views import Passing, Repair, View, frozen
from carbide.models.examination.seeds import seeded
from carbide.types import Array, LpBall, Rng, Symptom, decide

ROWS = 16  # rows whose gradients are looked at
SHARE = 0.1  # of rows (or nodes) that must show a flaw before it is one
STEPS = 8  # of the short attack by which a repair is tried
BETTER = 1.2  # how much further than the old gradient a repair must get to count
DRAWS = 8  # answers whose mean a gradient attack follows where answers are random
SEED = 20180802
NO_VIEW = "no view gets further than the gradient itself: read the figures of attacks without gradients beside it"
GUARD = "guard roots, logarithms and divisions in the model"
HALF = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, kw_only=True, eq=False)
class Probe:
    """The model, a few rows it gets right, the ball around them, and the same model in float64 (itself where that fails)."""

    model: Any
    twin: Any
    x: Array
    y: Tensor
    ball: Ball

    def margin(self, view: Any) -> Callable[[Tensor], Tensor]:
        """Margins of a view's logits, the same draws in each call; labels repeat where there are more inputs than rows."""

        def score(x: Tensor) -> Tensor:
            with seeded(self.model, SEED):
                logits = view.logits(x)
            return margins(logits, self.y.repeat(len(x) // len(self.y)), self.model.threshold)

        return score


def examine_gradients(model: Any, x: Array, y: Array, threat: LpBall, rng: Rng, *, random: bool) -> tuple[list[Symptom], Repair]:
    """Symptoms of the gradient at rows ``x`` with labels ``y`` ``(n,)`` within the threat, and how attacks should see the model."""
    probe = _probe(model, x, y, threat)
    found: list[Symptom] = []
    repair = Repair(draws=DRAWS if random else 1)
    if random and probe.twin.dtype == torch.float64:
        repair = replace(repair, double=True, caution=_spread_of_draws(probe))
    if random and not _repeats(probe):
        return [], repair  # two looks at such a gradient cannot be compared
    for look in (_precision, _structure) if random else (_watched, _precision, _structure):
        symptoms, repair = look(probe, repair, rng)
        found += symptoms
        if any(s.done == "refused" for s in symptoms):
            break
    return found, repair


def _repeats(probe: Probe) -> bool:
    """Whether a random model's draws can be seeded."""
    score = probe.margin(probe.model)
    first, again = (_ask(score, probe.ball.clean, probe) for _ in range(2))
    return bool(torch.equal(first, again))


def _spread_of_draws(probe: Probe) -> float:
    """The standard deviation of a row's margin from draw to draw, averaged over rows."""
    found = []
    for number in range(DRAWS):
        with torch.no_grad(), seeded(probe.model, SEED + number):
            found.append(margins(probe.twin.logits(probe.ball.clean), probe.y, probe.model.threshold))
    return float(torch.stack(found).std(0).mean())


def _probe(model: Any, x: Array, y: Array, threat: LpBall) -> Probe:
    right = np.flatnonzero(decide(model.predict(x), model.threshold) == y)
    rows = right[:ROWS] if len(right) >= 4 else np.arange(min(ROWS, len(x)))
    twin = replace(model, module=frozen(model.module, double=True))
    try:
        with torch.no_grad(), seeded(model, SEED):
            twin.logits(twin.tensor(x[rows[:2]]))
    except RuntimeError:  # the module holds tensors of a fixed dtype that float64 does not mix with
        twin = replace(model, module=frozen(model.module, double=False))
    wide = threat if threat.p in (2, math.inf) and threat.eps > 0 else LpBall(eps=0.05 * float(np.ptp(x[rows])) or 0.05)
    still = replace(model, module=frozen(model.module, double=False))  # its parameters want no gradient, and nothing can change the user's
    return Probe(model=still, twin=twin, x=x[rows], y=torch.as_tensor(y[rows], device=model.device), ball=Ball.of(twin, x[rows], wide))


# Is it the model that is asked? ----------------------------------------------------------------------------------------


def _watched(probe: Probe, repair: Repair, rng: Rng) -> tuple[list[Symptom], Repair]:
    """A model that answers otherwise while its gradient is taken deceives every gradient attack."""
    x = probe.model.tensor(probe.x)
    with seeded(probe.model, SEED), torch.no_grad():
        plain = probe.model.logits(x)
    with seeded(probe.model, SEED):
        watched = probe.model.logits(x.detach().requires_grad_(True)).detach()
    gap = float((plain - watched).abs().max() / (1 + plain.abs().max()))
    if not gap > 1e-3:
        return [], repair
    return [Symptom(name="answers differ under gradients", done="refused",
                    value=f"the model answers otherwise while its gradient is taken (logits differ by {gap:.2g} of their size)",
                    mend="remove what asks for requires_grad or is_grad_enabled in the forward pass")], repair  # fmt: skip


# Rounding --------------------------------------------------------------------------------------------------------------


def _precision(probe: Probe, repair: Repair, rng: Rng) -> tuple[list[Symptom], Repair]:
    """What the model's own dtype does to the gradient, at the rows and on a short way to where it is fooled."""
    own, twin = probe.margin(probe.model), probe.margin(probe.twin)
    found: list[Symptom] = []
    if probe.model.dtype in HALF:
        name = str(probe.model.dtype).removeprefix("torch.")
        found.append(Symptom(name="half precision", done="repaired", value=f"the model computes in {name}, whose steps are as large as small changes",
                             mend="attacks compute in float64"))  # fmt: skip
    lost = np.zeros((4, 0))
    gap = 0.0
    for x in _way(probe):
        with seeded(probe.model, SEED), torch.no_grad():
            gap = max(gap, float(own(x.to(probe.model.dtype)).abs().nan_to_num(0.0, 0.0, 0.0).median()))
        _, true = slope(twin, x)
        _, real = slope(own, x.to(probe.model.dtype))
        _, entropy = slope(_entropy(probe), x.to(probe.model.dtype))
        known = true.flatten(1).isfinite().all(1)  # what is not finite in float64 either is no matter of rounding
        alive = known & ~_zero(true)
        lost = np.concatenate(
            [
                lost,
                np.stack(
                    [~known.cpu(), (known & ~real.flatten(1).isfinite().all(1)).cpu(), (_zero(real) & alive).cpu(), (_zero(entropy) & alive).cpu()]
                ),
            ],
            1,
        )
    unknown, wild, faded, flat = lost.mean(1)
    if unknown > SHARE / 2:
        found.append(Symptom(name="NaN", done="noted", value=f"the gradient is NaN or infinite at {unknown:.0%} of the inputs looked at, in float64 too",
                             mend=GUARD))  # fmt: skip
    double = probe.twin.dtype == torch.float64
    if wild > SHARE / 2:
        found.append(_rounded("exploding gradient", f"the gradient is infinite or NaN at {wild:.0%} of the inputs looked at", double))
    if faded > SHARE and gap < 80 and probe.model.dtype not in HALF:
        found.append(_rounded("vanishing gradient", f"the gradient is exactly 0 at {faded:.0%} of the inputs, but not in float64", double))
    elif max(faded, flat) > SHARE:
        repair = replace(repair, double=double, inner=probe.model.outputs.endswith(("probabilities", "probability")))
        with torch.no_grad():
            gap = float(probe.margin(View(probe.model, repair))(probe.ball.clean).abs().nan_to_num(0.0).median())
        repair = replace(repair, scale=max(gap / 5, 1.0))
        found.append(Symptom(name="saturation", done="repaired", value=f"the cross-entropy has no gradient at {max(faded, flat):.0%} of the inputs "
                             f"(the logits' median margin is {gap:.3g})", mend=f"attacks compute {'in float64 ' * double}on logits divided by {repair.scale:.3g}"))  # fmt: skip
    mended = any(s.done == "repaired" for s in found)
    return found, replace(repair, double=double) if mended else repair


def _rounded(name: str, value: str, double: bool) -> Symptom:
    mend = "attacks compute in float64" if double else "the module cannot compute in float64; scale its weights so that float32 holds them"
    return Symptom(name=name, value=value, done="repaired" if double else "noted", mend=mend)


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


def _zero(gradient: Tensor) -> Tensor:
    return (gradient == 0).flatten(1).all(1)


# Structure -------------------------------------------------------------------------------------------------------------


def _structure(probe: Probe, repair: Repair, rng: Rng) -> tuple[list[Symptom], Repair]:
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
    low = first = _ask(true, x, probe)
    for turn in range(STEPS):
        _, gradient = slope(score, x)
        x = probe.ball.project(x - probe.ball.eps * (0.5 if turn < STEPS // 2 else 0.2) * probe.ball.direction(gradient.nan_to_num(0.0)))
        low = torch.minimum(low, _ask(true, x, probe))
    return float((first - low).nan_to_num(0.0).mean())


def _luck(probe: Probe, rng: Rng) -> float:
    """The same by random changes of full size."""
    true = probe.margin(probe.model)
    low = first = _ask(true, probe.ball.clean, probe)
    for _ in range(STEPS):
        signs = torch.as_tensor(rng.choice([-1.0, 1.0], size=probe.ball.clean.shape), dtype=probe.ball.clean.dtype, device=probe.ball.clean.device)
        low = torch.minimum(low, _ask(true, probe.ball.project(probe.ball.clean + probe.ball.eps * probe.ball.direction(signs)), probe))
    return float((first - low).nan_to_num(0.0).mean())


def _ask(score: Callable[[Tensor], Tensor], x: Tensor, probe: Probe) -> Tensor:
    with torch.no_grad():
        return score(x.to(probe.model.dtype)).double()


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
