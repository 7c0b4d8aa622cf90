"""The examination of any model before a number is measured: how it answers, and whether data and model belong together.

A refused symptom makes every figure meaningless (a row's answer depends on its neighbours, inputs of another scale); a
noted one stands in the report. Nothing here draws from a method's rng or changes the model.

>>> import numpy as np
>>> from carbide.models.callables import CallableModel
>>> from carbide.types import Dataset, Space
>>> x = np.linspace(0, 1, 40)[:, None]
>>> data = Dataset(x=x, y=(x[:, 0] > 0.5).astype(int), ids=np.arange(40).astype(str), source=np.full(40, ""), space=Space.table(["a"]), classes=2)
>>> model = CallableModel(function=lambda x: np.tile([0.2, 0.8], (len(x), 1)), space=data.space, classes=2)
>>> [(s.name, s.done) for s in examine(model, data, data)]
[('constant answers', 'noted')]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carbide.models.examination.answers import examine_answers
from carbide.models.examination.calls import answers_vary, examine_calls
from carbide.models.examination.seeds import seeded
from carbide.types import Access, Array, Dataset, InputError, Model, Symptom

__all__ = ["answers_vary", "examine", "refuse", "spread_rows"]

ROWS = 256  # rows whose labels are compared
ASKED = 64  # rows that are asked again and again
SEED = 20180201


def examine(model: Model, train: Dataset, test: Dataset) -> tuple[Symptom, ...]:
    """Symptoms of a model on test rows; ``train`` says only how inputs are scaled."""
    rows = spread_rows(len(test), ROWS if Access.WEIGHTS in model.access else ASKED)  # a black box may be far away and paid for
    x, y = test.x[rows], test.y[rows]
    few = x[spread_rows(len(x), ASKED)]
    with seeded(model, SEED):
        return (*examine_calls(model, few), *examine_answers(model, x, y, train))


def spread_rows(n: int, most: int) -> Array:
    """At most so many row numbers below ``n``, evenly spread."""
    return np.unique(np.linspace(0, n - 1, min(most, n)).round().astype(int))


def refuse(symptoms: Sequence[Symptom]) -> None:
    """Stop where a symptom is refused.

    Raises:
        InputError: with the first one in a sentence.
    """
    for symptom in symptoms:
        if symptom.done == "refused":
            raise InputError(symptom.words())
