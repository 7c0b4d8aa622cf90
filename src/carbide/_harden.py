"""The verb harden: try the defences of each threat within what the user will give up, and keep the best on validation.

Threats are taken in the order asked. For each, every applicable defence at every strength is trained, its clean
performance and what attackers still reach are measured on validation rows, and the best within the allowed loss is kept
as the recipe that the next threat's defences wrap. The final audit uses other rows and another seed.

Against membership every candidate is a point of a front: what attackers tell from models that the whole candidate trained on
halves of the train and validation rows, against what those models are worth on the rows left out, beside the recipe as it is
on the same halves. The final audit has other halves, targets and draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from carbide import registry
from carbide._audit import Ask, audit_case, choose
from carbide.models.latency import latency
from carbide.models.operating import calibrated
from carbide.registry import Method
from carbide.results import Measure, Option
from carbide.run import current, remember
from carbide.stats.performance import performance
from carbide.types import Case, Dataset, Finding, InputError, Membership, Model, Recipe, Rng, Section, Skip, Splits, rng_for

AS_IT_IS = "as it is"
CHANCE = 0.01  # of a true-positive rate at 1% false positives: below it there is nothing to tell, only luck
CHOICE = 7919  # added to the seed where options are measured to choose among them


@dataclass(frozen=True, kw_only=True, eq=False)
class Wrapped:
    """A recipe whose trained model is wrapped by a defence of the form ``(model, dataset, rng) -> model``."""

    inner: Recipe
    wrapper: Any

    def fit(self, dataset: Dataset, rng: Rng) -> Model:
        """The inner recipe's model, wrapped."""
        return self.wrapper(self.inner.fit(dataset, rng), dataset, rng)

    def describe(self) -> dict[str, Any]:
        """The inner recipe and the wrapper with its options."""
        return {"recipe": "wrapped", "inner": self.inner.describe(), "wrapper": type(self.wrapper).__name__, "options": repr(self.wrapper)}


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the user will give up: ``accuracy_loss`` of the clean metric (a share), ``latency_factor`` (None = any)."""

    accuracy_loss: float = 0.02
    latency_factor: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.accuracy_loss <= 1:
            raise InputError(f"accuracy_loss is {self.accuracy_loss}; give a share in [0, 1], e.g. 0.02")
        if self.latency_factor is not None and not self.latency_factor >= 1:
            raise InputError(f"latency_factor is {self.latency_factor}; give a factor >= 1, e.g. 1.5")


@dataclass(frozen=True, kw_only=True, eq=False)
class Hardened:
    """The recipe and model that hardening ends with, every option that was tried, and what could not be tried."""

    recipe: Recipe
    model: Model
    options: tuple[Option, ...]
    skipped: tuple[Skip, ...]
    changed: bool
    trained: bool  # as in Case
    data: Splits  # the parts as far as the model has seen them
    training: str = ""  # the stored step that trained the model, for its seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    name: str
    method: Method | None
    recipe: Recipe
    model: Model | None
    clean: float
    danger: Finding | None
    training: str = ""
    slow: bool = False  # slower than the budget allows
    kept: Measure | None = None  # on a front: what the models trained on halves are worth on rows left out
    lost: Measure | None = None  # and how much less that is than as it is, row by row


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """A defence at one strength, and the recipe that it makes."""

    name: str
    method: Method | None
    recipe: Recipe

    def words(self) -> str:
        """The defence and its settings."""
        return f"{self.name} {_settings(self.method) or ''}".rstrip()


def clean_metric(case: Case, model: Model) -> tuple[str, float]:
    """Name and value of the clean performance on validation rows: recall at the operating point, else accuracy."""
    rows = case.data.validation
    result = performance(rows.y, model.predict(rows.x), model.threshold)
    return ("recall", result.recall) if case.operating_point else ("accuracy", result.accuracy)


def fit(recipe: Recipe, case: Case, name: str) -> Model:
    """The model that a recipe gives on the training rows, at the case's operating point; stored by what decides it."""
    train = case.data.train
    model = remember(f"train {name}", (recipe.describe(), train, case.seed), lambda: recipe.fit(train, rng_for(case.seed, "train")))
    return calibrated(model, case.data.validation, case.operating_point)


def harden_case(case: Case, asks: Sequence[Ask], budget: Budget) -> Hardened:
    """The best recipe within the budget against all the threats asked about, in their order.

    Raises:
        InputError: if the case has no recipe.
    """
    if case.recipe is None:
        raise InputError("the plan has no recipe, so nothing can be trained again; add recipe: {estimator: ...} or recipe: {torch: ...}")
    recipe, model, data, training = case.recipe, case.model, case.data, ""
    options: list[Option] = []
    skipped: list[Skip] = []
    floor = clean_metric(case, case.model)[1] - budget.accuracy_loss
    for ask in asks:
        here = replace(case, recipe=recipe, model=model, data=data)
        candidates, missing = _candidates(here, ask, budget)
        candidates = _with_lighter(here, ask, _timed(candidates, case, budget), budget)
        skipped += missing
        best, ready, refused = _trained_best(here, ask, candidates, floor)
        skipped += refused
        options += [_option(here, ask, ready if c is best else c, chosen=c is best) for c in candidates]
        best = ready
        recipe, model, data, training = best.recipe, best.model, _shown(here, best), best.training or training
    changed = recipe is not case.recipe
    assert model is not None
    return Hardened(recipe=recipe, model=model, options=tuple(options), skipped=tuple(skipped), changed=changed,
                    trained=not isinstance(recipe, Wrapped) if changed else case.trained, data=data, training=training)  # fmt: skip


def _candidates(case: Case, ask: Ask, budget: Budget) -> tuple[list[_Candidate], list[Skip]]:
    assert case.recipe is not None
    methods, skipped = choose(case, ask, "harden", ask.defend)
    as_it_is = _Trial(name=AS_IT_IS, method=None, recipe=case.recipe)
    if not methods:  # nothing to choose among, so nothing is measured to choose by
        return [
            _Candidate(name=AS_IT_IS, method=None, recipe=case.recipe, model=case.model, clean=clean_metric(case, case.model)[1], danger=None)
        ], skipped
    if isinstance(ask.threat, Membership):
        found, more = _on_the_front(case, ask, methods, budget)
        return found, [*skipped, *more]
    found = [_measure(case, ask, as_it_is)]
    for name, method in methods.items():
        for strength in method.strengths():
            try:
                found.append(_measure(case, ask, _trial(case, ask, name, strength)))
            except InputError as error:
                skipped.append(Skip(method=name, threat=ask.words(), reason=str(error)))
                break
    return found, skipped


def _trial(case: Case, ask: Ask, name: str, strength: Any) -> _Trial:
    assert case.recipe is not None
    wraps = registry.method(ask.threat.room, "harden", name).form == "model"
    recipe = Wrapped(inner=case.recipe, wrapper=strength) if wraps else strength(_given(case, strength), ask.threat)
    return _Trial(name=name, method=strength, recipe=recipe)


def _on_the_front(case: Case, ask: Ask, methods: dict[str, Method], budget: Budget) -> tuple[list[_Candidate], list[Skip]]:
    """Every defence at every strength as a point of a front; only what is chosen is trained on all rows."""
    from carbide.privacy.front import explore, least_shadows

    trials: list[_Trial] = []
    skips: dict[str, str] = {}
    for name, method in methods.items():
        for strength in method.strengths():
            try:
                trials.append(_trial(case, ask, name, strength))
            except InputError as error:
                skips.setdefault(name, str(error))
    pool = case.data.train.joined(case.data.validation)
    by_words = {trial.words(): trial for trial in trials}
    assert case.recipe is not None
    front = explore(case.recipe, pool, {words: t.recipe for words, t in by_words.items()}, accuracy_loss=budget.accuracy_loss, seed=case.seed + CHOICE,
                    shadows=least_shadows(len(pool)), point=case.operating_point)  # fmt: skip
    for words, reason in front.skipped.items():
        skips.setdefault(by_words[words].name, reason)
    points = {point.leak.name: point for point in front.points}
    by_words = {AS_IT_IS: _Trial(name=AS_IT_IS, method=None, recipe=case.recipe), **by_words}
    found = [_point(case, ask, trial, points[words]) for words, trial in by_words.items() if words in points]
    return found, [Skip(method=name, threat=ask.words(), reason=reason) for name, reason in skips.items()]


def _point(case: Case, ask: Ask, trial: _Trial, point: Any) -> _Candidate:
    """A point of a front as a candidate: what it would keep of the model's clean performance is that less what the point lost."""
    metric, now = clean_metric(case, case.model)
    leak, rows = point.leak, int(point.leak.counted.any(0).sum())
    danger = Finding(metric="membership TPR at 1% FPR", value=leak.tpr, low=leak.interval.low, high=leak.interval.high, n=leak.right.shape[1],
                     method=leak.attack, threat=ask.words(), access="scores", seed=case.seed + CHOICE, good=-1)  # fmt: skip
    kept = Measure(metric=metric, value=leak.accuracy, n=rows)
    lost = Measure(metric=f"{metric} lost", value=point.lost, low=point.lost_interval.low, high=point.lost_interval.high, n=rows, good=-1)
    return _Candidate(name=trial.name, method=trial.method, recipe=trial.recipe, model=case.model if trial.method is None else None, clean=now - point.lost,
                      danger=danger, kept=kept, lost=lost)  # fmt: skip


def _given(case: Case, method: Method) -> Recipe:
    """The case's recipe, with the weights of its model where a defence goes on from them."""
    assert case.recipe is not None
    starting: Any = getattr(case.recipe, "starting_from", None)
    return starting(case.model) if starting is not None and getattr(method, "start", "") == "weights" else case.recipe


def _trained_best(case: Case, ask: Ask, candidates: list[_Candidate], floor: float) -> tuple[_Candidate, _Candidate, list[Skip]]:
    """The best candidate, the same with its model, and those before it that refused all rows though not halves of them."""
    refused: list[Skip] = []
    while True:
        best = _best(candidates, floor)
        try:
            return best, _ready(case, best), refused
        except InputError as error:
            refused.append(Skip(method=best.name, threat=ask.words(), reason=str(error)))
            candidates.remove(best)


def _ready(case: Case, candidate: _Candidate) -> _Candidate:
    """The candidate with its model, trained now where that was not needed before."""
    if candidate.model is not None:
        return candidate
    model, training = _trained(case, _Trial(name=candidate.name, method=candidate.method, recipe=candidate.recipe))
    return replace(candidate, model=model, training=training)


def _trained(case: Case, trial: _Trial) -> tuple[Model, str]:
    """The trial's model on all training rows and the stored step that trained it."""
    if trial.method is None:
        return case.model, ""
    method: Any = trial.method
    if isinstance(trial.recipe, Wrapped):  # the model inside is trained already
        train = case.data.train
        wrapped = remember(
            f"train {trial.name}", (case.model, method, train, case.seed), lambda: method(case.model, train, rng_for(case.seed, "wrap"))
        )
        model = calibrated(wrapped, case.data.validation, case.operating_point)
    else:
        model = fit(trial.recipe, case, trial.name)
    return model, current().store.touched(f"train {trial.name}")[-1]


def _shown(case: Case, trial: _Trial | _Candidate) -> Splits:
    """The parts as far as the trial's model has seen them: train alone where it was trained anew, else what the model that it goes on from saw."""
    goes_on = trial.method is None or isinstance(trial.recipe, Wrapped) or getattr(trial.method, "start", "") == "weights"
    return case.data if goes_on else case.data.taught()


def _measure(case: Case, ask: Ask, trial: _Trial) -> _Candidate:
    current().progress.say(f"harden against {ask.words()}: {trial.words()}")
    model, training = _trained(case, trial)
    data = _shown(case, trial)
    fresh = data.seen is not None and not data.saw("validation").any()
    there = replace(case, model=model, recipe=trial.recipe, seed=case.seed + CHOICE, trained=False,
                    data=Splits(train=data.train, validation=data.validation, test=data.validation, seen={} if fresh else None))  # fmt: skip
    section: Section = audit_case(there, [ask], quick=True)[0]
    return _Candidate(name=trial.name, method=trial.method, recipe=trial.recipe, model=model, clean=clean_metric(case, model)[1], danger=section.headline(),
                      training=training)  # fmt: skip


def _timed(candidates: list[_Candidate], case: Case, budget: Budget) -> list[_Candidate]:
    """The candidates with what is slower than the budget allows marked; nothing is timed unless the user sets a factor."""
    if budget.latency_factor is None:
        return candidates
    rows = case.data.validation.x
    allowed = budget.latency_factor * latency(case.model, rows).p50
    ready = [candidates[0], *(_ready(case, c) for c in candidates[1:])]
    return [ready[0], *(replace(c, slow=latency(c.model, rows).p50 > allowed) for c in ready[1:])]  # type: ignore[arg-type]


def _with_lighter(case: Case, ask: Ask, candidates: list[_Candidate], budget: Budget) -> list[_Candidate]:
    """The candidates, and for those that are too slow their lighter variants, measured in the same way."""
    lighter = [(c, c.method.lighter()) for c in candidates if c.slow and c.method is not None]
    found = [_measure(case, ask, _trial(case, ask, c.name, method)) for c, method in lighter if method is not None]
    return candidates if not found else [*candidates, *_timed([candidates[0], *found], case, budget)[1:]]


def _best(candidates: list[_Candidate], floor: float) -> _Candidate:
    """The safest candidate within the budget; the first one (as it is) unless another is truly safer."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.danger is None or candidate.slow or candidate.clean < floor - 1e-12:
            continue
        if best.danger is None or _safety(candidate) > _safety(best) + 1e-12 or _cheaper(candidate, best):
            best = candidate
    return best


def _cheaper(candidate: _Candidate, best: _Candidate) -> bool:
    """Whether two points of a front are equally safe and the candidate keeps more; what is as it is stays where nothing is safer."""
    if candidate.lost is None or best.lost is None or best.method is None:
        return False
    return abs(_safety(candidate) - _safety(best)) <= 1e-12 and candidate.lost.value < best.lost.value - 1e-12


def _safety(candidate: _Candidate) -> float:
    assert candidate.danger is not None
    value = candidate.danger.value * (1 if candidate.danger.good >= 0 else -1)
    if candidate.lost is not None:
        value = min(value, -CHANCE)
    return -math.inf if math.isnan(value) else value


def _settings(method: Method | None, recipe: Recipe | None = None) -> dict[str, Any]:
    """The method's settings; those that it left open are as the recipe has filled them in."""
    said = {} if method is None else {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]
    filled = {} if recipe is None or None not in said.values() else recipe.describe()
    return {name: filled.get(name) if value is None else value for name, value in said.items()}


def _option(case: Case, ask: Ask, candidate: _Candidate, *, chosen: bool) -> Option:
    privacy = getattr(candidate.model if candidate.model is not None else candidate.recipe, "privacy", None)
    notes = [f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"] if privacy is not None else []
    notes += ["slower than the plan allows"] if candidate.slow else []
    danger = candidate.danger
    harm = Measure(metric=danger.metric, value=danger.value, low=danger.low, high=danger.high, n=danger.n, good=danger.good) if danger else \
        Measure(metric="not measured", value=math.nan)  # fmt: skip
    baseline = candidate.method is None or getattr(candidate.method, "baseline", False)
    return Option(name=candidate.name, method=candidate.name, clean=candidate.kept or _clean(case, candidate), danger=harm, lost=candidate.lost,
                  settings=_settings(candidate.method, candidate.recipe), chosen=chosen, note="; ".join(notes), kind="baseline" if baseline else "candidate", threat=ask.words())  # fmt: skip


def _clean(case: Case, candidate: _Candidate) -> Measure:
    assert candidate.model is not None
    metric, _ = clean_metric(case, candidate.model)
    n = int((case.data.validation.y == 1).sum()) if case.operating_point else len(case.data.validation)
    return Measure(metric=metric, value=candidate.clean, n=n)
