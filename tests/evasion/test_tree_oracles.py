"""The cheapest evasion against HiGHS, wherever HiGHS can judge, for every library, kind of price and relation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from carbide.evasion._tree_search import cutoff, search
from tests.oracles import milp
from tests.oracles.instances import KINDS, LIBRARIES, MORE, instance

JUDGED = tuple(k for k in MORE if k in ("one-hot", "stairs", "implication", "bound group"))  # HiGHS has no missing values or sums here


@pytest.mark.parametrize(("kinds", "count"), [(KINDS, 60), (JUDGED, 40)])
def test_highs_agrees_wherever_it_can_judge(kinds, count):
    """Thresholds lie off the scores: HiGHS meets a constraint to 1e-6 only and cannot tell a tie from an evasion."""
    compared = 0
    for number in range(count):
        world = instance(kinds[number % len(kinds)], LIBRARIES[number % len(LIBRARIES)], 50 + number, trees=6, depth=3, rows=1)
        world = replace(world, threshold=world.threshold - 1.37e-4)
        found = search(world.ensemble, world.rows, world.prices, world.space, threshold=world.threshold, budget=np.inf)
        exact = milp.cheapest(world.ensemble, world.rows[0], world.prices, world.space, cutoff=cutoff(world.ensemble, world.threshold))
        assert found.lower[0] <= exact + 1e-6
        assert found.cost[0] >= exact - 1e-6
        if found.status[0] != "unknown":
            compared += 1
            assert found.cost[0] == pytest.approx(exact, abs=1e-6)
    assert compared >= 0.8 * count
