"""Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068: confident learning, labels that a model is confident are wrong.

A row is counted as "labelled i, truly j" when its out-of-fold probability of j reaches what class j's own rows reach on
average. The counts estimate how many labels of each kind are wrong; ranks say which. Arrays in, numbers out.

>>> import numpy as np
>>> p = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.2, 0.8], [0.05, 0.95]])
>>> suspects(np.array([0, 0, 1, 1, 0]), p).rows.tolist()  # the last row looks like class 1
[False, False, False, False, True]
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide.types import Array


class Suspects(NamedTuple):
    """``rows`` ``(n,)`` bool are probably mislabelled, ``labels`` ``(n,)`` what they probably are (the given label elsewhere).

    ``joint`` ``(k, k)`` estimates the share of rows with given label i and true label j.
    """

    rows: Array
    labels: Array
    joint: Array


def thresholds(y: Array, probabilities: Array) -> Array:
    """The mean probability ``(k,)`` of a class over the rows that carry its label; inf for a class without rows."""
    count = np.bincount(y, minlength=probabilities.shape[1])
    total = np.bincount(y, weights=probabilities[np.arange(len(y)), y], minlength=probabilities.shape[1])
    return np.where(count > 0, total / np.maximum(count, 1), np.inf)


def confident_labels(y: Array, probabilities: Array) -> Array:
    """The likeliest class ``(n,)`` among those whose probability reaches the class's threshold; -1 where none does."""
    reached = probabilities >= thresholds(y, probabilities) - 1e-12
    best = np.where(reached, probabilities, -np.inf).argmax(1)
    return np.where(reached.any(1), best, -1)


def confident_joint(y: Array, probabilities: Array) -> Array:
    """Counts ``(k, k)`` of rows with given label i that are confidently j."""
    k = probabilities.shape[1]
    said = confident_labels(y, probabilities)
    sure = said >= 0
    return np.bincount(y[sure] * k + said[sure], minlength=k * k).reshape(k, k)


def noise_joint(y: Array, probabilities: Array) -> Array:
    """The estimated joint distribution ``(k, k)`` of given and true labels: each row of counts is scaled to its label's share."""
    k = probabilities.shape[1]
    counts = confident_joint(y, probabilities).astype(float)
    np.fill_diagonal(counts, np.maximum(counts.diagonal(), (counts.sum(1) == 0).astype(float)))  # no confident row: taken as right
    return counts / counts.sum(1, keepdims=True) * (np.bincount(y, minlength=k) / len(y))[:, None]


def suspects(y: Array, probabilities: Array, *, least: int = 0, most: float = 0.5) -> Suspects:
    """The rows that are mislabelled by count and by rank, at most as many of each label as the joint estimates.

    For each label i the ``floor(n * sum over j of joint[i, j])`` rows that are likeliest of another class rather than i,
    and only those likelier of the other class. No class loses more than the share ``most`` of its rows, nor falls below
    ``least`` rows.
    """
    n, k = probabilities.shape
    joint = noise_joint(y, probabilities)
    own = probabilities[np.arange(n), y]
    rivals = probabilities.copy()
    rivals[np.arange(n), y] = -1.0
    margin = rivals.max(1) - own
    rows, labels = np.zeros(n, bool), y.copy()
    for i in range(k):
        count = int((y == i).sum())
        wrong = int(np.floor(n * (joint[i].sum() - joint[i, i]) + 1e-9))
        allowed = max(0, min(wrong, int(most * count), count - least))
        found = np.flatnonzero((y == i) & (margin > 0))
        rows[found[np.argsort(-margin[found], kind="stable")[:allowed]]] = True
    labels[rows] = rivals[rows].argmax(1)
    return Suspects(rows, labels, joint)
