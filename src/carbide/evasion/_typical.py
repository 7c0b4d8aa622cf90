"""The average case of changes that are rendered: how often a model is right on draws from the range, apart from the worst that was found.

>>> from carbide.types import Distortion
>>> right = np.array([[True, True], [False, True]])
>>> typical_findings(Distortion(rotation=9), "robust accuracy", ["", ""], right, seed=0)[0].value
0.75
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from carbide.stats.intervals import clopper_pearson
from carbide.types import Access, Array, Corruption, Distortion, Finding


def typical_findings(threat: Distortion | Corruption, metric: str, names: Sequence[str], right: Array, *, seed: int) -> tuple[Finding, ...]:
    """The mean over all draws, then each kind of corruption; ``right`` ``(draws, n)`` bool, ``names`` the corruption of each draw or empty."""
    plain = metric.removeprefix("robust ")
    kinds = [name for name in dict.fromkeys(names) if name]
    shares = {kind: right[[name == kind for name in names]].mean(0) for kind in kinds or [""]}
    how = f"the mean over {len(kinds)} kinds of corruption" if kinds else f"{len(names)} uniform draws a row from the whole range"
    told = [(f"mean {plain} under {'corruption' if kinds else 'distortion'}", np.mean(list(shares.values()), axis=0),
             f"average case, no attacker: {how}; the headline is the worst case")]  # fmt: skip
    told += [(f"{plain} under {kind}", shares[kind], "average case: one kind of corruption") for kind in kinds]
    return tuple(_finding(threat, *one, seed=seed) for one in told)


def _finding(threat: Distortion | Corruption, metric: str, share: Array, note: str, *, seed: int) -> Finding:
    total, n = float(share.sum()), len(share)
    # Of n shares in [0, 1]: an interval for n answers of yes or no is no shorter than one for such shares.
    low, high = clopper_pearson(math.floor(total + 1e-9), n).low, clopper_pearson(math.ceil(total - 1e-9), n).high
    return Finding(metric=metric, value=total / n, low=low, high=high, n=n, method="random draws", threat=threat.words(), access=Access.LABELS.words(),
                   seed=seed, note=note)  # fmt: skip
