"""Cohen & Nissim 2020, https://arxiv.org/abs/1904.06009: predicates that single rows out, from where a model answers unlike its surroundings.

The attacker learns from its own rows what a label's probability is without memory, and asks the model about many points between them. Where
the model is surer of an unlikely label than that, a training row may be near: from there the faces of the region are halved in on that keeps
the model's surplus, the leaf of a tree or the crest around an outlier of a forest. The box and the label are the predicate.

>>> AnswerBoxes(points=1000).level
0.8
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from carbide.privacy.answer_field import Field, field_of
from carbide.privacy.predicates import Predicates
from carbide.registry import Method
from carbide.types import Access, Array, Case, Dataset, InputError, Model, Rng, SinglingOut, Threat

UNLIKELY = 0.5  # labels that the attacker's own rows make likelier than that are no surprise
BATCH = 50  # boxes after which points that these already hold are dropped
MARGIN = 0.6  # weights are taken from ranges as if features were independent, so they are kept this far below what is allowed
TRUST = 60  # known rows whose say in a weight equals that of the ranges
ALONE, OPEN = 2.0, 0.2  # how quickly a heavier box loses its place in the order, and what a box keeps whose surroundings answer alike
FEWEST = 30  # predicates that are written in any case, blind ones where the answers give too few
BLIND = 0.05  # of the weight that is allowed, for blind predicates
SHARES = 24  # sizes that are tried for a blind one


@dataclass(frozen=True, kw_only=True)
class AnswerBoxes(Method):
    """Boxes around the ``seeds`` most surprising of ``points`` points, out to where ``level`` of the surprise is left; best first."""

    threats = (SinglingOut,)
    needs: ClassVar[Access] = Access.LABELS
    points: int = 20000
    seeds: int = 400
    level: float = 0.8

    def __post_init__(self) -> None:
        if self.points < 1:
            raise InputError(f"points is {self.points}; give a whole number >= 1")
        if self.seeds < 1:
            raise InputError(f"seeds is {self.seeds}; give a whole number >= 1")
        if not 0 < self.level <= 1:
            raise InputError(f"level is {self.level}; give a share above 0 and at most 1, e.g. 0.8")

    def refuses(self, case: Case, threat: Threat) -> str | None:
        """Images have no ranges that mean anything."""
        return None if len(case.data.train.space.shape) == 1 else "it writes predicates over the features of a table; give a model of a table"

    def __call__(self, model: Model, known: Dataset, weight: float, rng: Rng) -> Predicates:
        """Predicates that should each weigh at most ``weight``, from ``known`` rows that were not trained on and the model's answers."""
        field = field_of(model, known, rng)
        points, label, surprise = _surprises(field, self.points, rng)
        found = [_blind(field, 4 * FEWEST, BLIND * weight, rng)]
        scores = [np.zeros(4 * FEWEST)]
        grown = 0
        while len(points) and grown < self.seeds:
            batch = slice(0, min(BATCH, self.seeds - grown))
            limit = field.limits(points[batch], label[batch], self.level)
            boxes = field.split(field.grow(points[batch], label[batch], limit), points[batch], limit, rng)
            score = surprise[batch] * (field.closed(boxes, limit, rng) + OPEN)
            found.append(boxes)
            scores.append(score)
            grown += len(score)
            rest = len(score) + np.flatnonzero(~boxes.holds(points[len(score) :], label[len(score) :]).any(0))
            points, label, surprise = points[rest], label[rest], surprise[rest]
        return _ordered(field, Predicates(*map(np.concatenate, zip(*found, strict=True))), np.concatenate(scores), weight, rng)


def _surprises(field: Field, count: int, rng: Rng) -> tuple[Array, Array, Array]:
    """Points, the label that the model is surer of at each than it should be, and by how much, most first."""
    points = field.between(count, rng)
    believed = field.belief(points)
    surplus = np.where(believed <= UNLIKELY, field.model.predict(points) - believed, 0.0)
    most = surplus.max(1)
    order = np.argsort(-most, kind="stable")
    order = order[most[order] > 0]
    return points[order], surplus.argmax(1)[order], most[order]


def _ordered(field: Field, boxes: Predicates, score: Array, weight: float, rng: Rng) -> Predicates:
    """The boxes that are light enough, those first that surely hold somebody and nobody else; blind ones, whose score is 0, up to the fewest."""
    ranges = field.weights(boxes, rng)
    held = boxes.holds(field.known.x, field.known.y).sum(1)
    likely = (TRUST * ranges + held) / (TRUST + len(field.known))
    light = np.flatnonzero((score > 0) & (ranges <= MARGIN * weight) & (likely <= weight))
    score = score * np.exp(-ALONE * ranges / weight)
    made = boxes.take(light[np.argsort(-score[light], kind="stable")]).apart(len(light))
    return made if len(made.label) >= FEWEST else made.joined(boxes.take(np.flatnonzero(score == 0))).apart(FEWEST)


def _blind(field: Field, count: int, weight: float, rng: Rng) -> Predicates:
    """Boxes that should weigh at most ``weight`` and owe nothing to the model: ranges of equal shares around points between known rows."""
    points, m = field.between(count, rng), len(field.known)
    label = field.belief(points).argmax(1)
    at = np.stack([np.searchsorted(column, points[:, j]) for j, column in enumerate(field.columns.T)], axis=1)
    low, high, open_ = points.copy(), points.copy(), np.ones(count, bool)
    for share in np.geomspace(1.0, 1.0 / m, SHARES):
        ends = [np.take_along_axis(field.columns, (at + way * round(share * m)).clip(0, m - 1), axis=0) for way in (-1, 1)]
        boxes = Predicates(low=np.minimum(ends[0], points), high=np.maximum(ends[1], points), label=label)
        fits = open_ & (field.weights(boxes, rng) <= weight)
        low[fits], high[fits], open_ = boxes.low[fits], boxes.high[fits], open_ & ~fits
    return Predicates(low=low, high=high, label=label)
