"""Guesses the space of a table from its training rows, and says the guess in plain words for a person to confirm.

Whole-valued columns are integers, sets of 0/1 columns that add up to one are one-hot groups, bounds are the seen range with
a margin, and ``min <= avg <= max`` is kept where the names say so and every row obeys. A column that lacks values somewhere may lack them in changed rows, too.

>>> import numpy as np
>>> space = infer_space(np.array([[1.0, 0.5], [3.0, 0.7]]), names=("visits", "share"))
>>> [int(k) for k in space.kind], space.lower.tolist()
([1, 0], [0.0, 0.48])
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from carbide.types import Array, Dataset, Implication, InputError, Kind, Linear, Ratio, Relation, Space, Sum

MARGIN = 0.1  # of the seen range, added on each side
ROLES = {"min": "min", "minimum": "min", "avg": "avg", "mean": "avg", "average": "avg", "max": "max", "maximum": "max"}
ORDER = ("min", "avg", "max")


def infer_space(data: Any, *, names: Sequence[str] = (), margin: float = MARGIN) -> Space:
    """The space that rows seem to live in, marked as read off them; a space file that a person confirmed declares the same.

    Args:
        data: a ``Dataset`` of training rows (its names and categories are kept), a pandas frame of numbers, or rows ``(n, d)``.
        names: feature names, for bare rows.
        margin: how far bounds reach beyond the seen values, as a share of their range.

    Raises:
        InputError: if there are no rows, or a frame holds texts.
    """
    if not (np.isfinite(margin) and margin >= 0):
        raise InputError(f"margin is {margin}; give a share >= 0, e.g. 0.1")
    x, names, known = _rows(data, names)
    if x.ndim == 4:
        return Space.image(x.shape[1:])
    if x.ndim != 2 or not len(x):
        raise InputError(f"rows have shape {x.shape}; give at least one row of features")
    categorical = np.zeros(x.shape[1], bool) if known is None else known.kind == Kind.CATEGORICAL
    kind = np.where(categorical, Kind.CATEGORICAL, np.where(_whole(x), Kind.INTEGER, Kind.REAL)).astype(np.int8)
    groups = _one_hot(x, names, kind == Kind.INTEGER)
    for group in groups:
        kind[list(group)] = Kind.ONE_HOT
    lower, upper = _bounds(x, kind, margin)
    if known is not None:
        lower, upper = np.where(categorical, known.lower, lower), np.where(categorical, known.upper, upper)
    relations = (*_ordered(x, names), *_ratios(x, names, kind))
    gone = np.isnan(x).any(0)
    table = Space.table(names, lower=lower, upper=upper, kind=kind, groups=groups, relations=relations)
    bare = replace(table, missing=gone if gone.any() else None, from_rows=True)
    return bare if known is None else replace(bare, categories=dict(known.categories))


def holding(space: Space, x: Array) -> Space:
    """The space with the bounds of numbers moved out as far as rows ``x`` ``(n, *shape)`` lie beyond them; missing values say nothing."""
    number = (space.kind == Kind.REAL) | (space.kind == Kind.INTEGER)
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(x, axis=0, initial=np.inf), np.fmax.reduce(x, axis=0, initial=-np.inf)
    return replace(
        space, lower=np.where(number, np.minimum(space.lower, low), space.lower), upper=np.where(number, np.maximum(space.upper, high), space.upper)
    )


def _rows(data: Any, names: Sequence[str]) -> tuple[Array, tuple[str, ...], Space | None]:
    if isinstance(data, Dataset):
        return data.x, data.space.names, data.space
    if hasattr(data, "columns"):
        texts = [c for c in data.columns if data[c].dtype.kind not in "biuf"]
        if texts:
            raise InputError(f"column {texts[0]!r} holds no numbers; read the file with carbide.load_data, which codes texts")
        return data.to_numpy(np.float64), tuple(map(str, data.columns)), None
    x = np.asarray(data, np.float64)
    return x, tuple(names) or tuple(f"x{i}" for i in range(x.shape[-1])), None


def _whole(x: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return (np.isnan(x) | ((x == np.round(x)) & (np.abs(x) < 2**53))).all(0)


def _bounds(x: Array, kind: Array, margin: float) -> tuple[Array, Array]:
    lower, upper = np.empty(x.shape[1]), np.empty(x.shape[1])
    for j in range(x.shape[1]):
        values = x[:, j][~np.isnan(x[:, j])]
        low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
        if kind[j] == Kind.ONE_HOT or (kind[j] == Kind.INTEGER and low == 0 and high == 1):
            lower[j], upper[j] = 0.0, 1.0
            continue
        wide = margin * (high - low)
        low, high = max(0.0, low - wide) if low >= 0 else low - wide, min(0.0, high + wide) if high <= 0 else high + wide
        share = kind[j] == Kind.REAL and low >= 0 and values.size > 0 and values.max() <= 1
        lower[j], upper[j] = (np.floor(low), np.ceil(high)) if kind[j] != Kind.REAL else (low, min(high, 1.0) if share else high)
    return lower, upper


def _one_hot(x: Array, names: Sequence[str], whole: Array) -> tuple[tuple[int, ...], ...]:
    """Runs of 0/1 columns that add up to one in every row: by a common name first, then neighbours (three or more)."""
    binary = [int(j) for j in np.flatnonzero(whole) if not np.isnan(x[:, j]).any() and np.isin(x[:, j], (0, 1)).all()]
    groups: list[tuple[int, ...]] = []
    prefixes: dict[str, list[int]] = {}
    for j in binary:
        for at in {m.start() for m in re.finditer(r"[_=:. ]", names[j])}:
            prefixes.setdefault(names[j][:at], []).append(j)
    taken: set[int] = set()
    for columns in sorted(prefixes.values(), key=len, reverse=True):
        if len(columns) >= 2 and not taken & set(columns) and (x[:, columns].sum(1) == 1).all():
            groups.append(tuple(int(c) for c in columns))
            taken |= set(columns)
    loose = [j for j in binary if j not in taken and x[:, j].any()]
    start = 0
    while start < len(loose):
        run, total = [], np.zeros(len(x))
        for j in loose[start:]:
            if run and j != run[-1] + 1:
                break
            run.append(int(j))
            total = total + x[:, j]
            if (total == 1).all() or (total > 1).any():
                break
        found = len(run) >= 3 and bool((total == 1).all())
        if found:
            groups.append(tuple(run))
        start += len(run) if found else 1
    return tuple(sorted(groups))


def _ordered(x: Array, names: Sequence[str]) -> list[Relation]:
    """``min <= avg <= max`` for columns whose names agree in every other word."""
    families: dict[tuple[str, ...], dict[str, int]] = {}
    for j, name in enumerate(names):
        words = re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
        roles = [ROLES[w] for w in words if w in ROLES]
        if len(roles) == 1:
            families.setdefault(tuple("val" if w == "value" else w for w in words if w not in ROLES), {}).setdefault(roles[0], j)
    found: list[Relation] = []
    for family in families.values():
        chain = [family[role] for role in ORDER if role in family]
        for a, b in itertools.pairwise(chain):
            if _obeyed(x[:, a], x[:, b]):
                found.append(Linear(features=(a, b), coefficients=(1.0, -1.0), upper=0.0))
    return found


def _obeyed(a: Array, b: Array) -> bool:
    both = ~np.isnan(a) & ~np.isnan(b)
    return bool(both.any() and (a[both] <= b[both]).all() and (a[both] < b[both]).any())


def _ratios(x: Array, names: Sequence[str], kind: Array) -> list[Relation]:
    """``target == numerator / denominator`` for real columns named as means, rates or shares; only where no denominator is 0."""
    if np.isnan(x).any() or len(x) < 20 or x.shape[1] > 200:
        return []
    found: list[Relation] = []
    bottoms = [j for j in range(x.shape[1]) if (x[:, j] > 0).all() and len(np.unique(x[:, j])) > 2]
    for t in range(x.shape[1]):
        if kind[t] != Kind.REAL or not re.search(r"avg|mean|average|ratio|rate|share|per", names[t].lower()) or len(np.unique(x[:, t])) <= 2:
            continue
        few = x[: min(len(x), 200)]
        for b in bottoms:
            product = few[:, t] * few[:, b]
            near = (np.abs(few - product[:, None]) <= 1e-6 * np.maximum(np.abs(product[:, None]), 1e-12)).all(0)
            tops = [int(j) for j in np.flatnonzero(near) if j not in (t, b) and np.allclose(x[:, t] * x[:, b], x[:, j], rtol=1e-6, atol=0)]
            if tops:
                found.append(Ratio(target=t, numerator=tops[0], denominator=b))
                break
    return found


def describe_space(space: Space) -> str:
    """The space in plain words, one line a feature, for a person who knows the data to confirm or correct."""
    if space.is_image:
        low, high = float(space.lower.min()), float(space.upper.max())
        fixed = int((~space.mutable).sum())
        return f"images of {space.shape[0]} channel(s), {space.shape[1]} by {space.shape[2]} pixels, values {low:g} to {high:g}" + (
            f"; {fixed} values cannot change" if fixed else "")  # fmt: skip
    group_of = {j: number + 1 for number, group in enumerate(space.groups) for j in group}
    lines = [f"{len(space.names) or space.shape[0]} features:"]
    for j in range(space.shape[0]):
        words = {
            Kind.REAL: "a number",
            Kind.INTEGER: "a whole number",
            Kind.CATEGORICAL: "a category",
            Kind.ONE_HOT: f"0 or 1, of one-hot group {group_of.get(j, '?')}",
        }
        said = words[Kind(int(space.kind[j]))]
        if space.kind[j] == Kind.CATEGORICAL and space.name(j) in space.categories:
            listed = space.categories[space.name(j)]
            said += f", one of {len(listed)}: {', '.join(c or '(empty)' for c in listed[:6])}{', ...' if len(listed) > 6 else ''}"
        elif space.kind[j] != Kind.ONE_HOT:
            said += f" from {space.lower[j]:g} to {space.upper[j]:g}" + (f" in steps of {space.step[j]:g}" if space.step[j] not in (0, 1) else "")
        lines.append(f"  {space.name(j)}: {said}{_caveats(space, j)}")
    for number, group in enumerate(space.groups):
        lines.append(f"exactly one is 1 (group {number + 1}): {', '.join(space.name(j) for j in group)}")
    lines += [f"always: {relation_words(relation, space)}" for relation in space.relations]
    return "\n".join(lines)


def relation_words(relation: Relation, space: Space) -> str:
    """A relation as a formula over feature names."""
    if isinstance(relation, Ratio):
        return f"{space.name(relation.target)} = {space.name(relation.numerator)} / {space.name(relation.denominator)}"
    if isinstance(relation, Implication):
        when, then = (_range_words(space.name(f), low, high) for f, low, high in (
            (relation.cause, relation.at_least, relation.at_most), (relation.effect, relation.lower, relation.upper)))  # fmt: skip
        return f"if {when}, then {then}"
    if isinstance(relation, Sum):
        return f"{space.name(relation.target)} = {_terms_words(relation, space)}"
    if relation.upper == 0 and relation.coefficients == (1.0, -1.0):
        return f"{space.name(relation.features[0])} <= {space.name(relation.features[1])}"
    return f"{_terms_words(relation, space)} <= {relation.upper:g}"


def _terms_words(relation: Linear | Sum, space: Space) -> str:
    terms = " ".join(
        f"{'-' if c < 0 else '+'} {'' if abs(c) == 1 else f'{abs(c):g} '}{space.name(j)}"
        for j, c in zip(relation.features, relation.coefficients, strict=True)
    )
    return terms.removeprefix("+ ")


def _range_words(name: str, low: float, high: float) -> str:
    if low == high:
        return f"{name} = {low:g}"
    return f"{f'{low:g} <= ' if np.isfinite(low) else ''}{name}{f' <= {high:g}' if np.isfinite(high) else ''}"


def _caveats(space: Space, j: int) -> str:
    still = "" if space.mutable[j] else "; the attacker cannot change it"
    return still + ("; a changed row may lack it" if space.missing is not None and space.missing.ravel()[j] and space.mutable[j] else "")
