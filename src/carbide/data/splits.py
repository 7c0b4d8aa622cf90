"""Cuts of a data set into train, validation and test: by row, by group or by time.

>>> import numpy as np
>>> [len(part) for part in cut_rows(10, (0.6, 0.2, 0.2), np.random.default_rng(0))]
[6, 2, 2]
>>> [part.tolist() for part in cut_time(np.array([3, 1, 2, 2, 9]), (0.6, 0.2, 0.2))]
[[1, 2, 3], [0], [4]]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Rng

Cut = tuple[Array, Array, Array]


def cut_rows(n: int, shares: tuple[float, float, float], rng: Rng, *, y: Array | None = None) -> Cut:
    """Three disjoint sorted arrays of row indices with these shares; stratified by ``y`` ``(n,)`` when given."""
    groups = [np.arange(n)] if y is None else [np.flatnonzero(y == c) for c in np.unique(y)]
    parts: list[list[Array]] = [[], [], []]
    for rows in groups:
        order = rng.permutation(rows)
        first, second = round(shares[0] * len(order)), round((shares[0] + shares[1]) * len(order))
        for part, piece in zip(parts, (order[:first], order[first:second], order[second:]), strict=True):
            part.append(piece)
    a, b, c = (np.sort(np.concatenate(part)) for part in parts)
    return a, b, c


def cut_groups(groups: Array, shares: tuple[float, float, float], rng: Rng, *, y: Array | None = None) -> Cut:
    """Three disjoint sorted arrays of row indices such that no group of ``groups`` ``(n,)`` is in two of them.

    Groups are drawn in random order; with ``y`` ``(n,)`` they are stratified by the rarest label they hold. With groups
    of one row each the shares are met as closely as rounding allows.
    """
    _, code = np.unique(groups, return_inverse=True)
    sizes = np.bincount(code)
    stratum = np.zeros(len(sizes), np.int64)
    if y is not None:
        _, label, count = np.unique(y, return_inverse=True, return_counts=True)
        rank = np.empty(len(count), np.int64)
        rank[np.argsort(count, kind="stable")] = np.arange(len(count))
        stratum[:] = len(count)
        np.minimum.at(stratum, code, rank[label])
    part = np.empty(len(sizes), np.int64)
    for value in np.unique(stratum):
        order = rng.permutation(np.flatnonzero(stratum == value))
        part[order] = _fill(sizes[order], shares)
    return _rows_of(part[code])


def cut_time(times: Array, shares: tuple[float, float, float]) -> Cut:
    """Three arrays of row indices, each in order of time, with every time of a part before every time of the next.

    Rows of the same time (``times`` ``(n,)`` of numbers) stay together.
    """
    _, code, sizes = np.unique(times, return_inverse=True, return_counts=True)
    part = _fill(sizes, shares)[code]
    order = np.argsort(code, kind="stable")
    a, b, c = (order[part[order] == p] for p in range(3))
    return a, b, c


def _fill(sizes: Array, shares: tuple[float, float, float]) -> Array:
    """The part of each of a sequence of blocks: where the block's middle lies among the shares of the whole."""
    ends = np.cumsum(sizes)
    bounds = np.array([shares[0], shares[0] + shares[1]]) * ends[-1]
    return np.searchsorted(bounds, ends - sizes / 2, side="left")


def _rows_of(part: Array) -> Cut:
    return np.flatnonzero(part == 0), np.flatnonzero(part == 1), np.flatnonzero(part == 2)
