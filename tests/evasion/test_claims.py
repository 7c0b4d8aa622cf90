"""Claims about every row against all pairs of rows that can matter, sound models that are proven, seeded violations that are found."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
import xgboost
from lightgbm import LGBMClassifier
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from xgboost import XGBClassifier

from carbide.evasion.claims import Monotone, NeverFlips, _Task, decide_claim
from carbide.models.boosters import xgboost_classifier
from carbide.models.estimators import EstimatorModel
from carbide.space.membership import cost
from carbide.space.relations import holds
from carbide.types import InputError, Kind, Linear, Price, PriceTable, Ratio, Space

D = 3


def rng():
    return np.random.default_rng(0)


def world(kind, seed):
    """Rows, labels and the space of one kind, small enough that every pair of rows that matters can be tried."""
    draw = np.random.default_rng([seed, 7])
    x = np.round(draw.normal(size=(60, D)) * 2, 1)
    lower, upper, kinds, relations = np.full(D, -5.0), np.full(D, 5.0), np.zeros(D, int), ()
    if kind == "whole":
        x[:, :2], lower[:2], upper[:2], kinds[:2] = draw.integers(0, 5, (60, 2)), 0, 4, Kind.INTEGER
    if kind == "chain":
        x = np.sort(x, axis=1)
        relations = (Linear(features=(0, 1), coefficients=(1.0, -1.0), upper=0.0),)
    if kind == "ratio":
        x[:, :2], lower[:2], upper[:2], kinds[:2] = draw.integers(1, 5, (60, 2)), 1, 4, Kind.INTEGER
        x[:, 2] = x[:, 0] / x[:, 1]
        relations = (Ratio(target=2, numerator=0, denominator=1),)
    y = (x[:, 0] + np.sin(x[:, 1]) + 0.3 * x[:, 2] + draw.normal(size=60) > np.median(x[:, 0])).astype(int)
    return x, y, Space.table([f"f{i}" for i in range(D)], lower=lower, upper=upper, kind=kinds, relations=relations)


def fitted(library, x, y, seed, trees=3, depth=2, **more):
    estimator = {"xgboost": lambda: XGBClassifier(n_estimators=trees, max_depth=depth, learning_rate=0.7, random_state=seed, n_jobs=1, **more),
                 "lightgbm": lambda: LGBMClassifier(n_estimators=trees, num_leaves=2**depth, min_child_samples=4, verbose=-1, n_jobs=1, **more),
                 "forest": lambda: RandomForestClassifier(trees, max_depth=depth, random_state=seed, **more),
                 "boosting": lambda: GradientBoostingClassifier(n_estimators=trees, max_depth=depth, random_state=seed)}[library]()  # fmt: skip
    return estimator.fit(x, y)


def model_of(estimator, space, threshold=0.5):
    return EstimatorModel(estimator=estimator, space=space, classes=2).at(threshold)


def every_row(model):
    """Every row of the space that can matter: whole values, and both sides of each threshold between the bounds."""
    space, trees = model.space, model.ensemble
    sides = []
    for f in range(D):
        cuts = np.unique(trees.threshold[trees.feature == f])
        values = {space.lower[f], space.upper[f], *cuts, *np.nextafter(cuts, np.inf)}
        if space.step[f]:
            values = set(np.arange(space.lower[f], space.upper[f] + 1))
        sides.append(sorted(v for v in values if space.lower[f] <= v <= space.upper[f]))
    ratio = [r for r in space.relations if isinstance(r, Ratio)]
    if ratio:
        sides[2] = [0.0]
    rows = np.array(list(itertools.product(*sides)))
    for r in ratio:
        rows[:, r.target] = rows[:, r.numerator] / rows[:, r.denominator]
    return rows[holds(rows, space)]


def falls(model, f, way):
    """The largest fall of the sum over all pairs in which feature f alone (and its ratios) goes that way, by trying them all."""
    rows = every_row(model)
    sums = model.ensemble.margins(rows)[:, -1]
    others = [g for g in range(D) if g != f and not any(isinstance(r, Ratio) and r.target == g for r in model.space.relations)]
    worst = 0.0
    for i in range(len(rows)):
        moved = (rows[:, others] == rows[i, others]).all(1) & ((rows[:, f] - rows[i, f]) * way > 0)
        worst = max(worst, float((sums[i] - sums[moved]).max(initial=0.0)))
    return worst


def search_only(monkeypatch):
    monkeypatch.setattr(_Task, "tried", lambda self: None)


@pytest.mark.parametrize("kind", ["plain", "whole", "chain", "ratio"])
@pytest.mark.parametrize("library", ["xgboost", "lightgbm", "forest", "boosting"])
def test_monotone_is_what_trying_every_pair_says(kind, library, monkeypatch):
    search_only(monkeypatch)
    seen = set()
    for seed in range(3):
        x, y, space = world(kind, seed)
        model = model_of(fitted(library, x, y, seed), space)
        for f, (direction, way) in itertools.product(range(D - (kind == "ratio")), (("rises", 1), ("falls", -1))):
            found = decide_claim(Monotone(feature=f"f{f}", direction=direction), model, rng=rng())
            worst = falls(model, f, way)
            assert found.word == ("broken" if worst > 1e-5 else "proven"), (seed, f, direction, worst, found)
            seen.add(found.word)
            if found.word == "broken":
                assert found.scores[1] < found.scores[0]
                assert holds(np.stack([found.row, found.changed]), space).all()
                assert found.low <= worst + 1e-9
    assert seen == {"broken", "proven"} or kind == "ratio"


def test_a_pair_that_is_tried_first_breaks_the_claim_too():
    x, y, space = world("plain", 0)
    model = model_of(fitted("xgboost", x, y, 0, trees=20, depth=4), space)
    found = decide_claim(Monotone(feature="f1"), model, rng=rng(), rows=x)
    assert (found.word, found.boxes, found.how) == ("broken", 0, "rows that were tried")
    assert np.flatnonzero(found.row != found.changed).tolist() == [1]
    assert found.changed[1] > found.row[1]


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_models_trained_with_constraints_are_proven_monotone(library):
    x, y, space = world("plain", 1)
    x, y = np.concatenate([x] * 3), np.concatenate([y] * 3)
    constraints = (1, 0, -1) if library == "xgboost" else [1, 0, -1]
    model = model_of(fitted(library, x, y, 0, trees=60, depth=4, monotone_constraints=constraints), space)
    for feature, direction in (("f0", "rises"), ("f2", "falls")):
        found = decide_claim(Monotone(feature=feature, direction=direction), model, rng=rng())
        assert found.proven
        assert found.high == 0.0
        assert not any("rounding" in a for a in found.assumptions)
    assert decide_claim(Monotone(feature="f0", direction="falls"), model, rng=rng()).word == "broken"


def test_one_leaf_that_was_tampered_with_is_found():
    x, y, space = world("plain", 2)
    fit = fitted("xgboost", x, y, 0, trees=40, depth=3, monotone_constraints=(1, 0, 0))
    raw = json.loads(bytes(fit.get_booster().save_raw("json")))
    splits = ((tree, i) for tree in raw["learner"]["gradient_booster"]["model"]["trees"][5:] for i, f in enumerate(tree["split_indices"])
              if f == 0 and tree["left_children"][i] >= 0)  # fmt: skip
    tree, split = next(splits)
    leaf = tree["left_children"][split]
    while tree["left_children"][leaf] >= 0:
        leaf = tree["left_children"][leaf]
    tree["split_conditions"][leaf] = tree["base_weights"][leaf] = 3.0
    booster = xgboost.Booster()
    booster.load_model(bytearray(json.dumps(raw).encode()))
    assert decide_claim(Monotone(feature="f0"), model_of(fit, space), rng=rng()).proven
    found = decide_claim(Monotone(feature="f0"), model_of(xgboost_classifier(booster), space), rng=rng())
    assert found.word == "broken"
    scores = xgboost_classifier(booster).predict_proba(np.stack([found.row, found.changed]))[:, 1]
    assert scores[1] < scores[0]
    assert found.changed[0] > found.row[0]


def priced(draw, kind):
    table = {f"f{i}": Price(up=draw.choice([0.5, 2.0, np.inf]), down=draw.choice([1.0, 3.0]), fixed=draw.choice([0.0, 0.3])) for i in (0, 1)}
    return PriceTable(prices=table if kind != "ratio" else {"f0": table["f0"]})


@pytest.mark.parametrize("kind", ["plain", "whole", "chain", "ratio"])
def test_never_flips_is_what_trying_every_pair_says(kind, monkeypatch):
    search_only(monkeypatch)
    seen = set()
    for seed in range(6):
        draw = np.random.default_rng([seed, 3])
        x, y, space = world(kind, seed)
        fit = fitted("xgboost", x, y, seed, trees=2)
        model = model_of(fit, space, float(np.quantile(fit.predict_proba(x)[:, 1], 0.6)))
        prices = priced(draw, kind)
        rows = every_row(model)
        alert = model.predict(rows)[:, 1] >= model.threshold
        least = math.inf
        for i in np.flatnonzero(alert):
            others = [g for g in range(D) if f"f{g}" not in prices.prices and not (kind == "ratio" and g == 2)]
            there = rows[(rows[:, others] == rows[i, others]).all(1) & ~alert]
            least = min(least, float(cost(np.repeat(rows[[i]], len(there), 0), there, prices, space).min(initial=np.inf)))
        for money in (least * 0.5 if least < np.inf else 9.0, least * 1.01 + 1e-3):
            if least < 1e-6 and money < least:  # a flip that costs next to nothing: money is paid up to rounding
                continue
            claim = NeverFlips(features=tuple(prices.prices), money=money, prices=prices)
            found = decide_claim(claim, model, rng=rng())
            expected = "broken" if least <= money else "proven"
            assert found.word == expected, (seed, least, money, found)
            seen.add(expected)
            if expected == "broken":
                assert found.scores[0] >= model.threshold > found.scores[1]
                assert least - 1e-9 <= found.high <= money + 1e-6
    assert seen == {"broken", "proven"}


def test_never_flips_with_a_matrix_of_prices(monkeypatch):
    search_only(monkeypatch)
    draw = np.random.default_rng(5)
    x = np.column_stack([draw.integers(0, 4, 80), draw.normal(size=80), draw.normal(size=80)]).round(1)
    y = ((x[:, 0] == 2) ^ (x[:, 1] > 0)).astype(int)
    space = Space.table(["f0", "f1", "f2"], lower=np.array([0, -9, -9.0]), upper=np.array([3, 9, 9.0]), kind=np.array([Kind.CATEGORICAL, 0, 0]))
    model = model_of(fitted("xgboost", x, y, 0), space)
    moves = np.array([[0, 7, 5, 6], [4, 0, 8, 6], [9, 6, 0, 7], [5, 9, 8, 0.0]])
    prices = PriceTable(prices={"f0": Price(matrix=moves)})
    rows = every_row(model)
    p = model.predict(rows)[:, 1] >= 0.5
    pairs = ((i, j) for i in np.flatnonzero(p) for j in np.flatnonzero(~p) if (rows[i, 1:] == rows[j, 1:]).all())
    least = min(moves[int(rows[i, 0]), int(rows[j, 0])] for i, j in pairs)
    words = [decide_claim(NeverFlips(features=("f0",), money=money, prices=prices), model, rng=rng()).word for money in (least - 0.5, least)]
    assert words == ["proven", "broken"]


def test_about_given_rows_each_is_searched():
    x, y, space = world("plain", 3)
    model = model_of(fitted("xgboost", x, y, 0), space)
    prices = PriceTable(prices={"f0": Price(down=1.0, fixed=2.0), "f1": Price(down=0.0, up=0.0)})
    far = NeverFlips(features=("f0",), money=100.0, prices=prices, rows=x)
    found = decide_claim(far, model, rng=rng())
    assert found.word == "broken"
    assert found.row[1] == found.changed[1]
    assert found.high == pytest.approx(2.0 + found.row[0] - found.changed[0])
    assert found.scores[0] >= 0.5 > found.scores[1]
    least = found.high
    near = NeverFlips(features=("f0",), money=least * 0.9, prices=prices, rows=x)
    assert decide_claim(near, model, rng=rng()).proven


def test_what_was_not_decided_is_unknown_with_its_bracket(monkeypatch):
    search_only(monkeypatch)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(300, D)).round(2)
    y = (x.sum(1) + draw.normal(size=300) > 0).astype(int)
    space = Space.table(["f0", "f1", "f2"], lower=np.full(D, -9.0), upper=np.full(D, 9.0))
    model = model_of(fitted("xgboost", x, y, 0, trees=30, depth=5), space)
    few = decide_claim(Monotone(feature="f0"), model, rng=rng(), boxes=1)
    assert few.word == "unknown"
    assert few.low == 0
    assert "boxes are open" in few.note
    whole = decide_claim(Monotone(feature="f0"), model, rng=rng())
    assert whole.word == "broken"
    assert whole.low <= few.high


@pytest.mark.parametrize(("make", "words"), [
    (lambda: Monotone(feature="f0", direction="up"), "choose rises or falls"),
    (lambda: NeverFlips(features=("f9",), money=1, prices=PriceTable(prices={})), "has no price"),
    (lambda: NeverFlips(features=(), money=1, prices=PriceTable(prices={})), "at least one feature"),
    (lambda: NeverFlips(features=("f0",), money=-1, prices=PriceTable(prices={"f0": Price(up=1.0)})), "budget >= 0"),
])  # fmt: skip
def test_wrong_claims_are_refused_in_a_sentence(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_claims_that_a_space_forbids_are_refused():
    x, y, space = world("ratio", 0)
    model = model_of(fitted("xgboost", x, y, 0), space)
    with pytest.raises(InputError, match="follows its parts"):
        decide_claim(Monotone(feature="f2"), model, rng=rng())
    with pytest.raises(InputError, match="not in the space"):
        decide_claim(Monotone(feature="f7"), model, rng=rng())
    with pytest.raises(InputError, match="go nowhere"):
        decide_claim(NeverFlips(features=("f0",), money=1, prices=PriceTable(prices={"f0": Price()})), model, rng=rng())
