"""The judge of rebuilt training rows: how near does an attacker come who has the model alone, or the model and all other rows?

With the other rows known, a row counts as rebuilt where the attack's row has its label and is nearer to it than any row that the attacker
knew; the same is asked about rows that were never trained on, of which none may be found. With the model alone the attack gives an input a
class; it betrays training rows as far as those are nearer to it than rows of the class that were not trained on, which the class's mean of
rows set apart, known without the model, must not show.

>>> SHARE, AUC
('rows reconstructed', 'reconstruction AUC')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from carbide.privacy._sections import evidence_of, headed, named, tried
from carbide.privacy.rebuilt import Rebuilt, distances, nearer_share, spread_of
from carbide.privacy.trials import pool_of, rows_apart, rows_seen
from carbide.registry import Method
from carbide.run import remember, track
from carbide.stats.intervals import Interval, clopper_pearson
from carbide.types import Array, Case, Dataset, Figure, Finding, InputError, Reconstruction, Rng, Section, Series, Skip, Space, rng_for

SHARE, FALSE, FAR = "rows reconstructed", "negative control, rows never trained on", "distance to a row, in those of its nearest"
AUC, CONTROL, GAIN = "reconstruction AUC", "negative control, class means of rows set apart", "reconstruction gain over the class mean"
TARGETS = 100  # training rows that are each the missing one once
LEAST = 5  # rows of a class on either side where classes are few, and classes whose mean has an interval
MANY = 10  # classes from which classes are drawn for intervals, not rows within them
SHOWN = 8
DRAWS = 500
DOUBT = 0.999
WIDER = 3.290527 / 1.959964  # how much wider than at 0.95 a normal interval is at that confidence


def audit(case: Case, threat: Reconstruction, methods: Mapping[str, Method]) -> Section:
    """What every attack rebuilds; the headline is the one that comes nearest.

    Raises:
        InputError: if there are too few rows.
    """
    judge = _missing if threat.known == "others" else _classes
    played, skipped = tried(methods, threat, lambda name, method: judge(case, threat, name, method))
    findings: list[Finding] = []
    evidence: dict[str, Array] = {}
    for name, (seen, _) in played.items():
        made, refused = _findings(case, threat, name, methods[name], seen)
        findings += made
        skipped += refused
        evidence |= named(name, seen)
    order = headed(findings, (SHARE, AUC))
    shown = (played[order[0].method][1],) if order else ()
    return Section(threat=threat.words(), room="privacy", findings=order, skipped=tuple(skipped), evidence=evidence, figures=shown, noun=threat)


def verify(section: Section, threat: Reconstruction) -> list[tuple[str, float, float]]:
    """Each finding as reported and as recomputed from the distances in the evidence."""
    return [(f"{f.metric} ({f.method})", f.value, _value(f.metric, evidence_of(section, f.method))) for f in section.findings]


# All other rows are known ------------------------------------------------------------------------------------------


def _missing(case: Case, threat: Reconstruction, name: str, method: Method) -> tuple[dict[str, Array], Figure]:
    """Each of up to 100 training rows is the missing one once; distances of what was rebuilt to it, to a row never trained on, and of their nearest."""
    train, test = rows_seen(case), case.data.test.take(~case.data.saw("test"))
    rng = rng_for(case.seed, "privacy", "reconstruction", "targets")
    chosen = rng.permutation(len(train))[:TARGETS]
    if len(train) < 2 * LEAST or not len(test):
        raise InputError(f"there are {len(train)} train rows and {len(test)} test rows; give at least {2 * LEAST} and 1")
    others = rng.integers(len(test), size=len(chosen))
    unit = spread_of(train.x)
    rebuilt = remember(f"reconstruction {name}", (case.model, train.x, train.y, method, threat, case.seed),
                       lambda: _rebuild_each(case, train, threat, name, method, chosen))  # fmt: skip
    keys = ("distance", "nearest", "other_distance", "other_nearest")
    table = {key: np.zeros(len(chosen)) for key in keys}
    twins = np.zeros(len(chosen), np.int64)
    for i, row in enumerate(chosen):
        known = np.delete(np.arange(len(train)), row)
        for prefix, truth in (("", train.x[row]), ("other_", test.x[others[i]])):
            near = distances(truth, train.x[known], unit)
            table[f"{prefix}nearest"][i] = near.min()
            table[f"{prefix}distance"][i] = distances(truth, rebuilt["x"][i : i + 1], unit)[0]
            twins[i] = known[near.argmin()] if not prefix else twins[i]
    seen = {
        **table,
        "label": rebuilt["y"] == train.y[chosen],
        "other_label": rebuilt["y"] == test.y[others],
        "ids": train.ids[chosen],
        "x": rebuilt["x"],
    }
    return seen, _missing_figure(train, chosen, twins, seen)


def _rebuild_each(case: Case, train: Dataset, threat: Reconstruction, name: str, method: Method, chosen: Array) -> dict[str, Array]:
    made = []
    for row in track(chosen.tolist(), label=f"{name}, missing rows"):
        known = train.take(np.delete(np.arange(len(train)), row))
        made.append(
            _checked(name, method(case.model, known, threat, rng_for(case.seed, "privacy", "reconstruction", name, row)), train.space, count=1)
        )
    return {"x": np.concatenate([m.x for m in made]), "y": np.concatenate([m.y for m in made])}


def _missing_figure(train: Dataset, chosen: Array, twins: Array, seen: Mapping[str, Array]) -> Figure:
    ratio = seen["distance"] / np.maximum(seen["nearest"], 1e-12)
    note = "The attacker has the model and every training row but this one."
    if not train.space.is_image:
        x = np.sort(np.clip(ratio, 1e-6, 1e6))
        line = Series(name="rows", x=x, y=np.arange(1, len(x) + 1) / len(x))
        return Figure(kind="steps", title="How near the missing row is rebuilt", x_label="distance to the row, in those of its nearest known one",
                      y_label="share of rows", series=(line,), note=f"{note} Below 1 the row that was rebuilt is nearer than any that was known.")  # fmt: skip
    shown = np.argsort(ratio, kind="stable")[:: max(1, len(ratio) // SHOWN)][:SHOWN]
    rows = (("trained on, not known", train.x[chosen[shown]]), ("rebuilt", seen["x"][shown]), ("nearest known", train.x[twins[shown]]))
    said = np.array([f"{ratio[i]:.2g} of the nearest" for i in shown])
    series = tuple(Series(name=name, x=said, y=_pictures(images, train.space)) for name, images in rows)
    return Figure(kind="gallery", title="Training images rebuilt", x_label="", y_label="", series=series, note=f"{note} From the best to the worst.")


# Only the model is known -------------------------------------------------------------------------------------------


def _classes(case: Case, threat: Reconstruction, name: str, method: Method) -> tuple[dict[str, Array], Figure]:
    """Distances of each rebuilt input, and of its class's mean of rows set apart, to rows of the class on either side."""
    pool, trained, _ = pool_of(case)
    apart = rows_apart(case, pool)
    rng = rng_for(case.seed, "privacy", "reconstruction", name)
    rebuilt = remember(f"reconstruction {name}", (case.model, method, threat, case.seed),
                       lambda: _checked(name, method(case.model, None, threat, rng), pool.space)._asdict())  # fmt: skip
    unit = spread_of(apart.x if len(apart) > 1 else pool.x)
    kept = _comparable(pool, apart, trained, rebuilt["y"])
    parts: dict[str, list[Array]] = {"near": [], "mean_near": [], "inside": [], "which": []}
    for i in kept:
        rows = np.flatnonzero(pool.y == rebuilt["y"][i])
        parts["near"].append(distances(rebuilt["x"][i], pool.x[rows], unit))
        parts["mean_near"].append(distances(apart.x[apart.y == rebuilt["y"][i]].mean(0), pool.x[rows], unit))
        parts["inside"].append(trained[rows])
        parts["which"].append(np.full(len(rows), i))
    seen = {key: np.concatenate(value) for key, value in parts.items()}
    return {**seen, "x": rebuilt["x"], "y": rebuilt["y"]}, _class_figure(pool, apart, trained, rebuilt, kept, seen)


def _comparable(pool: Dataset, apart: Dataset, trained: Array, classes: Array) -> list[int]:
    """Which of the rebuilt inputs have rows of their class on either side: of many classes any, of a few at least five.

    Raises:
        InputError: if there are none.
    """
    fewest = [min((trained & (pool.y == c)).sum(), (~trained & (pool.y == c)).sum()) if (apart.y == c).any() else 0 for c in classes]
    kept = [i for i, rows in enumerate(fewest) if rows >= 1]
    kept = kept if len(kept) >= MANY else [i for i, rows in enumerate(fewest) if rows >= LEAST]
    if not kept:
        raise InputError(f"no class has at least {LEAST} rows that were trained on, {LEAST} that were not and a validation row; give more rows")
    return kept


def _class_figure(pool: Dataset, apart: Dataset, trained: Array, rebuilt: Mapping[str, Array], kept: list[int], seen: Mapping[str, Array]) -> Figure:
    names = pool.class_names or tuple(map(str, range(pool.classes)))
    labels = [names[int(rebuilt["y"][i])] for i in kept]
    if not pool.space.is_image:
        values = [_of_class(seen, "near", i) for i in kept]
        means = [_of_class(seen, "mean_near", i) for i in kept]
        bars = (Series(name="rebuilt", x=np.array(labels), y=np.array(values)), Series(name="class mean", x=np.array(labels), y=np.array(means)))
        return Figure(kind="bars", title="Nearer to training rows than to others", x_label="class", y_label="AUC", series=bars,
                      note="How often a training row is nearer than one that was not trained on: half the time where nothing leaks.")  # fmt: skip
    first = kept[:SHOWN]
    near = []
    for i in first:
        rows = np.flatnonzero((pool.y == rebuilt["y"][i]) & trained)
        near.append(pool.x[rows[distances(rebuilt["x"][i], pool.x[rows], np.ones(rebuilt["x"][i].size)).argmin()]])
    means = [apart.x[apart.y == rebuilt["y"][i]].mean(0) for i in first]
    rows = (("rebuilt", rebuilt["x"][first]), ("nearest trained on", np.stack(near)), ("mean of others", np.stack(means)))
    series = tuple(Series(name=name, x=np.array([labels[k] for k in range(len(first))]), y=_pictures(images, pool.space)) for name, images in rows)
    return Figure(kind="gallery", title="What the model shows of its classes", x_label="", y_label="", series=series,
                  note="Inputs that the model is surest of, the nearest training image of the class, and the mean of images set apart.")  # fmt: skip


# Numbers -----------------------------------------------------------------------------------------------------------


def _checked(name: str, rebuilt: Rebuilt, space: Space, count: int | None = None) -> Rebuilt:
    x, y = np.asarray(rebuilt.x, float), np.asarray(rebuilt.y)
    if x.shape[1:] != space.shape or y.shape != (len(x),) or not np.isfinite(x).all() or (count is not None and len(x) != count):
        raise InputError(
            f"attack {name} rebuilt rows of shape {x.shape} with {y.size} labels where {(count or 'm', *space.shape)} finite values are judged"
        )
    return Rebuilt(x=x, y=y.astype(np.int64))


def _of_class(seen: Mapping[str, Array], key: str, number: int) -> float:
    own = seen["which"] == number
    return nearer_share(seen[key][own & seen["inside"]], seen[key][own & ~seen["inside"]])


def _value(metric: str, seen: Mapping[str, Array]) -> float:
    if metric in (SHARE, FALSE):
        prefix = "" if metric == SHARE else "other_"
        return float(((seen[f"{prefix}distance"] < seen[f"{prefix}nearest"]) & seen[f"{prefix}label"]).mean())
    if metric == FAR:
        return float(np.median(seen["distance"] / np.maximum(seen["nearest"], 1e-12)))
    numbers = np.unique(seen["which"])
    if metric == GAIN:
        return float(np.mean(_gains(seen, numbers)))
    return float(np.mean([_of_class(seen, "near" if metric == AUC else "mean_near", i) for i in numbers]))


def _gains(seen: Mapping[str, Array], numbers: Array) -> Array:
    """How much nearer the nearest training row is to what was rebuilt than to the mean of rows set apart, as a share ``(c,)``."""
    own = [(seen["which"] == i) & seen["inside"] for i in numbers]
    return np.array([1 - seen["near"][o].min() / max(float(seen["mean_near"][o].min()), 1e-12) for o in own])


def _findings(case: Case, threat: Reconstruction, name: str, method: Method, seen: Mapping[str, Array]) -> tuple[list[Finding], list[Skip]]:
    def finding(metric: str, interval: Interval, n: int, *, good: int = -1, confidence: float = 0.95, note: str = "") -> Finding:
        value = _value(metric, seen)
        low, high = interval if math.isnan(interval.low) else (min(value, interval.low), max(value, interval.high))
        return Finding(metric=metric, value=value, low=low, high=high, n=n, method=name, threat=threat.words(), access=method.needs.words(),
                       seed=case.seed, good=good, confidence=confidence, note=note)  # fmt: skip

    rng = rng_for(case.seed, "privacy", "reconstruction", name, "bootstrap")
    if threat.known == "others":
        n = len(seen["distance"])
        hits = [round(n * _value(metric, seen)) for metric in (SHARE, FALSE)]
        ratio = np.sort(seen["distance"] / np.maximum(seen["nearest"], 1e-12))
        middle = _percentiles(np.median(ratio[rng.integers(n, size=(DRAWS, n))], axis=1))
        found = [finding(SHARE, clopper_pearson(hits[0], n), n, note=f"{n} training rows, each the missing one once; rebuilt = with its label, nearer than any known row{_named(seen)}"),
                 finding(FAR, middle, n, good=1, note="median; below 1 is nearer than any known row"),
                 finding(FALSE, clopper_pearson(hits[1], n), n, good=0, note=f"the same rows against test rows in their place: one in {len(rows_seen(case)):,} by chance")]  # fmt: skip
        return found, []
    return _class_findings(finding, name, threat, seen, rng)


def _named(seen: Mapping[str, Array]) -> str:
    """The rows that came nearest, by id."""
    ratio = seen["distance"] / np.maximum(seen["nearest"], 1e-12)
    order = [i for i in np.argsort(ratio, kind="stable")[:3] if ratio[i] < 1 and seen["label"][i]]
    return f"; nearest: {', '.join(str(seen['ids'][i]) for i in order)}" if order else ""


def _class_findings(finding: Any, name: str, threat: Reconstruction, seen: Mapping[str, Array], rng: Rng) -> tuple[list[Finding], list[Skip]]:
    numbers, n = np.unique(seen["which"]), len(seen["near"])
    own, mean = (_drawn(seen, key, numbers, rng) for key in ("near", "mean_near"))
    value = _value(CONTROL, seen)
    wide = Interval(value - WIDER * (value - mean.low), value + WIDER * (mean.high - value))
    control = finding(
        CONTROL, wide, n, good=0, confidence=DOUBT, note="known without the model: nothing to find, unless train and test rows differ in other ways"
    )
    gains = _gains(seen, numbers)
    ends = Interval(math.nan, math.nan)
    if len(gains) >= LEAST:
        ends = _percentiles(gains[rng.integers(len(gains), size=(DRAWS, len(gains)))].mean(1))
    gain = finding(
        GAIN,
        ends,
        len(gains),
        note="how much nearer to a training row than the mean of others of the class is, mean over classes; below 0 it is farther",
    )
    if not control.low <= 0.5 <= control.high:
        reason = (f"no {AUC} is claimed: the class means of rows set apart, which know nothing of the model, lie nearer to one side with an AUC of "
                  f"{control.value:.3f} [{control.low:.3f}, {control.high:.3f}], so train and test rows differ in other ways")  # fmt: skip
        return [gain, control], [Skip(method=name, threat=threat.words(), reason=reason, status="not applicable")]
    note = f"{len(numbers)} classes; training rows of the class against rows that were not trained on, by their distance to what was rebuilt"
    return [finding(AUC, own, n, note=note), gain, control], []


def _drawn(seen: Mapping[str, Array], key: str, numbers: Array, rng: Rng) -> Interval:
    """Percentile interval of the mean area: classes are drawn with replacement where they are many, else rows of each class and side."""
    if len(numbers) >= MANY:
        areas = np.array([_of_class(seen, key, i) for i in numbers])
        return _percentiles(areas[rng.integers(len(areas), size=(DRAWS, len(areas)))].mean(1))
    values = np.zeros(DRAWS)
    for i in numbers:
        own = seen["which"] == i
        sides = [seen[key][own & side] for side in (seen["inside"], ~seen["inside"])]
        values += [nearer_share(*(rows[rng.integers(len(rows), size=len(rows))] for rows in sides)) for _ in range(DRAWS)]
    return _percentiles(values / len(numbers))


def _percentiles(drawn: Array) -> Interval:
    return Interval(*map(float, np.percentile(drawn, [2.5, 97.5])))


def _pictures(images: Array, space: Space) -> Array:
    """Images with their values brought to [0, 1]."""
    return np.clip((images - space.lower) / np.where(space.upper > space.lower, space.upper - space.lower, 1.0), 0.0, 1.0)
