"""VNN-LIB 1.0, https://www.vnnlib.org: what must not happen, as boxes of inputs and linear inequalities of outputs.

A file declares inputs ``X_0 ..`` and outputs ``Y_0 ..`` and asserts when an input is a counterexample. Read here into a
list of regions, any of which is enough; the file is parsed, never evaluated.

>>> text = "(declare-const X_0 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)"
>>> text += "(assert (>= X_0 -1.0)) (assert (<= X_0 2.0)) (assert (<= Y_0 Y_1))"
>>> unsafe = parse_vnnlib(text)
>>> unsafe.regions[0].lower.tolist(), unsafe.regions[0].matrix.tolist(), unsafe.regions[0].bound.tolist()
([-1.0], [[1.0, -1.0]], [0.0])
>>> unsafe.met(np.array([[0.0], [3.0]]), np.array([[1.0, 2.0], [1.0, 2.0]])).tolist()
[True, False]
"""

from __future__ import annotations

import gzip
import io
import itertools
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from carbide.types import Array, InputError

LIMIT = 64 << 20  # bytes of a file, once unpacked
DEPTH = 64  # parentheses inside each other
REGIONS = 10_000  # alternatives of a property, once its disjunctions are multiplied out
SIZE = 1 << 26  # numbers in all regions together
_TOKEN = re.compile(r'[\s]+|;[^\n]*|[()]|"[^"]*"|\|[^|]*\||[^\s();"|]+')
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_VARIABLE = re.compile(r"([XY])_(0|[1-9]\d{0,8})")
_IDLE = ("set-logic", "set-info", "set-option", "check-sat", "get-model", "exit")


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Inputs ``lower <= x <= upper`` ``(d,)`` whose outputs satisfy ``matrix (m, k) @ y <= bound (m,)``."""

    lower: Array
    upper: Array
    matrix: Array
    bound: Array

    def __post_init__(self) -> None:
        rows = len(self.bound)
        if self.lower.shape != self.upper.shape or self.lower.ndim != 1 or self.matrix.ndim != 2 or self.matrix.shape[0] != rows:
            raise InputError(f"region has bounds of shapes {self.lower.shape} and {self.upper.shape}, a matrix {self.matrix.shape} and {rows} bounds of "
                             "outputs; give (d,), (d,), (m, k) and (m,)")  # fmt: skip

    def met(self, x: Array, y: Array) -> Array:
        """Which rows ``x (n, d)`` with outputs ``y (n, k)`` lie in the region, ``(n,)`` bool."""
        return np.logical_and(((x >= self.lower) & (x <= self.upper)).all(1), (y @ self.matrix.T <= self.bound).all(1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Property:
    """When an input is a counterexample: it lies in one of the ``regions``; none at all = there can be no counterexample.

    ``inputs`` d and ``outputs`` k are the numbers of variables; inputs of more axes are flattened in C order.
    """

    inputs: int
    outputs: int
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        for number, region in enumerate(self.regions):
            if region.lower.shape != (self.inputs,) or region.matrix.shape[1] != self.outputs:
                raise InputError(f"region {number} has {len(region.lower)} inputs and {region.matrix.shape[1]} outputs, the property {self.inputs} and "
                                 f"{self.outputs}; give all regions the same variables")  # fmt: skip

    def met(self, x: Array, y: Array) -> Array:
        """Which rows ``x (n, *shape)`` with outputs ``y (n, k)`` are counterexamples, ``(n,)`` bool."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        return np.any([region.met(flat, np.asarray(y, np.float64)) for region in self.regions], axis=0) if self.regions else np.zeros(len(x), bool)

    def text(self) -> str:
        """The property as a VNN-LIB file that reads as the same numbers."""
        lines = [f"(declare-const {side}_{i} Real)" for side, count in (("X", self.inputs), ("Y", self.outputs)) for i in range(count)]
        parts = [" ".join(_written(region)) for region in self.regions]
        alternatives = [f"(and {part})" if part else "(and (<= 0 0))" for part in parts]
        return "\n".join([*lines, f"(assert (or {' '.join(alternatives)}))" if parts else "(assert (<= 1 0))"]) + "\n"


def counterexample_text(x: Array, y: Array) -> str:
    """An input ``(d,)`` and its outputs ``(k,)`` as competitions write a counterexample, in numbers that read as the same float64.

    >>> print(counterexample_text(np.array([0.5]), np.array([1.0, -2.0])), end="")
    ((X_0 0.5)
    (Y_0 1.0)
    (Y_1 -2.0))
    """
    lines = [f"({side}_{i} {value!r})" for side, values in (("X", x), ("Y", y)) for i, value in enumerate(np.asarray(values, float).tolist())]
    return "(" + "\n".join(lines) + ")\n"


def load_vnnlib(path: str | Path) -> Property:
    """The property of a ``.vnnlib`` file, plain or gzipped.

    Raises:
        InputError: if it cannot be read, is too large, or as ``parse_vnnlib``.
    """
    name = f"property {path}"
    try:
        with Path(path).open("rb") as file:
            blob = file.read(LIMIT + 1)
        if blob[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=io.BytesIO(blob)) as packed:
                blob = packed.read(LIMIT + 1)
        text = blob.decode()
    except (OSError, EOFError, zlib.error, ValueError) as error:
        said = getattr(error, "strerror", None) or ("it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "it is no whole gzip file")
        raise InputError(f"{name} cannot be read ({said}); give the path of a .vnnlib file, plain or gzipped") from error
    if len(blob) > LIMIT:
        raise InputError(f"{name} has more than {LIMIT} bytes; split it into smaller ones")
    return parse_vnnlib(text, name=name)


def parse_vnnlib(text: str, *, name: str = "the property") -> Property:
    """The property of a VNN-LIB text. Numbers are rounded to the nearest float64; regions whose box is empty are left out.

    Raises:
        InputError: if it is no VNN-LIB 1.0, relates inputs to each other or to outputs, leaves an input without bounds, or has too
            many alternatives.
    """
    counts, alternatives = {"X": 0, "Y": 0}, []
    for line, form in _forms(text, name):
        where = f"{name}, line {line},"
        if not isinstance(form, list) or not form or not isinstance(form[0], str):
            raise InputError(f"{where} says {_short(form)}, which is no command; write (declare-const ...) or (assert ...)")
        if form[0] in ("declare-const", "declare-fun"):
            _declare(form, counts, where)
        elif form[0] == "assert" and len(form) == 2:
            alternatives.append(_disjuncts(form[1], counts, where))
        elif form[0] not in _IDLE:
            raise InputError(f"{where} has the command {_short(form)}, which Carbide does not read; write VNN-LIB 1.0 with declare-const and assert")
    if not counts["X"] or not counts["Y"]:
        raise InputError(f"{name} declares {counts['X']} inputs and {counts['Y']} outputs; declare X_0, ... and Y_0, ...")
    ways = math.prod(len(part) for part in alternatives)
    if ways > REGIONS or ways * (2 * counts["X"] + counts["Y"]) > SIZE:
        raise InputError(f"{name} has {ways} alternatives once its disjunctions are multiplied out; Carbide reads at most {REGIONS}, so split it")
    return Property(inputs=counts["X"], outputs=counts["Y"], regions=tuple(_regions(alternatives, counts["X"], counts["Y"], name)))


def _forms(text: str, name: str) -> Iterator[tuple[int, Any]]:
    """The expressions of a text with the line that each begins in, as nested lists of words."""
    stack: list[list[Any]] = []
    end, line, begun = 0, 1, 1
    for token in _TOKEN.finditer(text):
        word = token.group()
        if token.start() != end:
            break
        end = token.end()
        if word == "(":
            begun = begun if stack else line
            stack.append([])
            if len(stack) > DEPTH:
                raise InputError(f"{name}, line {line}, opens more than {DEPTH} parentheses inside each other; write it flatter")
        elif word == ")":
            if not stack:
                raise InputError(f"{name}, line {line}, closes a parenthesis that was not opened; remove it")
            done = stack.pop()
            if stack:
                stack[-1].append(done)
            else:
                yield begun, done
        elif not (word[0].isspace() or word[0] == ";"):
            if not stack:
                raise InputError(f"{name}, line {line}, has {_short(word)} outside of parentheses; write (declare-const ...) or (assert ...)")
            stack[-1].append(word)
        line += word.count("\n")
    if end != len(text):
        raise InputError(f"{name}, line {line}, has a quotation that does not end; close it")
    if stack:
        raise InputError(f"{name} ends inside the expression of line {begun}; give the whole file")


def _short(form: Any) -> str:
    """An expression as text, cut to a readable length."""
    text, waiting = "", [form]
    while waiting and len(text) < 80:
        item = waiting.pop()
        if isinstance(item, list):
            text += " ("
            waiting += [")", *item[::-1]]
        else:
            text += item if item == ")" else f" {item}"
    return repr(text.strip().replace("( ", "(")[:80])


def _declare(form: list[Any], counts: dict[str, int], where: str) -> None:
    good = len(form) == 3 if form[0] == "declare-const" else len(form) == 4 and form[2] == []
    found = _VARIABLE.fullmatch(form[1]) if good and isinstance(form[1], str) else None
    if found is None or form[-1] != "Real":
        raise InputError(f"{where} declares {_short(form)}; declare real variables X_0, X_1, ... and Y_0, Y_1, ...")
    if int(found[2]) != counts[found[1]]:
        raise InputError(f"{where} declares {found[0]} where {found[1]}_{counts[found[1]]} is due; declare the variables once each and in order")
    counts[found[1]] += 1


@dataclass(frozen=True, kw_only=True)
class _Sum:
    """``sum(coefficients[v] * v) + constant``; ``relation`` of such a sum to 0 is always <=."""

    constant: float = 0.0
    coefficients: dict[str, float] = field(default_factory=dict)

    def times(self, factor: float) -> _Sum:
        return _Sum(constant=factor * self.constant, coefficients={v: factor * c for v, c in self.coefficients.items()})

    def minus(self, other: _Sum) -> _Sum:
        return _added([self, other.times(-1.0)])


def _added(parts: Sequence[_Sum]) -> _Sum:
    total: dict[str, float] = {}
    for part in parts:
        for variable, coefficient in part.coefficients.items():
            total[variable] = total.get(variable, 0.0) + coefficient
    return _Sum(constant=sum(part.constant for part in parts), coefficients={v: c for v, c in total.items() if c})


def _disjuncts(form: Any, counts: dict[str, int], where: str) -> list[list[_Sum]]:
    """An assertion as alternatives, each a list of sums that must be <= 0."""
    head = form[0] if isinstance(form, list) and form else None
    if head == "or":
        found = [part for inner in form[1:] for part in _disjuncts(inner, counts, where)]
    elif head == "and":
        parts = [_disjuncts(inner, counts, where) for inner in form[1:]]
        if math.prod(len(part) for part in parts) > REGIONS:
            raise InputError(f"{where} has more than {REGIONS} alternatives once its disjunctions are multiplied out; split it")
        found = [list(itertools.chain(*chosen)) for chosen in itertools.product(*parts)]
    elif head in ("<=", ">=", "=") and len(form) == 3:
        left, right = (_sum(side, counts, where) for side in form[1:])
        below, above = left.minus(right), right.minus(left)
        if not all(map(math.isfinite, (below.constant, *below.coefficients.values()))):
            raise InputError(f"{where} holds numbers that overflow in {_short(form)}; write smaller ones")
        found = [{"<=": [below], ">=": [above], "=": [below, above]}[head]]
    else:
        raise InputError(f"{where} asserts {_short(form)}; Carbide reads and, or, <=, >= and =")
    if len(found) > REGIONS:
        raise InputError(f"{where} has more than {REGIONS} alternatives; split it")
    return found


def _sum(form: Any, counts: dict[str, int], where: str) -> _Sum:
    if isinstance(form, str):
        if (found := _VARIABLE.fullmatch(form)) is not None:
            if int(found[2]) >= counts[found[1]]:
                raise InputError(f"{where} uses {form} before it is declared; declare it first")
            return _Sum(coefficients={form: 1.0})
        if _NUMBER.fullmatch(form) and math.isfinite(value := float(form)):
            return _Sum(constant=value)
        raise InputError(f"{where} has {_short(form)} where a finite number or a variable is due; write decimal numbers, X_i or Y_i")
    if len(form) >= 2 and form[0] in ("+", "-", "*"):
        first, *rest = (_sum(part, counts, where) for part in form[1:])
        if form[0] == "-":
            return _added([first, *(part.times(-1.0) for part in rest)]) if rest else first.times(-1.0)
        return _added([first, *rest]) if form[0] == "+" else _multiplied([first, *rest], form, where)
    raise InputError(f"{where} computes {_short(form)}; Carbide reads sums of variables times numbers with +, - and *")


def _multiplied(parts: Sequence[_Sum], form: Any, where: str) -> _Sum:
    product = parts[0]
    for part in parts[1:]:
        if product.coefficients and part.coefficients:
            raise InputError(f"{where} multiplies variables in {_short(form)}; only linear inequalities are read")
        product = part.times(product.constant) if part.coefficients else product.times(part.constant)
    return product


def _regions(alternatives: list[list[list[_Sum]]], d: int, k: int, name: str) -> Iterator[Region]:
    """One region for each choice of an alternative of every assertion."""
    shared = [item for part in alternatives if len(part) == 1 for item in part[0]]
    open_ = [part for part in alternatives if len(part) != 1]
    base = _Draft(d, name).with_(shared)
    for chosen in itertools.product(*open_):
        draft = base.with_(item for part in chosen for item in part)
        if (region := draft.region(k)) is not None:
            yield region


class _Draft:
    """A region while its inequalities come in."""

    def __init__(self, d: int, name: str) -> None:
        self.lower, self.upper, self.name = np.full(d, -np.inf), np.full(d, np.inf), name
        self.outputs: list[_Sum] = []
        self.impossible = False

    def with_(self, sums: Any) -> _Draft:
        """A copy with these sums at most 0 as well."""
        new = _Draft(len(self.lower), self.name)
        new.lower, new.upper, new.outputs, new.impossible = self.lower.copy(), self.upper.copy(), list(self.outputs), self.impossible
        for item in sums:
            new._take(item)
        return new

    def _take(self, item: _Sum) -> None:
        inputs = [v for v in item.coefficients if v[0] == "X"]
        if not item.coefficients:
            self.impossible |= item.constant > 0
        elif not inputs:
            self.outputs.append(item)
        elif len(item.coefficients) > 1:
            raise InputError(f"{self.name} relates {', '.join(list(item.coefficients)[:3])} in one inequality; Carbide reads bounds of single inputs and "
                             "inequalities of outputs")  # fmt: skip
        else:
            place, slope = int(inputs[0][2:]), item.coefficients[inputs[0]]
            end = -item.constant / slope + 0.0
            if slope > 0:
                self.upper[place] = min(self.upper[place], end)
            else:
                self.lower[place] = max(self.lower[place], end)

    def region(self, k: int) -> Region | None:
        """The region, None where nothing can lie in it."""
        if self.impossible:
            return None
        endless = np.flatnonzero(~(np.isfinite(self.lower) & np.isfinite(self.upper)))
        if len(endless):
            side = "lower" if not np.isfinite(self.lower[endless[0]]) else "upper"
            raise InputError(f"{self.name} gives X_{endless[0]} no {side} bound; bound every input from both sides")
        if (self.lower > self.upper).any():
            return None
        matrix = np.zeros((len(self.outputs), k))
        for row, item in enumerate(self.outputs):
            for variable, coefficient in item.coefficients.items():
                matrix[row, int(variable[2:])] = coefficient
        return Region(lower=self.lower, upper=self.upper, matrix=matrix, bound=np.array([-item.constant + 0.0 for item in self.outputs]))


def _written(region: Region) -> Iterator[str]:
    for i, (low, high) in enumerate(zip(region.lower.tolist(), region.upper.tolist(), strict=True)):
        yield f"(>= X_{i} {low!r}) (<= X_{i} {high!r})"
    for row, end in zip(region.matrix.tolist(), region.bound.tolist(), strict=True):
        terms = [f"(* {c!r} Y_{j})" for j, c in enumerate(row) if c]
        yield f"(<= {'(+ ' + ' '.join(terms) + ')' if terms else '0'} {end!r})"
