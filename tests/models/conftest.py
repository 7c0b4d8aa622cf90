"""Data sets that all tests of the model door share."""

from __future__ import annotations

import pytest

from carbide.types import Dataset
from tests.models.cases import make_dataset


@pytest.fixture(scope="session")
def data() -> Dataset:
    return make_dataset()


@pytest.fixture(scope="session")
def three() -> Dataset:
    return make_dataset(classes=3)
