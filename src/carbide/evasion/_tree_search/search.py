"""``search`` and ``search_ball``: rows, prices and trees in; least prices, witnesses and proven lower bounds out."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from numba import config

from carbide.evasion._tree_search.cells import workspace
from carbide.evasion._tree_search.layout import Forest, forest_of
from carbide.evasion._tree_search.narrow import stack_space
from carbide.evasion._tree_search.problem import Problem, ball_problem, budget_problem
from carbide.evasion._tree_search.run import run_rows, work_space
from carbide.models.trees import Ensemble
from carbide.space.membership import allowed
from carbide.space.prices import cost as price_of
from carbide.types import Array, InputError, LpBall, PriceTable, Ratio, Space

NAMES = np.array(["safe", "exact", "found", "unknown"])
BOXES = 200_000
PLAIN = 100  # boxes that a row gets before the dual bound, which costs more than a box, is taken too
PART = 8  # rows that a thread takes at a time
ROUNDING = 1e-9  # how far over the budget a price may lie, relative and absolute, as in carbide.space.membership


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchResult:
    """What is known of each of n rows.

    ``cost`` ``(n,)``: the price of ``witness`` ``(n, d)``, inf where none was found (the witness is then the clean row).
    ``lower`` ``(n,)``: no evasion costs less. ``status`` ``(n,)``: ``exact`` (cost equals lower), ``found`` (an evasion within the
    budget, not claimed to be the cheapest), ``safe`` (none within the budget), ``unknown`` (cost and lower differ, or the search
    reached its limit). ``nodes`` ``(n,)``: boxes looked at.
    """

    cost: Array
    lower: Array
    witness: Array
    status: Array
    nodes: Array

    @property
    def proven(self) -> Array:
        """Whether each row's question is answered, ``(n,)`` bool: an evasion within the budget is shown, or that there is none."""
        return self.status != "unknown"

    def put(self, rows: Array, other: SearchResult) -> SearchResult:
        """This result with the given rows replaced by those of another."""
        changed = {}
        for name in self.__dataclass_fields__:
            changed[name] = getattr(self, name).copy()
            changed[name][rows] = getattr(other, name)
        return SearchResult(**changed)


@dataclass(frozen=True, kw_only=True)
class _How:
    cutoff: float
    budget: float
    first: bool
    boxes: int


def search(ensemble: Ensemble, x: Array, prices: PriceTable, space: Space, *, threshold: float = 0.5, budget: float = math.inf, first: bool = False,
           boxes: int = BOXES, rounding: int = 0) -> SearchResult:  # fmt: skip
    """The cheapest changes that get the probability of class 1 below ``threshold``, for rows ``x`` ``(n, *shape)``.

    Args:
        ensemble: trees of a classifier of two classes.
        budget: only evasions that cost at most this are looked for.
        first: be content with any evasion within the budget (faster).
        boxes: the most boxes to look at for a row; beyond it the row is ``unknown``.
        rounding: how a sum within a few units in the last place of the threshold counts: 0 as ``ensemble.predict`` rounds it,
            1 as evading, -1 as not evading (for libraries whose rounding the ensemble does not meet exactly).

    Raises:
        InputError: if the trees do not tell two classes apart, or the prices or relations cannot be searched.
    """
    forest = _binary(ensemble, 1)
    rows = np.ascontiguousarray(x, np.float64).reshape(len(x), int(np.prod(x.shape[1:])))
    how = _How(cutoff=cutoff(ensemble, threshold, rounding), budget=budget * (1 + ROUNDING) + ROUNDING, first=first, boxes=boxes)
    result = _around_hard(forest, lambda part, held: budget_problem(part, prices, space, held=held), rows, how, space)
    paid = np.where(np.isfinite(result.cost), price_of(rows, result.witness, prices, space), np.inf)
    return replace(result, cost=paid, lower=np.where(result.status == "exact", paid, result.lower))


def search_ball(ensemble: Ensemble, x: Array, y: Array, threat: LpBall, space: Space, *, threshold: float = 0.5, boxes: int = BOXES,
                rounding: int = 0) -> SearchResult:  # fmt: skip
    """Whether the ball around each row ``x`` ``(n, *shape)`` holds a row that is not given its class ``y`` ``(n,)``.

    ``cost`` is the norm of the change that leads to the nearest such row.

    Raises:
        InputError: if a label is not a class of the trees.
    """
    rows = np.ascontiguousarray(x, np.float64).reshape(len(x), int(np.prod(x.shape[1:])))
    result = _nothing(rows, threat.eps)
    result = replace(result, lower=np.full(len(rows), np.inf))
    for label in np.unique(y):
        mine = np.flatnonzero(y == label)
        for forest, cutoff in _rivals(ensemble, int(label), threshold, rounding):
            result = result.put(mine, _nearer(_in_ball(forest, rows[mine], threat, space, cutoff, boxes), result, mine))
    return result


def cutoff(ensemble: Ensemble, threshold: float, rounding: int = 0) -> float:
    """The sum of leaves below which the probability of class 1 is below ``threshold``; ``rounding`` as in ``search``.

    Raises:
        InputError: if the trees do not tell two classes apart.
    """
    if len(ensemble.classes) != 2:
        raise InputError(f"the trees tell {len(ensemble.classes)} classes apart; a price table needs two: the attacker's class 1 and the other")
    hair = (2.0**-22 if ensemble.single else 2.0**-50) * abs(threshold)
    wanted = threshold + rounding * hair
    known = EDGES.setdefault(ensemble, {})
    if wanted not in known:
        if len(known) >= MOST_EDGES:
            known.clear()
        known[wanted] = _least_sum(ensemble, wanted)
    edge = known[wanted]
    return edge + rounding * _slack(_binary(ensemble, 1), ensemble.single)


def _least_sum(ensemble: Ensemble, threshold: float) -> float:
    """The least sum of leaves whose probability of class 1 is at least ``threshold``, by halving the ordered floating-point numbers."""
    kind = np.float32 if ensemble.single else np.float64
    low, high = -np.finfo(np.float32).max.astype(float), np.finfo(np.float32).max.astype(float)

    def reaches(total: float) -> bool:
        margins = np.full((1, ensemble.outputs), total)
        return bool(ensemble.probabilities(margins)[0, -1] >= threshold)

    if reaches(low):
        return -math.inf
    if not reaches(high):
        return math.inf
    while True:
        middle = float(kind(low / 2 + high / 2))
        if not low < middle < high:
            return high
        low, high = (low, middle) if reaches(middle) else (middle, high)


# What calls with the same ensemble share; ensembles never change.
EDGES: weakref.WeakKeyDictionary[Ensemble, dict[float, float]] = weakref.WeakKeyDictionary()
MOST_EDGES = 256
FORESTS: weakref.WeakKeyDictionary[Ensemble, dict[int, Forest]] = weakref.WeakKeyDictionary()


def _binary(ensemble: Ensemble, label: int) -> Forest:
    """The trees' sum for class 1, or its negative for label 0: in both cases a smaller sum is what the attacker wants."""
    made = FORESTS.setdefault(ensemble, {})
    if label not in made:
        sign = 1.0 if label == 1 else -1.0
        column = -1 if ensemble.value.shape[1] > 1 else 0
        made[label] = forest_of(ensemble, sign * ensemble.value[:, column], sign * ensemble.base[-1])
    return made[label]


def _rivals(ensemble: Ensemble, label: int, threshold: float, rounding: int) -> Iterator[tuple[Forest, float]]:
    """For every other class, trees whose sum is below the cutoff where that class wins against ``label``."""
    classes = ensemble.classes.tolist()
    if label not in classes:
        raise InputError(f"label {label} is no class of the trees; their classes are {', '.join(map(str, classes))}")
    if len(classes) == 2:
        positive = classes.index(label) == 1
        edge = cutoff(ensemble, threshold, rounding if positive else -rounding)
        yield _binary(ensemble, int(positive)), edge if positive else float(np.nextafter(-edge, np.inf))
        return
    own = classes.index(label)
    for other in range(len(classes)):
        if other != own:
            if ensemble.value.shape[1] > 1:
                value = ensemble.value[:, own] - ensemble.value[:, other]
            else:
                value = ensemble.value[:, 0] * _signs(ensemble, own, other)
            forest = forest_of(ensemble, value, float(ensemble.base[own] - ensemble.base[other]))._replace(single=False)
            hair = _slack(forest, ensemble.single)
            yield forest, rounding * hair


def _signs(ensemble: Ensemble, own: int, other: int) -> Array:
    """+1 for nodes of trees that add to ``own``, -1 for those of ``other``, 0 elsewhere."""
    ends = np.append(ensemble.roots[1:], len(ensemble.feature))
    tree = np.repeat(np.arange(ensemble.trees), ends - ensemble.roots)
    return (ensemble.output[tree] == own) * 1.0 - (ensemble.output[tree] == other) * 1.0


def _slack(forest: Forest, single: bool) -> float:
    """More than any order of summing the leaves can change the sum."""
    return (len(forest.roots) + 2) * forest.largest * (2.0**-24 if single else 2.0**-53)


def _nothing(rows: Array, lower: float) -> SearchResult:
    n = len(rows)
    return SearchResult(cost=np.full(n, np.inf), lower=np.full(n, lower), witness=rows.copy(), status=np.full(n, "safe"), nodes=np.zeros(n, np.int64))


def _run(forest: Forest, problem: Problem, rows: Array, how: _How, stale: Array, *, frozen: bool) -> SearchResult:
    axes, ties, n = problem.axes, problem.ties, len(rows)
    cost, lower, witness = np.full(n, np.inf), np.zeros(n), rows.copy()
    status, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64)
    slack, steep = _slack(forest, forest.single) + 16 * _slack(forest, False), axes.matrix < 0
    parts = iter(range(0, n, PART))  # shared: whoever is free takes the next rows

    def run() -> None:
        cells = workspace(axes, ties, forest)
        stack, work = stack_space(3 * len(forest.node) + 3, len(forest.roots), forest.shared), work_space(forest, axes, ties, len(cells.cost))
        for begin in parts:
            run_rows(forest, axes, ties, rows, begin, min(begin + PART, n), how.cutoff, slack, how.budget, how.first, how.boxes, PLAIN, stale, frozen,
                     steep, problem.worst, cells, stack, work, cost, lower, witness, status, boxes)  # fmt: skip

    threads = config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # get_num_threads would set OpenMP's threads, and so torch's
    _beside(run, min(threads, -(-n // PART)))
    return SearchResult(cost=cost, lower=lower, witness=witness, status=NAMES[status].astype("U7"), nodes=boxes)


def _beside(run: Callable[[], None], times: int) -> None:
    """Run a function that releases the interpreter so many times beside itself."""
    if times <= 1:
        run()
        return
    with ThreadPoolExecutor(times) as pool:
        for done in [pool.submit(run) for _ in range(times)]:
            done.result()


def _solve(forest: Forest, problem: Problem, rows: Array, how: _How, space: Space) -> SearchResult:
    """The search; rows whose written ratio lies in another cell than its parts' are searched with and without moving those parts."""
    stale = _stale(forest, rows, space)
    result = _run(forest, problem, rows, how, stale, frozen=False)
    again = np.flatnonzero(stale)
    if len(again):
        part = _take(problem, again)
        result = result.put(again, _nearer(_run(forest, part, rows[again], how, np.zeros(len(again), bool), frozen=True), result, again))
    return result


def _take(problem: Problem, rows: Array) -> Problem:
    axes = problem.axes._replace(low=problem.axes.low[rows], high=problem.axes.high[rows])
    return replace(problem, axes=axes, ties=problem.ties._replace(rhs=problem.ties.rhs[rows]))


def _stale(forest: Forest, rows: Array, space: Space) -> Array:
    stale = np.zeros(len(rows), bool)
    for r in space.relations:
        if isinstance(r, Ratio):
            cuts = forest.cuts[forest.start[r.target] : forest.start[r.target + 1]]
            with np.errstate(divide="ignore", invalid="ignore"):
                exact = rows[:, r.numerator] / rows[:, r.denominator]
            stale |= np.isfinite(exact) & (np.searchsorted(cuts, exact) != np.searchsorted(cuts, rows[:, r.target]))
    return stale


def _nearer(new: SearchResult, result: SearchResult, rows: Array) -> SearchResult:
    """Row by row the cheaper of two searches that together cover all changes."""
    old = {name: getattr(result, name)[rows] for name in result.__dataclass_fields__}
    better = new.cost < old["cost"]
    cost, lower = np.where(better, new.cost, old["cost"]), np.minimum(new.lower, old["lower"])
    found = np.where(better, new.status, old["status"])
    open_ = (new.status == "unknown") | (old["status"] == "unknown")
    status = np.where(lower >= cost, "exact", np.where(open_, "unknown", found))
    status = np.where((status == "unknown") & (found == "found"), "found", status)
    status = np.where((status == "exact") & np.isinf(cost), "safe", status)
    return SearchResult(cost=cost, lower=lower, witness=np.where(better[:, None], new.witness, old["witness"]), status=status.astype("U7"),
                        nodes=new.nodes + old["nodes"])  # fmt: skip


def _around_hard(forest: Forest, problem: Callable[[Array, bool], Problem], rows: Array, how: _How, space: Space) -> SearchResult:
    """The search; where its witness breaks a hard relation, which it does not know, another one with that relation's features held still."""
    loose = problem(rows, False)
    result = _solve(forest, loose, rows, how, space)
    bad = np.flatnonzero(np.isfinite(result.cost) & ~allowed(result.witness, rows, space)) if loose.hard else np.zeros(0, np.int64)
    if not len(bad):
        return result
    held = _solve(forest, problem(rows[bad], True), rows[bad], how, space)
    lower = result.lower[bad]
    status = np.where(held.cost <= lower, "exact", np.where(np.isfinite(held.cost) & how.first, "found", "unknown"))
    return result.put(bad, replace(held, lower=lower, status=status.astype("U7"), nodes=held.nodes + result.nodes[bad]))


def _in_ball(forest: Forest, rows: Array, threat: LpBall, space: Space, cutoff: float, boxes: int) -> SearchResult:
    power = 2.0 if threat.p == 2 else 1.0
    how = _How(cutoff=cutoff, budget=(threat.eps * (1 + ROUNDING)) ** power + ROUNDING * 1e-3, first=False, boxes=boxes)
    result = _around_hard(forest, lambda part, held: ball_problem(part, threat, space, held=held), rows, how, space)
    return replace(result, cost=result.cost ** (1 / power), lower=result.lower ** (1 / power))
