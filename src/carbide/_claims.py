"""Properties of tree models: what a plan lists under ``properties:``, a verdict for each and each model of the run, checked again from the evidence.

>>> import carbide
>>> space = carbide.Space.table(["income", "debt"])
>>> make_claim({"monotone": "debt", "direction": "rises"}, space=space).words()
'the score never falls when debt rises and nothing else changes'
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carbide.evasion.claims import Claim, ClaimVerdict, Monotone, NeverFlips, decide_claim, moves_of, shows
from carbide.plan import ABOUT, PROPERTY_COMMON, PROPERTY_KEYS, number, property_names
from carbide.results import BROKEN, NOT_APPLICABLE, PropertyLine, worth
from carbide.run import current, remember
from carbide.types import Array, InputError, PriceTable, Space, rng_for

SECONDS = 60.0
BOXES, LONGEST = 200_000, 600.0  # of a property of a plan, where it names none: boxes repeat, the clock is there for huge models


@dataclass(frozen=True, kw_only=True, eq=False)
class Stated:
    """A property of a run: its name, its claim, and how many boxes and seconds are spent on it for each model."""

    name: str
    claim: Claim
    boxes: int = BOXES
    seconds: float = LONGEST


def make_claim(entry: Any, *, space: Space, base: Path | None = None, prices: PriceTable | None = None, rows: Array | None = None) -> Claim:
    """The claim that a plan's entry makes; ``prices`` is used when it names none, ``rows`` where it is about rows.

    Raises:
        InputError: if it names no property, a key that the property does not have, or something wrong.
    """
    if not isinstance(entry, Mapping) or len(named := [key for key in PROPERTY_KEYS if key in entry]) != 1:
        raise InputError(f"property {entry!r} must name one of {', '.join(PROPERTY_KEYS)}, e.g. {{monotone: age, direction: falls}}")
    kind = named[0]
    for key in entry:
        if key not in (*PROPERTY_KEYS[kind], *PROPERTY_COMMON):
            raise InputError(f"property {kind} has no key {key!r}; its keys are {', '.join((*PROPERTY_KEYS[kind], *PROPERTY_COMMON))}")
    seconds_of(entry)
    boxes_of(entry)
    if kind == "monotone":
        claim: Claim = Monotone(feature=str(entry["monotone"]), direction=str(entry.get("direction", "rises")))
    else:
        claim = _never_flips(entry, space, base or Path.cwd(), prices, rows)
    moves_of(claim, space)
    return claim


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


def seconds_of(entry: Mapping[str, Any]) -> float:
    """The seconds that may be spent on an entry."""
    seconds = number(entry.get("seconds", LONGEST), "seconds")
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds is {seconds:g}; give a number > 0")
    return seconds


def boxes_of(entry: Mapping[str, Any]) -> int:
    """The boxes that may be looked at for an entry."""
    boxes = entry.get("boxes", BOXES)
    if isinstance(boxes, bool) or not isinstance(boxes, int) or boxes < 1:
        raise InputError(f"boxes is {boxes!r}; give a whole number >= 1")
    return boxes


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


def stated(properties: Sequence[Any], *, space: Space, base: Path | None = None, prices: PriceTable | None = None,
           rows: Array | None = None) -> tuple[Stated, ...]:  # fmt: skip
    """The properties of a run from a plan's entries or from claims; arguments as in ``make_claim``.

    Raises:
        InputError: if the data are images, or as ``make_claim`` and ``property_names``.
    """
    if not properties:
        return ()
    if space.is_image:
        raise InputError("properties are about tables, and the data are images; use carbide prove NET PROPERTY for nets")
    entries = [_entry(p) if isinstance(p, Monotone | NeverFlips) else p for p in properties]
    claims = [p if isinstance(p, Monotone | NeverFlips) else make_claim(p, space=space, base=base, prices=prices, rows=rows) for p in properties]
    for claim in claims:
        moves_of(claim, space)
    return tuple(Stated(name=name, claim=claim, boxes=boxes_of(entry), seconds=seconds_of(entry))
                 for name, claim, entry in zip(property_names(entries), claims, entries, strict=True))  # fmt: skip


def _entry(claim: Claim) -> dict[str, Any]:
    if isinstance(claim, Monotone):
        return {"monotone": claim.feature, "direction": claim.direction}
    return {"never_flips": list(claim.features)}


def decide_stated(asked: Sequence[Stated], model: Any, *, rows: Array, seed: int, must: bool = False) -> tuple[PropertyLine, ...]:
    """What is known of each property for one model; every search is a step of the run. What a model cannot be asked is ``not applicable``.

    ``rows`` ``(n, d)`` are known ones, which are tried first.

    Raises:
        InputError: with ``must``, if a property is not applicable.
    """
    found = []
    for i, one in enumerate(asked):
        current().progress.say(f"property {one.name}: {one.claim.words()}")
        key = (model, one.claim, rows, seed, i, one.boxes, one.seconds)
        known = remember(f"property {one.name}", key, lambda i=i, one=one: _decided(one, model, rows, rng_for(seed, "claim", i)))
        line = _line(one, model.space, known, _evidence(one.claim, model, known))
        if must and line.verdict == NOT_APPLICABLE:
            raise InputError(line.note)
        found.append(line)
    return tuple(found)


def _decided(one: Stated, model: Any, rows: Array, rng: Any) -> dict[str, Any]:
    """A verdict as values that the store keeps."""
    try:
        v = decide_claim(one.claim, model, rng=rng, rows=rows, seconds=one.seconds, boxes=one.boxes)
    except InputError as error:
        return {"verdict": NOT_APPLICABLE, "note": str(error)}
    return {"verdict": v.word, "how": v.how, "low": v.low, "high": v.high, "row": v.row, "changed": v.changed, "scores": v.scores, "boxes": v.boxes,
            "note": v.note, "assumptions": v.assumptions}  # fmt: skip


def _line(one: Stated, space: Space, known: Mapping[str, Any], evidence: Mapping[str, Any]) -> PropertyLine:
    kind = "monotone" if isinstance(one.claim, Monotone) else "never_flips"
    currency = one.claim.prices.currency if isinstance(one.claim, NeverFlips) else ""
    said = {key: known[key] for key in ("how", "low", "high", "boxes", "assumptions") if key in known}
    if known.get("row") is not None:
        said |= {side: dict(zip(space.names, known[side].tolist(), strict=True)) for side in ("row", "changed")}
        said |= dict(zip(("before", "after"), known["scores"], strict=True))
    return PropertyLine(name=one.name, claim=one.claim.words(), kind=kind, currency=currency, verdict=known["verdict"], note=known["note"],
                        evidence=evidence, **said)  # fmt: skip


def _evidence(claim: Claim, model: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is needed to check a verdict again: the claim, the alerts that it is about where those are given rows, and the two rows."""
    if isinstance(claim, Monotone):
        said: dict[str, Any] = {"feature": claim.feature, "direction": claim.direction}
    else:
        said = {"features": list(claim.features), "money": float(claim.money), "prices": claim.prices, "rows": None}
        if claim.rows is not None and known["verdict"] != NOT_APPLICABLE:
            scorer = getattr(model, "scorer", model)
            said["rows"] = claim.rows[scorer.predict(claim.rows)[:, 1] >= scorer.threshold]
    return {**said, "verdict": known["verdict"], "row": known.get("row"), "changed": known.get("changed"), "scores": known.get("scores")}


def check_again(line: PropertyLine, evidence: Mapping[str, Any], model: Any) -> list[tuple[str, float, float]]:
    """What is reported of a property and what its evidence says: 1 = proven, 0 = broken, nan = nobody knows; for two rows their scores as well.

    With a ``model`` the rows are scored again, and a pair that does not break the claim is nan.
    """
    name, found = f"property {line.name}", worth(str(evidence["verdict"]))
    if evidence["verdict"] != BROKEN:
        return [(f"{name} (1 = proven, 0 = broken)", worth(line.verdict), found)]
    row, changed, scores = evidence["row"], evidence["changed"], evidence["scores"]
    if model is not None:
        scores = getattr(model, "scorer", model).predict(np.stack([row, changed]))[:, 1].tolist()
        found = 0.0 if shows(_claim_of(evidence), model, row, changed) else math.nan
    return [(f"{name} (1 = proven, 0 = broken)", worth(line.verdict), found),
            (f"{name}, score of its first row", line.before, float(scores[0])), (f"{name}, score of its second row", line.after, float(scores[1]))]  # fmt: skip


def _claim_of(evidence: Mapping[str, Any]) -> Claim:
    if "feature" in evidence:
        return Monotone(feature=evidence["feature"], direction=evidence["direction"])
    return NeverFlips(features=tuple(evidence["features"]), money=evidence["money"], prices=evidence["prices"], rows=evidence["rows"])
