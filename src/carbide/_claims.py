"""The verb prove on properties of tree models: what a plan lists under ``properties:``, a verdict for each, kept beside the run.

>>> import carbide
>>> space = carbide.Space.table(["income", "debt"])
>>> make_claim({"monotone": "debt", "direction": "rises"}, space=space).words()
'the score never falls when debt rises and nothing else changes'
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from carbide.evasion.claims import Claim, ClaimVerdict, Monotone, NeverFlips, decide_claim
from carbide.plan import number
from carbide.types import Array, InputError, PriceTable, Space, digest, rng_for

SECONDS = 60.0
KEYS = {"monotone": ("monotone", "direction", "seconds"), "never_flips": ("never_flips", "money", "prices", "about", "seconds")}
ABOUT = ("space", "rows")


def make_claim(entry: Any, *, space: Space, base: Path | None = None, prices: PriceTable | None = None, rows: Array | None = None) -> Claim:
    """The claim that a plan's entry makes; ``prices`` is used when it names none, ``rows`` where it is about rows.

    Raises:
        InputError: if it names no property, a key that the property does not have, or something wrong.
    """
    if not isinstance(entry, Mapping) or len(named := [key for key in KEYS if key in entry]) != 1:
        raise InputError(f"property {entry!r} must name one of {', '.join(KEYS)}, e.g. {{monotone: age, direction: falls}}")
    kind = named[0]
    for key in entry:
        if key not in KEYS[kind]:
            raise InputError(f"property {kind} has no key {key!r}; its keys are {', '.join(KEYS[kind])}")
    seconds_of(entry)
    if kind == "monotone":
        claim = Monotone(feature=str(entry["monotone"]), direction=str(entry.get("direction", "rises")))
        space.index(claim.feature)
        return claim
    return _never_flips(entry, space, base or Path.cwd(), prices, rows)


def _never_flips(entry: Mapping[str, Any], space: Space, base: Path, prices: PriceTable | None, rows: Array | None) -> NeverFlips:
    from carbide.space.prices import load_prices

    given = entry.get("prices")
    if given is not None:
        prices = load_prices(base / given if isinstance(given, str) else given, space)
    if prices is None:
        raise InputError("property never_flips needs a price table; add prices: prices.json")
    if "money" not in entry:
        raise InputError("property never_flips needs money: the most that a change may cost")
    about = entry.get("about", "space")
    if about not in ABOUT:
        raise InputError(f"about is {about!r}; choose {' or '.join(ABOUT)}: every row of the space, or the test rows of the data")
    names = entry["never_flips"]
    names = (names,) if isinstance(names, str) else tuple(map(str, names)) if isinstance(names, list | tuple) else ()
    for name in names:
        space.index(name)
    return NeverFlips(features=names, money=number(entry["money"], "money"), prices=prices, rows=rows if about == "rows" else None)


def seconds_of(entry: Any) -> float:
    """The seconds that may be spent on an entry."""
    seconds = number(entry.get("seconds", SECONDS), "seconds") if isinstance(entry, Mapping) else SECONDS
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds is {seconds:g}; give a number > 0")
    return seconds


def prove_claims(model: Any, claims: Sequence[Any], *, space: Space | None = None, rows: Any = None, threshold: float | None = None,
                 seconds: float = SECONDS, seed: int = 0) -> list[ClaimVerdict]:  # fmt: skip
    """Whether a tree model keeps its claims on every row there is.

    Args:
        model: a fitted tree classifier of two classes, or a model of Carbide.
        claims: ``Monotone``, ``NeverFlips``, or entries of a plan such as ``{"monotone": "age", "direction": "falls"}``.
        space: what rows there are; None = a model of Carbide's own.
        rows: known rows ``(n, d)``: they are tried first, and ``{"never_flips": ..., "about": "rows"}`` is about them.
        threshold: the score from which on a row is an alert; None = the model's own, 0.5 for a bare estimator.
        seconds: for each claim.
        seed: of the rows that are tried first.

    Raises:
        InputError: if a claim, the model or the space is wrong.
    """
    from carbide.models import wrap

    if not hasattr(model, "digest"):
        if space is None:
            raise InputError("space is not given; say what rows there are, e.g. space=carbide.load_data(...).train.space")
        model = wrap(model, space=space, classes=2)
    model = model if threshold is None else model.at(threshold)
    known = None if rows is None else np.asarray(rows, float)
    if known is not None and (known.ndim != 2 or known.shape[1] != len(model.space.names)):
        raise InputError(f"rows have shape {known.shape}, but the space has {len(model.space.names)} features; give (n, {len(model.space.names)})")
    asked = [c if isinstance(c, Monotone | NeverFlips) else make_claim(c, space=model.space, rows=known) for c in claims]
    return [decide_claim(claim, model, rng=rng_for(seed, "claim", i), rows=known, seconds=seconds) for i, claim in enumerate(asked)]


def folder_of(plan: Any, target: Path) -> Path:
    """Where a plan's verdicts go when nobody says: the folder of its run, the same one each time."""
    resolved = plan.model_dump(mode="json", exclude_defaults=True) | {"seed": plan.seed}
    return Path("runs") / f"{plan.title or target.stem}-{digest(resolved)[:8]}"


def prove_plan(plan: Any, base: Path, *, out: Path, trust: bool = False) -> tuple[list[ClaimVerdict], Space]:
    """The verdicts of a plan's properties and the space they speak of; they are written to ``properties.json`` in the run's folder.

    The model decides at the plan's operating point, by the validation negatives; without a model the recipe trains it as an audit does.

    Raises:
        InputError: as ``job_of`` and ``make_claim``.
    """
    from carbide.api import job_of
    from carbide.data.cases import CASES, builtin_prices
    from carbide.models.operating import calibrated
    from carbide.run import write_whole

    job = job_of(plan, base, title="properties", resolved={}, trust=trust)
    space = job.data.train.space
    if space.is_image:
        raise InputError("properties are about tables, and the data are images; use carbide prove NET PROPERTY for nets")
    prices = builtin_prices(plan.data.source) if plan.data.source in CASES else None
    claims = [make_claim(entry, space=space, base=base, prices=prices, rows=job.data.test.x) for entry in plan.properties]
    model = job.model
    if model is None:
        if job.recipe is None:
            raise InputError("neither a model nor a recipe is given; add model: (a file) or recipe: (how to train one)")
        model = job.recipe.fit(job.data.train, rng_for(plan.seed, "train"))
    model = calibrated(model, job.data.validation, job.point)
    found = [decide_claim(claim, model, rng=rng_for(plan.seed, "claim", i), rows=job.data.test.x, seconds=seconds_of(plan.properties[i]))
             for i, claim in enumerate(claims)]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    said = {"threshold": model.threshold, "seed": plan.seed, "properties": [as_dict(verdict, space) for verdict in found]}
    write_whole(out / "properties.json", (json.dumps(said, indent=1) + "\n").encode())
    return found, space


def as_dict(verdict: ClaimVerdict, space: Space) -> dict[str, Any]:
    """A verdict as plain values; rows by the names of their features."""
    rows = {name: None if value is None else dict(zip(space.names, value.tolist(), strict=True))
            for name, value in (("row", verdict.row), ("changed", verdict.changed))}  # fmt: skip
    ends = [v if math.isfinite(v) else None for v in (verdict.low, verdict.high)]
    return {"claim": verdict.claim.words(), "verdict": verdict.word, "how": verdict.how, "bracket": ends, **rows,
            "scores": None if verdict.scores is None else list(verdict.scores), "boxes": verdict.boxes, "note": verdict.note,
            "assumptions": list(verdict.assumptions)}  # fmt: skip


def words_of(verdict: ClaimVerdict, space: Space) -> list[str]:
    """A verdict in a few lines for a person."""
    note = f" ({verdict.note})" if verdict.note else ""
    lines = [f"{verdict.word}: {verdict.claim.words()}; by {verdict.how}, {verdict.boxes:,} boxes{note}"]
    if verdict.row is not None and verdict.changed is not None and verdict.scores is not None:
        moved = [f"{space.name(int(f))} {verdict.row[f]:.17g} -> {verdict.changed[f]:.17g}" for f in np.flatnonzero(verdict.row != verdict.changed)]
        price = f", for {verdict.claim.prices.currency}{verdict.high:.4g}" if isinstance(verdict.claim, NeverFlips) else ""
        lines.append(f"  {', '.join(moved)}: score {verdict.scores[0]:.6g} -> {verdict.scores[1]:.6g}{price}")
    elif verdict.word == "unknown":
        what = "no flip costs less than" if isinstance(verdict.claim, NeverFlips) else "the trees' sum falls at most by"
        lines.append(f"  {what} {verdict.low if isinstance(verdict.claim, NeverFlips) else verdict.high:.4g}")
    return lines
