"""The built-in cases against their own description: rates, order, relations, looks back in time by brute force."""

import hashlib
import time

import numpy as np
import pytest

from carbide.data.cases import CASES, PRICES, SPACE, builtin, builtin_prices
from carbide.data.cases import _fraud_world as hidden
from carbide.data.cases import fraud as case
from carbide.space.files import load_space
from carbide.space.prices import cost, load_prices
from carbide.space.relations import holds
from carbide.types import InputError, Kind, digest, rng_for


@pytest.fixture(scope="module")
def made():
    return case.make_fraud(40_000, seed=3)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others():
    one, two, other = (case.make_fraud(3_000, seed=s) for s in (5, 5, 6))
    assert digest(one.data) == digest(two.data)
    assert one.day.tobytes() == two.day.tobytes()
    assert digest(one.data) != digest(other.data)


def test_fraud_is_rare_in_time_order_and_some_of_it_is_never_reported(made):
    assert 0.008 <= made.data.y.mean() <= 0.012
    assert (np.diff(made.day) >= 0).all()
    assert made.day[0] >= 0
    assert made.day[-1] < hidden.DAYS
    assert not made.data.y[made.way == 0].any()  # an honest payment is never labelled fraud
    missed = (made.data.y[made.way > 0] == 0).mean()
    assert 0.01 < missed < 0.06  # 3% of about 360
    assert len(np.unique(made.way)) == len(case.WAYS)
    assert len(np.unique(made.data.source)) == 12


def test_a_part_begins_when_the_labels_before_it_are_known(made):
    splits = made.splits()
    ids = {part: np.isin(made.data.ids, getattr(splits, part).ids) for part in ("train", "validation", "test")}
    days = {part: made.day[rows] for part, rows in ids.items()}
    assert days["train"].max() + case.DELAY <= days["validation"].min()
    assert days["validation"].max() + case.DELAY <= days["test"].min()
    assert all(getattr(splits, part).y.sum() >= 40 for part in ids)


def test_every_row_lies_in_the_space(made):
    x, space = made.data.x, made.data.space
    assert space.names == case.NAMES
    assert np.isfinite(x).all()
    assert (x >= space.lower).all()
    assert (x <= space.upper).all()
    assert holds(x, space).all()
    whole = space.kind != Kind.REAL
    assert (x[:, whole] == np.round(x[:, whole])).all()
    for name, texts in space.categories.items():
        assert set(np.unique(x[:, space.index(name)])) <= set(range(len(texts)))


def test_what_looks_back_is_what_a_loop_over_the_payments_counts():
    rng = rng_for(0, "test")
    world = hidden.make_world(1_000, rng)
    events = hidden.in_order(hidden.joined(hidden.honest(world, 900, rng), hidden.frauds(world, 100, rng)))
    reported = events.way > 0
    x = case._features(world, events, reported)
    column = {name: x[:, j] for j, name in enumerate(case.NAMES)}
    for i in rng.permutation(1_000)[:200]:
        own = events.customer == events.customer[i]
        before = own & (events.day <= events.day[i])
        for name, window in (("tx_1h", 1 / 24), ("tx_24h", 1.0), ("tx_7d", 7.0)):
            assert column[name][i] == (before & (events.day > events.day[i] - window)).sum(), name
        older = own & (events.day < events.day[i] - 1)
        usual = 45.0 * world.wealth[events.customer[i]]
        assert column["mean_amount"][i] == pytest.approx((3 * usual + column["amount"][older].sum()) / (3 + older.sum()), abs=0.006)
        today = np.floor(events.day[i])
        known = (events.merchant == events.merchant[i]) & (np.floor(events.day) < today - 7) & (np.floor(events.day) >= max(today - 7, 0) - 28)
        assert column["terminal_risk"][i] == pytest.approx(((known & reported).sum() + 0.1) / (known.sum() + 10), abs=6e-5)


def test_no_report_is_used_before_it_arrives():
    """Labels of the last seven days before a payment change nothing in it."""
    rng = rng_for(1, "test")
    world = hidden.make_world(2_000, rng)
    events = hidden.in_order(hidden.joined(hidden.honest(world, 1_800, rng), hidden.frauds(world, 200, rng)))
    day = 90.0
    old = (events.way > 0) & (events.day < day - case.DELAY)
    now = (events.day >= day) & (events.day < day + 1)
    with_, without = (case._features(world, events, labels)[now] for labels in (events.way > 0, old))
    np.testing.assert_array_equal(with_, without)


def test_a_hundred_thousand_payments_take_less_than_three_seconds():
    start = time.process_time()
    assert len(case.make_fraud(100_000, seed=1).data) == 100_000
    assert time.process_time() - start < 3.0


def test_too_few_payments_and_unknown_cases_are_refused():
    with pytest.raises(InputError, match="n is 10"):
        case.make_fraud(10)
    for function in (builtin, builtin_prices):
        with pytest.raises(InputError, match="'frauds'"):
            function("frauds")


def test_cases_are_made_once_a_process():
    assert builtin("fraud") is builtin("fraud")
    assert builtin("fraud", seed=1) is not builtin("fraud")
    assert set(CASES) == {"fraud", "patients", "images"}


def test_the_shipped_files_are_the_case():
    table = load_prices(PRICES, load_space(SPACE))
    assert digest(load_space(SPACE)) == digest(builtin("fraud").train.space)
    assert digest(table) == digest(builtin_prices("fraud"))
    assert table.gain == "amount"
    assert builtin_prices("patients") is None
    assert builtin_prices("images") is None


def test_prices_say_what_the_description_says():
    space, table = load_space(SPACE), builtin_prices("fraud")
    assert table is not None
    row = builtin("fraud").train.x[:1]

    def price(**change: float) -> float:
        moved = row.copy()
        for name, by in change.items():
            moved[:, space.index(name)] += by
        return float(cost(row, moved, table, space)[0])

    assert price(amount=-1) == pytest.approx(1)
    assert price(amount=1) == np.inf
    assert price(account_age=2, device_age=1) == pytest.approx(4)
    assert price(account_age=-1) == np.inf
    assert all(price(**{name: 1}) == np.inf for name in ("credit_limit", "mean_amount", "terminal_risk", "distance", "card_present"))
    hour = space.index("hour")
    away = row.copy()
    away[:, hour] = (row[:, hour] + 7) % 24
    assert cost(row, away, table, space)[0] == 0
    moves = np.asarray(table.prices["country"].matrix)
    assert (moves[np.arange(1, 4), 0] == 6).all()  # a residential proxy at home


def test_plain_boosting_is_as_good_as_such_models_are():
    xgboost = pytest.importorskip("xgboost")
    from sklearn.metrics import average_precision_score

    splits = builtin("fraud")
    model = xgboost.XGBClassifier(n_estimators=100, max_depth=6, learning_rate=0.1, n_jobs=1).fit(splits.train.x, splits.train.y)
    assert 0.5 <= average_precision_score(splits.test.y, model.predict_proba(splits.test.x)[:, 1]) <= 0.7


def test_patients_are_cut_by_class_and_malignant_is_one():
    from sklearn.datasets import load_breast_cancer

    raw, splits = load_breast_cancer(), builtin("patients")
    parts = (splits.train, splits.validation, splits.test)
    assert sum(map(len, parts)) == len(raw.target)
    ill = {digest(row) for row in raw.data[raw.target == 0]}  # scikit-learn codes malignant as 0
    assert all((digest(row) in ill) == bool(label) for part in parts for row, label in zip(part.x, part.y, strict=True))
    assert all(abs(part.y.mean() - 212 / 569) < 0.01 for part in parts)
    assert (splits.train.space.lower >= 0).all()
    assert all((part.x >= part.space.lower).all() and (part.x <= part.space.upper).all() for part in parts)
    assert len({i for part in parts for i in part.ids}) == 569


def test_images_lie_in_the_unit_interval_and_fit_float32():
    splits = builtin("images", seed=2)
    assert splits.train.x.shape[1:] == (1, 8, 8)
    assert splits.train.space.is_image
    assert sum(len(part) for part in (splits.train, splits.validation, splits.test)) == 1797
    assert (splits.test.x.astype(np.float32) == splits.test.x).all()
    assert splits.test.x.min() == 0
    assert splits.test.x.max() == 1
    assert not set(splits.train.ids) & set(splits.test.ids)


def test_ids_are_hashes_of_the_row():
    data = builtin("images").test
    assert data.ids[0] == hashlib.sha256(data.x[0].astype("<f8").tobytes()).hexdigest()[:16]
    assert len(set(data.ids)) == len(data)
