"""Space files: JSON that a person can read and correct.

A table's file lists its features in the order of the columns; only ``name`` is required::

    {"features": [{"name": "amount", "kind": "real", "lower": 0, "upper": 5000, "mutable": true},
                  {"name": "visits", "kind": "integer", "lower": 0, "upper": 30, "step": 1},
                  {"name": "country", "kind": "categorical", "categories": ["DE", "FR", "(other)"]},
                  {"name": "card_yes", "kind": "one-hot"}, {"name": "card_no", "kind": "one-hot"}],
     "groups": [["card_yes", "card_no"]],
     "relations": [{"linear": {"min": 1, "avg": -1}, "upper": 0},
                   {"target": "avg", "numerator": "total", "denominator": "visits"},
                   {"target": "total", "sum": {"fees": 1, "goods": 1}},
                   {"if": {"new_device": {"equals": 1}}, "then": {"device_age": {"at_most": 0}}}]}

Kinds are ``real`` (the default), ``integer``, ``categorical`` (codes 0 .. k - 1 of its categories; a category ``(other)`` takes
texts that are not listed) and ``one-hot`` (0 or 1, and each belongs to one group). A bound that is left out or null is no
bound; ``step`` 0 means continuous; ``missing`` true: a changed row may lack the value. The first relation says ``1 * min - 1 * avg <= 0``, the
second ``avg = total / visits``, the third ``total = fees + goods``; both follow when their parts change. The last holds device_age at 0 wherever
new_device is 1; either side takes ``at_least``, ``at_most`` or ``equals``. The keys of a price table (``carbide.space.prices``) may stand in the file too.
An image's file says ``{"image": [channels, height, width], "lower": 0, "upper": 1}``; ``lower``, ``upper``, ``step`` and ``mutable``
may also be nested lists of that shape.

>>> space_of({"features": [{"name": "age", "kind": "integer", "lower": 0, "upper": 120}]}).upper.tolist()
[120.0]
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carbide.run import write_named
from carbide.types import Array, Implication, InputError, Kind, Linear, Ratio, Relation, Space, Sum

KINDS = {"real": Kind.REAL, "integer": Kind.INTEGER, "categorical": Kind.CATEGORICAL, "one-hot": Kind.ONE_HOT}
NAMES = {kind: name for name, kind in KINDS.items()}
FEATURE_KEYS = ("name", "kind", "lower", "upper", "step", "mutable", "categories", "missing")
TABLE_KEYS = ("features", "groups", "relations")
SIDE_KEYS = ("at_least", "at_most", "equals")
IMAGE_KEYS = ("image", "lower", "upper", "step", "mutable")
PIXELS = 50_000_000


def load_space(path: str | Path | Mapping[str, Any]) -> Space:
    """The space of a JSON file (or of a mapping of the same form).

    Raises:
        InputError: if the file is missing, is no JSON, or says something impossible.
    """
    if isinstance(path, Mapping):
        return space_of(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(
            f"space file {path} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'}); give the path of a JSON file"
        ) from error
    try:
        raw = json.loads(text, object_pairs_hook=_no_repeats)
    except InputError as error:
        raise InputError(f"space file {path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"space file {path} is not valid JSON ({error}); check its commas, quotes and brackets") from error
    if not isinstance(raw, dict):
        raise InputError(f"space file {path} holds a {type(raw).__name__}; give an object with features, or with image")
    return space_of(raw, name=f"space file {path}")


def save_space(space: Space, path: str | Path) -> None:
    """Write a space as JSON that ``load_space`` reads back as the same space.

    Raises:
        InputError: if the file cannot be written.
    """
    raw = image_json(space) if space.is_image else table_json(space)
    lines = json.dumps(raw, indent=1, allow_nan=False, ensure_ascii=False)
    write_named(Path(path), (lines + "\n").encode())


def space_of(raw: Mapping[str, Any], *, name: str = "space") -> Space:
    """The space that a mapping describes; ``name`` begins each error.

    Raises:
        InputError: if it says something unknown or impossible.
    """
    try:
        if "image" in raw:
            return _image(raw)
        return _table(raw)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise InputError(f"key {key!r} occurs twice in one object; keep one")
        found[key] = value
    return found


def _known(raw: Mapping[str, Any], keys: tuple[str, ...], where: str) -> None:
    for key in raw:
        if key not in keys:
            raise InputError(f"{where} has no key {key!r}; its keys are {', '.join(keys)}")


def _number(value: Any, where: str, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where} is {value!r}; give a number, or null for no bound")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where} is {value!r}; give a finite number, or null for no bound")
    return number


def _table(raw: Mapping[str, Any]) -> Space:
    from carbide.space.prices import KEYS, load_prices

    priced = {key: raw[key] for key in KEYS if key in raw}
    _known({key: value for key, value in raw.items() if key not in priced}, TABLE_KEYS, "the file")
    features = raw.get("features")
    if not isinstance(features, list) or not features:
        raise InputError("it lists no features; add features: [{name: ...}, ...] in the order of the columns")
    parsed = [_feature(f, i) for i, f in enumerate(features)]
    names = [p["name"] for p in parsed]
    repeated = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if repeated is not None:
        raise InputError(f"feature {repeated!r} occurs twice; give each feature its own name")
    groups = _groups(raw.get("groups", []), names, parsed)
    numbers: dict[str, Any] = {key: np.array([p[key] for p in parsed], float) for key in ("lower", "upper", "step")}
    space = Space(shape=(len(names),), names=tuple(names), groups=groups, categories={p["name"]: p["categories"] for p in parsed if p["categories"]},
                  kind=np.array([p["kind"] for p in parsed], np.int8), mutable=np.array([p["mutable"] for p in parsed], bool),
                  **numbers,
                  missing=np.array([p["missing"] for p in parsed], bool) if any(p["missing"] for p in parsed) else None,
                  relations=_relations(raw.get("relations", []), names))  # fmt: skip
    for number, relation in enumerate(space.relations):
        _possible(relation, space, number)
    if len(space.relations) > 1:
        from carbide.space.feasible import contradiction

        if clash := contradiction(space, space.relations):
            raise InputError(
                f"relations {', '.join(map(str, clash))} contradict each other: no row within the bounds keeps them all; correct one of them"
            )
    if priced:
        load_prices(priced, space)  # the file says prices too: what is wrong with them is said now
    return space


def _feature(raw: Any, number: int) -> dict[str, Any]:
    where = f"feature {number}"
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str) or not raw["name"].strip():
        raise InputError(f'{where} is {raw!r}; give an object with a name, e.g. {{"name": "amount"}}')
    where = f"feature {raw['name']!r}"
    _known(raw, FEATURE_KEYS, where)
    word = raw.get("kind", "categorical" if "categories" in raw else "real")
    if word not in KINDS:
        raise InputError(f"{where}: kind is {word!r}; choose {', '.join(KINDS)}")
    kind = KINDS[word]
    categories = _categories(raw, kind, where)
    low, high = {Kind.ONE_HOT: (0.0, 1.0), Kind.CATEGORICAL: (0.0, len(categories) - 1.0 if categories else math.inf)}.get(
        kind, (-math.inf, math.inf)
    )
    lower, upper = _number(raw.get("lower"), f"{where}: lower", low), _number(raw.get("upper"), f"{where}: upper", high)
    step = _number(raw.get("step"), f"{where}: step", 0.0 if kind == Kind.REAL else 1.0)
    if lower > upper:
        raise InputError(f"{where}: lower is {lower:g}, above upper {upper:g}; swap them")
    if lower < low or upper > high:
        raise InputError(f"{where}: bounds [{lower:g}, {upper:g}] leave what a {word} feature can be, [{low:g}, {high:g}]; correct them")
    _steps(kind, lower, upper, step, where)
    mutable = raw.get("mutable", True)
    if not isinstance(mutable, bool):
        raise InputError(f"{where}: mutable is {mutable!r}; write true or false")
    missing = raw.get("missing", False)
    if not isinstance(missing, bool):
        raise InputError(f"{where}: missing is {missing!r}; write true if a changed row may lack the value, else false")
    if missing and kind == Kind.ONE_HOT:
        raise InputError(f"{where}: missing is true, but a one-hot group has exactly one 1; leave it out")
    return {"name": raw["name"].strip(), "kind": kind, "lower": lower, "upper": upper, "step": step, "mutable": mutable, "categories": categories,
            "missing": missing}  # fmt: skip


def _steps(kind: Kind, lower: float, upper: float, step: float, where: str) -> None:
    if step < 0:
        raise InputError(f"{where}: step is {step:g}; give 0 for continuous values, or a step above 0")
    if kind != Kind.REAL and (step == 0 or step != round(step)):
        raise InputError(f"{where}: step is {step:g}, but its values are whole numbers; give a whole step, e.g. 1")
    if kind != Kind.REAL and any(math.isfinite(b) and b != round(b) for b in (lower, upper)):
        raise InputError(f"{where}: bounds [{lower:g}, {upper:g}] are not whole, but its values are; round them")
    if kind == Kind.REAL and step > 0 and not math.isfinite(lower):
        raise InputError(f"{where}: values go in steps of {step:g} from lower, but lower is not given; add lower")


def _categories(raw: Mapping[str, Any], kind: Kind, where: str) -> tuple[str, ...]:
    listed = raw.get("categories")
    if listed is None:
        return ()
    if kind != Kind.CATEGORICAL:
        raise InputError(f"{where} lists categories, but its kind is {raw.get('kind')!r}; make it categorical")
    if not isinstance(listed, list) or len(listed) < 1 or not all(isinstance(c, str) for c in listed) or len(set(listed)) != len(listed):
        raise InputError(f"{where}: categories are {str(listed)[:80]}; give a list of different texts")
    return tuple(listed)


def _column(name: Any, names: list[str], where: str) -> int:
    if isinstance(name, str) and name in names:
        return names.index(name)
    near = difflib.get_close_matches(str(name), names, n=1)
    raise InputError(
        f"{where} names {name!r}, which is not a feature" + (f"; did you mean {near[0]!r}?" if near else f"; features are {', '.join(names[:12])}")
    )


def _groups(raw: Any, names: list[str], parsed: list[dict[str, Any]]) -> tuple[tuple[int, ...], ...]:
    if not isinstance(raw, list) or not all(isinstance(g, list) for g in raw):
        raise InputError(f"groups is {str(raw)[:80]}; give a list of lists of feature names")
    groups = tuple(tuple(_column(name, names, f"group {i}") for name in group) for i, group in enumerate(raw))
    seen: dict[int, int] = {}
    for i, group in enumerate(groups):
        if len(group) < 2:
            raise InputError(f"group {i} has {len(group)} feature(s); a one-hot group has at least two")
        for j in group:
            if j in seen:
                raise InputError(f"feature {names[j]!r} is twice in groups ({seen[j]} and {i}); a feature belongs to one group")
            if parsed[j]["kind"] != Kind.ONE_HOT:
                raise InputError(f"group {i} names {names[j]!r}, whose kind is {NAMES[parsed[j]['kind']]!r}; make it one-hot")
            seen[j] = i
    loose = next((p["name"] for j, p in enumerate(parsed) if p["kind"] == Kind.ONE_HOT and j not in seen), None)
    if loose is not None:
        raise InputError(f"feature {loose!r} is one-hot, but no group names it; add it to a group, or make it an integer from 0 to 1")
    return groups


def _relations(raw: Any, names: list[str]) -> tuple[Relation, ...]:
    if not isinstance(raw, list):
        raise InputError(f"relations is {str(raw)[:80]}; give a list")
    return tuple(_relation(r, names, f"relation {i}") for i, r in enumerate(raw))


def _relation(raw: Any, names: list[str], where: str) -> Relation:
    if isinstance(raw, Mapping) and "linear" in raw:
        _known(raw, ("linear", "upper"), where)
        if not isinstance(raw["linear"], Mapping) or not raw["linear"] or "upper" not in raw or raw["upper"] is None:
            raise InputError(f"{where} is {str(dict(raw))[:120]}; give linear: {{feature: coefficient}} and upper: a number")
        columns, coefficients = _terms(raw["linear"], names, where)
        return Linear(features=columns, coefficients=coefficients, upper=_number(raw["upper"], f"{where}: upper", 0.0))
    if isinstance(raw, Mapping) and {"target", "numerator", "denominator"} == set(raw):
        found = Ratio(**{key: _column(raw[key], names, where) for key in ("target", "numerator", "denominator")})
        if len({found.target, found.numerator, found.denominator}) < 3:
            raise InputError(f"{where} uses one feature twice; a ratio has three different ones")
        return found
    if isinstance(raw, Mapping) and {"target", "sum"} == set(raw):
        columns, coefficients = _terms(raw["sum"], names, where)
        target = _column(raw["target"], names, where)
        if target in columns:
            raise InputError(f"{where}: {names[target]!r} is a part of its own sum; give it parts of their own")
        return Sum(target=target, features=columns, coefficients=coefficients)
    if isinstance(raw, Mapping) and {"if", "then"} == set(raw):
        (cause, *when), (effect, *then) = (_side(raw[key], names, f"{where}: {key}") for key in ("if", "then"))
        if cause == effect:
            raise InputError(f"{where} names {names[cause]!r} on both sides; give its bounds to the feature, or name two features")
        return Implication(cause=cause, effect=effect, at_least=when[0], at_most=when[1], lower=then[0], upper=then[1])
    raise InputError(
        f"{where} is {str(raw)[:120]}; give {{linear: ..., upper: ...}}, {{target: ..., numerator: ..., denominator: ...}}, {{target: ..., sum: ...}} "
        "or {if: ..., then: ...}"
    )


def _terms(terms: Any, names: list[str], where: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Columns and coefficients of {feature: coefficient}."""
    if not isinstance(terms, Mapping) or not terms:
        raise InputError(f"{where}: its terms are {str(terms)[:80]}; give {{feature: coefficient}}")
    columns = tuple(_column(name, names, where) for name in terms)
    coefficients = tuple(_number(c, f"{where}: coefficient of {name}", math.nan) for name, c in terms.items())
    if any(math.isnan(c) for c in coefficients):
        raise InputError(f"{where}: a coefficient is null; give a number")
    return columns, coefficients


def _side(raw: Any, names: list[str], where: str) -> tuple[int, float, float]:
    """One side of an implication: the column and the least and largest value."""
    if not isinstance(raw, Mapping) or len(raw) != 1 or not all(isinstance(side, Mapping) and side for side in raw.values()):
        raise InputError(f'{where} is {str(raw)[:80]}; name one feature, e.g. {{"new_device": {{"equals": 1}}}}')
    ((name, said),) = raw.items()
    _known(said, SIDE_KEYS, where)
    column, ends = _column(name, names, where), {key: _number(value, f"{where}: {key}", math.nan) for key, value in said.items()}
    if any(math.isnan(end) for end in ends.values()):
        raise InputError(f"{where}: a bound of {name} is null; give a number, or leave the key out")
    if "equals" in ends:
        if len(ends) > 1:
            raise InputError(f"{where}: {name} has equals and another bound; keep one")
        return column, ends["equals"], ends["equals"]
    low, high = ends.get("at_least", -math.inf), ends.get("at_most", math.inf)
    if low > high:
        raise InputError(f"{where}: {name} is at_least {low:g} and at_most {high:g}, which nothing is; swap them")
    return column, low, high


def _possible(relation: Relation, space: Space, number: int) -> None:
    """Refuse a linear relation or an implication that no row within the bounds can obey."""
    if isinstance(relation, Implication):
        always = relation.at_least <= space.lower[relation.cause] and space.upper[relation.cause] <= relation.at_most
        if always and (relation.lower > space.upper[relation.effect] or relation.upper < space.lower[relation.effect]):
            raise InputError(f"relation {number} cannot hold: within its bounds {space.name(relation.cause)} always asks that "
                             f"{space.name(relation.effect)} lie outside its own; correct one of them")  # fmt: skip
    if not isinstance(relation, Linear):
        return
    least = 0.0
    for j, c in zip(relation.features, relation.coefficients, strict=True):
        if c:
            least += c * float(space.lower[j] if c > 0 else space.upper[j])
    if least > relation.upper + 1e-9 * max(1.0, abs(relation.upper)):
        raise InputError(
            f"relation {number} cannot hold: within the bounds its left side is at least {least:g}, above {relation.upper:g}; correct one of them"
        )


def _image(raw: Mapping[str, Any]) -> Space:
    _known(raw, IMAGE_KEYS, "an image's file")
    shape = raw["image"]
    if not isinstance(shape, list) or len(shape) != 3 or not all(isinstance(s, int) and not isinstance(s, bool) and s > 0 for s in shape) or \
            math.prod(shape) > PIXELS:  # fmt: skip
        raise InputError(f"image is {str(shape)[:80]}; give [channels, height, width]")
    size = tuple(shape)
    lower, upper, step = (_filled(raw.get(key, default), size, key) for key, default in (("lower", 0.0), ("upper", 1.0), ("step", 0.0)))
    mutable = raw.get("mutable", True)
    if not isinstance(mutable, bool | list):
        raise InputError(f"mutable is {mutable!r}; write true or false, or a nested list of them")
    if (step < 0).any():
        raise InputError(f"step is {step.min():g}; give 0 for continuous values, or a step above 0")
    return Space(
        shape=size, lower=lower, upper=upper, step=step, mutable=_filled(mutable, size, "mutable").astype(bool), kind=np.zeros(size, np.int8)
    )


def _filled(value: Any, shape: tuple[int, ...], name: str) -> Array:
    try:
        array = np.asarray(value, np.float64)
        full = np.broadcast_to(array, shape) if array.ndim == 0 else array
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{name} holds what is no number; give one number, or a nested list of shape {list(shape)}") from error
    if full.shape != shape or not np.isfinite(full).all():
        raise InputError(
            f"{name} has shape {list(array.shape)} or values that are not finite; give one number, or a nested list of shape {list(shape)}"
        )
    return full.copy()


def table_json(space: Space) -> dict[str, Any]:
    """The plain values of a table's space file."""
    features = []
    for j in range(space.shape[0]):
        kind = Kind(int(space.kind[j]))
        one: dict[str, Any] = {"name": space.name(j), "kind": NAMES[kind], "lower": _plain(space.lower[j]), "upper": _plain(space.upper[j])}
        if space.step[j] != (0.0 if kind == Kind.REAL else 1.0):
            one["step"] = _plain(space.step[j])
        one["mutable"] = bool(space.mutable[j])
        if space.name(j) in space.categories:
            one["categories"] = list(space.categories[space.name(j)])
        if space.missing is not None and space.missing[j]:
            one["missing"] = True
        features.append(one)
    raw: dict[str, Any] = {"features": features}
    if space.groups:
        raw["groups"] = [[space.name(j) for j in group] for group in space.groups]
    if space.relations:
        raw["relations"] = [_relation_json(relation, space) for relation in space.relations]
    return raw


def _relation_json(relation: Relation, space: Space) -> dict[str, Any]:
    if isinstance(relation, Ratio):
        return {"target": space.name(relation.target), "numerator": space.name(relation.numerator), "denominator": space.name(relation.denominator)}
    if isinstance(relation, Implication):
        when, then = _side_json(relation.at_least, relation.at_most), _side_json(relation.lower, relation.upper)
        return {"if": {space.name(relation.cause): when}, "then": {space.name(relation.effect): then}}
    terms = {space.name(j): c for j, c in zip(relation.features, relation.coefficients, strict=True)}
    return {"target": space.name(relation.target), "sum": terms} if isinstance(relation, Sum) else {"linear": terms, "upper": relation.upper}


def _side_json(low: float, high: float) -> dict[str, Any]:
    if low == high:
        return {"equals": _plain(low)}
    return {key: _plain(end) for key, end in (("at_least", low), ("at_most", high)) if math.isfinite(end)}


def _plain(value: float) -> float | int | None:
    if not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else float(value)


def image_json(space: Space) -> dict[str, Any]:
    """The plain values of an image's space file; arrays of one value are written as that value."""
    raw: dict[str, Any] = {"image": list(space.shape)}
    for key in ("lower", "upper", "step", "mutable"):
        array = getattr(space, key)
        raw[key] = array.ravel()[0].item() if (array == array.ravel()[0]).all() else array.tolist()
    return raw
