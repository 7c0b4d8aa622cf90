"""What every defence leaks against what it costs, and the one to choose within a budget of accuracy.

Each candidate is played as an adaptive attacker would play it: the whole defence runs in every shadow model. All candidates
share the halves, so that their accuracies on the rows left out are compared row by row. What is chosen here must be measured
again, with other seeds: ``leakage`` does that.

>>> undominated([0.9, 0.8, 0.7], [0.3, 0.1, 0.2])
[True, True, False]
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from carbide import registry
from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.rmia import Rmia
from carbide.privacy.coarse import CoarseRecipe
from carbide.privacy.shadows import Shadows, train_shadows
from carbide.registry import Method
from carbide.run import current
from carbide.stats.intervals import Interval, bootstrap
from carbide.stats.performance import threshold_at_fpr
from carbide.stats.roc import LEAST, enough, roc_intervals, tpr_at_fpr
from carbide.types import Array, Case, Dataset, InputError, Membership, OperatingPoint, Recipe, decide, rng_for

FPR = 0.01
AS_IT_IS = "as it is"
NULL = 1e-12
RECORDS = 5000  # rows that are asked about, drawn by the seed; more would only narrow the intervals


@dataclass(frozen=True, kw_only=True, eq=False)
class Leak:
    """One recipe: ``tpr`` of the best attack at 1% false positives, its interval and name, and what its models are worth on rows left out.

    ``right`` ``(m, n)`` says which answers are right, ``counted`` ``(m, n)`` of which of them ``accuracy`` is the mean: those on
    rows left out, at an operating point on rows of class 1 alone, so that it is the recall there.
    """

    name: str
    recipe: Recipe
    tpr: float
    interval: Interval
    attack: str
    tprs: Mapping[str, float]
    accuracy: float
    right: Array
    counted: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Point:
    """A candidate: its leak, the accuracy lost against the recipe as it is (negative = gained) and whether nothing is better in both."""

    leak: Leak
    lost: float
    lost_interval: Interval
    front: bool = False
    chosen: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Front:
    """Every point, who leaks least first, and the candidates that could not be trained with the reason."""

    points: tuple[Point, ...]
    skipped: Mapping[str, str]

    @property
    def chosen(self) -> Point:
        """The point that leaks least within the budget."""
        return next(p for p in self.points if p.chosen)


def leakage(name: str, recipe: Recipe, pool: Dataset, *, seed: int, shadows: int = 64, attacks: Mapping[str, Method] | None = None,
            point: OperatingPoint | None = None) -> Leak:  # fmt: skip
    """How much ``shadows`` models trained by the recipe on halves of the pool tell the strongest of the attacks (None = LiRA and RMIA).

    Each model decides at the ``point`` that its answers on rows left out give (None = as it decides by itself).

    Raises:
        InputError: if so few models on so few rows cannot carry a rate of 1% false positives, or the recipe refuses them.
    """
    chosen = np.sort(rng_for(seed, "front", "records").permutation(len(pool))[:RECORDS])
    records = pool.take(chosen) if len(chosen) < len(pool) else pool
    if not enough(shadows * len(records) // 2, FPR):
        raise InputError(
            f"{shadows} models on {len(pool)} rows leave {shadows * len(pool) // 2} non-member scores, and 1,000 are needed; train more shadow models"
        )
    attacks = attacks or {"lira": Lira(shadows=shadows), "rmia": Rmia(shadows=shadows)}
    found = train_shadows(recipe, pool, shadows, seed, records=chosen if records is not pool else None)
    scores = {key: np.stack([method(found.target(t, records), records, rng_for(seed, "front", key, t), found.without(t)) for t in range(shadows)])
              for key, method in attacks.items()}  # fmt: skip
    tprs = {key: tpr_at_fpr(s, found.members, FPR) for key, s in scores.items()}
    worst = max(tprs, key=lambda key: tprs[key])
    interval = roc_intervals(scores[worst], found.members, (FPR,), rng_for(seed, "front", "bootstrap")).tpr[0]
    right = np.stack([decide(answers) == records.y for answers in _decided(found, records, point)])
    counted = ~found.members if point is None else ~found.members & (records.y == 1)
    return Leak(name=name, recipe=recipe, tpr=tprs[worst], interval=interval, attack=worst, tprs=tprs, accuracy=float(right[counted].mean()), right=right,
                counted=counted)  # fmt: skip


def _decided(found: Shadows, records: Dataset, point: OperatingPoint | None) -> Array:
    """The answers ``(m, n, k)``, at an operating point as certainties on the side of it where they fall."""
    if point is None:
        return found.answers
    scores = found.answers[:, :, 1]
    asked = ~found.members & (records.y == 0)
    cut = np.array([threshold_at_fpr(s[rows], point.false_positive_rate) for s, rows in zip(scores, asked, strict=True)])
    return np.eye(2)[(scores >= cut[:, None]).astype(int)]


def least_shadows(rows: int, wanted: int = 16) -> int:
    """The even number of models, at least ``wanted``, that a claim at 1% false positives needs on halves of so many rows."""
    least = int(np.ceil(2 * LEAST / FPR / max(1, min(rows, RECORDS))))
    return max(wanted, least + least % 2)


def lost(plain: Leak, other: Leak, *, seed: int) -> tuple[float, Interval]:
    """The accuracy lost on rows left out, and its interval over rows; both must come from the same halves."""
    counted = plain.counted
    drop = np.where(counted, plain.right.astype(float) - other.right, 0.0).sum(0)
    counts = counted.sum(0)
    rows = np.flatnonzero(counts)
    share = lambda chosen: float(drop[chosen].sum() / counts[chosen].sum())  # noqa: E731
    return share(rows), bootstrap(share, rows, rng_for(seed, "front", "lost"))


def explore(recipe: Recipe, pool: Dataset, candidates: Mapping[str, Recipe], *, accuracy_loss: float, seed: int, shadows: int = 16,
            attacks: Mapping[str, Method] | None = None, point: OperatingPoint | None = None) -> Front:  # fmt: skip
    """Every candidate and the recipe as it is; the chosen one leaks least among those that lose at most ``accuracy_loss``.

    A candidate that refuses the halves is skipped with its reason. Finished shadow models are stored, so that a killed run goes
    on; ``attacks`` and ``point`` are as in ``leakage``.

    Raises:
        InputError: if ``accuracy_loss`` is not in [0, 1], or as ``leakage``.
    """
    if not 0 <= accuracy_loss <= 1:
        raise InputError(f"accuracy_loss is {accuracy_loss}; give a share in [0, 1], e.g. 0.01")
    measure = functools.partial(leakage, pool=pool, seed=seed, shadows=shadows, attacks=attacks, point=point)
    say = current().progress.say
    say(f"front, 1 of {len(candidates) + 1}: {AS_IT_IS}")
    plain = measure(AS_IT_IS, recipe)
    leaks, skipped = [plain], {}
    for number, (name, other) in enumerate(candidates.items(), 2):
        say(f"front, {number} of {len(candidates) + 1}: {name}")
        try:
            leaks.append(measure(name, other))
        except InputError as error:
            skipped[name] = str(error)
    points = [Point(leak=leak, lost=value, lost_interval=interval) for leak in leaks for value, interval in [lost(plain, leak, seed=seed)]]
    front = undominated([-p.lost for p in points], [p.leak.tpr for p in points])
    allowed = [i for i, p in enumerate(points) if p.lost <= accuracy_loss + NULL]
    best = min(allowed, key=lambda i: (max(points[i].leak.tpr, FPR), points[i].lost))  # below chance there is only luck
    marked = [replace(p, front=front[i], chosen=i == best) for i, p in enumerate(points)]
    return Front(points=tuple(sorted(marked, key=lambda p: (p.leak.tpr, p.lost))), skipped=skipped)


def undominated(good: Sequence[float], bad: Sequence[float]) -> list[bool]:
    """Whether no other point is at least as good in both and better in one."""
    return [not any(g2 >= g and b2 <= b and (g2 > g or b2 < b) for g2, b2 in zip(good, bad, strict=True)) for g, b in zip(good, bad, strict=True)]


def candidates(case: Case) -> dict[str, Recipe]:
    """Every defence of the privacy room at every strength that runs on the case's recipe, coarse answers included, without differential privacy."""
    assert case.recipe is not None
    threat = Membership()
    found: dict[str, Recipe] = {}
    for entry in registry.methods(room="privacy", verb="harden"):
        if entry.cls is None or entry.form not in ("recipe", "model") or entry.name.startswith(("private", "dp")):
            continue
        method = entry.make()
        if registry.refusal(method, case, threat) is not None:
            continue
        for number, strength in enumerate(method.strengths(), 1):
            levels = getattr(strength, "levels", None)
            made = CoarseRecipe(inner=case.recipe, levels=levels) if entry.form == "model" and levels else strength(case.recipe, threat)
            found[f"{entry.name} {number}"] = made
    return found
