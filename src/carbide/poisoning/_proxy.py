"""Stand-ins for the victim's model, by which an attacker who does not know it chooses among poisons."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from carbide.types import Array, Dataset, Rng

LIMIT = 4000  # rows that a stand-in is trained on at most


def flat(x: Array) -> Array:
    """Rows ``(n, d)``, missing values as 0."""
    return np.nan_to_num(x.reshape(len(x), -1), nan=0.0)


def halves(y: Array, rng: Rng) -> tuple[Array, Array]:
    """Two disjoint sets of row indices, every class split evenly."""
    order = np.argsort(y + rng.random(len(y)) * 0.5, kind="stable")
    return np.sort(order[0::2]), np.sort(order[1::2])


def sample(rows: Array, rng: Rng, limit: int) -> Array:
    """At most ``limit`` of the rows, drawn without replacement."""
    return rows if len(rows) <= limit else np.sort(rng.choice(rows, limit, replace=False))


def balanced(y: Array, rows: Array, rng: Rng, limit: int) -> Array:
    """At most ``limit`` of the rows; rare classes are kept whole as far as an equal share of the limit goes."""
    if len(rows) <= limit:
        return rows
    share = max(1, limit // len(np.unique(y[rows])))
    kept = np.concatenate([sample(rows[y[rows] == c], rng, share) for c in np.unique(y[rows])])
    rest = np.setdiff1d(rows, kept)
    return np.sort(np.concatenate([kept, sample(rest, rng, max(0, limit - len(kept)))]))


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


def net(rng: Rng) -> Any:
    """A small perceptron, trained briefly."""
    from sklearn.neural_network import MLPClassifier

    return MLPClassifier((32,), max_iter=40, learning_rate_init=0.01, random_state=int(rng.integers(2**31))).set_params(batch_size=64)


def fitted(model: Any, x: Array, y: Array) -> Any:
    """The stand-in trained on rows; that a brief training has not converged is no news."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(flat(x), y)


def probabilities(dataset: Dataset, rng: Rng, limit: int = LIMIT) -> Array:
    """Class probabilities ``(n, classes)`` of each row from a forest that did not see it (two halves, crosswise)."""
    first, second = halves(dataset.y, rng)
    out = np.zeros((len(dataset), dataset.classes))
    for fit, score in ((first, second), (second, first)):
        rows = sample(fit, rng, limit)
        model = forest(rng).fit(flat(dataset.x[rows]), dataset.y[rows])
        out[np.ix_(score, model.classes_)] = model.predict_proba(flat(dataset.x[score]))
    return out


def tree(rng: Rng) -> Any:
    """One greedy tree, which splits where boosted trees split first."""
    from sklearn.tree import DecisionTreeClassifier

    return DecisionTreeClassifier(max_leaf_nodes=16, random_state=int(rng.integers(2**31)))


def scores(model: Any, x: Array, label: int) -> Array:
    """How much a fitted stand-in takes each row ``(n,)`` for the label."""
    columns = model.classes_.tolist()
    raw = model.predict_proba(x) if hasattr(model, "predict_proba") else model.decision_function(x)
    if raw.ndim == 1:
        return raw if columns[1] == label else -raw
    return raw[:, columns.index(label)] if label in columns else np.zeros(len(x))
