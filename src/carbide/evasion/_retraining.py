"""Training with manipulated rows; the settings and the round are chosen by exact robust recall on later rows of the training set.

The pool begins with frauds whose attacker spent the whole budget at random. A round trains, finds the exact cheapest
evasion of every fraud that the model catches, lets the attacker spend what is left of the budget, and adds these rows as
frauds. Left alone that collapses after some rounds; so every round is measured on rows that it did not train on, and the
safest one within the allowed loss is trained again on all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from carbide.evasion._blind import BlindRecipe, constrained, one_way
from carbide.evasion._tree_search import search
from carbide.models.trees.averaging import averaged, can_average, has_margins
from carbide.run import spread
from carbide.space.membership import inside
from carbide.space.prices import as_mapping, cost, matrices, price_arrays
from carbide.space.relations import recompute
from carbide.stats.performance import threshold_at_fpr
from carbide.types import Array, Dataset, FeatureBudget, InputError, Model, PriceTable, Recipe, Rng, Space

LEAST = 10  # frauds that training and the rows set aside each need
DRAWS = 12  # ways to spend the money that are drawn for a row until one is possible
BAGS = 8  # models that are averaged where nothing else is asked for
MOST = 0.7  # share of the honest rows that a bag of boosted trees trains on at most; forests draw rows themselves
FREE = 0.4  # share of the one-way features that a random spender uses


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrainingRecipe:
    """Training of ``inner`` with manipulated rows; the fields are those of ``Retraining``. The rows are taken to be in order of time."""

    inner: Recipe
    threat: FeatureBudget
    rounds: int
    copies: int
    weight: float
    margin: float
    cheap: tuple[float, ...]
    loss: float
    false_positive_rate: float
    holdout: float
    bags: int | None = None

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The model of the best settings and round, trained on all rows and the manipulated ones; an average of ``bags`` models.

        Raises:
            InputError: if there are too few rows of either class, or the model is no tree ensemble, or none that can be averaged.
        """
        seed = int(rng.integers(2**62))
        bags = self.averaged()
        best = self.best(dataset, seed)
        pool = self.pool(best, dataset, seed)
        if bags == 1:
            return best.recipe.fit(self.enlarged(dataset, pool, seed), np.random.default_rng(seed))
        return _joined(
            spread(_bag, [_Bag(recipe=self, best=best, pool=pool, dataset=dataset, seed=seed, number=i) for i in range(bags)], label="bags")
        )

    def describe(self) -> dict[str, Any]:
        """Everything that decides the training."""
        said = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("inner", "threat")}
        return {"recipe": "retraining", "inner": dict(self.inner.describe()), "money": self.threat.money, "prices": as_mapping(self.threat.prices),
                **said, "cheap": list(self.cheap), "bags": self.averaged()}  # fmt: skip

    def averaged(self) -> int:
        """How many models are averaged: what is asked for, or ``BAGS`` where those of the inner recipe can be.

        Raises:
            InputError: if more than one is asked for and they cannot be.
        """
        estimator = _trained_by(self.inner)
        able = can_average(estimator)
        if not able and (self.bags or 1) > 1:
            raise InputError(f"retraining: bags average XGBoost's trees (gbtree), LightGBM's or a scikit-learn forest's, but the recipe trains a "
                             f"{type(estimator).__name__}; set bags to 1")  # fmt: skip
        return self.bags or (BAGS if able else 1)

    def best(self, dataset: Dataset, seed: int) -> Trial:
        """The trial that ``chosen`` prefers among all rounds of all settings; a clean recall within the loss of the plain recipe's is asked for."""
        early, late = self.parts(dataset)
        plain = at_rate(self.inner.fit(early, np.random.default_rng(seed)), late, self.false_positive_rate)
        floor = len(caught(plain, late)) / frauds_of(late) - self.loss
        work = [_Setting(recipe=self, shaped=shaped, early=early, late=late, seed=seed) for shaped in self.settings(early)]
        trials = [trial for setting in spread(_rounds, work, label="retraining settings") for trial in setting]
        return chosen(trials, floor, frauds_of(late))

    def parts(self, dataset: Dataset) -> tuple[Dataset, Dataset]:
        """The rows in their order, the last share of them set aside to choose by."""
        if dataset.classes != 2:
            raise InputError(f"retraining needs two classes, but the data has {dataset.classes}; choose another defence")
        cut = round((1 - self.holdout) * len(dataset))
        early, late = dataset.take(np.arange(cut)), dataset.take(np.arange(cut, len(dataset)))
        for part, words in ((early, "first"), (late, "last")):
            frauds, honest = frauds_of(part), int((part.y == 0).sum())
            if frauds < LEAST or honest * self.false_positive_rate < 1:
                raise InputError(f"retraining chooses by the last {self.holdout:.0%} of the training rows, but the {words} part has {frauds} rows of class 1 "
                                 f"and {honest} of class 0; give more rows, another holdout or a higher false_positive_rate")  # fmt: skip
        return early, late

    def settings(self, early: Dataset) -> list[Recipe]:
        """The inner recipe with scores bound to follow one-way features, blind to nothing and to what is cheap to change."""
        signs = natural_signs(early, one_way(early.space, self.threat.prices))
        bound = constrained(self.inner, signs, missing=bool(np.isnan(early.x).any())) or self.inner
        chosen: list[tuple[int, ...]] = [()]
        for share in self.cheap:
            columns = cheap_columns(early, self.threat, share)
            if columns not in chosen and len(columns) < early.x.shape[1]:
                chosen.append(columns)
        return [BlindRecipe(inner=bound, columns=columns) if columns else bound for columns in chosen]

    def pool(self, best: Trial, dataset: Dataset, seed: int) -> Array:
        """The pool of the best trial and the same for the rows that were set aside."""
        late = self.parts(dataset)[1]
        rng = np.random.default_rng([seed, 1])
        extra = [self.drawn(late, rng)] + ([self.manipulated(best.model, late, rng)] if best.number else [])
        return np.concatenate([best.pool, *extra])

    def drawn(self, data: Dataset, rng: Rng) -> Array:
        """``copies`` of every fraud ``(m, d)`` after an attacker spent ``margin`` times the budget at random."""
        frauds = np.repeat(data.x[data.y == 1], self.copies, axis=0)
        return spent(imitating(frauds, data.x[data.y == 0], data.space, self.richer, rng), frauds, data.space, self.richer, rng)

    def manipulated(self, model: Model, data: Dataset, rng: Rng) -> Array:
        """What attackers with ``margin`` times the budget make of the frauds that the model catches ``(m, d)``."""
        rows = caught(model, data)
        found = evasions(model, rows, self.richer)
        return spent(found.witness[found.evaded], rows[found.evaded], data.space, self.richer, rng)

    @property
    def richer(self) -> FeatureBudget:
        """The threat with ``margin`` times the budget."""
        return replace(self.threat, money=self.margin * self.threat.money)

    def enlarged(self, data: Dataset, pool: Array, seed: int) -> Dataset:
        """The data and at most ``weight`` manipulated rows a fraud, drawn from the pool."""
        most = round(self.weight * frauds_of(data))
        if len(pool) > most:
            pool = pool[np.sort(np.random.default_rng([seed, 2]).permutation(len(pool))[:most])]
        if not len(pool):
            return data
        names = np.array([f"manipulated-{i}" for i in range(len(pool))])
        return replace(data, x=np.concatenate([data.x, pool]), y=np.concatenate([data.y, np.ones(len(pool), np.int64)]),
                       ids=np.concatenate([data.ids, names]), source=np.concatenate([data.source, np.full(len(pool), "manipulated")]))  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """One round of one setting: the ``model`` that ``recipe`` and ``pool`` gave, and its recalls on the rows set aside."""

    recipe: Recipe
    number: int
    model: Model
    pool: Array
    clean: float
    robust: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Setting:
    """The work of one setting's rounds."""

    recipe: RetrainingRecipe
    shaped: Recipe
    early: Dataset
    late: Dataset
    seed: int


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bag:
    """The work of one bag."""

    recipe: RetrainingRecipe
    best: Trial
    pool: Array
    dataset: Dataset
    seed: int
    number: int


def _bag(work: _Bag) -> tuple[Model, float]:
    """The best trial trained on all frauds, a pool with random spenders of its own, and as many honest rows, but at most a share of them.

    Returned with the log of the share: odds are so much too high on the whole. The probabilities of forests could not be mended, so they get all rows.
    """
    data, rng = work.dataset, np.random.default_rng([work.seed, 3, work.number])
    frauds, honest = np.flatnonzero(data.y == 1), np.flatnonzero(data.y == 0)
    pool = np.concatenate([work.pool, work.recipe.drawn(data, rng)])
    seed = int(rng.integers(2**62))
    fraudulent = work.recipe.enlarged(data.take(frauds), pool, seed)
    wanted = min(len(fraudulent), math.ceil(MOST * len(honest))) if has_margins(_trained_by(work.recipe.inner)) else len(honest)
    drawn = rng.permutation(honest)[:wanted]
    model = work.best.recipe.fit(data.take(np.sort(drawn)).joined(fraudulent), np.random.default_rng(seed))
    return model, math.log(wanted / len(honest))


def _trained_by(recipe: Recipe) -> Any:
    """An estimator of the kind that the recipe trains, or the recipe itself where it is no estimator's."""
    return getattr(recipe, "gives", getattr(recipe, "estimator", recipe))


def _joined(bags: Sequence[tuple[Any, float]]) -> Model:
    """One model that answers the average, with odds as if the honest rows had not been thinned out."""
    models, shares = zip(*bags, strict=True)
    return replace(models[0], estimator=averaged([m.estimator for m in models], shift=float(np.mean(shares))))


def _rounds(work: _Setting) -> list[Trial]:
    """A setting's rounds, one trial each."""
    recipe, early, late, rng = work.recipe, work.early, work.late, np.random.default_rng([work.seed, 0])
    pool, trials = recipe.drawn(early, rng), []
    for number in range(recipe.rounds + 1):
        model = work.shaped.fit(recipe.enlarged(early, pool, work.seed), np.random.default_rng(work.seed))
        model = at_rate(model, late, recipe.false_positive_rate)
        clean, robust = recalls(model, late, recipe.threat)
        trials.append(Trial(recipe=work.shaped, number=number, model=model, pool=pool, clean=clean, robust=robust))
        if number < recipe.rounds:
            pool = np.concatenate([pool, recipe.manipulated(model, early, rng)])
    return trials


def chosen(trials: list[Trial], floor: float, frauds: int) -> Trial:
    """The safest trial among those whose clean recall reaches the floor (if none does, the cleanest).

    Trials within one standard error (of a rate among this many ``frauds``) of the highest robust recall count as equal; the
    one that leaves out most columns wins, then the safer, then the cleaner.
    """
    good = [trial for trial in trials if trial.clean >= floor - 1e-12]
    if not good:
        return max(trials, key=lambda trial: (trial.clean, trial.robust))
    top = max(trial.robust for trial in good)
    error = math.sqrt(top * (1 - top) / frauds)
    return max((t for t in good if t.robust >= top - error), key=lambda t: (len(getattr(t.recipe, "columns", ())), t.robust, t.clean))


def frauds_of(data: Dataset) -> int:
    """How many rows of class 1 there are."""
    return int((data.y == 1).sum())


def caught(model: Model, data: Dataset) -> Array:
    """The frauds ``(m, d)`` that the model catches."""
    frauds = data.x[data.y == 1]
    return frauds[model.predict(frauds)[:, 1] >= model.threshold]


def at_rate(model: Model, data: Dataset, rate: float) -> Model:
    """The model deciding where at most ``rate`` of the honest rows are flagged."""
    return model.at(threshold_at_fpr(model.predict(data.x[data.y == 0])[:, 1], rate))


def recalls(model: Model, data: Dataset, threat: FeatureBudget) -> tuple[float, float]:
    """Clean recall, and the share of all frauds that are caught and proven to stay caught within the budget."""
    rows = caught(model, data)
    return len(rows) / frauds_of(data), float(evasions(model, rows, threat, first=True).proven.sum()) / frauds_of(data)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evasions:
    """Per row: whether ``witness`` ``(m, d)`` ``evaded`` within the budget, or it is ``proven`` that nothing does; neither = not decided."""

    evaded: Array
    proven: Array
    witness: Array


def evasions(model: Model, x: Array, threat: FeatureBudget, *, first: bool = False) -> Evasions:
    """The exact cheapest evasions of rows ``(m, d)``; with ``first`` any evasion within the budget will do.

    Raises:
        InputError: if the model is no tree ensemble.
    """
    ensemble = getattr(model, "ensemble", None)
    if ensemble is None:
        raise InputError(
            f"retraining needs a model whose trees can be searched, but the recipe trains a {type(model).__name__}; choose another defence"
        )
    result = search(ensemble, x, threat.prices, model.space, threshold=model.threshold, budget=threat.money, first=first)
    evaded = np.isfinite(result.cost) & (result.cost <= threat.money * (1 + 1e-9) + 1e-9)
    return Evasions(evaded=evaded, proven=(result.status == "safe"), witness=result.witness)


def imitating(x: Array, honest: Array, space: Space, threat: FeatureBudget, rng: Rng) -> Array:
    """Rows ``x`` ``(m, d)`` with some features as in honest rows drawn at random, where the money allows.

    Features that move both ways, by a matrix or for nothing are imitated; a row stays as it is where the sum is not possible.
    """
    if not len(x):
        return x
    up, down, _ = price_arrays(threat.prices, space)
    donors = honest[rng.integers(len(honest), size=len(x))]
    open_ = (np.isfinite(up) & np.isfinite(down)) | (up == 0) | (down == 0)
    open_ = open_ & np.isfinite(np.where(donors > x, up, down))
    open_[:, list(matrices(threat.prices, space))] = True
    moved = recompute(np.where(open_ & (rng.random(x.shape) < FREE), donors, x), space)
    return np.where(inside(moved, x, space, threat)[:, None], moved, x)


def spent(start: Array, x: Array, space: Space, threat: FeatureBudget, rng: Rng) -> Array:
    """Rows ``start`` ``(m, d)``, made of rows ``x``, after the attacker spent the rest of the money along one-way and moved features.

    The rest is split at random; a row stays as it is where none of the splits drawn is possible.
    """
    if not len(x):
        return start
    up, down, _ = price_arrays(threat.prices, space)
    lists = list(matrices(threat.prices, space))
    up[lists] = down[lists] = np.inf
    left = np.maximum(threat.money - cost(x, start, threat.prices, space), 0.0)
    way = np.where(start != x, np.sign(start - x), one_way(space, threat.prices)[None, :])
    rate = np.where(way > 0, up, np.where(way < 0, down, np.inf))
    usable = np.isfinite(rate) & (rate > 0)
    rate, step = np.where(usable, rate, 1.0), np.broadcast_to(space.step, x.shape)
    bounds = np.minimum(space.lower, start), np.maximum(space.upper, start)
    out, waiting = start.copy(), np.ones(len(x), bool)
    for _ in range(DRAWS):
        share = rng.exponential(1.0, x.shape) * usable * ((start != x) | (rng.random(x.shape) < FREE))
        move = left[:, None] * share / np.maximum(share.sum(1, keepdims=True), 1e-12) / rate
        move = np.where(step > 0, np.floor(move / np.where(step > 0, step, 1.0)) * step, move)
        moved = recompute(np.clip(start + way * move, *bounds), space)
        good = waiting & inside(moved, x, space, threat)
        out[good], waiting = moved[good], waiting & ~good
    return out


def natural_signs(data: Dataset, way: Array) -> Array:
    """``(d,)``: how class 1 depends on the features that move one way only: -1 where attackers raise and frauds lie low, +1 the other way round.

    Where the frauds already lie on the side that the attacker moves to, nothing is bound (0).
    """
    signs = np.zeros(len(way), int)
    for f in np.flatnonzero(way):
        frauds, honest = data.x[data.y == 1, f], np.sort(data.x[data.y == 0, f])
        above = (np.searchsorted(honest, frauds, "left") + np.searchsorted(honest, frauds, "right")) / (2 * len(honest))
        if (above.mean() < 0.5) == (way[f] > 0):
            signs[f] = -way[f]
    return signs


def cheap_columns(data: Dataset, threat: FeatureBudget, share: float) -> tuple[int, ...]:
    """The columns that most frauds can give an ordinary value for at most this share of the budget.

    Ordinary is the median of the honest rows, or their most frequent value where moves are priced by a matrix.
    """
    honest, frauds = data.x[data.y == 0], data.x[data.y == 1]
    ordinary = np.median(honest, axis=0)
    for f in matrices(threat.prices, data.space):
        values, counts = np.unique(honest[:, f], return_counts=True)
        ordinary[f] = values[counts.argmax()]
    chosen = []
    for name, price in threat.prices.prices.items():
        f = data.space.index(name)
        moved = frauds.copy()
        moved[:, f] = ordinary[f]
        paid = cost(frauds, moved, PriceTable(prices={name: price}), replace(data.space, relations=()))
        if np.median(paid) <= share * threat.money:
            chosen.append(f)
    return tuple(sorted(chosen))
