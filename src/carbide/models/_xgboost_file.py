"""Reading XGBoost's JSON and UBJ far enough to know that the library can use them without leaving its own memory."""

from __future__ import annotations

import json
import re
import struct
from typing import Any

import numpy as np

from carbide.models._files import one_line
from carbide.models._sound import check_tree, damaged
from carbide.types import InputError

CATEGORIES = 1 << 24  # XGBoost takes no category numbers from here on
CLASSES = 1 << 16
_TYPES = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}


def check_xgboost(blob: bytes, name: str) -> None:
    """Check the bytes of a model file.

    Raises:
        InputError: if they are no XGBoost model, or one whose parts do not fit each other.
    """
    try:
        _check_model(read_document(blob, name), name)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, RecursionError, struct.error, UnicodeDecodeError) as error:
        raise damaged(name, f"it is no whole XGBoost model ({type(error).__name__}: {one_line(error)})") from error


def read_document(blob: bytes, name: str) -> Any:
    """The nested values of a JSON or UBJ document; a key that appears twice is refused."""
    head = blob.lstrip()[:2]
    if head[:1] == b"{" and head[1:2] in (b'"', b"\n", b"\r", b" ", b"\t"):
        return json.loads(blob.decode(), object_pairs_hook=unique)
    return _Ubj(blob).document()


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping from pairs whose keys differ."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


class _Ubj:
    """A reader of the part of Universal Binary JSON that XGBoost writes; typed arrays become numpy arrays."""

    def __init__(self, blob: bytes) -> None:
        self.blob, self.at = blob, 0

    def document(self) -> Any:
        value = self.value(self.mark(), 0)
        if self.at != len(self.blob):
            raise ValueError(f"{len(self.blob) - self.at} bytes follow its end")
        return value

    def take(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self.blob):
            raise ValueError("it ends too early")
        self.at += n
        return self.blob[self.at - n : self.at]

    def mark(self) -> str:
        return self.take(1).decode("latin1")

    def number(self, mark: str) -> Any:
        kind = np.dtype(_TYPES[mark])
        return np.frombuffer(self.take(kind.itemsize), kind)[0].item()

    def length(self) -> int:
        mark = self.mark()
        if mark not in "iUIlL":
            raise ValueError("a length is no whole number")
        return int(self.number(mark))

    def value(self, mark: str, depth: int) -> Any:
        if depth > 24:
            raise ValueError("it is nested too deeply")
        if mark in _TYPES:
            return self.number(mark)
        if mark in "TFZ":
            return {"T": True, "F": False, "Z": None}[mark]
        if mark == "S":
            return self.take(self.length()).decode()
        if mark == "C":
            return self.take(1).decode("latin1")
        if mark == "[":
            return self.array(depth)
        if mark == "{":
            return self.mapping(depth)
        raise ValueError(f"byte {self.at} is no marker")

    def array(self, depth: int) -> Any:
        mark = self.mark()
        if mark == "$":
            kind = np.dtype(_TYPES[self.mark()])
            if self.mark() != "#":
                raise ValueError("a typed array has no length")
            return np.frombuffer(self.take(self.length() * kind.itemsize), kind)
        if mark == "#":
            n = self.length()
            if not 0 <= n <= len(self.blob) - self.at:
                raise ValueError("an array is longer than the file")
            return [self.value(self.mark(), depth + 1) for _ in range(n)]
        found = []
        while mark != "]":
            found.append(self.value(mark, depth + 1))
            mark = self.mark()
        return found

    def mapping(self, depth: int) -> dict[str, Any]:
        pairs = []
        while (mark := self.mark()) != "}":
            if mark not in "iUIlL":
                raise ValueError("a key has no length")
            key = self.take(int(self.number(mark))).decode()
            pairs.append((key, self.value(self.mark(), depth + 1)))
        return unique(pairs)


def _check_model(document: Any, name: str) -> None:
    learner, version = document["learner"], tuple(int(part) for part in document["version"])
    if len(version) != 3 or not (1, 6) <= version < (100,):
        raise InputError(f"{name} is from XGBoost {'.'.join(map(str, version))}; save it again with 1.6 or later")
    shape = learner["learner_model_param"]
    features, classes = int(shape["num_feature"]), int(shape["num_class"])
    if not (0 < features < 1 << 31 and 0 <= classes < CLASSES and int(shape.get("num_target", "1")) == 1):
        raise damaged(name, f"it says {features} features, {classes} classes and {shape.get('num_target', 1)} targets")
    groups = max(classes, 1)
    for part, values in (("feature names", learner.get("feature_names", [])), ("feature types", learner.get("feature_types", []))):
        if len(values) not in (0, features) or not all(isinstance(value, str) for value in values):
            raise damaged(name, f"{len(values)} {part} for {features} features")
    _check_base_score(shape["base_score"], groups, name)
    inner = learner["objective"].get("softmax_multiclass_param", {}).get("num_class", str(classes))
    if int(inner) != classes:
        raise damaged(name, f"its objective has {inner} classes, its learner {classes}")
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in learner.get("attributes", {}).items()):
        raise damaged(name, "an attribute is no text")
    best = learner.get("attributes", {}).get("best_iteration", "0")
    booster = learner["gradient_booster"]
    if booster["name"] == "gblinear":
        if len(booster["model"]["weights"]) != (features + 1) * groups:
            raise damaged(name, f"{len(booster['model']['weights'])} weights for {features} features and {groups} outputs")
        return
    model = booster["gbtree"]["model"] if booster["name"] == "dart" else booster["model"]
    rounds = _check_forest(model, features, groups, name)
    if booster["name"] == "dart" and len(booster["weight_drop"]) != len(model["trees"]):
        raise damaged(name, f"{len(booster['weight_drop'])} weights for {len(model['trees'])} trees")
    if not 0 <= int(best) < max(rounds, 1):
        raise damaged(name, f"its best round is {best} of {rounds}")


def _check_base_score(text: Any, groups: int, name: str) -> None:
    if not isinstance(text, str) or not re.fullmatch(r"\[?[-+0-9.eE, ]+\]?", text):
        raise damaged(name, f"its base score is {str(text)[:40]!r}")
    values = [float(part) for part in text.strip("[]").split(",")]
    if len(values) not in (1, groups) or not np.isfinite(values).all():
        raise damaged(name, f"its base score {text[:40]!r} is not one finite number an output")


def _check_forest(model: Any, features: int, groups: int, name: str) -> int:
    """Check every tree; the number of boosting rounds."""
    trees, info = model["trees"], np.asarray(model["tree_info"], np.int64)
    if int(model["gbtree_model_param"]["num_trees"]) != len(trees) or len(info) != len(trees):
        raise damaged(name, f"it says {model['gbtree_model_param']['num_trees']} trees and holds {len(trees)}")
    if len(info) and (info.min() < 0 or info.max() >= groups):
        raise damaged(name, f"a tree adds to output {int(info.max())} of {groups}")
    if model.get("cats", {}).get("enc"):
        raise InputError(f"{name} recodes pandas categories itself, which arrays do not carry; train on numbers or one-hot columns")
    parallel = int(model["gbtree_model_param"].get("num_parallel_tree", "1") or "1")
    if not 0 <= parallel <= max(len(trees), 1):
        raise damaged(name, f"{parallel} parallel trees of {len(trees)}")
    for number, tree in enumerate(trees):
        if tree.get("id", number) != number:
            raise damaged(name, f"tree {number} says that it is tree {tree['id']}")
        _check_one(tree, features, f"{name}, tree {number},")
    starts = model.get("iteration_indptr")
    if starts is None:
        return len(trees) // max(1, parallel * groups)
    starts = np.asarray(starts, np.int64)
    if len(starts) < 1 or starts[0] != 0 or starts[-1] != len(trees) or (np.diff(starts) < 0).any():
        raise damaged(name, "its rounds do not cover its trees")
    return len(starts) - 1


def _check_one(tree: Any, features: int, name: str) -> None:
    said = tree["tree_param"]
    nodes = int(said["num_nodes"])
    if int(said.get("size_leaf_vector", "1") or "1") not in (0, 1):
        raise InputError(f"{name} has leaves with several outputs, which Carbide does not read; train with multi_strategy one_output_per_tree")
    if int(said["num_feature"]) != features:
        raise damaged(name, f"it is over {said['num_feature']} features, the model over {features}")
    parts = {key: np.asarray(tree[key]) for key in ("left_children", "right_children", "split_indices", "split_conditions", "default_left",
                                                    "parents", "base_weights", "loss_changes", "sum_hessian")}  # fmt: skip
    if any(part.shape != (nodes,) for part in parts.values()) or int(said.get("num_deleted", "0")) not in range(nodes + 1):
        raise damaged(name, f"it says {nodes} nodes, but its tables have {sorted({len(part) for part in parts.values()})}")
    left, right = parts["left_children"].astype(np.int64), parts["right_children"].astype(np.int64)
    internal = left != -1
    if ((right != -1) != internal).any():
        raise damaged(name, "a node has one child")
    check_tree(name, left=left, right=right, feature=parts["split_indices"].astype(np.int64), internal=internal, features=features)
    above = parts["parents"].astype(np.int64)
    inner = np.flatnonzero(internal)
    if (above[left[inner]] != inner).any() or (above[right[inner]] != inner).any():
        raise damaged(name, "a node's parent is another one than the node it is a child of")
    numeric = internal & ~_check_categories(tree, nodes, name)
    if np.isnan(parts["split_conditions"].astype(np.float64)[numeric]).any():
        raise damaged(name, "a split has no number as its threshold")


def _check_categories(tree: Any, nodes: int, name: str) -> np.ndarray:
    """Which nodes ``(nodes,)`` split by categories."""
    kinds = np.asarray(tree.get("split_type", np.zeros(nodes)))
    if kinds.shape != (nodes,) or not np.isin(kinds, (0, 1)).all():
        raise damaged(name, "its split types are no list of 0 and 1")
    values, at = np.asarray(tree.get("categories", ()), np.int64), np.asarray(tree.get("categories_nodes", ()), np.int64)
    starts, sizes = np.asarray(tree.get("categories_segments", ()), np.int64), np.asarray(tree.get("categories_sizes", ()), np.int64)
    fits = len(at) == len(starts) == len(sizes) and (starts >= 0).all() and (sizes >= 0).all() and (starts + sizes <= len(values)).all()
    if not fits or not np.array_equal(np.sort(at), np.flatnonzero(kinds == 1)) or len(np.unique(at)) != len(at):
        raise damaged(name, "its categories do not fit its nodes")
    if len(values) and (values.min() < 0 or values.max() >= CATEGORIES):
        raise damaged(name, f"a category is {int(values.max())}")
    return kinds == 1
