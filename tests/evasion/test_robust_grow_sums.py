"""Sums of features that nobody moves are taken over from the node above: the same trees as by counting every row."""

from __future__ import annotations

import numpy as np
import pytest

from carbide.evasion.robust_trees import Box, Spender
from carbide.evasion.robust_trees.grow import grow
from carbide.evasion.robust_trees.splits import NEWTON, rules
from carbide.types import FeatureBudget, Price, PriceTable, Space


def reach_of(kind: str, x: np.ndarray, y: np.ndarray):
    d = x.shape[1]
    if kind == "still":
        return Box().reach(x, y, most=64)
    if kind == "box":
        far = np.where(np.arange(d) < 2, 0.5, 0.0)
        return Box(up=far, down=far).reach(x, y, most=64)
    space = Space.table([f"c{i}" for i in range(d)], mutable=np.arange(d) < 2)
    threat = FeatureBudget(money=2.0, prices=PriceTable(prices={"c0": Price(up=3.0, down=3.0), "c1": Price(up=5.0, down=4.0)}))
    return Spender(threat=threat, space=space).reach(x, y, most=64)


@pytest.mark.parametrize("kind", ["still", "box", "prices"])
@pytest.mark.parametrize("missing", [False, True])
def test_sums_taken_over_are_sums_counted(kind, missing):
    rng = np.random.default_rng(5)
    x = rng.normal(size=(800, 6))
    y = (x[:, 0] + x[:, 3] * x[:, 4] + 0.5 * rng.normal(size=800) > 0).astype(int)
    if missing:
        x[rng.random(x.shape) < 0.1] = np.nan
    reach, positive = reach_of(kind, x, y), y == 1
    never = np.isinf(reach.up) & np.isinf(reach.down)
    assert never.sum() == (6 if kind == "still" else 4)
    p = rng.uniform(0.2, 0.8, 800)
    asked = rules(kind=NEWTON, depth=5, least=1.0, features=6)
    given = (asked, positive, p - y, p * (1 - p), np.arange(800, dtype=np.int32), np.arange(6), 0)
    taken = grow(reach, *given)
    # A finite price that no money pays is no different, but its feature is counted row by row.
    dear = reach._replace(up=np.where(never, 1e12, reach.up), down=np.where(never, 1e12, reach.down))
    counted = grow(dear, *given)
    assert (taken.feature >= 0).sum() > 10
    for name in ("feature", "cut", "children", "missing_left", "rows", "leaves"):
        assert np.array_equal(getattr(taken, name), getattr(counted, name)), name
    for name in ("value", "cover", "gain"):
        assert np.allclose(getattr(taken, name), getattr(counted, name), rtol=1e-9, atol=1e-9)
