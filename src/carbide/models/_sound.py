"""Whether a model that was read from a file can be used without leaving its own memory.

Tree libraries follow child and feature indices without checking them, so a file with one wrong number can crash the
process or read foreign memory long after it was loaded. Everything here looks before any library follows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from carbide.types import Array, InputError

DEEPEST = 1000  # levels of a tree that a recursive library is given


def damaged(name: str, what: str) -> InputError:
    """The error for a model whose parts do not fit each other."""
    return InputError(f"{name} is damaged: {what}; save the model again and give the new file")


def check_tree(name: str, *, left: Array, right: Array, feature: Array, internal: Array, features: int) -> None:
    """Check one tree: every inner node ``(n,)`` bool has children inside the tree, below it, and a feature that exists.

    Raises:
        InputError: if walking down the tree could leave it or never end.
    """
    nodes = len(internal)
    if nodes == 0 or not len(left) == len(right) == len(feature) == nodes:
        raise damaged(name, f"a tree has {nodes} nodes but {len(left)} left and {len(right)} right children and {len(feature)} features")
    inner = np.flatnonzero(internal)
    for side, children in (("left", left), ("right", right)):
        outside = (children[inner] < 0) | (children[inner] >= nodes)
        if outside.any():
            raise damaged(name, f"a {side} child is node {int(children[inner][outside][0])} of a tree of {nodes} nodes")
    outside = (feature[inner] < 0) | (feature[inner] >= features)
    if outside.any():
        raise damaged(name, f"a tree splits on feature {int(feature[inner][outside][0])}, but there are {features}")
    if not ((left[inner] > inner).all() and (right[inner] > inner).all()):
        _check_reach(name, left, right, internal)


def _check_reach(name: str, left: Array, right: Array, internal: Array) -> None:
    """Where children are not numbered after their parents, walk from the root and see that no node is met twice."""
    met = np.zeros(len(internal), bool)
    level = np.array([0])
    while len(level):
        if met[level].any() or len(np.unique(level)) < len(level):
            raise damaged(name, "a tree runs in a circle")
        met[level] = True
        inner = level[internal[level]]
        level = np.concatenate([left[inner], right[inner]])


def check_depth(name: str, *, left: Array, right: Array, internal: Array, root: int = 0, deepest: int = DEEPEST) -> None:
    """Check a tree that has passed ``check_tree`` before it goes to a library that descends by recursion, and would run out of stack.

    Raises:
        InputError: if it has more than ``deepest`` levels of inner nodes.
    """
    level, depth = np.array([root]), 0
    while len(level := level[internal[level]]):
        depth += 1
        if depth > deepest:
            raise InputError(f"{name} has a tree of more than {deepest} levels, at which its runtime can run out of stack; train shallower trees")
        level = np.concatenate([left[level], right[level]])


def check_estimator(estimator: Any, name: str) -> None:
    """Check every tree and support vector machine inside a scikit-learn object that was read from a file.

    Raises:
        InputError: if one of them points outside itself.
    """
    for part in _walk(estimator):
        kind = f"{type(part).__module__}.{type(part).__name__}"
        if kind == "sklearn.tree._tree.Tree":
            _check_sklearn_tree(part, name)
        elif kind == "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor":
            _check_histogram_tree(part, name)
        elif kind in ("sklearn.neighbors._kd_tree.KDTree", "sklearn.neighbors._ball_tree.BallTree"):
            _check_space_tree(part, name)
        elif kind == "numpy.random.mtrand.RandomState":
            if not 0 <= int(part.get_state(legacy=False)["state"]["pos"]) <= 624:
                raise damaged(name, "a random generator points outside its state")
        elif kind.startswith("sklearn.svm.") and hasattr(part, "support_vectors_"):
            _check_svm(part, name)
        elif kind.startswith("sklearn.") and hasattr(part, "tree_") and hasattr(part, "n_features_in_"):
            if part.tree_.n_features != part.n_features_in_:
                raise damaged(name, f"a tree over {part.tree_.n_features} features lies in an estimator of {part.n_features_in_}")
        elif kind.startswith("sklearn.ensemble._hist_gradient_boosting") and hasattr(part, "_predictors"):
            _check_histogram_ensemble(part, name)


def _walk(root: Any) -> Iterator[Any]:
    """Every object inside another one, once; arrays of numbers and plain values are passed over."""
    seen: set[int] = set()
    waiting = [root]
    while waiting:
        item = waiting.pop()
        if item is None or isinstance(item, str | bytes | int | float | type) or id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            waiting += item
        elif isinstance(item, np.ndarray):
            waiting += item.ravel().tolist() if item.dtype == object else []
        else:
            yield item
            waiting += list(getattr(item, "__dict__", {}).values())


def _check_sklearn_tree(tree: Any, name: str) -> None:
    state = tree.__getstate__()
    nodes = state["nodes"]
    # scikit-learn calls a node a leaf when its left child is -1, whatever the right one says.
    check_tree(
        name,
        left=nodes["left_child"],
        right=nodes["right_child"],
        feature=nodes["feature"],
        internal=nodes["left_child"] != -1,
        features=tree.n_features,
    )
    if tree.node_count != len(nodes) or len(state["values"]) != len(nodes):
        raise damaged(name, f"a tree of {len(nodes)} nodes has {len(state['values'])} values")


def _check_histogram_tree(tree: Any, name: str) -> None:
    nodes = tree.nodes
    needed = ("left", "right", "feature_idx", "is_leaf", "is_categorical", "bitset_idx", "value")
    if not isinstance(nodes, np.ndarray) or nodes.dtype.names is None or any(field not in nodes.dtype.names for field in needed):
        raise damaged(name, "the nodes of a histogram tree lack fields")
    internal = nodes["is_leaf"] == 0
    check_tree(name, left=nodes["left"].astype(np.int64), right=nodes["right"].astype(np.int64), feature=nodes["feature_idx"].astype(np.int64),
               internal=internal, features=1 << 31)  # fmt: skip
    categorical = internal & (nodes["is_categorical"] != 0)
    for bits in (tree.raw_left_cat_bitsets, tree.binned_left_cat_bitsets):
        if np.shape(bits)[1:] != (8,) or (categorical.any() and int(nodes["bitset_idx"][categorical].max()) >= len(bits)):
            raise damaged(name, "a histogram tree points to categories that it does not hold")


def _check_histogram_ensemble(estimator: Any, name: str) -> None:
    width = int(estimator.n_features_in_)
    for tree in (tree for round_ in estimator._predictors for tree in round_):
        internal = tree.nodes["is_leaf"] == 0
        if internal.any() and int(tree.nodes["feature_idx"][internal].max()) >= width:
            raise damaged(name, f"a tree splits on feature {int(tree.nodes['feature_idx'][internal].max())}, but there are {width}")


def _check_space_tree(tree: Any, name: str) -> None:
    """A KDTree or BallTree is a whole binary tree over slices of a permutation of its rows."""
    data, order, nodes, bounds, _, levels, count = tree.__getstate__()[:7]
    rows, width = np.shape(data)
    starts, ends, leaf = nodes["idx_start"], nodes["idx_end"], nodes["is_leaf"]
    whole = count == len(nodes) == 2**levels - 1 and len(order) == rows and np.shape(bounds)[1:] == (count, width)
    if not whole or (np.sort(order) != np.arange(rows)).any() or (starts < 0).any() or (starts > ends).any() or (ends > rows).any():
        raise damaged(name, f"a search tree over {rows} rows points outside them")
    inner = np.flatnonzero(leaf == 0)
    if (2 * inner + 2 >= count).any():
        raise damaged(name, f"a search tree of {count} nodes points to others")


def _check_svm(machine: Any, name: str) -> None:
    vectors, counts = np.shape(machine.support_vectors_)[0], np.asarray(machine._n_support)
    dual = np.shape(machine._dual_coef_)
    classes = len(counts) if hasattr(machine, "classes_") else 2
    right = (
        (counts >= 0).all()
        and (counts.sum() == vectors or len(counts) != classes)
        and len(machine.support_) == vectors
        and dual == (max(classes - 1, 1), vectors)
    )
    pairs = classes * (classes - 1) // 2
    probabilities = all(np.size(getattr(machine, part, ())) in (0, pairs) for part in ("_probA", "_probB"))
    if not right or np.size(machine._intercept_) != pairs or not probabilities:
        raise damaged(name, f"a support vector machine has {vectors} vectors, but its tables have shapes {dual} and {counts.tolist()}")
