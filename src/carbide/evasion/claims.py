"""Devos et al. 2021, https://arxiv.org/abs/2010.13880: what a tree ensemble does on every row there is, proven or refuted by a pair of rows.

``Monotone`` says that the score never falls when a feature moves one way, ``NeverFlips`` that no change of some features worth at most
so much turns an alert off. A broken claim comes with two rows that the model itself scores; what is neither is unknown, with its bracket.

>>> from sklearn.tree import DecisionTreeClassifier
>>> from carbide.models.estimators import EstimatorModel
>>> from carbide.types import Space
>>> space = Space.table(["age", "debt"], lower=np.zeros(2), upper=np.array([90.0, 9.0]))
>>> tree = DecisionTreeClassifier().fit([[30.0, 1.0], [50.0, 1.0], [30.0, 8.0]], [0, 1, 1])
>>> model = EstimatorModel(estimator=tree, space=space, classes=2)
>>> decide_claim(Monotone(feature="age"), model, rng=np.random.default_rng(0)).word
'proven'
>>> found = decide_claim(Monotone(feature="debt", direction="falls"), model, rng=np.random.default_rng(0))
>>> found.word, found.row.tolist() != found.changed.tolist(), found.scores
('broken', True, (1.0, 0.0))
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.evasion._pair_cells import PairCells, pair_cells
from carbide.evasion._pair_search import CANDIDATE, DONE, Limits, opened, pursue
from carbide.evasion._tree_search import cutoff, search
from carbide.evasion._tree_search.search import _binary, _slack
from carbide.evasion.audit.cheapest_tree import CheapestTree, same_answers, trees_of
from carbide.space.membership import allowed, cost
from carbide.space.relations import holds, parts_of, recomputed, targets_of
from carbide.types import Array, FeatureBudget, InputError, Kind, PriceTable, Ratio, Rng, Space, Sum

DIRECTIONS = {"rises": 1, "falls": -1}
PAIRS = 20_000_000  # pairs of leaves that are held at once
TRIED = 512  # rows that are tried before anything is searched
STEP = 2_000  # boxes between looks at the clock
OPEN = 2_000  # candidates without a row that relations allow, beyond which a claim stays unknown


@dataclass(frozen=True, kw_only=True)
class Monotone:
    """The score of class 1 never falls (``rises``) or never rises (``falls``) when ``feature`` rises and all else stays.

    Ratios that follow the feature follow it; both rows keep the space.
    """

    feature: str
    direction: str = "rises"

    def __post_init__(self) -> None:
        if self.direction not in DIRECTIONS:
            raise InputError(f"direction is {self.direction!r}; choose rises or falls: what the score does when {self.feature} rises")

    def words(self) -> str:
        """The claim in a sentence."""
        return f"the score never {'falls' if self.direction == 'rises' else 'rises'} when {self.feature} rises and nothing else changes"


@dataclass(frozen=True, kw_only=True, eq=False)
class NeverFlips:
    """No change of ``features`` worth at most ``money`` by ``prices`` turns an alert off; all other features stay.

    ``rows`` ``(n, d)``: about the alerts among these rows; None = about every row of the space.
    """

    features: tuple[str, ...]
    money: float
    prices: PriceTable
    rows: Array | None = None

    def __post_init__(self) -> None:
        if not self.money >= 0:
            raise InputError(f"money is {self.money}; give a budget >= 0")
        if not self.features or len(set(self.features)) != len(self.features):
            raise InputError(f"never_flips names {list(self.features)}; give at least one feature, each once")
        for name in self.features:
            if name not in self.prices.prices:
                raise InputError(
                    f"never_flips names {name!r}, which has no price; its price table prices {', '.join(self.prices.prices) or 'nothing'}"
                )

    def words(self) -> str:
        """The claim in a sentence."""
        where = "of the space" if self.rows is None else f"of {len(self.rows)} rows"
        return f"changing {', '.join(self.features)} by at most {self.prices.currency}{self.money:g} turns no alert {where} off"


Claim = Monotone | NeverFlips


@dataclass(frozen=True, kw_only=True, eq=False)
class ClaimVerdict:
    """``word``: proven, broken (``row`` and ``changed`` ``(d,)`` show it, with the model's ``scores`` before and after) or unknown.

    ``low`` and ``high`` bracket, for a monotone claim, the largest fall of the trees' sum that any pair shows; for ``NeverFlips``, the
    least price of a flip. ``boxes`` were looked at; ``how`` says what decided it.
    """

    claim: Claim
    word: str
    how: str
    low: float
    high: float
    row: Array | None = None
    changed: Array | None = None
    scores: tuple[float, float] | None = None
    boxes: int = 0
    note: str = ""
    assumptions: tuple[str, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether the claim is proven."""
        return self.word == "proven"


def decide_claim(claim: Claim, model: Any, *, rng: Rng, rows: Array | None = None, seconds: float = 60.0, boxes: int = 1_000_000) -> ClaimVerdict:
    """Whether a tree model keeps a claim.

    Args:
        claim: what is claimed.
        model: a model of two classes with an ``ensemble``; its threshold says what an alert is.
        rng: for the rows that are tried first.
        rows: known rows ``(n, d)`` to try first; they change how soon a broken claim is seen, not what is proven.
        seconds: looked at every few thousand boxes.
        boxes: the most boxes to look at.

    Raises:
        InputError: if the model shows no trees or has not two classes, or a feature does not exist or cannot be moved.
    """
    model = getattr(model, "scorer", model)
    if model.classes != 2:
        raise InputError(f"a claim about scores needs two classes, and the model has {model.classes}")
    trees_of(model)
    if not (math.isfinite(seconds) and seconds > 0):
        raise InputError(f"seconds is {seconds}; give a number > 0")
    if isinstance(claim, NeverFlips) and claim.rows is not None:
        return _among(claim, model, boxes)
    task = _Task(claim, model, rows, rng)
    return task.tried() or task.searched(time.monotonic() + seconds, boxes)


def _among(claim: NeverFlips, model: Any, boxes: int) -> ClaimVerdict:
    """The claim about the alerts among given rows: the exact search of each."""
    assert claim.rows is not None
    rows = claim.rows[model.predict(claim.rows)[:, 1] >= model.threshold]
    threat = FeatureBudget(money=claim.money, prices=_only(claim))
    found = CheapestTree(boxes=boxes).solve(model, rows, np.ones(len(rows), np.int64), threat)
    flipped = np.flatnonzero(found.cost <= claim.money * (1 + 1e-9) + 1e-9)
    low = float(found.lower.min(initial=np.inf))
    said = {"claim": claim, "how": "exact search of each row", "boxes": int(found.nodes.sum()), "assumptions": _assumed(model.space)}
    if len(flipped):
        i = int(flipped[np.argmin(found.cost[flipped])])
        return ClaimVerdict(word="broken", low=low, high=float(found.cost[i]), row=rows[i], changed=found.witness[i],
                            scores=_scores(model, rows[i], found.witness[i]), note=f"{len(flipped)} of {len(rows)} alerts can be turned off", **said)  # fmt: skip
    open_ = int((~found.proven).sum())
    if open_:
        return ClaimVerdict(word="unknown", low=low, high=np.inf, note=f"{open_} of {len(rows)} alerts were not decided in {boxes:,} boxes", **said)
    return ClaimVerdict(word="proven", low=max(low, claim.money), high=np.inf, note=f"{len(rows)} alerts of {len(claim.rows)} rows", **said)


def _only(claim: NeverFlips) -> PriceTable:
    return replace(claim.prices, prices={name: claim.prices.prices[name] for name in claim.features}, groups={})


def _scores(model: Any, row: Array, changed: Array) -> tuple[float, float]:
    before, after = model.predict(np.stack([row, changed]))[:, 1].tolist()
    return before, after


def _assumed(space: Space) -> tuple[str, ...]:
    more = ("rows keep the space's relations, and ratios follow their parts",) if space.relations else ()
    return ("the model answers as its trees do; no value is missing", "rows lie within the space's bounds and steps", *more)


class _Task:
    """A claim about all rows of the space."""

    def __init__(self, claim: Claim, model: Any, rows: Array | None, rng: Rng) -> None:
        self.claim, self.model, self.rng, self.space = claim, model, rng, model.space
        self.trees = trees_of(model)
        self.forest = _binary(self.trees, 1)
        self.money = claim.money if isinstance(claim, NeverFlips) else np.inf
        self.prices = _only(claim) if isinstance(claim, NeverFlips) else None
        self.moved = moves_of(claim, self.space)
        self.cells: PairCells = pair_cells(self.forest, self.space, self.moved, self.prices, self.money)
        if any(not len(v) for v in self.cells.low):
            bad = next(f for f, v in enumerate(self.cells.low) if not len(v))
            raise InputError(f"feature {self.space.name(bad)} has no value within its bounds and steps; correct the space")
        self.hair = 2 * _slack(self.forest, self.forest.single)
        self.rows = self._drawn(rows)
        same_answers(model, self.trees, self.rows[:64])

    def _drawn(self, rows: Array | None) -> Array:
        """Rows to try: known ones that the space holds, and random cells."""
        known = np.zeros((0, len(self.cells.low))) if rows is None else np.asarray(rows, float).reshape(len(rows), -1)
        known = known[np.isfinite(known).all(1)]
        known = self.rng.permutation(known)[:TRIED]
        picks = [self.rng.integers(0, len(low), TRIED) for low in self.cells.low]
        ends = [
            np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0)) for low, high in zip(self.cells.low, self.cells.high, strict=True)
        ]
        found = np.concatenate([known, np.stack([e[p] for e, p in zip(ends, picks, strict=True)], axis=1)])
        return found[self._exists(found)]

    def _exists(self, x: Array) -> Array:
        """Which rows lie in the space, every value checked as if it had changed."""
        return allowed(x, np.full_like(x, np.nan), replace(self.space, mutable=np.ones(x.shape[1], bool))) & holds(x, self.space)

    def breaks(self, row: Array, changed: Array) -> bool:
        """Whether the model's own scores of two rows break the claim, whatever relations and prices say."""
        both = np.stack([row, changed])
        p = self.model.predict(both)[:, 1]
        if isinstance(self.claim, Monotone):
            fall = self.trees.margins(both)[:, -1]
            return bool(p[1] < p[0] and fall[0] - fall[1] > self.hair)
        return bool(p[0] >= self.model.threshold > p[1])

    def confirms(self, row: Array, changed: Array) -> bool:
        """Whether two rows of the space, within the money, break the claim."""
        if not self._exists(np.stack([row, changed])).all():
            return False
        if self.prices is not None and not cost(row[None], changed[None], self.prices, self.space)[0] <= self.cells.moves.money:
            return False
        return self.breaks(row, changed)

    def tried(self) -> ClaimVerdict | None:
        """A claim that known or random rows break."""
        pair = self._scan() if isinstance(self.claim, Monotone) else self._turned()
        return None if pair is None else self._broken(*pair, "rows that were tried", 0)

    def _scan(self) -> tuple[Array, Array] | None:
        """Of every row the feature's cells one after the other: the worst fall of the score."""
        (f, way), *_ = self.moved.items()
        low, high = self.cells.low[f], self.cells.high[f]
        values = np.where(np.isfinite(low), low, np.where(np.isfinite(high), high, 0.0))[::way]
        if len(self.rows) == 0 or len(values) < 2:
            return None
        grid = np.repeat(self.rows, len(values), axis=0)
        grid[:, f] = np.tile(values, len(self.rows))
        for r in self.space.relations:
            if isinstance(r, Ratio | Sum) and r.target in self.moved:
                grid[:, r.target] = recomputed(grid, r)
        good = self._exists(grid) if self.space.relations else np.ones(len(grid), bool)
        score = np.full(len(grid), np.nan)
        score[good] = self.trees.margins(grid[good])[:, -1]
        score = score.reshape(len(self.rows), len(values))
        top = np.fmax.accumulate(score, axis=1)
        fall = np.nan_to_num(top - score, nan=-1.0)
        for i in np.argsort(-fall.max(1))[:8]:
            j = int(fall[i].argmax())
            k = int(np.nanargmax(np.where(np.arange(len(values)) <= j, score[i], -np.inf)))
            pair = grid[i * len(values) + k], grid[i * len(values) + j]
            if fall[i, j] > 0 and self.confirms(*pair):
                return pair
        return None

    def _turned(self) -> tuple[Array, Array] | None:
        """The cheapest flip of the alerts among the rows."""
        alerts = self.rows[self.model.predict(self.rows)[:, 1] >= self.model.threshold] if len(self.rows) else self.rows
        if not len(alerts):
            return None
        assert self.prices is not None
        found = search(self.trees, alerts, self.prices, self.space, threshold=self.model.threshold, budget=self.money, boxes=2_000)
        for i in np.argsort(found.cost)[:8]:
            if np.isfinite(found.cost[i]) and self.confirms(alerts[i], found.witness[i]):
                return alerts[i], found.witness[i]
        return None

    def _limits(self) -> Limits:
        trees = len(np.unique(self.cells.leaves.tree))
        if isinstance(self.claim, Monotone):
            return Limits(trees=trees, floor=self.hair, reach=-np.inf, below=np.inf)
        edges = [cutoff(self.trees, self.model.threshold, side) for side in (-1, 1)]
        base = self.forest.base
        return Limits(trees=trees, floor=-self.hair, reach=edges[0] - base, below=edges[1] - base)

    def searched(self, end: float, boxes: int) -> ClaimVerdict:
        """Branch and bound over pairs of leaves."""
        cells, limits = self.cells, self._limits()
        low, high = cells.box
        stack, depth, fall, whole = opened(cells.leaves, cells.moves, limits, low, high, PAIRS)
        if not whole:
            return self._unknown(0, np.inf, 0.0, f"its trees have more than {PAIRS:,} pairs of leaves")
        looked, open_ = 0, 0
        still = []
        offset = cells.offset
        while depth > 0:
            why, depth, more, stack, low, high = pursue(cells.leaves, cells.moves, limits, stack, depth, offset, min(STEP, boxes - looked))
            looked += more
            plain = cells.plain(low, high) if why == CANDIDATE else None
            if plain is not None and self.breaks(*plain):  # every pair of the box has these scores
                pair = cells.bound(low, high)
                if pair.row is not None and pair.changed is not None and self.confirms(pair.row, pair.changed):
                    return self._broken(pair.row, pair.changed, "branch and bound over pairs of leaves", looked)
                if pair.state != "empty":
                    open_ += 1
                    still.append((float(stack.fall[depth]), float(stack.cost[depth])))
            if why != DONE and (looked >= boxes or time.monotonic() > end or open_ > OPEN):
                break
        left = [*still, *zip(stack.fall[:depth].tolist(), stack.cost[:depth].tolist(), strict=True)]
        if left:
            note = f"{open_} boxes hold pairs that the relations leave open" if depth == 0 else f"{depth} boxes are open"
            return self._unknown(looked, max(f for f, _ in left), min(c for _, c in left), note)
        sure = isinstance(self.claim, NeverFlips) or fall <= 0
        more = () if sure else (f"a fall of the trees' sum by {self.hair:.1e} or less is rounding",)
        bracket = (0.0, 0.0 if sure else self.hair) if isinstance(self.claim, Monotone) else (self.money, np.inf)
        return ClaimVerdict(claim=self.claim, word="proven", how="branch and bound over pairs of leaves" if looked else "the worst pair of leaves of each tree",
                            low=bracket[0], high=bracket[1], boxes=looked, assumptions=(*_assumed(self.space), *more))  # fmt: skip

    def _unknown(self, boxes: int, fall: float, price: float, note: str) -> ClaimVerdict:
        low, high = (0.0, fall) if isinstance(self.claim, Monotone) else (price, np.inf)
        return ClaimVerdict(claim=self.claim, word="unknown", how="branch and bound over pairs of leaves", low=low, high=high, boxes=boxes, note=note,
                            assumptions=_assumed(self.space))  # fmt: skip

    def _broken(self, row: Array, changed: Array, how: str, boxes: int) -> ClaimVerdict:
        low, high = 0.0, np.inf
        if isinstance(self.claim, Monotone):
            margins = self.trees.margins(np.stack([row, changed]))[:, -1]
            low = float(margins[0] - margins[1])
        else:
            assert self.prices is not None
            high = float(cost(row[None], changed[None], self.prices, self.space)[0])
        return ClaimVerdict(claim=self.claim, word="broken", how=how, low=low, high=high, row=row, changed=changed,
                            scores=_scores(self.model, row, changed), boxes=boxes)  # fmt: skip


def _monotone_moves(claim: Monotone, space: Space) -> dict[int, int]:
    """The feature and the ratios that follow it, with the way each goes."""
    f = space.index(claim.feature)
    if space.kind[f] in (Kind.CATEGORICAL, Kind.ONE_HOT):
        raise InputError(f"monotone names {claim.feature!r}, whose values are categories without an order; name a number")
    if f in targets_of(space):
        raise InputError(f"monotone names {claim.feature!r}, a ratio or sum that follows its parts; name one of those")
    follow = [r.target for r in space.relations if isinstance(r, Ratio | Sum) and f in parts_of(r)]
    return {f: DIRECTIONS[claim.direction], **dict.fromkeys(follow, 0)}


def _priced_moves(claim: NeverFlips, space: Space) -> dict[int, int]:
    """The features that can be changed and the ratios that follow them."""
    moved: dict[int, int] = {}
    for name in claim.features:
        f, price = space.index(name), claim.prices.prices[name]
        if not space.mutable.ravel()[f]:
            raise InputError(f"never_flips names {name!r}, which cannot change in the space; leave it out")
        if space.kind[f] == Kind.ONE_HOT:
            raise InputError(f"never_flips names {name!r} of a one-hot group; make the group one categorical column")
        ways = {1: math.isfinite(price.up) or bool(price.up_steps), -1: math.isfinite(price.down) or bool(price.down_steps)}
        if price.matrix is None and not any(ways.values()):
            raise InputError(f"never_flips names {name!r}, which its price table lets go nowhere; give it a price up or down")
        moved[f] = 0 if price.matrix is not None or all(ways.values()) else 1 if ways[1] else -1
    follow = [r.target for r in space.relations if isinstance(r, Ratio | Sum) and set(parts_of(r)) & set(moved)]
    return {**moved, **dict.fromkeys(follow, 0)}


def moves_of(claim: Claim, space: Space) -> dict[int, int]:
    """The features that differ between the two rows of a claim, with the way each goes: 1 up, -1 down, 0 either.

    Raises:
        InputError: if the claim names a feature that is not there, has no order, follows others or cannot move.
    """
    return _monotone_moves(claim, space) if isinstance(claim, Monotone) else _priced_moves(claim, space)


def shows(claim: Claim, model: Any, row: Array, changed: Array) -> bool:
    """Whether two rows ``(d,)`` break a claim as the model itself scores them, whatever search found them.

    Both lie in the space (with given ``rows`` the first is one of those), nothing but what the claim moves differs, and the price is within
    the money.
    """
    model = getattr(model, "scorer", model)
    space, ways = model.space, moves_of(claim, model.space)
    different = ~((row == changed) | (np.isnan(row) & np.isnan(changed)))
    if set(np.flatnonzero(different).tolist()) - ways.keys():
        return False
    known = isinstance(claim, NeverFlips) and claim.rows is not None
    if known:
        exist = allowed(changed[None], row[None], space)
    else:
        both = np.stack([row, changed])
        exist = allowed(both, np.full_like(both, np.nan), replace(space, mutable=np.ones(len(row), bool))) & holds(both, space)
    if not exist.all():
        return False
    before, after = _scores(model, row, changed)
    if isinstance(claim, Monotone):
        f = space.index(claim.feature)
        return bool((changed[f] - row[f]) * DIRECTIONS[claim.direction] > 0) and after < before
    if known and not any(np.array_equal(row, one, equal_nan=True) for one in np.asarray(claim.rows)):
        return False
    money = cost(row[None], changed[None], _only(claim), space)[0]
    return bool(money <= claim.money * (1 + 1e-9) + 1e-9) and before >= model.threshold > after


def decide_claims(claims: Sequence[Claim], model: Any, *, rng: Rng, rows: Array | None = None, seconds: float = 60.0) -> list[ClaimVerdict]:
    """The verdicts of several claims, one after the other."""
    return [decide_claim(claim, model, rng=rng, rows=rows, seconds=seconds) for claim in claims]
