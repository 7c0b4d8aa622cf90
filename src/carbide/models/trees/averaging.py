"""One model whose answer is the average of several: of margins for boosted trees (XGBoost, LightGBM), of probabilities for scikit-learn's forests.

The trees of all models stand in one file of the same library, with leaves divided by the number of models, so that nothing changes in
serving but the number of trees.

>>> import numpy as np
>>> from sklearn.ensemble import RandomForestClassifier
>>> x, y = np.arange(8.0)[:, None], np.arange(8) // 4
>>> two = [RandomForestClassifier(n_estimators=3, random_state=s).fit(x, y) for s in (0, 1)]
>>> both = averaged(two)
>>> both.n_estimators, bool(np.allclose(both.predict_proba(x), (two[0].predict_proba(x) + two[1].predict_proba(x)) / 2))
(6, True)
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import expit, logit

from carbide.models.trees import library_of
from carbide.types import InputError

FORESTS = ("RandomForestClassifier", "ExtraTreesClassifier")
_TREES = re.compile(r"(?ms)^(Tree=\d+\n.*?)(?=^Tree=\d+\n|^end of trees$)")


def can_average(estimator: Any) -> bool:
    """Whether ``averaged`` knows how to join models of this kind, fitted or not."""
    library = library_of(estimator)
    if library == "sklearn":
        return type(estimator).__name__ in FORESTS
    return (
        library in ("xgboost", "lightgbm") and getattr(estimator, "booster", None) not in ("gblinear", "dart") and hasattr(estimator, "predict_proba")
    )


def has_margins(estimator: Any) -> bool:
    """Whether models of this kind answer by margins, which can be shifted, and not by the mean of probabilities."""
    return library_of(estimator) in ("xgboost", "lightgbm")


def averaged(estimators: Sequence[Any], *, shift: float = 0.0) -> Any:
    """One fitted estimator of the same kind as the fitted ``estimators``, which answers their average.

    ``shift`` is added to the margin of class 1, of boosted models of two classes.

    Raises:
        InputError: if there is none, they differ in kind or classes, forests in size, are of a kind that cannot be joined, or cannot be shifted.
    """
    if not estimators:
        raise InputError("there are no models to average; give at least one")
    first = estimators[0]
    if any(type(e) is not type(first) or not np.array_equal(e.classes_, first.classes_) for e in estimators):
        raise InputError("the models to average differ in kind or classes; give models of one recipe that saw the same classes")
    if not can_average(first):
        raise InputError(f"{type(first).__name__} cannot be averaged into one model; XGBoost (gbtree), LightGBM and scikit-learn's forests can")
    if shift and not (has_margins(first) and len(first.classes_) == 2):
        raise InputError(f"the margin of {type(first).__name__} with {len(first.classes_)} classes cannot be shifted; leave out shift")
    library = library_of(first)
    return _forest(estimators) if library == "sklearn" else _xgboost(estimators, shift) if library == "xgboost" else _lightgbm(estimators, shift)


def _forest(forests: Sequence[Any]) -> Any:
    """All trees of forests of one size."""
    if len({len(f.estimators_) for f in forests}) > 1:
        raise InputError(f"the forests to average have {sorted({len(f.estimators_) for f in forests})} trees; give forests of one size")
    out = copy.copy(forests[0])
    out.estimators_ = [tree for forest in forests for tree in forest.estimators_]
    out.n_estimators = len(out.estimators_)
    return out


def _xgboost(models: Sequence[Any], shift: float) -> Any:
    """One booster with all trees, whose leaves count a share; the starting margin is the mean."""
    import xgboost

    documents = [json.loads(bytes(_best(m.get_booster()).save_raw("json"))) for m in models]
    learners = [d["learner"] for d in documents]
    parts = [learner["gradient_booster"]["model"] for learner in learners]
    if any(part["cats"] != parts[0]["cats"] for part in parts):
        raise InputError("the XGBoost models to average know different categories; code the categories as numbers before training")
    trees = [_share(tree, len(models)) for part in parts for tree in part["trees"]]
    starts = np.cumsum([0] + [len(part["trees"]) for part in parts])
    model = parts[0] | {"trees": [tree | {"id": i} for i, tree in enumerate(trees)], "tree_info": [t for part in parts for t in part["tree_info"]],
                        "iteration_indptr": [0] + [int(at + s) for part, s in zip(parts, starts, strict=False) for at in part["iteration_indptr"][1:]]}  # fmt: skip
    model["gbtree_model_param"] = parts[0]["gbtree_model_param"] | {"num_trees": str(len(trees))}
    learner = learners[0] | {"gradient_booster": learners[0]["gradient_booster"] | {"model": model}}
    learner["learner_model_param"] = learners[0]["learner_model_param"] | {"base_score": _start(learners, shift)}
    learner["attributes"] = {k: v for k, v in learners[0]["attributes"].items() if k not in ("best_iteration", "best_score")}
    booster = xgboost.Booster()
    booster.load_model(bytearray(json.dumps(documents[0] | {"learner": learner}).encode()))
    out = copy.copy(models[0])
    out._Booster = booster
    out.n_estimators = len(model["iteration_indptr"]) - 1
    out.early_stopping_rounds = None
    return out


def _best(booster: Any) -> Any:
    """The rounds up to the best one where training stopped early."""
    best = booster.attr("best_iteration")
    return booster if best is None else booster[: int(best) + 1]


def _share(tree: dict[str, Any], models: int) -> dict[str, Any]:
    """The tree with leaves divided by the number of models."""
    values = [
        c if child >= 0 else float(str(np.float32(c / models))) for c, child in zip(tree["split_conditions"], tree["left_children"], strict=True)
    ]
    return tree | {"split_conditions": values, "base_weights": [float(str(np.float32(w / models))) for w in tree["base_weights"]]}


def _start(learners: Sequence[Any], shift: float) -> str:
    """The mean of the starting margins, shifted, written as XGBoost writes it: a probability where there are two classes."""
    said = np.array([[float(s) for s in learner["learner_model_param"]["base_score"].strip("[]").split(",")] for learner in learners])
    binary = learners[0]["objective"]["name"] in ("binary:logistic", "reg:logistic")
    mean = expit(logit(said).mean(0) + shift) if binary else said.mean(0)
    return "[" + ",".join(str(np.float32(v)) for v in mean) + "]"


def _lightgbm(models: Sequence[Any], shift: float) -> Any:
    """One booster with all trees, whose leaves count a share; LightGBM keeps its start in the first tree."""
    from lightgbm import Booster

    texts = [m.booster_.model_to_string(num_iteration=m.booster_.best_iteration) for m in models]
    if any("linear_tree" in t and "is_linear=1" in t for t in texts):
        raise InputError("LightGBM's linear trees cannot be averaged into one model; train with linear_tree=False")
    blocks = [block for text in texts for block in _TREES.findall(text)]
    blocks = [re.sub(r"^Tree=\d+", f"Tree={i}", _lighter(block, len(models), shift if i == 0 else 0.0)) for i, block in enumerate(blocks)]
    head, tail = texts[0][: texts[0].index("tree_sizes=")], texts[0][texts[0].index("end of trees") :]
    text = head + "tree_sizes=" + " ".join(str(len(b.encode())) for b in blocks) + "\n\n" + "".join(blocks) + tail
    out = copy.copy(models[0])
    out._Booster = Booster(model_str=text)
    out._best_iteration = 0
    return out


def _lighter(block: str, models: int, shift: float) -> str:
    """A tree's text with its values divided by the number of models, and shifted."""

    def divided(found: re.Match[str]) -> str:
        return f"{found[1]}=" + " ".join(repr(float(v) / models + shift) for v in found[2].split())

    return re.sub(r"(?m)^(leaf_value|internal_value)=(.*)$", divided, block)
