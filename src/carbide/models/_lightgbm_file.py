"""Reading LightGBM's text format far enough to know that the library can use it without leaving its own memory."""

from __future__ import annotations

import re

import numpy as np

from carbide.models._files import one_line
from carbide.models._sound import check_tree, damaged
from carbide.types import InputError

_NUMBER = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf|nan)"
CLASSES = 1 << 16


def check_lightgbm(text: str, name: str) -> str:
    """The part of a model file that decides its answers: header and trees, checked.

    The rest of a file (parameters with file names, addresses of machines) is never given to the library.

    Raises:
        InputError: if it is no LightGBM model, or one whose parts do not fit each other.
    """
    try:
        return _check_text(text.replace("\r\n", "\n"), name)
    except InputError:
        raise
    except (KeyError, ValueError, IndexError, OverflowError) as error:
        raise damaged(name, f"it is no whole LightGBM model ({type(error).__name__}: {one_line(error)})") from error


def _check_text(text: str, name: str) -> str:
    if not text.startswith("tree\n"):
        raise damaged(name, "it does not begin with the line 'tree'")
    if "\nend of trees\n" not in text:
        raise damaged(name, "the line 'end of trees' is missing, so it was cut short")
    body = text[: text.index("\nend of trees\n")]
    head, *blocks = re.split(r"(?m)^(?=Tree=)", body + "\n")
    header = _pairs(head.split("\n")[1:], name)
    features = int(header["max_feature_idx"]) + 1
    classes, per_round = int(header["num_class"]), int(header["num_tree_per_iteration"])
    if not (0 < features < 1 << 24 and 0 < classes < CLASSES and per_round == classes):
        raise damaged(name, f"it says {features} features, {classes} classes and {per_round} trees a round")
    if len(header["feature_names"].split(" ")) != features or len(header["feature_infos"].split(" ")) != features:
        raise damaged(name, f"it does not have one name and one range for each of {features} features")
    if not re.fullmatch(r"[a-z_]+( [a-z_]+:[-\w.+]+)*", header.get("objective", "none")):
        raise damaged(name, f"its objective is {header.get('objective', '')[:60]!r}")
    if any(int(word.partition(":")[2]) != classes for word in header.get("objective", "").split(" ") if word.startswith("num_class:")):
        raise damaged(name, f"its objective and its header differ about {classes} classes")
    sigmoid = re.search(r" sigmoid:(\S+)", header.get("objective", ""))
    if sigmoid and not 0 < float(sigmoid[1]) < np.inf:
        raise damaged(name, f"its sigmoid is {sigmoid[1]}")
    if len(blocks) % per_round:
        raise damaged(name, f"{len(blocks)} trees are no whole number of rounds of {per_round}")
    # The lengths in tree_sizes steer the library's own parser, so they are written anew from the text itself.
    trees = [_check_block(block, number, features, f"{name}, tree {number},") for number, block in enumerate(blocks)]
    lines = [line for line in head.rstrip("\n").split("\n") if not line.startswith("tree_sizes=")]
    lines.append("tree_sizes=" + " ".join(str(len(tree.encode())) for tree in trees))
    return "\n".join(lines) + "\n\n" + "".join(trees) + "end of trees\n"


def _pairs(lines: list[str], name: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if not line:
            continue
        if key in found or (not equals and not re.fullmatch(r"[a-z_]+", key)):
            raise damaged(name, f"the line {line[:40]!r} does not belong there")
        found[key] = value
    return found


def _check_block(block: str, number: int, features: int, name: str) -> str:
    said = _pairs(block.rstrip("\n").split("\n"), name)
    if said.pop("Tree") != str(number):
        raise damaged(name, "the trees are not numbered in order")
    leaves, categorical = int(said["num_leaves"]), int(said["num_cat"])
    if said.get("is_linear", "0") != "0":
        raise InputError(f"{name} has linear leaves, which Carbide does not read; train with linear_tree=false")
    if leaves < 1 or leaves > len(block):
        raise damaged(name, f"it says {leaves} leaves")
    leaf_value = _numbers(said, "leaf_value", leaves, name)
    if not np.isfinite(leaf_value).all():
        raise damaged(name, "a leaf has no finite value")
    _numbers(said, "shrinkage", 1, name)
    for key in ("leaf_weight", "leaf_count"):
        _numbers(said, key, leaves if said.get(key) else 0, name)
    inner = leaves - 1
    if inner == 0:
        if categorical:
            raise damaged(name, "a tree without splits has categories")
        return block.rstrip("\n") + "\n\n\n"
    for key in ("split_gain", "internal_value", "internal_weight", "internal_count"):
        _numbers(said, key, inner if said.get(key) else 0, name)
    left, right = (_whole(said, key, inner, name) for key in ("left_child", "right_child"))
    feature, kind = _whole(said, "split_feature", inner, name), _whole(said, "decision_type", inner, name)
    threshold = _numbers(said, "threshold", inner, name)
    # A child below zero is a leaf, counted from -1 downwards; all nodes are laid out behind one another to check the walk.
    both = [np.where(child < 0, inner + ~child, child) for child in (left, right)]
    padding = np.zeros(leaves, np.int64)
    check_tree(name, left=np.concatenate([both[0], padding]), right=np.concatenate([both[1], padding]), feature=np.concatenate([feature, padding]),
               internal=np.arange(inner + leaves) < inner, features=features)  # fmt: skip
    if len(np.unique(np.concatenate(both))) != 2 * inner:
        raise damaged(name, "a node is the child of two others")
    if kind.min() < 0 or kind.max() > 15:
        raise damaged(name, f"a decision type is {int(kind.max())}")
    _check_categories(said, threshold[(kind & 1) == 1], categorical, name)
    return block.rstrip("\n") + "\n\n\n"


def _check_categories(said: dict[str, str], places: np.ndarray, categorical: int, name: str) -> None:
    if categorical == 0:
        if len(places):
            raise damaged(name, "a split is by category, but there are none")
        return
    bounds = _whole(said, "cat_boundaries", categorical + 1, name)
    words = said["cat_threshold"].split(" ")
    if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != len(words):
        raise damaged(name, "its categories do not fit each other")
    _whole(said, "cat_threshold", len(words), name)
    if (places != np.floor(places)).any() or (places < 0).any() or (places >= categorical).any():
        raise damaged(name, "a split points to categories that are not there")


def _numbers(said: dict[str, str], key: str, count: int, name: str) -> np.ndarray:
    text = said.get(key, "")
    if count == 0 and not text:
        return np.zeros(0)
    if not re.fullmatch(rf"{_NUMBER}( {_NUMBER})*", text):
        raise damaged(name, f"{key} is {text[:40]!r}, not a list of numbers")
    values = np.array(text.split(" "), float)
    if len(values) != count:
        raise damaged(name, f"{key} has {len(values)} values instead of {count}")
    return values


def _whole(said: dict[str, str], key: str, count: int, name: str) -> np.ndarray:
    text = said.get(key, "")
    if not re.fullmatch(r"-?\d{1,10}( -?\d{1,10})*", text):
        raise damaged(name, f"{key} is {text[:40]!r}, not a list of whole numbers")
    values = np.array(text.split(" "), np.int64)
    if len(values) != count or np.abs(values).max() > 2**32:
        raise damaged(name, f"{key} has {len(values)} values instead of {count}")
    return values
