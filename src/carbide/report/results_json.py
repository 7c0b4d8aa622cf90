"""``results.json``: a run as plain JSON, byte-identical for the same inputs, seed and versions.

Floats carry 12 significant digits; "not a number" is ``null``, infinities are ``"inf"`` and ``"-inf"``; keys are sorted.
Arrays (evidence, certificates row by row, the data of figures) lie beside it in ``evidence/arrays.npz``.

>>> number(1 / 3), number(float("nan")), number(float("-inf"))
(0.333333333333, None, '-inf')
"""

from __future__ import annotations

import functools
import io
import json
import math
import types
import typing
import zipfile
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from carbide.results import Results, Timings
from carbide.run.store import write_whole
from carbide.types import Array, Certificate, Figure, InputError, Section, Series

FORMAT = 1
ARRAYS = "evidence/arrays.npz"


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


def from_json(document: Mapping[str, Any], arrays: Mapping[str, Array] | None = None) -> Results:
    """The run that ``to_json`` wrote, with its arrays if they are given.

    Without arrays the sections have no evidence and no figures, and certificates know only how many rows hold: ``holds``
    then has that many True in front, whatever the order was, and ``bound`` is nan.

    Raises:
        InputError: if the document is not a result of this format.
    """
    if document.get("format") != FORMAT:
        raise InputError(f"results: format is {document.get('format')!r}, but this Carbide reads format {FORMAT}; run it again with this version")
    try:
        return _revive(Results, {k: v for k, v in document.items() if k != "format"}, _Box(arrays or {}, ""))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"results: the document breaks the schema ({type(error).__name__}: {error}); run the plan again to make it anew") from error


def to_arrays(results: Results) -> dict[str, Array]:
    """The arrays of a run by path, e.g. ``plain/0/evidence/witness``."""
    found: dict[str, Array] = {}
    for phase in results.phases:
        for i, section in enumerate(phase.sections):
            base = f"{phase.name}/{i}"
            found.update({f"{base}/evidence/{name}": np.asarray(value) for name, value in section.evidence.items()})
            for j, certificate in enumerate(section.certificates):
                found.update({f"{base}/certificates/{j}/holds": certificate.holds, f"{base}/certificates/{j}/bound": certificate.bound})
            for j, figure in enumerate(section.figures):
                for k, series in enumerate(figure.series):
                    parts = {"x": series.x, "y": series.y, "low": series.low, "high": series.high}
                    found.update({f"{base}/figures/{j}/{k}/{name}": np.asarray(part) for name, part in parts.items() if part is not None})
    return {name: value.astype(str) if value.dtype == object else value for name, value in found.items()}


def dumps(document: Any) -> bytes:
    """The bytes of a document: sorted keys, two spaces, a newline at the end."""
    return (json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def write_results(folder: Path, results: Results) -> Path:
    """Write ``results.json`` and ``evidence/arrays.npz`` into the run folder; returns the path of the former.

    Raises:
        InputError: if the folder cannot be written.
    """
    out = io.BytesIO()
    np.savez_compressed(out, **dict(sorted(to_arrays(results).items())))  # type: ignore[arg-type]
    write_whole(folder / ARRAYS, out.getvalue())
    write_whole(folder / "results.json", dumps(to_json(results)))
    return folder / "results.json"


def read_results(folder: Path) -> Results:
    """The results of a run folder, with its arrays where they are there.

    Raises:
        InputError: if there is no ``results.json``, or it or the arrays cannot be read.
    """
    document = _read_json(folder / "results.json")
    path = folder / ARRAYS
    if not path.exists():
        return from_json(document)
    try:
        with np.load(path, allow_pickle=False) as npz:
            arrays = {name: npz[name] for name in npz.files}
    except (zipfile.BadZipFile, ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the plan again to make it anew") from error
    return from_json(document, arrays)


def write_timings(folder: Path, timings: Timings) -> Path:
    """Write ``timings.json``: everything about a run that is not byte-identical."""
    write_whole(folder / "timings.json", dumps({"format": FORMAT, **_plain(timings)}))
    return folder / "timings.json"


def read_timings(folder: Path) -> Timings:
    """The timings of a run folder; empty if it has none."""
    path = folder / "timings.json"
    if not path.exists():
        return Timings()
    document = _read_json(path)
    return _revive(Timings, {k: v for k, v in document.items() if k != "format"}, _Box({}, ""))


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
        return {**_fields(value, leave="series"), "series": [s.name for s in value.series]}
    if isinstance(value, Section):
        return {**_fields(value, leave="evidence"), "evidence": sorted(value.evidence)}
    if is_dataclass(value):
        return _fields(value)
    raise TypeError(f"results cannot hold a {type(value).__name__}")


def _fields(value: Any, leave: str = "") -> dict[str, Any]:
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value) if f.name != leave}


def _certificate(certificate: Certificate) -> dict[str, Any]:
    known = certificate.bound[~np.isnan(certificate.bound)] if len(certificate.bound) else certificate.bound
    plain = {f.name: _plain(getattr(certificate, f.name)) for f in fields(certificate) if f.name not in ("holds", "bound")}
    return {**plain, "held": int(certificate.holds.sum()), "n": len(certificate.holds),
            "median_bound": number(float(np.median(known))) if len(known) else None}  # fmt: skip


# From JSON to values -----------------------------------------------------------------------------------------------


class _Box:
    """The arrays of a run and the path at which the value being read lies."""

    def __init__(self, arrays: Mapping[str, Array], path: str) -> None:
        self.arrays, self.path = arrays, path

    def at(self, part: str | int) -> _Box:
        return _Box(self.arrays, f"{self.path}/{part}" if self.path else str(part))

    def get(self, part: str) -> Array | None:
        return self.arrays.get(f"{self.path}/{part}")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _revive(hint: Any, value: Any, box: _Box) -> Any:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if hint is float:
        return math.nan if value is None else float(value)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _revive(next(i for i in inner if i is not type(None)), value, box)
    if origin is tuple:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is not a list")
        return tuple(_revive(inner[0], item, box.at(i)) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        return {key: _revive(inner[1], item, box.at(key)) for key, item in value.items()}
    if hint is Certificate:
        return _read_certificate(value, box)
    if hint is Section:
        return _read_section(value, box)
    if is_dataclass(hint):
        return _read_fields(typing.cast(type, hint), value, box)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise TypeError(f"{value!r} is not of type {hint.__name__}")
    return value


def _read_fields(cls: type, value: Mapping[str, Any], box: _Box) -> Any:
    hints = _hints(cls)
    inside = {"sections": _Box(box.arrays, str(value.get("name", "")))} if "sections" in hints else {}
    return cls(**{key: _revive(hints[key], item, inside.get(key, box.at(key))) for key, item in value.items()})


def _read_certificate(value: Mapping[str, Any], box: _Box) -> Certificate:
    kept = {k: v for k, v in value.items() if k not in ("held", "n", "median_bound")}
    holds, bound = box.get("holds"), box.get("bound")
    if holds is None or bound is None:
        holds, bound = np.arange(value["n"]) < value["held"], np.full(value["n"], math.nan)
    hints = _hints(Certificate)
    return Certificate(holds=holds, bound=bound, **{k: _revive(hints[k], v, box) for k, v in kept.items()})


def _read_section(value: Mapping[str, Any], box: _Box) -> Section:
    hints = _hints(Section)
    rest = {k: _revive(hints[k], v, box.at(k)) for k, v in value.items() if k not in ("figures", "evidence")}
    evidence = {name: box.arrays[f"{box.path}/evidence/{name}"] for name in value["evidence"] if f"{box.path}/evidence/{name}" in box.arrays}
    figures = [_read_figure(item, box.at("figures").at(j)) for j, item in enumerate(value["figures"])]
    return Section(figures=tuple(f for f in figures if f is not None), evidence=evidence, **rest)


def _read_figure(value: Mapping[str, Any], box: _Box) -> Figure | None:
    series = []
    for k, name in enumerate(value["series"]):
        part = box.at(k)
        x, y = part.get("x"), part.get("y")
        if x is None or y is None:
            return None
        series.append(Series(name=name, x=x, y=y, low=part.get("low"), high=part.get("high")))
    return Figure(**{k: v for k, v in value.items() if k != "series"}, series=tuple(series))


__all__ = ["dumps", "from_json", "number", "read_results", "read_timings", "results_schema", "to_arrays", "to_json", "write_results", "write_timings"]
