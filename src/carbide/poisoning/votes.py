"""Votes of a partition ensemble and what they certify: arrays in, numbers out.

A poisoned row reaches one partition, and one partition moves one vote; so the gap between the two leading classes says
how many partitions must be poisoned before the answer can change (Levine and Feizi 2021, https://arxiv.org/abs/2006.14768).

>>> import numpy as np
>>> votes = np.array([[7, 2, 1], [2, 7, 1]])
>>> winners(votes).tolist(), certified_changes(votes).tolist()  # the tie of the second row would go to class 0
([0, 1], [2, 2])
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Certificate, Figure, Series


def winners(votes: Array) -> Array:
    """The class ``(n,)`` with most votes ``(n, k)``; ties go to the lowest class, or for two classes to class 1.

    That is how ``carbide.types.decide`` reads the shares of the votes.
    """
    if votes.shape[1] == 2:
        return (votes[:, 1] >= votes[:, 0]).astype(np.int64)
    return votes.argmax(1).astype(np.int64)


def certified_changes(votes: Array) -> Array:
    """The most ballots ``(n,)`` int64 that can be replaced by any others without changing the winner of a row.

    With the winner c and ``[c' < c] = 1`` where class c' would win a tie against c, it is the least over c' of
    ``floor((votes[c] - votes[c'] - [c' < c]) / 2)``: a replaced ballot takes at most one vote from c and gives at most
    one to c'. It is exact as long as every ballot may be replaced.
    """
    n, classes = votes.shape
    votes = votes.astype(np.int64)
    top = winners(votes)
    order = np.arange(classes) if classes != 2 else np.array([1, 0])  # who wins ties: the lower number
    gap = votes[np.arange(n), top][:, None] - votes - (order[None, :] < order[top][:, None])
    gap[np.arange(n), top] = np.iinfo(np.int64).max
    return gap.min(1) // 2


def certified_share(bound: Array, rows: Array) -> Array:
    """The share of inputs whose certified number ``bound`` ``(n,)`` is at least ``rows`` ``(m,)``, as ``(m,)`` floats."""
    ordered = np.sort(bound)
    return 1.0 - np.searchsorted(ordered, rows, side="left") / max(len(ordered), 1)


def certified_figure(certificate: Certificate) -> Figure:
    """Certified accuracy against the number of poisoned rows (or suppliers), from the bounds of a partition certificate."""
    top = int(max(certificate.bound.max(initial=0), 1))
    x = np.unique(np.linspace(0, top + 1, min(top + 2, 200)).astype(np.int64))
    line = Series(name=certificate.method, x=x, y=certified_share(certificate.bound, x))
    return Figure(kind="steps", title="Accuracy that no poisoning can take away", x_label=f"poisoned {certificate.unit}",
                  y_label="certified accuracy", series=(line,), note=certificate.claim)  # fmt: skip
