"""Certified accuracy on Fashion-MNIST: fixed features, closed-form ridge, 1,200 partitions of 50 rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from carbide.data.read_idx import read_array
from carbide.poisoning.prove.partition_ensemble import PartitionEnsemble
from carbide.poisoning.ridge import RidgeRecipe
from carbide.poisoning.votes import certified_share
from carbide.types import Flips, Space
from tests.poisoning.worlds import dataset

FASHION = Path(__file__).parents[3] / "shared" / "data" / "fashion-mnist"
pytestmark = [pytest.mark.shared, pytest.mark.skipif(not FASHION.is_dir(), reason="the real data sets are not beside the project")]


def part(name: str, rows: int):
    x = read_array(FASHION / f"{name}-images-idx3-ubyte.gz")[:rows, None].astype(np.float32) / 255
    return dataset(x, read_array(FASHION / f"{name}-labels-idx1-ubyte.gz")[:rows], Space.image((1, 28, 28)))


def test_fashion_mnist_is_certified_against_hundreds_of_flipped_rows():
    train, test = part("train", 60_000), part("t10k", 2000)
    certificate = PartitionEnsemble(partitions=1200)(RidgeRecipe(), train, test.x, test.y, Flips(fraction=100 / 60_000), np.random.default_rng(0))
    accuracy, at_100, at_300 = certified_share(certificate.bound, np.array([0, 100, 300]))
    assert accuracy >= 0.79
    assert at_100 >= 0.715
    assert at_300 >= 0.5
    assert certificate.value == pytest.approx(at_100)
