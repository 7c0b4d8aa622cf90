"""The judge: disjoint rows, the right numbers, cheats found, findings that the evidence repeats."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from carbide.extraction import judge
from carbide.extraction.audit.knockoff import Knockoff
from carbide.extraction.policy_model import PolicyModel
from carbide.registry import Method
from carbide.run import Run, Store, use
from carbide.run.store import decode, encode
from carbide.stats.intervals import clopper_pearson
from carbide.types import Access, Case, Queries, Splits, decide
from tests.extraction.worlds import softmax, splits

VICTIM = softmax(6, 3, seed=1)
DATA = splits(VICTIM)
CASE = Case(model=VICTIM, data=DATA)
FAST = Knockoff(learners=("linear",))


@dataclass(frozen=True, kw_only=True)
class Always(Method):
    """Asks one row and says ``label``."""

    threats = (Queries,)
    label: int = 0

    def __call__(self, oracle, pool, threat, rng):
        oracle(pool.x[:1])
        answer = np.eye(oracle.classes)[self.label]
        return type("Constant", (), {"predict": lambda self, x: np.tile(answer, (len(x), 1)), "threshold": 0.5})()


@dataclass(frozen=True, kw_only=True)
class Greedy(Method):
    """Asks one row too many."""

    threats = (Queries,)

    def __call__(self, oracle, pool, threat, rng):
        oracle(np.repeat(pool.x[:1], threat.n + 1, 0))


@dataclass(frozen=True, kw_only=True)
class Keeper(Method):
    """Its copy is the oracle's own victim."""

    threats = (Queries,)

    def __call__(self, oracle, pool, threat, rng):
        return type("Same", (), {"predict": lambda self, x, v=oracle._victim: v.predict(x), "threshold": 0.5})()


def headline(section):
    found = [f for f in section.findings if f.headline]
    assert len(found) == 1
    return found[0]


def test_the_numbers_are_those_of_a_constant_thief():
    section = judge.audit(CASE, Queries(n=30), {"always": Always(label=2)})
    said = decide(VICTIM.predict(DATA.test.x), 0.5)
    found = headline(section)
    assert found.value == pytest.approx((said == 2).mean())
    assert (found.low, found.high) == clopper_pearson(int((said == 2).sum()), len(said))
    assert (found.metric, found.good, found.n) == ("fidelity", -1, len(DATA.test))
    by = {f.metric: f.value for f in section.findings}
    assert by["thief accuracy"] == pytest.approx((DATA.test.y == 2).mean())
    assert by["fidelity, worst class"] == 0.0


def test_the_headline_is_the_worst_thief_at_the_threats_answers():
    section = judge.audit(CASE, Queries(n=60, answers="labels"), {"always": Always(), "knockoff": FAST})
    found = headline(section)
    assert found.method == "knockoff"
    assert found.threat == "copying the model with 60 queries answered by labels"
    assert section.findings[0] is found
    assert found.value == max(f.value for f in section.findings if f.metric == "fidelity" and "labels" in f.threat)
    assert found.access == "labels"


def test_the_curve_has_three_lines_and_two_rivals_who_never_ask():
    section = judge.audit(CASE, Queries(n=150), {"knockoff": FAST})
    lines = {s.name: s for s in section.figures[0].series}
    assert list(lines)[:3] == ["logits", "probabilities", "labels"]
    assert {"guesser, no query", "rival with true labels, no query"} <= set(lines)
    for name in ("logits", "labels"):
        assert lines[name].x.tolist()[0] == 50
        assert lines[name].x.tolist()[-1] == 150
        assert (lines[name].low <= lines[name].y).all()
        assert (lines[name].y <= lines[name].high).all()
    assert lines["logits"].y[0] > 0.99  # a linear victim, a linear thief
    assert lines["labels"].y[0] < lines["labels"].y[-1] < 1
    guess = np.bincount(DATA.validation.y).argmax()
    assert lines["guesser, no query"].y[0] == pytest.approx((decide(VICTIM.predict(DATA.test.x)) == guess).mean())


def test_a_model_that_shows_labels_only_is_asked_for_labels():
    hidden = replace(CASE, model=PolicyModel(inner=VICTIM))
    section = judge.audit(hidden, Queries(n=60), {"knockoff": FAST})
    assert next(s.name for s in section.figures[0].series) == "labels"
    assert "labels only" in headline(section).note
    assert headline(section).access == Access.LABELS.words()


def test_no_row_serves_twice():
    field = judge.field_of(CASE)
    asked = {r.tobytes() for r in field.pool.x}
    assert not asked & {r.tobytes() for r in field.x}
    assert not asked & {r.tobytes() for r in DATA.train.x}
    leaky = replace(CASE, data=replace(DATA, validation=DATA.train.take(np.arange(50)), test=DATA.test))
    with pytest.raises(Exception, match="no rows of its own"):
        judge.field_of(leaky)


def test_where_validation_is_the_test_the_thief_gets_half_of_it():
    trial = replace(CASE, data=Splits(train=DATA.train, validation=DATA.validation, test=DATA.validation))
    field = judge.field_of(trial)
    assert len(field.pool) == len(field.x) == 100
    assert not {r.tobytes() for r in field.pool.x} & {r.tobytes() for r in field.x}
    assert headline(judge.audit(trial, Queries(n=40), {"knockoff": replace(FAST, points=1)})).n == 100


@pytest.mark.parametrize(("cheat", "reason"), [(Greedy(), "must stop by itself"), (Keeper(), "answering alone")])
def test_a_cheat_is_reported_as_failed(cheat, reason):
    section = judge.audit(CASE, Queries(n=20), {"cheat": cheat, "always": Always()})
    assert [(s.method, s.status) for s in section.skipped] == [("cheat", "failed")]
    assert reason in section.skipped[0].reason
    assert headline(section).method == "always"
    alone = judge.audit(CASE, Queries(n=20), {"cheat": cheat})
    assert alone.findings == ()
    assert alone.headline() is None


def test_verify_recomputes_from_the_evidence_and_notices_a_changed_number():
    section = judge.audit(CASE, Queries(n=60), {"knockoff": FAST})
    stored = decode(encode(section))
    for model in (VICTIM, None):
        checks = judge.verify(stored, model, None, Queries(n=60))
        assert [c[0] for c in checks] == ["fidelity", "thief accuracy"]
        assert all(reported == recomputed for _, reported, recomputed in checks)
    forged = replace(stored, findings=tuple(replace(f, value=0.5) if f.headline else f for f in stored.findings))
    metric, reported, recomputed = judge.verify(forged, VICTIM, None, Queries(n=60))[0]
    assert (metric, reported) == ("fidelity", 0.5)
    assert recomputed > 0.9
    other = softmax(6, 3, seed=9)
    assert judge.verify(stored, other, None, Queries(n=60))[0][2] != headline(stored).value


def test_the_same_case_gives_the_same_bytes_and_a_killed_run_asks_nothing_again(tmp_path):
    one = encode(judge.audit(CASE, Queries(n=60), {"knockoff": FAST}))
    assert one == encode(judge.audit(CASE, Queries(n=60), {"knockoff": FAST}))
    with use(Run(store=Store(tmp_path))):
        judge.audit(CASE, Queries(n=60), {"knockoff": FAST})
        steps = len(list((tmp_path / "steps").glob("*.npz")))
        again = judge.audit(CASE, Queries(n=60), {"knockoff": FAST})
    assert encode(again) == one
    assert len(list((tmp_path / "steps").glob("*.npz"))) == steps > 0


def test_a_quick_thief_measures_the_headline_alone():
    section = judge.audit(CASE, Queries(n=80), {"knockoff": FAST.quick()})
    assert headline(section).value == headline(judge.audit(CASE, Queries(n=80), {"knockoff": FAST})).value
    assert all(len(s.x) == 1 for s in section.figures[0].series[:1])


@dataclass(frozen=True, kw_only=True)
class FooledByScores(Method):
    """Copies a linear victim from labels, and says class 0 where it is told scores."""

    threats = (Queries,)
    points: int = 1

    def __call__(self, oracle, pool, threat, rng):
        if oracle.answers == "labels":
            return FAST(oracle, pool, threat, rng)
        return Always()(oracle, pool, threat, rng)


def test_a_thief_may_ignore_the_scores_that_it_is_told():
    labels = headline(judge.audit(CASE, Queries(n=60, answers="labels"), {"fooled": FooledByScores()}))
    scores = judge.audit(CASE, Queries(n=60, answers="logits"), {"fooled": FooledByScores()})
    assert headline(scores).value == labels.value > 0.8
    assert headline(scores).threat.endswith("logits")
    values = {
        f.threat.rsplit(" ", 1)[-1]: f.value for f in judge.audit(CASE, Queries(n=90), {"knockoff": Knockoff()}).findings if f.metric == "fidelity"
    }
    assert values["labels"] <= values["probabilities"] <= values["logits"]
