"""Whether a changed row is one that the attacker of a threat can make: bounds, whole numbers, immutability, relations, money.

Only what changed is asked about: a clean row that lies outside its bounds or breaks a relation may stay as it is.

>>> import numpy as np
>>> from carbide.types import FeatureBudget, Price, PriceTable, Space
>>> space = Space.table(["amount", "limit"], lower=np.zeros(2))
>>> threat = FeatureBudget(money=5, prices=PriceTable(prices={"amount": Price(down=1.0)}))
>>> inside(np.array([[6.0, 9.0], [4.0, 9.0]]), np.array([[8.0, 9.0], [12.0, 9.0]]), space, threat).tolist()
[True, False]
"""

from __future__ import annotations

import numpy as np

from carbide.space.balls import inside_ball
from carbide.space.patches import inside_patch
from carbide.space.prices import cost
from carbide.space.relations import holds_where_changed, targets_of
from carbide.types import Array, FeatureBudget, InputError, LpBall, Patch, Space, Threat

__all__ = ["allowed", "cost", "inside"]

SLACK = 1e-9


def inside(x: Array, x0: Array, space: Space, threat: Threat) -> Array:
    """Whether each row of ``x`` ``(n, *shape)`` is a change of ``x0`` that the threat allows, ``(n,)`` bool.

    Raises:
        InputError: if the threat is none of ``FeatureBudget``, ``LpBall`` and ``Patch``.
    """
    if isinstance(threat, LpBall):
        return np.asarray(inside_ball(x, x0, p=threat.p, eps=threat.eps, lower=space.lower, upper=space.upper))
    if isinstance(threat, Patch):
        return allowed(x, x0, space) & inside_patch(x, x0, threat, space)
    if not isinstance(threat, FeatureBudget):
        raise InputError(f"{type(threat).__name__} changes no inputs; give a FeatureBudget, an LpBall or a Patch")
    paid = cost(x0, x, threat.prices, space)
    return allowed(x, x0, space) & (paid <= threat.money * (1 + SLACK) + SLACK)


def allowed(x: Array, x0: Array, space: Space) -> Array:
    """Whether each changed row keeps bounds, steps, immutability, one-hot groups and relations, and lacks only what may be missing, whatever it costs."""
    x, x0 = (np.asarray(part, float).reshape(len(part), space.lower.size) for part in (x, x0))
    changed = ~((x == x0) | (np.isnan(x) & np.isnan(x0)))
    lower, upper, step = space.lower.ravel(), space.upper.ravel(), space.step.ravel()
    mutable = space.mutable.ravel().copy()
    mutable[targets_of(space)] = True
    with np.errstate(invalid="ignore"):
        within = np.isfinite(x) & (x >= lower - SLACK * (1 + np.abs(lower))) & (x <= upper + SLACK * (1 + np.abs(upper)))
        anchor = np.where(np.isfinite(lower), lower, 0.0)
        steps = (x - anchor) / np.where(step > 0, step, 1.0)
        whole = (step == 0) | (np.abs(steps - np.round(steps)) <= 1e-6)
    real = within & whole
    if space.missing is not None:
        real |= np.isnan(x) & space.missing.ravel()
    good = (~changed | (real & mutable)).all(1)
    for group in space.groups:
        columns = list(group)
        one = (np.isin(x[:, columns], (0.0, 1.0)).all(1)) & (x[:, columns].sum(1) == 1)
        good &= one | ~changed[:, columns].any(1)
    return good & holds_where_changed(x, x0, space)
