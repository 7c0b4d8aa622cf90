"""CatBoost's two file formats (its JSON and the binary ``.cbm``) as one checked JSON document that holds what decides the answers.

The library is only ever given a document that was written here: float and one-hot splits, trees, leaves, classes and the
loss. Statistics of categories (CTRs), text and embeddings are refused, as no test of one value says what they do.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np

from carbide.models._files import one_line
from carbide.models._flat import Flat, Table
from carbide.models._sound import damaged
from carbide.models._xgboost_file import unique
from carbide.types import Array, InputError

MAGIC = b"CBM1"
FORMAT = "FlabuffersModel_v1"  # as the library spells it
LOSSES = {"Logloss": "sigmoid", "CrossEntropy": "sigmoid", "MultiClass": "softmax"}
NAN = ("AsIs", "AsFalse", "AsTrue")
DEEPEST = 512  # of trees that are not symmetric
TOP = float(np.finfo(np.float32).max)
NO_LEAF = 2**32 - 1
Document = dict[str, Any]


def read_catboost(blob: bytes, name: str) -> Document:
    """The checked document of a model file.

    Raises:
        InputError: if it is no classifier of CatBoost, its parts do not fit each other, or it has splits that Carbide does not read.
    """
    try:
        found = _from_binary(blob, name) if blob[:4] == MAGIC else json.loads(blob.decode(), object_pairs_hook=unique)
        return _checked(found, name)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, AttributeError, RecursionError, UnicodeDecodeError) as error:
        raise damaged(name, f"it is no whole CatBoost model ({type(error).__name__}: {one_line(error)})") from error


def written(document: Document) -> bytes:
    """A document as the JSON file that CatBoost loads; the same model gives the same bytes."""
    return json.dumps(document, sort_keys=True).encode()


def features_of(document: Document) -> int:
    """How many columns a row has."""
    parts = document["features_info"]
    return len(parts["float_features"]) + len(parts["categorical_features"])


def params_of(loss: str) -> Document:
    """What the library wants to know of a training to load a model without a word."""
    return {"loss_function": {"type": loss, "params": {}}, "flat_params": {"loss_function": loss}}


def leaf_values(document: Document) -> Array:
    """All leaf values, tree after tree and from left to right, those of one leaf together."""
    found, waiting = [], list(document.get("trees", ()))[::-1]
    while waiting:
        node = waiting.pop()
        if "split" in node:
            waiting += [node["right"], node["left"]]
        else:
            found.append(np.atleast_1d(node["value"]))
    return np.concatenate([tree["leaf_values"] for tree in document.get("oblivious_trees", ())] + found or [np.zeros(0)])


def _checked(found: Document, name: str) -> Document:
    loss = found["model_info"]["params"]["loss_function"]["type"]
    if loss not in LOSSES:
        raise InputError(f"{name} was trained with the loss {str(loss)[:40]!r}, which gives no probabilities; train with Logloss or MultiClass")
    said = found["features_info"]
    for part, what in (("ctrs", "statistics of categories (CTRs)"), ("text_features", "texts"), ("embedding_features", "embeddings")):
        if said.get(part):
            raise InputError(f"{name} splits on {what}, which Carbide does not read; train with one_hot_max_size at least the number of categories, "
                             "or give a function of its probabilities, which is audited as a black box")  # fmt: skip
    floats = [_float_feature(part, name) for part in said.get("float_features", [])]
    words = [_category_feature(part, name) for part in said.get("categorical_features", [])]
    places = sorted(part["flat_feature_index"] for part in floats + words)
    if places != list(range(len(places))) or not places:
        raise damaged(name, f"its {len(places)} features are not the columns 0 to {len(places) - 1} of a row")
    for kind in (floats, words):
        if [part["feature_index"] for part in kind] != list(range(len(kind))):
            raise damaged(name, "its features are not numbered in order")
    classes = _classes(found["model_info"]["class_params"], loss, name)
    outputs = len(classes["class_to_label"]) if LOSSES[loss] == "softmax" else 1
    scale, bias = found["scale_and_bias"]
    bias = [float(b) for b in (bias if isinstance(bias, list) else [bias])] or [0.0] * outputs
    if len(bias) != outputs or not np.isfinite([scale, *bias]).all():
        raise damaged(name, f"its bias has {len(bias)} numbers for {outputs} outputs")
    plain = not ({"trees", "oblivious_trees"} <= set(found))
    kind = "oblivious_trees" if "oblivious_trees" in found else "trees"
    if not plain or not isinstance(found[kind], list):
        raise damaged(name, "it does not hold one list of trees")
    one = _symmetric if kind == "oblivious_trees" else _tree
    trees = [one(tree, outputs, (floats, words), f"{name}, tree {i},") for i, tree in enumerate(found[kind])]
    _number_(trees, floats, words)
    return {"features_info": {"float_features": floats, "categorical_features": words}, kind: trees, "scale_and_bias": [float(scale), bias],
            "model_info": {"class_params": classes, "params": params_of(loss)}}  # fmt: skip


def _number_(trees: list[Document], floats: list[Document], words: list[Document]) -> None:
    """Give every split the number that the library finds it by: all borders in order, then all categories."""
    order = [("float_feature_index", part["feature_index"], border) for part in floats for border in part["borders"]]
    order += [("cat_feature_index", part["feature_index"], value) for part in words for value in part["values"]]
    places = {test: i for i, test in enumerate(order)}
    waiting = list(trees)
    while waiting:
        node = waiting.pop()
        waiting += [node[side] for side in ("left", "right") if side in node]
        for split in node.get("splits", [node["split"]] if "split" in node else []):
            key, value = ("float_feature_index", "border") if "border" in split else ("cat_feature_index", "value")
            split["split_index"] = places[key, split[key], split[value]]


def _float_feature(part: Document, name: str) -> Document:
    if part["nan_value_treatment"] not in NAN or not isinstance(part["has_nans"], bool):
        raise damaged(name, f"it treats missing values as {str(part['nan_value_treatment'])[:40]!r}")
    return {"borders": [], "feature_id": _text(part.get("feature_id", ""), name), "feature_index": _whole(part["feature_index"]),
            "flat_feature_index": _whole(part["flat_feature_index"]), "has_nans": part["has_nans"], "nan_value_treatment": part["nan_value_treatment"]}  # fmt: skip


def _category_feature(part: Document, name: str) -> Document:
    return {"feature_id": _text(part.get("feature_id", ""), name), "feature_index": _whole(part["feature_index"]),
            "flat_feature_index": _whole(part["flat_feature_index"]), "values": []}  # fmt: skip


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise damaged(name, f"a feature is named {str(value)[:40]!r}")
    return value


def _whole(value: Any, low: int = 0, high: int = 1 << 24) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < high:
        raise ValueError(f"{str(value)[:40]!r} is no whole number from {low} to {high - 1}")
    return value


def _classes(said: Any, loss: str, name: str) -> Document:
    said = json.loads(said) if isinstance(said, str) else said
    names, order = said["class_names"], [_whole(int(c)) for c in said["class_to_label"]]
    if not all(isinstance(item, str | int | float) for item in names) or len(names) not in (0, len(order)):
        raise damaged(name, f"it names {len(names)} classes and orders {len(order)}")
    if sorted(order) != list(range(len(order))) or (LOSSES[loss] == "sigmoid" and len(order) != 2) or len(order) < 2:
        raise damaged(name, f"it orders {len(order)} classes for the loss {loss}")
    kind = said["class_label_type"]
    if kind not in ("Integer", "Float", "String", "Boolean"):
        raise damaged(name, f"its classes are of the kind {str(kind)[:40]!r}")
    return {"class_label_type": kind, "class_names": list(names), "class_to_label": order, "classes_count": 0}


def _split(said: Document, features: tuple[list[Document], list[Document]], name: str) -> Document:
    kind = said["split_type"]
    if kind == "FloatFeature":
        index, border = _whole(said["float_feature_index"], 0, len(features[0])), float(said["border"])
        if not abs(border) <= TOP:
            raise damaged(name, f"a border is {border}")
        border = float(np.float32(border))
        _among(features[0][index]["borders"], border)
        return {"split_type": kind, "float_feature_index": index, "border": border}
    if kind == "OneHotFeature":
        index, value = _whole(said["cat_feature_index"], 0, len(features[1])), _whole(said["value"], -(1 << 31), 1 << 31)
        _among(features[1][index]["values"], value)
        return {"split_type": kind, "cat_feature_index": index, "value": value}
    raise InputError(
        f"{name} splits by {str(kind)[:40]!r}, which Carbide does not read; train with one_hot_max_size at least the number of categories"
    )


def _among(known: list[Any], value: Any) -> None:
    if value not in known:
        known.append(value)
        known.sort()


def _symmetric(tree: Document, outputs: int, features: Any, name: str) -> Document:
    splits = [_split(split, features, name) for split in tree.get("splits") or []]
    values, weights = np.asarray(tree["leaf_values"], np.float64), np.asarray(tree.get("leaf_weights") or [], np.float64)
    leaves = 1 << min(len(splits), 60)
    if values.shape != (leaves * outputs,) or weights.shape not in ((0,), (leaves,)):
        raise damaged(name, f"it has {len(splits)} splits, {len(values)} leaf values and {len(weights)} weights")
    if not np.isfinite(values).all() or not np.isfinite(weights).all():
        raise damaged(name, "a leaf has no finite value")
    return {"splits": splits, "leaf_values": values.tolist(), "leaf_weights": weights.tolist()}


def _tree(node: Document, outputs: int, features: Any, name: str, depth: int = 0) -> Document:
    if depth > DEEPEST:
        raise damaged(name, f"it is deeper than {DEEPEST}")
    if "split" in node:
        both = {side: _tree(node[side], outputs, features, name, depth + 1) for side in ("left", "right")}
        return {"split": _split(node["split"], features, name), **both}
    values = np.atleast_1d(np.asarray(node["value"], np.float64))
    weight = float(node.get("weight", 0.0))
    if values.shape != (outputs,) or not np.isfinite(values).all() or not np.isfinite(weight):
        raise damaged(name, f"a leaf has {len(values)} values for {outputs} outputs, or one that is not finite")
    return {"value": values.tolist() if outputs > 1 else float(values[0]), "weight": weight}


# The binary format: a length and a flatbuffer whose fields are numbered as in the library's schema.


def _from_binary(blob: bytes, name: str) -> Document:
    size = int.from_bytes(blob[4:8], "little")
    if size > len(blob) - 8:
        raise damaged(name, f"it says {size} bytes and holds {len(blob) - 8}")
    core = Flat(blob[8 : 8 + size]).root()
    if core.text(0) != FORMAT:
        raise InputError(f"{name} is of CatBoost's format {core.text(0)[:40]!r}; save it again with CatBoost 1.0 or later")
    info = {part.text(0): part.text(1) for part in core.tables(2)}
    trees = core.table(1)
    if trees is None:
        raise damaged(name, "it has no trees")
    floats = [{"borders": [float(b) for b in part.vector(3, "<f4")], "feature_id": part.text(4), "feature_index": part.get(1, default=-1),
               "flat_feature_index": part.get(2, default=-1), "has_nans": bool(part.get(0, "B", 0)),
               "nan_value_treatment": NAN[part.get(5, "B", 0)]} for part in trees.tables(5)]  # fmt: skip
    words = [{"feature_id": part.text(2), "feature_index": part.get(0, default=-1), "flat_feature_index": part.get(1, default=-1)}
             for part in trees.tables(4)]  # fmt: skip
    further = {"ctrs": len(trees.tables(7)), "text_features": len(trees.tables(12)), "embedding_features": len(trees.tables(18))}
    tests: list[Document] = [{"split_type": "FloatFeature", "float_feature_index": part["feature_index"], "border": border}
                             for part in floats for border in part["borders"]]  # fmt: skip
    tests += [{"split_type": "OneHotFeature", "cat_feature_index": part.get(0, default=-1), "value": int(value)}
              for part in trees.tables(6) for value in part.vector(1, "<i4")]  # fmt: skip
    found = {} if any(further.values()) else _trees(trees, tests)
    bias = trees.vector(16, "<f8").tolist() or [trees.get(15, "d", 0.0)]
    return {"features_info": {"float_features": floats, "categorical_features": words, **further}, **found,
            "scale_and_bias": [trees.get(14, "d", 1.0), bias], "model_info": {"class_params": info["class_params"], "params": json.loads(info["params"])}}  # fmt: skip


def _trees(trees: Table, tests: list[Document]) -> Document:
    splits, sizes, outputs = trees.vector(1, "<i4"), trees.vector(2, "<i4"), trees.get(0, default=1)
    values, weights = trees.vector(8, "<f8"), trees.vector(9, "<f8")
    starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    if (sizes < 0).any() or starts[-1] != len(splits) or not 0 < outputs < 1 << 16:
        raise ValueError(f"its trees have {starts[-1]} splits of {len(splits)}")
    steps = trees.vector(10, "<u4").view("<u2").reshape(-1, 2)
    if len(steps):
        leaf = trees.vector(11, "<u4")
        if len(steps) != len(splits) or len(leaf) != len(splits):
            raise ValueError(f"{len(steps)} steps and {len(leaf)} leaves for {len(splits)} nodes")
        table = (splits, steps, leaf, values, weights, outputs, tests, set())
        return {"trees": [_node(int(a), int(b), table) for a, b in itertools.pairwise(starts)]}
    found, done = [], 0
    for a, b in itertools.pairwise(starts):
        leaves = 1 << min(int(b - a), 40)
        if (done + leaves) * outputs > len(values):
            raise ValueError(f"its leaves have {len(values)} values")
        found.append({"splits": [tests[_whole(int(s), 0, len(tests))] for s in splits[a:b]],
                      "leaf_values": values[done * outputs : (done + leaves) * outputs].tolist(),
                      "leaf_weights": weights[done : done + leaves].tolist() if len(weights) else []})  # fmt: skip
        done += leaves
    return {"oblivious_trees": found}


def _node(at: int, end: int, table: Any, depth: int = 0) -> Document:
    """A node of a tree that is not symmetric: a step of 0 ends in the node's own leaf."""
    splits, steps, *_, tests, met = table
    if at >= end or depth > DEEPEST or at in met:
        raise ValueError("a step leads out of its tree or in a circle")
    met.add(at)
    sides = [int(step) for step in steps[at]]
    if sides == [0, 0]:
        return _leaf(at, table)
    left, right = (_node(at + step, end, table, depth + 1) if step else _leaf(at, table) for step in sides)
    return {"split": tests[_whole(int(splits[at]), 0, len(tests))], "left": left, "right": right}


def _leaf(at: int, table: Any) -> Document:
    _, _, leaf, values, weights, outputs, *_ = table
    first = int(leaf[at])
    if first == NO_LEAF or first + outputs > len(values) or first % outputs:
        raise ValueError(f"node {at} has no leaf")
    return {"value": values[first : first + outputs].tolist(), "weight": float(weights[first // outputs]) if len(weights) else 0.0}
