"""The judge of evasion: an attack proposes, this module decides, for images and tables, nets, trees and black boxes.

A proposal is first brought into the threat (into the ball and the bounds; a priced row that does not exist or costs too much, or
an image with more than one patch of the size, becomes the clean row again), then the untouched model is asked afresh. Of
distortions and corruptions only parameters are proposed, and the judge renders the image itself. A row that the model gets wrong
as it is counts as broken at no cost. Attacks run from cheap to strong, each on the rows that those before it left, and
the headline is what survives all of them. Before anything is measured the model is examined: attacks that follow gradients
may be shown a repaired view of it, and a model that answers at random is asked several times.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from carbide.evasion._alarm import sample_first
from carbide.evasion._figures import budget_figures, class_bars, gallery, kind_bars, reach_figure
from carbide.evasion._goal import METRIC as TARGETED
from carbide.evasion._goal import aimed, aimed_case, others
from carbide.evasion._money import PROFIT, Deals, gain_moves, money_findings
from carbide.evasion._proposals import CHANGED, Changed, Proposing
from carbide.evasion._typical import typical_findings
from carbide.evasion.examination import Examination, examine
from carbide.evasion.examination.votes import Asked
from carbide.registry import Method
from carbide.run import remember
from carbide.space.balls import inside_ball, norms, project
from carbide.space.distortions import in_range, missing, proposal_shape, render, said, sizes, typical_draws
from carbide.space.membership import allowed, cost, inside
from carbide.space.patches import box_pixels, inside_patch
from carbide.space.repair import repair
from carbide.stats.intervals import Count, clopper_pearson, counted
from carbide.types import (
    Access,
    Array,
    CarbideError,
    Case,
    Corruption,
    Dataset,
    Distortion,
    FeatureBudget,
    Figure,
    Finding,
    InputError,
    LpBall,
    Model,
    Outcome,
    Patch,
    Section,
    Skip,
    Space,
    Threat,
    decide,
    rng_for,
)  # fmt: skip

SOUND = Examination()
UNITS: dict[type[Threat], str] = {Patch: ", as a share of the image", Distortion: ", as a share of the range"}  # of costs, where not input units
GRID = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # multiples of eps at which the curve is measured


def judge(model: Model, x: Array, y: Array, proposal: Array, threat: Threat, space: Space, *, queries: Array | None = None) -> Outcome:
    """What the proposals for rows ``x`` with labels ``y`` ``(n,)`` really achieve.

    Proposals are inputs ``(n, *shape)``, for a ``Distortion`` or ``Corruption`` the parameters ``(n, k)`` of its rendering.

    ``queries`` ``(n,)`` are what the attack asked of the model, by its counting proxy. Costs are norms of the change in
    an ``LpBall``, prices under a ``FeatureBudget``, the share of the image that a ``Patch`` covers, the share of its range that a distortion
    takes; inf where the row stands.

    Raises:
        CarbideError: if the proposal does not have the shape of the rows, or of their parameters.
    """
    wanted, rendered = proposal_shape(x, threat, space), isinstance(threat, Distortion | Corruption)
    if np.shape(proposal) != wanted:
        what = f"parameters of shape {wanted}, which are rendered here" if rendered else "one input a row"
        raise CarbideError(f"an attack returned {np.shape(proposal)} for rows of shape {x.shape}; return {what}")
    x = np.asarray(x, np.float64)  # in a coarser type, rounding alone would put proposals at the rim of the threat outside it
    allowed, price = admit(np.asarray(proposal, np.float64), x, threat, space)
    wrong = decide(model.predict(x), model.threshold) != y
    success = wrong | (decide(model.predict(allowed), model.threshold) != y)
    spread = (slice(None), *[None] * (x.ndim - 1))
    witness = np.where((success & ~wrong)[spread], allowed, x)
    cost = np.where(wrong, 0.0, np.where(success, price, np.inf))
    parameters = np.where((success & ~wrong)[:, None], proposal, np.nan) if rendered else None
    return Outcome(success=success, cost=cost, queries=np.zeros(len(x), np.int64) if queries is None else queries, witness=witness,
                   parameters=parameters)  # fmt: skip


def admit(proposal: Array, x: Array, threat: Threat, space: Space) -> tuple[Array, Array]:
    """The proposals as inputs that the threat allows, and what each costs ``(n,)``; what cannot be allowed becomes the clean row."""
    spread = (slice(None), *[None] * (x.ndim - 1))
    if isinstance(threat, Distortion | Corruption):
        good, made = in_range(proposal, threat, space), x.copy()
        made[good] = render(x[good], proposal[good], threat, space)
        return made, np.where(good, sizes(np.where(good[:, None], proposal, 0.0), threat, space), 0.0)
    if isinstance(threat, LpBall):
        given = _in_ball(proposal, x, threat, space)  # what is inside already is judged to the last digit as it is
        near = repair(project(proposal, x, p=threat.p, eps=threat.eps, lower=space.lower, upper=space.upper), x, space)
        near = np.where(given[spread], proposal, near)
        good = given | _in_ball(near, x, threat, space)
        near = np.where(good[spread], near, x)
        return near, np.where(good, norms(near - x, threat.p), 0.0)
    if isinstance(threat, Patch):  # a proposal that reaches beyond one patch cannot be cut down to what it meant
        good = _in_bounds(proposal, x, space) & inside_patch(proposal, x, threat, space)
        return np.where(good[spread], proposal, x), np.where(good, box_pixels(proposal, x) / math.prod(space.shape[1:]), 0.0)
    if not isinstance(threat, FeatureBudget):
        raise InputError(f"{type(threat).__name__} changes no inputs; give an LpBall, a FeatureBudget, a Patch, a Distortion or a Corruption")
    good = inside(proposal, x, space, threat)
    return np.where(good[spread], proposal, x), np.where(good, cost(x, proposal, threat.prices, space), 0.0)


def _in_ball(proposal: Array, x: Array, threat: LpBall, space: Space) -> Array:
    return _in_bounds(proposal, x, space, p=threat.p, eps=threat.eps)


def _in_bounds(proposal: Array, x: Array, space: Space, *, p: float = math.inf, eps: float = math.inf) -> Array:
    near = inside_ball(proposal, x, p=p, eps=eps, lower=space.lower, upper=space.upper, slack=1e-9)
    plain = not (space.groups or space.relations or (space.step > 0).any() or not space.mutable.all())
    return near if plain else near & allowed(proposal, x, space)


@dataclass(kw_only=True, eq=False)
class _Tally:
    """What is known of each row so far: broken how, at what cost, by which method; ``settled`` = an exact method has decided it."""

    data: Dataset
    wrong: Array
    broken: Array
    cost: Array
    witness: Array
    by: Array
    unknown: Array
    settled: Array
    exam: Examination
    parameters: Array | None = None  # of the witnesses that are rendered
    findings: list[Finding] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    exact: bool = False
    deals: Deals | None = None  # where changes change what is earned

    def take(self, rows: Array, outcome: Outcome, name: str) -> None:
        """Keep what broke more rows, or the same rows at less cost."""
        better = outcome.success & (outcome.cost < self.cost[rows])
        chosen = rows[better]
        assert outcome.witness is not None
        stage = np.full(len(rows), "") if outcome.stage is None else outcome.stage
        by = [f"{name} ({part})" if part else name for part in stage[better]]
        if self.parameters is not None and outcome.parameters is not None:
            self.parameters[chosen] = outcome.parameters[better]
        self.broken[chosen], self.cost[chosen], self.witness[chosen], self.by[chosen] = True, outcome.cost[better], outcome.witness[better], by


def audit(case: Case, threat: Threat, methods: Mapping[str, Method]) -> Section:
    """What survives every attack on the case's test rows; see the module.

    Raises:
        CarbideError: if the model changed while it was attacked.
        InputError: if the examination of the model refuses it.
    """
    if isinstance(threat, LpBall) and threat.target is not None:
        return _audit_aimed(case, threat, methods)
    data = judged_rows(case, threat)
    exam = examine(case.model, data, threat)
    exam.refuse()
    case = replace(case, model=exam.judged(case.model))
    before = case.model.digest()
    metric = metric_of(case, threat)
    probabilities = case.model.predict(data.x)
    wrong = decide(probabilities, case.model.threshold) != data.y
    n = len(data)
    tally = _Tally(data=data, wrong=wrong, broken=wrong.copy(), cost=np.where(wrong, 0.0, np.inf), witness=data.x.copy(),
                   by=np.where(wrong, "none needed", "").astype(object), unknown=np.zeros(n, bool), settled=wrong.copy(), exam=exam,
                   parameters=np.full(proposal_shape(data.x, threat, data.space), np.nan) if isinstance(threat, Distortion | Corruption) else None)  # fmt: skip
    tally.skipped += [Skip(method=name, threat=threat.words(), reason=reason) for name, reason in missing(threat, data.space).items()]
    ran = [name for name, method in sorted(methods.items(), key=lambda m: (_rank(m[1]), m[0])) if _run(case, threat, name, method, tally)]
    if case.model.digest() != before:
        raise Changed(CHANGED)
    typical = _typical(case, threat, tally) if ran and isinstance(threat, Distortion | Corruption) else ()
    if exam.random:
        _settle_draws(case, threat, tally)
    if not ran:
        return Section(threat=threat.words(), room="evasion", skipped=tuple(tally.skipped), examination=exam.symptoms)
    if isinstance(threat, FeatureBudget) and gain_moves(threat.prices, data.space):
        tally.deals = _deals(case, threat, [methods[name] for name in ran], tally)
    figures = _figures(case, threat, {name: methods[name] for name in ran}, tally, metric, typical)
    if case.model.digest() != before:
        raise Changed(CHANGED)
    evidence = {"x": data.x, "y": data.y, "ids": data.ids.astype(str), "witness": tally.witness, "broken": tally.broken | tally.unknown,
                "cost": tally.cost, "method": tally.by.astype(str), "wrong": wrong, "unknown": tally.unknown}  # fmt: skip
    evidence |= {} if tally.parameters is None else {"parameters": tally.parameters}
    evidence |= {} if tally.deals is None else {"deal": tally.deals.witness()}
    findings = (*_headline(case, threat, tally, metric, [methods[name] for name in ran], ran), *typical, *tally.findings)
    return Section(threat=threat.words(), room="evasion", findings=findings, figures=figures, evidence=evidence, skipped=tuple(tally.skipped),
                   examination=exam.symptoms)  # fmt: skip


def _audit_aimed(case: Case, threat: LpBall, methods: Mapping[str, Method]) -> Section:
    """The same for a target class: the question whether a row is of that class is attacked, and told by the rows' own classes."""
    data = judged_rows(case, threat)
    asked = aimed_case(replace(case, data=replace(case.data, test=data)), threat)
    able = {name: method for name, method in methods.items() if method.needs in asked.model.access}
    section = audit(asked, replace(threat, target=None), able)
    why = "it reads the model itself, and the question whether a row is of the target class has only answers"
    unable = tuple(Skip(method=name, threat="", reason=why) for name in methods if name not in able)
    section = replace(section, threat=threat.words(), skipped=tuple(replace(skip, threat=threat.words()) for skip in (*section.skipped, *unable)))
    if not section.findings:
        return section
    fell, old = section.evidence["broken"], "robust accuracy"
    wrong, taken = "rows that the model gets wrong as they are", "rows that the model takes for the target as they are"
    findings = tuple(replace(f, threat=threat.words(), metric=f.metric.replace(old, TARGETED), note=f.note.replace(wrong, taken))
                     for f in section.findings)  # fmt: skip
    findings = tuple(_worst(f, data, fell) if f.metric.startswith("worst class") else f for f in findings)
    figures = tuple(replace(f, title=f.title.replace(old, TARGETED), y_label=f.y_label.replace(old, TARGETED),
                            series=tuple(replace(line, name=line.name.replace(old, TARGETED)) for line in f.series)) for f in section.figures)  # fmt: skip
    bars = class_bars(TARGETED, data, section.evidence["wrong"], fell)
    figures = tuple(bars if f.title == bars.title else f for f in figures)
    return replace(section, findings=findings, figures=figures, evidence={**section.evidence, "y": data.y})


def _worst(finding: Finding, data: Dataset, fell: Array) -> Finding:
    """The finding about the class of which the smallest share stands."""
    shares = {int(c): float((~fell[data.y == c]).mean()) for c in np.unique(data.y)}
    worst = min(shares, key=lambda c: (shares[c], c))
    standing, n = int((~fell[data.y == worst]).sum()), int((data.y == worst).sum())
    low, high = clopper_pearson(standing, n)
    name = data.class_names[worst] if data.class_names else str(worst)
    return replace(finding, value=standing / n, low=low, high=high, n=n, note=f"class {name}")


def _settle_draws(case: Case, threat: Threat, tally: _Tally) -> None:
    """Judge all witnesses of a random model once more, together: an attack had many tries, and the luckiest of them is no evidence."""
    made = tally.witness if tally.parameters is None else tally.parameters
    outcome = judge(case.model, tally.data.x, tally.data.y, made, threat, tally.data.space)
    tally.broken, tally.cost = outcome.success, outcome.cost
    tally.by[~outcome.success] = ""


def _typical(case: Case, threat: Distortion | Corruption, tally: _Tally) -> tuple[Finding, ...]:
    """The average case: how often the model is right on changes drawn from the range, beside the worst that attacks found.

    A row that one of the draws breaks is broken, so that the worst case is never better than the average.
    """
    data = tally.data
    names, draws = typical_draws(threat, data.space, len(data), rng_for(case.seed, "evasion", "typical"))

    def compute() -> dict[str, Any]:
        right = [decide(case.model.predict(admit(d, data.x, threat, data.space)[0]), case.model.threshold) == data.y for d in draws]
        return {"right": np.array(right, bool).reshape(len(draws), len(data))}

    right = remember("evasion average case", (case.model, data.x, data.y, threat, case.seed, "average case"), compute)["right"]
    for draw, good in zip(draws, right, strict=True):
        rows = np.flatnonzero(~good & ~tally.broken)
        if len(rows):
            tally.take(rows, judge(case.model, data.x[rows], data.y[rows], draw[rows], threat, data.space), "a draw of the average case")

    return typical_findings(threat, metric_of(case, threat), names, right, seed=case.seed)


def metric_of(case: Case, threat: Threat) -> str:
    """``robust recall`` for priced changes and at an operating point, else ``robust accuracy`` (``targeted`` where the threat has a target)."""
    if isinstance(threat, LpBall) and threat.target is not None:
        return TARGETED
    return "robust recall" if isinstance(threat, FeatureBudget) or case.operating_point is not None else "robust accuracy"


def judged_rows(case: Case, threat: Threat) -> Dataset:
    """The test rows that are attacked: all of class 1 for priced changes, else at most ``case.rows`` (of class 1 at an operating point).

    With a target class, those of the other classes.

    Raises:
        InputError: if there is no such row.
    """
    test = case.data.test
    if metric_of(case, threat) == "robust recall":
        test = test.take(np.flatnonzero(test.y == 1))
    if isinstance(threat, LpBall) and threat.target is not None:
        test = others(test, threat.target)
    if len(test) == 0:
        raise InputError("the test rows hold none of class 1, so nothing can be attacked; give test rows of both classes")
    if not isinstance(threat, FeatureBudget) and len(test) > case.rows:
        test = test.take(np.sort(rng_for(case.seed, "evasion", "rows").permutation(len(test))[: case.rows]))
    return test.with_(x=np.asarray(test.x, np.float64))


class _Settled(Exception):
    """There is nothing left for this attack to find."""


class _NoGradient(Exception):
    """The answers do not hang on the input by anything that has a gradient."""


NO_GRADIENT = ("it follows gradients, and the answers have none: their way from the input goes over whole numbers or constants; attacks that need "
               "answers alone decide (boundary, square, genetic)")  # fmt: skip


def _rank(method: Method) -> int:
    return 0 if hasattr(method, "solve") else getattr(method, "rank", 50)


def _run(case: Case, threat: Threat, name: str, method: Method, tally: _Tally) -> bool:
    """Run one attack on the rows that stand; False if it failed, which is then said in ``tally.skipped``."""
    try:
        if hasattr(method, "solve"):
            _solve(case, threat, name, method, tally)
        else:
            _attack(case, threat, name, method, tally)
    except Changed:
        raise
    except _Settled:
        tally.skipped.append(Skip(method=name, threat=threat.words(), reason="an exact search has already decided every row"))
        return False
    except _NoGradient:
        tally.skipped.append(Skip(method=name, threat=threat.words(), reason=NO_GRADIENT))
        return False
    except Exception as error:  # an attack that crashes is a result that the report shows, never a pass
        tally.skipped.append(Skip(method=name, threat=threat.words(), reason=f"{type(error).__name__}: {error}", status="failed"))
        return False
    return True


def _attack(case: Case, threat: Threat, name: str, method: Method, tally: _Tally) -> None:
    rows = np.flatnonzero(~tally.broken & ~tally.settled)
    if tally.settled.all() and not tally.wrong.all():  # rows that are wrong as they are need no search: nothing stands, and that is known
        raise _Settled
    if Access.GRADIENTS in method.needs and not _has_gradient(tally.exam.seen(case.model) if tally.exam.repair else case.model, tally.data.x[:2]):
        raise _NoGradient
    alarm = Access.GRADIENTS in case.model.access and Access.GRADIENTS not in method.needs and isinstance(threat, LpBall)
    asked = hidden = 0

    def on(number: int, part: Array) -> int:
        nonlocal asked, hidden
        outcome = attempt(case, threat, name, method, tally.data.take(part), label=number, exam=tally.exam)
        tally.take(part, outcome, name)
        asked += int(outcome.queries.sum())
        hidden += 0 if outcome.stage is None else int(np.isin(outcome.stage[outcome.success], getattr(method, "alarms", ())).sum())
        return int(outcome.success.sum())

    if alarm:
        seen, fell = sample_first(rows, rng_for(case.seed, "evasion", "sample"), on)
    else:
        seen, fell = len(rows), on(0, rows)
    note = f"of the {seen} rows it saw, which the attacks before it had not broken" if seen < len(tally.data) else ""
    if seen < len(rows):
        note = f"of a sample of {seen} of the {len(rows)} rows that the attacks before it had not broken; it broke none, so the others were left"
    elif alarm and fell:
        note += "; gradients missed these rows, so they may be masked"
    if hidden:
        note += f"; gradients missed {hidden} of the rows that it broke, so they may be masked"
    tally.findings.append(_share(case, threat, name, method, fell, seen, f"{note}; {asked / max(seen, 1):.0f} queries a row".lstrip("; ")))


def _has_gradient(model: Any, x: Array) -> bool:
    """Whether logits are computed from the inputs by steps that have gradients, be they zero."""
    rows = model.tensor(x)
    return not rows.is_floating_point() or bool(model.logits(rows.detach().requires_grad_(True)).requires_grad)


def attempt(case: Case, threat: Threat, name: str, method: Method, data: Dataset, *, label: Any = 0,
            exam: Examination = SOUND) -> Outcome:  # fmt: skip
    """One attack on these rows, judged; the expensive part is remembered. ``exam`` says what gradients are followed."""
    if len(data) == 0:
        return Outcome(success=np.zeros(0, bool), cost=np.zeros(0), queries=np.zeros(0, np.int64), witness=data.x)
    repaired = bool(exam.repair) and Access.GRADIENTS in method.needs
    key = (case.model, data.x, data.y, threat, type(method).__name__, method, case.seed, label, *[exam.repair] * repaired)
    ask = Proposing(model=case.model, view=exam.seen(case.model) if repaired else case.model, method=method, threat=threat)
    found = remember(f"evasion {name}", key, lambda: ask.all_rows(data, name, key, lambda *shard: rng_for(case.seed, "evasion", name, label, *shard)))
    n = len(data)
    queries = np.full(n, found["queries"] // n, np.int64) + (np.arange(n) < found["queries"] % n)
    return replace(judge(case.model, data.x, data.y, found["x"], threat, data.space, queries=queries), stage=found["stage"])


def _share(case: Case, threat: Threat, name: str, method: Method, fell: int, seen: int, note: str) -> Finding:
    low, high = clopper_pearson(fell, seen)
    return Finding(metric="attacked rows broken", value=fell / seen if seen else math.nan, low=low, high=high, n=seen, method=name,
                   threat=threat.words(), access=method.needs.words(), seed=case.seed, good=-1, note=note)  # fmt: skip


def _solve(case: Case, threat: Threat, name: str, method: Any, tally: _Tally) -> None:
    """An exact method: the least cost of each row that stands, witnesses judged like anyone's, undecided rows counted as broken."""
    rows = np.flatnonzero(~tally.wrong)
    data = tally.data.take(rows)
    if not len(rows):
        tally.exact = True
        tally.findings.append(_share(case, threat, name, method, 0, 0, "the model gets every row wrong as it is"))
        return

    def compute() -> dict[str, Any]:
        found = method.solve(case.model, data.x.copy(), data.y.copy(), threat, rng_for(case.seed, "evasion", name))
        return {"cost": found.cost, "proven": found.proven, "witness": found.witness}

    found = remember(f"evasion {name}", (case.model, data.x, data.y, threat, type(method).__name__, method, case.seed), compute)
    outcome = judge(case.model, data.x, data.y, found["witness"], threat, data.space)
    # What it claims but its witness does not show is not believed, nor is the row called safe: it is undecided.
    undecided = ~outcome.success & (~found["proven"] | (found["cost"] <= _limit(threat)))
    tally.take(rows, outcome, name)
    tally.unknown[rows[undecided]] = True
    tally.settled[rows] = True
    tally.exact = not undecided.any() and bool(np.all(found["proven"])) and not getattr(method, "first", False)
    note = "exact search: what it leaves no one can break" + (
        f"; {int(undecided.sum())} rows undecided, counted as broken" if undecided.any() else ""
    )
    tally.findings.append(_share(case, threat, name, method, int((outcome.success | undecided).sum()), len(rows), note))


def _limit(threat: Threat) -> float:
    """The size of the largest change that the threat allows, in the unit of its costs."""
    if isinstance(threat, Distortion | Corruption):
        return 1.0
    return next((float(getattr(threat, name)) for name in ("eps", "money", "area") if hasattr(threat, name)), math.inf)


def _at_size(threat: LpBall | Patch, size: float) -> LpBall | Patch:
    return replace(threat, eps=size) if isinstance(threat, LpBall) else replace(threat, area=size)


def _headline(case: Case, threat: Threat, tally: _Tally, metric: str, ran: list[Method], names: list[str]) -> tuple[Finding, ...]:
    fell = tally.broken | tally.unknown
    n = len(fell)
    access = Access(0)
    for method in ran:
        access |= method.needs
    note = f"what survives {', '.join(names)}; rows that the model gets wrong as they are count as broken"
    if metric == "robust recall":
        note = f"share of all {n} rows of class 1 that are caught and stay caught, by {', '.join(names)}"
    if tally.unknown.any():
        note += f"; {int(tally.unknown.sum())} undecided rows count as broken"
    if isinstance(case.model, Asked):
        shares = (case.model.labels(tally.witness) == tally.data.y).mean(1)
        note += (f"; the model answers at random: each input was asked {case.model.times} times and what most answers say counts, single draws are right "
                 f"on {shares.min():.1%} to {shares.max():.1%} of what the attacks leave behind")  # fmt: skip

    def finding(metric: str, standing: int, rows: int, note: str, *, headline: bool = False) -> Finding:
        low, high = clopper_pearson(standing, rows)
        return Finding(metric=metric, value=standing / rows, low=low, high=high, n=rows, method="all attacks", threat=threat.words(),
                       access=access.words(), seed=case.seed, note=note, headline=headline)  # fmt: skip

    found = [finding(metric, int((~fell).sum()), n, note, headline=True)]
    if metric == "robust accuracy":
        found.append(_worst(finding("worst class robust accuracy", 0, n, ""), tally.data, fell))
    moved = tally.cost[tally.broken & ~tally.wrong]
    if len(moved) and not isinstance(threat, Corruption):
        priced = isinstance(threat, FeatureBudget)
        low, high = _median_interval(moved)
        metric = f"median price of evasion ({threat.prices.currency})" if priced else "median size of a change that fooled"
        found.append(replace(found[0], metric=metric, value=float(np.median(moved)), low=low, high=high, n=len(moved), good=1 if priced else 0,
                             note=f"at most, over the rows that attacks broke{UNITS.get(type(threat), '')}", headline=False))  # fmt: skip
    if isinstance(threat, FeatureBudget) and threat.prices.gain is not None:
        found += _money(threat, tally, found[0])
    return tuple(found)


def _money(threat: FeatureBudget, tally: _Tally, base: Finding) -> tuple[Finding, ...]:
    if tally.deals is not None:
        return tally.deals.findings(base, threat.prices.currency)
    at = tally.data.space.index(str(threat.prices.gain))
    paid = np.where(tally.unknown & ~tally.broken, 0.0, tally.cost)
    how = "exact: the least price of each row is known" if tally.exact else "at least: there may be cheaper evasions"
    if tally.unknown.any():
        how = "undecided rows count as lost for nothing"
    return money_findings(base, threat.prices.currency, tally.data.x[:, at], paid, tally.witness[:, at], how=how)


def _deals(case: Case, threat: FeatureBudget, ran: list[Method], tally: _Tally) -> Deals:
    """The cheapest evasions and, where an exact method knows how, the most profitable ones, each admitted and scored like anyone's."""
    data, upper, why, found = tally.data, None, "no exact search ran", [tally.witness.copy()]
    method: Any = next((m for m in ran if hasattr(m, "earn") and not getattr(m, "first", False)), None)
    if method is not None:
        try:
            best = remember("evasion profit", (case.model, data.x, data.y, threat.prices, method), lambda: _earned(case, threat, method, data))
            upper, found = best["upper"], [*found, best["witness"]]
        except InputError as error:
            why = str(error)
    return Deals(gain=data.x[:, data.space.index(str(threat.prices.gain))], offers=_offers(case.model, data.x, data.y, threat, found), witnesses=found,
                 upper=upper, how=why)  # fmt: skip


def _earned(case: Case, threat: FeatureBudget, method: Any, data: Dataset) -> dict[str, Any]:
    found = method.earn(case.model, data.x.copy(), data.y.copy(), threat.prices)
    return {"witness": found.witness, "upper": found.upper}


def _offers(model: Model, x: Array, y: Array, threat: FeatureBudget, proposals: Sequence[Array]) -> list[tuple[Array, Array]]:
    """The price and the gain ``(n,)`` of proposals ``(n, d)``, the price inf where the threat does not allow one or the model catches it."""
    at, found = model.space.index(str(threat.prices.gain)), []
    for proposal in proposals:
        made, price = admit(proposal, x, threat, model.space)
        passes = decide(model.predict(made), model.threshold) != y
        found.append((np.where(passes, price, np.inf), made[:, at]))
    return found


def _median_interval(values: Array, confidence: float = 0.95) -> tuple[float, float]:
    """The order statistics that hold the median with at least this confidence."""
    from scipy.stats import binom

    ordered, n = np.sort(values), len(values)
    k = int(binom.ppf((1 - confidence) / 2, n, 0.5))
    k = k if binom.cdf(k - 1, n, 0.5) <= (1 - confidence) / 2 else k - 1
    return float(ordered[max(k - 1, 0)]), float(ordered[min(n - k, n - 1)])


def _figures(case: Case, threat: Threat, ran: Mapping[str, Method], tally: _Tally, metric: str,
             typical: tuple[Finding, ...]) -> tuple[Figure, ...]:  # fmt: skip
    fell = tally.broken | tally.unknown
    if isinstance(threat, FeatureBudget):
        cost = np.where(tally.unknown & ~tally.broken, 0.0, tally.cost)
        table = tally.data.space
        offers: list[tuple[Array, Array]] = []
        if tally.deals is not None:
            offers = list(tally.deals.offers)
        elif threat.prices.gain:
            offers = [(cost, tally.data.x[:, table.index(threat.prices.gain)])]
        note = f"; at the whole budget {tally.deals.words(threat.prices.currency)}; below it at least" if tally.deals is not None else ""
        return budget_figures(metric, threat, cost, offers, exact=tally.exact, note=note)
    assert isinstance(threat, LpBall | Patch | Distortion | Corruption)
    first = kind_bars(metric, typical, fell) if isinstance(threat, Corruption) else _curve(case, threat, ran, tally, metric)
    found: list[Figure | None] = [first, class_bars(metric, tally.data, tally.wrong, fell)]
    before, after = (decide(case.model.predict(part), case.model.threshold) for part in (tally.data.x, tally.witness))
    found.append(gallery(tally.data, tally.witness, tally.cost, before, after, said=_said(threat, tally)))
    return tuple(f for f in found if f is not None)


def _said(threat: Threat, tally: _Tally) -> dict[int, str]:
    """What was done to the images of broken rows, where it has words."""
    if tally.parameters is None or not isinstance(threat, Distortion | Corruption):
        return {}
    return {int(i): said(tally.parameters[i], threat, tally.data.space) for i in np.flatnonzero(np.isfinite(tally.parameters).all(1))}


def _curve(case: Case, threat: LpBall | Patch | Distortion, ran: Mapping[str, Method], tally: _Tally, metric: str) -> Figure:
    """Rows standing at several sizes: the strongest gradient attack's quick form where there is one, else the costs already known."""
    gradient = [(n, m) for n, m in ran.items() if Access.GRADIENTS in m.needs]
    fell, limit = tally.broken | tally.unknown, _limit(threat)
    n = len(fell)
    word = {LpBall: "eps", Patch: "area"}.get(type(threat), "share")
    if not gradient or limit == 0:
        sizes = np.array(sorted({0.0, *(g * limit for g in GRID if g <= 1)}))
        standing = np.array([(~((tally.cost <= e + 1e-12) | (tally.unknown & (e == limit)))).sum() for e in sizes])
        return reach_figure(metric, threat, sizes, standing, n, f"from the changes that {', '.join(ran)} found for {word} {limit:g}")
    assert isinstance(threat, LpBall | Patch)
    name, method = max(gradient, key=lambda item: (_rank(item[1]), item[0]))
    minimal = [n for n, m in gradient if getattr(m, "minimal", False)]
    grid = [g for g in GRID if isinstance(threat, LpBall) or g * limit <= 1]
    reach = np.where(tally.unknown, limit, tally.cost)  # the least size at which each row is known to fall
    if minimal:  # one run for the largest size gives the least change of every row
        name, rows = minimal[-1], np.flatnonzero(reach > 0)
        outcome = attempt(case, _at_size(threat, grid[-1] * limit), name, ran[name], tally.data.take(rows), label="curve")
        reach[rows] = np.minimum(reach[rows], np.where(outcome.success, outcome.cost, np.inf))
    for size in () if minimal else grid:
        here = size * limit
        rows = np.flatnonzero((reach > here + 1e-12) & (fell if size < 1 else True))
        if size == 1 or len(rows) == 0:
            continue
        outcome = attempt(case, _at_size(threat, here), name, method.quick(), tally.data.take(rows), label=f"curve {size}", exam=tally.exam)
        if size < 1 and not tally.exam.random:  # a smaller change that does it as well is better evidence
            tally.take(rows, outcome, name)
        reach[rows] = np.minimum(reach[rows], np.where(outcome.success, outcome.cost, np.inf))
    sizes = np.array([0.0, *(g * limit for g in grid)])
    standing = np.array([(reach > e + 1e-12).sum() for e in sizes])
    how = "the least changes that it found" if minimal else "in its quick form"
    return reach_figure(metric, threat, sizes, standing, n, f"by {name}, {how}; at {word} {limit:g} by every attack")


def verify(section: Section, model: Model | None, case: Case | None, threat: Threat) -> list[tuple[str, float, float]]:
    """The headline as reported and as the evidence gives it; with a model, its witnesses are admitted and scored again.

    With a case, the evidence must be about its test rows, else the recomputed value is nan.
    """
    headline = section.headline()
    if headline is None:
        return []
    e, asked = section.evidence, threat
    fell = np.asarray(e["broken"], bool)
    if model is not None:
        random = any(s.name == "randomness" and s.done == "repaired" for s in section.examination)
        subject: Any = model
        y = e["y"]
        if isinstance(threat, LpBall) and threat.target is not None:
            subject, y, threat = aimed(model, threat.target), np.zeros(len(y), np.int64), replace(threat, target=None)
        outcome = judge(Examination(random=random).judged(subject), e["x"], y, e.get("parameters", e["witness"]), threat, subject.space)
        fell = outcome.success | np.asarray(e["unknown"], bool)
    value = int((~fell).sum()) / len(fell)
    if case is not None:
        rows = judged_rows(case, asked)
        if not (np.array_equal(rows.x, e["x"]) and np.array_equal(rows.y, e["y"])):
            value = math.nan
    return [(headline.metric, headline.value, value), *_profit_again(section, model, threat)]


def recount(section: Section, finding: Finding) -> Count | None:
    """A finding about the rows from the evidence: what stands, of which class least, and the median of what changes cost."""
    e, headline = section.evidence, section.headline()
    fell, wrong, cost = np.asarray(e["broken"], bool), np.asarray(e["wrong"], bool), np.asarray(e["cost"], float)
    if headline is not None and (finding.metric, finding.method) == (headline.metric, headline.method):
        return counted(~fell)
    if finding.metric.startswith("worst class"):
        shares = {int(c): float((~fell[e["y"] == c]).mean()) for c in np.unique(e["y"])}
        return counted(~fell[e["y"] == min(shares, key=lambda c: (shares[c], c))])
    moved = cost[fell & ~wrong & np.isfinite(cost)]
    if finding.metric.startswith("median ") and len(moved):
        low, high = _median_interval(moved)
        return Count(value=float(np.median(moved)), low=low, high=high, n=len(moved))
    return None


def _profit_again(section: Section, model: Model | None, threat: Threat) -> list[tuple[str, float, float]]:
    """The attackers' profit as reported and as the stored rows earn it."""
    told = next((f for f in section.findings if f.metric.startswith(PROFIT)), None)
    if model is None or told is None or not isinstance(threat, FeatureBudget) or "deal" not in section.evidence:
        return []
    e = section.evidence
    profit, _ = Deals(gain=e["x"][:, 0], offers=_offers(model, e["x"], e["y"], threat, [e["deal"]])).best()
    return [(told.metric, told.value, float(profit.mean() * 1000))]
