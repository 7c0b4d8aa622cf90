"""The judge of attribute inference: is a person's sensitive feature guessed better because the model was trained on them?

What counts is the leak: how much oftener an attack is right about people who were trained on than about others. Beside it stands what the
model adds to imputation, a guess without it; that part holds for everybody of the kind and is no leak of the training set (Jayaraman & Evans
2022, https://arxiv.org/abs/2209.01292). With a recipe the leak is measured on many models that were trained on known halves, so that each
person is on either side; the guess without the model, which saw nobody, must not tell train rows from test rows.

>>> LEAK, GAIN
('attribute leak', 'attribute gain over imputation')
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.privacy._gaps import gap, gap_interval, mean_interval
from carbide.privacy.imputation import impute
from carbide.privacy.levels import Levels, levels_of
from carbide.privacy.puzzle import Puzzle, surest
from carbide.privacy.shadows import Shadows, Wanted, train_shadows
from carbide.privacy.trials import RECORDS, TARGETS, pool_of, rows_apart, two_sides, unknown_rows
from carbide.registry import Method
from carbide.run import remember, spread
from carbide.stats.intervals import Interval
from carbide.types import (
    Array,
    AttributeInference,
    Case,
    Dataset,
    Figure,
    Finding,
    InputError,
    Model,
    Rng,
    Section,
    Series,
    Skip,
    digest,
    rng_for,
)

LEAK, OWN = "attribute leak", "attribute leak of this model"
GAIN, RIGHT, SURE = "attribute gain over imputation", "attribute accuracy", "attribute accuracy, surest tenth"
CONTROL = "negative control, imputation"
LEAST = 30  # validation rows that imputation is learned from, and train and test rows that are compared
DOUBT = 0.999  # confidence at which the control counts as broken
WIDER = 3.290527 / 1.959964  # how much wider than at 0.95 a normal interval is at that confidence
TENTH = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class _Court:
    """The case, the people who are asked about and where they stand in the pool of train and test ``rows`` ``(n,)``, what they really have
    (``truth`` ``(n,)``), which of them the given model holds (``inside`` ``(n,)``), and the puzzle; ``twice`` rows were in both parts,
    ``nameless`` ones have a value that no validation row has.
    """

    case: Case
    threat: AttributeInference
    people: Dataset
    rows: Array
    truth: Array
    inside: Array
    levels: Levels
    puzzle: Puzzle
    twice: int
    nameless: int

    @property
    def imputed(self) -> Array:
        """Where the guess without any model is right ``(n,)`` float."""
        return (self.puzzle.imputed.argmax(1) == self.truth).astype(float)

    def rng(self, *labels: str) -> Rng:
        """A stream of this threat's own."""
        return rng_for(self.case.seed, "privacy", "attribute", self.threat.words(), *labels)

    def finding(self, name: str, method: Method | None, metric: str, value: float, interval: Interval, *, good: int = -1,
                confidence: float = 0.95, note: str = "") -> Finding:  # fmt: skip
        """One number about these people."""
        access = "nothing" if method is None else method.needs.words()
        return Finding(metric=metric, value=value, low=min(value, interval.low), high=max(value, interval.high), n=len(self.people), method=name,
                       threat=self.threat.words(), access=access, seed=self.case.seed, confidence=confidence, good=good, note=note)  # fmt: skip

    def skip(self, name: str, reason: str, status: str = "failed") -> Skip:
        """Why a number is missing."""
        return Skip(method=name, threat=self.threat.words(), reason=reason, status=status)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Guesses:
    """What an attack says of ``n`` people about ``m`` models that hold ``members`` ``(m, n)`` of them, and about the given one.

    ``values`` ``(m, n)`` are guesses, ``sure`` ``(m, n)`` bool the tenth that it is surest of; ``own`` ``(n,)`` is of the given model.
    """

    values: Array
    sure: Array
    members: Array
    own: Array


@dataclass(frozen=True, eq=False)
class _Probe:
    """An attack on a living model, as shadow models are asked: scores ``(n, v)``."""

    method: Method
    puzzle: Puzzle
    threat: AttributeInference

    def __repr__(self) -> str:
        p = self.puzzle
        return f"{self.method!r} {digest(self.threat, p.x, p.y, p.imputed, p.blind, p.shares, p.references)}"

    def probe(self, model: Model, records: Dataset, rng: Rng) -> Array:
        """Scores of the puzzle's people, which the records are."""
        return _scores(self.method, model, self.puzzle, self.threat, rng)


def audit(case: Case, threat: AttributeInference, methods: Mapping[str, Method]) -> Section:
    """The leak of every attack; the headline is the largest.

    Raises:
        InputError: if the feature is not there or shows one value, or there are too few rows on any side.
    """
    court = _set_up(case, threat, methods)
    skipped: list[Skip] = []
    own: dict[str, Array] = {}
    for name, method in methods.items():
        try:
            own[name] = remember(f"attribute {name}", (case.model, repr(_Probe(method, court.puzzle, threat)), case.seed),
                                 functools.partial(_scores, method, case.model, court.puzzle, threat, court.rng(name)))  # fmt: skip
        except InputError as error:
            skipped.append(court.skip(name, str(error)))
    played = _play(court, {name: methods[name] for name in own}, own)
    control = _control(court)
    findings: list[Finding] = []
    for name, guesses in played.items():
        made, refused = _judge(court, name, methods[name], guesses, control)
        findings += made
        skipped += refused
    return _section(court, findings, played, control, skipped)


def verify(section: Section, threat: AttributeInference) -> list[tuple[str, float, float]]:
    """Each finding as reported and as recomputed from the guesses in the evidence."""
    seen, found = section.evidence, []
    right = (seen["imputed"] == seen["truth"]).astype(float)
    for f in section.findings:
        if f.metric == CONTROL:
            found.append((f.metric, f.value, gap(right[None], seen["own_members"][None])))
            continue
        guesses = _Guesses(values=seen[f"{f.method}_values"], sure=seen[f"{f.method}_sure"], members=seen["members"], own=seen[f"{f.method}_own"])
        values, mask = _cells(f.metric, guesses, seen["truth"], right, seen["own_members"])
        found.append((f"{f.metric} ({f.method})", f.value, gap(values, mask) if f.metric in (LEAK, OWN) else float(values[mask].mean())))
    return found


def _cells(metric: str, guesses: _Guesses, truth: Array, imputed: Array, inside: Array) -> tuple[Array, Array]:
    """The numbers that a metric averages, and over which cells (or between which)."""
    if metric == OWN:
        return (guesses.own == truth).astype(float)[None], inside[None]
    right = (guesses.values == truth).astype(float)
    if metric == GAIN:
        return right - imputed, guesses.members
    return right, guesses.members & guesses.sure if metric == SURE else guesses.members


def _set_up(case: Case, threat: AttributeInference, methods: Mapping[str, Method]) -> _Court:
    pool, trained, twice = pool_of(case)
    apart = rows_apart(case, pool)
    if len(apart) < LEAST:
        raise InputError(f"imputation is learned from at least {LEAST} validation rows that are in neither train nor test, and there are {len(apart)}; "
                         "give more validation rows")  # fmt: skip
    levels = levels_of(threat, pool.space, apart.x)
    chosen = rng_for(case.seed, "privacy", "records").permutation(len(pool))[:RECORDS]
    truth = levels.of(pool.x[chosen])
    nameless = int((truth < 0).sum())
    chosen = chosen[truth >= 0]
    people, inside = pool.take(chosen), trained[chosen]
    two_sides(inside)
    if min(inside.sum(), (~inside).sum()) < LEAST:
        raise InputError(f"{int(inside.sum())} rows were trained on and {int((~inside).sum())} were not; give at least {LEAST} of each")
    puzzle = remember("imputation", (threat, people.x, people.y, apart.x, apart.y, case.seed),
                      lambda: _beliefs(case, threat, levels, people, apart))  # fmt: skip
    puzzle = Puzzle(x=levels.candidates(people.x), y=people.y if threat.label else None, **puzzle,
                    references=_references(case, threat, methods, levels, people, apart))  # fmt: skip
    return _Court(case=case, threat=threat, people=people, rows=chosen, truth=levels.of(people.x), inside=inside, levels=levels, puzzle=puzzle, twice=twice,
                  nameless=nameless)  # fmt: skip


def _beliefs(case: Case, threat: AttributeInference, levels: Levels, people: Dataset, apart: Dataset) -> dict[str, Array]:
    """What is believed about these people without the model, learned from the rows that are set apart."""
    known, asked, truth = levels.others(apart.x), levels.others(people.x), levels.of(apart.x)
    rng = rng_for(case.seed, "privacy", "attribute", "imputation")
    blind = impute(known, truth, len(levels), rng)(asked)
    labelled = blind
    if threat.label:
        with_label = [np.concatenate([x, np.eye(part.classes)[part.y]], axis=1) for x, part in ((known, apart), (asked, people))]
        labelled = impute(with_label[0], truth, len(levels), rng)(with_label[1])
    shares = np.bincount(truth[truth >= 0], minlength=len(levels)) + 1.0
    return {"shares": shares / shares.sum(), "blind": blind, "imputed": labelled}


def _references(
    case: Case, threat: AttributeInference, methods: Mapping[str, Method], levels: Levels, people: Dataset, apart: Dataset
) -> Array | None:
    """Answers ``(r, n, v, k)`` of models that the recipe trains on two thirds of the rows set apart, where an attack asks for them."""
    count = max((getattr(method, "references", 0) for method in methods.values()), default=0)
    if not count or case.recipe is None:
        return None
    work = functools.partial(_reference, case, apart, levels.candidates(people.x))
    return np.stack(spread(work, range(count), label="reference models", key=(case.recipe, apart, people.x, threat, case.seed)))


def _reference(case: Case, apart: Dataset, tried: Array, number: int) -> Array:
    rng = rng_for(case.seed, "privacy", "attribute", "reference", number)
    order = np.concatenate([rng.permutation(rows)[: -(-2 * len(rows) // 3)] for rows in (np.flatnonzero(apart.y == c) for c in np.unique(apart.y))])
    assert case.recipe is not None
    model = case.recipe.fit(apart.take(rng.permutation(order)), rng)
    return model.predict(tried.reshape(-1, tried.shape[2])).reshape(*tried.shape[:2], -1)


def _scores(method: Method, model: Model, puzzle: Puzzle, threat: AttributeInference, rng: Rng) -> Array:
    scores = np.asarray(method(model, puzzle, threat, rng), np.float64)
    if scores.shape != puzzle.imputed.shape or np.isnan(scores).any():
        raise InputError(f"attack {type(method).__name__} gave scores of shape {scores.shape} with {int(np.isnan(scores).sum())} NaN for "
                         f"{puzzle.imputed.shape[0]} people and {puzzle.imputed.shape[1]} values; give one number each")  # fmt: skip
    return scores


def _play(court: _Court, methods: Mapping[str, Method], own: Mapping[str, Array]) -> dict[str, _Guesses]:
    """Every attack against the models of known halves, or the given model alone."""
    shadows: Shadows | None = None
    probes = {name: _Probe(method, court.puzzle, court.threat) for name, method in methods.items()}
    if court.case.recipe is not None and methods:
        pool, _, _ = pool_of(court.case)
        wanted: Any = Wanted(probes=probes)  # type: ignore[arg-type]
        shadows = train_shadows(court.case.recipe, pool, TARGETS, court.case.seed, records=court.rows, wanted=wanted)
    played = {}
    for name in methods:
        scores = own[name][None] if shadows is None else shadows.probes[name]
        members = court.inside[None] if shadows is None else shadows.members
        ordered = np.sort(scores, axis=2)
        margin = ordered[..., -1] - ordered[..., -2]
        guess = np.stack([surest(s, court.puzzle.imputed) for s in scores])
        played[name] = _Guesses(values=guess, sure=margin >= np.quantile(margin, TENTH), members=members, own=surest(own[name], court.puzzle.imputed))
    return played


def _control(court: _Court) -> Finding:
    """Imputation, which saw nobody, on train rows against test rows: nothing to find, unless the rows differ in other ways."""
    right, inside = court.imputed[None], court.inside[None]
    value, narrow = gap(right, inside), gap_interval(right, inside, court.rng("control"))
    interval = Interval(value - WIDER * (value - narrow.low), value + WIDER * (narrow.high - value))
    return court.finding("imputation", None, CONTROL, value, interval, good=0, confidence=DOUBT,
                         note="a guess without the model, on train rows against test rows: nothing to find, unless the rows differ in other ways")  # fmt: skip


def _judge(court: _Court, name: str, method: Method, guesses: _Guesses, control: Finding) -> tuple[list[Finding], list[Skip]]:
    alone = court.case.recipe is None
    broken = not control.low <= 0 <= control.high
    found, skipped = [], []
    for metric in (LEAK, GAIN, RIGHT, SURE, *(() if alone else (OWN,))):
        unknown = unknown_rows(court.case) if metric == OWN else None
        if unknown is not None:
            skipped.append(court.skip(name, f"no {OWN} is claimed: {unknown}", "not applicable"))
            continue
        if broken and metric == (LEAK if alone else OWN):
            skipped.append(court.skip(name, f"no {metric} is claimed: a guess without the model is right {control.value:+.3f} oftener about train rows "
                                      "than about test rows, so the rows differ in other ways, as after a cut by time", "not applicable"))  # fmt: skip
            continue
        values, mask = _cells(metric, guesses, court.truth, court.imputed, court.inside)
        rng = court.rng(name, metric)
        if metric in (LEAK, OWN):
            found.append(court.finding(name, method, metric, gap(values, mask), gap_interval(values, mask, rng), note=_note(court, metric, guesses)))
        else:
            value = float(values[mask].mean())
            found.append(court.finding(name, method, metric, value, mean_interval(values, mask, rng), good=0 if metric == RIGHT else -1,
                                       note=_beside(court, metric, guesses)))  # fmt: skip
    return found, skipped


def _note(court: _Court, metric: str, guesses: _Guesses) -> str:
    values, mask = _cells(metric, guesses, court.truth, court.imputed, court.inside)
    said = f"right about {values[mask].mean():.1%} of the people trained on and {values[~mask].mean():.1%} of the others; {court.imputed.mean():.1%} without the model"
    if metric == LEAK and court.case.recipe is not None:
        said += f"; {len(guesses.values)} models trained by the whole recipe, defences included, on halves of the train and test rows"
    said += f"; {court.nameless:,} people are left out, whose value no validation row has" if court.nameless else ""
    return said + (f"; {court.twice:,} rows stand in train and in test, and count as trained on: take them out of test" if court.twice else "")


def _beside(court: _Court, metric: str, guesses: _Guesses) -> str:
    if metric == GAIN:
        values, _ = _cells(GAIN, guesses, court.truth, court.imputed, court.inside)
        return f"on people trained on; {values[~guesses.members].mean():+.3f} on the others, who gain from what the model says of everybody of their kind"
    if metric == SURE:
        others = (guesses.values == court.truth)[guesses.sure & ~guesses.members]
        return f"on people trained on; {others.mean():.1%} on the others" if len(others) else "on people trained on"
    return "on people trained on"


def _section(court: _Court, findings: list[Finding], played: Mapping[str, _Guesses], control: Finding, skipped: list[Skip]) -> Section:
    empty = Section(threat=court.threat.words(), room="privacy", skipped=tuple(skipped), noun=court.threat)
    if not findings:
        return empty
    leaks = [f for f in findings if f.metric == LEAK] or [f for f in findings if f.metric == GAIN]
    worst = max(leaks, key=lambda f: f.value)
    ordered = [replace(worst, headline=True), *(f for f in findings if f is not worst and f.method == worst.method),
               *(f for f in findings if f.method != worst.method), control]  # fmt: skip
    evidence: dict[str, Array] = {"truth": court.truth, "imputed": court.puzzle.imputed.argmax(1), "own_members": court.inside, "ids": court.people.ids,
                                  "members": played[worst.method].members, "values": np.array(court.levels.names)}  # fmt: skip
    for name, guesses in played.items():
        evidence |= {f"{name}_values": guesses.values, f"{name}_sure": guesses.sure, f"{name}_own": guesses.own}
    return replace(empty, findings=tuple(ordered), evidence=evidence, figures=(_figure(court, played[worst.method]),))


def _figure(court: _Court, guesses: _Guesses) -> Figure:
    """How often the worst attack is right about people of each value, trained on or not, and a guess without the model."""
    right = (guesses.values == court.truth).astype(float)
    groups = [v for v in range(len(court.levels)) if min((guesses.members & (court.truth == v)).sum(), (~guesses.members & (court.truth == v)).sum())]
    names = np.array([f"{court.levels.names[v]} ({int((court.truth == v).sum())})" for v in groups])
    bars = []
    for name, side in (("trained on", guesses.members), ("not trained on", ~guesses.members)):
        cells = [side & (court.truth == v) for v in groups]
        ends = [mean_interval(right, c, court.rng("figure", name, str(v))) for c, v in zip(cells, groups, strict=True)]
        bars.append(Series(name=name, x=names, y=np.array([right[c].mean() for c in cells]), low=np.array([e.low for e in ends]),
                           high=np.array([e.high for e in ends])))  # fmt: skip
    bars.append(Series(name="without the model", x=names, y=np.array([court.imputed[court.truth == v].mean() for v in groups])))
    return Figure(kind="bars", title=f"Who has {court.threat.feature} guessed", x_label="true value (people)", y_label="share guessed right", series=tuple(bars),
                  note="What the model adds for people it was trained on, beyond what it adds for others, is leakage.")  # fmt: skip
