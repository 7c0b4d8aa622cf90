"""What evasion is worth: an attacker changes a row only where that pays, so prices decide how much is lost.

>>> import numpy as np
>>> from carbide.types import Finding
>>> base = Finding(metric="robust recall", value=0.0, low=0.0, high=1.0, n=3, method="m", threat="t", access="", seed=0)
>>> found = money_findings(base, "$", np.array([10.0, 20.0, 30.0]), np.array([0.0, 5.0, 40.0]), np.array([10.0, 18.0, 30.0]))
>>> [(f.metric, round(f.value, 2)) for f in found]  # doctest: +NORMALIZE_WHITESPACE
[('frauds that pay', 0.67), ('money lost per 1,000 frauds ($)', 9333.33), ("attackers' profit per 1,000 frauds ($)", 8333.33),
 ('break-even price factor', 2.38)]
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from carbide.stats.intervals import clopper_pearson
from carbide.types import Array, Finding, rng_for

DRAWS = 2_000


def money_findings(base: Finding, currency: str, gain: Array, cost: Array, kept: Array) -> tuple[Finding, ...]:
    """How many rows pay, what is lost and earned per 1,000 of them, and by how much prices would have to rise.

    ``gain`` ``(n,)`` is what each row earns when it passes as it is, ``cost`` ``(n,)`` the least price at which it passes (0 = it does as it
    is, inf = it does not), ``kept`` ``(n,)`` what it earns once it is changed. A row that costs what it earns is not changed.
    """
    pays = cost < gain
    lost, profit = np.where(pays, kept, 0.0), np.where(pays, gain - np.where(pays, cost, 0.0), 0.0)
    low, high = clopper_pearson(int(pays.sum()), len(pays))
    rule = "a row is changed only where its gain exceeds the price"
    found = [replace(base, metric="frauds that pay", value=float(pays.mean()), low=low, high=high, n=len(pays), good=-1, headline=False, note=rule)]
    for name, worth in (("money lost", lost), ("attackers' profit", profit)):
        draws = worth[rng_for(base.seed, "money").integers(0, len(worth), (DRAWS, len(worth)))].mean(1)
        ends = np.quantile(draws, [0.025, 0.975])
        found.append(replace(found[0], metric=f"{name} per 1,000 frauds ({currency})", value=float(worth.mean() * 1000), low=float(ends[0] * 1000),
                             high=float(ends[1] * 1000), note=f"{rule}; interval by resampling rows"))  # fmt: skip
    moved = np.isfinite(cost) & (cost > 0)
    if moved.any():
        factors = np.sort(gain[moved] / cost[moved])
        draws = np.median(factors[rng_for(base.seed, "break even").integers(0, len(factors), (DRAWS, len(factors)))], axis=1)
        ends = np.quantile(draws, [0.025, 0.975])
        found.append(replace(found[0], metric="break-even price factor", value=float(np.median(factors)), low=float(ends[0]), high=float(ends[1]),
                             n=len(factors), note="prices this many times as high and evasion stops paying for half of the rows that it frees; below 1 it does "
                                                  "not pay already"))  # fmt: skip
    return tuple(found)
