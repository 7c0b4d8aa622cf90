"""The verb harden: try the defences of each threat within what the user will give up, and keep the best on validation.

Threats are taken in the order asked. For each, every applicable defence at every strength is trained, its clean
performance and what attackers still reach are measured on validation rows, and the best within the allowed loss is kept
as the recipe that the next threat's defences wrap. The final audit uses other rows and another seed.
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
from carbide.types import Case, Dataset, Finding, InputError, Model, Recipe, Rng, Section, Skip, Splits, rng_for

AS_IT_IS = "as it is"


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
    training: str = ""  # the stored step that trained the model, for its seconds


@dataclass(frozen=True, kw_only=True, eq=False)
class _Candidate:
    name: str
    method: Method | None
    recipe: Recipe
    model: Model
    clean: float
    danger: Finding | None
    training: str = ""
    slow: bool = False  # slower than the budget allows


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
    recipe, model, training = case.recipe, case.model, ""
    options: list[Option] = []
    skipped: list[Skip] = []
    floor = clean_metric(case, case.model)[1] - budget.accuracy_loss
    for ask in asks:
        here = replace(case, recipe=recipe, model=model)
        candidates, missing = _candidates(here, ask)
        candidates = _timed(candidates, case, budget)
        skipped += missing
        best = _best(candidates, floor)
        options += [_option(here, ask, c, chosen=c is best) for c in candidates]
        recipe, model, training = best.recipe, best.model, best.training or training
    changed = recipe is not case.recipe
    return Hardened(recipe=recipe, model=model, options=tuple(options), skipped=tuple(skipped), changed=changed,
                    trained=not isinstance(recipe, Wrapped) if changed else case.trained, training=training)  # fmt: skip


def _candidates(case: Case, ask: Ask) -> tuple[list[_Candidate], list[Skip]]:
    assert case.recipe is not None
    methods, skipped = choose(case, ask, "harden", ask.defend)
    if not methods:  # nothing to choose among, so nothing is measured to choose by
        return [
            _Candidate(name=AS_IT_IS, method=None, recipe=case.recipe, model=case.model, clean=clean_metric(case, case.model)[1], danger=None)
        ], skipped
    found = [_measure(case, ask, AS_IT_IS, None, case.recipe)]
    for name, method in methods.items():
        form = registry.method(ask.threat.room, "harden", name).form
        for strength in method.strengths():
            try:
                recipe = Wrapped(inner=case.recipe, wrapper=strength) if form == "model" else strength(_given(case, strength), ask.threat)
                found.append(_measure(case, ask, name, strength, recipe))
            except InputError as error:
                skipped.append(Skip(method=name, threat=ask.words(), reason=str(error)))
                break
    return found, skipped


def _given(case: Case, method: Method) -> Recipe:
    """The case's recipe, with the weights of its model where a defence goes on from them."""
    assert case.recipe is not None
    starting: Any = getattr(case.recipe, "starting_from", None)
    return starting(case.model) if starting is not None and getattr(method, "start", "") == "weights" else case.recipe


def _measure(case: Case, ask: Ask, name: str, method: Method | None, recipe: Recipe) -> _Candidate:
    current().progress.say(f"harden against {ask.words()}: {name} {_settings(method) or ''}".rstrip())
    if method is None:
        model = case.model
    elif isinstance(recipe, Wrapped):  # the model inside is trained already
        train = case.data.train
        wrapped = remember(f"train {name}", (case.model, method, train, case.seed), lambda: method(case.model, train, rng_for(case.seed, "wrap")))
        model = calibrated(wrapped, case.data.validation, case.operating_point)
    else:
        model = fit(recipe, case, name)
    training = current().store.touched(f"train {name}")[-1] if method is not None else ""
    trial = replace(case, model=model, recipe=recipe, seed=case.seed + 7919, trained=False,
                    data=Splits(train=case.data.train, validation=case.data.validation, test=case.data.validation))  # fmt: skip
    section: Section = audit_case(trial, [ask], quick=True)[0]
    return _Candidate(
        name=name, method=method, recipe=recipe, model=model, clean=clean_metric(case, model)[1], danger=section.headline(), training=training
    )


def _timed(candidates: list[_Candidate], case: Case, budget: Budget) -> list[_Candidate]:
    """The candidates with what is slower than the budget allows marked; nothing is timed unless the user sets a factor."""
    if budget.latency_factor is None:
        return candidates
    rows = case.data.validation.x
    allowed = budget.latency_factor * latency(case.model, rows).p50
    return [candidates[0], *(replace(c, slow=latency(c.model, rows).p50 > allowed) for c in candidates[1:])]


def _best(candidates: list[_Candidate], floor: float) -> _Candidate:
    """The safest candidate within the budget; the first one (as it is) unless another is truly safer."""
    best = candidates[0]
    for candidate in candidates[1:]:
        if candidate.danger is None or candidate.slow or candidate.clean < floor - 1e-12:
            continue
        if best.danger is None or _safety(candidate) > _safety(best) + 1e-12:
            best = candidate
    return best


def _safety(candidate: _Candidate) -> float:
    assert candidate.danger is not None
    value = candidate.danger.value * (1 if candidate.danger.good >= 0 else -1)
    return -math.inf if math.isnan(value) else value


def _settings(method: Method | None) -> dict[str, Any]:
    return {} if method is None else {f.name: getattr(method, f.name) for f in fields(method)}  # type: ignore[arg-type]


def _option(case: Case, ask: Ask, candidate: _Candidate, *, chosen: bool) -> Option:
    privacy = getattr(candidate.model, "privacy", None)
    notes = [f"epsilon {privacy.epsilon:g} at delta {privacy.delta:g}"] if privacy is not None else []
    notes += ["slower than the plan allows"] if candidate.slow else []
    metric, _ = clean_metric(case, candidate.model)
    n = int((case.data.validation.y == 1).sum()) if case.operating_point else len(case.data.validation)
    danger = candidate.danger
    harm = Measure(metric=danger.metric, value=danger.value, low=danger.low, high=danger.high, n=danger.n, good=danger.good) if danger else \
        Measure(metric="not measured", value=math.nan)  # fmt: skip
    baseline = candidate.method is None or getattr(candidate.method, "baseline", False)
    return Option(name=candidate.name, method=candidate.name, clean=Measure(metric=metric, value=candidate.clean, n=n), danger=harm,
                  settings=_settings(candidate.method), chosen=chosen, note="; ".join(notes), kind="baseline" if baseline else "candidate", threat=ask.words())  # fmt: skip
