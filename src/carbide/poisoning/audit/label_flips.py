"""Xiao, Xiao and Eckert 2012, https://doi.org/10.3233/978-1-61499-098-7-870: adversarial label flips.

Flipping labels at random hurts little. An attacker does better by flipping one side only, near the border or far from
it, class after class; which of these plans hurts most is tried out on stand-in models before it is used.

>>> import numpy as np
>>> from carbide.types import Dataset, Flips, Space
>>> data = Dataset(x=np.arange(20.0)[:, None], y=np.repeat([0, 1], 10), ids=np.arange(20).astype(str), source=np.full(20, "a"),
...                space=Space.table(["a"]), classes=2)
>>> poison = LabelFlips(choice="near")(data, Flips(fraction=0.1), np.random.default_rng(0))
>>> int((poison.dataset.y != data.y).sum())
2
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from carbide.poisoning import _proxy
from carbide.poisoning._checks import budget
from carbide.registry import Method
from carbide.run import track
from carbide.types import Array, Dataset, Flips, InputError, Poison, Rng

CHOICES = ("best", "random", "near", "far")
SHARE = 0.6  # of a class among several: a little more than half is enough to turn it over


@dataclass(frozen=True, kw_only=True)
class LabelFlips(Method):
    """Flips the labels that stand-in models say hurt most: at random, near the border or far from it, or one class after another."""

    threats = (Flips,)
    trains = True
    choice: str = "best"
    rows: int = 2000  # training rows of the stand-ins that choose the plan

    def __post_init__(self) -> None:
        if self.choice not in CHOICES:
            raise InputError(f"choice is {self.choice!r}; choose {', '.join(CHOICES)}")
        if self.rows < 20:
            raise InputError(f"rows is {self.rows}; give at least 20")

    def __call__(self, dataset: Dataset, threat: Flips, rng: Rng) -> Poison:
        """The data set with ``floor(fraction * n)`` labels changed."""
        count = budget(threat, len(dataset))
        y = dataset.y.copy()
        if count:
            view = _view(dataset.y, _proxy.probabilities(dataset, rng))
            plan = self._plan(dataset, view, threat, rng)
            rows, labels = _flip(view, count, plan, rng)
            y[rows] = labels
        return Poison(dataset=dataset.with_(y=y), rows=y != dataset.y)

    def quick(self) -> LabelFlips:
        """Plans are tried out on fewer rows."""
        return replace(self, rows=min(self.rows, 600))

    def _plan(self, dataset: Dataset, view: _View, threat: Flips, rng: Rng) -> _Plan:
        if self.choice != "best":
            return _Plan(self.choice)
        first, second = _proxy.halves(dataset.y, rng)
        first, second = _proxy.sample(first, rng, self.rows), _proxy.sample(second, rng, self.rows)
        count = min(len(first), max(1, round(threat.fraction * len(first))))
        plans = _plans(view)
        scores = [_trial(dataset, view, first, second, count, plan, rng) for plan in track(plans, label="trying label flips")]
        return plans[int(np.argmin(scores))]


class _View(NamedTuple):
    """Labels, and by the stand-in: how sure each row's label is (own probability minus the best other), and that other."""

    y: Array
    margin: Array
    other: Array
    classes: int


class _Plan(NamedTuple):
    """``random``, ``near`` the border first or ``far`` from it first; ``order`` names classes that are emptied one after another."""

    way: str
    order: tuple[int, ...] = ()


def _view(y: Array, probabilities: Array) -> _View:
    rows = np.arange(len(y))
    rivals = probabilities.copy()
    rivals[rows, y] = -1.0
    return _View(y, probabilities[rows, y] - rivals.max(1), rivals.argmax(1), probabilities.shape[1])


def _plans(view: _View) -> list[_Plan]:
    present = np.unique(view.y)
    small = tuple(sorted(present.tolist(), key=lambda c: (int((view.y == c).sum()), c)))
    unsure = tuple(sorted(present.tolist(), key=lambda c: (float(view.margin[view.y == c].mean()), c)))
    orders = {small, small[::-1]} if len(present) == 2 else {small, unsure}
    return [*map(_Plan, ("random", "near", "far")), *(_Plan(way, order) for order in sorted(orders) for way in ("random", "near", "far"))]


def _trial(dataset: Dataset, view: _View, fit: Array, score: Array, count: int, plan: _Plan, rng: Rng) -> float:
    """The stand-ins' mean accuracy on ``score`` rows after the plan was carried out on ``fit`` rows."""
    part = _View(view.y[fit], view.margin[fit], view.other[fit], view.classes)
    rows, labels = _flip(part, count, plan, rng)
    y = part.y.copy()
    y[rows] = labels
    if len(np.unique(y)) < 2:
        return float(np.mean(view.y[score] == y[0]))
    x, truth = _proxy.flat(dataset.x), view.y[score]
    seed = np.random.default_rng(0)  # the same trees for every plan
    return float(np.mean([model.fit(x[fit], y).score(x[score], truth) for model in (_proxy.forest(seed), _proxy.linear())]))


def _flip(view: _View, count: int, plan: _Plan, rng: Rng) -> tuple[Array, Array]:
    """The rows ``(count,)`` to flip and their new labels."""
    if plan.order:
        return _empty(view, count, plan, rng)
    rows = _ranked(np.arange(len(view.y)), view, plan.way, rng)[:count]
    if plan.way == "random":
        return rows, (view.y[rows] + rng.integers(1, view.classes, len(rows))) % view.classes
    return rows, view.other[rows]


def _ranked(rows: Array, view: _View, way: str, rng: Rng) -> Array:
    """The rows in the order in which the plan takes them; rows that already look like another class come last when near."""
    if way == "random":
        return rng.permutation(rows)
    margin = view.margin[rows]
    key = np.where(margin > 0, margin, 2.0 - margin) if way == "near" else -margin
    return rows[np.argsort(key, kind="stable")]


def _empty(view: _View, count: int, plan: _Plan, rng: Rng) -> tuple[Array, Array]:
    """Class after class, most of its rows get the class that it is most often taken for."""
    share = 1.0 if len(plan.order) == 2 else SHARE
    rows, labels, rest = [], [], []
    for label in plan.order:
        own = _ranked(np.flatnonzero(view.y == label), view, plan.way, rng)
        cut = min(int(np.ceil(share * len(own))), count - sum(map(len, rows)))
        rival = int(np.bincount(view.other[own], minlength=view.classes).argmax())
        rows.append(own[:cut])
        labels.append(np.full(cut, rival))
        rest.append(own[cut:])
    left = np.concatenate(rest)[: count - sum(map(len, rows))]
    return np.concatenate([*rows, left]), np.concatenate([*labels, view.other[left]])
