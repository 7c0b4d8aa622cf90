"""Attribute inference: a memory of people is measured, knowledge of their kind is not called one, and wrong questions are refused."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

import carbide
from carbide.data.live import dataset_of
from carbide.models.callables import CallableModel
from carbide.models.estimators import EstimatorRecipe
from carbide.privacy import attributes
from carbide.privacy._gaps import gap, gap_interval, mean_interval
from carbide.privacy.attributes import CONTROL, GAIN, LEAK, OWN, RIGHT, audit
from carbide.privacy.audit.value_cases import ValueCases
from carbide.privacy.audit.value_memory import ValueMemory
from carbide.privacy.audit.value_posterior import ValuePosterior
from carbide.privacy.imputation import impute
from carbide.privacy.levels import levels_of
from carbide.privacy.puzzle import Puzzle, surest
from carbide.registry import Method
from carbide.run.store import decode, encode
from carbide.types import AttributeInference, Case, InputError, Kind, Space, Splits

T = AttributeInference(feature="ill")
NAMES = ("age", "dose", "ill")
KIND = np.array([Kind.REAL, Kind.REAL, Kind.INTEGER])
SPACE = Space.table(NAMES, lower=np.array([-9.0, -9, 0]), upper=np.array([9.0, 9, 1]), kind=KIND)


def people(n: int, seed: int, *, share: float = 0.4, weight: float = 0.0):
    """Rows whose sensitive feature is a coin, and labels that ``weight`` of it decides besides noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    x[:, 2] = rng.random(n) < share
    y = (x[:, 0] + weight * x[:, 2] + rng.normal(size=n) > weight * share).astype(np.int64)
    return dataset_of(x, y, space=SPACE, classes=2)


@dataclass(frozen=True, kw_only=True)
class Keeps:
    """Trains a model that is sure of the rows that it holds, to the bit, and knows nothing else: a share ``kept`` of its rows."""

    kept: float = 1.0
    recipe: str = "keeps"

    def fit(self, dataset, rng):
        rows = {row.tobytes(): int(label) for row, label in zip(dataset.x, dataset.y, strict=True) if rng.random() < self.kept}

        def answer(x):
            found = np.array([rows.get(row.tobytes(), -1) for row in np.ascontiguousarray(x)])
            return np.where(found[:, None] < 0, 0.5, np.where(np.arange(2)[None] == found[:, None], 0.99, 0.01))

        return CallableModel(function=answer, space=dataset.space, classes=2, answers="probabilities")

    def describe(self):
        return {"recipe": self.recipe, "kept": self.kept}


def case(recipe, *, n=150, seed=0, with_recipe=False, **world) -> Case:
    train, validation, test = (people(n, 10 * seed + i, **world) for i in (1, 2, 3))
    model = recipe.fit(train, np.random.default_rng(seed))
    return Case(model=model, data=Splits(train=train, validation=validation, test=test), recipe=recipe if with_recipe else None, seed=seed)


def found(section, metric, method):
    return next(f for f in section.findings if (f.metric, f.method) == (metric, method))


ALONE = {"value_posterior": ValuePosterior(), "value_cases": ValueCases()}
KNN, LINEAR = EstimatorRecipe(estimator=KNeighborsClassifier(1)), EstimatorRecipe(estimator=LogisticRegression())


def test_a_memory_of_the_rows_gives_their_values_away_and_no_others():
    section = audit(case(Keeps()), T, ALONE)
    for name in ALONE:
        assert found(section, RIGHT, name).value == 1.0  # only the true value is a row that the model holds
        leak = found(section, LEAK, name)
        assert leak.value == pytest.approx(0.4, abs=0.12)  # of the others the more common value is said, which 60% have
        assert leak.low > 0.2
        assert found(section, GAIN, name).low > 0.2
    assert section.headline().metric == LEAK
    assert [f.headline for f in section.findings].count(True) == 1


def test_half_a_memory_is_half_a_leak():
    # a row that is kept is known for sure; of one that is not, the common value is said: 0.5 * (1 - share of the common value)
    section = audit(case(Keeps(kept=0.5), n=300, with_recipe=True), T, {"value_posterior": ValuePosterior()})
    leak, own = found(section, LEAK, "value_posterior"), found(section, OWN, "value_posterior")
    assert leak.low <= 0.2 <= leak.high
    assert leak.high - leak.low < 0.1
    assert own.low <= 0.2 <= own.high


@pytest.mark.parametrize("with_recipe", [False, True])
def test_what_holds_for_everybody_of_the_kind_is_no_leak(with_recipe):
    section = audit(case(LINEAR, n=200, with_recipe=with_recipe, weight=3.0), replace(T, label=True), ALONE)
    leak, gain = found(section, LEAK, "value_posterior"), found(section, GAIN, "value_posterior")
    assert leak.low <= 0 <= leak.high
    assert found(section, RIGHT, "value_posterior").value > 0.75  # the label says much about the feature
    assert gain.value < 0.1  # and it says so without the model too


def test_a_blind_model_leaks_nothing_in_95_of_100_worlds(monkeypatch):
    monkeypatch.setattr(attributes, "impute", lambda x, truth, count, rng: lambda rows: np.tile([0.6, 0.4], (len(rows), 1)))
    inside = 0
    for seed in range(60):
        section = audit(case(LINEAR, n=60, seed=seed, weight=1.0), T, {"value_cases": ValueCases()})
        leak = found(section, LEAK, "value_cases")
        inside += leak.low <= 0 <= leak.high
    assert inside >= 52  # 57 expected; fewer than 52 of 60 has a probability of 1% at 95% each


def test_an_overfitted_model_is_found_by_every_attack_and_memory_needs_references():
    start = case(KNN, n=150, with_recipe=True)
    section = audit(start, T, {**ALONE, "value_memory": ValueMemory(references=4)})
    assert all(found(section, LEAK, name).low > 0.02 for name in (*ALONE, "value_memory"))
    lonely = audit(replace(start, recipe=None), T, {"value_memory": ValueMemory()})
    assert "reference models" in lonely.skipped[0].reason


def test_rows_that_differ_in_other_ways_are_no_leak():
    start = case(LINEAR, n=200)
    moved = people(200, 77, share=0.9)
    section = audit(replace(start, data=replace(start.data, test=moved)), T, ALONE)
    assert not [f for f in section.findings if f.metric == LEAK]
    assert "differ in other ways" in section.skipped[0].reason
    assert section.headline().metric == GAIN
    control = next(f for f in section.findings if f.metric == CONTROL)
    assert not control.low <= 0 <= control.high


def test_verify_recomputes_everything_and_notices_forgery():
    section = decode(encode(audit(case(Keeps(kept=0.5), with_recipe=True), T, ALONE)))
    checks = attributes.verify(section, T)
    assert len(checks) == len(section.findings)
    assert len({name for name, _, _ in checks}) == len(checks)
    assert all(told == again for _, told, again in checks)
    forged = dict(section.evidence) | {"truth": section.evidence["truth"][::-1]}
    assert any(told != again for _, told, again in attributes.verify(replace(section, evidence=forged), T))


def test_same_seed_same_section():
    first, again = (audit(case(Keeps(kept=0.5), with_recipe=True), T, ALONE) for _ in range(2))
    assert encode(first) == encode(again)
    assert {f.metric: f for f in audit(case(Keeps(kept=0.5), with_recipe=True), T, {"value_cases": ValueCases()}).findings}[GAIN] in first.findings


@dataclass(frozen=True, kw_only=True)
class Silent(Method):
    """Says nothing."""

    threats = (AttributeInference,)

    def __call__(self, model, puzzle, threat, rng):
        return np.zeros(puzzle.imputed.shape)


@dataclass(frozen=True, kw_only=True)
class Broken(Silent):
    """Says what is no number."""

    def __call__(self, model, puzzle, threat, rng):
        return np.full(puzzle.imputed.shape, np.nan)


def test_an_attack_that_says_nothing_is_imputation():
    section = audit(case(Keeps()), T, {"silent": Silent(), "broken": Broken()})
    assert found(section, GAIN, "silent").value == 0.0
    assert found(section, LEAK, "silent").value == next(f for f in section.findings if f.metric == CONTROL).value
    assert "NaN" in section.skipped[0].reason


def test_the_attacker_never_sees_the_value():
    x = people(50, 0).x
    levels = levels_of(T, SPACE, x)
    other = x.copy()
    other[:, 2] = 1 - other[:, 2]
    np.testing.assert_array_equal(levels.candidates(x), levels.candidates(other))
    np.testing.assert_array_equal(levels.others(x), levels.others(other))


def test_posterior_is_bayes():
    # prior 0.3/0.7 of the value, label 1 has probability 0.8 under the first and 0.2 under the second: odds 0.24 to 0.14
    model = CallableModel(
        function=lambda x: np.hstack([0.2 + 0.6 * x, 0.8 - 0.6 * x]), space=Space.table(["ill"]), classes=2, answers="probabilities"
    )
    belief = np.array([[0.3, 0.7]])
    puzzle = Puzzle(x=np.array([[[0.0], [1.0]]]), y=np.array([1]), shares=belief[0], blind=belief, imputed=belief)
    for prior in ("imputed", "shares"):
        scores = ValuePosterior(prior=prior)(model, puzzle, T, np.random.default_rng(0))
        assert np.exp(scores[0, 0] - scores[0, 1]) == pytest.approx(0.24 / 0.14)
    unlabelled = ValuePosterior()(model, replace(puzzle, y=None), T, np.random.default_rng(0))
    assert np.exp(unlabelled[0, 0] - unlabelled[0, 1]) == pytest.approx(0.3 / 0.7)  # both are equally sure of something


def test_cases_are_those_of_the_paper():
    answers = {0.0: [0.6, 0.4], 1.0: [0.9, 0.1], 2.0: [0.3, 0.7]}
    model = CallableModel(function=lambda x: np.array([answers[v] for v in x[:, 0]]), space=Space.table(["a"], lower=np.zeros(1), upper=np.zeros(1)),
                          classes=2, answers="probabilities")  # fmt: skip
    even = np.full((1, 3), 1 / 3)
    tried = Puzzle(x=np.array([[[0.0], [1.0], [2.0]]]), y=np.array([0]), shares=even[0], blind=even, imputed=even)
    guess = lambda puzzle: int(surest(ValueCases()(model, puzzle, T, np.random.default_rng(0)), puzzle.imputed)[0])  # noqa: E731
    assert guess(tried) == 1  # two give the label: the surer one
    assert guess(replace(tried, y=np.array([1]))) == 2  # one gives it
    two = replace(tried, x=tried.x[:, :2], y=np.array([1]), imputed=even[:, :2])
    assert guess(two) == 0  # none gives it: the least sure


def test_imputation_finds_the_best_there_is():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 2))
    truth = (x[:, 0] + 0.5 * rng.normal(size=600) > 0).astype(int)
    best = 1 / (1 + np.exp(-1.7 * x[400:, 0] / 0.5))  # close to the normal curve
    beliefs = impute(x[:400], truth[:400], 2, rng)(x[400:])
    assert np.abs(beliefs[:, 1] - best).mean() < 0.05
    coin = impute(rng.normal(size=(300, 3)), (np.arange(300) % 4 == 0).astype(int), 2, rng)(rng.normal(size=(50, 3)))
    assert np.abs(coin[:, 1] - 0.25).max() < 0.01


def test_levels_of_every_kind():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(size=90), rng.integers(3, size=90), np.eye(3)[rng.integers(3, size=90)]])
    kind = np.array([Kind.REAL, Kind.CATEGORICAL, *[Kind.ONE_HOT] * 3])
    space = replace(Space.table(["age", "sex", "race=a", "race=b", "race=c"], kind=kind, groups=((2, 3, 4),)), categories={"sex": ("f", "m", "x")})
    thirds = levels_of(AttributeInference(feature="age"), space, x)
    assert np.bincount(thirds.of(x)).tolist() == [30, 30, 30]
    assert (thirds.of(thirds.candidates(x)[:, 1]) == 1).all()
    assert levels_of(AttributeInference(feature="sex"), space, x).names == ("f", "m", "x")
    for name in ("race", "race=b"):
        group = levels_of(AttributeInference(feature=name), space, x)
        assert group.columns.tolist() == [2, 3, 4]
        assert (group.of(x) == x[:, 2:].argmax(1)).all()
        assert (group.candidates(x)[:, 2, 2:] == [0, 0, 1]).all()
    heavy = np.column_stack([np.where(np.arange(90) < 60, 0.0, np.arange(90)), x[:, 1:]])
    assert len(levels_of(AttributeInference(feature="age"), space, heavy)) == 2  # most are 0: the ranges that would be empty are none


@pytest.mark.parametrize("confidence", [0.9])
def test_intervals_cover(confidence):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(100):
        easy = rng.normal(size=60)
        members = np.stack([m for _ in range(4) for m in (lambda p: (p, ~p))(rng.permutation(60) < 30)])
        values = (easy[None] + 0.5 * members + rng.normal(size=(8, 60)) > 0).astype(float)
        truth = 0.1382  # P(N(0.5, 2) > 0) - 1/2
        low, high = gap_interval(values, members, rng, confidence=confidence)
        hits += low <= truth <= high
    assert hits >= 84
    same = np.ones((1, 40))
    sides = np.arange(40)[None] < 20
    assert gap(same, sides) == 0
    low, high = gap_interval(same, sides, rng)
    assert low == pytest.approx(-high)
    assert 0.1 < high < 0.25
    assert mean_interval(same, sides, rng).low == pytest.approx(0.8316, abs=1e-3)  # exact, 20 of 20


def test_refusals_are_sentences():
    start = case(LINEAR)
    few = replace(start.data, validation=start.data.validation.take(np.arange(10)))
    with pytest.raises(InputError, match="at least 30 validation rows"):
        audit(replace(start, data=few), T, ALONE)
    with pytest.raises(InputError, match="'blood' is not in the space"):
        audit(start, AttributeInference(feature="blood"), ALONE)
    still = start.data.validation.with_(x=start.data.validation.x * np.array([1.0, 1, 0]))
    with pytest.raises(InputError, match="nothing to guess"):
        audit(replace(start, data=replace(start.data, validation=still)), T, ALONE)
    with pytest.raises(InputError, match="was trained on all"):
        audit(replace(start, data=replace(start.data, test=start.data.train)), T, ALONE)
    small = replace(start.data, train=start.data.train.take(np.arange(20)))
    with pytest.raises(InputError, match="20 rows were trained on"):
        audit(replace(start, data=small), T, ALONE)
    with pytest.raises(InputError, match="inputs have the shape"):
        levels_of(T, Space.image((1, 2, 2)), np.zeros((3, 1, 2, 2)))
    assert "labels" in ValueCases().refuses(start, replace(T, label=False))
    for wrong in (
        lambda: ValueMemory(references=1),
        lambda: ValueMemory(trust=0.0),
        lambda: ValuePosterior(prior="none"),
        lambda: AttributeInference(feature=""),
    ):
        with pytest.raises(InputError):
            wrong()


def test_from_python_to_the_gate_and_back(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 3))
    x[:, 2] = rng.random(400) < 0.5
    y = (x[:, 0] + rng.normal(size=400) > 0).astype(int)
    report = carbide.audit(None, (x, y), threats=[AttributeInference(feature="x2", label=True)], recipe=KNeighborsClassifier(1), quiet=True,
                           gate={"attribute_leak": "<= 0.02"}, out=tmp_path, workers=1)  # fmt: skip
    assert not report.passed
    page = (tmp_path / "report.html").read_text()
    assert "more of those trained on than of others" in page
    assert "Who has x2 guessed" in page
    from carbide.verify import verify_run

    checks = verify_run(tmp_path)
    assert len(checks) > 10
    assert all(check.agrees for check in checks)
