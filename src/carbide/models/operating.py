"""Where a binary model decides: the threshold that its validation negatives give."""

from __future__ import annotations

from carbide.stats.performance import threshold_at_fpr
from carbide.types import Dataset, InputError, Model, OperatingPoint


def calibrated(model: Model, validation: Dataset, point: OperatingPoint | None) -> Model:
    """The model deciding at the operating point (unchanged without one), by the validation negatives only.

    Raises:
        InputError: if the model has more than two classes or too few validation negatives for the rate.
    """
    if point is None:
        return model
    if model.classes != 2:
        raise InputError(f"operating_point needs two classes, but the model has {model.classes}; leave it out")
    negatives = validation.x[validation.y == 0]
    if len(negatives) * point.false_positive_rate < 1:
        raise InputError(f"false_positive_rate {point.false_positive_rate} needs at least {int(1 / point.false_positive_rate)} validation negatives, "
                         f"but there are {len(negatives)}; give a higher rate or more data")  # fmt: skip
    scorer = getattr(model, "scorer", model)  # a model that shows rounded scores or labels names the one whose full scores decide
    return model.at(threshold_at_fpr(scorer.predict(negatives)[:, 1], point.false_positive_rate))
