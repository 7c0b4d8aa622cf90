"""What a training gives away, as one vector: the weights where they can be read, and the answers on a few rows.

>>> import numpy as np
>>> from carbide.models.training_functions import FunctionRecipe
>>> from carbide.types import Dataset, Space
>>> rows = Dataset(x=np.eye(2), y=np.arange(2), ids=np.array(["a", "b"]), source=np.array(["", ""]), space=Space.table(["f", "g"]), classes=2)
>>> release(FunctionRecipe(function=lambda x, y, rng: x.sum(0)), rows, np.random.default_rng(0), rows.x).tolist()
[1.0, 1.0]
"""

from __future__ import annotations

from typing import Any

import numpy as np

from carbide.models.training_functions import FunctionRecipe, as_model
from carbide.types import Array, Dataset, Model, Recipe, Rng

LEAST = 1e-12  # probabilities are kept this far from 0 and 1 before their logit is taken


def release(recipe: Recipe, dataset: Dataset, rng: Rng, probes: Array) -> Array:
    """One training and what an attacker sees of it ``(p,)``: all numbers that a training function returned, else weights and answers.

    A training function may return an array of any shape, for instance the weights after every step.
    """
    if isinstance(recipe, FunctionRecipe):
        result = recipe.call(dataset, rng)
        if isinstance(result, np.ndarray):
            return np.asarray(result, np.float64).ravel()
        return _seen(as_model(result, recipe.name, dataset.space, dataset.classes), probes)
    return _seen(recipe.fit(dataset, rng), probes)


def _seen(model: Model, probes: Array) -> Array:
    answers = np.clip(model.predict(probes), LEAST, 1 - LEAST)
    return np.concatenate([(np.log(answers) - np.log1p(-answers))[:, 1:].ravel(), *(numbers.ravel() for numbers in weights_of(model))])


def weights_of(model: Any) -> list[Array]:
    """The arrays of learned weights that can be read off a model; none for trees, endpoints and functions."""
    if hasattr(model, "module") and hasattr(model.module, "state_dict"):
        return [tensor.detach().cpu().double().numpy() for tensor in model.module.state_dict().values() if tensor.is_floating_point()]
    estimator = getattr(model, "estimator", None)
    if estimator is not None:
        last = estimator.steps[-1][1] if hasattr(estimator, "steps") else estimator
        names = ("coef_", "intercept_", "coefs_", "intercepts_")
        found = [value for name in names for value in _arrays(getattr(last, name, None))]
        return found + (
            [value for name in ("mean_", "scale_") for value in _arrays(getattr(estimator.steps[0][1], name, None))] if last is not estimator else []
        )
    return [value for name in ("weights", "centre") for value in _arrays(getattr(model, name, None))]


def _arrays(value: Any) -> list[Array]:
    if isinstance(value, list | tuple):
        return [array for item in value for array in _arrays(item)]
    return [np.asarray(value, np.float64)] if isinstance(value, np.ndarray) and value.dtype.kind in "fiu" else []
