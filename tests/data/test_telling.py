"""A feature that is the label under another name is named among a run's warnings, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

import carbide
from carbide.data.telling import telling


def columns(n=60):
    rng = np.random.default_rng(0)
    y = np.arange(n) % 3
    almost = np.where(np.arange(n) == n - 1, 9.0, y)
    return np.stack([y, 7 - 2.5 * y, np.array([2.0, np.nan, -1.0])[y], almost, y + rng.uniform(0, 0.4, n), y // 2, np.ones(n)], 1), y


def test_only_what_the_label_determines_and_what_determines_it_is_told():
    x, y = columns()
    assert telling(x, y).tolist() == [0, 1, 2]
    assert telling(x[:19], y[:19]).tolist() == [], "few rows may match by chance"
    assert telling(x, np.zeros(60, int)).tolist() == [], "one class is told by anything"


@pytest.mark.parametrize("copied", [True, False])
def test_a_run_warns_of_it(copied):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
    x[:, 1] = np.where(copied | (np.arange(200) > 3), 5.0 - y, y)
    report = carbide.audit(None, (x, y), recipe=DecisionTreeClassifier(max_depth=2), threats=[{"extraction": {"queries": 10}}], quiet=True, workers=1)
    said = [words for words in report.results.warnings if "tells the label" in words]
    assert said == (["column 'x1' tells the label of every row; leave it out if it is the label under another name"] if copied else [])
    assert ("tells the label" in str(report)) == copied
    assert ("tells the label" in report._repr_html_()) == copied
