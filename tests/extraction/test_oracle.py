"""The oracle answers what the threat says, counts every row and closes."""

from __future__ import annotations

import numpy as np
import pytest

from carbide.extraction.oracle import Oracle, OverBudget
from carbide.types import Access, Queries
from tests.extraction.worlds import softmax

X = np.random.default_rng(0).normal(size=(10, 5))


@pytest.mark.parametrize("answers", ["logits", "probabilities", "labels"])
def test_answers_are_of_the_kind_that_the_threat_says(answers):
    victim = softmax(k=3)
    oracle = Oracle(model=victim, threat=Queries(n=20, answers=answers))
    got = oracle(X)
    shares = victim.predict(X)
    expected = {"logits": np.log(shares), "probabilities": shares, "labels": shares.argmax(1)}[answers]
    np.testing.assert_allclose(got, expected)
    asked = oracle.ask(X)
    assert (asked.logs is None) == (answers == "labels")
    np.testing.assert_array_equal(asked.labels, shares.argmax(1))
    np.testing.assert_allclose(asked.soft(3), shares if answers != "labels" else np.eye(3)[shares.argmax(1)])


def test_every_row_counts_and_none_is_answered_beyond_the_budget():
    oracle = Oracle(model=softmax(), threat=Queries(n=14))
    oracle.ask(X)
    assert (oracle.asked, oracle.left) == (10, 4)
    with pytest.raises(OverBudget, match="10 rows with 4 of 14 left"):
        oracle.ask(X)
    assert oracle.left == 4
    oracle(X[:4])
    with pytest.raises(OverBudget):
        oracle(X[:1])


def test_labels_are_those_at_the_victims_threshold():
    victim = softmax().at(0.9)
    got = Oracle(model=victim, threat=Queries(n=10, answers="labels"))(X)
    np.testing.assert_array_equal(got, victim.predict(X)[:, 1] >= 0.9)


def test_a_model_without_scores_gives_labels_whatever_is_asked():
    oracle = Oracle(model=softmax(access=Access.LABELS), threat=Queries(n=10, answers="logits"))
    assert oracle.answers == "labels"
    assert oracle(X).dtype == np.int64


def test_a_closed_oracle_answers_nobody():
    oracle = Oracle(model=softmax(), threat=Queries(n=100))
    keep = oracle._victim
    oracle.close()
    with pytest.raises(OverBudget, match="answering alone"):
        keep.predict(X)
    with pytest.raises(OverBudget):
        oracle.ask(X)


def test_impossible_probabilities_have_finite_logits():
    victim = softmax()
    object.__setattr__(victim, "b", np.array([5000.0, 0.0]))
    assert np.isfinite(Oracle(model=victim, threat=Queries(n=10, answers="logits"))(X)).all()
