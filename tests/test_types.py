"""The nouns check themselves and digests tell different things apart."""

from __future__ import annotations

import numpy as np
import pytest

from carbide.types import (
    Access,
    Backdoor,
    FeatureBudget,
    Flips,
    InputError,
    Kind,
    Linear,
    LpBall,
    PriceTable,
    Queries,
    Space,
    decide,
    digest,
    rng_for,
)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (lambda: LpBall(eps=-1), "-1"),
        (lambda: LpBall(eps=float("nan")), "nan"),
        (lambda: LpBall(p=3, eps=1), "3"),
        (lambda: Flips(fraction=1.2), "1.2"),
        (lambda: Backdoor(fraction=0), "0"),
        (lambda: Backdoor(fraction=0.1, target=None), "target is None"),
        (lambda: Backdoor(fraction=0.1, target=0.7), "target is 0.7"),
        (lambda: Backdoor(fraction=0.1, target=True), "target is True"),
        (lambda: Backdoor(fraction=0.1, features=0), "features is 0"),
        (lambda: Queries(n=0), "0"),
        (lambda: Queries(n=2**63 - 1), "9223372036854775807"),
        (lambda: FeatureBudget(money=float("inf"), prices=PriceTable(prices={})), "money is inf"),
        (lambda: Queries(n=1, answers="hints"), "hints"),
        (lambda: FeatureBudget(money=-5, prices=PriceTable(prices={})), "-5"),
        (lambda: Linear(features=(0, 1), coefficients=(1.0,), upper=0), "1 coefficients"),
        (lambda: Space.table(["a", "a"]), "repeat"),
        (lambda: Space.table(["a"], lower=np.array([2.0]), upper=np.array([1.0])), "feature a"),
        (lambda: Space.table(["a"]).index("b"), "'b'"),
    ],
)
def test_wrong_values_are_named(make, value):
    with pytest.raises(InputError) as caught:
        make()
    assert value in str(caught.value)


def test_binary_decisions_use_the_threshold_and_others_the_largest():
    p = np.array([[0.7, 0.3], [0.4, 0.6]])
    assert decide(p, 0.3).tolist() == [1, 1]
    assert decide(p, 0.6).tolist() == [0, 1]
    assert decide(np.array([[0.2, 0.5, 0.3]]), 0.99).tolist() == [1]


def test_digests_depend_on_value_type_and_shape():
    x = np.arange(6.0)
    seen = [
        digest(v) for v in (x, x.reshape(2, 3), x.astype(np.float32), 1, 1.0, True, "1", None, [1], {"a": 1}, {"a": "1"}, LpBall(eps=1), Kind.REAL)
    ]
    assert len(set(seen)) == len(seen)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    with pytest.raises(TypeError, match="cannot hash"):
        digest(object())


def test_streams_depend_on_seed_and_labels_only():
    assert rng_for(0, "a", 1).integers(2**60) == rng_for(0, "a", 1).integers(2**60)
    assert len({int(rng_for(s, label).integers(2**60)) for s in (0, 1) for label in ("a", "b")}) == 4


def test_access_in_words():
    assert (Access.LABELS | Access.SCORES).words() == "labels, scores"
    assert Access(0).words() == "nothing"
