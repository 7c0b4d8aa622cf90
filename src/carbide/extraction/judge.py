"""The judge of extraction: thieves ask a counted oracle, their copies are compared with the victim on rows they never asked for.

The thief's rows are validation rows that are not training rows: it has data of the same kind, but not the victim's. Fidelity
is the share of test rows on which the copy's label is the victim's. Beside it stand a guesser who always says the commonest
class and a rival who trains on true labels of the same rows without asking the victim: only what exceeds both was stolen.
A thief who is told scores may look at the labels alone, so the figure for scores is never below the one for labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.extraction.oracle import Answers, Oracle
from carbide.extraction.surrogates import copy_of, one_thread
from carbide.registry import Method
from carbide.run import remember, spread
from carbide.stats.intervals import Count, clopper_pearson, counted
from carbide.types import (
    BLACK_BOX,
    Access,
    Array,
    CarbideError,
    Case,
    Dataset,
    Figure,
    Finding,
    Model,
    Queries,
    Section,
    Series,
    Skip,
    Threat,
    decide,
    rng_for,
)

MODES = ("logits", "probabilities", "labels")
ROWS = 2000  # test rows on which copies are compared; more are drawn down to this number
POOL = 10_000  # rows that a thief has, unless it may ask for more than half as many
START = 50  # queries at which the curve begins


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One theft: a method, a threat, the victim and the rows of both sides."""

    name: str
    method: Method
    threat: Queries
    model: Model
    pool: Dataset
    x: Array
    seed: int

    def key(self) -> tuple[Any, ...]:
        """What decides the result."""
        return self.name, self.method, self.threat, self.model, self.pool.x, self.x, self.seed


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """Where the theft takes place: the thief's pool, and the rows ``x`` with true ``y`` and the victim's labels."""

    pool: Dataset
    x: Array
    y: Array
    victim: Array

    def fidelity(self, thief: Array) -> float:
        """The share of rows on which a copy's labels agree with the victim's."""
        return float((thief == self.victim).mean())


def audit(case: Case, threat: Threat, methods: Mapping[str, Method]) -> Section:
    """Findings, the curve of fidelity against queries, and the labels that recompute them."""
    assert isinstance(threat, Queries)
    field = field_of(case, most=max(2 * threat.n, POOL))
    modes = [m for m in MODES if Access.SCORES in case.model.access or m == "labels"]
    asked = threat.answers if threat.answers in modes else "labels"
    trials = [Trial(name=name, method=method, threat=Queries(n=n, answers=mode), model=case.model, pool=field.pool, x=field.x, seed=case.seed)
              for name, method in methods.items() for mode, n in _grid(threat, method, modes, asked)]  # fmt: skip
    results = spread(steal, trials, label="extraction: copies", key=[trial.key() for trial in trials])
    done = {(t.name, t.threat.answers, t.threat.n): r["labels"] for t, r in zip(trials, results, strict=True) if "labels" in r}
    done |= {(name, twin, n): labels for (name, mode, n), labels in done.items() for twin in _twins(methods[name], mode, modes)}
    done = _free_to_ignore(done, field)
    failed = {t.name: str(r["failed"]) for t, r in zip(trials, results, strict=True) if "failed" in r}
    skipped = tuple(Skip(method=name, threat=threat.words(), reason=reason, status="failed") for name, reason in failed.items())
    whole = [name for name in methods if name not in failed]
    if not whole:
        return Section(threat=threat.words(), room="extraction", skipped=skipped, noun=threat)
    best = max(whole, key=lambda name: field.fidelity(done[name, asked, threat.n]))
    guess, rival = remember("extraction: rivals", (case.model, field.pool, field.x, case.seed), lambda: _rivals(case, field))
    note = _note(threat, asked, field, guess, rival)
    findings: list[Finding] = []
    for name, mode in [(name, mode) for name in whole for mode in modes if (name, mode, threat.n) in done]:
        here = replace(threat, answers=mode)
        findings += _findings(case, field, done[name, mode, threat.n], name, here, headline=(name, mode) == (best, asked), note=note)
    findings.sort(key=lambda f: not f.headline)
    evidence: dict[str, Array] = {
        "x": field.x,
        "y": field.y,
        "victim": field.victim,
        "thief": done[best, asked, threat.n],
        "guess": guess,
        "rival": rival,
    }
    evidence |= {f"{name} {mode} {n}": labels for (name, mode, n), labels in done.items()}
    return Section(threat=threat.words(), room="extraction", findings=tuple(findings), figures=_figures(field, done, best, modes, guess, rival, note),
                   evidence=evidence, skipped=skipped, noun=threat)  # fmt: skip


def verify(section: Section, model: Model | None, case: Case | None, threat: Threat) -> list[tuple[str, float, float]]:
    """Fidelity and thief accuracy of the headline as reported and as the stored labels give them, the victim asked again if it is at hand."""
    headline = section.headline()
    if headline is None or headline.metric != "fidelity":
        return []
    evidence = section.evidence
    victim = decide(model.predict(evidence["x"]), model.threshold) if model is not None else evidence["victim"]
    found = [("fidelity", headline.value, float((evidence["thief"] == victim).mean()))]
    accuracy = next(
        (f for f in section.findings if f.metric == "thief accuracy" and (f.method, f.threat) == (headline.method, headline.threat)), None
    )
    return found if accuracy is None else [*found, ("thief accuracy", accuracy.value, float((evidence["thief"] == evidence["y"]).mean()))]


def recount(section: Section, finding: Finding) -> Count | None:
    """A finding from the stored labels of its copy."""
    e, threat = section.evidence, section.noun
    assert isinstance(threat, Queries)
    mode = next((m for m in MODES if replace(threat, answers=m).words() == finding.threat), None)
    if mode is None:
        return None
    labels = e[f"{finding.method} {mode} {threat.n}"]
    if finding.metric == "thief accuracy":
        return counted(labels == e["y"])
    same = labels == e["victim"]
    return counted(same if finding.metric == "fidelity" else same[e["victim"] == _worst(same, e["victim"])])


def field_of(case: Case, *, most: int | None = None) -> Field:
    """The thief's pool (``most`` rows) and the rows of judgement, which share no row with each other; the pool shares none with training.

    Where the test rows are the validation rows (as when hardening chooses), half of them become the pool.
    """
    pool, test = case.data.validation, case.data.test
    shared = np.isin(pool.ids, test.ids)
    if shared.mean() > 0.5:
        order = rng_for(case.seed, "extraction", "halves").permutation(len(pool))
        test = pool.take(np.sort(order[len(pool) // 2 :]))
        pool = pool.take(np.sort(order[: len(pool) // 2]))
    else:
        pool = pool.take(~shared)
    pool = pool.take(~np.isin(pool.ids, case.data.train.ids))
    if not len(pool):
        raise CarbideError("every validation row is a training row too, so a thief has no rows of its own; cut the data without repeats")
    if most is not None and len(pool) > most:
        pool = pool.take(np.sort(rng_for(case.seed, "extraction", "pool").permutation(len(pool))[:most]))
    if len(test) > ROWS:
        test = test.take(np.sort(rng_for(case.seed, "extraction", "rows").permutation(len(test))[:ROWS]))
    return Field(pool=pool, x=test.x, y=test.y, victim=decide(case.model.predict(test.x), case.model.threshold))


def steal(trial: Trial) -> dict[str, Any]:
    """The labels ``(n,)`` that a thief's copy gives to the rows of judgement, or why it failed."""
    rng = rng_for(trial.seed, "extraction", trial.name)  # the same rows are asked for, in the same order, whatever the answers
    oracle = Oracle(model=trial.model, threat=trial.threat)
    try:
        with one_thread():
            copied = trial.method(oracle, trial.pool, trial.threat, rng)
            oracle.close()
            shares = np.asarray(copied.predict(trial.x))
    except CarbideError as error:
        return {"failed": str(error)}
    if shares.shape != (len(trial.x), trial.model.classes) or not np.isfinite(shares).all():
        return {"failed": f"its copy answers {len(trial.x)} rows with an array of shape {shares.shape}, not finite probabilities a class"}
    return {"labels": decide(shares, getattr(copied, "threshold", 0.5))}


def _grid(threat: Queries, method: Method, modes: list[str], asked: str) -> list[tuple[str, int]]:
    """Kinds of answers and numbers of queries that are tried: those of the curve, or the threat's alone."""
    points = int(getattr(method, "points", 1))
    if points == 1:
        own = "probabilities" if asked in _twins(method, "probabilities", modes) else asked
        return [(mode, threat.n) for mode in dict.fromkeys((own, "labels"))]
    counts = np.unique(np.geomspace(min(START, threat.n), threat.n, points).round().astype(int))
    known = {twin for mode in modes[1:] for twin in _twins(method, mode, modes)}
    return [(mode, int(n)) for mode in modes if mode not in known for n in counts]


def _twins(method: Method, mode: str, modes: list[str]) -> list[str]:
    """The kinds of answers from which this thief learns just what it learns from ``mode``, which is tried in their stead."""
    return [m for m in ("logits",) if getattr(method, "scale_free", False) and mode == "probabilities" and m in modes]


def _free_to_ignore(done: Mapping[tuple[str, str, int], Array], field: Field) -> dict[tuple[str, str, int], Array]:
    """Each theft at its best, when a thief who is told more may also look at less: labels count for scores where they served better."""
    found = dict(done)
    for name, n in dict.fromkeys((name, n) for name, _, n in done):
        best: Array | None = None
        for mode in reversed(MODES):
            labels = found.get((name, mode, n))
            if labels is not None and (best is None or field.fidelity(labels) > field.fidelity(best)):
                best = labels
            if labels is not None and best is not None:
                found[name, mode, n] = best
    return found


def _rivals(case: Case, field: Field) -> tuple[Array, Array]:
    """Labels of the guesser and of a rival who trains on the pool's true labels."""
    pool = field.pool
    guess = np.full(len(field.x), np.bincount(pool.y, minlength=case.model.classes).argmax())
    with one_thread():
        own = copy_of(pool.x, Answers(labels=pool.y), pool.space, case.model.classes, rng_for(case.seed, "extraction", "rival"))
        return guess, decide(own.predict(field.x), own.threshold)


def _note(threat: Queries, asked: str, field: Field, guess: Array, rival: Array) -> str:
    words = (f"measured on rows the thief never asked for; it holds {len(field.pool)} rows of the same kind, none of them training rows; without "
             f"any query a guesser agrees on {field.fidelity(guess):.1%} and a rival trained on true labels on {field.fidelity(rival):.1%}")  # fmt: skip
    return words if asked == threat.answers else f"{words}; {threat.answers} were asked for, but the model answers labels only"


def _findings(case: Case, field: Field, thief: Array, name: str, threat: Queries, *, headline: bool, note: str) -> list[Finding]:
    same, right = thief == field.victim, thief == field.y
    access = Access.LABELS if threat.answers == "labels" else BLACK_BOX
    common: dict[str, Any] = {"method": name, "threat": threat.words(), "access": access.words(), "seed": case.seed, "good": -1}
    found = [_rate("fidelity", same, headline=headline, note=note, **common), _rate("thief accuracy", right, **common)]
    worst = _worst(same, field.victim)
    return [*found, _rate("fidelity, worst class", same[field.victim == worst], note=f"rows that the victim calls class {worst}", **common)]


def _worst(same: Array, victim: Array) -> Any:
    """The class of the victim's on which a copy agrees least."""
    return min(np.unique(victim), key=lambda c: float(same[victim == c].mean()))


def _rate(metric: str, hits: Array, **more: Any) -> Finding:
    return Finding(metric=metric, **counted(hits)._asdict(), **more)


def _figures(
    field: Field, done: Mapping[tuple[str, str, int], Array], best: str, modes: list[str], guess: Array, rival: Array, note: str
) -> tuple[Figure, ...]:
    lines = []
    for mode in modes:
        counts = sorted(n for name, m, n in done if (name, m) == (best, mode))
        if counts:
            hits = [done[best, mode, n] == field.victim for n in counts]
            bands = [clopper_pearson(int(h.sum()), len(h)) for h in hits]
            lines.append(Series(name=mode, x=np.array(counts, float), y=np.array([h.mean() for h in hits]), low=np.array([b.low for b in bands]),
                                high=np.array([b.high for b in bands])))  # fmt: skip
    ends = np.array([min(line.x.min() for line in lines), max(line.x.max() for line in lines)])
    lines += [
        Series(name=name, x=ends, y=np.full(2, field.fidelity(labels)))
        for name, labels in (("guesser, no query", guess), ("rival with true labels, no query", rival))
    ]
    return (
        Figure(
            kind="lines", title="Fidelity against queries", x_label="queries", y_label="rows on which the copy agrees", series=tuple(lines), note=note
        ),
    )
