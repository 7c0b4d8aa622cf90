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

    ``feature`` ``(m,)`` int32 (-1 = leaf), ``cut`` ``(m,)`` int32 (number of the threshold among its feature's), ``left``, ``right``
    ``(m,)`` int32, ``missing_left`` ``(m,)``, ``value`` ``(m,)``, ``roots`` ``(t,)``; ``cuts`` ``(c,)`` float64 with feature f's at
    ``start[f] : start[f + 1]``; ``base`` and ``single`` say how the library sums.
    """

    feature: Array
    cut: Array
    left: Array
    right: Array
    missing_left: Array
    value: Array
    roots: Array
    cuts: Array
    start: Array
    base: float
    single: bool


class Axes(NamedTuple):
    """What the attacker can change, one entry an axis (``a`` axes).

    ``feature`` ``(a,)``; a move from v to w costs ``fixed + up * (w - v) ** power`` (or ``down`` for ``v > w``), or is read from
    the matrix of ``size`` rows at ``matrix`` in ``moves``, whose first value is ``anchor``. ``step`` 0 = continuous, else values are
    ``anchor + j * step``. Axis a moves the ratios ``link_start[a] : link_start[a + 1]`` of ``link_target`` over ``link_below``.
    ``low`` and ``high`` ``(n, a)`` bound the changed values of each row; ``axis_of`` ``(d,)`` is a feature's axis or -1.
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
    link_start: Array
    link_target: Array
    link_below: Array
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
    inner = ensemble.feature >= 0
    lists = [np.unique(ensemble.threshold[inner & (ensemble.feature == f)]) for f in range(ensemble.features)]
    start = np.concatenate([[0], np.cumsum([len(c) for c in lists])]).astype(np.int64)
    cut = np.zeros(len(ensemble.feature), np.int32)
    for f, cuts in enumerate(lists):
        here = inner & (ensemble.feature == f)
        cut[here] = np.searchsorted(cuts, ensemble.threshold[here])
    return Forest(feature=ensemble.feature.astype(np.int32), cut=cut, left=np.ascontiguousarray(ensemble.children[:, 0]),
                  right=np.ascontiguousarray(ensemble.children[:, 1]), missing_left=ensemble.missing_left, value=np.ascontiguousarray(value, np.float64),
                  roots=ensemble.roots, cuts=np.concatenate([*lists, np.zeros(0)]), start=start, base=float(base), single=ensemble.single)  # fmt: skip
