"""The judge: known leaks are measured, blind models are cleared, cheats and broken promises are caught."""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import norm

import carbide.privacy.judge as judge
from carbide.privacy.audit.entropy import Entropy
from carbide.privacy.audit.label_only import LabelOnly
from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.judge import audit, metric_at, verify
from carbide.privacy.statement import privacy_of, stated_by
from carbide.privacy.trials import RECORDS, play, set_up
from carbide.registry import Method
from carbide.run import Run, Store, use
from carbide.run.store import decode, encode
from carbide.stats.accounting import PrivacyStatement
from carbide.types import Access, Membership, Splits, UnsoundError
from tests.privacy.worlds import Remembers, case

BOTH = {"loss_threshold": LossThreshold(), "lira": Lira(shadows=24)}
T = Membership()


def found(section, metric, method):
    return next(f for f in section.findings if (f.metric, f.method) == (metric, method))


@pytest.fixture(scope="module")
def leaky():
    return audit(case(Remembers(gain=2.0)), T, BOTH)


def test_a_known_leak_is_measured(leaky):
    # members differ by two standard deviations: a threshold on the loss reaches Phi(Phi^-1(fpr) + 2) and area Phi(sqrt 2)
    loss = found(leaky, metric_at(0.01), "loss_threshold")
    truth = norm.cdf(norm.ppf(0.01) + 2)
    assert loss.value == pytest.approx(truth, abs=0.05)
    assert loss.low <= truth <= loss.high
    area = found(leaky, "membership AUC", "loss_threshold")
    assert area.low <= norm.cdf(np.sqrt(2)) <= area.high
    assert found(leaky, "membership AUC", "lira").value == pytest.approx(norm.cdf(np.sqrt(2)), abs=0.04)
    own = found(leaky, "membership AUC of this model", "loss_threshold")
    assert own.low <= norm.cdf(np.sqrt(2)) <= own.high


def test_the_section_is_whole(leaky):
    assert [f.headline for f in leaky.findings].count(True) == 1
    head = leaky.headline()
    assert head.metric == metric_at(0.01)
    assert head.value == max(f.value for f in leaky.findings if f.metric == metric_at(0.01))
    assert "records left out" in head.note
    assert all(f.low <= f.value <= f.high and f.n == 240 and f.threat == T.words() for f in leaky.findings)
    assert all(f.good == (0 if "control" in f.metric else -1) for f in leaky.findings)
    roc = leaky.figures[0]
    assert [s.name for s in roc.series] == ["loss_threshold", "lira", "chance"]
    assert all((s.x > 0).all() and (np.diff(s.y) >= -1e-12).all() for s in roc.series)
    assert decode(encode(leaky)).headline() == head  # it can be stored


def test_too_few_non_members_carry_no_claim(leaky):
    # 24 targets on 240 records leave 2,880 non-member scores: enough for 1%, not for 0.1%
    assert not [f for f in leaky.findings if "0.1%" in f.metric]
    refused = [s for s in leaky.skipped if s.status == "not applicable"]
    assert {s.method for s in refused} == {"loss_threshold", "lira"}
    assert all("needs 10,000 non-member scores, and there are 2,880" in s.reason for s in refused)
    few = audit(case(Remembers(gain=2.0), n=20), T, {"lira": Lira(shadows=4)})
    assert few.headline().metric == "membership AUC"
    assert len(few.skipped) == 2


def test_a_model_that_never_looks_is_cleared():
    section = audit(case(Remembers(gain=0.0)), T, BOTH)
    for method in BOTH:
        area = found(section, "membership AUC", method)
        assert area.low <= 0.5 <= area.high
        assert area.high - area.low < 0.15
        assert found(section, metric_at(0.01), method).value < 0.03


def test_records_at_risk_are_named():
    section = audit(case(Remembers(gain=6.0)), T, {"lira": Lira(shadows=24)})
    assert len(section.evidence["at_risk_ids"]) == 10
    assert (section.evidence["at_risk_hits"] > 0.8).all()
    assert (section.evidence["at_risk_alarms"] < 0.2).all()
    assert section.evidence["at_risk_ids"][0] in section.headline().note
    assert set(section.evidence["at_risk_ids"]) <= set(section.evidence["ids"])
    assert section.figures[1].kind == "bars"


def test_verify_recomputes_and_notices_tampering(leaky):
    checks = verify(leaky, None, None, T)
    assert len(checks) == len(leaky.findings)
    assert len({name for name, _, _ in checks}) == len(checks)
    assert all(told == again for _, told, again in checks)
    forged = dict(leaky.evidence) | {"lira_scores": leaky.evidence["lira_scores"][:, ::-1]}
    assert any(told != again for _, told, again in verify(replace(leaky, evidence=forged), None, None, T))


def test_same_seed_same_section_and_no_method_disturbs_another(leaky):
    again = audit(case(Remembers(gain=2.0)), T, BOTH)
    assert encode(again) == encode(leaky)
    alone = audit(case(Remembers(gain=2.0)), T, {"lira": Lira(shadows=24)})
    assert {f for f in alone.findings if "TPR" not in f.metric} <= set(leaky.findings)
    other = audit(case(Remembers(gain=2.0), seed=1), T, BOTH)
    assert found(other, "membership AUC", "lira").value != found(leaky, "membership AUC", "lira").value


def test_nothing_is_played_twice(tmp_path):
    with use(Run(store=Store(tmp_path))):
        first = audit(case(Remembers(gain=2.0), n=30), T, {"lira": Lira(shadows=4)})
        steps = (tmp_path / "steps.jsonl").read_text()
        second = audit(case(Remembers(gain=2.0), n=30), T, {"lira": Lira(shadows=4)})
    assert encode(first) == encode(second)
    assert (tmp_path / "steps.jsonl").read_text() == steps


def test_without_a_recipe_the_given_model_is_the_target():
    section = audit(case(Remembers(gain=2.0), n=1100, with_recipe=False), T, {"loss_threshold": LossThreshold()})
    head = section.headline()
    assert head.metric == metric_at(0.01)
    assert head.low <= norm.cdf(norm.ppf(0.01) + 2) <= head.high
    assert "no recipe" in head.note
    assert all(told == again for _, told, again in verify(section, None, None, T))
    small = audit(case(Remembers(gain=2.0), n=200, with_recipe=False), T, {"loss_threshold": LossThreshold()})
    assert small.headline().metric == "membership AUC"


def test_the_pool_holds_distinct_rows_and_test_rows_alone():
    start = case(Remembers(gain=1.0), n=50)
    doubled = start.data.test.take(np.arange(50).repeat(2))
    leaked = {name: np.concatenate([getattr(doubled, name)[:90], getattr(start.data.train, name)[:10]]) for name in ("x", "y")}
    data = Splits(train=start.data.train, validation=start.data.validation, test=replace(doubled, **leaked))
    game = set_up(replace(start, data=data), {"lira": Lira(shadows=4)})
    assert len(np.unique(game.records.x, axis=0)) == len(game.records) == 50 + 45
    held = {row.tobytes() for row in start.data.train.x}
    assert [row.tobytes() in held for row in game.records.x] == game.inside.tolist()
    assert not {row.tobytes() for row in start.data.validation.x} & {row.tobytes() for row in game.records.x}


def test_large_pools_are_asked_about_in_part():
    assert len(set_up(case(Remembers(gain=1.0), n=3000), {"lira": Lira(shadows=4)}).records) == RECORDS


@dataclass(frozen=True, kw_only=True)
class Fixed(Method):
    """Returns what it was made with."""

    threats = (Membership,)
    needs = Access.SCORES
    value: float | None = 0.0

    def __call__(self, model, dataset, rng, shadows):
        return np.zeros(3) if self.value is None else np.full(len(dataset), self.value)


@dataclass(frozen=True, kw_only=True)
class ByOrder(Method):
    """Hopes that members come first."""

    threats = (Membership,)
    needs = Access.SCORES

    def __call__(self, model, dataset, rng, shadows):
        return -np.arange(len(dataset), dtype=float)


@pytest.mark.parametrize("with_recipe", [True, False])
def test_doing_nothing_and_hoping_for_the_order_find_nothing(with_recipe):
    section = audit(case(Remembers(gain=2.0), with_recipe=with_recipe), T, {"nothing": Fixed(), "order": ByOrder()})
    assert found(section, "membership AUC", "nothing").value == 0.5
    order = found(section, "membership AUC", "order")
    assert abs(order.value - 0.5) < 0.1


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "NaN"), (None, r"shape \(3,\)")])
def test_scores_that_are_none_are_a_failure(value, words):
    section = audit(case(Remembers(gain=2.0)), T, {"broken": Fixed(value=value), "loss_threshold": LossThreshold()})
    assert [s.method for s in section.skipped if s.status == "failed"] == ["broken"]
    assert next(s for s in section.skipped if s.method == "broken").reason.count("broken") == 1
    assert section.headline().method == "loss_threshold"
    assert audit(case(Remembers(gain=2.0)), T, {"broken": Fixed(value=value)}).findings == ()


def test_a_failed_control_takes_the_numbers_away(monkeypatch):
    def cheat(name, method, case, game):
        trial = play(name, method, case, game)
        return replace(trial, control=trial.control + 0.3 * trial.control_members * trial.control.std())

    monkeypatch.setattr(judge, "play", cheat)
    section = audit(case(Remembers(gain=2.0)), T, {"loss_threshold": LossThreshold()})
    assert section.findings == ()
    assert section.headline() is None
    assert "negative control failed" in section.skipped[0].reason
    assert section.skipped[0].status == "failed"


def test_a_broken_promise_stops_the_run():
    promise = PrivacyStatement(epsilon=0.1, delta=1e-6, mu=0.03)
    with pytest.raises(UnsoundError, match=r"differential privacy allows 0\.01"):
        audit(case(Remembers(gain=3.0, privacy=promise)), T, BOTH)
    kept = audit(case(Remembers(gain=1.0, privacy=PrivacyStatement(epsilon=20.0, delta=1e-6, mu=3.0))), T, BOTH)
    bound = next(s for s in kept.figures[0].series if s.name == "no attack can do better")
    assert all((s.y <= bound.y + 0.02).all() for s in kept.figures[0].series)


@dataclass(frozen=True)
class Around:
    """Something that wraps a model or a recipe."""

    inner: object


def test_statements_are_found_through_models_and_not_through_recipes():
    promise = PrivacyStatement(epsilon=1.0, delta=1e-6)
    private = Remembers(gain=1.0, privacy=promise)
    assert privacy_of(Around(Around(private))) is promise
    assert privacy_of(Around(object())) is None
    assert stated_by(private) is promise
    assert stated_by(Around(private)) is None


@dataclass(frozen=True, kw_only=True, eq=False)
class Charged:
    """A model that writes down every row that it is asked about."""

    model: object
    asked: list

    def __getattr__(self, name):
        return getattr(self.model, name)

    def predict(self, x):
        self.asked.extend(row.tobytes() for row in x)
        return self.model.predict(x)


def test_the_given_model_is_asked_about_each_record_once():
    plain = case(Remembers(gain=2.0), n=60)
    charged = replace(plain, model=Charged(model=plain.model, asked=[]))
    methods = {**BOTH, "entropy": Entropy(), "label_only": LabelOnly(shadows=8, copies=1)}
    section = audit(charged, T, methods)
    counts = Counter(charged.model.asked)
    records = {row.tobytes() for part in (plain.data.train, plain.data.test) for row in part.x}
    assert {counts[row] for row in records} == {2}  # once for the answers, once by the attack that asks about copies, the row first
    assert found(section, "membership AUC of this model", "lira") == found(audit(plain, T, methods), "membership AUC of this model", "lira")
