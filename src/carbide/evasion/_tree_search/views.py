"""Rows as the search sees them: one-hot groups and missing values in columns of their own (``recast``), implications in the trees.

What a row may do depends on how it is: a group that is not one-hot as it stands cannot be moved, only a missing value can be filled, and an
implication that the row breaks as it stands is not asked while both its features stay. So rows that are alike share views, and the cheapest
change of a row is the cheapest over its views.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.evasion._tree_search.recast import Shape
from carbide.space.prices import group_moves
from carbide.space.relations import features_of, keeps, parts_of
from carbide.types import Array, Implication, Kind, LpBall, Price, PriceTable, Ratio, Relation, Space, Sum

MOST = 4  # implications that a row breaks as it stands, beyond which the search gives bounds


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Rows in the columns of ``shape`` (None = as they are), their space and prices; ``tables`` price group columns in a ball.

    ``filled``: features whose missing value may be filled; ``clean``: the features of the rows.
    """

    shape: Shape | None
    space: Space
    prices: PriceTable | None
    tables: dict[int, Array]
    filled: tuple[int, ...] = ()

    def rows(self, x: Array) -> Array:
        """Rows ``(n, d)`` in the columns ``(n, c)``; a missing value that may be filled is some value that it may have."""
        if self.shape is None:
            return x
        groups = [x[:, list(group)].argmax(1) for group in self.shape.groups]
        flags = [np.isnan(x[:, f]) for f in self.shape.flags]
        made = np.column_stack([x, *groups, *flags]).astype(float)
        for f in self.filled:
            low, high = self.space.lower[f], self.space.upper[f]
            made[:, f] = low if np.isfinite(low) else high if np.isfinite(high) else 0.0
        return made

    def back(self, made: Array, x: Array) -> Array:
        """The rows ``(n, d)`` that changed columns ``(n, c)`` of rows ``x`` stand for."""
        if self.shape is None:
            return made
        d, shape = self.shape.features, self.shape
        out = made[:, :d].copy()
        for g, group in enumerate(shape.groups):
            out[:, list(group)] = np.eye(len(group))[made[:, d + g].astype(int)]
        for i, f in enumerate(shape.flags):
            out[made[:, d + len(shape.groups) + i] == 1, f] = np.nan
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Changes of rows: all of them in ``loose``; where ``hard`` names relations that this leaves out, ``held`` keeps those by holding features still."""

    loose: Side
    held: Side
    hard: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How rows are: the groups that are one-hot, the features whose value is missing, the implications that are broken; each by number."""

    on: tuple[int, ...]
    gone: tuple[int, ...]
    broken: tuple[int, ...]


def views(x: Array, space: Space, threat: PriceTable | LpBall) -> list[tuple[Array, tuple[View, ...]]]:
    """Indices of rows of ``x`` ``(n, d)`` that are alike, and views that together hold all their changes."""
    prices = threat if isinstance(threat, PriceTable) else None
    made = KNOWN.setdefault(space, weakref.WeakKeyDictionary()).setdefault(prices or NO_PRICES, {})
    parts = made.setdefault("parts" if prices else threat, _Parts(space, threat))
    if parts.plain:
        side = made.setdefault("plain", Side(shape=None, space=space, prices=prices, tables={}))
        return [(np.arange(len(x)), (View(loose=side, held=side),))]
    found = []
    for kind, rows in _alike(x, parts):
        key = (kind, None if prices else threat)
        if key not in made:
            made[key] = tuple(parts.views(kind))
        found.append((rows, made[key]))
    return found


NO_PRICES = PriceTable(prices={})
KNOWN: weakref.WeakKeyDictionary[Space, weakref.WeakKeyDictionary[PriceTable, dict[Any, Any]]] = weakref.WeakKeyDictionary()


def _alike(x: Array, parts: _Parts) -> Iterator[tuple[_Kind, Array]]:
    """Rows that are alike, and how they are; without rows, what all of them can be, so that what cannot be searched is refused."""
    if not len(x):
        yield _Kind(on=tuple(parts.moves), gone=(), broken=()), np.arange(0)
        return
    on = [np.isin(x[:, g], (0.0, 1.0)).all(1) & (x[:, g].sum(1) == 1) for g in (list(parts.space.groups[n]) for n in parts.moves)]
    gone = [np.isnan(x[:, f]) for f in parts.flags]
    broken = [~keeps(x, r) for r in parts.implications]
    marks = np.column_stack([np.zeros(len(x), bool), *on, *gone, *broken])
    every, which = np.unique(marks, axis=0, return_inverse=True)
    for number, mark in enumerate(every[:, 1:]):
        a, b, c = np.split(mark, np.cumsum([len(on), len(gone)]))
        groups = tuple(n for n, good in zip(parts.moves, a, strict=True) if good)
        yield _Kind(on=groups, gone=tuple(f for f, out in zip(parts.flags, b, strict=True) if out), broken=tuple(np.flatnonzero(c).tolist())), \
            np.flatnonzero(which.ravel() == number)  # fmt: skip


class _Parts:
    """What of a space needs columns or trees of its own, and the sides made of it."""

    def __init__(self, space: Space, threat: PriceTable | LpBall) -> None:
        self.space, self.prices = space, threat if isinstance(threat, PriceTable) else None
        self.moves = group_moves(threat, space) if isinstance(threat, PriceTable) else _ball_moves(space, threat)
        self.implications = [r for r in space.relations if isinstance(r, Implication)]
        self.flags: dict[int, Price] = {}
        if self.prices is not None:
            named = {space.index(name): price for name, price in self.prices.prices.items()}
            self.flags = {f: p for f, p in named.items() if min(p.hide, p.fill) < np.inf and space.mutable[f]}
        self.plain = not (self.moves or self.flags or self.implications)

    def views(self, kind: _Kind) -> Iterator[View]:
        """Views that together hold all changes of rows of a kind."""
        members = {f for n in kind.on for f in self.space.groups[n]}
        bound = tuple(r for r in self.space.relations if not isinstance(r, Implication) and members & set(features_of(r)))
        tied = tuple(n for n in kind.on if any(set(self.space.groups[n]) & set(features_of(r)) for r in bound))
        hard = tuple(f"a relation holds {self.space.name(self.space.groups[n][0])} of a one-hot group" for n in tied)
        many = len(kind.broken) > MOST
        ways = [()] if many else [way for size in range(len(kind.broken) + 1) for way in itertools.combinations(kind.broken, size)]
        for still in ways:
            asked = tuple(r for i, r in enumerate(self.implications) if i not in (kind.broken if many else still))
            frozen = self._frozen(still)
            loose = self._side(kind, kind.on, frozen, asked, bound)
            held = loose
            if tied or many:
                held = self._side(kind, tuple(n for n in kind.on if n not in tied), self._frozen(kind.broken) if many else frozen, asked, ())
            more = (f"{len(kind.broken)} implications are broken as the row stands",) if many else ()
            yield View(loose=loose, held=held, hard=(*hard, *more))

    def _frozen(self, still: tuple[int, ...]) -> set[int]:
        """The features of implications that stay as they are, and what would move them."""
        frozen = {f for i in still for f in features_of(self.implications[i])}
        return frozen | {f for r in self.space.relations if isinstance(r, Ratio | Sum) and r.target in frozen for f in parts_of(r)}

    def _side(self, kind: _Kind, on: tuple[int, ...], frozen: set[int], asked: tuple[Implication, ...], bound: tuple[Relation, ...]) -> Side:
        space, d = self.space, len(self.space.names)
        on = tuple(n for n in on if not frozen & set(space.groups[n]))
        flags = tuple(f for f, p in self.flags.items() if f not in frozen and (p.fill if f in kind.gone else p.hide) < np.inf)
        filled = tuple(f for f in flags if f in kind.gone)
        sizes = [len(space.groups[n]) for n in on]
        more = len(on) + len(flags)
        mutable = space.mutable.copy()
        mutable[[*frozen, *(f for group in space.groups for f in group)]] = False
        names = [
            *space.names,
            *(f"one of {', '.join(space.name(f) for f in space.groups[n])}" for n in on),
            *(f"{space.name(f)} is missing" for f in flags),
        ]
        columns = Space.table(names, lower=np.append(space.lower, np.zeros(more)), upper=np.concatenate([space.upper, [s - 1.0 for s in sizes], np.ones(len(flags))]),
                              step=np.append(space.step, np.ones(more)), mutable=np.append(mutable, np.ones(more, bool)),
                              kind=np.append(space.kind, np.full(more, Kind.CATEGORICAL)),
                              relations=tuple(r for r in space.relations if not isinstance(r, Implication) and r not in bound))  # fmt: skip
        shape = Shape(features=d, groups=tuple(space.groups[n] for n in on), flags=flags, implications=asked)
        tables = {d + i: self.moves[n] for i, n in enumerate(on)}
        if self.prices is None:
            return Side(shape=shape, space=columns, prices=None, tables=tables)
        members = {space.name(f) for group in space.groups for f in group}
        own = {name: replace(price, hide=np.inf, fill=np.inf) for name, price in self.prices.prices.items() if name not in members}
        own |= {names[d + i]: Price(matrix=self.moves[n]) for i, n in enumerate(on)}
        for i, f in enumerate(flags):
            own[names[d + len(on) + i]] = Price(up=self.flags[f].hide, down=self.flags[f].fill)
            if f in filled:
                own[names[f]] = Price(up=0.0, down=0.0)
        return Side(shape=shape, space=columns, prices=replace(self.prices, prices=own, groups={}), tables={}, filled=filled)


def _ball_moves(space: Space, threat: LpBall) -> dict[int, Array]:
    """What moving a one-hot group adds to the norm, squared for p = 2: two values change by 1."""
    found, size = {}, 1.0 if np.isinf(threat.p) else 2.0
    for number, group in enumerate(space.groups):
        free = space.mutable[list(group)]
        moves = np.where(free[:, None] & free & ~np.eye(len(group), dtype=bool), size, np.inf)
        np.fill_diagonal(moves, 0.0)
        if np.isfinite(moves).sum() > len(group):
            found[number] = moves
    return found
