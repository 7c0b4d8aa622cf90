"""The cheapest values of tied axes inside a box: linear relations, solved by trying every corner.

With prices that are linear on either side of the clean value (and a fixed price for leaving it), a least-cost point of a
polyhedron lies where as many equations meet as there are axes: bounds, clean values and relations met with equality. Groups are
small, so all such corners are tried. Whole numbers stay exact for relations that compare two of them with unit coefficients.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import numpy as np

from carbide.evasion._compiled import uncounted
from carbide.evasion._tree_search.cells import rated
from carbide.evasion._tree_search.layout import Ties
from carbide.types import Array

SLACK = 0.5e-9
LARGEST = 5  # axes in a group; more corners than these take too long


class Corners(NamedTuple):
    """The candidate corners of one group, one entry a corner, as in ``Ties``."""

    state: Array
    free: Array
    rows: Array
    count: Array
    inverse: Array


def make_ties(groups: list[list[int]], relations: list[list[tuple[Array, Array]]], rows: int) -> Ties:
    """Groups of axes with their relations: ``(coefficients, one a group's axis; right-hand sides, one a row of x)``."""
    if not groups:
        return NO_TIES._replace(rhs=np.zeros((rows, 0)))
    return _made(groups, relations, rows)


def _made(groups: list[list[int]], relations: list[list[tuple[Array, Array]]], rows: int) -> Ties:
    matrices = [np.array([c for c, _ in ties]) for ties in relations]
    corners = [NONE, *(_corners(m.tobytes(), m.shape) for m in matrices)]
    flat = [tie for ties in relations for tie in ties]
    coefficients = np.zeros((len(flat), LARGEST))
    for row, (c, _) in zip(coefficients, flat, strict=True):
        row[: len(c)] = c
    return Ties(axis_start=np.cumsum([0, *map(len, groups)]), axes=np.array([a for g in groups for a in g], np.int64),
                row_start=np.cumsum([0, *map(len, relations)]), coefficients=coefficients,
                rhs=np.array([r for _, r in flat], float).reshape(len(flat), rows).T.copy(),
                corner_start=np.cumsum([len(c.count) for c in corners]), state=np.concatenate([c.state for c in corners]),
                free=np.concatenate([c.free for c in corners]), rows=np.concatenate([c.rows for c in corners]),
                count=np.concatenate([c.count for c in corners]), inverse=np.concatenate([c.inverse for c in corners]))  # fmt: skip


def _no_corners(n: int) -> Corners:
    blank = np.full((n, LARGEST), -1, np.int64)
    return Corners(state=blank, free=blank.copy(), rows=blank.copy(), count=np.zeros(n, np.int64), inverse=np.zeros((n, LARGEST, LARGEST)))


NONE = _no_corners(0)


NO_TIES = _made([], [], 0)


@functools.lru_cache(maxsize=64)
def _corners(coefficients: bytes, shape: tuple[int, int]) -> Corners:
    """The corners of a group's relations, given as the bytes of their coefficients ``(relations, axes)``."""
    matrix = np.frombuffer(coefficients).reshape(shape)
    found = list(_combinations(matrix, shape[1]))
    made = _no_corners(len(found))
    for i, (state, free, met, inverse) in enumerate(found):
        k = len(free)
        made.state[i, : shape[1]], made.free[i, :k], made.rows[i, :k], made.count[i], made.inverse[i, :k, :k] = state, free, met, k, inverse
    return made


def _combinations(matrix: Array, m: int):
    for k in range(min(m, len(matrix)) + 1):
        for free in itertools.combinations(range(m), k):
            for met in itertools.combinations(range(len(matrix)), k):
                block = matrix[np.ix_(met, free)]
                if k and abs(np.linalg.det(block)) < 1e-12:
                    continue
                inverse = np.linalg.inv(block) if k else np.zeros((0, 0))
                for rest in itertools.product((2, 0, 1), repeat=m - k):
                    others = iter(rest)
                    yield tuple(3 if i in free else next(others) for i in range(m)), free, met, inverse


@uncounted
def keeps(ties, g, i, point, row, axes):  # pragma: no cover - compiled
    """Whether the values of group g keep its relations in row i; those between unchanged values are not asked."""
    first, m = ties.axis_start[g], ties.axis_start[g + 1] - ties.axis_start[g]
    coefficients, rhs, members, feature = ties.coefficients, ties.rhs, ties.axes, axes.feature
    for r in range(ties.row_start[g], ties.row_start[g + 1]):
        total, size, moved = 0.0, 1.0 + abs(rhs[i, r]), False
        for k in range(m):
            c = coefficients[r, k]
            if c != 0.0:
                term = c * point[k]
                total, size = total + term, size + abs(term)
                moved = moved or point[k] != row[feature[members[first + k]]]
        if moved and not total <= rhs[i, r] + SLACK * size:
            return False
    return True


@uncounted
def cheapest(ties, g, i, row, axes, cells, low, high, best, point, whole):  # pragma: no cover - compiled
    """The least cost of group g's axes in the box of cells, with its values in ``best``; inf where nothing is allowed."""
    first, m = ties.axis_start[g], ties.axis_start[g + 1] - ties.axis_start[g]
    states, members, feature, bottom, top, home = ties.state, ties.axes, axes.feature, cells.low, cells.high, cells.home
    up, down, fixed, power, counts, starts = axes.up, axes.down, axes.fixed, axes.power, cells.count, cells.start
    least = np.inf
    for corner in range(ties.corner_start[g], ties.corner_start[g + 1]):
        paid = 0.0
        for k in range(m):
            state = states[corner, k]
            if state == 3:
                continue
            a = members[first + k]
            v = row[feature[a]]
            if counts[a] == 0:
                point[k] = v
                if state != 2:
                    paid = np.inf
            elif state == 2:
                point[k] = v
                if not low[a] <= home[a] <= high[a]:
                    paid = np.inf
            else:
                w = bottom[starts[a] + low[a]] if state == 0 else top[starts[a] + high[a]]
                point[k] = w
                if w != v:
                    paid += rated(v, w, up[a] if w > v else down[a], fixed[a], power[a]) if np.isfinite(w) else np.inf
            if paid >= least:
                break
        if paid >= least:
            continue
        rounding = 1
        if ties.count[corner] > 0:
            rounding = _free(ties, g, i, corner, row, axes, cells, low, high, point, whole)
        for way in range(rounding):
            total = paid
            for j in range(ties.count[corner]):
                k = ties.free[corner, j]
                if rounding > 1:
                    point[k] = whole[way, k]
                total += _inside(ties.axes[first + k], row, axes, cells, low, high, point, k)
                if total >= least:
                    break
            if total < least and keeps(ties, g, i, point, row, axes):
                least = total
                for k in range(m):
                    best[k] = point[k]
    return least


@uncounted
def _free(ties, g, i, corner, row, axes, cells, low, high, point, whole):  # pragma: no cover - compiled
    """Solve the corner's free values; returns in how many ways they can be rounded to whole steps (into ``whole``), 0 if they cannot be."""
    first, m, n = ties.axis_start[g], ties.axis_start[g + 1] - ties.axis_start[g], ties.count[corner]
    for j in range(n):
        k = ties.free[corner, j]
        point[k] = 0.0
        for q in range(n):
            r = ties.rows[corner, q]
            r += ties.row_start[g]
            rest = ties.rhs[i, r]
            for other in range(m):
                if ties.state[corner, other] != 3:
                    rest -= ties.coefficients[r, other] * point[other]
            point[k] += ties.inverse[corner, j, q] * rest
    ways = 1
    for j in range(n):
        k = ties.free[corner, j]
        a = ties.axes[first + k]
        if not np.isfinite(point[k]):
            return 0
        step = axes.step[a]
        if step > 0:
            exact = (point[k] - axes.anchor[a]) / step
            near = np.round(exact)
            if abs(exact - near) <= 1e-9 * (1.0 + abs(near)):
                whole[0, k] = whole[1, k] = axes.anchor[a] + near * step
            else:
                whole[0, k], whole[1, k] = axes.anchor[a] + np.floor(exact) * step, axes.anchor[a] + np.ceil(exact) * step
            ways = 2
        else:
            whole[0, k] = whole[1, k] = point[k]
    return ways


@uncounted
def _inside(a, row, axes, cells, low, high, point, k):  # pragma: no cover - compiled
    """What the solved value costs, moved onto the box's edge where only rounding keeps it out; inf outside."""
    v = row[axes.feature[a]]
    if cells.count[a] == 0:
        near = abs(point[k] - v) <= 1e-9 * (1.0 + abs(v))
        point[k] = v
        return 0.0 if near else np.inf
    start = cells.start[a]
    least, most = cells.low[start + low[a]], cells.high[start + high[a]]
    room = 1e-9 * (1.0 + abs(point[k]))
    if point[k] < least - room or point[k] > most + room:
        return np.inf
    point[k] = min(max(point[k], least), most)
    if point[k] == v:
        return 0.0
    return rated(v, point[k], axes.up[a] if point[k] > v else axes.down[a], axes.fixed[a], axes.power[a])
