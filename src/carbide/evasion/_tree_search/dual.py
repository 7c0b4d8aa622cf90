"""A lower bound on the cost of a box's evasions that lets all axes' costs and all trees' leaves speak at once.

The cheapest evasion is relaxed: every tree picks its leaf, every axis its cell, and where they disagree at a node's cut one of them pays.
A node's ``pull`` d > 0 charges trees d for going right there and gives it to axes beyond the cut; d < 0 the same for left. A ``weight``
charges for the sum of leaves above the cutoff. Whatever these numbers are, what trees and axes pay apart is no more than the cheapest
evasion costs; so they only need to be good, and are improved by subgradient steps from box to box.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from carbide.evasion._compiled import uncounted
from carbide.types import Array

ROUNDING = 1e-12  # more than the sums below are off, relative to the sum of their terms
KEEP = 0.7  # share of the last step's direction in the next one
FAR = 1e4  # how far the weight may move from where it began
PATIENCE, SHRINK = 8, 0.75  # rounds without progress before steps shrink, and to what


class Dual(NamedTuple):
    """The relaxation's numbers: ``pull`` and ``drift`` (its last steps) of every node of the forest; ``weight`` (2,): now and
    at first; ``pace`` (2,): how fast it moves, and which way it last went. The rest is scratch: ``turn`` of nodes, ``at`` and ``floor`` of axes, ``least`` of cells.
    """

    pull: Array
    drift: Array
    weight: Array
    pace: Array
    turn: Array
    at: Array
    floor: Array
    least: Array


def dual_space(nodes: int, axes: int, cells: int) -> Dual:
    """Numbers and scratch for so many nodes, axes and cells."""
    return Dual(pull=np.zeros(nodes), drift=np.zeros(nodes), weight=np.zeros(2), pace=np.zeros(2), turn=np.zeros(nodes, np.int8),
                at=np.zeros(axes, np.int64), floor=np.zeros(axes), least=np.zeros(cells + 1))  # fmt: skip


@uncounted
def restart(dual, upper, margin):  # pragma: no cover - compiled
    """Forget what earlier rows taught; for costs up to ``upper`` and sums that are off by about ``margin``."""
    dual.pull[:], dual.drift[:] = 0.0, 0.0
    dual.weight[0] = dual.weight[1] = 5.0 * upper / margin if margin > 0 else upper
    dual.pace[0], dual.pace[1] = 0.3, 0.0


@uncounted
def lift(forest, stack, new, end, first, last, cells, active, low, high, sure, upper, rounds, dual):  # pragma: no cover - compiled
    """The largest bound found in so many rounds on the cost of the box's points whose undecided trees bring ``sure`` below 0.

    The undecided trees are the nodes ``new .. end`` and the roots ``first .. last`` of the stack. Cells at the box's ends whose reduced cost
    shows that no point with them costs less than ``upper`` are clipped off. ``dual.at`` gets the cells that the axes chose.
    """
    best, scale, stuck, bound = -np.inf, 1.0, 0, -np.inf
    for round_ in range(rounds):
        size = _axes(stack, new, end, cells, active, low, high, dual)
        bound, terms = _trees(forest, stack, new, end, first, last, sure, dual)
        for a in active:
            bound += dual.floor[a]
            terms += abs(dual.floor[a])
        bound -= ROUNDING * (size + terms + upper)
        if bound >= upper or round_ == rounds - 1:
            break
        if bound > best + 1e-3 * (upper - best):
            stuck = 0
        else:
            stuck += 1
            if stuck >= PATIENCE:
                scale, stuck = scale * SHRINK, 0
        best = max(best, bound)
        _step(forest, stack, new, end, first, last, sure, scale * (upper - bound), dual)
    if bound < upper:
        _trim(cells, active, low, high, upper - bound, dual)
    return max(best, bound)


@uncounted
def _axes(stack, new, end, cells, active, low, high, dual):  # pragma: no cover - compiled
    """Every axis's least cost after what the trees give it, into ``floor``, its cell into ``at``; returns the sum of all pulls."""
    node, origin, pull, floor, least, offset, price = stack.node, stack.origin, dual.pull, dual.floor, dual.least, cells.start, cells.cost
    for a in active:
        floor[a] = 0.0
        least[offset[a] + low[a] : offset[a] + high[a] + 1] = 0.0
    size = 0.0
    for i in range(new, end):
        a, d = node[i, 0], pull[origin[i]]
        least[offset[a] + node[i, 1] + 1] += d
        floor[a] -= min(d, 0.0)
        size += abs(d)
    for a in active:
        start, given, lowest = offset[a], floor[a], np.inf
        for j in range(low[a], high[a] + 1):
            given += least[start + j]
            c = price[start + j] - given
            least[start + j] = c
            if c < lowest:
                lowest, dual.at[a] = c, j
        floor[a] = lowest
    return size


@uncounted
def _trees(forest, stack, new, end, first, last, sure, dual):  # pragma: no cover - compiled
    """What the trees pay at least, with the weighted rest of the sum, and the sum of these terms' sizes."""
    node, origin, worth, value, pull, weight = stack.node, stack.origin, stack.worth, forest.value, dual.pull, dual.weight[0]
    size = 0.0
    for i in range(new, end):
        left, right, d = node[i, 2], node[i, 3], pull[origin[i]]
        x = (weight * value[-left - 1] if left < 0 else worth[left]) - min(d, 0.0)
        y = (weight * value[-right - 1] if right < 0 else worth[right]) + max(d, 0.0)
        worth[i] = min(x, y)
        size += abs(worth[i])
    total = weight * sure
    size += abs(total)
    for r in range(first, last):
        total += worth[stack.roots[r]]
    return total, size


@uncounted
def _step(forest, stack, new, end, first, last, sure, gap, dual):  # pragma: no cover - compiled
    """Move the pulls and the weight towards agreement; ``gap`` says how far."""
    node, origin, worth, value, pull, weight = stack.node, stack.origin, stack.worth, forest.value, dual.pull, dual.weight[0]
    turn, drift, at = dual.turn, dual.drift, dual.at
    turn[: end - new] = 0
    slope = sure
    for r in range(first, last):
        i = np.int64(stack.roots[r])
        while i >= 0:
            left, right, d = node[i, 2], node[i, 3], pull[origin[i]]
            x = (weight * value[-left - 1] if left < 0 else worth[left]) - min(d, 0.0)
            y = (weight * value[-right - 1] if right < 0 else worth[right]) + max(d, 0.0)
            turn[i - new] = 1 if x <= y else 2
            i = np.int64(left if x <= y else right)
        slope += value[-i - 1]
    norm = 0.0
    for i in range(new, end):
        k, s, beyond = origin[i], turn[i - new], at[node[i, 0]] > node[i, 1]
        up, down = (s == 2) - beyond, (s == 1) - (not beyond)  # what the bound gains a unit of charge for going right, or left
        d, g = pull[k], 0
        if d > 0 or (d == 0 and up > 0):
            g = up
        elif d < 0 or down > 0:
            g = -down
        drift[k] = g + KEEP * drift[k]
        norm += drift[k] * drift[k]
    step = gap / max(norm, 1.0)
    for i in range(new, end):
        k = origin[i]
        after = pull[k] + step * drift[k]
        pull[k] = 0.0 if pull[k] * after < 0 else after
    way, pace = (1.0 if slope > 0 else -1.0), dual.pace
    pace[0] = min(pace[0] * 1.2, 0.7) if way == pace[1] else max(pace[0] * 0.6, 0.01)
    pace[1] = way
    weight = weight * (1 + pace[0]) if way > 0 else weight / (1 + pace[0])
    dual.weight[0] = min(max(weight, dual.weight[1] / FAR), dual.weight[1] * FAR)


@uncounted
def _trim(cells, active, low, high, room, dual):  # pragma: no cover - compiled
    """Clip cells whose reduced cost is ``room`` above their axis's least."""
    for a in active:
        start, most = cells.start[a], dual.floor[a] + room
        while low[a] < high[a] and dual.least[start + low[a]] >= most:
            low[a] += 1
        while high[a] > low[a] and dual.least[start + high[a]] >= most:
            high[a] -= 1
