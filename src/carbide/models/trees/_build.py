"""Assembles an ``Ensemble`` node by node and translates other libraries' tests into ``x <= threshold`` in double precision."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from carbide.models.trees.ensemble import Ensemble
from carbide.types import Array


def last_single_left(thresholds: Array, *, strict: bool) -> Array:
    """The largest doubles that, cast to float32, are ``<=`` (or, if strict, ``<``) these thresholds ``(m,)``."""
    t = np.asarray(thresholds, np.float64)
    with np.errstate(over="ignore"):
        single = t.astype(np.float32)
        below = np.nextafter(single, np.float32(-np.inf))
    over = single.astype(np.float64) >= t if strict else single.astype(np.float64) > t
    last = np.where(over, below, single)  # the largest float32 that goes left
    with np.errstate(over="ignore"):
        above = np.nextafter(last, np.float32(np.inf)).astype(np.float64)
    top = np.float64(np.finfo(np.float32).max)
    above = np.where(last == np.float32(top), top + 2.0**104, above)
    middle = last.astype(np.float64) / 2 + above / 2
    with np.errstate(over="ignore"):
        return np.where(middle.astype(np.float32) <= last, middle, np.nextafter(middle, -np.inf))


@dataclass(kw_only=True)
class Builder:
    """Collects nodes of trees in lists; children are always added after their parents."""

    width: int
    feature: list[int] = field(default_factory=list)
    threshold: list[float] = field(default_factory=list)
    children: list[list[int]] = field(default_factory=list)
    missing_left: list[bool] = field(default_factory=list)
    value: list[Array] = field(default_factory=list)
    leaf: list[int] = field(default_factory=list)
    roots: list[int] = field(default_factory=list)
    output: list[int] = field(default_factory=list)

    def node(self) -> int:
        """A new node, a leaf of value 0 until told otherwise."""
        self.feature.append(-1)
        self.threshold.append(np.inf)
        self.children.append([-1, -1])
        self.missing_left.append(False)
        self.value.append(np.zeros(self.width))
        self.leaf.append(-1)
        return len(self.feature) - 1

    def root(self, output: int) -> int:
        """The root of a new tree that adds to this output (-1 = to all)."""
        self.roots.append(len(self.feature))
        self.output.append(output)
        return self.node()

    def test(self, node: int, feature: int, threshold: float, left: int, right: int, *, missing_left: bool) -> None:
        """Make ``node`` send ``x[feature] <= threshold`` to ``left`` and the rest to ``right``."""
        self.feature[node], self.threshold[node], self.children[node], self.missing_left[node] = (
            feature,
            float(threshold),
            [left, right],
            missing_left,
        )

    def end(self, node: int, value: Array | float, name: int) -> None:
        """Make ``node`` a leaf with this value and this name in its library."""
        self.value[node], self.leaf[node] = np.broadcast_to(np.asarray(value, np.float64), (self.width,)), name

    def runs(self, node: int, feature: int, cuts: list[float], *, inside: int, outside: int, missing: int | None = None) -> None:
        """Make ``node`` send values at or below ``cuts[0]``, above ``cuts[-1]``, between 1 and 2, ... to ``outside``, the rest to ``inside``.

        NaN goes to ``missing``, one of the two, or outside where that is left out.
        """
        missing = outside if missing is None else missing
        for i, cut in enumerate(cuts):
            last = i == len(cuts) - 1
            following = outside if last else self.node()
            here = inside if i % 2 else outside
            self.test(node, feature, cut, here, following, missing_left=here == missing)
            node = following

    def done(self, **rest: object) -> Ensemble:
        """The ensemble, its nodes ordered so that children come after their parents."""
        children = np.array(self.children, np.int32).reshape(-1, 2)
        rank = _topological(children, np.array(self.roots, np.int64))
        order = np.argsort(rank)
        moved = np.where(children >= 0, rank[children], -1)[order].astype(np.int32)
        return Ensemble(feature=np.array(self.feature, np.int32)[order], threshold=np.array(self.threshold, np.float64)[order], children=moved,
                        missing_left=np.array(self.missing_left, np.bool_)[order], value=np.array(self.value, np.float64).reshape(-1, self.width)[order],
                        leaf=np.array(self.leaf, np.int64)[order], roots=rank[np.array(self.roots, np.int64)].astype(np.int32),
                        output=np.array(self.output, np.int32), **rest)  # type: ignore[arg-type]  # fmt: skip


def _topological(children: Array, roots: Array) -> Array:
    """New positions of the nodes: tree by tree, every node before its children, left subtrees first."""
    rank, position = np.full(len(children), -1, np.int64), len(children)
    for root in roots[::-1]:
        stack = [(int(root), False)]
        while stack:  # depth-first post-order, numbered from the back
            node, finished = stack.pop()
            if finished:
                position -= 1
                rank[node] = position
                continue
            if rank[node] >= 0:
                continue
            rank[node] = len(children)  # seen; its number follows once its children have theirs
            stack.append((node, True))
            if children[node, 0] >= 0:
                stack += [(int(children[node, 0]), False), (int(children[node, 1]), False)]
    return rank
