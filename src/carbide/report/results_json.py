"""``results.json``: a run as plain JSON, byte-identical for the same inputs, seed and versions.

Floats carry 12 significant digits (the two rows that break a property all of theirs); "not a number" is ``null``, infinities are ``"inf"``
and ``"-inf"``; keys are sorted.
Arrays (evidence, certificates row by row, the data of figures) are left out; they lie in the run's ``evidence/``.

>>> number(1 / 3), number(float("nan")), number(float("-inf"))
(0.333333333333, None, '-inf')
"""

from __future__ import annotations

import functools
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from carbide.results import Phase, PropertyLine, Results, Timings
from carbide.run.store import write_whole
from carbide.types import Certificate, Figure, InputError, Section

FORMAT = 1
Sections = Mapping[str, Sequence[Section]]


def number(value: float) -> float | str | None:
    """A float as JSON may hold it: 12 significant digits, nan as None, infinities as words."""
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return float(f"{value:.12g}") + 0.0  # + 0.0 turns -0.0 into 0.0


def to_json(results: Results) -> dict[str, Any]:
    """The run as plain values, without its arrays; the schema is ``results_schema()``."""
    return {"format": FORMAT, **_plain(results)}


def from_json(document: Mapping[str, Any], sections: Sections | None = None) -> Results:
    """The run that ``to_json`` wrote; ``sections`` by phase name, as kept in ``evidence/``, replace the summaries.

    Without them the sections have no evidence and no figures, and certificates know only how many rows hold: ``holds``
    then has that many True in front, whatever the order was, and ``bound`` is the median everywhere.

    Raises:
        InputError: if the document is not a result of this format.
    """
    if document.get("format") != FORMAT:
        raise InputError(
            f"results: format is {document.get('format')!r}, but this Carbide reads format {FORMAT}; run the plan again with this version"
        )
    try:
        results: Results = _revive(Results, {k: v for k, v in document.items() if k != "format"})
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"results: the document breaks the schema ({type(error).__name__}: {error}); run the plan again to make it anew") from error
    if sections is None:
        return results
    return replace(results, phases=tuple(replace(p, sections=tuple(sections.get(p.name, p.sections))) for p in results.phases))


def plain(value: Any) -> Any:
    """One of the nouns of a run as it stands in the document."""
    return _plain(value)


def dumps(document: Any) -> bytes:
    """The bytes of a document: sorted keys, two spaces, a newline at the end."""
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_results(results: Results, path: Path) -> None:
    """Write a run's ``results.json`` whole.

    Raises:
        InputError: if the file cannot be written.
    """
    write_whole(path, dumps(to_json(results)))


def read_results(path: Path, *, sections: Sections | None = None) -> Results:
    """The results in a ``results.json`` (or in the run folder that holds one), with ``sections`` as in ``from_json``.

    Raises:
        InputError: if the file is not there or is not a result.
    """
    return from_json(_read_json(path / "results.json" if path.is_dir() else path), sections)


def write_timings(timings: Timings, path: Path) -> None:
    """Write ``timings.json``: everything about a run that is not byte-identical."""
    write_whole(path, dumps({"format": FORMAT, **_plain(timings)}))


def read_timings(path: Path) -> Timings:
    """The timings in a ``timings.json`` (or in the run folder that holds one); empty if there is none."""
    path = path / "timings.json" if path.is_dir() else path
    if not path.exists():
        return Timings()
    document = {k: v for k, v in _read_json(path).items() if k != "format"}
    try:
        return _revive(Timings, document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a file of timings ({type(error).__name__}: {error}); delete it and write the report again") from error


def results_schema() -> dict[str, Any]:
    """The published JSON schema (draft 2020-12) of ``results.json``."""
    return json.loads(resources.files("carbide.report").joinpath("results.schema.json").read_text("utf-8"))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(f"{path} does not exist; give the folder of a finished run")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} is not JSON ({error}); run the plan again to make it anew") from error
    if not isinstance(document, dict):
        raise InputError(f"{path} holds a {type(document).__name__} instead of an object; give the folder of a finished run")
    return document


# From values to JSON -----------------------------------------------------------------------------------------------


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return number(value)
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Certificate):
        return _certificate(value)
    if isinstance(value, Figure):
        return {**_fields(value, "series"), "series": [s.name for s in value.series]}
    if isinstance(value, Section):
        return {**_fields(value, "evidence", "noun"), "evidence": sorted(value.evidence)}
    if isinstance(value, Phase):
        return _fields(value, "answers")
    if isinstance(value, PropertyLine):  # a rounded row may lie on the other side of a split
        return {**_fields(value, "evidence"), **{side: {k: _exact(v) for k, v in getattr(value, side).items()} for side in ("row", "changed")}}
    if is_dataclass(value):
        return _fields(value)
    raise TypeError(f"results cannot hold a {type(value).__name__}")


def _exact(value: float) -> float | str | None:
    return float(value) + 0.0 if math.isfinite(value) else number(value)


def _fields(value: Any, *leave: str) -> dict[str, Any]:
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name not in leave}


def _certificate(certificate: Certificate) -> dict[str, Any]:
    known = certificate.bound[~np.isnan(certificate.bound)] if len(certificate.bound) else certificate.bound
    plain = {f.name: _plain(getattr(certificate, f.name)) for f in fields(certificate) if f.name not in ("holds", "bound")}
    return {**plain, "held": int(certificate.holds.sum()), "n": len(certificate.holds),
            "median_bound": number(float(np.median(known))) if len(known) else None}  # fmt: skip


# From JSON to values -----------------------------------------------------------------------------------------------


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _revive(hint: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if hint is float:
        return math.nan if value is None else float(value)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _revive(next(i for i in inner if i is not type(None)), value)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is not a list")
        return tuple(_revive(inner[0], item) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        return {key: _revive(inner[1], item) for key, item in value.items()}
    if hint is Certificate:
        return _read_certificate(value)
    if is_dataclass(hint):
        left_out = ("evidence", "figures") if hint is Section else ()
        hints = _hints(typing.cast(type, hint))
        return typing.cast(type, hint)(**{k: _revive(hints[k], v) for k, v in value.items() if k not in left_out})
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is not of type {hint.__name__}")
    return value


def _read_certificate(value: Mapping[str, Any]) -> Certificate:
    hints = _hints(Certificate)
    kept = {k: _revive(hints[k], v) for k, v in value.items() if k not in ("held", "n", "median_bound")}
    median = _revive(float, value["median_bound"])
    return Certificate(holds=np.arange(value["n"]) < value["held"], bound=np.full(value["n"], median), **kept)
