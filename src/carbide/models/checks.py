"""The model door: what is wrong with a model is said before an attack finds it.

>>> import numpy as np
>>> from carbide.models.callables import CallableModel
>>> from carbide.types import Dataset, Space
>>> space = Space.table(["a"])
>>> data = Dataset(x=np.array([[0.0], [1.0]]), y=np.array([0, 1]), ids=np.array(["a", "b"]), source=np.array(["", ""]), space=space, classes=2)
>>> check_model(CallableModel(function=lambda x: (x[:, 0] > 0.5).astype(int), space=space, classes=2, answers="labels"), data)
[]
"""

from __future__ import annotations

import numpy as np

from carbide.types import Array, Dataset, InputError, Model, decide

ROWS = 512  # enough to see a wrong order of labels, few enough for a slow endpoint
SUM_ERROR = 1e-3


def check_model(model: Model, dataset: Dataset) -> list[str]:
    """Warnings about a model on a data set, one sentence each; an empty list when nothing is suspicious.

    Raises:
        InputError: if the model and the data do not fit, or the model answers NaN, a wrong shape, or no probabilities.
    """
    if dataset.x.shape[1:] != model.space.shape:
        raise InputError(f"the model takes inputs of shape {model.space.shape}, but a row of {dataset.name} has shape {dataset.x.shape[1:]}; "
                         "give the data and space it was trained with")  # fmt: skip
    if dataset.classes != model.classes:
        raise InputError(f"the model has {model.classes} classes, but {dataset.name} has {dataset.classes}; give data with the model's classes")
    names = model.space.names
    if names and dataset.space.names and names != dataset.space.names:
        first = next(i for i, (a, b) in enumerate(zip(names, dataset.space.names, strict=True)) if a != b)
        raise InputError(
            f"the model's feature {first} is {names[first]!r}, the data's is {dataset.space.names[first]!r}; put the columns in the model's order"
        )
    if len(dataset) == 0:
        raise InputError(f"{dataset.name} has no rows to check the model with; give at least one")
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(ROWS, len(dataset))).round().astype(int))
    return _warnings(model, dataset.x[rows], dataset.y[rows])


def _warnings(model: Model, x: Array, y: Array) -> list[str]:
    before = model.digest()
    given = x.copy()
    probabilities = check_probabilities(model.predict(x), rows=len(x), classes=model.classes)
    again = model.predict(x)
    if not np.array_equal(x, given, equal_nan=True):
        raise InputError("the model changes its inputs in place; let it work on a copy")
    if model.digest() != before:
        raise InputError("the model changes while it answers (a BatchNorm buffer, a counter); put it in inference mode and freeze its buffers")
    warnings = []
    if not np.array_equal(probabilities, again):
        warnings.append(f"the model answers the same rows differently (by up to {float(np.abs(probabilities - again).max()):.2g}), so "
                        f"results will not "
                        "repeat; switch off dropout, noise and sampling")  # fmt: skip
    return warnings + _order(decide(probabilities, model.threshold), y, model.classes)


def check_probabilities(probabilities: Array, *, rows: int, classes: int) -> Array:
    """The probabilities ``(rows, classes)``, once they are seen to be some.

    Raises:
        InputError: if they have another shape, hold NaN or do not sum to one.
    """
    found = np.asarray(probabilities)
    if found.shape != (rows, classes):
        raise InputError(f"the model answers an array of shape {found.shape} for {rows} rows and {classes} classes; answer ({rows}, {classes})")
    if not np.isfinite(found).all():
        bad = int(np.flatnonzero(~np.isfinite(found).all(1))[0])
        raise InputError(f"the model answers NaN or infinity (first in row {bad}); repair its weights or fill missing inputs")
    if (found < -SUM_ERROR).any() or (found > 1 + SUM_ERROR).any() or (np.abs(found.sum(1) - 1) > SUM_ERROR).any():
        bad = int(np.argmax(np.abs(found.sum(1) - 1)))
        raise InputError(f"the model returns logits where probabilities are declared (row {bad} sums to {found[bad].sum():.4g}, not 1); "
                         "declare logits or apply softmax in the model")  # fmt: skip
    return found


def _order(predicted: Array, y: Array, classes: int) -> list[str]:
    """A warning where another order of the labels explains the answers far better than the given one."""
    from scipy.optimize import linear_sum_assignment

    counts = np.zeros((classes, classes))
    np.add.at(counts, (predicted, y), 1)
    present = counts.sum(0) > 0
    if present.sum() < 2:
        return []
    recalls = counts / np.where(present, counts.sum(0), 1)  # column c: how rows of class c are answered
    mean, chance = float(np.trace(recalls) / present.sum()), float(1 / present.sum())
    if mean >= chance:
        return []
    said, meant = linear_sum_assignment(-recalls)
    best = float(recalls[said, meant].sum() / present.sum())
    order = [int(np.flatnonzero(meant == c)[0]) for c in range(classes)]
    if best > max(chance, mean) + 0.2 and order != list(range(classes)):
        return [f"the model finds {mean:.1%} of each class on average, less than the {chance:.1%} of guessing, but {best:.1%} if its "
                f"outputs are read in the "
                f"order {order if classes <= 12 else 'that the data suggest'}; say so with labels, or check how labels became numbers"]  # fmt: skip
    return [f"the model finds {mean:.1%} of each class on average, less than the {chance:.1%} of guessing; check that data and model belong together"]
