"""Reads XGBoost's trees from its JSON, whose numbers keep every digit: ``x < t`` in float32, sums in float32."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from carbide.models.trees._build import Builder, last_single_left
from carbide.models.trees.ensemble import Ensemble
from carbide.types import InputError

LINKS = {"binary:logistic": "sigmoid", "reg:logistic": "sigmoid", "multi:softprob": "softmax", "multi:softmax": "softmax"}


def from_xgboost(estimator: Any) -> Ensemble:
    """The trees of a fitted ``XGBClassifier`` or of a ``Booster`` that was trained for classification.

    Raises:
        InputError: if it is not fitted or uses linear boosters, vector leaves, an objective without probabilities or a ``missing`` other than NaN.
    """
    booster = estimator
    if hasattr(estimator, "get_booster"):
        if not estimator.__sklearn_is_fitted__():
            raise InputError(f"{type(estimator).__name__} is not fitted; call fit before you hand it to Carbide")
        if estimator.missing is not None and not np.isnan(estimator.missing):
            raise InputError(f"XGBoost's missing is {estimator.missing}; mark missing values with NaN instead")
        booster = estimator.get_booster()
    learner = json.loads(bytes(booster.save_raw("json")))["learner"]
    objective = learner["objective"]["name"]
    if objective not in LINKS:
        raise InputError(f"XGBoost's objective is {objective}, which gives no probabilities; train with binary:logistic or multi:softprob")
    trees, weights, targets = _trees(learner["gradient_booster"])
    outputs = max(1, int(learner["learner_model_param"]["num_class"]))
    if getattr(booster, "best_iteration", None) is not None and _stopped_early(booster):
        keep = (int(booster.best_iteration) + 1) * _a_round(learner["gradient_booster"], outputs)
        trees, weights, targets = trees[:keep], weights[:keep], targets[:keep]
    builder = Builder(width=1)
    for tree, weight, target in zip(trees, weights, targets, strict=True):
        _add(builder, tree, np.float32(weight), int(target))
    classes = np.asarray(estimator.classes_) if hasattr(estimator, "classes_") else np.arange(max(2, outputs))
    return builder.done(base=_base(learner["learner_model_param"], outputs, LINKS[objective]), classes=classes, link=LINKS[objective],
                        features=int(learner["learner_model_param"]["num_feature"]), library="xgboost", single=True)  # fmt: skip


def _stopped_early(booster: Any) -> bool:
    return booster.attr("best_iteration") is not None


def _model(booster: dict[str, Any]) -> dict[str, Any]:
    return booster["gbtree"]["model"] if booster["name"] == "dart" else booster["model"]


def _a_round(booster: dict[str, Any], outputs: int) -> int:
    return outputs * int(_model(booster)["gbtree_model_param"]["num_parallel_tree"])


def _trees(booster: dict[str, Any]) -> tuple[list[dict[str, Any]], list[float], list[int]]:
    if booster["name"] not in ("gbtree", "dart"):
        raise InputError(f"XGBoost's booster is {booster['name']}, which has no trees; train with gbtree or dart")
    model = _model(booster)
    weights = booster["weight_drop"] if booster["name"] == "dart" else [1.0] * len(model["trees"])
    return model["trees"], weights, model["tree_info"]


def _base(parameters: dict[str, Any], outputs: int, link: str) -> np.ndarray:
    """The starting margins; the file holds a probability for binary models, in newer releases as a list in a string."""
    scores = np.array([float(s) for s in parameters["base_score"].strip("[]").split(",")], np.float32)
    if link == "sigmoid":
        with np.errstate(divide="ignore"):  # rounded once from double precision, as the C library's logf is; numpy's is an ulp off
            scores = -np.log((np.float32(1) / scores - np.float32(1)).astype(np.float64)).astype(np.float32)
    return np.broadcast_to(scores.astype(np.float64), (outputs,)).copy()


def _add(builder: Builder, tree: dict[str, Any], weight: np.float32, output: int) -> None:
    if int(tree["tree_param"]["size_leaf_vector"]) > 1:
        raise InputError("XGBoost's trees have vector leaves; train with multi_strategy one_output_per_tree")
    left, right = tree["left_children"], tree["right_children"]
    conditions = np.array(tree["split_conditions"], np.float32)
    cuts = last_single_left(conditions, strict=True)
    categories = _categories(tree)
    start = builder.root(output)
    for _ in range(len(left) - 1):
        builder.node()
    for i in range(len(left)):
        if left[i] < 0:
            builder.end(start + i, np.float64(conditions[i] * weight), i)
        elif i in categories:
            _categorical(builder, tree, i, start, categories[i])
        else:
            builder.test(start + i, tree["split_indices"][i], cuts[i], start + left[i], start + right[i], missing_left=bool(tree["default_left"][i]))


def _categories(tree: dict[str, Any]) -> dict[int, list[int]]:
    parts = zip(tree["categories_nodes"], tree["categories_segments"], tree["categories_sizes"], strict=True)
    return {node: sorted(tree["categories"][a : a + size]) for node, a, size in parts}


def _categorical(builder: Builder, tree: dict[str, Any], i: int, start: int, chosen: list[int]) -> None:
    """Categories of the list go right, all others left; a value is cut to its whole part, and negative ones are no category."""
    cuts: list[float] = []
    for category in chosen:
        low, high = (float(last_single_left(np.array([edge]), strict=True)[0]) for edge in (category, category + 1))
        if cuts and cuts[-1] == low:
            cuts[-1] = high
        else:
            cuts += [low, high]
    left, right = start + tree["left_children"][i], start + tree["right_children"][i]
    builder.runs(start + i, tree["split_indices"][i], cuts, inside=right, outside=left, missing=left if tree["default_left"][i] else right)
