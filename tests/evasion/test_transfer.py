from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from carbide.data.live import dataset_of
from carbide.evasion._counted import Counted
from carbide.evasion._gradients import Ball
from carbide.evasion._surrogate import surrogate_for, teach
from carbide.evasion.audit.transfer import Transfer, _Oracle, climb
from carbide.evasion.judge import audit, judge
from carbide.models.estimators import EstimatorModel
from carbide.space.balls import inside_ball
from carbide.types import Access, Case, InputError, Kind, LpBall, Space, Splits, decide, rng_for
from tests.evasion.nets import bounded, digits, digits_net, linear, unit_space


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """What an outsider sees of a model: its answers, or labels alone; no logits, no module."""

    inner: Any
    access: Access = Access.LABELS

    def __post_init__(self):
        object.__setattr__(self, "space", self.inner.space)
        object.__setattr__(self, "classes", self.inner.classes)
        object.__setattr__(self, "threshold", self.inner.threshold)

    def predict(self, x):
        p = self.inner.predict(x)
        return p if Access.SCORES in self.access else np.eye(p.shape[1])[decide(p, self.threshold)]

    def digest(self):
        return f"answers {self.access} {self.inner.digest()}"


def broken(model, attack, x, y, threat):
    return judge(model, x, y, attack(model, x, y, threat, rng_for(0)), threat, model.space).success


@pytest.mark.parametrize("p", [np.inf, 2, 1])
@pytest.mark.parametrize("access", [Access.LABELS, Access.LABELS | Access.SCORES])
def test_a_linear_model_falls_where_its_plane_says(p, access):
    model, x, y, distance = bounded(4)
    eps = float(np.median(distance[p]))
    found = broken(Answers(inner=model, access=access), Transfer(queries=12), x, y, LpBall(p=p, eps=eps))
    assert found[distance[p] < 0.85 * eps].mean() >= 0.9
    assert not found[distance[p] > eps * 1.0001].any()


def test_scores_are_read_at_the_threshold_where_the_model_decides():
    model, x, y, distance = bounded(4)
    with torch.no_grad():  # the same boundary, at another threshold
        model.module.bias[1] += np.log(0.9 / 0.1)
    seen = Answers(inner=model.at(0.9), access=Access.LABELS | Access.SCORES)
    oracle = _Oracle(seen, 2 * len(x))
    labels = oracle.ask(x)
    assert 0.2 < labels.mean() < 0.8
    np.testing.assert_array_equal(oracle.answers[0][:, 1] >= 0.5, labels == 1)
    np.testing.assert_allclose(oracle.answers[0].sum(1), 1)
    eps = float(np.median(distance[np.inf]))
    found = broken(seen, Transfer(queries=12), x, y, LpBall(eps=eps))
    assert found[distance[np.inf] < 0.85 * eps].mean() >= 0.9


def test_answers_are_counted_to_the_last_and_rows_that_fall_ask_no_more():
    test, model = digits().test, Answers(inner=digits_net())
    x, y = test.x[:12], test.y[:12]
    for queries, lessons in ((4, 0.5), (9, 0.3), (6, 0.0)):
        counted = Counted(model)
        Transfer(queries=queries, lessons=lessons, nets=1, steps=2)(counted, x, y, LpBall(eps=1e-6), rng_for(0))
        assert counted.queries == queries * len(x)
    counted = Counted(model)
    Transfer(queries=30, lessons=0.1, nets=1)(counted, x, y, LpBall(eps=1.0), rng_for(0))
    assert counted.queries < 15 * len(x)


def test_on_images_labels_alone_beat_noise_and_lessons_pay():
    test, model, threat = digits().test, Answers(inner=digits_net()), LpBall(eps=0.15)
    x, y = test.x[:60], test.y[:60]
    taught = broken(model, Transfer(queries=10), x, y, threat).sum()
    rng = np.random.default_rng(0)
    noise = np.zeros(60, bool)
    for _ in range(20):
        z = np.clip(x + rng.choice([-0.15, 0.15], size=x.shape), 0, 1)
        noise |= decide(model.predict(z)) != y
    assert taught > 2 * noise.sum()
    assert taught > broken(model, Transfer(queries=4, lessons=0), x, y, threat).sum()


def test_trees_are_reached_through_nets():
    rng = np.random.default_rng(0)
    x = rng.uniform(size=(200, 5))
    y = (x.sum(1) > 2.5).astype(np.int64)
    forest = EstimatorModel(estimator=RandomForestClassifier(20, random_state=0, n_jobs=1).fit(x, y), space=unit_space(5), classes=2)
    found = broken(forest, Transfer(queries=12), x[:60], y[:60], LpBall(eps=0.1))
    noise = judge(forest, x[:60], y[:60], x[:60] + rng.choice([-0.1, 0.1], size=(60, 5)), LpBall(eps=0.1), forest.space).success
    assert found.sum() > noise.sum() + 3


def test_momentum_climbs_to_the_corner_and_a_taught_surrogate_points_as_the_model_does():
    w = np.array([2.0, -1.0, 0.5])
    model = linear(w, -0.8, space=unit_space(3))
    x = np.random.default_rng(0).uniform(0.3, 0.7, size=(20, 3))
    y = torch.as_tensor((x @ w > 0.8).astype(np.int64))
    ball = Ball.of(model, x, LpBall(eps=0.1))
    z = climb(model, ball, ball.clean, y, steps=10, decay=1.0)
    np.testing.assert_allclose(z.detach().numpy(), x - 0.1 * np.sign(w) * np.where(y == 1, 1, -1)[:, None], atol=1e-9)
    many = np.random.default_rng(1).uniform(size=(400, 3))
    surrogate = surrogate_for(model.space, 2, many, nets=2, seed=0)
    teach(surrogate, many, np.eye(2)[decide(model.predict(many))], steps=300, generator=torch.Generator().manual_seed(0))
    inputs = surrogate.tensor(x).requires_grad_(True)
    logits = surrogate.logits(inputs)
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), inputs)
    cosine = torch.nn.functional.cosine_similarity(gradient.double(), torch.as_tensor(w)[None])
    assert float(cosine.mean()) > 0.9


def test_tables_keep_their_steps_and_the_run_repeats():
    space = Space.table(["count", "fixed", "free"], lower=np.zeros(3), upper=np.full(3, 9.0), kind=np.array([Kind.INTEGER, Kind.REAL, Kind.REAL]),
                        mutable=np.array([True, False, True]))  # fmt: skip
    model = Answers(inner=linear(np.ones(3), -13.2, space=space))
    x = np.tile([4.0, 5.0, 3.0], (8, 1)) + np.arange(8)[:, None] * [0, 0.1, 0.05]
    y, threat = np.zeros(8, np.int64), LpBall(eps=1.5)
    z = Transfer(queries=8)(model, x, y, threat, rng_for(0))
    np.testing.assert_array_equal(z[:, 1], x[:, 1])
    np.testing.assert_array_equal(z[:, 0], z[:, 0].round())
    assert inside_ball(z, x, p=np.inf, eps=1.5, lower=space.lower, upper=space.upper, slack=1e-9).all()
    np.testing.assert_array_equal(z, Transfer(queries=8)(model, x, y, threat, rng_for(0)))


def test_an_audit_by_name_says_how_many_answers_a_row():
    test = digits().test
    data = dataset_of(test.x[:40], test.y[:40], space=test.space, classes=10)
    case = Case(model=Answers(inner=digits_net()), data=Splits(train=data, validation=data, test=data))
    section = audit(case, LpBall(eps=0.15), {"transfer": Transfer(queries=8)})
    found = next(f for f in section.findings if f.method == "transfer")
    assert found.access == "labels"
    assert "queries a row" in found.note
    assert section.headline().value < 1


def test_wrong_options_are_refused_by_name():
    for wrong, word in (
        ({"queries": 3}, "queries is 3"),
        ({"lessons": 1.0}, "lessons is 1"),
        ({"nets": 0}, "nets is 0"),
        ({"decay": -1.0}, "decay is -1"),
    ):
        with pytest.raises(InputError, match=word):
            Transfer(**wrong)
    assert Transfer().quick().queries == 6
    assert "linf" in (Transfer().refuses(None, LpBall(p=0, eps=1)) or "")
