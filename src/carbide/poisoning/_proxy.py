"""Stand-ins for the victim's model, by which an attacker who does not know it chooses among poisons."""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.types import Array, Dataset, Rng

LIMIT = 4000  # rows that a stand-in is trained on at most


def flat(x: Array) -> Array:
    """Rows ``(n, d)``."""
    return x.reshape(len(x), -1)


def halves(y: Array, rng: Rng) -> tuple[Array, Array]:
    """Two disjoint sets of row indices, every class split evenly."""
    order = np.argsort(y + rng.random(len(y)) * 0.5, kind="stable")
    return np.sort(order[0::2]), np.sort(order[1::2])


def sample(rows: Array, rng: Rng, limit: int) -> Array:
    """At most ``limit`` of the rows, drawn without replacement."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def forest(rng: Rng, trees: int = 40) -> Any:
    """A small forest of extremely randomised trees."""
    from sklearn.ensemble import ExtraTreesClassifier

    return ExtraTreesClassifier(trees, min_samples_leaf=2, random_state=int(rng.integers(2**31)))


def linear() -> Any:
    """A standardised ridge classifier."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeClassifier(alpha=1.0))


def probabilities(dataset: Dataset, rng: Rng, limit: int = LIMIT) -> Array:
    """Class probabilities ``(n, classes)`` of each row from a forest that did not see it (two halves, crosswise)."""
    first, second = halves(dataset.y, rng)
    out = np.zeros((len(dataset), dataset.classes))
    for fit, score in ((first, second), (second, first)):
        rows = sample(fit, rng, limit)
        model = forest(rng).fit(flat(dataset.x[rows]), dataset.y[rows])
        out[np.ix_(score, model.classes_)] = model.predict_proba(flat(dataset.x[score]))
    return out


def boosted(rng: Rng) -> Any:
    """A short run of boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(max_iter=20, max_leaf_nodes=8, early_stopping=False, random_state=int(rng.integers(2**31)))
