"""Whether a row can keep all linear relations of a space at once; if none can, the few that contradict each other.

>>> import numpy as np
>>> from carbide.types import Linear, Space
>>> below = [Linear(features=pair, coefficients=(1.0, -1.0), upper=-1.0) for pair in ((0, 1), (1, 2), (2, 0))]
>>> space = Space.table(["a", "b", "c"], lower=np.zeros(3), upper=np.full(3, 9.0))
>>> contradiction(space, tuple(below)), contradiction(space, tuple(below[:2]))
((0, 1, 2), ())
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linprog

from carbide.types import Linear, Relation, Space


def contradiction(space: Space, relations: Sequence[Relation]) -> tuple[int, ...]:
    """The numbers of linear relations that no row within the bounds (whole or not) keeps together, none of which can be left out; () = all can."""
    numbers = [i for i, r in enumerate(relations) if isinstance(r, Linear)]
    if len(numbers) < 2 or _together(space, [relations[i] for i in numbers]):
        return ()
    for i in list(numbers):
        rest = [j for j in numbers if j != i]
        if rest and not _together(space, [relations[j] for j in rest]):
            numbers = rest
    return tuple(numbers)


def _together(space: Space, relations: Sequence[Relation]) -> bool:
    """Whether some row within the bounds keeps these linear relations."""
    d = space.lower.size
    matrix, upper = np.zeros((len(relations), d)), np.zeros(len(relations))
    for row, r in enumerate(relations):
        assert isinstance(r, Linear)
        np.add.at(matrix[row], list(r.features), r.coefficients)
        upper[row] = r.upper + 1e-9 * (1.0 + abs(r.upper))
    bounds = np.column_stack([space.lower.ravel(), space.upper.ravel()])
    equal = np.zeros((len(space.groups), d))
    for row, group in enumerate(space.groups):
        equal[row, list(group)] = 1.0
    ones = np.ones(len(space.groups))
    found = linprog(np.zeros(d), A_ub=matrix, b_ub=upper, A_eq=equal if len(ones) else None, b_eq=ones if len(ones) else None, bounds=bounds)
    return found.status != 2
