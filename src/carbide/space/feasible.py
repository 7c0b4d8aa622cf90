"""Whether a row can keep all linear relations, sums and implications of a space at once; if none can, the few that contradict each other.

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

from carbide.types import Array, Implication, Linear, Relation, Space, Sum


def contradiction(space: Space, relations: Sequence[Relation]) -> tuple[int, ...]:
    """The numbers of relations that no row within the bounds (whole or not) keeps together, none of which can be left out; () = all can.

    Ratios are not asked.
    """
    numbers = [i for i, r in enumerate(relations) if isinstance(r, Linear | Sum | Implication)]
    if len(numbers) < 2 or _together(space, [relations[i] for i in numbers]):
        return ()
    for i in list(numbers):
        rest = [j for j in numbers if j != i]
        if rest and not _together(space, [relations[j] for j in rest]):
            numbers = rest
    return tuple(numbers)


def _together(space: Space, relations: Sequence[Relation]) -> bool:
    """Whether some row within the bounds keeps these relations."""
    bounds = np.column_stack([space.lower.ravel(), space.upper.ravel()])
    return _within(space, [r for r in relations if not isinstance(r, Implication)], [r for r in relations if isinstance(r, Implication)], bounds)


def _within(space: Space, linear: Sequence[Relation], implied: Sequence[Implication], bounds: Array) -> bool:
    """As ``_together`` within bounds ``(d, 2)``: where the row found breaks an implication, its ways to hold are tried one by one."""
    if (bounds[:, 0] > bounds[:, 1]).any():
        return False
    row = _row(space, linear, bounds)
    if row is None:
        return False
    broken = next((r for r in implied if r.at_least <= row[r.cause] <= r.at_most and not r.lower <= row[r.effect] <= r.upper), None)
    if broken is None:
        return True
    rest, step = [r for r in implied if r is not broken], float(space.step.ravel()[broken.cause])
    under, over = (end + way * step if step else float(np.nextafter(end, way * np.inf)) for end, way in ((broken.at_least, -1), (broken.at_most, 1)))
    ways = ((broken.effect, broken.lower, broken.upper), (broken.cause, -np.inf, under), (broken.cause, over, np.inf))
    for f, low, high in ways:
        tighter = bounds.copy()
        tighter[f] = max(bounds[f, 0], low), min(bounds[f, 1], high)
        if low < np.inf and high > -np.inf and _within(space, linear, rest, tighter):
            return True
    return False


def _row(space: Space, relations: Sequence[Relation], bounds: Array) -> Array | None:
    """A row ``(d,)`` within bounds that keeps linear relations, sums and one-hot groups, each as a share of one; None if there is none."""
    d = len(bounds)
    least, most, equal, right = [], [], [], []
    for r in relations:
        row = np.zeros(d)
        assert isinstance(r, Linear | Sum)
        np.add.at(row, list(r.features), r.coefficients)
        if isinstance(r, Sum):
            row[r.target] -= 1.0
            equal.append(row)
            right.append(0.0)
        else:
            least.append(row)
            most.append(r.upper + 1e-9 * (1.0 + abs(r.upper)))
    for group in space.groups:
        row = np.zeros(d)
        row[list(group)] = 1.0
        equal.append(row)
        right.append(1.0)
    found = linprog(np.zeros(d), A_ub=np.array(least) if least else None, b_ub=most or None, A_eq=np.array(equal) if equal else None,
                    b_eq=right or None, bounds=bounds)  # fmt: skip
    return None if found.status == 2 else np.zeros(d) if found.x is None else found.x
