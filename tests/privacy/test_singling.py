"""Singling out: a tree of one row a leaf gives every row away, what ignores its rows gives nobody away, and the figures are what they claim."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import binom
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

import carbide
from carbide.data.live import dataset_of
from carbide.models.estimators import EstimatorModel
from carbide.privacy.answer_field import field_of
from carbide.privacy.audit.answer_boxes import AnswerBoxes
from carbide.privacy.predicates import Predicates
from carbide.privacy.singling import CHANCE, CONTROL, GAIN, SHARE, WEIGHT, _sides, audit, chance, intervals_of, too_heavy, value_of, verify
from carbide.registry import Method
from carbide.run.store import decode, encode
from carbide.types import Case, InputError, Kind, SinglingOut, Space, Splits

METHODS = {"answer_boxes": AnswerBoxes(points=5000, seeds=100)}


def rows(n: int, seed: int, noise: float = 0.1):
    """Rows of three features whose label the first decides, but for a share ``noise`` of them."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(size=(n, 3))
    y = ((x[:, 0] > 0.5) ^ (rng.random(n) < noise)).astype(int)
    return dataset_of(x, y, space=Space.table(["a", "b", "c"], lower=np.zeros(3), upper=np.ones(3)), classes=2)


def case(estimator, *, seed: int = 0, strangers: bool = False, n: int = 400) -> Case:
    """A case of ``n`` train, 800 validation and ``n`` test rows; of ``strangers`` the model was trained on other rows."""
    train, validation, test = (rows(count, 10 * seed + i) for i, count in ((1, n), (2, 800), (3, n)))
    fitted = rows(n, 10 * seed + 4) if strangers else train
    model = EstimatorModel(estimator=estimator.fit(fitted.x, fitted.y), space=train.space, classes=2)
    return Case(model=model, data=Splits(train=train, validation=validation, test=test), seed=seed)


def found(section):
    """The findings by metric."""
    assert section.findings, section.skipped
    return {f.metric: f for f in section.findings}


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """Writes the same predicates whatever the model says: ``count`` ranges of the first feature, each of the given weight."""

    threats = (SinglingOut,)
    count: int = 40
    weight: float = 0.0005

    def __call__(self, model, known, weight, rng):
        low = np.zeros((self.count, 3))
        low[:, 0] = np.arange(self.count) / self.count
        high = np.ones((self.count, 3))
        high[:, 0] = low[:, 0] + 2 * self.weight
        return Predicates(low=low, high=high, label=np.zeros(self.count, int))


def ladder(n: int):
    """Rows 0 .. n - 1 on a line with labels in turn: a full tree has one row a leaf, and each leaf is the row's own half unit to either side."""
    x = np.arange(n, dtype=float)[:, None]
    return dataset_of(x, np.arange(n) % 2, space=Space.table(["a"], lower=np.array([-1.0]), upper=np.array([float(n)])), classes=2)


def test_of_a_tree_of_one_row_a_leaf_every_box_is_the_leaf():
    train = ladder(60)
    tree = DecisionTreeClassifier(random_state=0).fit(train.x, train.y)
    assert tree.get_n_leaves() == 60
    model = EstimatorModel(estimator=tree, space=train.space, classes=2)
    field = field_of(model, train, np.random.default_rng(0))
    start = np.random.default_rng(1).uniform(-0.4, 59.4, size=(200, 1))
    label = model.predict(start).argmax(1)
    limit = np.full(200, 0.5)
    boxes = field.split(field.grow(start, label, limit), start, limit, np.random.default_rng(2))
    own = np.round(start[:, 0])
    low, high = np.where(own == 0, -np.inf, own - 0.5), np.where(own == 59, np.inf, own + 0.5)
    np.testing.assert_allclose(boxes.low[:, 0], low, atol=0.05)
    np.testing.assert_allclose(boxes.high[:, 0], high, atol=0.05)
    assert (boxes.holds(train.x, train.y).sum(1) == 1).all()
    np.testing.assert_allclose(field.closed(boxes, limit, np.random.default_rng(3)), 1.0)


@dataclass(frozen=True, kw_only=True)
class Leaves(Method):
    """Writes the leaves of the ladder's tree."""

    threats = (SinglingOut,)
    n: int

    def __call__(self, model, known, weight, rng):
        at = np.arange(self.n, dtype=float)[:, None]
        return Predicates(low=at - 0.4999, high=at + 0.4999, label=np.arange(self.n) % 2)


def test_every_leaf_of_one_row_isolates_it_and_strangers_are_isolated_by_the_binomial():
    n, train = 80, ladder(80)
    others = [replace(train, x=x[:, None], y=rng.integers(2, size=len(x)), ids=train.ids[:1].repeat(len(x)), source=train.source[:1].repeat(len(x)))
              for rng in [np.random.default_rng(1)] for x in (rng.uniform(-0.5, n - 0.5, 1500), rng.uniform(-0.5, n - 0.5, 1500))]  # fmt: skip
    model = EstimatorModel(estimator=DecisionTreeClassifier(random_state=0).fit(train.x, train.y), space=train.space, classes=2)
    seen = found(audit(Case(model=model, data=Splits(train=train, validation=others[0], test=others[1])), SinglingOut(), {"leaves": Leaves(n=n)}))
    assert seen[SHARE].value == 1.0
    assert seen[SHARE].low == pytest.approx(0.025 ** (1 / n))
    assert seen[WEIGHT].low <= 0.5 <= seen[WEIGHT].high
    assert seen[CHANCE].value == pytest.approx(binom.pmf(1, n, 0.5 / n), abs=0.02)
    assert seen[CONTROL].low <= binom.pmf(1, n, 0.5 / n) <= seen[CONTROL].high


def test_a_box_keeps_one_answer_where_lines_through_its_point_miss_others():
    class Corner:
        """Says 1 but for the corner beyond 0.5 of both features."""

        def predict(self, x):
            one = (x < 0.5).any(1).astype(float)
            return np.stack([1 - one, one], 1)

    x = np.random.default_rng(0).random((50, 2))
    known = dataset_of(x, np.arange(50) % 2, space=Space.table(["a", "b"], lower=np.zeros(2), upper=np.ones(2)), classes=2)
    field = field_of(Corner(), known, np.random.default_rng(0))
    start, label, limit = np.full((1, 2), 0.25), np.ones(1, int), np.full(1, 0.5)
    lines = field.grow(start, label, limit)
    assert np.isinf(lines.high).all()
    box = field.split(lines, start, limit, np.random.default_rng(0))
    assert sorted(box.high[0].tolist()) == [pytest.approx(0.5, abs=1e-3), np.inf]


def test_whole_numbers_are_asked_about_as_such():
    class Steps:
        """Says 1 from 3 to 5, and refuses what is no whole number."""

        def predict(self, x):
            assert (x == np.round(x)).all()
            one = ((x[:, 0] >= 3) & (x[:, 0] <= 5)).astype(float)
            return np.stack([1 - one, one], 1)

    x = np.random.default_rng(0).integers(0, 40, size=(80, 1)).astype(float)
    space = Space.table(["a"], lower=np.zeros(1), upper=np.full(1, 40.0), kind=np.array([Kind.INTEGER]))
    field = field_of(Steps(), dataset_of(x, np.arange(80) % 2, space=space, classes=2), np.random.default_rng(0))
    start, label, limit = np.array([[3.0], [4.0], [5.0]]), np.ones(3, int), np.full(3, 0.5)
    box = field.split(field.grow(start, label, limit), start, limit, np.random.default_rng(0))
    assert box.low[:, 0].tolist() == [3.0] * 3
    assert box.high[:, 0].tolist() == [5.0] * 3


@pytest.mark.parametrize("estimator", [DecisionTreeClassifier(random_state=0), RandomForestClassifier(10, random_state=0)])
def test_a_full_grown_tree_or_forest_gives_rows_away(estimator):
    start = case(estimator, n=1000)
    section = audit(start, SinglingOut(), {"answer_boxes": AnswerBoxes(seeds=300 if estimator.__class__ is DecisionTreeClassifier else 100)})
    seen = found(section)
    assert seen[GAIN].low > 0, f"{seen[SHARE].value} against {seen[CHANCE].value}"
    assert seen[SHARE].value > 2 * max(seen[CHANCE].value, seen[CONTROL].value)
    assert section.headline().metric == SHARE
    named = [i for i in section.evidence["answer_boxes_ids"] if i]
    assert len(named) >= seen[SHARE].value * seen[SHARE].n
    assert set(named) <= set(start.data.train.ids.astype(str))
    boxes = Predicates(*(section.evidence[f"answer_boxes_{key}"] for key in ("low", "high", "label")))
    held = boxes.holds(start.data.train.x, start.data.train.y)
    assert [start.data.train.ids[row.argmax()] if row.sum() == 1 else "" for row in held] == section.evidence["answer_boxes_ids"].tolist()


def test_evidence_gives_the_figures_again_and_forged_evidence_does_not():
    section = decode(encode(audit(case(DecisionTreeClassifier(random_state=0)), SinglingOut(), METHODS)))
    assert all(told == recomputed for _, told, recomputed in verify(section, SinglingOut()))
    forged = dict(section.evidence) | {"answer_boxes_inside": np.ones_like(section.evidence["answer_boxes_inside"])}
    assert any(told != recomputed for _, told, recomputed in verify(replace(section, evidence=forged), SinglingOut()))


@pytest.mark.parametrize("estimator", [DummyClassifier(), LogisticRegression()])
def test_a_model_that_ignores_or_smooths_its_rows_gives_nobody_away(estimator):
    seen = [found(audit(case(estimator, seed=s), SinglingOut(), METHODS)) for s in range(1, 4)]
    assert all(f[SHARE].low <= f[CHANCE].high and f[GAIN].low <= 0 for f in seen)
    assert np.mean([f[GAIN].value for f in seen]) < 0.08


def test_a_tree_of_other_rows_gives_these_away_by_chance_only():
    seen = [found(audit(case(DecisionTreeClassifier(random_state=0), seed=s, strangers=True), SinglingOut(), METHODS)) for s in range(1, 5)]
    assert sum(f[GAIN].low <= 0 for f in seen) >= 3
    assert abs(np.mean([f[GAIN].value for f in seen])) < 0.08
    assert abs(np.mean([f[SHARE].value - f[CONTROL].value for f in seen])) < 0.08


def test_the_judge_is_not_fooled_by_predicates_that_owe_nothing_to_the_rows():
    section = audit(case(DummyClassifier()), SinglingOut(), {"fixed": Fixed()})
    seen = found(section)
    assert seen[CHANCE].low <= chance(0.0005, 400) <= seen[CHANCE].high
    assert seen[GAIN].low <= 0
    heavy = audit(case(DummyClassifier()), SinglingOut(), {"fixed": Fixed(weight=0.0075)})
    assert "mean weight may be" in heavy.skipped[0].reason


def test_intervals_hold_what_they_claim():
    rng = np.random.default_rng(3)
    n, m, k, weight = 300, 500, 40, 0.0012
    truth = {SHARE: binom.pmf(1, n, weight), CHANCE: chance(weight, n), WEIGHT: n * weight, GAIN: 0.0}
    inside = dict.fromkeys(truth, 0)
    draws = 400
    for _ in range(draws):
        shares = np.append(np.full(k, weight), 1 - k * weight)
        hits, held = rng.multinomial(n, shares)[:k], rng.multinomial(m, shares)[:k]
        seen = {"inside": hits, "outside": held, "held": held, "heavy": np.zeros(k, bool), "rows": np.array([n, n, m])}
        for metric, interval in intervals_of(seen).items():
            inside[metric] = inside.get(metric, 0) + int(interval.low <= truth.get(metric, truth[SHARE]) <= interval.high)
        assert value_of(SHARE, seen) == (hits == 1).mean()
    least = binom.ppf(0.001, draws, 0.95)
    assert all(inside[metric] >= least for metric in truth), inside


def test_chance_is_the_binomial_and_never_less_than_of_mixed_weights():
    assert chance(0.003, 200) == pytest.approx(binom.pmf(1, 200, 0.003))
    rng = np.random.default_rng(0)
    for _ in range(200):
        weights = 10 ** rng.uniform(-5, -1, size=rng.integers(1, 30))
        assert chance(float(weights.mean()), 200) >= binom.pmf(1, 200, weights).mean() - 1e-12


def test_what_is_surely_too_heavy_does_not_count():
    assert too_heavy(np.array([0, 1, 3, 9]), 1000, 0.001).tolist() == [False, False, False, True]
    seen = {
        "inside": np.array([1, 1]),
        "outside": np.array([0, 1]),
        "held": np.array([0, 9]),
        "heavy": np.array([False, True]),
        "rows": np.array([1000, 1000, 1000]),
    }
    assert value_of(SHARE, seen) == 0.5
    assert value_of(CONTROL, seen) == 0.0


def test_predicates_that_are_kept_are_disjoint_and_read_as_words():
    low = np.array([[0.0], [0.5], [2.0], [0.5]])
    kept = Predicates(low=low, high=low + 1, label=np.array([0, 0, 0, 1])).apart(9)
    assert kept.low.ravel().tolist() == [0.0, 2.0, 0.5]
    box = Predicates(low=np.array([[-np.inf, 2.0, -np.inf, 1.0]]), high=np.array([[1.0, 2.0, np.inf, 3.5]]), label=np.array([1]))
    assert box.words(0, Space.table(list("abcd")), ("no", "yes")) == "a <= 1 and b = 2 and 1 <= d <= 3.5 and label yes"


def test_missing_values_are_in_every_range_and_hinder_nobody():
    start = case(DecisionTreeClassifier(random_state=0))
    holes = start.data.validation.x.copy()
    holes[::7, 1] = np.nan
    section = audit(replace(start, data=replace(start.data, validation=start.data.validation.with_(x=holes))), SinglingOut(), METHODS)
    assert found(section)[SHARE].value > 0.1
    box = Predicates(low=np.zeros((1, 1)), high=np.ones((1, 1)), label=np.zeros(1, int))
    assert box.holds(np.array([[np.nan], [2.0]]), np.zeros(2, int)).tolist() == [[True, False]]


def test_refusals_in_words():
    start = case(LogisticRegression())
    few = replace(start, data=replace(start.data, validation=start.data.validation.take(np.arange(40))))
    with pytest.raises(InputError, match="may know 20 validation rows"):
        audit(few, SinglingOut(), METHODS)
    assert "mean weight" in audit(start, SinglingOut(weight=1e-6), METHODS).skipped[0].reason
    for make, word in ((lambda: SinglingOut(weight=2), "weight is 2"), (lambda: AnswerBoxes(points=0), "points is 0"),
                       (lambda: AnswerBoxes(seeds=0), "seeds is 0"), (lambda: AnswerBoxes(level=0), "level is 0")):  # fmt: skip
        with pytest.raises(InputError, match=word):
            make()


@pytest.mark.parametrize("alone", [False, True])
def test_what_the_attacker_knows_weighs_nothing_and_was_not_trained_on(alone):
    start = case(LogisticRegression())
    if alone:  # as defences are chosen: validation rows stand in for test rows
        start = replace(start, data=replace(start.data, test=start.data.validation))
    known, inside, others = ({row.tobytes() for row in part.x} for part in _sides(start))
    assert not known & inside
    assert not known & others
    assert not others & inside
    assert len(known) == 400
    assert len(others) == (400 if alone else 800)


def test_hardening_chooses_larger_leaves_on_validation_rows():
    data = rows(3000, 6)
    report = carbide.harden(DecisionTreeClassifier(random_state=0), (data.x, data.y), threats=[SinglingOut()], quiet=True, workers=1,
                            accuracy_loss=0.3)  # fmt: skip
    assert {o.name for o in report.results.options} == {"as it is", "leaf_size"}
    chosen = next(o for o in report.results.options if o.chosen)
    assert chosen.name == "leaf_size"
    plain, hardened = (next(f for s in phase.sections for f in s.findings if f.metric == SHARE) for phase in report.results.phases)
    assert plain.access == "labels, scores"
    assert hardened.value < plain.value - 0.2


def test_from_python_to_the_page_and_the_gate(tmp_path):
    data = rows(1500, 5)
    report = carbide.audit(None, (data.x, data.y), threats=[SinglingOut()], recipe=DecisionTreeClassifier(random_state=0), quiet=True, out=tmp_path,
                           gate={"singling_out_gain": "<= 0"}, workers=1)  # fmt: skip
    assert not report.passed
    assert "Someone who wants to describe exactly one training row succeeds with" in (tmp_path / "report.html").read_text()
    from carbide.verify import verify_run

    assert all(check.agrees for check in verify_run(tmp_path))
