"""``search`` and ``search_ball``: rows, prices and trees in; least prices, witnesses and proven lower bounds out."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from carbide.evasion._threads import Threads
from carbide.evasion._tree_search.cells import Cells, workspace
from carbide.evasion._tree_search.layout import Forest, forest_of
from carbide.evasion._tree_search.narrow import Stack, stack_space
from carbide.evasion._tree_search.problem import Problem, ball_problem, budget_problem
from carbide.evasion._tree_search.recast import Shape, recast
from carbide.evasion._tree_search.run import Work, passes, run_rows, work_space
from carbide.evasion._tree_search.views import Side, View, views
from carbide.models.trees import Ensemble
from carbide.space.membership import allowed
from carbide.space.prices import cost as price_of
from carbide.space.relations import parts_of, recompute, recomputed
from carbide.types import Array, InputError, LpBall, PriceTable, Ratio, Space, Sum

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
    """``budget`` ``(n,)``: only what costs less is looked for."""

    cutoff: float
    budget: Array
    first: bool
    boxes: int

    def take(self, rows: Array) -> _How:
        return replace(self, budget=self.budget[rows])


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """What is asked: the trees in any shape, and the problem of rows on a side of a view, hard relations left out or held."""

    forest: Callable[[Shape | None], Forest]
    problem: Callable[[Side, Array, bool], Problem]
    space: Space


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
    rows = np.ascontiguousarray(x, np.float64).reshape(len(x), int(np.prod(x.shape[1:])))
    how = _How(cutoff=cutoff(ensemble, threshold, rounding), budget=np.full(len(rows), budget * (1 + ROUNDING) + ROUNDING), first=first, boxes=boxes)
    result = cheapest_changes(ensemble, rows, prices, space, how)
    paid = np.where(np.isfinite(result.cost), price_of(rows, result.witness, prices, space), np.inf)
    dearer = np.isfinite(result.cost) & ~(paid <= result.cost + ROUNDING * 1e3 * (1 + result.cost))  # then the search did not find what it says
    status = np.where((result.status == "exact") & dearer, "unknown", result.status)
    return replace(result, cost=paid, status=status, lower=np.where(status == "exact", paid, result.lower))


def cheapest_changes(ensemble: Ensemble, rows: Array, prices: PriceTable, space: Space, how: _How, *, earns: float = 0.0) -> SearchResult:
    """The search itself; what a unit of the table's gain ``earns`` in the changed row is taken off its price, which may then be below 0."""

    def problem(side: Side, part: Array, held: bool) -> Problem:
        assert side.prices is not None
        return budget_problem(part, side.prices, side.space, held=held, earns=earns)

    asked = _Asked(forest=lambda shape: _binary(ensemble, 1, shape, how.cutoff), problem=problem, space=space)
    return _viewed(asked, rows, how, views(rows, space, prices))


def search_ball(ensemble: Ensemble, x: Array, y: Array, threat: LpBall, space: Space, *, threshold: float = 0.5, boxes: int = BOXES,
                rounding: int = 0) -> SearchResult:  # fmt: skip
    """Whether the ball around each row ``x`` ``(n, *shape)`` holds a row that is not given its class ``y`` ``(n,)``.

    ``cost`` is the norm of the change that leads to the nearest such row.

    Raises:
        InputError: if a label is not a class of the trees.
    """
    rows = np.ascontiguousarray(x, np.float64).reshape(len(x), int(np.prod(x.shape[1:])))
    if len(rows) and (y == y[0]).all():
        return _of_label(ensemble, rows, int(y[0]), threat, space, threshold, boxes, rounding)
    result = _nothing(rows, np.inf)
    for label in np.unique(y):
        mine = np.flatnonzero(y == label)
        result = result.put(mine, _of_label(ensemble, rows[mine], int(label), threat, space, threshold, boxes, rounding))
    return result


def _of_label(ensemble: Ensemble, rows: Array, label: int, threat: LpBall, space: Space, threshold: float, boxes: int, rounding: int) -> SearchResult:
    """``search_ball`` for rows of one class: the nearest row of any other class."""
    result: SearchResult | None = None
    for forest, edge in _rivals(ensemble, label, threshold, rounding):
        found = _in_ball(forest, rows, threat, space, edge, boxes)
        result = found if result is None else _nearer(found, result, np.arange(len(rows)))
    return _nothing(rows, np.inf) if result is None else result


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
FORESTS: weakref.WeakKeyDictionary[Ensemble, dict[tuple[int, Shape | None, float], Forest]] = weakref.WeakKeyDictionary()
MOST_FORESTS = 64


def _binary(ensemble: Ensemble, label: int, shape: Shape | None = None, edge: float = 0.0) -> Forest:
    """The trees' sum for class 1, or its negative for label 0: in both cases a smaller sum is what the attacker wants.

    With a ``shape``, over its columns, for a search of sums below ``edge``.
    """
    made = FORESTS.setdefault(ensemble, {})
    key = (label, shape, edge if shape is not None and shape.implications else 0.0)
    if key not in made:
        if len(made) >= MOST_FORESTS:
            made.clear()
        sign = 1.0 if label == 1 else -1.0
        column = -1 if ensemble.value.shape[1] > 1 else 0
        made[key] = _shaped(ensemble, sign * ensemble.value[:, column], float(sign * ensemble.base[-1]), shape, edge)
    return made[key]


def _shaped(ensemble: Ensemble, value: Array, base: float, shape: Shape | None, edge: float) -> Forest:
    """The forest of trees with these leaves over the columns of a shape; who breaks an implication is well above the edge."""
    if shape is None:
        return forest_of(ensemble, value, base)
    largest = float(np.maximum.reduceat(np.abs(value), ensemble.roots).sum() + abs(base))
    penalty = 2 * (largest + (abs(edge) if math.isfinite(edge) else 0.0)) + 1.0
    trees, numbers = recast(ensemble, value, shape, penalty=penalty)
    return forest_of(trees, numbers, base)._replace(largest=largest, barred=penalty * len(shape.implications))


def _rivals(ensemble: Ensemble, label: int, threshold: float, rounding: int) -> Iterator[tuple[Callable[[Shape | None], Forest], float]]:
    """For every other class, trees in any shape whose sum is below the cutoff where that class wins against ``label``."""
    classes = ensemble.classes.tolist()
    if label not in classes:
        raise InputError(f"label {label} is no class of the trees; their classes are {', '.join(map(str, classes))}")
    if len(classes) == 2:
        positive = classes.index(label) == 1
        edge = cutoff(ensemble, threshold, rounding if positive else -rounding)
        edge = edge if positive else float(np.nextafter(-edge, np.inf))
        yield functools.partial(_binary, ensemble, int(positive), edge=edge), edge
        return
    own = classes.index(label)
    for other in range(len(classes)):
        if other != own:
            if ensemble.value.shape[1] > 1:
                value = ensemble.value[:, own] - ensemble.value[:, other]
            else:
                value = ensemble.value[:, 0] * _signs(ensemble, own, other)
            forest = functools.lru_cache(8)(functools.partial(_between, ensemble, value, float(ensemble.base[own] - ensemble.base[other])))
            yield forest, rounding * _slack(forest(None), ensemble.single)


def _between(ensemble: Ensemble, value: Array, base: float, shape: Shape | None) -> Forest:
    return _shaped(ensemble, value, base, shape, 0.0)._replace(single=False)


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
    return SearchResult(
        cost=np.full(n, np.inf), lower=np.full(n, lower), witness=rows.copy(), status=np.full(n, "safe", "U7"), nodes=np.zeros(n, np.int64)
    )


Scratch = tuple[Cells, Stack, Work]
SPARE: dict[tuple[int, int], tuple[Array, Array, list[Scratch]]] = {}  # of searches that have ended, by the arrays that say what sizes are needed
MOST_SPARE = 8


def _scratch(forest: Forest, problem: Problem) -> Scratch:
    """Scratch of one thread."""
    cells = workspace(problem.axes, problem.ties, forest)
    stack = stack_space(3 * len(forest.node) + 3, len(forest.roots), forest.shared)
    return cells, stack, work_space(forest, problem.axes, problem.ties, len(cells.cost))


def _spare(forest: Forest, problem: Problem) -> list[Scratch]:
    """Scratch that threads have left for the same trees and axes: making it takes as long as an easy row. None is kept where it remembers rows."""
    if forest.shared or len(problem.ties.axes):
        return []
    key = (id(forest.node), id(problem.axes.feature))
    known = SPARE.get(key)
    if known is None or known[0] is not forest.node or known[1] is not problem.axes.feature:
        if len(SPARE) >= MOST_SPARE:
            SPARE.clear()
        known = SPARE[key] = (forest.node, problem.axes.feature, [])
    return known[2]


def _run(forest: Forest, problem: Problem, rows: Array, how: _How, stale: Array, *, frozen: bool) -> SearchResult:
    axes, ties, n = problem.axes, problem.ties, len(rows)
    cost, lower, witness = np.full(n, np.inf), np.zeros(n), rows.copy()
    status, boxes = np.zeros(n, np.int64), np.zeros(n, np.int64)
    slack = _slack(forest, forest.single) + 16 * _slack(forest._replace(largest=forest.largest + forest.barred), False)
    steep = (axes.matrix < 0) & (axes.earns == 0)
    parts = iter(range(0, n, PART))  # shared: whoever is free takes the next rows

    def run() -> None:
        spare = _spare(forest, problem)
        try:
            cells, stack, work = spare.pop()
        except IndexError:  # none, or another thread has just taken it
            cells, stack, work = _scratch(forest, problem)
        for begin in parts:
            run_rows(forest, axes, ties, rows, begin, min(begin + PART, n), how.cutoff, slack, how.budget, how.first, how.boxes, PLAIN, stale, frozen,
                     steep, problem.worst, cells, stack, work, cost, lower, witness, status, boxes)  # fmt: skip
        spare.append((cells, stack, work))

    with Threads() as threads:
        threads.beside(run, -(-n // PART))
    return SearchResult(cost=cost, lower=lower, witness=witness, status=NAMES[status].astype("U7"), nodes=boxes)


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
        if isinstance(r, Ratio | Sum):
            cuts = forest.cuts[forest.start[r.target] : forest.start[r.target + 1]]
            exact = recomputed(rows, r)
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


def _viewed(asked: _Asked, rows: Array, how: _How, parts: list[tuple[Array, tuple[View, ...]]]) -> SearchResult:
    """Row by row the cheapest change over all its views."""
    result = _nothing(rows, 0.0)
    for mine, several in parts:
        whole = len(mine) == len(rows)
        own, ask = (rows, how) if whole else (rows[mine], how.take(mine))
        found = _around_hard(asked, several[0], own, ask)
        for view in several[1:]:
            found = _nearer(_around_hard(asked, view, own, ask), found, np.arange(len(own)))
        result = found if whole else result.put(mine, found)
    return result


def _around_hard(asked: _Asked, view: View, rows: Array, how: _How) -> SearchResult:
    """The search; where its witness breaks a hard relation, which it does not know, another one with that relation's features held still."""
    result, hard = _on_side(asked, view.loose, rows, how, False)
    if hard:
        result = _with_ratios(asked, result, rows, how)
    bad = np.flatnonzero(np.isfinite(result.cost) & ~allowed(result.witness, rows, asked.space)) if hard or view.hard else np.zeros(0, np.int64)
    if not len(bad):
        return result
    held, _ = _on_side(asked, view.held, rows[bad], how.take(bad), True)
    lower = result.lower[bad]
    status = np.where(held.cost <= lower, "exact", np.where(np.isfinite(held.cost) & how.first, "found", "unknown"))
    return result.put(bad, replace(held, lower=lower, status=status.astype("U7"), nodes=held.nodes + result.nodes[bad]))


def _with_ratios(asked: _Asked, result: SearchResult, rows: Array, how: _How) -> SearchResult:
    """Witnesses with their ratios as their parts make them, or as they were where no part moved; one that this moves to the wrong side of a threshold is
    left without its ratios, and so not allowed: a search that leaves a ratio out may have moved it by a hair for nothing."""
    made = result.witness.copy()
    for r in asked.space.relations:
        if isinstance(r, Ratio):
            moved = (made[:, list(parts_of(r))] != rows[:, list(parts_of(r))]).any(1)
            exact = recomputed(made, r)
            made[:, r.target] = np.where(moved & np.isfinite(exact), exact, np.where(moved, made[:, r.target], rows[:, r.target]))
    other = np.flatnonzero(np.isfinite(result.cost) & ((made != result.witness) & ~(np.isnan(made) & np.isnan(result.witness))).any(1))
    if len(other):
        broken = other[~passes(asked.forest(None), made[other], how.cutoff)]
        for r in asked.space.relations:
            if isinstance(r, Ratio):
                made[broken, r.target] = np.nan
    return replace(result, witness=made)


def _on_side(asked: _Asked, side: Side, rows: Array, how: _How, held: bool) -> tuple[SearchResult, tuple[str, ...]]:
    """The search in a side's columns, its witnesses as rows, and the relations that it leaves out."""
    forest, made = asked.forest(side.shape), side.rows(rows)
    problem = asked.problem(side, made, held)
    result = _solve(forest, problem, made, how, side.space)
    if problem.ties_sums:
        result = _with_sums(forest, result, made, how, side.space)
    if side.shape is not None:
        result = replace(result, witness=np.where(np.isfinite(result.cost)[:, None], side.back(result.witness, rows), rows))
    return result, problem.hard


def _with_sums(forest: Forest, result: SearchResult, rows: Array, how: _How, space: Space) -> SearchResult:
    """Witnesses with their sums as they add up; one that this moves to the wrong side of a threshold is left as it is, and so not allowed."""
    changed = (result.witness != rows) & ~np.isnan(rows)
    made = np.where(changed.any(1)[:, None], recompute(result.witness, space), result.witness)
    good = np.isfinite(result.cost) & passes(forest, made, how.cutoff)
    broken = np.isfinite(result.cost) & ~good
    witness = np.where(good[:, None], made, result.witness)
    for r in space.relations:
        if isinstance(r, Sum):
            witness[broken, r.target] = np.nan
    return replace(result, witness=witness)


def _in_ball(forest: Callable[[Shape | None], Forest], rows: Array, threat: LpBall, space: Space, cutoff: float, boxes: int) -> SearchResult:
    power = 2.0 if threat.p == 2 else 1.0
    budget = (threat.eps * (1 + ROUNDING)) ** power + ROUNDING * 1e-3
    how = _How(cutoff=cutoff, budget=np.full(len(rows), budget), first=False, boxes=boxes)
    asked = _Asked(forest=forest, space=space,
                   problem=lambda side, part, held: ball_problem(part, threat, side.space, held=held, tables=side.tables))  # fmt: skip
    result = _viewed(asked, rows, how, views(rows, space, threat))
    return replace(result, cost=result.cost ** (1 / power), lower=result.lower ** (1 / power))
