"""A model's answers over the space of a table, beside what an attacker's own rows say: points between rows, boxes of like answers, their weights.

A face is found by asking outward along an axis and halving in on the first change, ``O(log(1 / precision))`` answers each; where points of
the box still answer otherwise it is split at the face that lies on the way to them.

>>> far_ends(np.array([0.0]), np.array([np.inf]), np.array([[1.0], [3.0]])).tolist()
[[0.0], [5.0]]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from carbide.privacy.imputation import impute
from carbide.privacy.predicates import Predicates
from carbide.types import Array, Dataset, Kind, Model, Rng

STEPS = 16  # values that are tried outward along an axis, denser near the point
HALVINGS = 12
INSIDE = 16  # points of a box at which answers are compared
SPLITS = 12  # times that a box is split at most
BEYOND = 8  # points just beyond each face
NUDGE = 3e-4  # of what is asked about along an axis: how far beyond
MIXED = 0.2  # share of the features that a point takes from a second row
NEAR = 0.025  # share of the rows, on either side, between which a point's real values are drawn


@dataclass(frozen=True, kw_only=True, eq=False)
class Field:
    """The answers of a ``model`` and the ``belief`` ``(n, d) -> (n, k)`` of whoever has only the ``known`` rows (no value missing).

    ``ends`` ``(2, d)`` are the least and the greatest value that is asked about, ``columns`` ``(m, d)`` the known values of each feature in order.
    """

    model: Model
    known: Dataset
    belief: Callable[[Array], Array]
    ends: Array
    columns: Array

    def between(self, count: int, rng: Rng) -> Array:
        """Points ``(count, d)`` between known rows: most features of one, some of another, real values drawn from among their neighbours'."""
        m, space = len(self.known), self.known.space
        one, two = (self.known.x[rng.integers(m, size=count)] for _ in range(2))
        other = rng.random(one.shape) < MIXED
        for group in space.groups:
            other[:, list(group)] = other[:, [group[0]]]
        x = np.where(other, two, one)
        reach = max(1, round(NEAR * m))
        for j in np.flatnonzero((space.kind == Kind.REAL) & (space.step == 0)):
            at = np.searchsorted(self.columns[:, j], x[:, j])
            low, high = (self.columns[(at + way * reach).clip(0, m - 1), j] for way in (-1, 1))
            x[:, j] = low + (high - low) * rng.random(count)
        return x

    def limits(self, start: Array, label: Array, level: float) -> Array:
        """The answers ``(b,)`` for the label at which ``level`` of the surplus at the points ``start`` ``(b, d)`` over the belief is left."""
        rows = np.arange(len(start))
        believed, answer = self.belief(start)[rows, label], self.model.predict(start)[rows, label]
        return believed + level * (answer - believed) - 1e-9

    def grow(self, start: Array, label: Array, limit: Array) -> Predicates:
        """Boxes around the points as far as the answer for the label ``(b,)`` stays at its limit along each axis, infinite where it always does."""
        low, high = (np.stack([self._face(start, label, limit, j, way) for j in range(start.shape[1])], axis=1) for way in (-1, 1))
        return Predicates(low=low, high=high, label=label)

    def split(self, boxes: Predicates, start: Array, limit: Array, rng: Rng) -> Predicates:
        """The boxes cut down around their points until the answer stays at its limit in them, as far as points drawn in them show.

        The way back from a point that answers otherwise to the box's own is halved; the axis that alone makes the answer change there gives the face.
        """
        lower, upper, left = boxes.low.copy(), boxes.high.copy(), np.arange(len(start))
        for _ in range(SPLITS):
            if not len(left):
                break
            points = self._inside(lower[left], upper[left], start[left], rng)
            fell = ~self._at(points, boxes.label[left], limit[left])
            some = np.flatnonzero(fell.any(1))
            left = left[some]
            inner, outer = self._crossing(start[left], points[some, fell[some].argmax(1)], boxes.label[left], limit[left])
            d = start.shape[1]
            alone = np.repeat(inner[:, None], d, axis=1)
            alone[:, np.arange(d), np.arange(d)] = outer
            axes = ~self._at(alone, boxes.label[left], limit[left])
            cut = np.flatnonzero(axes.any(1))
            j = axes[cut].argmax(1)
            at, rows = inner[cut, j], left[cut]
            up = outer[cut, j] > at
            upper[rows[up], j[up]] = np.minimum(upper[rows[up], j[up]], at[up])
            lower[rows[~up], j[~up]] = np.maximum(lower[rows[~up], j[~up]], at[~up])
        return Predicates(low=lower, high=upper, label=boxes.label)

    def closed(self, boxes: Predicates, limit: Array, rng: Rng) -> Array:
        """The share ``(b,)`` of points just beyond a box's faces that answer below the limit: 1 where all that surrounds it answers otherwise."""
        shares, faces = np.zeros(len(limit)), np.zeros(len(limit))
        for j in range(boxes.low.shape[1]):
            beyond = max(float(self.known.space.step[j]), NUDGE * float(np.ptp(self.ends[:, j])))
            for way, end in ((-1, boxes.low), (1, boxes.high)):
                rows = np.flatnonzero(np.isfinite(end[:, j]))
                points = self._inside(boxes.low[rows], boxes.high[rows], None, rng)[:, :BEYOND]
                points[:, :, j] = end[rows, None, j] + way * beyond
                shares[rows] += 1 - self._at(points, boxes.label[rows], limit[rows]).mean(1)
                faces[rows] += 1
        return shares / np.maximum(faces, 1)

    def weights(self, boxes: Predicates, rng: Rng) -> Array:
        """What each box should weigh ``(b,)``: the known shares of its ranges multiplied, times the belief in its label inside."""
        count, d = boxes.low.shape
        among = np.stack([np.searchsorted(column, boxes.high[:, j], "right") - np.searchsorted(column, boxes.low[:, j], "left")
                          for j, column in enumerate(self.columns.T)], axis=1)  # fmt: skip
        points = self._inside(boxes.low, boxes.high, None, rng).reshape(-1, d)
        believed = self.belief(points)[np.arange(len(points)), np.repeat(boxes.label, INSIDE)].reshape(count, INSIDE)
        return np.exp(np.log((among + 1) / (len(self.known) + 1)).sum(1)) * believed.mean(1)

    def _face(self, start: Array, label: Array, limit: Array, j: int, way: int) -> Array:
        """How far feature ``j`` can be moved ``(b,)`` before the answer for the label falls below the limit, infinite where it never does."""
        room, step = np.abs(self.ends[(way + 1) // 2, j] - start[:, j]), float(self.known.space.step[j])
        whole = max(1.0, float(room.max()) / step) if step else math.inf
        count, halvings = int(min(STEPS, round(min(whole, STEPS)))), HALVINGS if not step else math.ceil(math.log2(whole))
        away = room[:, None] * (np.arange(1, count + 1) / count) ** 2
        away = np.minimum(np.ceil(away / step - 1e-9) * step, room[:, None]) if step else away

        def still(rows: Array, moves: Array) -> Array:
            points = np.repeat(start[rows, None], moves.shape[1], axis=1)
            points[:, :, j] += way * moves
            return self._at(points, label[rows], limit[rows]) | (moves == 0)

        every = np.arange(len(start))
        fell = ~still(every, away)
        first, rows = fell.argmax(1), np.flatnonzero(fell.any(1))
        inner = np.where(first > 0, away[every, np.maximum(first - 1, 0)], 0.0)[rows]
        outer = away[every, first][rows]
        for _ in range(halvings if len(rows) else 0):
            middle = (inner + outer) / 2
            middle = np.maximum(np.floor(middle / step + 1e-9) * step, inner) if step else middle
            stays = still(rows, middle[:, None])[:, 0]
            inner, outer = np.where(stays, middle, inner), np.where(stays, outer, middle)
        ends = np.full(len(start), way * np.inf)
        ends[rows] = start[rows, j] + way * inner
        return ends

    def _crossing(self, inner: Array, outer: Array, label: Array, limit: Array) -> tuple[Array, Array]:
        """The last point that answers at the limit and the first that does not, on the way from one to the other."""
        for _ in range(HALVINGS):
            middle = self._on_steps((inner + outer) / 2, inner)
            still = self._at(middle[:, None], label, limit)
            inner, outer = np.where(still, middle, inner), np.where(still, outer, middle)
        return inner, outer

    def _at(self, points: Array, label: Array, limit: Array) -> Array:
        """Whether the answers for the label ``(b,)`` at ``points`` ``(b, s, d)`` are at the limit ``(b,)`` or above, ``(b, s)``."""
        b, s, d = points.shape
        if not b:
            return np.zeros((b, s), bool)
        return self.model.predict(points.reshape(-1, d))[np.arange(b * s), np.repeat(label, s)].reshape(b, s) >= limit[:, None]

    def _inside(self, low: Array, high: Array, start: Array | None, rng: Rng) -> Array:
        """Points ``(b, INSIDE, d)`` of boxes, whole steps from ``start`` where that is given."""
        low, high = np.clip(low, *self.ends), np.clip(high, *self.ends)
        points = low[:, None] + (high - low)[:, None] * rng.random((len(low), INSIDE, low.shape[1]))
        return points if start is None else self._on_steps(points, start[:, None])

    def _on_steps(self, points: Array, start: Array) -> Array:
        step = self.known.space.step
        return np.where(step > 0, start + np.round((points - start) / np.where(step > 0, step, 1.0)) * step, points)


def far_ends(lower: Array, upper: Array, x: Array) -> Array:
    """The least and greatest value ``(2, d)`` to ask about: the space's bounds, where it has none as far beyond the rows as these reach."""
    least, most = x.min(0), x.max(0)
    reach = np.maximum(most - least, 1e-6)
    low, high = np.where(np.isfinite(lower), lower, least - reach), np.where(np.isfinite(upper), upper, most + reach)
    return np.stack([np.minimum(low, least), np.maximum(high, most)])


def field_of(model: Model, known: Dataset, rng: Rng) -> Field:
    """The field over the known rows; a missing value of theirs becomes the feature's median, 0 where it has none."""
    gone = np.isnan(known.x)
    middle = np.array([np.median(column[~out]) if not out.all() else 0.0 for column, out in zip(known.x.T, gone.T, strict=True)])
    rows = known.with_(x=np.where(gone, middle, known.x))
    return Field(model=model, known=rows, belief=impute(rows.x, rows.y, rows.classes, rng), ends=far_ends(known.space.lower, known.space.upper, rows.x),
                 columns=np.sort(rows.x, axis=0))  # fmt: skip
