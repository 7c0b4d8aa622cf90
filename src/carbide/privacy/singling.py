"""The judge of singling out: how many predicates written from a model's answers hold of exactly one training row, and how many would by luck?

A predicate of weight ``w``, the share of the population that it holds of, isolates one of ``n`` rows with probability ``n w (1 - w)^(n - 1)``
if it owes nothing to them (Cohen & Nissim 2020, https://arxiv.org/abs/1904.06009, section 2). Weights are taken from rows that were neither
trained on nor shown to the attacker. No two predicates that are judged can hold of one row, so that few such rows bound their mean weight;
chance is concave in the weight up to ``1 / n``, so predicates of that mean weight isolate at most as often as one of it. The same predicates
are also put to rows that were not trained on, as Giomi et al. 2022 do (Anonymeter, https://arxiv.org/abs/2211.10459).

>>> round(chance(0.001, 1000), 3), round(chance(0.5, 1000), 3)
(0.368, 0.368)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from carbide.privacy._sections import evidence_of, headed, named, tried
from carbide.privacy.predicates import Predicates
from carbide.privacy.trials import pool_of, rows_seen, rows_unseen
from carbide.registry import Method
from carbide.run import remember
from carbide.stats.intervals import Interval, clopper_pearson, difference
from carbide.types import Access, Array, Case, Dataset, Finding, InputError, Section, SinglingOut, rng_for

SHARE, GAIN = "rows singled out", "singling out beyond chance"
CHANCE, CONTROL, WEIGHT = "singling out by chance", "singling out, rows not trained on", "rows that a predicate holds of by chance"
LEAST = 30  # rows on any side
MOST = 100  # predicates that are judged
NAMED = 3  # rows whose predicates the headline tells


def chance(weight: float, n: int) -> float:
    """How often predicates of that mean weight (0..1) that owe nothing to ``n`` rows hold of exactly one of them, at most."""
    weight = min(weight, 1 / n)
    return float(n * weight * (1 - weight) ** (n - 1))


def too_heavy(held: Array, m: int, weight: float) -> Array:
    """Which predicates ``(k,)``, held by so many of ``m`` rows, weigh more than ``weight`` beyond doubt (95%, one side, Clopper-Pearson)."""
    limit = {int(c): clopper_pearson(int(c), m, 0.9).low for c in np.unique(held)}
    return np.array([limit[int(c)] > weight for c in held], bool)


def audit(case: Case, threat: SinglingOut, methods: Mapping[str, Method]) -> Section:
    """How many of each attack's predicates isolate a training row; the headline is the largest share.

    Raises:
        InputError: if inputs are no rows of a table, or there are too few rows on any side.
    """
    known, inside, outside = _sides(case)
    played, skipped = tried(methods, threat, lambda name, method: _play(case, threat, name, method, known, inside, outside))
    findings: list[Finding] = []
    evidence: dict[str, Array] = {}
    for name, seen in played.items():
        findings += _findings(case, threat, name, methods[name], seen)
        evidence |= named(name, seen)
    return Section(threat=threat.words(), room="privacy", findings=headed(findings, (SHARE,)), skipped=tuple(skipped), evidence=evidence, noun=threat)


def verify(section: Section, threat: SinglingOut) -> list[tuple[str, float, float]]:
    """Each finding as reported and as recomputed from how many rows each predicate holds of."""
    return [(f"{f.metric} ({f.method})", f.value, value_of(f.metric, evidence_of(section, f.method))) for f in section.findings]


def _sides(case: Case) -> tuple[Dataset, Dataset, Dataset]:
    """Rows that the attacker knows, the rows that were trained on, and rows that are neither: half of the validation rows, and the test rows."""
    pool, trained, _ = pool_of(case)
    if len(pool.space.shape) != 1:
        raise InputError(f"predicates are over the features of a table, but inputs have the shape {pool.space.shape}; give a model of a table")
    fresh, train = rows_unseen(case, pool), rows_seen(case)
    test = pool.take(~trained)
    if not len(fresh):  # defences are chosen on validation rows alone, which stand in for test rows then: half of them are the attacker's
        fresh, test = _halves(case, test)
        return _enough(fresh, train, test)
    known, rest = _halves(case, fresh)
    return _enough(known, train, test.joined(rest))


def _halves(case: Case, rows: Dataset) -> tuple[Dataset, Dataset]:
    """The rows in two halves, drawn by the case's seed."""
    order = rng_for(case.seed, "privacy", "singling", "rows").permutation(len(rows))
    return rows.take(order[: len(rows) // 2]), rows.take(order[len(rows) // 2 :])


def _enough(known: Dataset, train: Dataset, others: Dataset) -> tuple[Dataset, Dataset, Dataset]:
    if min(len(known), len(train), len(others)) < LEAST:
        raise InputError(f"the attacker may know {len(known)} validation rows, {len(train)} rows were trained on, and {len(others)} others are left to weigh "
                         f"predicates; give at least {2 * LEAST} validation rows that stand nowhere else, and {LEAST} of the others")  # fmt: skip
    return known, train, others


def _play(case: Case, threat: SinglingOut, name: str, method: Method, known: Dataset, inside: Dataset, outside: Dataset) -> dict[str, Array]:
    """What each predicate holds of; ``outside`` rows give the weights, the first of them, as many as were trained on, the control."""
    n, m = len(inside), len(outside)
    weight = threat.weight / n
    made = remember(f"singling out {name}", (case.model, known.x, known.y, n, method, threat, case.seed),
                    lambda: method(case.model, known, weight, rng_for(case.seed, "privacy", "singling", name))._asdict())  # fmt: skip
    asked = Predicates(**made).apart(MOST)
    if not len(asked.label):
        raise InputError(f"attack {name} wrote no predicate; let it ask about more points")
    hits, held = asked.holds(inside.x, inside.y), asked.holds(outside.x, outside.y)
    limit = clopper_pearson(int(held.sum()), m, 0.9).high / len(asked.label)
    if limit > weight:
        raise InputError(f"the predicates' mean weight may be {limit:.2g} (upper limit at 95%), above {threat.weight:g} of 1 in {n} rows, where "
                         "isolating a row takes no model; give more validation and test rows")  # fmt: skip
    alone = np.where(hits.sum(1) == 1, hits.argmax(1), -1)
    return {"inside": hits.sum(1), "outside": held[:, :n].sum(1), "held": held.sum(1), "heavy": too_heavy(held.sum(1), m, weight),
            "rows": np.array([n, min(n, m), m]), "low": asked.low, "high": asked.high, "label": asked.label,
            "ids": np.where(alone >= 0, inside.ids[alone].astype(str), "")}  # fmt: skip


def value_of(metric: str, seen: Mapping[str, Array]) -> float:
    """A finding's value from what each predicate holds of: ``inside``, ``outside`` and ``held`` rows ``(k,)`` of ``rows``, which are ``heavy``."""
    n, _, m = map(int, seen["rows"])
    k = len(seen["inside"])
    weight = float(seen["held"].sum()) / m / k
    share = float(((seen["inside"] == 1) & ~seen["heavy"]).mean())
    if metric == CONTROL:
        return float(((seen["outside"] == 1) & ~seen["heavy"]).mean())
    return {SHARE: share, CHANCE: chance(weight, n), WEIGHT: n * weight, GAIN: share - chance(weight, n)}[metric]


def intervals_of(seen: Mapping[str, Array]) -> dict[str, Interval]:
    """The 95% interval of every metric: exact ones of the shares and of the mean weight, which chance rises with."""
    n, _, m = map(int, seen["rows"])
    k = len(seen["inside"])
    exact = {metric: clopper_pearson(round(k * value_of(metric, seen)), k) for metric in (SHARE, CONTROL)}
    low, high = (end / k for end in clopper_pearson(int(seen["held"].sum()), m))
    by_chance = Interval(chance(low, n), chance(high, n))
    return {**exact, CHANCE: by_chance, WEIGHT: Interval(n * low, n * high),
            GAIN: difference(exact[SHARE], by_chance, (value_of(SHARE, seen), value_of(CHANCE, seen)))}  # fmt: skip


def _findings(case: Case, threat: SinglingOut, name: str, method: Method, seen: Mapping[str, Array]) -> list[Finding]:
    k, (n, others, m) = len(seen["inside"]), map(int, seen["rows"])
    intervals = intervals_of(seen)
    notes = {SHARE: f"{k} predicates, no two of which can hold of one row, on {n:,} training rows; by chance at most {intervals[CHANCE].high:.1%}{_told(case, seen)}",
             GAIN: "the share of predicates that hold of exactly one training row, less chance at their mean weight",
             CHANCE: f"predicates of the same mean weight that owe nothing to the training rows; weights from {m:,} rows set apart",
             CONTROL: f"the same predicates on {others:,} rows that were not trained on",
             WEIGHT: f"training rows that a predicate of their mean weight would hold of; {int(seen['heavy'].sum())} of {k} do not count, being heavier than allowed"}  # fmt: skip
    good = {SHARE: -1, GAIN: -1}
    found = []
    for metric, note in notes.items():
        value, (low, high) = value_of(metric, seen), intervals[metric]
        found.append(Finding(metric=metric, value=value, low=min(value, low), high=max(value, high), n=k, method=name, threat=threat.words(),
                             access=(method.needs | case.model.access & Access.SCORES).words(), seed=case.seed, good=good.get(metric, 0), note=note))  # fmt: skip
    return found


def _told(case: Case, seen: Mapping[str, Array]) -> str:
    """The first rows that are singled out, by id, each with its predicate."""
    boxes = Predicates(low=seen["low"], high=seen["high"], label=seen["label"])
    alone = np.flatnonzero((seen["ids"] != "") & ~seen["heavy"])[:NAMED]
    told = [f"{seen['ids'][i]}: {boxes.words(i, case.data.train.space, case.data.train.class_names or ())}" for i in alone]
    return f"; singled out: {'; '.join(told)}" if told else ""
