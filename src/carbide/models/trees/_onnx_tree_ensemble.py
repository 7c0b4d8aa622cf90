"""ONNX's TreeEnsemble (ai.onnx.ml, version 5): whether its tables can be run, and the same trees as a TreeEnsembleRegressor, which it replaced.

TreeEnsemble numbers inner nodes and leaves apart, gives each leaf one vote, and may ask whether a value is a member of a set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from carbide.models._reading import NotRead
from carbide.models._sound import check_depth, damaged
from carbide.types import Array

MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ", "BRANCH_MEMBER")
SUMS = ("AVERAGE", "SUM", "MIN", "MAX")
LINKS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
RUNTIME = ("NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO", "PROBIT")  # what onnxruntime 1.32 does at these numbers
SIDES = ("true", "false")
COLUMNS = ("treeids", "nodeids", "modes", "featureids", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true", "members")
NODES = ("splits", "featureids", "modes", *(f"{side}nodeids" for side in SIDES), *(f"{side}leafs" for side in SIDES))


def check_tree_ensemble(given: dict[str, Any], name: str) -> None:
    """See that a walk down the trees of a TreeEnsemble's attributes never leaves their tables; the features are not checked from above.

    Raises:
        InputError: if it could, or the tables do not fit each other.
    """
    tables = {part: np.atleast_1d(given.get(f"nodes_{part}", [])) for part in NODES}
    many, leaves = len(tables["modes"]), len(given.get("leaf_targetids", []))
    rest = [np.atleast_1d(given[key]) for key in ("nodes_missing_value_tracks_true", "nodes_hitrates") if key in given]
    if many == 0 or any(table.shape != (many,) for table in [*tables.values(), *rest]) or np.shape(given["leaf_weights"]) != (leaves,):
        raise damaged(name, "the tables of a tree ensemble differ in length")
    for key, values, words in (("mode", tables["modes"], MODES), ("aggregate_function", [given.get("aggregate_function", 1)], SUMS),
                               ("post_transform", [given.get("post_transform", 0)], LINKS)):  # fmt: skip
        if not 0 <= min(values) <= max(values) < len(words):
            raise damaged(name, f"a tree ensemble has the {key} {max(values)}, and the last of the standard is {len(words) - 1}")
    kinds = {given[key].dtype for key in ("nodes_splits", "leaf_weights", "membership_values", "nodes_hitrates") if key in given}
    if len(kinds) > 1:
        raise damaged(name, f"the tables of a tree ensemble are of the types {', '.join(sorted(str(kind) for kind in kinds))}")
    for what, ids, below in (("a leaf votes for output", given.get("leaf_targetids", []), given.get("n_targets", 1)),
                             ("a tree splits on feature", given["nodes_featureids"], 1 << 31), ("a tree begins at node", given.get("tree_roots", []), many)):  # fmt: skip
        wrong = [i for i in ids if not 0 <= i < below]
        if wrong:
            raise damaged(name, f"{what} {wrong[0]} of {below}")
    met = np.bincount(np.array(given.get("tree_roots", []), np.int64), minlength=many)
    for side in SIDES:
        to, ends = tables[f"{side}nodeids"], tables[f"{side}leafs"]
        if not np.isin(ends, (0, 1)).all() or ((to < 0) | (to >= np.where(ends, leaves, many))).any():
            raise damaged(name, f"a {side} branch of a tree leads out of its tables")
        met += np.bincount(to[ends == 0], minlength=many)
    if (met > 1).any():  # where nobody has two parents and no root has one, no walk from a root is without end
        raise damaged(name, f"a tree reaches node {int(met.argmax())} in two ways")
    inner = [np.where(tables[f"{side}leafs"] == 0, tables[f"{side}nodeids"], many) for side in SIDES]  # all leaves as one node behind the others
    left, right = (np.append(side, many) for side in inner)
    for root in given["tree_roots"]:
        check_depth(name, left=left, right=right, internal=np.arange(many + 1) < many, root=root)
    try:
        _members([MODES[mode] for mode in tables["modes"]], given.get("membership_values"))
    except ValueError as error:
        raise damaged(name, str(error)) from error


def as_regressor(given: dict[str, Any], *, runtime: bool = False) -> dict[str, Any]:
    """The attributes of a TreeEnsembleRegressor that answers the same as a checked TreeEnsemble; ``nodes_members`` has the values of nodes that ask
    for a set. ``runtime``: transforms by onnxruntime's numbers instead of the standard's.

    Raises:
        NotRead: if the trees are not in single precision.
    """
    modes = [MODES[mode] for mode in given["nodes_modes"]]
    splits, weights = given["nodes_splits"], given["leaf_weights"]
    if splits.dtype != np.float32:
        raise NotRead(f"its trees are in {splits.dtype}, not in single precision")
    members = _members(modes, given.get("membership_values"))
    tracks = given.get("nodes_missing_value_tracks_true") or [0] * len(modes)
    sides = [(given[f"nodes_{side}nodeids"], given[f"nodes_{side}leafs"]) for side in SIDES]
    nodes: list[tuple[Any, ...]] = []
    votes: list[tuple[Any, ...]] = []
    for tree, root in enumerate(given["tree_roots"]):
        met = [(root, 0)]  # where a node stands in its table, and whether that is the leaves'
        for number, (at, leaf) in enumerate(met):  # which grows on the way
            if leaf:
                nodes.append((tree, number, "LEAF", 0, 0.0, 0, 0, 0, ()))
                votes.append((tree, number, given["leaf_targetids"][at], weights[at]))
                continue
            nodes.append((tree, number, modes[at], given["nodes_featureids"][at], splits[at], len(met), len(met) + 1, tracks[at], members[at]))
            met += [(ids[at], leafs[at]) for ids, leafs in sides]
    tables = zip(COLUMNS, zip(*nodes, strict=True), strict=True)
    cast = zip(("treeids", "nodeids", "ids", "weights"), zip(*votes, strict=True), strict=True)
    return {**{f"nodes_{name}": list(column) for name, column in tables}, **{f"target_{name}": list(column) for name, column in cast},
            "n_targets": given.get("n_targets", 1), "aggregate_function": SUMS[given.get("aggregate_function", 1)],
            "post_transform": (RUNTIME if runtime else LINKS)[given.get("post_transform", 0)]}  # fmt: skip


def _members(modes: Sequence[str], values: Array | None) -> list[tuple[float, ...]]:
    """The set of every node, empty for those that ask for none; the table has them one after the other, NaN behind each."""
    every = np.zeros(0) if values is None else values
    sets = np.split(every, np.flatnonzero(np.isnan(every)) + 1)[:-1]
    if len(sets) != modes.count("BRANCH_MEMBER"):
        raise ValueError(f"{modes.count('BRANCH_MEMBER')} nodes of trees ask for a set, and there are {len(sets)} sets")
    if any(len(values) == 1 for values in sets):
        raise ValueError("a node of a tree asks for an empty set")
    left = iter(sets)
    return [tuple(np.unique(next(left)[:-1]).tolist()) if mode == "BRANCH_MEMBER" else () for mode in modes]
