"""Trees that Carbide grew itself, as Carbide's intermediate form and as XGBoost's JSON; both answer alike to the last bit.

XGBoost sends ``x < t`` left, compared in float32, and sums leaves in float32 in the order of the trees; cuts and leaf values are float32.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.models.trees._build import last_single_left
from carbide.models.trees.ensemble import Ensemble
from carbide.types import Array, InputError


@dataclass(frozen=True, kw_only=True, eq=False)
class ServedTree:
    """One tree: ``feature`` ``(m,)`` int32 (-1 = leaf), ``threshold`` ``(m,)`` float32 (left where ``x < threshold``), ``children`` ``(m, 2)``,
    ``missing_left`` ``(m,)``, ``value`` ``(m,)`` float32, ``cover`` and ``gain`` ``(m,)``; ``output`` is the margin that it adds to."""

    feature: Array
    threshold: Array
    children: Array
    missing_left: Array
    value: Array
    cover: Array
    gain: Array
    output: int


def as_ensemble(trees: Sequence[ServedTree], *, outputs: int, features: int, classes: Array) -> Ensemble:
    """The trees in the intermediate form that the exact audit and its proof read."""
    sizes = np.array([len(t.feature) for t in trees])
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    join = lambda name: np.concatenate([getattr(t, name) for t in trees])  # noqa: E731
    feature = join("feature")
    children = np.concatenate([np.where(t.children >= 0, t.children + s, -1) for t, s in zip(trees, starts, strict=True)]).astype(np.int32)
    return Ensemble(feature=feature.astype(np.int32), threshold=np.where(feature >= 0, last_single_left(join("threshold"), strict=True), np.inf),
                    children=children, missing_left=join("missing_left"), value=np.where(feature < 0, join("value"), 0).astype(np.float64)[:, None],
                    leaf=np.where(feature < 0, np.concatenate([np.arange(s) for s in sizes]), -1), roots=starts.astype(np.int32),
                    output=np.array([t.output for t in trees], np.int32), base=np.zeros(outputs), classes=classes, features=features,
                    link="sigmoid" if outputs == 1 else "softmax", library="xgboost", single=True)  # fmt: skip


def xgboost_json(trees: Sequence[ServedTree], *, outputs: int, features: int, names: Sequence[str] = ()) -> bytes:
    """A model file that ``xgboost.Booster().load_model`` reads: objective ``binary:logistic``, or ``multi:softprob`` for three classes or more."""
    many = outputs > 1
    objective: dict[str, Any] = {"name": "multi:softprob", "softmax_multiclass_param": {"num_class": str(outputs)}} if many else \
        {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}}  # fmt: skip
    model = {"cats": {"enc": [], "feature_segments": [], "sorted_idx": []}, "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
             "iteration_indptr": list(range(0, len(trees) + 1, outputs)), "tree_info": [t.output for t in trees],
             "trees": [_tree(t, i, features) for i, t in enumerate(trees)]}  # fmt: skip
    learner = {"attributes": {}, "feature_names": list(names), "feature_types": ["float"] * len(names), "gradient_booster": {"model": model, "name": "gbtree"},
               "learner_model_param": {"base_score": "[0E0]" if many else "[5E-1]", "boost_from_average": "0", "num_class": str(outputs if many else 0),
                                       "num_feature": str(features), "num_target": "1"}, "objective": objective}  # fmt: skip
    return json.dumps({"learner": learner, "version": [3, 2, 0]}).encode()


def booster_of_trees(trees: Sequence[ServedTree], **rest: Any) -> Any:
    """An ``xgboost.Booster`` of the trees.

    Raises:
        InputError: if XGBoost is not installed.
    """
    try:
        import xgboost
    except ImportError as error:
        raise InputError("robust trees are served by XGBoost, which is not installed; install it with: pip install 'carbide[xgboost]'") from error
    booster = xgboost.Booster({"nthread": 1})
    booster.load_model(bytearray(xgboost_json(trees, **rest)))
    return booster


def classifier_of(booster: Any = None) -> Any:
    """A booster as an ``XGBClassifier``, which answers the same; without one, a classifier that has not been trained."""
    from xgboost import XGBClassifier

    out = XGBClassifier(n_jobs=1)
    if booster is not None:
        out.load_model(bytearray(booster.save_raw("json")))
    return out


def _tree(tree: ServedTree, number: int, features: int) -> dict[str, Any]:
    m = len(tree.feature)
    leaf = tree.feature < 0
    parents = np.full(m, 2147483647, np.int64)
    inner = np.flatnonzero(~leaf)
    for side in (0, 1):
        parents[tree.children[inner, side]] = inner
    conditions = np.where(leaf, tree.value, tree.threshold).astype(np.float32)
    return {"base_weights": _floats(tree.value), "categories": [], "categories_nodes": [], "categories_segments": [], "categories_sizes": [],
            "default_left": tree.missing_left.astype(int).tolist(), "id": number, "left_children": tree.children[:, 0].tolist(),
            "loss_changes": _floats(tree.gain), "parents": parents.tolist(), "right_children": tree.children[:, 1].tolist(),
            "split_conditions": _floats(conditions), "split_indices": np.where(leaf, 0, tree.feature).tolist(), "split_type": [0] * m,
            "sum_hessian": _floats(tree.cover),
            "tree_param": {"num_deleted": "0", "num_feature": str(features), "num_nodes": str(m), "size_leaf_vector": "1"}}  # fmt: skip


def _floats(values: Array) -> list[float]:
    """Numbers with every digit of their float32."""
    return [float(str(v)) for v in np.asarray(values, np.float32)]
