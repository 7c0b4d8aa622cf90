"""Trees over columns of their own for what is no number on a line: which member of a one-hot group is on, and whether a value is missing.

A group's column holds the place of the member that is on, so that moving it is one move with one price; a test of a member becomes a test
whether the place is that member's. A flag's column is 1 where a feature's value is missing; a test of the feature asks it first.
An implication becomes a tree that adds nothing where the row keeps it and too much to evade where it does not.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.trees import ensemble_of
>>> trees = ensemble_of(DecisionTreeClassifier().fit(np.eye(3), [0, 1, 0]))
>>> ours, value = recast(trees, trees.value[:, 1], Shape(features=3, groups=((0, 1, 2),)), penalty=0.0)
>>> ours.feature[ours.feature >= 0].tolist(), ours.threshold[ours.feature >= 0].tolist()  # the place is 1: above 0.5, and at most 1.5
([3, 3], [0.5, 1.5])
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from carbide.models.trees import Ensemble
from carbide.types import Array, Implication

WIDER = 6  # times as many nodes as a tree may get before its tests share their children instead, which the search cuts less sharply


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Columns after the ``features`` of the rows: one for every one of ``groups``, then one for every one of ``flags``; and implications."""

    features: int
    groups: tuple[tuple[int, ...], ...] = ()
    flags: tuple[int, ...] = ()
    implications: tuple[Implication, ...] = ()

    @property
    def columns(self) -> int:
        """How many columns there are in all."""
        return self.features + len(self.groups) + len(self.flags)


def recast(ensemble: Ensemble, value: Array, shape: Shape, *, penalty: float) -> tuple[Ensemble, Array]:
    """The trees over the columns of ``shape``, and the numbers ``(m,)`` of their leaves in place of ``value``.

    Every row of the columns gets the leaves that the row it stands for gets in ``ensemble``, and ``penalty`` for every implication that it breaks.
    """
    shared = len(ensemble.children) > 0 and int(np.bincount(ensemble.children[ensemble.feature >= 0].ravel(), minlength=1).max(initial=0)) > 1
    made = _Trees(ensemble=ensemble, value=value, shape=shape)
    ends = np.append(ensemble.roots[1:], len(ensemble.feature))
    for root, end in zip(ensemble.roots.tolist(), ends.tolist(), strict=True):
        made.tree(root, end - root, chained=shared)
    for r in shape.implications:
        made.implication(r, penalty)
    feature = np.array(made.feature, np.int32)
    return replace(ensemble, feature=feature, threshold=np.array(made.threshold, float), children=np.array(made.children, np.int32).reshape(-1, 2),
                   missing_left=np.array(made.missing, bool), value=np.zeros((len(feature), 1)), leaf=np.full(len(feature), -1),
                   roots=np.array(made.roots, np.int32), output=np.zeros(len(made.roots), np.int32), features=shape.columns), np.array(made.number)  # fmt: skip


class _TooMany(Exception):
    """A tree has grown too wide."""


@dataclass(kw_only=True, eq=False)
class _Trees:
    """The nodes made so far, and where members and flags have their columns."""

    ensemble: Ensemble
    value: Array
    shape: Shape
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    missing: list[bool] = field(default_factory=list)
    number: list[float] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        d, groups = self.shape.features, self.shape.groups
        self.member = {f: (d + g, place) for g, group in enumerate(groups) for place, f in enumerate(group)}
        self.flag = {f: d + len(groups) + i for i, f in enumerate(self.shape.flags)}
        self.sizes = {d + g: len(group) for g, group in enumerate(groups)}
        self.old = (
            self.ensemble.feature.tolist(),
            self.ensemble.threshold.tolist(),
            self.ensemble.children.tolist(),
            self.ensemble.missing_left.tolist(),
        )
        self.numbers = self.value.tolist()

    def node(self, feature: int = -1, threshold: float = 0.0, missing: bool = False, number: float = 0.0) -> int:
        """A new node without children; its place."""
        self.feature.append(feature)
        self.threshold.append(threshold)
        self.children.append([-1, -1])
        self.missing.append(missing)
        self.number.append(number)
        return len(self.feature) - 1

    def tree(self, root: int, size: int, *, chained: bool) -> None:
        """One tree of the ensemble, with branches copied or, where there would be too many, shared."""
        first = len(self.feature)
        if not chained:
            try:
                self.roots.append(self._copied(root, {}, first + WIDER * size + 64))
                return
            except _TooMany:
                for part in (self.feature, self.threshold, self.children, self.missing, self.number):
                    del part[first:]
        self.roots.append(self._chained(root, {}))

    def _copied(self, node: int, known: dict[int, tuple[int, int]], limit: int) -> int:
        """A node and what is below it where the columns lie in the ranges that are ``known``."""
        feature, threshold, children, missing = self.old
        if len(self.feature) > limit:
            raise _TooMany
        while feature[node] in self.member:
            column, place = self.member[feature[node]]
            low, high = known.get(column, (0, self.sizes[column] - 1))
            t = threshold[node]
            on = None if low <= place <= high and low < high else low == place == high
            if t >= 1 or t < 0 or on is not None:
                node = children[node][int(t < 1 and (t < 0 or bool(on)))]
                continue
            if place == low:
                return self._split(column, place, (children[node][1], children[node][0]), node, known, (low, high), limit)
            if place == high:
                return self._split(column, place - 1, (children[node][0], children[node][1]), node, known, (low, high), limit)
            return self._split(column, place - 1, (children[node][0], node), node, known, (low, high), limit)
        f = feature[node]
        if f < 0:
            return self.node(number=self.numbers[node])
        if f in self.flag:
            low, high = known.get(self.flag[f], (0, 1))
            if low < high:
                return self._split(self.flag[f], 0, (node, node), node, known, (low, high), limit)
            if low == 1:
                return self._copied(children[node][0 if missing[node] else 1], known, limit)
        new = self.node(f, threshold[node], missing[node])
        self.children[new] = [self._copied(child, known, limit) for child in children[node]]
        return new

    def _split(
        self, column: int, last: int, sides: tuple[int, int], node: int, known: dict[int, tuple[int, int]], ends: tuple[int, int], limit: int
    ) -> int:
        """A test whether a column is at most ``last``, and the two old nodes that follow."""
        new = self.node(column, last + 0.5)
        ranges = ((ends[0], last), (last + 1, ends[1]))
        self.children[new] = [self._copied(side, {**known, column: both}, limit) for side, both in zip(sides, ranges, strict=True)]
        return new

    def _chained(self, node: int, done: dict[int, int]) -> int:
        """A node and what is below it, every old node made once."""
        if node in done:
            return done[node]
        feature, threshold, children, missing = self.old
        f, t = feature[node], threshold[node]
        if f < 0:
            done[node] = self.node(number=self.numbers[node])
            return done[node]
        left, right = (self._chained(child, done) for child in children[node])
        if f in self.member:
            column, place = self.member[f]
            if t < 0 or t >= 1:
                done[node] = right if t < 0 else left
                return done[node]
            done[node] = self.node(column, place - 0.5)
            self.children[done[node]] = [left, self.node(column, place + 0.5)]
            self.children[-1] = [right, left]
            return done[node]
        new = self.node(f, t, missing[node])
        self.children[new] = [left, right]
        if f in self.flag:
            asked = self.node(self.flag[f], 0.5)
            self.children[asked] = [new, left if missing[node] else right]
            new = asked
        done[node] = new
        return new

    def implication(self, r: Implication, penalty: float) -> None:
        """A tree of an implication between features of the rows."""
        e = self.ensemble
        tests = [(r.cause, _before(r.at_least), True), (r.cause, r.at_most, False), (r.effect, _before(r.lower), True), (r.effect, r.upper, False)]
        nodes: list[tuple[int, float, int, int, bool, float]] = []
        for f, t, under in tests:  # the way out, which a missing value takes, is on the left of a lower end and on the right of an upper one
            if np.isfinite(t):
                at = len(nodes)
                nodes.append((f, t, *((at + 1, at + 2) if under else (at + 2, at + 1)), under, 0.0))
                nodes.append((-1, 0.0, -1, -1, False, 0.0 if f == r.cause else penalty))
        nodes.append((-1, 0.0, -1, -1, False, 0.0))
        part = replace(e, feature=np.array([n[0] for n in nodes]), threshold=np.array([n[1] for n in nodes]),
                       children=np.array([n[2:4] for n in nodes]), missing_left=np.array([n[4] for n in nodes]))  # fmt: skip
        made = _Trees(ensemble=part, value=np.array([n[5] for n in nodes]), shape=self.shape)
        made.tree(0, len(nodes), chained=False)
        first = len(self.feature)
        self.roots.append(first + made.roots[0])
        self.feature += made.feature
        self.threshold += made.threshold
        self.missing += made.missing
        self.number += made.number
        self.children += [[first + child if child >= 0 else -1 for child in pair] for pair in made.children]


def _before(v: float) -> float:
    return float(np.nextafter(v, -np.inf)) if np.isfinite(v) else v
