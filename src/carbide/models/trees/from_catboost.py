"""Reads CatBoost's trees: ``x > border`` goes right in float32, in symmetric trees the same test for all nodes of a level.

The library sums leaves in double precision in the order of the trees, then applies a scale and adds a bias. Tests that earlier ones
have decided (a symmetric tree repeats many) are left out, so that every node of the intermediate form can go both ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from carbide.models._catboost_file import LOSSES, features_of
from carbide.models.trees._build import Builder, last_single_left
from carbide.models.trees.ensemble import Ensemble
from carbide.types import Array, InputError

NUMBERS = range(-999, 100_000)  # the whole numbers whose names a category without a name is looked for among
Known = dict[
    tuple[str, int], Any
]  # what a path has decided: of a float column (low, high), of a category column the number it is, or those it is not


def from_catboost(estimator: Any) -> Ensemble:
    """The trees of a fitted ``CatBoostClassifier`` or ``CatBoost`` trained for classification; categories are whole numbers.

    Raises:
        InputError: if it is not fitted, no classifier, or splits on what no test of one value says.
    """
    from carbide.models.catboosted import catboosted

    return catboosted(estimator).ensemble_


def ensemble_from(model: Any) -> Ensemble:
    """The trees of a ``CatBoosted``.

    Raises:
        InputError: if a split asks for a category that is neither named nor a whole number of ``NUMBERS``.
    """
    document = model.document
    loss = document["model_info"]["params"]["loss_function"]["type"]
    scale, bias = document["scale_and_bias"]
    reader = _Reader(model, Builder(width=len(bias)), scale, -1 if len(bias) > 1 else 0)
    for tree in document.get("oblivious_trees", []):
        reader.symmetric(tree)
    for tree in document.get("trees", []):
        reader.tree(tree)
    if any(bias):  # added last, as the library does
        reader.builder.end(reader.builder.root(reader.output), bias, 0)
    return reader.builder.done(
        base=np.zeros(len(bias)), classes=model.classes_, features=features_of(document), link=LOSSES[loss], library="catboost"
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """A category's values: within the runs that begin and end at ``cuts`` (or, unless it ``holds``, outside them), and ``missing`` or not."""

    cuts: list[float] = field(default_factory=list)
    holds: bool = True
    missing: bool = False


class _Reader:
    def __init__(self, model: Any, builder: Builder, scale: float, output: int) -> None:
        parts = model.document["features_info"]
        self.builder, self.scale, self.output = builder, scale, output
        self.floats = [(part["flat_feature_index"], part["has_nans"] and part["nan_value_treatment"] == "AsTrue") for part in parts["float_features"]]
        self.words = [part["flat_feature_index"] for part in parts["categorical_features"]]
        self.points = [_points(part, dict(model.words).get(part["flat_feature_index"], ())) for part in parts["categorical_features"]]

    def symmetric(self, tree: dict[str, Any]) -> None:
        """All nodes of level i ask split i; the leaf is the number whose bit i says that it was true."""
        values = np.array(tree["leaf_values"]).reshape(-1, self.builder.width)
        stack: list[tuple[int, int, int, Known]] = [(self.builder.root(self.output), 0, 0, {})]
        while stack:
            node, level, leaf, known = stack.pop()
            while level < len(tree["splits"]) and (way := self.decided(tree["splits"][level], known)) is not None:
                leaf |= way << level
                level += 1
            if level == len(tree["splits"]):
                self.builder.end(node, values[leaf] * self.scale, leaf)
                continue
            for side, (child, known_there) in enumerate(self.ask(node, tree["splits"][level], known)):
                stack.append((child, level + 1, leaf | side << level, known_there))

    def tree(self, tree: dict[str, Any]) -> None:
        """Leaves are numbered from left to right."""
        stack: list[tuple[int, dict[str, Any], Known]] = [(self.builder.root(self.output), tree, {})]
        first = _first_leaves(tree)
        while stack:
            node, here, known = stack.pop()
            while "split" in here and (way := self.decided(here["split"], known)) is not None:
                here = here["right" if way else "left"]
            if "split" not in here:
                self.builder.end(node, np.atleast_1d(here["value"]) * self.scale, first[id(here)])
                continue
            for side, (child, known_there) in zip(("left", "right"), self.ask(node, here["split"], known), strict=True):
                stack.append((child, here[side], known_there))

    def ask(self, node: int, split: dict[str, Any], known: Known) -> list[tuple[int, Known]]:
        """Make a node ask a split; its children where that is false and true, and what is known there."""
        no, yes = self.builder.node(), self.builder.node()
        key, value = _key(split)
        if key[0] == "number":
            column, up = self.floats[key[1]]
            low, high = known.get(key, (-np.inf, np.inf))
            cut = float(last_single_left(np.array([value]), strict=False)[0])
            self.builder.test(node, column, cut, no, yes, missing_left=not up)
            return [(no, {**known, key: (low, value)}), (yes, {**known, key: (value, high)})]
        run = self.points[key[1]][value]
        inside, outside = (yes, no) if run.holds else (no, yes)
        if run.cuts:
            self.builder.runs(node, self.words[key[1]], run.cuts, inside=inside, outside=outside, missing=yes if run.missing else no)
        else:  # of all values only the missing one may be this category
            self.builder.test(node, self.words[key[1]], np.inf, outside, yes if run.missing else no, missing_left=False)
        return [(no, {**known, key: (None, {*known.get(key, (None, ()))[1], value})}), (yes, {**known, key: (value, ())})]

    def decided(self, split: dict[str, Any], known: Known) -> bool | None:
        """What earlier answers, or the names of the categories, say about a split; None = it can be either."""
        key, value = _key(split)
        if key[0] == "category" and self.points[key[1]][value] == Run():
            return False
        if key not in known:
            return None
        if key[0] == "number":
            low, high = known[key]
            return True if low >= value else False if high <= value else None
        chosen, others = known[key]
        return chosen == value if chosen is not None else False if value in others else None


def _key(split: dict[str, Any]) -> tuple[tuple[str, int], Any]:
    if split["split_type"] == "FloatFeature":
        return ("number", split["float_feature_index"]), split["border"]
    return ("category", split["cat_feature_index"]), split["value"]


def _first_leaves(tree: dict[str, Any]) -> dict[int, int]:
    """The number of every leaf, from left to right."""
    found: dict[int, int] = {}
    stack = [tree]
    while stack:
        here = stack.pop()
        if "split" in here:
            stack += [here["right"], here["left"]]
        else:
            found[id(here)] = len(found)
    return found


def _points(part: dict[str, Any], words: tuple[str, ...]) -> dict[int, Run]:
    """The values that each category of the model's splits stands for."""
    from carbide.models.catboosted import MISSING, category_names

    if not part["values"]:
        return {}
    numbers: Array = np.arange(len(words)) if words else np.arange(NUMBERS.start, NUMBERS.stop)
    places = category_names(part["values"], [*(words or [str(n) for n in numbers]), MISSING])
    found = {}
    for value, at in zip(part["values"], places, strict=True):
        if not at and not words:
            raise InputError(f"CatBoost's column {part['flat_feature_index']} has a category that is no whole number from {NUMBERS.start} to "
                             f"{NUMBERS.stop - 1}; name its categories in the space, in the order of their numbers")  # fmt: skip
        missing = len(numbers) in at
        rest = missing and bool(words)  # where categories have names, all else is named like a missing one
        listed = (
            [float(n) for place, n in enumerate(numbers) if (place in at) != rest] if rest else [float(numbers[p]) for p in at if p < len(numbers)]
        )
        found[value] = Run(cuts=[edge for n in listed for edge in (float(np.nextafter(n, -np.inf)), n)], holds=not rest, missing=missing)
    return found
