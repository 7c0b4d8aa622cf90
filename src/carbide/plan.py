"""The plan: one YAML file that says which model, data and threats, what may be given up and what must hold.

>>> plan = Plan.model_validate({"data": {"source": "patients"}, "recipe": {"estimator": "random_forest"}, "threats": [{"membership": {}}]})
>>> plan.seed
0
"""

from __future__ import annotations

import dataclasses
import math
import re
import types as _types
import typing
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from carbide import registry
from carbide._audit import Ask
from carbide._harden import Budget
from carbide.privacy.levels import check_feature
from carbide.report.gate import ALL, parse_gate
from carbide.space.patches import pixels_of
from carbide.types import (
    DISTORTIONS,
    AttributeInference,
    Backdoor,
    Corruption,
    Distortion,
    FeatureBudget,
    Flips,
    InputError,
    LpBall,
    Membership,
    OperatingPoint,
    Patch,
    PriceTable,
    PrivacyClaim,
    Queries,
    Reconstruction,
    SinglingOut,
    Space,
    Threat,
)  # fmt: skip

NORMS = {"linf": math.inf, "l2": 2.0, "l1": 1.0, "l0": 0.0}
ALIASES = {"membership": "privacy", "attribute": "privacy", "reconstruction": "privacy", "singling_out": "privacy"}
KINDS = {
    "ball": ("norm", "eps", "target"),
    "prices": ("money", "prices"),
    "patch": ("patch",),
    "distortion": (*DISTORTIONS, "jpeg"),
    "corruption": ("corruption", "kinds"),
}  # of changed inputs, and the keys that name them
THREAT_KEYS = {
    "evasion": tuple(key for keys in KINDS.values() for key in keys),
    "poisoning": ("flips", "backdoor", "target", "area", "features"),
    "privacy": ("folds", "epsilon", "delta", "mu", "pairs", "adjacency"),
    "extraction": ("queries", "answers"),
    "attribute": ("feature", "label", "bins"),
    "reconstruction": ("known",),
    "singling_out": ("weight",),
}  # of rooms, and of aliases that are threats of their own
PROPERTY_KEYS = {"monotone": ("monotone", "direction"), "never_flips": ("never_flips", "money", "prices", "about")}
PROPERTY_COMMON = ("name", "boxes", "seconds")
ABOUT = ("space", "rows")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataPlan(_Strict):
    """Where the rows come from and how they are read; ``source`` is a path or the name of a built-in case."""

    source: str = Field("", description="a file, a folder, or a built-in case: fraud, patients, images")
    train: str = Field("", description="file of the training rows, when train and test lie apart")
    test: str | None = Field(None, description="file of the test rows")
    label: str | int | None = Field(None, description="label column")
    positive: Any = Field(None, description="label value (or values) that count as class 1")
    group: str | None = Field(
        None, description="column whose groups never straddle a split, e.g. a patient's number; beside time, a group's later rows are left out"
    )
    time: str | None = Field(None, description="column by which rows are cut into past and future")
    space: str | None = Field(None, description="space file; inferred when left out")
    drop: list[str] = Field(default_factory=list, description="columns to leave out")
    missing: list[str] = Field(default_factory=list, description="cell texts that stand for missing")
    fill: str | float | None = Field(None, description="what missing numbers become: median, a number, or keep")
    rows: int | None = Field(None, gt=0, strict=True, description="use at most so many rows, drawn by the seed")
    split: tuple[float, float, float] = Field((0.6, 0.2, 0.2), description="shares of train, validation and test")
    positives: str = Field("", description="what rows of class 1 are called, in the plural, e.g. frauds; used in the report's words")
    options: dict[str, Any] = Field(default_factory=dict, description="further options of the reader")


class OperatingPlan(_Strict):
    """Where a binary model decides."""

    false_positive_rate: float = Field(gt=0, lt=1)


class HardenPlan(_Strict):
    """What the user will give up."""

    accuracy_loss: float = Field(0.02, ge=0, le=1, description="loss of clean accuracy (or recall at the operating point)")
    latency_factor: float | None = Field(None, ge=1, description="how much slower an answer may become")


class Plan(_Strict):
    """A whole plan; see ``carbide schema plan`` for the schema with every method's options."""

    title: str = ""
    model: str | dict[str, Any] | None = Field(None, description="the model under test; left out, the recipe trains it")
    data: DataPlan
    recipe: dict[str, Any] | None = Field(None, description="how the model is trained; needed to harden, to poison and for shadow models")
    threats: list[dict[str, Any]] = Field(default_factory=list)
    properties: list[dict[str, Any]] = Field(default_factory=list, description="what a tree model must do on every row")
    attack_rows: int = Field(
        1000, gt=0, strict=True, description="test rows that evasion attacks and certificates decide, at most; drawn by the seed"
    )
    operating_point: OperatingPlan | None = None
    harden: HardenPlan | None = None
    gate: dict[str, str | bool | list[str]] = Field(
        default_factory=dict,
        description="rules such as robust_recall: '>= 0.7'; strict: true compares interval ends; properties: all (or names) asks that they are proven",
    )
    seed: int = Field(0, ge=0, strict=True)

    @field_validator("data", mode="before")
    @classmethod
    def _source_alone(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    def budget(self) -> Budget:
        """What the user will give up."""
        spec = self.harden or HardenPlan()  # type: ignore[call-arg]
        return Budget(accuracy_loss=spec.accuracy_loss, latency_factor=spec.latency_factor)

    def point(self) -> OperatingPoint | None:
        """Where the model decides, None = at argmax."""
        return OperatingPoint(false_positive_rate=self.operating_point.false_positive_rate) if self.operating_point else None


def read_plan(source: Path | Mapping[str, Any]) -> tuple[Plan, Path]:
    """The checked plan and the folder against which its paths are read.

    Raises:
        InputError: if the file is not there, is no YAML mapping or names what a plan does not have.
    """
    if isinstance(source, Mapping):
        return _validate(dict(source), "plan"), Path.cwd()
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"plan {source} cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'}); give the path of a YAML file"
        ) from error
    try:
        raw = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        raise InputError(
            f"plan {source} is not valid YAML{f' at line {line + 1}' if line is not None else ''}; check its indentation and quotes"
        ) from error
    if not isinstance(raw, dict):
        raise InputError(f"plan {source} holds a {type(raw).__name__}, not a mapping; start with model:, data: and threats:")
    return _validate(raw, f"plan {source}"), source.resolve().parent


def _validate(raw: dict[Any, Any], name: str) -> Plan:
    try:
        plan = Plan.model_validate({str(k): v for k, v in raw.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "its top level"
        if first["type"] == "extra_forbidden":
            raise InputError(f"{name}: {where} is not a key of a plan; known keys there are {', '.join(_known_keys(first['loc']))}") from error
        value = "" if first["type"] == "missing" else f" is {first.get('input')!r}"
        raise InputError(f"{name}: {where}{value}: {first['msg'].lower()}; see: carbide schema plan") from error
    if not plan.threats and not plan.properties:
        raise InputError(f"{name}: threats is empty; name at least one, e.g. threats: [{{membership: {{}}}}], or properties to prove")
    if plan.data.source and plan.data.train:
        raise InputError(f"{name}: data names source {plan.data.source!r} and train {plan.data.train!r}, which say the same; keep one of them")
    for entry in plan.threats:
        _, own, _ = split_threat(entry)
        if "attribute" in entry and plan.data.label is not None and own.get("feature") == plan.data.label:
            raise InputError(f"{name}: attribute guesses {plan.data.label!r}, which is the label; name a feature, and say label: false for an attacker "
                             "who does not know people's labels")  # fmt: skip
    parse_gate(plan.gate, properties=property_names(plan.properties))
    return plan


def property_names(properties: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """What each property is called in reports and gates: its ``name``, or one made of what it says, numbered where that is taken.

    >>> property_names([{"monotone": "debt"}, {"never_flips": ["hour", "country"], "money": 5}, {"monotone": "debt", "name": "fair"}])
    ('debt_rises', 'hour_country_never_flips', 'fair')

    Raises:
        InputError: if a name is no text that a gate could hold, or stands twice.
    """
    given = [entry["name"] for entry in properties if entry.get("name") is not None]
    for name in given:
        if not isinstance(name, str) or not re.fullmatch(r"[^\s,][^,\n]*", name) or name == ALL:
            raise InputError(f"property name is {name!r}; give a short text without commas that is not {ALL}")
        if given.count(name) > 1:
            raise InputError(f"property name {name!r} stands twice; give each property a name of its own")
    found: list[str] = []
    for entry in properties:
        name = entry.get("name")
        if name is None:
            name = made = _property_name(entry)
            number = 1
            while name in (*found, *given):
                number += 1
                name = f"{made}_{number}"
        found.append(name)
    return tuple(found)


def _property_name(entry: Mapping[str, Any]) -> str:
    features = entry.get("never_flips")
    if features is not None:
        said = [*(features if isinstance(features, list | tuple) else [features]), "never_flips"]
    else:
        said = [entry.get("monotone", "property"), entry.get("direction", "rises")]
    return re.sub(r"\W+", "_", "_".join(map(str, said)))


def _known_keys(where: tuple[Any, ...]) -> list[str]:
    model: type[BaseModel] = Plan
    for part in where[:-1]:
        inner = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        options = [inner, *typing.get_args(inner)]
        model = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), model)
    return list(model.model_fields)


def split_threat(entry: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, dict[str, Any] | None]]:
    """A threat entry as (room, its own keys, methods by verb).

    Raises:
        InputError: if it does not name exactly one threat, or names keys that the threat does not have.
    """
    if not isinstance(entry, Mapping) or len(entry) != 1:
        raise InputError(f"threat {entry!r} must have exactly one key ({', '.join([*registry.ROOMS, *ALIASES])}), and audit, harden and prove go inside it, "
                         "e.g. membership: {audit: [lira]}")  # fmt: skip
    key, options = next(iter(entry.items()))
    room = ALIASES.get(str(key), str(key))
    if room not in registry.ROOMS:
        raise InputError(f"threat {key!r} is not known; choose {', '.join([*registry.ROOMS, *ALIASES])}")
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise InputError(f"threat {key} holds {options!r}; give a mapping, e.g. {key}: {{}}")
    own: dict[str, Any] = {}
    named: dict[str, dict[str, Any] | None] = {"audit": None, "harden": None, "prove": None}
    for name, value in options.items():
        if name in named:
            named[name] = _named_methods(room, name, value)
        elif name in _own_keys(str(key)):
            own[name] = value
        else:
            raise InputError(f"threat {key} has no key {name!r}; its keys are {', '.join([*_own_keys(str(key)), *named])}")
    return room, own, named


def _own_keys(key: str) -> tuple[str, ...]:
    """What may stand in a threat's entry beside methods."""
    return THREAT_KEYS.get(key) or THREAT_KEYS[ALIASES.get(key, key)]


def _named_methods(room: str, verb: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        value = [value]
    if isinstance(value, list):
        value = {str(name): {} for name in value}
    if not isinstance(value, Mapping):
        raise InputError(f"{room}: {verb} is {value!r}; give method names, or a mapping of names to options")
    found = {}
    for name, options in value.items():
        if not isinstance(options or {}, Mapping):
            raise InputError(f"{room}: options of {name} are {options!r}; give a mapping")
        registry.method(room, verb, str(name)).make(dict(options or {}))
        found[str(name)] = dict(options or {})
    return found


def number(value: Any, name: str) -> float:
    """A number written as a number or as a fraction like ``8/255``.

    Raises:
        InputError: if it is neither.
    """
    try:
        if isinstance(value, bool):
            raise TypeError("yes and no are no numbers")
        return float(Fraction(value)) if isinstance(value, str) else float(value)
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        raise InputError(f"{name} is {value!r}; give a number or a fraction like 8/255") from error


def make_ask(entry: Mapping[str, Any], *, space: Space, base: Path, prices: PriceTable | None) -> Ask:
    """The threat that a plan's entry describes; ``prices`` is the built-in case's table, used when the entry names none.

    Raises:
        InputError: if the entry is incomplete or wrong.
    """
    room, own, named = split_threat(entry)
    threat = _MAKERS.get(str(next(iter(entry))), _MAKERS[room])(own, space, base, prices)
    return Ask(threat=threat, methods=named["audit"], defend=named["harden"], certify=named["prove"])


def _evasion(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    kinds = [kind for kind, keys in KINDS.items() if any(key in own for key in keys)]
    if len(kinds) > 1:
        raise InputError(f"evasion names both {' and '.join(', '.join(k for k in KINDS[kind] if k in own) for kind in kinds)}; "
                         "name each kind of change in a threat of its own")  # fmt: skip
    if kinds and kinds[0] in _IMAGE_MAKERS:
        if not space.is_image:
            raise InputError(f"evasion names {', '.join(own)}, but inputs have the shape {space.shape}; that is for images (channels, height, width)")
        return _IMAGE_MAKERS[kinds[0]](own, space)
    if "money" in own:
        if "prices" in own:
            from carbide.space.prices import load_prices

            given = own["prices"]
            prices = load_prices(base / given if isinstance(given, str) else given, space)
        if prices is None:
            raise InputError("evasion with money needs a price table; add prices: prices.json")
        return FeatureBudget(money=number(own["money"], "money"), prices=prices)
    if "eps" not in own:
        raise InputError("evasion needs eps (with norm), money (with prices) or patch, e.g. evasion: {norm: linf, eps: 8/255}")
    norm = str(own.get("norm", "linf")).lower()
    if norm not in NORMS:
        raise InputError(f"norm is {own['norm']!r}; choose {', '.join(NORMS)}")
    eps = number(own["eps"], "eps")
    width = float((space.upper - space.lower).max())
    if NORMS[norm] == math.inf and eps >= width:
        raise InputError(f"eps is {eps:g}, as wide as the whole input range {width:g}; give eps in input units, e.g. 8/255 for images in [0, 1]")
    return LpBall(p=NORMS[norm], eps=eps, target=own.get("target"))


def _patch(own: dict[str, Any], space: Space) -> Patch:
    threat = Patch(area=number(own["patch"], "patch"))
    _, height, width = space.shape
    if pixels_of(threat, space) < 1:
        raise InputError(f"patch is {threat.area:g}, less than one pixel of a {height} x {width} image; give at least {1 / (height * width):.2g}")
    return threat


def _distortion(own: dict[str, Any], space: Space) -> Distortion:
    given = {name: number(value, name) for name, value in own.items()}
    if "jpeg" in given and given["jpeg"].is_integer():
        given["jpeg"] = int(given["jpeg"])
    return Distortion(**given)  # type: ignore[arg-type]


def _corruption(own: dict[str, Any], space: Space) -> Corruption:
    kinds = own.get("kinds") or []
    if not isinstance(kinds, str | list):
        raise InputError(f"kinds is {kinds!r}; give a list of corruptions, e.g. [gaussian_noise, pixelate]")
    return Corruption(severity=own.get("corruption", 3), kinds=(kinds,) if isinstance(kinds, str) else tuple(map(str, kinds)))


_IMAGE_MAKERS = {"patch": _patch, "distortion": _distortion, "corruption": _corruption}


def _poisoning(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    if ("flips" in own) == ("backdoor" in own):
        raise InputError("poisoning needs either flips or backdoor, e.g. poisoning: {flips: 0.01} or poisoning: {backdoor: 0.01, target: 0}")
    if "flips" in own:
        other = next((key for key in own if key != "flips"), None)
        if other is not None:
            raise InputError(f"poisoning names flips and {other}, which is of a backdoor; leave it out, or give backdoor: in place of flips:")
        return Flips(fraction=number(own["flips"], "flips"))
    extra: dict[str, Any] = {key: own[key] for key in ("target", "features") if key in own}
    if "area" in own:
        extra["area"] = number(own["area"], "area")
    threat = Backdoor(fraction=number(own["backdoor"], "backdoor"), **extra)
    if "features" in own and threat.features > math.prod(space.shape):
        raise InputError(f"features is {threat.features}, but a row has {math.prod(space.shape)}; give at most so many")
    return threat


def _privacy(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    if set(own) <= {"folds"}:
        folds = own.get("folds", 2)
        if isinstance(folds, bool) or not isinstance(folds, int):
            raise InputError(f"folds is {folds!r}; give a whole number, e.g. 2 (halves) or 10")
        return Membership(folds=folds)
    if "folds" in own:
        raise InputError(
            "folds is of membership, and epsilon of a claim of privacy; give two entries, membership: {folds: 10} and privacy: {epsilon: 4, delta: 1e-5}"
        )
    for key in ("epsilon", "delta"):
        if key not in own:
            raise InputError(
                f"privacy names {', '.join(own)} but no {key}; give both, e.g. privacy: {{epsilon: 4, delta: 1e-5}}, or membership: {{}}"
            )
    given: dict[str, Any] = {key: number(own[key], key) for key in ("epsilon", "delta", "mu") if own.get(key) is not None}
    return PrivacyClaim(**given, pairs=_pairs(own.get("pairs") or ()), adjacency=str(own.get("adjacency", "replace")))


def _pairs(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, list | tuple) or any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in value):
        raise InputError(f"pairs is {value!r}; give a list of [epsilon, delta], e.g. [[1.0, 0.01], [0.5, 0.1]]")
    return tuple((number(e, "epsilon"), number(d, "delta")) for e, d in value)


def _attribute(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    if "feature" not in own:
        raise InputError("attribute names no feature; name the one that is guessed, e.g. attribute: {feature: age}")
    threat = AttributeInference(**{**own, "feature": str(own["feature"])})
    check_feature(threat, space)
    return threat


def _reconstruction(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    return Reconstruction(known=str(own.get("known", "nothing")))


def _singling_out(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    return SinglingOut(weight=number(own.get("weight", 1.0), "weight"))


def _extraction(own: dict[str, Any], space: Space, base: Path, prices: PriceTable | None) -> Threat:
    queries = own.get("queries", 1000)
    if not isinstance(queries, int) or isinstance(queries, bool):
        raise InputError(f"queries is {queries!r}; give a whole number >= 1")
    return Queries(n=queries, answers=str(own.get("answers", "probabilities")))


_MAKERS = {"evasion": _evasion, "poisoning": _poisoning, "privacy": _privacy, "extraction": _extraction, "attribute": _attribute,
           "reconstruction": _reconstruction, "singling_out": _singling_out}  # fmt: skip


def plan_schema() -> dict[str, Any]:
    """The JSON schema of a plan, with every registered method and its options under each threat."""
    schema = Plan.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["properties"]["threats"]["items"] = {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": False,
                                                "properties": {key: _threat_schema(key) for key in [*registry.ROOMS, *ALIASES]}}  # fmt: skip
    schema["properties"]["properties"]["items"] = {"oneOf": [_property_schema(kind) for kind in PROPERTY_KEYS]}
    return schema


def _property_schema(kind: str) -> dict[str, Any]:
    known = {"monotone": {"type": "string"}, "direction": {"enum": ["rises", "falls"], "default": "rises"},
             "never_flips": {"type": ["string", "array"], "items": {"type": "string"}}, "money": {"type": ["number", "string"]},
             "prices": {"type": ["string", "object"]}, "about": {"enum": list(ABOUT), "default": ABOUT[0]}, "name": {"type": "string"},
             "boxes": {"type": "integer", "minimum": 1}, "seconds": {"type": ["number", "string"]}}  # fmt: skip
    required = [kind] if kind == "monotone" else [kind, "money"]
    return {"type": "object", "properties": {key: known[key] for key in (*PROPERTY_KEYS[kind], *PROPERTY_COMMON)}, "required": required,
            "additionalProperties": False}  # fmt: skip


def _threat_schema(key: str) -> dict[str, Any]:
    room = ALIASES.get(key, key)
    verbs = {verb: {"type": ["object", "array", "string"], "properties": {e.name: _options_schema(e) for e in registry.methods(room=room, verb=verb)}}
             for verb in ("audit", "harden", "prove")}  # fmt: skip
    return {"type": ["object", "null"], "properties": {**{name: {} for name in _own_keys(key)}, **verbs}, "additionalProperties": False}


def _options_schema(entry: registry.Entry) -> dict[str, Any]:
    if entry.cls is None:
        return {"type": ["object", "null"], "description": entry.summary}
    hints = typing.get_type_hints(entry.cls)
    options = {}
    for f in dataclasses.fields(entry.cls):  # type: ignore[arg-type]
        kind = _json_type(hints.get(f.name))
        default = {} if f.default is dataclasses.MISSING or not isinstance(f.default, int | float | str | bool | None) else {"default": f.default}
        options[f.name] = kind | default
    return {"type": ["object", "null"], "description": entry.summary, "properties": options, "additionalProperties": False}


def _json_type(hint: Any) -> dict[str, Any]:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    if hint in names:
        return {"type": names[hint]}
    if typing.get_origin(hint) in (typing.Union, _types.UnionType):
        found = [names[a] for a in typing.get_args(hint) if a in names]
        return {"type": found} if found else {}
    return {"type": "array"} if typing.get_origin(hint) in (tuple, list) else {}
