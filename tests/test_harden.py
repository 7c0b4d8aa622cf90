"""Choosing among defences: the safest within what the user will give up, on made-up candidates and on a small real case."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from carbide import _harden
from carbide._audit import Ask
from carbide._harden import Budget, Wrapped, _best, _Candidate, harden_case
from carbide.data.live import splits_of
from carbide.models import pack, unpack
from carbide.models.estimators import EstimatorRecipe
from carbide.pipeline import Job, execute
from carbide.poisoning import judge
from carbide.poisoning.audit.label_flips import LabelFlips
from carbide.privacy import shadows
from carbide.privacy.harden.leaf_size import LeafSize
from carbide.results import Latency, Measure
from carbide.run import Run, Store, use
from carbide.types import Case, Finding, Flips, InputError, Membership, Queries, Section, Splits, rng_for


def data():
    splits = splits_of(load_breast_cancer(return_X_y=True), space=None, seed=0)
    declared = replace(splits.train.space, from_rows=False)
    return Splits(**{part: replace(getattr(splits, part), space=declared) for part in ("train", "validation", "test")})


def case_of(estimator, **changes) -> Case:
    splits, recipe = data(), EstimatorRecipe(estimator=estimator)
    model = recipe.fit(splits.train, rng_for(0, "train"))
    return replace(Case(model=model, data=splits, recipe=recipe), **changes)


def candidate(name, clean, value, *, good=1, slow=False, known=True):
    danger = Finding(metric="m", value=value, low=0, high=1, n=9, method="a", threat="t", access="l", seed=0, good=good) if known else None
    return _Candidate(name=name, method=None, recipe=None, model=None, clean=clean, danger=danger, slow=slow)


@pytest.mark.parametrize("good", [1, -1])
def test_the_safest_within_the_loss_is_chosen_in_any_order(good):
    pool = [candidate("safe", 0.95, good * 0.8, good=good), candidate("safer, too dear", 0.9, good * 0.9, good=good), candidate("weak", 0.97, good * 0.5, good=good),
            candidate("slow", 0.97, good * 0.99, good=good, slow=True), candidate("not measured", 0.99, 0, known=False)]  # fmt: skip
    plain = candidate("as it is", 0.96, good * 0.1, good=good)
    for order in itertools.permutations(pool):
        assert _best([plain, *order], 0.94).name == "safe"
    assert _best([plain, *pool], 0.99).name == "as it is"
    assert _best([plain, candidate("equal", 0.99, good * 0.1, good=good)], 0.5).name == "as it is"
    assert _best([plain, candidate("broken", 0.99, float("nan"), good=good)], 0.5).name == "as it is"


def test_what_is_slower_than_the_user_allows_is_not_chosen(monkeypatch):
    case = case_of(DecisionTreeClassifier(max_depth=3))
    ask = Ask(threat=Flips(fraction=0.2), defend={"partition_vote": {}})

    def fake(trial, asks, *, quick):
        value = 0.1 if trial.model.digest() == case.model.digest() else 0.9
        finding = Finding(metric="m", value=value, low=0, high=1, n=9, method="a", threat="t", access="l", seed=0, headline=True)
        return (Section(threat="t", room="poisoning", findings=(finding,)),)

    monkeypatch.setattr(_harden, "audit_case", fake)
    assert harden_case(case, (ask,), Budget(accuracy_loss=1.0)).changed
    monkeypatch.setattr(_harden, "latency", lambda model, x: Latency(p50=1.0 if model.digest() == case.model.digest() else 2.5, p99=9.0))
    tight = harden_case(case, (ask,), Budget(accuracy_loss=1.0, latency_factor=2.0))
    assert not tight.changed
    assert tight.model is case.model
    assert {o.note for o in tight.options if o.kind == "candidate"} == {"slower than the plan allows"}
    assert harden_case(case, (ask,), Budget(accuracy_loss=1.0, latency_factor=3.0)).changed


def test_where_a_defence_is_too_slow_its_lighter_variant_is_tried(monkeypatch):
    from carbide.evasion.harden.retraining import Retraining
    from carbide.types import FeatureBudget, Price, PriceTable

    case = case_of(DecisionTreeClassifier(max_depth=3))
    made: list[int | None] = []

    class Marked:
        """A recipe whose model says how many bags it has."""

        def __init__(self, bags):
            self.bags = bags

        def describe(self):
            return {"bags": self.bags}

        def fit(self, dataset, rng):
            made.append(self.bags)
            return replace(case.model, threshold=0.5 + 0.01 * (self.bags or 8))

    def fake(trial, asks, *, quick):
        finding = Finding(metric="m", value=trial.model.threshold, low=0, high=1, n=9, method="a", threat="t", access="l", seed=0, headline=True)
        return (Section(threat="t", room="evasion", findings=(finding,)),)

    monkeypatch.setattr(Retraining, "__call__", lambda self, recipe, threat: Marked(self.bags))
    monkeypatch.setattr(_harden, "audit_case", fake)
    monkeypatch.setattr(_harden, "latency", lambda model, x: Latency(p50=1.0 + 20 * (model.threshold - 0.5), p99=9.0))  # 8 bags: 2.6, one: 1.2
    threat = FeatureBudget(money=1.0, prices=PriceTable(prices={case.model.space.names[0]: Price(up=1.0)}))
    for factor, wanted, tried in ((None, None, [None]), (2.0, 1, [None, 1]), (1.1, "as it is", [None, 1])):
        made.clear()
        found = harden_case(case, (Ask(threat=threat, defend={"retraining": {}}),), Budget(accuracy_loss=1.0, latency_factor=factor))
        chosen = next(o for o in found.options if o.chosen)
        assert made == tried
        assert (chosen.name if wanted == "as it is" else chosen.settings["bags"]) == wanted
    made.clear()
    harden_case(case, (Ask(threat=threat, defend={"retraining": {"bags": 4}}),), Budget(accuracy_loss=1.0, latency_factor=1.1))
    assert made == [4]  # what was asked for has no lighter variant


def test_without_a_factor_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(_harden, "latency", lambda *_: pytest.fail("it was timed"))
    case = case_of(DecisionTreeClassifier(max_depth=3))
    assert harden_case(case, (Ask(threat=Flips(fraction=0.2), defend={"partition_vote": {}}),), Budget()).options


def test_a_threat_without_defences_is_left_alone_and_costs_nothing(monkeypatch):
    monkeypatch.setattr(_harden, "audit_case", lambda *_, **__: pytest.fail("it was audited"))
    hardened = harden_case(case_of(LogisticRegression(max_iter=2000)), (Ask(threat=Queries(n=20), defend={}),), Budget())
    assert not hardened.changed
    assert [(o.name, o.chosen, o.danger.metric) for o in hardened.options] == [("as it is", True, "not measured")]


def test_no_recipe_no_hardening():
    with pytest.raises(InputError, match="has no recipe"):
        harden_case(case_of(LogisticRegression(max_iter=2000), recipe=None), (Ask(threat=Queries(n=20)),), Budget())


@pytest.mark.parametrize("wrong", [{"accuracy_loss": -0.1}, {"accuracy_loss": 1.5}, {"latency_factor": 0.5}])
def test_a_budget_is_a_share_and_a_factor(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} is {next(iter(wrong.values()))}"):
        Budget(**wrong)


@dataclass(frozen=True, kw_only=True, eq=False)
class Counting:
    """A recipe that counts its trainings."""

    inner: EstimatorRecipe
    calls: list

    def fit(self, dataset, rng):
        self.calls.append(len(dataset))
        return self.inner.fit(dataset, rng)

    def describe(self):
        return self.inner.describe()


def test_the_model_under_test_is_the_clean_side_of_poisoning_when_the_recipe_trained_it():
    case = case_of(DecisionTreeClassifier(max_depth=3))
    sections = {}
    for trained in (False, True):
        recipe = Counting(inner=case.recipe, calls=[])
        sections[trained] = judge.audit(replace(case, recipe=recipe, trained=trained), Flips(fraction=0.1), {"flips": LabelFlips(choice="random")})
        assert len(recipe.calls) == (1 if trained else 2)
    assert sections[True].findings == sections[False].findings


def test_a_model_that_is_given_is_not_taken_for_the_recipe_s_own():
    """The clean side is the recipe's model on clean rows, not a given model that may have been trained otherwise."""
    splits, recipe = data(), EstimatorRecipe(estimator=DecisionTreeClassifier(max_depth=3))
    noise = rng_for(0, "noise").random(len(splits.train)) < 0.3
    stranger = recipe.fit(splits.train.with_(y=np.where(noise, 1 - splits.train.y, splits.train.y)), rng_for(0, "train"))
    ask = (Ask(threat=Flips(fraction=0.05), methods={"label_flips": {}}),)
    job = Job(title="t", data=splits, asks=ask, model=stranger, recipe=recipe)
    section = execute(job, quiet=True).results.plain.sections[0]
    own = execute(replace(job, model=None), quiet=True).results.plain.sections[0]
    assert section.headline().value == own.headline().value
    assert section.headline().note == own.headline().note


def test_a_wrapped_model_is_not_taken_for_the_recipe_s_own():
    case = case_of(LogisticRegression(max_iter=2000), trained=True)
    hardened = harden_case(case, (Ask(threat=Queries(n=60), methods={"knockoff": {}}),), Budget(accuracy_loss=0.5))
    assert hardened.trained == (not isinstance(hardened.recipe, Wrapped))
    np.testing.assert_array_equal(hardened.model.predict(case.data.test.x).shape, (len(case.data.test), 2))


def membership(estimator, loss):
    case = case_of(estimator)
    ask = Ask(threat=Membership(), defend={"leaf_size": {}, "coarse_answers": {"levels": 1}, "early_stopping": {}})
    return case, harden_case(case, (ask,), Budget(accuracy_loss=loss))


def test_against_membership_the_choice_is_a_point_of_the_front():
    case, hardened = membership(DecisionTreeClassifier(), 0.02)
    plain, *others = hardened.options
    assert (plain.name, plain.lost.value, plain.clean.n) == ("as it is", 0.0, len(case.data.train) + len(case.data.validation))
    assert {o.name for o in others} == {"leaf_size", "coarse_answers"}
    assert [s.method for s in hardened.skipped] == ["early_stopping"]
    chosen = next(o for o in hardened.options if o.chosen)
    fits = [o for o in others if o.lost.value <= 0.02]
    assert chosen.danger.value == min(o.danger.value for o in fits)
    assert all(o.lost.value == pytest.approx(plain.clean.value - o.clean.value, abs=1e-9) for o in others)
    assert all(o.lost.low <= o.lost.value <= o.lost.high for o in others)
    assert hardened.recipe.describe() != case.recipe.describe()
    again = LeafSize(**chosen.settings)(case.recipe, Membership()).fit(case.data.train, rng_for(0, "train"))
    np.testing.assert_array_equal(hardened.model.predict(case.data.test.x), again.predict(case.data.test.x))  # trained on all rows, not on a half


def test_the_front_is_measured_on_other_halves_and_rows_than_the_final_audit(monkeypatch):
    drawn = []

    def spy(recipe, pool, count, seed, **more):
        drawn.append((seed, {row.tobytes() for row in pool.x}))
        return train(recipe, pool, count, seed, **more)

    train = shadows.train_shadows
    monkeypatch.setattr("carbide.privacy.front.train_shadows", spy)
    case, _ = membership(DecisionTreeClassifier(max_depth=2), 0.02)
    held = {row.tobytes() for row in case.data.test.x} - {row.tobytes() for row in case.data.train.x}
    assert drawn
    assert all(seed != case.seed and not rows & held for seed, rows in drawn)


def test_where_nothing_fits_the_budget_it_says_so_with_the_price_of_what_would():
    splits = data()
    recipe = EstimatorRecipe(estimator=make_pipeline(StandardScaler(), LogisticRegression()))
    job = Job(title="t", data=splits, recipe=recipe, budget=Budget(accuracy_loss=0.0),
              asks=(Ask(threat=Membership(), methods={"loss_threshold": {}}, defend={"private_logistic": {}}),))  # fmt: skip
    results = execute(job, verbs=("audit", "harden"), quiet=True).results
    assert [o.chosen for o in results.options] == [True] + [False] * (len(results.options) - 1)
    warning = next(w for w in results.warnings if "no defence within" in w)
    least = min(results.options, key=lambda o: o.danger.value)
    assert f"{least.danger.value:.1%} instead of {results.options[0].danger.value:.1%}" in warning
    assert f"costs {100 * least.lost.value:.1f} points of accuracy" in warning


def test_among_points_at_chance_the_one_that_keeps_most_is_chosen():
    def point(name, lost, value, method=None):
        measure = Measure(metric="accuracy lost", value=lost)
        return replace(candidate(name, 1 - lost, value, good=-1), lost=measure, method=method)

    plain, dear, cheap = point("as it is", 0.0, 0.3), point("dear", 0.01, 0.004, LabelFlips()), point("cheap", 0.0, 0.009, LabelFlips())
    assert _best([plain, dear, cheap], 0.9).name == _best([plain, cheap, dear], 0.9).name == "cheap"
    assert _best([point("as it is", 0.0, 0.008), cheap], 0.9).name == "as it is"


def test_a_killed_front_goes_on_where_it_was(tmp_path):
    store = lambda: Run(store=Store(tmp_path, pack=pack, unpack=unpack))  # noqa: E731
    with use(store()):
        whole = membership(DecisionTreeClassifier(), 0.02)[1]
    files = sorted(f.name for f in (tmp_path / "steps").iterdir())
    assert sum(f.startswith("shadow-models") for f in files) == len(whole.options)
    gone = next(f for f in files if f.startswith("shadow-models"))
    (tmp_path / "steps" / gone).unlink()
    with use(store()) as run:
        again = membership(DecisionTreeClassifier(), 0.02)[1]
    assert [(o.danger, o.lost, o.chosen) for o in again.options] == [(o.danger, o.lost, o.chosen) for o in whole.options]
    assert [line["file"] for line in run.store.timings()].count(gone) == 2
    assert len(run.store.timings()) == len(files) + 1
