"""Arrays of a program that say more than their numbers are refused, so that nothing is dropped without a word."""

from __future__ import annotations

import numpy as np
import pytest

import carbide
from carbide.data.live import splits_of
from carbide.types import InputError

X = np.random.default_rng(0).normal(size=(60, 2))
Y = np.arange(60) % 2


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ma.masked_greater(X, 0.5), Y, "x has masked values"),
        (X, np.ma.masked_equal(Y, 1), "y has masked values"),
        (X + 5j, Y, r"x holds complex numbers \(complex128\)"),
        ([[1 + 0j, 2]] * 60, Y, "x holds complex numbers"),
        (X, Y + 0j, "y holds"),
    ],
)
def test_masks_and_imaginary_parts_are_not_dropped(x, y, words):
    with pytest.raises(InputError, match=words):
        splits_of((x, y), space=None, seed=0)


def test_masked_arrays_without_a_mask_are_arrays():
    parts = splits_of((np.ma.array(X), np.ma.array(Y)), space=None, seed=0)
    assert len(parts.train) == 36


@pytest.mark.parametrize("seed", [True, "3", -1, 1.5])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises(InputError, match=f"seed is {seed!r}"):
        carbide.audit(None, (X, Y), recipe={"estimator": "decision_tree"}, threats=[{"extraction": {"queries": 10}}], seed=seed)
