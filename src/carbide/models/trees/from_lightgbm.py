"""Reads LightGBM's trees from its text form: ``x <= t`` in double, values within 1e-35 of zero read as zero."""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.models.trees._build import Builder
from carbide.models.trees.ensemble import Ensemble
from carbide.types import InputError

ZERO = float(np.float32(1e-35))  # LightGBM reads what is no larger than this as zero
CATEGORICAL, DEFAULT_LEFT = 1, 2
MISSING_NONE, MISSING_ZERO, MISSING_NAN = 0, 1, 2


def from_lightgbm(estimator: Any) -> Ensemble:
    """The trees of a fitted ``LGBMClassifier`` or of a ``Booster`` that was trained for classification.

    Raises:
        InputError: if it is not fitted or uses linear leaves or an objective without plain probabilities.
    """
    booster = estimator
    if hasattr(estimator, "fit"):
        if not estimator.__sklearn_is_fitted__():
            raise InputError(f"{type(estimator).__name__} is not fitted; call fit before you hand it to Carbide")
        booster = estimator.booster_
    head, *blocks = booster.model_to_string().split("\nTree=")
    header = _pairs(head)
    objective, *options = header.get("objective", "none").split()
    settings = dict(option.split(":", 1) for option in options if ":" in option)
    if objective not in ("binary", "multiclass"):
        raise InputError(f"LightGBM's objective is {objective}, which Carbide cannot read; train with binary or multiclass")
    outputs = int(header["num_tree_per_iteration"])
    builder = Builder(width=1)
    for i, block in enumerate(blocks):
        _add(builder, _pairs(block.split("end of trees")[0]), i % outputs)
    classes = np.asarray(estimator.classes_) if hasattr(estimator, "classes_") else np.arange(max(2, outputs))
    average = "average_output" in head.splitlines()
    return builder.done(base=np.zeros(outputs), classes=classes, features=int(header["max_feature_idx"]) + 1, library="lightgbm",
                        divisor=len(blocks) / outputs if average else 1.0, slope=float(settings.get("sigmoid", 1.0)),
                        link="sigmoid" if objective == "binary" else "softmax")  # fmt: skip


def _pairs(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _numbers(tree: dict[str, str], key: str, kind: type) -> list[Any]:
    return [kind(word) for word in tree.get(key, "").split()]


def _add(builder: Builder, tree: dict[str, str], output: int) -> None:
    if int(tree.get("is_linear", "0")):
        raise InputError("LightGBM's trees have linear leaves; train with linear_tree=False")
    values, left, right = _numbers(tree, "leaf_value", float), _numbers(tree, "left_child", int), _numbers(tree, "right_child", int)
    inner = len(values) - 1
    start = builder.root(output)
    for _ in range(inner + len(values) - 1):
        builder.node()
    where = [start + c if c >= 0 else start + inner + ~c for c in range(-len(values), inner)]

    def at(child: int) -> int:
        return where[child + len(values)]

    for i, value in enumerate(values):
        builder.end(start + inner + i, value, i)
    feature, cut, kind = _numbers(tree, "split_feature", int), _numbers(tree, "threshold", float), _numbers(tree, "decision_type", int)
    for i in range(inner):
        sides = (start + i, feature[i])
        if kind[i] & CATEGORICAL:
            builder.runs(*sides, _runs(tree, int(cut[i])), inside=at(left[i]), outside=at(right[i]))
        else:
            _numerical(builder, *sides, cut[i], kind[i], at(left[i]), at(right[i]))


def _numerical(builder: Builder, node: int, feature: int, cut: float, kind: int, left: int, right: int) -> None:
    missing, default_left = (kind >> 2) & 3, bool(kind & DEFAULT_LEFT)
    zero_left = cut >= 0
    if -ZERO <= cut <= ZERO:  # the values between are all zero to LightGBM
        cut = ZERO if zero_left else float(np.nextafter(-ZERO, -np.inf))
    if missing == MISSING_ZERO and default_left != zero_left:
        below, above, rest = node, builder.node(), builder.node()
        zero_side = left if default_left else right
        builder.test(below, feature, float(np.nextafter(-ZERO, -np.inf)), rest, above, missing_left=False)
        builder.test(above, feature, ZERO, zero_side, rest, missing_left=True)
        builder.test(rest, feature, cut, left, right, missing_left=default_left)
        return
    nan_left = default_left if missing == MISSING_NAN else zero_left
    builder.test(node, feature, cut, left, right, missing_left=nan_left)


def _runs(tree: dict[str, str], index: int) -> list[float]:
    """The edges of the categories of a bit set: values are cut to their whole part, so ``(-1, 1)`` is category 0."""
    edges, words = _numbers(tree, "cat_boundaries", int), _numbers(tree, "cat_threshold", int)
    bits = words[edges[index] : edges[index + 1]]
    chosen = [32 * i + j for i, word in enumerate(bits) for j in range(32) if word >> j & 1]
    cuts: list[float] = []
    for category in chosen:
        low = -1.0 if category == 0 else float(np.nextafter(category, -np.inf))
        high = float(np.nextafter(category + 1, -np.inf))
        if cuts and cuts[-1] == low:
            cuts[-1] = high
        else:
            cuts += [low, high]
    return cuts
