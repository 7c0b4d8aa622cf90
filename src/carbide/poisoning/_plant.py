"""Planting a trigger: which of several works best, which rows get it, and the poison that results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from carbide.poisoning import _proxy
from carbide.poisoning._checks import budget
from carbide.run import track
from carbide.types import Array, Backdoor, Dataset, Poison, Rng

Trigger = Callable[[Array], Array]
T = TypeVar("T", bound=Trigger)


def victims(y: Array, target: int, count: int, rng: Rng) -> Array:
    """At most ``count`` rows of other classes, drawn at random but never more than half of a class, so that each is still learnt."""
    halves = [rng.permutation(np.flatnonzero(y == c))[: max(1, int((y == c).sum()) // 2)] for c in np.unique(y) if c != target]
    rows = np.concatenate(halves) if halves else np.zeros(0, np.int64)
    return np.sort(rng.permutation(rows)[:count])


def plant(dataset: Dataset, trigger: Trigger, target: int, count: int, rng: Rng) -> Poison:
    """The data set with the trigger and the target label on at most ``count`` rows of other classes."""
    rows = victims(dataset.y, target, count, rng)
    x, y, chosen = dataset.x.copy(), dataset.y.copy(), np.zeros(len(dataset), bool)
    x[rows] = trigger(x[rows])
    y[rows] = target
    chosen[rows] = True
    return Poison(dataset=dataset.with_(x=x, y=y), rows=chosen, trigger=trigger, target=target)


def best_trigger(dataset: Dataset, triggers: Sequence[T], threat: Backdoor, rows: int, rng: Rng) -> T:
    """The trigger that gains most on stand-in models trained on at most ``rows`` rows and tried on as many others."""
    first, second = _proxy.halves(dataset.y, rng)
    fit, score = (dataset.take(_proxy.balanced(dataset.y, half, rng, rows)) for half in (first, second))
    if len(triggers) == 1 or len(np.unique(fit.y)) < 2 or (score.y == threat.target).all():
        return triggers[0]
    before = _stand_ins(fit)
    share = budget(threat, len(dataset)) / max(1, int((dataset.y != threat.target).sum()))  # of the rows that may be poisoned
    count = max(6, round(share * int((fit.y != threat.target).sum())))
    gains = [_gain(fit, score, before, trigger, threat.target, count) for trigger in track(triggers, label="trying triggers")]
    return triggers[int(np.argmax(gains))]


def _stand_ins(dataset: Dataset) -> list[Any]:
    """Models trained on the rows, for images a net among them; the same randomness for every trigger."""
    rng = np.random.default_rng(0)
    models = (_proxy.forest(rng), _proxy.net(rng)) if dataset.space.is_image else (_proxy.forest(rng), _proxy.tree(rng), _proxy.linear())
    return [_proxy.fitted(model, dataset.x, dataset.y) for model in models]


def _gain(fit: Dataset, score: Dataset, before: list[Any], trigger: Trigger, target: int, count: int) -> float:
    """By how much planting the trigger in ``count`` of the ``fit`` rows raises the stand-ins' success on ``score`` rows, on average."""
    poisoned = plant(fit, trigger, target, count, np.random.default_rng(0)).dataset
    own, others = _proxy.flat(score.x[score.y == target]), _proxy.flat(trigger(score.x[score.y != target]))
    rates = [[_success(model, own, others, target) for model in models] for models in (_stand_ins(poisoned), before)]
    return float(np.mean(rates[0]) - np.mean(rates[1]))


def _success(model: Any, own: Array, others: Array, target: int) -> float:
    """The share of triggered ``others`` that get the target class, averaged with the share that pass for it.

    To pass is to score as nine tenths of the target's ``own`` rows do: what a model decides at a low false-positive rate.
    """
    named = float((model.predict(others) == target).mean())
    if len(own) == 0:
        return named
    bar = np.quantile(_proxy.scores(model, own, target), 0.1)
    return (named + float((_proxy.scores(model, others, target) >= bar).mean())) / 2
