"""Attacks beyond LiRA and the loss: closed forms, an exact likelihood ratio, and worlds in which there is nothing to find."""

import http.server
import json
import threading
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t
from sklearn.ensemble import RandomForestClassifier

from carbide.models.estimators import EstimatorRecipe
from carbide.models.remote import HttpModel
from carbide.privacy.audit.bavaria import Bavaria, _inverse_trigamma, prior_freedom
from carbide.privacy.audit.entropy import Entropy, modified
from carbide.privacy.audit.label_only import LabelOnly
from carbide.privacy.audit.lira import Lira
from carbide.privacy.audit.loss_threshold import LossThreshold
from carbide.privacy.audit.quantile_regression import QuantileRegression
from carbide.privacy.audit.rmia import Rmia
from carbide.privacy.judge import audit
from carbide.privacy.shadows import Recorded, Shadows, design, no_shadows
from carbide.privacy.signals import logit, odds
from carbide.privacy.trials import play, set_up
from carbide.stats.roc import auc, roc_intervals
from carbide.types import Access, Case, InputError, Kind, Membership, Space, Splits
from tests.privacy.test_attacks import from_logits
from tests.privacy.worlds import Remembers, case, table

RNG = np.random.default_rng(0)
T = Membership()


def gaussian_world(seed, *, m=24, n=80, gain=1.0, spread=(0.4, 0.4)):
    rng = np.random.default_rng(seed)
    records = table(n)
    members = design(records.y, m, rng)
    logits = rng.normal(0, 0.5, n) + gain * members + rng.uniform(*spread, n) * rng.standard_normal((m, n))
    return records, Shadows(members=members, answers=from_logits(logits, records.y)), logits


def test_bavaria_is_a_ratio_of_student_t_predictions():
    records, shadows, logits = gaussian_world(1, m=12)
    left, keep = shadows.without(4), np.arange(12) // 2 != 2
    found = Bavaria(shadows=12, prior=6.0)(shadows.target(4, records), records, RNG, left)
    expected = np.zeros(len(records))
    for side, sign in ((True, 1), (False, -1)):
        chosen = shadows.members[keep] == side
        squares = [((logits[keep][chosen[:, i], i] - logits[keep][chosen[:, i], i].mean()) ** 2).sum() for i in range(len(records))]
        pooled = sum(squares) / (chosen.sum(0) - 1).sum()
        for i, square in enumerate(squares):
            values = logits[keep][chosen[:, i], i]
            freedom = len(values) - 1 + 6.0
            scale = np.sqrt((square + 6.0 * pooled) / freedom * (1 + 1 / len(values)))
            expected[i] += sign * t.logpdf(logits[4, i], freedom, values.mean(), scale)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_prior_of_the_variance_is_found_again():
    rng = np.random.default_rng(2)
    variance = 8.0 / rng.chisquare(8.0, 20_000)  # inverse chi-square of 8 degrees of freedom
    freedom = np.full(20_000, 5)
    assert prior_freedom(variance * rng.chisquare(5, 20_000), freedom) == pytest.approx(8.0, rel=0.1)
    assert prior_freedom(rng.chisquare(5, 20_000), freedom) > 100  # all variances the same: pool them
    assert prior_freedom(np.zeros(5), np.zeros(5, int)) == 1e6
    from scipy.special import polygamma

    for x in (0.01, 0.7, 30.0):
        assert _inverse_trigamma(float(polygamma(1, x))) == pytest.approx(x, rel=1e-8)


def test_few_references_serve_bavaria_no_worse_than_lira():
    areas = {"lira": [], "bavaria": []}
    for seed in range(8):
        records, shadows, _ = gaussian_world(seed, m=8, n=60, gain=0.6, spread=(0.1, 1.5))
        for name, method in (("lira", Lira(shadows=8)), ("bavaria", Bavaria(shadows=8))):
            scores = np.stack([method(shadows.target(i, records), records, RNG, shadows.without(i)) for i in range(8)])
            areas[name].append(auc(scores, shadows.members))
    assert np.mean(areas["bavaria"]) > np.mean(areas["lira"]) - 0.005


@pytest.mark.parametrize("method", [Lira(shadows=24, offline=True), Bavaria(shadows=24, offline=True)])
def test_offline_attacks_never_look_at_references_that_hold_the_record(method):
    records, shadows, logits = gaussian_world(3)
    left = shadows.without(0)
    blind = replace(left, answers=np.where(left.members[..., None], 0.5, left.answers))
    np.testing.assert_array_equal(*(method(shadows.target(0, records), records, RNG, s) for s in (left, blind)))
    scores = np.stack([method(shadows.target(i, records), records, RNG, shadows.without(i)) for i in range(24)])
    assert auc(scores, shadows.members) > 0.9
    if isinstance(method, Lira):
        keep = np.arange(24) >= 2
        seen = logit(*odds(shadows.answers[0], records.y), 1e-12)[0]
        outside = logits[keep, 0][~shadows.members[keep, 0]]
        assert (scores[0, 0] > 0) == (seen > outside.mean())


def test_modified_entropy_by_hand():
    p, y = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]]), np.array([0, 2])
    by_hand = [-(0.3 * np.log(0.7) + 0.2 * np.log(0.8) + 0.1 * np.log(0.9)), -(0.7 * np.log(0.3) + 0.1 * np.log(0.9) + 0.6 * np.log(0.4))]
    np.testing.assert_allclose(modified(p, y), by_hand)
    rows = table(2)
    model = Recorded(records=rows, answers=np.array([[0.5, 0.5], [0.9, 0.1]]))
    np.testing.assert_allclose(Entropy(label=False)(model, rows, RNG, None), [-np.log(2), 0.9 * np.log(0.9) + 0.1 * np.log(0.1)])
    sure = Recorded(records=rows, answers=np.stack([1.0 - rows.y, rows.y], 1)[:, ::-1])
    assert np.isfinite(Entropy()(sure, rows, RNG, None)).all()


class Slab:
    """Labels 1 where the first feature is at least a half; answers labels only."""

    space, classes, threshold, access = Space.table(["f0", "f1", "f2"], lower=np.zeros(3), upper=np.ones(3)), 2, 0.5, Access.LABELS

    def __init__(self):
        self.asked = 0

    def predict(self, x):
        self.asked += len(x)
        return np.eye(2)[(x[:, 0] >= 0.5).astype(int)]


def test_labels_of_noisy_copies_tell_the_distance_to_the_boundary():
    rows = table(300)
    rows = rows.take(np.abs(rows.x[:, 0] - 0.5) > 0.01)
    model, method = Slab(), LabelOnly(shadows=0, copies=60, sizes=(0.4,))
    scores = method(model, rows, np.random.default_rng(1), None)
    assert model.asked == len(rows) * method.queries(images=False)
    spread = rows.x[:, 0].std()
    truth = 0.5 + 0.5 * norm.cdf(np.abs(rows.x[:, 0] - 0.5) / (0.4 * spread))  # clipping at 0 and 1 crosses no boundary
    assert np.abs(scores - truth).max() < 0.16
    assert np.abs(scores - truth).mean() < 0.03
    wrong = rows.with_(y=1 - rows.y)
    assert method(model, wrong, np.random.default_rng(1), None).max() < 0.5


def test_copies_stay_in_the_space_and_keep_groups_whole():
    kinds = np.array([Kind.ONE_HOT, Kind.ONE_HOT, Kind.REAL])
    rows = table(50)
    x = rows.x.copy()
    x[:, 0] = (x[:, 0] > 0.5).astype(float)
    x[:, 1] = 1 - x[:, 0]
    rows = replace(rows, x=x, space=Space.table(["a", "b", "c"], lower=np.zeros(3), upper=np.ones(3), kind=kinds, groups=((0, 1),)))
    for copy in LabelOnly(copies=3)._copies(rows, np.random.default_rng(0)):
        assert (copy[:, :2].sum(1) == 1).all()
        assert copy.min() >= 0
        assert copy.max() <= 1
        assert (copy[:, 2] != x[:, 2]).any()


@pytest.fixture(scope="module")
def forest():
    rng = np.random.default_rng(6)
    parts = []
    for seed in (1, 2, 3):
        base = table(90, seed=seed, d=5)
        parts.append(base.with_(y=(base.x[:, 0] + 0.4 * rng.normal(size=90) > 0.5).astype(np.int64)))
    recipe = EstimatorRecipe(estimator=RandomForestClassifier(n_estimators=15))
    data = Splits(train=parts[0], validation=parts[1], test=parts[2])
    return Case(model=recipe.fit(parts[0], np.random.default_rng(0)), data=data, recipe=recipe)


def test_every_attack_plays_against_a_forest_that_overfits(forest):
    methods = {"label_only": LabelOnly(shadows=12, copies=4), "entropy": Entropy(), "quantile_regression": QuantileRegression(trees=10),
               "bavaria": Bavaria(shadows=12), "plain": LabelOnly(shadows=0, copies=4)}  # fmt: skip
    game = set_up(forest, methods)
    assert game.shadows.apart_answers.shape == (12, 90, 2)
    held = {row.tobytes() for row in game.records.x}
    assert not any(row.tobytes() in held for row in game.wanted.apart.x)
    found = {name: play(name, method, forest, game) for name, method in methods.items()}
    for name, least in {"label_only": 0.6, "entropy": 0.6, "quantile_regression": 0.6, "bavaria": 0.8, "plain": 0.5}.items():
        trial = found[name]
        assert auc(trial.scores, trial.members) > least, name
        assert abs(auc(trial.control, trial.control_members) - 0.5) < 0.08, name
        assert auc(trial.own, game.inside) > 0.5, name


def test_answers_that_are_recorded_are_those_of_a_living_model(forest):
    method = LabelOnly(shadows=4, copies=3)
    game = set_up(forest, {"label_only": method})
    trial = play("label_only", method, forest, game)
    again = play("label_only", method, forest, set_up(forest, {"label_only": method, "entropy": Entropy()}))
    np.testing.assert_array_equal(trial.scores, again.scores)
    lone = Recorded(records=game.records, answers=forest.model.predict(game.records.x))
    with pytest.raises(InputError, match="was not asked what LabelOnly needs"):
        method(lone, game.records, RNG, None)


def test_quantile_regression_calls_members_by_their_own_quantile():
    # the confidence of non-members is a known function of a feature: what is left is the gain of members
    rng = np.random.default_rng(4)
    rows, apart = table(200, seed=1), table(400, seed=2)
    line = lambda d: 4 * d.x[:, 1] + 0.3 * rng.standard_normal(len(d))  # noqa: E731
    inside = rng.random(200) < 0.5
    model = Recorded(records=rows, answers=from_logits(line(rows)[None] + 1.0 * inside, rows.y)[0], apart=apart,
                     apart_answers=from_logits(line(apart)[None], apart.y)[0])  # fmt: skip
    scores = QuantileRegression()(model, rows, RNG, no_shadows(rows, apart))
    assert auc(scores, inside) > 0.9
    assert auc(LossThreshold()(model, rows, RNG, None), inside) < 0.75
    assert (scores[~inside] > 1).mean() < 0.15  # near the nominal 5%, from few rows
    with pytest.raises(InputError, match="there are 10; give more validation rows"):
        QuantileRegression()(model, rows, RNG, no_shadows(rows, apart.take(np.arange(10))))
    with pytest.raises(InputError, match="there are 0"):
        QuantileRegression()(model, rows, RNG, None)
    few = case(Remembers(gain=1.0), n=30)
    assert "there are 30" in QuantileRegression().refuses(few, T)


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Answers rows with a model's probabilities."""

    model = None

    def do_POST(self):
        rows = np.array(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["inputs"])
        said = json.dumps({"probabilities": self.model.predict(rows).tolist()}).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *args):
        pass


def test_an_endpoint_is_attacked_by_its_answers_with_and_without_a_recipe(forest):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Endpoint,), {"model": forest.model}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        remote = HttpModel(url=f"http://127.0.0.1:{server.server_port}/", space=forest.data.train.space, classes=2)
        methods = {"entropy": Entropy(), "label_only": LabelOnly(shadows=4, copies=2), "quantile_regression": QuantileRegression(trees=5)}
        plain = audit(replace(forest, model=remote, recipe=None), T, methods)
        assert {f.method for f in plain.findings} == set(methods)
        both = audit(replace(forest, model=remote), T, methods | {"bavaria": Bavaria(shadows=6)})
        own = next(f for f in both.findings if (f.method, f.metric) == ("bavaria", "membership AUC of this model"))
        assert own.value > 0.7
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(("cls", "options", "words"), [
    (Bavaria, {"shadows": 4}, "shadows is 4"), (Bavaria, {"prior": 0}, "prior is 0"), (LabelOnly, {"shadows": 3}, "shadows is 3"),
    (LabelOnly, {"copies": 0}, "copies is 0"), (LabelOnly, {"sizes": ()}, r"sizes is \(\)"), (LabelOnly, {"sizes": (0.1, -1)}, "sizes is"),
    (QuantileRegression, {"level": 0.5}, "level is 0.5"), (QuantileRegression, {"trees": 0}, "trees is 0"), (QuantileRegression, {"depth": 0}, "depth is 0")])  # fmt: skip
def test_wrong_options_are_refused(cls, options, words):
    with pytest.raises(InputError, match=words):
        cls(**options)


def test_a_null_world_gives_half_within_its_interval_for_every_attack():
    start = case(Remembers(gain=0.0), n=60, seed=5)
    methods = {"lira": Lira(shadows=12), "offline": Lira(shadows=12, offline=True), "bavaria": Bavaria(shadows=12), "entropy": Entropy(),
               "rmia": Rmia(shadows=12), "label_only": LabelOnly(shadows=12, copies=2), "quantile_regression": QuantileRegression(trees=5)}  # fmt: skip
    game = set_up(start, methods)
    for name, method in methods.items():
        trial = play(name, method, start, game)
        interval = roc_intervals(trial.scores, trial.members, (), np.random.default_rng(0)).auc
        assert interval.low - 0.01 <= 0.5 <= interval.high + 0.01, name
