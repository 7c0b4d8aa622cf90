"""Reads scikit-learn's trees, forests and boosted trees.

DecisionTree, ExtraTree, RandomForest, ExtraTrees and GradientBoosting compare ``x <= threshold`` after casting x to
float32; HistGradientBoosting compares in double.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.models.trees._build import Builder, last_single_left
from carbide.models.trees.ensemble import Ensemble
from carbide.types import InputError


def from_sklearn(estimator: Any) -> Ensemble:
    """The trees of a fitted scikit-learn classifier.

    Raises:
        InputError: if it is not fitted, has several outputs, an initial estimator that looks at the row, or categories that are no numbers.
    """
    name = type(estimator).__name__
    if not hasattr(estimator, "n_features_in_") or not hasattr(estimator, "classes_"):
        raise InputError(f"{name} is not fitted; call fit before you hand it to Carbide")
    if getattr(estimator, "n_outputs_", 1) != 1:
        raise InputError(f"{name} has {estimator.n_outputs_} outputs; give a classifier with one label column")
    if hasattr(estimator, "_predictors"):
        return _histogram(estimator)
    if hasattr(estimator, "_raw_predict_init"):
        return _boosted(estimator)
    return _averaged(estimator, getattr(estimator, "estimators_", [estimator]))


def _add(builder: Builder, tree: Any, values: np.ndarray, output: int) -> None:
    """One tree of ``sklearn.tree``; ``values`` ``(nodes, w)`` are its leaf values."""
    left, right = tree.children_left, tree.children_right
    cuts = last_single_left(tree.threshold, strict=False)
    missing = getattr(tree, "missing_go_to_left", np.zeros(len(left), np.uint8))
    start = builder.root(output)
    for _ in range(len(left) - 1):
        builder.node()
    for i in range(len(left)):
        if left[i] < 0:
            builder.end(start + i, values[i], i)
        else:
            builder.test(start + i, int(tree.feature[i]), cuts[i], start + int(left[i]), start + int(right[i]), missing_left=bool(missing[i]))


def _averaged(estimator: Any, members: Any) -> Ensemble:
    classes = np.asarray(estimator.classes_)
    builder = Builder(width=len(classes))
    for member in members:
        values = member.tree_.value[:, 0, :]
        sums = values.sum(1, keepdims=True)
        _add(builder, member.tree_, values / sums if np.abs(sums - 1).max() > 1e-6 else values, -1)  # older releases keep counts
    return builder.done(base=np.zeros(len(classes)), classes=classes, features=int(estimator.n_features_in_), link="mean",
                        library="sklearn", divisor=float(len(members)))  # fmt: skip


def _boosted(estimator: Any) -> Ensemble:
    d = int(estimator.n_features_in_)
    probes = np.stack([np.zeros(d), np.ones(d)]).astype(np.float32)
    start = np.asarray(estimator._raw_predict_init(probes), np.float64)
    init = estimator.init_
    if init != "zero" and type(init).__name__ != "DummyClassifier":
        raise InputError(f"init is {type(init).__name__}, which looks at the row; leave init out so that boosting starts from a constant")
    builder = Builder(width=1)
    for stage in estimator.estimators_:
        for k, member in enumerate(stage):
            _add(builder, member.tree_, estimator.learning_rate * member.tree_.value[:, 0, :], k)
    slope = 2.0 if estimator.loss == "exponential" else 1.0
    return builder.done(base=start[0].copy(), classes=np.asarray(estimator.classes_), features=d, slope=slope, library="sklearn",
                        link="sigmoid" if start.shape[1] == 1 else "softmax")  # fmt: skip


def _histogram(estimator: Any) -> Ensemble:
    columns, known = _columns(estimator)
    builder = Builder(width=1)
    for stage in estimator._predictors:
        for k, predictor in enumerate(stage):
            start = builder.root(k)
            for _ in range(len(predictor.nodes) - 1):
                builder.node()
            for i, node in enumerate(predictor.nodes):
                column, left, right = int(columns[node["feature_idx"]]), start + int(node["left"]), start + int(node["right"])
                if node["is_leaf"]:
                    builder.end(start + i, node["value"], i)
                elif node["is_categorical"]:
                    chosen = _chosen(known[column], predictor.raw_left_cat_bitsets[node["bitset_idx"]])
                    rest, listed, other = (right, ~chosen, left) if node["missing_go_to_left"] else (left, chosen, right)
                    builder.runs(start + i, column, _points(known[column][listed]), inside=rest, outside=other)
                else:
                    builder.test(start + i, column, float(node["num_threshold"]), left, right, missing_left=bool(node["missing_go_to_left"]))
    base = np.asarray(estimator._baseline_prediction, np.float64).reshape(-1)
    return builder.done(base=base, classes=np.asarray(estimator.classes_), features=int(estimator.n_features_in_), library="sklearn",
                        link="sigmoid" if len(base) == 1 else "softmax")  # fmt: skip


def _columns(estimator: Any) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """Which column each of the trees' features is, as categories come first; and every categorical column's categories, ascending."""
    categorical = getattr(estimator, "is_categorical_", None)
    if categorical is None or not np.any(categorical):
        return np.arange(int(estimator.n_features_in_)), {}
    first = np.flatnonzero(categorical)
    found = estimator._preprocessor.named_transformers_["encoder"].categories_
    if any(not np.issubdtype(np.asarray(values).dtype, np.number) for values in found):
        raise InputError("HistGradientBoostingClassifier was trained with categories that are words; encode them as numbers")
    known = {int(f): np.asarray(values, np.float64) for f, values in zip(first, found, strict=True)}
    return np.concatenate([first, np.flatnonzero(~np.asarray(categorical))]), {f: v[~np.isnan(v)] for f, v in known.items()}


def _chosen(known: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Which of the categories a bit set of their ranks holds."""
    rank = np.arange(len(known))
    return (bits[rank // 32] >> (rank % 32).astype(np.uint32) & 1).astype(np.bool_)


def _points(values: np.ndarray) -> list[float]:
    """The edges of runs that hold just these values: whatever is no known category counts as missing."""
    return np.column_stack([np.nextafter(values, -np.inf), values]).ravel().tolist()
