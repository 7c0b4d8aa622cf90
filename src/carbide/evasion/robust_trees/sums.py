"""Sums of gradient and hessian by bin: of rows that stay, of rows that move by the outermost bins that they reach; compiled.

Blocks of rows whose gradients lie near, two features at a time: twice the speed of one feature after the other, and each feature's sums are
added up in the order of the rows all the same, whoever counts which features.
"""

from __future__ import annotations

import numpy as np

from carbide.evasion._compiled import inner
from carbide.evasion.robust_trees.attackers import Reach
from carbide.evasion.robust_trees.prices import entry_price, lane_of, span, unit_of

BLOCK = 2048  # rows


@inner
def add_still(bins, features, places, rows, positive, gradient, hessian, sums):  # pragma: no cover - compiled
    """Add rows that stay in their ``bins`` ``(d, n)`` to the sums of these features: ``sums`` ``(m, 256, 4)`` at their ``places``."""
    stats, classes = np.empty((BLOCK, 2)), np.empty(BLOCK, np.uint64)
    flat, unused = sums.reshape(len(sums), 1024), np.empty(1024)
    two, one, count = np.uint64(2), np.uint64(1), len(features)
    for begin in range(0, len(rows), BLOCK):
        part = rows[begin : begin + BLOCK]
        size = len(part)
        for e in range(size):
            classes[e] = np.uint64(0) if positive[part[e]] else two
            stats[e, 0], stats[e, 1] = gradient[part[e]], hessian[part[e]]
        for m in range(0, count, 2):
            pair = m + 1 if m + 1 < count else m
            of, of_pair = bins[features[m]], bins[features[pair]]
            out, out_pair = flat[places[m]], flat[places[pair]] if pair > m else unused
            for e in range(size):
                row, g, h = np.uint64(part[e]), stats[e, 0], stats[e, 1]
                at, at_pair = (np.uint64(of[row]) << two) + classes[e], (np.uint64(of_pair[row]) << two) + classes[e]
                a, b = out[at] + g, out[at + one] + h
                out[at], out[at + one] = a, b
                a, b = out_pair[at_pair] + g, out_pair[at_pair + one] + h
                out_pair[at_pair], out_pair[at_pair + one] = a, b


@inner
def add_weighted(bins, rows, stats, classes, out):  # pragma: no cover - compiled
    """The same for one feature and rows whose ``stats`` ``(m, 2)`` are their shares of gradient and hessian."""
    for e in range(len(rows)):
        b, c = bins[rows[e]], classes[e]
        out[b, c] += stats[e, 0]
        out[b, c + 1] += stats[e, 1]


@inner
def shared_sums(bins, features, places, small, doubled, left_is_small, positive, gradient, hessian, sums):  # pragma: no cover - compiled
    """Sums of both children, ``sums`` ``(2, m, 256, 4)``, right first, where the first are their node's; ``small``: the rows of the smaller child,
    ``doubled``: those that both have. The larger child has what is left."""
    for place in places:
        sums[1, place] = 0.0
    add_still(bins, features, places, small, positive, gradient, hessian, sums[1])
    right, left = sums[0].reshape(sums.shape[1], 1024), sums[1].reshape(sums.shape[1], 1024)
    for place in places:
        for i in range(1024):
            few = left[place, i]
            rest = right[place, i] - few
            left[place, i], right[place, i] = (few, rest) if left_is_small else (rest, few)
    add_still(bins, features, places, doubled, positive, gradient, hessian, sums[0 if left_is_small else 1])


@inner
def add_moved(reach: Reach, f, lows, highs, paid, rows, stats, classes, still, first, last):  # pragma: no cover - compiled
    """Add rows that move to the sums by bin of one feature, each ``(256, 4)``; ``lows`` and ``highs`` ``(d,)``: the box of bins they are in."""
    begins, ends = reach.low[f], reach.high[f]
    if reach.priced:
        begins, ends, _ = spans(reach, f, lows, highs, paid, rows)
    least, most = np.uint8(lows[f]), np.uint8(highs[f])
    for e in range(len(rows)):
        at = e if reach.priced else rows[e]
        a, b, c, g, h = begins[at], ends[at], classes[e], stats[e, 0], stats[e, 1]
        if a < 255:
            a, b = max(a, least), min(b, most)
        if a == b:
            still[a, c] += g
            still[a, c + 1] += h
        else:
            first[a, c] += g
            first[a, c + 1] += h
            last[b, c] += g
            last[b, c + 1] += h


@inner
def spans(reach: Reach, f, lows, highs, paid, rows):  # pragma: no cover - compiled
    """The first and the last bin that each moving row reaches in its box, and what it has ``paid`` for features other than ``f`` and the one that
    moves with it (0 where nothing is paid)."""
    begins, ends, rest = np.empty(len(rows), np.uint8), np.empty(len(rows), np.uint8), np.zeros(len(rows))
    least, most = lows[f], highs[f]
    if not reach.priced:
        low, high = reach.low[f], reach.high[f]
        for e in range(len(rows)):
            a, b = low[rows[e]], high[rows[e]]
            begins[e], ends[e] = (max(a, least), min(b, most)) if a < 255 else (a, b)
        return begins, ends, rest
    lane, scale, bins = lane_of(reach, f), reach.scale[f], reach.bin[f]
    twin = _narrowed_twin(reach, f, lows, highs)
    pair = lane_of(reach, max(twin, 0))
    narrowed = least > 0 or most < reach.count[f]
    for e in range(len(rows)):
        value, at = reach.value[reach.slot[rows[e]]], np.int64(bins[rows[e]])
        x, unit, own = value[f], unit_of(value, scale), 0.0
        if narrowed:
            own = entry_price(lane, at, x, unit, least, most)
        if twin >= 0:
            own = max(
                own, entry_price(pair, np.int64(reach.bin[twin, rows[e]]), value[twin], unit_of(value, reach.scale[twin]), lows[twin], highs[twin])
            )
        rest[e] = max(0.0, paid[e] - own)
        begins[e], ends[e] = span(lane, at, x, unit, reach.money - rest[e], least, most)
    return begins, ends, rest


@inner
def pay_(reach: Reach, f, lows, highs, low, high, rows, paid):  # pragma: no cover - compiled
    """Add to what moving rows have ``paid`` for others what it takes to be in ``low .. high`` of feature ``f``, and its twin in the box."""
    lane, scale, bins = lane_of(reach, f), reach.scale[f], reach.bin[f]
    twin = _narrowed_twin(reach, f, lows, highs)
    pair = lane_of(reach, max(twin, 0))
    for e in range(len(rows)):
        value = reach.value[reach.slot[rows[e]]]
        own = entry_price(lane, np.int64(bins[rows[e]]), value[f], unit_of(value, scale), low, high)
        if twin >= 0:
            own = max(
                own, entry_price(pair, np.int64(reach.bin[twin, rows[e]]), value[twin], unit_of(value, reach.scale[twin]), lows[twin], highs[twin])
            )
        paid[e] += own


@inner
def _narrowed_twin(reach: Reach, f, lows, highs):  # pragma: no cover - compiled
    """The feature that moves with ``f``, if the box holds it to some of its bins, else -1."""
    twin = reach.twin[f]
    return twin if twin >= 0 and (lows[twin] > 0 or highs[twin] < reach.count[twin]) else -1
