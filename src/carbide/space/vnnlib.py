"""VNN-LIB, https://www.vnnlib.org: properties of networks as the verification competitions write them, inputs in boxes.

A file declares inputs ``X_i`` and outputs ``Y_j`` and asserts what a counterexample would be: comparisons of them, with
``and`` and ``or``. It is brought into the form "one of these cases": a box of inputs and linear inequalities of outputs.

>>> text = '''
... (declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
... (assert (>= X_0 -1)) (assert (<= X_0 0.5))  ; the box
... (assert (<= Y_0 Y_1))  ; class 1 wins
... '''
>>> found = parse_vnnlib(text)
>>> found.cases[0].upper, found.broken_by(np.array([0.2]), np.array([1.0, 3.0]))
(array([0.5]), True)
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from carbide.types import Array, InputError

CASES = 100_000  # more than any property of the competitions; beyond it a file is refused
TOKEN = re.compile(r"\(|\)|[^\s()]+")
VARIABLE = re.compile(r"([XY])_(\d+)$")


class Case(NamedTuple):
    """Inputs in ``[lower, upper]`` ``(inputs,)`` whose outputs satisfy ``coefficients @ y <= limits``, ``(m, outputs)`` and ``(m,)``."""

    lower: Array
    upper: Array
    coefficients: Array
    limits: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Property:
    """What a counterexample is: an input and its outputs in one of the cases; no such input = the property holds."""

    inputs: int
    outputs: int
    cases: tuple[Case, ...]

    def broken_by(self, x: Array, y: Array) -> bool:
        """Whether an input ``(inputs,)`` with these outputs ``(outputs,)`` is a counterexample."""
        return any(bool(((c.lower <= x) & (x <= c.upper)).all() and (c.coefficients @ y <= c.limits).all()) for c in self.cases)


class _Row(NamedTuple):
    """``terms . variables <= limit``; variables are ``("X", i)`` or ``("Y", j)``."""

    terms: dict[tuple[str, int], float]
    limit: float


def read_vnnlib(path: str | Path) -> Property:
    """The property in a file.

    Raises:
        InputError: if the file cannot be read or is no property of boxes and linear outputs.
    """
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}); give a .vnnlib text file") from error
    return parse_vnnlib(text, name=str(path))


def parse_vnnlib(text: str, *, name: str = "vnnlib") -> Property:
    """The property in a text.

    Raises:
        InputError: naming what is not understood: broken brackets, an unknown command, inputs and outputs in one
            comparison, a box that is empty or open, an input or output that is missing.
    """
    counts, asserted = {"X": set[int](), "Y": set[int]()}, []
    for command in _expressions(text, name):
        if isinstance(command, list) and command[:1] == ["declare-const"] and len(command) == 3 and isinstance(command[1], str):
            side, index = _variable(command[1], name)
            counts[side].add(index)
        elif isinstance(command, list) and command[:1] == ["assert"] and len(command) == 2:
            asserted.append(_alternatives(command[1], name))
        else:
            raise InputError(f"{name}: {_words(command)} is not understood; declare-const and assert are")
    sizes = {side: len(found) for side, found in counts.items()}
    for side, found in counts.items():
        if not found or found != set(range(len(found))):
            raise InputError(f"{name}: the variables {side}_i declared are {sorted(found)[:9]}; declare {side}_0, {side}_1 and so on, none left out")
    cases = [_case([row for part in choice for row in part], sizes, name) for choice in _choices(asserted, name)]
    kept = tuple(case for case in cases if case is not None)
    if not kept:
        raise InputError(f"{name}: no input satisfies the bounds, so nothing could be a counterexample; check the lower and upper bounds")
    return Property(inputs=sizes["X"], outputs=sizes["Y"], cases=kept)


def _expressions(text: str, name: str) -> Iterator[Any]:
    """The bracketed expressions of a text as nested lists of words; comments run from ``;`` to the end of a line."""
    open_: list[list[Any]] = []
    for token in TOKEN.findall(re.sub(r";[^\n]*", "", text)):
        if token == "(":
            open_.append([])
        elif token == ")":
            if not open_:
                raise InputError(f"{name}: a bracket is closed that was not opened; check the file's brackets")
            done = open_.pop()
            if open_:
                open_[-1].append(done)
            else:
                yield done
        elif open_:
            open_[-1].append(token)
        else:
            raise InputError(f"{name}: {token!r} stands outside of brackets; check the file's brackets")
    if open_:
        raise InputError(f"{name}: {len(open_)} brackets are not closed; check that the file is whole")


def _alternatives(formula: Any, name: str) -> list[list[_Row]]:
    """A formula as alternatives, each a list of inequalities that hold together."""
    head = formula[0] if isinstance(formula, list) and formula else None
    if head == "or" and len(formula) > 1:
        return [alternative for part in formula[1:] for alternative in _alternatives(part, name)]
    if head == "and" and len(formula) > 1:
        return [[row for part in choice for row in part] for choice in _choices([_alternatives(part, name) for part in formula[1:]], name)]
    if head in ("<=", ">=", "<", ">") and len(formula) == 3:
        a, b = (_linear(side, name) for side in formula[1:])
        if head in (">=", ">"):
            a, b = b, a
        terms = {key: a.terms.get(key, 0.0) - b.terms.get(key, 0.0) for key in {**a.terms, **b.terms}}
        return [[_Row({key: value for key, value in terms.items() if value}, b.limit - a.limit)]]
    raise InputError(f"{name}: {_words(formula)} is not understood; and, or, <= and >= are")


def _choices(parts: list[list[list[_Row]]], name: str) -> Iterator[tuple[list[_Row], ...]]:
    if math.prod(len(part) for part in parts) > CASES:
        raise InputError(f"{name}: the property has more than {CASES} cases when its alternatives are multiplied out; split it into several files")
    return itertools.product(*parts)


def _linear(side: Any, name: str) -> _Row:
    """A side of a comparison as linear terms and a constant (kept as ``limit``)."""
    if isinstance(side, str):
        if VARIABLE.match(side):
            return _Row({_variable(side, name): 1.0}, 0.0)
        try:
            value = float(side)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{name}: {side!r} is neither a number nor X_i or Y_j; check its spelling")
        return _Row({}, value)
    head = side[0] if side else None
    parts = [_linear(part, name) for part in side[1:]]
    if head == "-" and len(parts) == 1:
        return _scaled(parts[0], -1.0)
    if head in ("+", "-") and parts:
        parts = [parts[0], *(_scaled(part, -1.0 if head == "-" else 1.0) for part in parts[1:])]
        return _Row({key: sum(p.terms.get(key, 0.0) for p in parts) for part in parts for key in part.terms}, sum(p.limit for p in parts))
    if head == "*" and len(parts) == 2 and not (parts[0].terms and parts[1].terms):
        factor, other = parts if not parts[0].terms else parts[::-1]
        return _scaled(other, factor.limit)
    raise InputError(f"{name}: {_words(side)} is not linear; +, - and * with a number are understood")


def _scaled(row: _Row, factor: float) -> _Row:
    return _Row({key: factor * value for key, value in row.terms.items()}, factor * row.limit)


def _variable(word: str, name: str) -> tuple[str, int]:
    found = VARIABLE.match(word)
    if found is None:
        raise InputError(f"{name}: the variable {word!r} is neither X_i nor Y_j; rename it")
    return found[1], int(found[2])


def _case(rows: list[_Row], sizes: dict[str, int], name: str) -> Case | None:
    """Rows that hold together as a box and inequalities of outputs; None if the box is empty."""
    lower, upper = np.full(sizes["X"], -np.inf), np.full(sizes["X"], np.inf)
    coefficients, limits = [], []
    for row in rows:
        for side, index in row.terms:
            if index >= sizes[side]:
                raise InputError(f"{name}: {side}_{index} is used but not declared; declare it")
        sides = {side for side, _ in row.terms}
        if sides == {"X"} and len(row.terms) == 1:
            ((_, index), factor), bound = next(iter(row.terms.items())), row.limit / next(iter(row.terms.values()))
            upper[index], lower[index] = (min(upper[index], bound), lower[index]) if factor > 0 else (upper[index], max(lower[index], bound))
        elif sides <= {"Y"}:
            coefficients.append([row.terms.get(("Y", j), 0.0) for j in range(sizes["Y"])])
            limits.append(row.limit)
        else:
            raise InputError(
                f"{name}: a comparison holds {' and '.join(f'{s}_{i}' for s, i in row.terms)}; bound inputs one by one, apart from outputs"
            )
    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        missing = int(np.flatnonzero(~(np.isfinite(lower) & np.isfinite(upper)))[0])
        raise InputError(f"{name}: input X_{missing} has no lower or no upper bound; give it both")
    if (lower > upper).any():
        return None
    return Case(lower, upper, np.array(coefficients, float).reshape(-1, sizes["Y"]), np.array(limits, float))


def _words(formula: Any) -> str:
    text = formula if isinstance(formula, str) else f"({' '.join(_words(part) for part in formula)})"
    return text if len(text) <= 80 else text[:77] + "..."
