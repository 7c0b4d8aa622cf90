"""The operating point and the clean metrics, against brute force."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from carbide.stats.performance import performance, threshold_at_fpr


@given(arrays(float, st.integers(1, 60), elements=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])), st.floats(0.001, 0.999))
def test_the_threshold_is_the_least_that_keeps_the_rate(scores, rate):
    t = threshold_at_fpr(scores, rate)
    assert (scores >= t).mean() <= rate + 1e-9
    lower = [c for c in np.unique(scores) if c < t]
    assert all((scores >= c).mean() > rate for c in lower)


def test_performance_of_a_known_table():
    y = np.array([0, 0, 0, 1, 1])
    p1 = np.array([0.1, 0.6, 0.2, 0.7, 0.3])
    result = performance(y, np.stack([1 - p1, p1], 1), 0.5)
    assert (result.accuracy, result.recall, result.worst_class) == (0.6, 0.5, 0.5)
    assert result.false_positive_rate == 1 / 3
    three = performance(np.array([0, 1, 2]), np.eye(3)[[0, 1, 0]])
    assert three.worst_class == 0
    assert np.isnan(three.recall)
