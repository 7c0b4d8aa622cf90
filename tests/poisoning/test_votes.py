"""The certificate's formula against every way of replacing ballots."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carbide.poisoning.votes import certified_changes, certified_figure, certified_share, winners
from carbide.types import Certificate, decide


def changes_needed(votes: np.ndarray) -> int:
    """The least number of replaced ballots that changes the winner, by trying all outcomes of an election of as many ballots."""
    total, classes = int(votes.sum()), len(votes)
    top = winners(votes[None])[0]
    best = total + 1
    for bars in itertools.combinations(range(total + classes - 1), classes - 1):  # every way to share the ballots out
        other = np.diff([-1, *bars, total + classes - 1]) - 1
        if winners(other[None])[0] != top:
            best = min(best, int(np.maximum(votes - other, 0).sum()))
    return best


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=2, max_size=4).filter(lambda v: 0 < sum(v) <= 10))
def test_bound_is_exactly_one_less_than_the_least_change_that_works(counts):
    votes = np.array(counts)
    assert certified_changes(votes[None])[0] == changes_needed(votes) - 1


@given(st.lists(st.lists(st.integers(0, 40), min_size=3, max_size=3), min_size=1, max_size=20))
def test_bound_is_never_negative_and_grows_with_the_lead(rows):
    votes = np.array(rows)
    bound = certified_changes(votes)
    assert (bound >= 0).all()
    more = votes.copy()
    more[np.arange(len(votes)), winners(votes)] += 2
    np.testing.assert_array_equal(certified_changes(more), bound + 1)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_winners_are_what_decide_reads_from_the_shares(classes):
    votes = np.random.default_rng(0).integers(0, 4, size=(500, classes))
    shares = votes / np.maximum(votes.sum(1, keepdims=True), 1)
    some = votes.sum(1) > 0
    np.testing.assert_array_equal(winners(votes)[some], decide(shares)[some])


def test_certified_share_counts_bounds_at_least_as_large():
    bound = np.array([-1, 0, 2, 2, 5])
    np.testing.assert_allclose(certified_share(bound, np.array([0, 1, 2, 3, 6])), [0.8, 0.6, 0.6, 0.2, 0.0])


def test_figure_is_the_certified_accuracy_curve():
    bound = np.array([-1.0, 0, 1, 3])
    certificate = Certificate(
        claim="c", holds=bound >= 1, bound=bound, failure_probability=0, assumptions=("a",), method="m", threat="t", unit="training rows"
    )
    line = certified_figure(certificate).series[0]
    assert line.x.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_allclose(line.y, [0.75, 0.5, 0.25, 0.25, 0.0])
