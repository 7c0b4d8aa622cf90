"""Jayaraman & Evans 2022, https://arxiv.org/abs/2209.01292: what an attacker knows about a sensitive feature without the model.

Whoever has other people's rows learns from them what the feature usually is, given everything else. That guess, imputation, owes nothing
to the model; an attack has found something only where it does better. The learner is chosen among three by cross-validation.

>>> import numpy as np
>>> x, truth = np.array([[0.0], [1.0]] * 30), np.array([0, 1] * 30)
>>> impute(x, truth, 2, np.random.default_rng(0))(np.array([[0.0], [1.0]])).argmax(1).tolist()
[0, 1]
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from carbide.types import Array, Rng

FOLDS = 3
MOST = 5000  # rows that are learned from
FLOOR = 1e-3  # no value is believed to be impossible


def impute(x: Array, truth: Array, count: int, rng: Rng) -> Callable[[Array], Array]:
    """A function from what is known ``(n, e)`` to beliefs ``(n, count)`` that sum to one, learned from rows whose value is known.

    Rows with the value -1 are left out. The learner that gives held-out rows the highest likelihood is taken, a
    logistic regression or a forest, if it beats the shares alone by more than one standard error.
    """
    kept = rng.permutation(np.flatnonzero(truth >= 0))[:MOST]
    x, truth = x[kept], truth[kept]
    parts, seed = np.arange(len(truth)) % FOLDS, int(rng.integers(2**31))
    held: dict[str, Array] = {}
    for name in _learners(seed):
        fits = [_fit(name, seed, x[parts != f], truth[parts != f], count) for f in range(FOLDS)]
        held[name] = np.concatenate([_log_likelihood(fit(x[parts == f]), truth[parts == f]) for f, fit in enumerate(fits)])
    best = max(held, key=lambda name: held[name].mean())
    better = held[best] - held["shares"]
    return _fit(best if better.mean() > better.std() / np.sqrt(len(better)) else "shares", seed, x, truth, count)


def _learners(seed: int) -> dict[str, Callable[[], Any]]:
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {"shares": lambda: None, "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=300)),
            "forest": lambda: RandomForestClassifier(50, min_samples_leaf=5, n_jobs=1, random_state=seed)}  # fmt: skip


def _fit(name: str, seed: int, x: Array, truth: Array, count: int) -> Callable[[Array], Array]:
    """One learner's beliefs; where it cannot learn (no features, one value) the shares."""
    shares = (np.bincount(truth, minlength=count) + 1.0) / (len(truth) + count)
    learner = _learners(seed)[name]()
    if learner is None or not x.shape[1] or len(np.unique(truth)) < 2:
        return lambda rows: np.tile(shares, (len(rows), 1))
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        learner.fit(x, truth)

    def beliefs(rows: Array) -> Array:
        found = np.zeros((len(rows), count))
        if len(rows):
            found[:, learner.classes_] = learner.predict_proba(rows)
        return (found + FLOOR * shares) / (1 + FLOOR)

    return beliefs


def _log_likelihood(beliefs: Array, truth: Array) -> Array:
    return np.log(np.maximum(beliefs[np.arange(len(truth)), truth], 1e-12))
