"""Sums that are taken over from the node above, shared out over threads or looked up without branches are the sums counted one by one."""

from __future__ import annotations

import numpy as np
import pytest

from carbide.evasion._threads import Threads
from carbide.evasion.robust_trees import Box, Spender
from carbide.evasion.robust_trees.bins import bin_rows, binned, cuts_of, table_of
from carbide.evasion.robust_trees.grow import Grower, grow
from carbide.evasion.robust_trees.leaves import slopes
from carbide.evasion.robust_trees.splits import NEWTON, newton_split, rules
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


@pytest.mark.parametrize("kind", ["box", "prices"])
def test_threads_grow_the_same_bits(kind):
    rng = np.random.default_rng(6)
    n, d = 22_000, 25
    x = rng.normal(size=(n, d))
    y = (x[:, 0] + x[:, 3] * x[:, 4] + 0.5 * rng.normal(size=n) > 0).astype(int)
    x[rng.random(x.shape) < 0.02] = np.nan
    reach, p, asked = reach_of(kind, x, y), rng.uniform(0.2, 0.8, n), rules(kind=NEWTON, depth=4, least=1.0, features=d)
    rest = (y == 1, p - y, p * (1 - p), np.arange(n, dtype=np.int32), np.arange(d), 0)
    with Threads(1) as one, Threads(3) as three:
        alone, shared = Grower(reach, asked, one).grow(*rest), Grower(reach, asked, three)
        for beside in (shared.grow(*rest), shared.grow(*rest)):  # the second one on what the first has used
            for name, a, b in zip(alone._fields, alone, beside, strict=True):
                assert np.array_equal(a, b), name
        assert three.pool is not None
    assert (alone.feature >= 0).sum() == 15


@pytest.mark.parametrize("kind", ["still", "box"])
@pytest.mark.parametrize("missing", [False, True])
def test_the_root_is_split_where_every_cut_tried_says(kind, missing):
    rng = np.random.default_rng(8)
    n = 300
    x = np.round(rng.normal(size=(n, 5)), 1)
    y = (x[:, 0] + x[:, 2] + 0.7 * rng.normal(size=n) > 0).astype(int)
    if missing:
        x[rng.random(x.shape) < 0.2] = np.nan
    reach, p = reach_of(kind, x, y), rng.uniform(0.2, 0.8, n)
    g, h = p - y, p * (1 - p)
    tree = grow(reach, rules(kind=NEWTON, depth=1, least=2.0, features=5), y == 1, g, h, np.arange(n, dtype=np.int32), np.arange(5), 0)

    def sums(rows):
        return np.array([part[rows & (y == label)].sum() for label in (1, 0) for part in (g, h)])

    best = (-np.inf, -1, -1)
    for f in range(5):
        low, high, gone = reach.low[f].astype(int), reach.high[f].astype(int), reach.bin[f] == 255
        for k in range(reach.count[f]):
            left, right = (high <= k) & ~gone, (low > k) & ~gone
            for both_left in (True, False):
                a, b = (left | gone, right) if both_left else (left, right | gone)
                score = newton_split(sums(a), sums(b), sums(~(a | b)), 1.0, 2.0)[0]
                best = max(best, (score, -f, -k))
    assert (tree.feature[0], tree.cut[0]) == (-best[1], -best[2])
    assert tree.gain[0] == pytest.approx(best[0] - g.sum() ** 2 / (h.sum() + 1), rel=1e-9)
    assert tree.cover[1:3].sum() >= h.sum() - 1e-9


def test_slopes_are_those_of_the_logistic_loss():
    score = np.concatenate([np.random.default_rng(0).normal(size=1200) * 20, [0.0, 1e-9, -30.0, 30.0, 650.0, -650.0, 1e5, -1e5]])
    for label in (False, True):
        positive, weight = np.full(len(score), label), np.linspace(0.5, 2, len(score))
        g, h = np.empty_like(score), np.empty_like(score)
        mean = slopes(score, positive, weight, g, h)
        margin = score if label else -score
        assert mean == pytest.approx(np.average(np.logaddexp(0, -margin), weights=weight), rel=1e-14)
        far = np.exp(-np.clip(np.abs(margin), 0, 690))
        wrong = np.where(margin > 0, far / (1 + far), 1 / (1 + far))
        near = np.abs(score) < 690
        np.testing.assert_allclose(np.abs(g)[near], (weight * wrong)[near], rtol=2e-15)
        np.testing.assert_allclose(h, weight * np.maximum(far / (1 + far) ** 2, 1e-16), rtol=2e-15)
        assert (g <= 0).all() if label else (g >= 0).all()


@pytest.mark.parametrize("most", [2, 255])
def test_bins_looked_up_without_branches_are_those_searched(most):
    rng = np.random.default_rng(9)
    x = rng.normal(size=(700, 4))
    x[:, 1], x[:, 2] = np.floor(x[:, 1]), 3.0
    cuts = [cuts_of([column], most=most) for column in x.T]
    x[:40:4], x[1:40:4], x[2:40:4], x[3:40:4] = np.nan, np.inf, -np.inf, 1e300
    for f, c in enumerate(cuts):
        x[40 : 40 + len(c), f] = c
    out = np.full((4, 700), 77, np.uint8)
    bin_rows(x, table_of(cuts), np.array([len(c) for c in cuts]), out, 0, 300)
    bin_rows(x, table_of(cuts), np.array([len(c) for c in cuts]), out, 300, 700)
    np.testing.assert_array_equal(out, [binned(column, c) for column, c in zip(x.T, cuts, strict=True)])
