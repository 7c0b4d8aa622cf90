"""Scores that tell what a training saw from what it released, fitted on trainings that are then set aside.

Differential privacy bounds every function of the release, so any score may be used, and the choice costs nothing as long as the trainings
that it is made on are not those that are counted. Linear scores find what adds up along a direction, the others what hides: a place among
many, a change of spread, numbers that repeat exactly because the noise has few values.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> outside, inside = rng.normal(size=(200, 3)), rng.normal(size=(200, 3)) + [2.0, 0.0, 0.0]
>>> scorers = fit_scorers(outside, inside)
>>> bool(scorers["direction"](inside).mean() > scorers["direction"](outside).mean() + 2)
True
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from carbide.privacy._neighbours import Neighbours
from carbide.stats.audits import Counts, TradeOff, best_weight, gdp_slope, p_value
from carbide.types import Array

Score = Callable[[Array], Array]  # releases (m, p) -> scores (m,), higher = the canary was there
LARGE = 1e100  # numbers beyond this, and what is no number, count as this
WIDTH = 300  # numbers of a release that a direction is fitted to; of longer ones those that differ most
STEPS = 8  # blocks of a release from which on it is taken for a trajectory
PERIODS = (2, 3, 4, 5, 6, 8, 10)  # orders of batches that are looked for
COLUMNS = 40  # numbers of a release whose repetitions are counted
RIDGES = {"direction": 1e-3, "direction, shrunk": 0.1, "direction, shrunk more": 1.0}
CUTS = np.linspace(0.02, 0.98, 49)  # quantiles of the scores at which thresholds are tried


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A training is called one with the canary where its score is at least ``at``; ``weight`` as in ``Counts``."""

    at: float
    weight: float

    def counts(self, outside: Array, inside: Array) -> Counts:
        """The errors on scores ``(n,)`` of trainings without and with the canary."""
        return Counts(false_positives=int((outside >= self.at).sum()), negatives=len(outside),
                      false_negatives=int((inside < self.at).sum()), positives=len(inside), weight=self.weight)  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Distinguisher:
    """What an attack of many trainings hands to the judge: the neighbours, the score and its name, and a threshold for each question.

    ``thresholds`` holds ``claim`` (is the claim refuted), ``mu`` and ``epsilon`` (how large are they at least).
    """

    neighbours: Neighbours
    name: str
    score: Score
    thresholds: Mapping[str, Threshold]


def clean(releases: Array) -> Array:
    """Releases ``(m, p)`` with everything infinite or not a number made large."""
    return np.clip(np.nan_to_num(releases, nan=LARGE, posinf=LARGE, neginf=-LARGE), -LARGE, LARGE)


def fit_scorers(outside: Array, inside: Array, ways: Array | None = None) -> dict[str, Score]:
    """Every kind of score fitted to clean releases ``(m, p)`` without and with the canary, the simplest first.

    With ``ways`` ``(2, d)``, directions in which the canary lies, there are also scores of the release's blocks of d numbers (the weights of
    a linear model, or of every step) along them.
    """
    scorers: dict[str, Score] = {}
    project = None if ways is None else _projection(outside.shape[1], ways)
    if project is not None:
        first, second = project(outside), project(inside)
        kinds = {"along the canary": _direction(first, second, 1e-3), **_shapes(first, second, "along the canary, ")}
        scorers |= {name: lambda releases, score=score, project=project: score(project(releases)) for name, score in kinds.items()}
        scorers |= _by_step(project, first, second)
    scorers |= {name: _direction(outside, inside, ridge) for name, ridge in RIDGES.items()}
    return scorers | _shapes(outside, inside, "") | {"seen before": _seen_before(outside, inside)}


def _by_step(project: Score, outside: Array, inside: Array) -> dict[str, Score]:
    """Scores of the steps of a trajectory along the canary, one by one and every k-th together, where a fixed order of batches shows."""
    if outside.shape[1] < 2 * STEPS:
        return {}
    scorers: dict[str, Score] = {}
    for every in (0, *PERIODS):
        if 2 * every > outside.shape[1] // 2:
            break

        def folded(projected: Array, every: int = every) -> Array:
            steps = np.diff(projected.reshape(len(projected), -1, 2)[:, :, 0], axis=1)
            return steps if not every else np.stack([steps[:, (place - 1) % every :: every].sum(1) for place in range(every)], axis=1)

        kinds = _shapes(folded(outside), folded(inside), "")
        word = "step by step" if not every else f"every {every} steps"
        for name in ("highest", "odds") if every else ("highest", "odds", "likelihood"):
            scorers[f"along the canary, {word}, {name}"] = lambda releases, score=kinds[name], folded=folded: score(folded(project(releases)))
    return scorers


def _projection(length: int, ways: Array) -> Score | None:
    """Releases ``(m, p)`` to the lengths of their blocks along the canary's directions ``(m, 2 blocks)``; None if there are no blocks."""
    d = ways.shape[1]
    stride = next((s for s in (d + 1, d) if d > 1 and length >= d and (length % s in (0, d))), None)
    if stride is None:
        return None
    starts = [start for start in range(0, length, stride) if start + d <= length]
    return lambda releases: np.concatenate([releases[:, start : start + d] @ ways.T for start in starts], axis=1)


def _shapes(outside: Array, inside: Array, word: str) -> dict[str, Score]:
    """Scores that see more than a shift: one high number among many, distances, a change of spread."""
    centre, spread = outside.mean(0), outside.std(0)
    spread = np.where(spread > 0, spread, 1e-12 * np.maximum(1.0, np.abs(centre)))
    toward = np.where(inside.mean(0) >= centre, 1.0, -1.0) / spread

    def standard(releases: Array) -> Array:
        return np.clip((releases - centre) * toward, -1e12, 1e12)

    return {
        f"{word}highest": lambda releases: standard(releases).max(1),
        f"{word}lowest": lambda releases: standard(releases).min(1),
        f"{word}odds": lambda releases: np.logaddexp.reduce(np.clip(2 * standard(releases), -700, 700), axis=1),
        f"{word}distance": lambda releases: np.log1p((standard(releases) ** 2).mean(1)),
        f"{word}nearness": lambda releases: -np.log1p((standard(releases) ** 2).mean(1)),
        f"{word}likelihood": _likelihood(outside, inside, spread),
    }


def choose(neighbours: Neighbours, outside: Array, inside: Array, trade_off: TradeOff, delta: float) -> Distinguisher:
    """The score that separates best, fitted on half of the releases ``(m, p)`` and chosen, with its thresholds, on the others.

    A score is preferred to a simpler one only where it refutes the claim more clearly, or separates better by more than chance.
    """
    outside, inside = clean(outside), clean(inside)
    cut = len(outside) // 2
    best: tuple[float, float, Distinguisher] | None = None
    for name, score in fit_scorers(outside[:cut], inside[:cut], neighbours.ways).items():
        first, second = score(outside[cut:]), score(inside[cut:])
        thresholds = _thresholds(first, second, trade_off, delta)
        likely, mu = p_value(thresholds["claim"].counts(first, second), trade_off), _sure_mu(first, second, thresholds["mu"].at)
        if best is None or likely < min(0.01, best[0] / 10) or (mu > best[1] + 3 / math.sqrt(len(first)) and likely <= best[0]):
            best = (
                likely,
                mu,
                Distinguisher(neighbours=neighbours, name=name, score=lambda releases, score=score: score(clean(releases)), thresholds=thresholds),
            )
    assert best is not None
    return best[2]


def separation(neighbours: Neighbours, outside: Array, inside: Array) -> float:
    """A quick guess at how well two sets of releases are told apart, as a mu less its error; halves are fitted and scored in turn."""
    outside, inside = clean(outside), clean(inside)
    h, found = len(outside) // 2, []
    for fit, held in ((slice(None, h), slice(h, None)), (slice(h, None), slice(None, h))):
        scorers = fit_scorers(outside[fit], inside[fit], neighbours.ways)
        found.append({name: _best_mu(score(outside[held]), score(inside[held])) for name, score in scorers.items()})
    return max(float(np.mean([half[name] for half in found])) for name in found[0])


def _thresholds(outside: Array, inside: Array, trade_off: TradeOff, delta: float) -> dict[str, Threshold]:
    cuts = np.unique(np.quantile(np.concatenate([outside, inside]), CUTS))
    fpr, fnr = _rates(outside, inside, cuts)
    n, m = len(outside), len(inside)
    mus, errors = _mu_of(fpr, fnr, n, m)
    k = int(np.argmax(mus - 2 * errors))  # an extreme threshold looks good by chance where trainings are few
    slope = gdp_slope(fpr[k], float(np.clip(mus[k], 0.0, 8.0)))
    found = {"mu": Threshold(at=float(cuts[k]), weight=float(np.clip(best_weight(fpr[k], fnr[k], n, m, slope), 0.2, 0.8)))}
    low, high = (_epsilon_of(a, b, count, other, delta) for a, b, count, other in ((fpr, fnr, n, m), (fnr, fpr, m, n)))
    i, j = int(np.argmax(low)), int(np.argmax(high))
    place, grow = (i, np.exp(np.clip(low[i], 0, 8))) if low[i] >= high[j] else (j, np.exp(-np.clip(high[j], 0, 8)))
    found["epsilon"] = Threshold(at=float(cuts[place]), weight=best_weight(fpr[place], fnr[place], n, m, float(grow)))
    tried = [Threshold(at=float(cuts[p]), weight=best_weight(fpr[p], fnr[p], n, m, _slope(trade_off, fpr[p]))) for p in dict.fromkeys((k, i, j))]
    return found | {"claim": min(tried, key=lambda threshold: p_value(threshold.counts(outside, inside), trade_off))}


def _rates(outside: Array, inside: Array, cuts: Array) -> tuple[Array, Array]:
    """False-positive and false-negative rates ``(c,)`` at thresholds, kept off 0 and 1 by half a training."""
    above = len(outside) - np.searchsorted(np.sort(outside), cuts, side="left")
    below = np.searchsorted(np.sort(inside), cuts, side="left")
    return (above + 0.5) / (len(outside) + 1), (below + 0.5) / (len(inside) + 1)


def _mu_of(fpr: Array, fnr: Array, n: int, m: int) -> tuple[Array, Array]:
    """The mu that each pair of rates shows, and about its standard error."""
    from scipy.special import ndtri

    def error(rate: Array, trials: int) -> Array:
        return np.sqrt(rate * (1 - rate) / trials) * np.sqrt(2 * np.pi) * np.exp(ndtri(rate) ** 2 / 2)

    return -ndtri(fpr) - ndtri(fnr), np.hypot(error(fpr, n), error(fnr, m))


def _epsilon_of(small: Array, other: Array, n: int, m: int, delta: float) -> Array:
    """The logarithm of the ratio that bounds epsilon, less about its standard error."""
    hit = np.maximum(1 - delta - other, 1e-12)
    return np.log(hit / small) - np.sqrt((1 - small) / (small * n) + other / (hit * m)) * 1.6


def _slope(trade_off: TradeOff, fpr: float) -> float:
    points = np.array([0.98 * fpr, min(1.0, 1.02 * fpr)])
    first, last = trade_off(points)
    return float(np.clip((first - last) / (points[1] - points[0]), 1e-4, 1e4))


def _best_mu(outside: Array, inside: Array) -> float:
    cuts = np.unique(np.quantile(np.concatenate([outside, inside]), CUTS[::4]))
    mus, errors = _mu_of(*_rates(outside, inside, cuts), len(outside), len(inside))
    return float(np.max(mus - errors))


def _sure_mu(outside: Array, inside: Array, at: float) -> float:
    mus, errors = _mu_of(*_rates(outside, inside, np.array([at])), len(outside), len(inside))
    return float((mus - errors)[0])


def _direction(outside: Array, inside: Array, ridge: float) -> Score:
    """Fisher's discriminant on standardised numbers; the ridge keeps it sane where numbers outnumber trainings."""
    spread = np.sqrt((outside.var(0) + inside.var(0)) / 2)
    spread = np.where(spread > 0, spread, 1.0)
    step = (inside.mean(0) - outside.mean(0)) / spread
    used = np.argsort(-np.abs(step), kind="stable")[:WIDTH]
    a, b = outside[:, used] / spread[used], inside[:, used] / spread[used]
    covariance = (np.atleast_2d(np.cov(a.T)) + np.atleast_2d(np.cov(b.T))) / 2
    least = ridge if len(a) > 4 * len(used) else max(ridge, len(used) / (2 * len(a)))
    weights = np.linalg.solve(covariance + least * np.eye(len(used)), step[used]) / spread[used]
    return lambda releases: releases[:, used] @ weights


def _likelihood(outside: Array, inside: Array, spread: Array) -> Score:
    """The likelihood ratio of independent Gaussians with means and spreads of their own."""
    a, b, floor = outside.mean(0), inside.mean(0), 1e-3 * spread
    s, t = np.maximum(outside.std(0), floor), np.maximum(inside.std(0), floor)
    return lambda releases: (np.minimum(((releases - a) / s) ** 2, 1e6) / 2 - np.minimum(((releases - b) / t) ** 2, 1e6) / 2 - np.log(t / s)).sum(1)


def _seen_before(outside: Array, inside: Array) -> Score:
    """How many more of the numbers are exactly those of a training with the canary than of one without it."""
    known = [(np.unique(_rounded(outside[:, j])), np.unique(_rounded(inside[:, j]))) for j in range(min(outside.shape[1], COLUMNS))]

    def score(releases: Array) -> Array:
        total = np.zeros(len(releases))
        for j, (without, with_) in enumerate(known):
            values = _rounded(releases[:, j])
            total += np.isin(values, with_).astype(float) - np.isin(values, without)
        return total

    return score


def _rounded(values: Array) -> Array:
    """Numbers to eleven digits, so that sums in another order stay equal."""
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where(values == 0, 1.0, 10.0 ** np.floor(np.log10(np.abs(np.where(values == 0, 1.0, values)))))
    return np.round(values / size, 10) * size
