"""The plain arrays that the compiled search works on: trees whose nodes compare cell numbers, and the axes an attacker moves along.

Feature f's thresholds, sorted over all trees, cut its values into cells: cell j holds ``cuts[j - 1] < v <= cuts[j]``. An axis
is a feature that the attacker can change; a ratio that follows its numerator has no axis of its own but is linked to that axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide.models.trees import Ensemble
from carbide.types import Array


class Forest(NamedTuple):
    """Trees with one number a leaf: the row evades where the library's sum of them is below the cutoff.

    ``node`` ``(m, 4)`` int32: number of the threshold among all ``cuts`` (-1 = leaf), left child, right child, whether NaN goes left. In place of
    a leaf's number, children and ``roots`` ``(t,)`` hold ``-number - 1``. ``value`` ``(m,)`` of leaves; ``cuts`` ``(c,)`` float64 ascending within feature f's ``start[f] : start[f + 1]``, and
    ``above`` the next larger doubles; ``base`` and ``single`` say how the library sums, ``largest`` how
    large the sum of the leaves' sizes can be; ``shared``: whether any node has two parents. ``barred`` is what broken implications add at most.
    """

    node: Array
    value: Array
    roots: Array
    cuts: Array
    above: Array
    start: Array
    base: float
    single: bool
    largest: float
    shared: bool
    barred: float = 0.0


class Axes(NamedTuple):
    """What the attacker can change, one entry an axis (``a`` axes).

    ``feature`` ``(a,)``; a move from v to w costs ``fixed + up * (w - v) ** power`` (or ``down`` for ``v > w``), or is read from
    the matrix of ``size`` rows at ``matrix`` in ``moves``, whose first value is ``anchor``, or by stairs: way up (down) it is
    ``fixed + stair_paid`` of the first of ``stair[2a] : stair[2a + 1]`` (``stair[2a + 1] : stair[2a + 2]``) whose ``stair_by`` is no less than the way.
    ``step`` 0 = continuous, else values are ``anchor + j * step``. What the attacker ``earns`` a unit by raising the axis is taken off its price.
    Axis a moves the targets ``link_start[a] : link_start[a + 1]`` of ``link_target``: ratios over column ``link_below`` or, where that is -1, sums
    ``link_slope * v + link_rest[row]``. ``low`` and ``high`` ``(n, a)`` bound the changed values of each row; ``axis_of`` ``(d,)`` is a feature's
    axis or -1; ``straight``: a real axis whose prices are linear on either side.
    """

    feature: Array
    up: Array
    down: Array
    fixed: Array
    power: Array
    step: Array
    anchor: Array
    matrix: Array
    size: Array
    moves: Array
    stair: Array
    stair_by: Array
    stair_paid: Array
    earns: Array
    straight: Array
    link_start: Array
    link_target: Array
    link_below: Array
    link_slope: Array
    link_rest: Array
    low: Array
    high: Array
    axis_of: Array


class Ties(NamedTuple):
    """Linear relations between axes, in groups (``g`` groups) that share no axis, and each group's candidate corners.

    Group g ties the axes ``axes[axis_start[g] : axis_start[g + 1]]`` by the rows ``row_start[g] : row_start[g + 1]`` of
    ``coefficients @ v <= rhs[row of x]``. A corner sets each axis to its least value (0), its largest (1), its clean value (2) or
    leaves it free (3); the k free ones follow from k rows that are met with equality, through ``inverse``.
    """

    axis_start: Array
    axes: Array
    row_start: Array
    coefficients: Array
    rhs: Array
    corner_start: Array
    state: Array
    free: Array
    rows: Array
    count: Array
    inverse: Array


def forest_of(ensemble: Ensemble, value: Array, base: float) -> Forest:
    """The ensemble's trees with these leaf values ``(m,)`` and thresholds numbered feature by feature."""
    inner = np.flatnonzero(ensemble.feature >= 0)
    feature, threshold = ensemble.feature[inner], ensemble.threshold[inner]
    order = np.lexsort((threshold, feature))
    new = np.ones(len(order), np.bool_)
    new[1:] = (np.diff(feature[order]) != 0) | (threshold[order][1:] != threshold[order][:-1])  # some may be infinite
    node = np.full((len(ensemble.feature), 4), -1, np.int32)
    node[inner[order], 0] = np.cumsum(new) - 1
    node[:, 1:3], node[:, 3] = _named(ensemble.children, ensemble.feature), ensemble.missing_left
    cuts, start = threshold[order][new], np.searchsorted(feature[order][new], np.arange(ensemble.features + 1))
    children = ensemble.children[inner].ravel()
    shared = len(children) > 0 and int(np.bincount(children).max()) > 1
    value = np.ascontiguousarray(value, np.float64)
    largest = np.maximum.reduceat(np.abs(value), ensemble.roots).sum() + abs(base)
    return Forest(node=node, value=value, largest=float(largest), roots=_named(ensemble.roots, ensemble.feature), cuts=cuts, above=np.nextafter(cuts, np.inf),
                  start=start.astype(np.int64), base=float(base), single=ensemble.single, shared=shared)  # fmt: skip


def _named(nodes: Array, feature: Array) -> Array:
    """Numbers of nodes, those of leaves below 0."""
    return np.where(feature[nodes] < 0, -nodes - 1, nodes).astype(np.int32)
