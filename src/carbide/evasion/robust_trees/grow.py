"""Chen et al. 2019, https://arxiv.org/abs/1902.10660, and Vos & Verwer 2021, https://arxiv.org/abs/2012.10438: growing one tree robustly.

Every training row is in all the nodes that its attacker can bring it to. Histograms hold the bins that a row reaches first and last, so a
split costs as much as a plain one. Rows that stay, and features that no attacker moves, are counted for the smaller child alone: the larger one
has what is left of the node's own sums, and the rows of both children besides; only moving rows are counted in every node. Leaves come
with all the rows that reach them: the worst case over a tree is exact.

Large sums are shared out by features over threads; each is added up in the order of its rows, so that the tree is the same for any number of them.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import numpy as np

from carbide._numba import njit
from carbide.evasion._compiled import inner
from carbide.evasion._threads import Threads
from carbide.evasion.robust_trees.attackers import Reach
from carbide.evasion.robust_trees.splits import (
    BOTH,
    CUT,
    FOUND,
    GINI,
    HAIR,
    LEFT,
    LEFT_VALUE,
    MISSING_LEFT,
    NEWTON,
    RIGHT,
    RIGHT_VALUE,
    SCORE,
    Rules,
    scan_gini,
    scan_newton,
)
from carbide.evasion.robust_trees.sums import add_moved, add_still, add_weighted, pay_, shared_sums, spans
from carbide.types import Array

HELD = 1 << 25  # numbers of sums that are kept for nodes that wait, at most
FEW = 300  # rows that are counted as soon as the sums of a feature are subtracted
MUCH = 500_000  # nanoseconds of work, about, that are worth a second thread
DONE, ROOM, SEARCH, SHARE = range(4)  # why growing stops: it needs larger arrays, or sums that threads may share
TOP, USED, WRITTEN, PHASE, DOUBLED, SMALL, SMALL_END, SMALL_MOVED, SMALL_MOVED_END, SMALL_LEFT = range(10)  # of ``at``
NODE, STILL, STILL_END, MOVED, MOVED_END, DEPTH, READY = range(7)  # of the stack


class Tree(NamedTuple):
    """A grown tree. Per node: ``feature`` (-1 = leaf), ``cut`` (left where the bin is at most this), ``children``, ``missing_left``,
    ``value``, ``cover``, ``gain``. ``rows`` and ``leaves``: the pairs of a training row and a leaf that it can be brought to."""

    feature: Array
    cut: Array
    children: Array
    missing_left: Array
    value: Array
    cover: Array
    gain: Array
    rows: Array
    leaves: Array


class State(NamedTuple):
    """What a growing tree remembers. ``at``: counters; ``stack``: open nodes with their ``totals`` and boxes ``low .. high`` of bins.

    ``still``: rows that stay, node by node (``spare``: room to part them); ``moving`` rows of open nodes with their ``share`` and what they have
    ``paid``, and in ``here``, ``here_share``, ``here_paid``, ``stats``, ``classes`` those of the node in hand; ``doubled``: those of both its children.
    ``held``: sums of rows that stay, by node on the stack and ``place`` of a feature (-1: none are kept); where ``fixed``, sums of all rows.
    ``drawn``: the features to choose from, ``found`` the best split of each.
    """

    at: Array
    stack: Array
    totals: Array
    low: Array
    high: Array
    still: Array
    spare: Array
    moving: Array
    share: Array
    paid: Array
    here: Array
    here_share: Array
    here_paid: Array
    stats: Array
    classes: Array
    doubled: Array
    held: Array
    place: Array
    fixed: Array
    drawn: Array
    found: Array
    rows: Array
    leaves: Array


@inner
def _next(state):  # pragma: no cover - compiled
    """The next number of splitmix64."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@inner
def _draw(columns, count, seed):  # pragma: no cover - compiled
    """Put ``count`` columns drawn without replacement first."""
    state = np.full(1, seed, np.uint64)
    for i in range(count):
        j = i + np.int64(_next(state) % np.uint64(len(columns) - i))
        columns[i], columns[j] = columns[j], columns[i]


@njit(cache=True, nogil=True)
def _begin(reach, rules, tree, state, positive, gradient, hessian, start):  # pragma: no cover - compiled
    """Put all rows into the root; returns whether there was room."""
    total, still, moved = np.zeros(4), 0, 0
    for row in start:
        c = 0 if positive[row] else 2
        total[c] += gradient[row]
        total[c + 1] += hessian[row]
        if reach.slot[row] < 0:
            state.still[still] = row
            still += 1
        else:
            state.moving[moved], state.share[moved], state.paid[moved] = row, 1.0, 0.0
            moved += 1
    state.at[:] = 0
    state.at[TOP], state.at[USED] = 1, 1
    state.stack[0] = 0
    state.stack[0, STILL_END], state.stack[0, MOVED_END] = still, moved
    state.totals[0], state.low[0], state.high[0] = total, 0, reach.count
    tree.feature[:], tree.cut[:], tree.children[:], tree.missing_left[:] = -1, 0, -1, False
    tree.value[:], tree.cover[:], tree.gain[:] = 0.0, 0.0, 0.0
    if rules.kind == NEWTON:
        tree.value[0] = -(total[0] + total[2]) / (total[1] + total[3] + rules.ridge)


@inner
def _open(rules, tree, state, positive, gradient, hessian, columns, seed):  # pragma: no cover - compiled
    """Take a node from the stack, draw its features; whether it may be split."""
    state.at[TOP] -= 1
    top = state.at[TOP]
    node, begin, end = state.stack[top, NODE], state.stack[top, MOVED], state.stack[top, MOVED_END]
    total = state.totals[top]
    tree.cover[node] = total[1] + total[3]
    if rules.kind == GINI:
        tree.value[node] = total[1] / tree.cover[node] if tree.cover[node] > 0 else 0.5
    for i in range(end - begin):
        row, share = state.moving[begin + i], state.share[begin + i]
        state.here[i], state.here_share[i], state.here_paid[i] = row, share, state.paid[begin + i]
        state.classes[i] = 0 if positive[row] else 2
        state.stats[i, 0], state.stats[i, 1] = share * gradient[row], share * hessian[row]
    state.found[:, SCORE] = -np.inf
    if state.stack[top, DEPTH] >= rules.depth or tree.cover[node] < rules.least * (1 - HAIR):
        return False
    state.drawn[:] = columns
    if rules.features < len(columns):  # the draw is the node's own, whatever was drawn before
        _draw(state.drawn, rules.features, np.uint64(seed) ^ (np.uint64(node) * np.uint64(0xD6E8FEB86659FD93)))
        state.place[:] = -1
        for c in range(rules.features):
            state.place[state.drawn[c]] = c
    return True


@inner
def _slot(state, top):  # pragma: no cover - compiled
    """Where sums of a node are kept: there is one place alone where children take over none."""
    return top if len(state.held) > 1 else 0


@inner
def _count(reach, state, positive, gradient, hessian, begin, end):  # pragma: no cover - compiled
    """The node's sums of rows that stay, for its features ``begin .. end - 1``."""
    top = state.at[TOP]
    sums, moved = state.held[_slot(state, top)], state.stack[top, MOVED_END] - state.stack[top, MOVED]
    features, places, count = np.empty(end - begin, np.int64), np.empty(end - begin, np.int64), 0
    for c in range(begin, end):
        f = state.drawn[c]
        if state.place[f] >= 0 and state.high[top, f] > state.low[top, f]:
            features[count], places[count] = f, state.place[f]
            sums[places[count]] = 0.0
            count += 1
    rows = state.still[state.stack[top, STILL] : state.stack[top, STILL_END]]
    add_still(reach.bin, features[:count], places[:count], rows, positive, gradient, hessian, sums)
    for m in range(count):
        if moved > 0 and state.fixed[features[m]]:
            add_weighted(reach.bin[features[m]], state.here[:moved], state.stats, state.classes, sums[places[m]])


@inner
def _search(reach: Reach, rules: Rules, state: State, positive, gradient, hessian, begin, end):  # pragma: no cover - compiled
    """The best splits of the node in hand by its features ``begin .. end - 1``."""
    top = state.at[TOP]
    moved, sums = state.stack[top, MOVED_END] - state.stack[top, MOVED], state.held[_slot(state, top)]
    low, high = state.low[top], state.high[top]
    if state.stack[top, READY] == 0:
        _count(reach, state, positive, gradient, hessian, min(begin, rules.features), min(end, rules.features))
    still, first, last, none = np.zeros((256, 4)), np.zeros((256, 4)), np.zeros((256, 4)), np.zeros((256, 4))
    for c in range(begin, min(end, rules.features)):
        f = state.drawn[c]
        if high[f] <= low[f]:
            continue
        moves, own = moved > 0 and not state.fixed[f], sums[max(state.place[f], 0)]
        if moves:
            still[:], first[:], last[:] = 0.0, 0.0, 0.0
            if state.place[f] >= 0:
                still[:] = own
            own = still
            add_moved(reach, f, low, high, state.here_paid, state.here[:moved], state.stats, state.classes, still, first, last)
        begins, ends = (first, last) if moves else (none, none)
        if rules.kind == NEWTON:
            scan_newton(rules.ridge, rules.least, own, begins, ends, moves, low[f], high[f], state.found[c])
        else:
            scan_gini(rules.least, own, begins, ends, low[f], high[f], state.found[c])


@inner
def _share(reach: Reach, state: State, positive, gradient, hessian, begin, end):  # pragma: no cover - compiled
    """Sums of both children of the node that was split last, for the features ``begin .. end - 1``, from the node's own."""
    at = state.at
    right = at[TOP] - 2
    features, places, counts = np.empty((2, end - begin), np.int64), np.empty((2, end - begin), np.int64), np.zeros(2, np.int64)
    for f in range(begin, end):
        # A feature held to one bin in the larger child is no longer asked for below; the one just cut lies in a wider box there.
        if state.place[f] >= 0 and (state.high[right, f] > state.low[right, f] or state.high[right + 1, f] > state.low[right + 1, f]):
            kind = 0 if state.fixed[f] else 1
            features[kind, counts[kind]], places[kind, counts[kind]] = f, state.place[f]
            counts[kind] += 1
    still, moved = state.still[at[SMALL] : at[SMALL_END]], state.moving[at[SMALL_MOVED] : at[SMALL_MOVED_END]]
    for kind in range(2):
        doubled, small = state.doubled[: at[DOUBLED] if kind == 0 else 0], still
        if kind == 0 and len(moved) > 0:
            small = np.concatenate((still, moved))
        shared_sums(reach.bin, features[kind, : counts[kind]], places[kind, : counts[kind]], small, doubled, at[SMALL_LEFT] == 1, positive, gradient, hessian,
                    state.held[right : right + 2])  # fmt: skip


@inner
def _chosen(rules, state):  # pragma: no cover - compiled
    """The number of the best feature among those drawn, -1 if no split gains enough."""
    best, chosen, total = -np.inf, -1, state.totals[state.at[TOP]]
    for c in range(rules.features):
        score = state.found[c, SCORE]
        if score > best + HAIR * abs(score):
            best, chosen = score, c
    mass = total[1] + total[3]
    if rules.kind == NEWTON:
        parent = (total[0] + total[2]) ** 2 / (mass + rules.ridge)
    else:
        parent = -2.0 * total[1] * total[3] / mass if mass > 0 else 0.0
    if chosen < 0 or not best - parent > rules.gain + HAIR * abs(parent):
        return -1, 0.0
    return chosen, best - parent


@inner
def _part_still(bins, cut, missing_left, rows, spare):  # pragma: no cover - compiled
    """Put the rows that go left first, each side in its order; how many they are."""
    left, right = 0, 0
    for i in range(len(rows)):
        row = rows[i]
        b = bins[row]
        goes = missing_left if b == 255 else b <= cut
        rows[left], spare[right] = row, row
        left += goes
        right += not goes
    rows[left:] = spare[:right]
    return left


@inner
def _part_moving(reach, rules, state, f, cut, missing_left, shares, top):  # pragma: no cover - compiled
    """Write the moving rows of both children, right first, over those of the node; where the left ones begin and end, and how many are on both sides."""
    begin, size = state.stack[top, MOVED], state.stack[top, MOVED_END] - state.stack[top, MOVED]
    low, high = state.low[top].copy(), state.high[top].copy()
    here = state.here[:size]
    begins, ends, rest = spans(reach, f, low, high, state.here_paid, here)
    at, middle, doubled = begin, begin, 0
    for side in (1, 0):
        came = at
        for i in range(size):
            a, z = begins[i], ends[i]
            split = a <= cut < z
            if not (split or (missing_left if a == 255 else z <= cut) == (side == 0)):
                continue
            w = state.here_share[i]
            if split and rules.kind == GINI:
                part = shares[0] if state.classes[i] == 0 else shares[1]
                w *= part if side == 0 else 1.0 - part
                if w <= 1e-9:
                    continue
            if split and side == 0:
                state.doubled[doubled] = here[i]
                doubled += 1
            state.moving[at], state.share[at], state.paid[at] = here[i], w, rest[i]
            at += 1
        if reach.priced:
            pay_(reach, f, low, high, low[f] if side == 0 else cut + 1, cut if side == 0 else high[f], state.moving[came:at], state.paid[came:at])
        middle = at if side == 1 else middle
    return middle, at, doubled


@inner
def _split(reach, rules, tree, state, chosen, gain):  # pragma: no cover - compiled
    """Split the node in hand and put its children on the stack, the left one on top; whether they take sums over from it."""
    at, found = state.at, state.found[chosen]
    top, f, cut, missing_left = at[TOP], state.drawn[chosen], np.int64(found[CUT]), found[MISSING_LEFT] > 0
    node, begin, end, depth = state.stack[top, NODE], state.stack[top, STILL], state.stack[top, STILL_END], state.stack[top, DEPTH] + 1
    tree.feature[node], tree.cut[node], tree.missing_left[node], tree.gain[node] = f, cut, missing_left, gain
    tree.children[node, 0], tree.children[node, 1] = at[USED], at[USED] + 1
    middle = begin + _part_still(reach.bin[f], cut, missing_left, state.still[begin:end], state.spare)
    came = state.stack[top, MOVED]
    moved, moved_end, doubled = _part_moving(reach, rules, state, f, cut, missing_left, found[LEFT_VALUE : RIGHT_VALUE + 1], top)
    state.low[top + 1], state.high[top + 1] = state.low[top], state.high[top]
    state.low[top, f], state.high[top + 1, f] = cut + 1, cut
    for c in range(4):
        part = 1.0 if rules.kind == NEWTON else found[LEFT_VALUE] if c < 2 else found[RIGHT_VALUE]
        rest = 1.0 if rules.kind == NEWTON else 1.0 - part
        state.totals[top, c], state.totals[top + 1, c] = found[RIGHT + c] + rest * found[BOTH + c], found[LEFT + c] + part * found[BOTH + c]
    if rules.kind == NEWTON:
        tree.value[at[USED]], tree.value[at[USED] + 1] = found[LEFT_VALUE], found[RIGHT_VALUE]
    left, right = middle - begin + moved_end - moved, end - middle + moved - came
    takes = len(state.held) > 1 and depth < rules.depth and max(left, right) > min(left, right) + doubled + FEW
    for side, first, last, enter, leave in ((1, middle, end, came, moved), (0, begin, middle, moved, moved_end)):
        entry = state.stack[top + 1 - side]
        entry[NODE], entry[STILL], entry[STILL_END], entry[MOVED], entry[MOVED_END] = at[USED] + side, first, last, enter, leave
        entry[DEPTH], entry[READY] = depth, 1 if takes else 0
        if (left <= right) == (side == 0):
            at[SMALL], at[SMALL_END], at[SMALL_MOVED], at[SMALL_MOVED_END], at[SMALL_LEFT] = first, last, enter, leave, 1 - side
    at[DOUBLED] = doubled
    at[TOP] += 2
    at[USED] += 2
    return takes


@inner
def _heavy(rules, state, kind):  # pragma: no cover - compiled
    """Whether the sums are worth more than one thread."""
    at, top = state.at, state.at[TOP]
    if kind == SHARE:
        return (at[SMALL_END] - at[SMALL] + at[SMALL_MOVED_END] - at[SMALL_MOVED] + at[DOUBLED] + FEW) * state.held.shape[1] > MUCH
    entry = state.stack[top]
    moved, count = entry[MOVED_END] - entry[MOVED], 0
    for f in range(len(state.fixed)):
        count += not state.fixed[f]
    fresh = 0 if entry[READY] == 1 else entry[STILL_END] - entry[STILL] + moved
    return (fresh + 1000) * rules.features + 20 * moved * count * rules.features // len(state.fixed) > MUCH


@njit(cache=True, nogil=True)
def _advance(reach: Reach, rules: Rules, tree: Tree, state: State, positive, gradient, hessian, columns, seed, alone, job, begin,
             end):  # pragma: no cover - compiled  # fmt: skip
    """Grow until the tree is done or somebody else has to do something; then it goes on from there. A ``job`` is part of what it asked for."""
    if job == SEARCH:
        _search(reach, rules, state, positive, gradient, hessian, begin, end)
        return DONE
    if job == SHARE:
        _share(reach, state, positive, gradient, hessian, begin, end)
        return DONE
    at = state.at
    while at[PHASE] == 1 or at[TOP] > 0:
        if at[PHASE] == 0:
            at[PHASE] = 1
            if _open(rules, tree, state, positive, gradient, hessian, columns, seed):
                if not alone and _heavy(rules, state, SEARCH):
                    return SEARCH
                _search(reach, rules, state, positive, gradient, hessian, 0, len(columns))
        entry = state.stack[at[TOP]]
        still, moved, written = entry[STILL_END] - entry[STILL], entry[MOVED_END] - entry[MOVED], at[WRITTEN]
        if entry[MOVED] + 2 * moved > len(state.moving) or written + still + moved > len(state.rows):
            return ROOM
        at[PHASE] = 0
        chosen, gain = _chosen(rules, state)
        if chosen < 0:
            middle, end = written + still, written + still + moved
            state.rows[written:middle], state.rows[middle:end] = state.still[entry[STILL] : entry[STILL_END]], state.here[:moved]
            state.leaves[written:end] = entry[NODE]
            at[WRITTEN] = end
        elif _split(reach, rules, tree, state, chosen, gain):
            if not alone and _heavy(rules, state, SHARE):
                return SHARE
            _share(reach, state, positive, gradient, hessian, 0, len(state.fixed))
    return DONE


class Grower:
    """Grows trees on the same rows by the same rules; what one tree used is used again by the next."""

    def __init__(self, reach: Reach, asked: Rules, threads: Threads | None = None) -> None:
        self.reach, self.rules, self.threads = reach, asked, threads or Threads(1)
        d, n = reach.bin.shape
        moved = int((reach.slot >= 0).sum())
        deep, size = asked.depth + 2, 2 ** (asked.depth + 1) - 1
        fixed = np.isinf(reach.up) & np.isinf(reach.down) & (reach.table < 0)
        kept = np.flatnonzero(fixed) if moved == n else np.arange(d)
        keeps = asked.kind == NEWTON and asked.features == d and deep * len(kept) * 1024 <= HELD
        place = np.full(d, -1, np.int64)
        if keeps:
            place[kept] = np.arange(len(kept))
        elif asked.features == d:
            place[:] = np.arange(d)
        ints, floats, entries = (lambda m: np.empty(m, np.int32)), np.empty, 2 * moved + 2
        self.tree = Tree(ints(size), ints(size), np.empty((size, 2), np.int32), np.empty(size, np.bool_), floats(size), floats(size), floats(size),
                         ints(0), ints(0))  # fmt: skip
        self.state = State(
            at=np.zeros(10, np.int64), stack=np.zeros((deep, 7), np.int64), totals=floats((deep, 4)), low=np.zeros((deep, d), np.int64),
            high=np.zeros((deep, d), np.int64), still=ints(n - moved), spare=ints(n - moved), moving=ints(entries), share=floats(entries), paid=floats(entries),
            here=ints(entries), here_share=floats(entries), here_paid=floats(entries), stats=floats((entries, 2)), classes=np.empty(entries, np.int64),
            doubled=ints(entries), held=floats((deep if keeps else 1, len(kept) if keeps else asked.features, 256, 4)), place=place, fixed=fixed,
            drawn=np.arange(d), found=floats((asked.features, FOUND)), rows=ints(n), leaves=ints(n),
        )  # fmt: skip

    def grow(self, positive: Array, gradient: Array, hessian: Array, start: Array, columns: Array, seed: int) -> Tree:
        """A tree on the rows ``start``; ``gradient`` and ``hessian`` ``(n,)`` of the loss at each row's worst case (a forest has weights as hessian)."""
        _begin(self.reach, self.rules, self.tree, self.state, positive, gradient, hessian, start)

        def advance(job: int, begin: int = 0, end: int = 0) -> int:
            alone = self.threads.count == 1
            return _advance(self.reach, self.rules, self.tree, self.state, positive, gradient, hessian, columns, seed, alone, job, begin, end)

        while (why := advance(DONE)) != DONE:
            if why == ROOM:
                self._widen()
            else:
                self.threads.share(partial(advance, why), len(columns))
        used, written = self.state.at[USED], self.state.at[WRITTEN]
        nodes = [part[:used].copy() for part in self.tree[:7]]
        return Tree(*nodes, *(part[:written].copy() for part in (self.state.rows, self.state.leaves)))

    def _widen(self) -> None:
        """Twice the room for moving rows and for pairs of rows and leaves."""
        wide = {name: np.concatenate([part, np.empty_like(part)]) for name, part in self.state._asdict().items()
                if name in ("moving", "share", "paid", "here", "here_share", "here_paid", "stats", "classes", "doubled", "rows", "leaves")}  # fmt: skip
        self.state = self.state._replace(**wide)


def grow(reach: Reach, asked: Rules, positive: Array, gradient: Array, hessian: Array, start: Array, columns: Array, seed: int, *,
         threads: Threads | None = None) -> Tree:  # fmt: skip
    """One tree, as ``Grower.grow`` grows it."""
    return Grower(reach, asked, threads).grow(positive, gradient, hessian, start, columns, seed)
