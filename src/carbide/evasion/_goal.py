"""A target class: reaching it is an untargeted attack on the question whether an input is of that class, so every attack can.

The question is asked as a model of two classes, ``another class`` and the target, in front of the model itself: white boxes keep
their gradients, black boxes their counted answers. Rows of the target class are left out, and a row that is misread as anything
but the target stands.

>>> import numpy as np
>>> from carbide.models.callables import CallableModel
>>> from carbide.types import Space
>>> model = CallableModel(function=lambda x: np.array([[0.2, 0.3, 0.5]] * len(x)), space=Space.table(["a"]), classes=3)
>>> aimed(model, 2).predict(np.zeros((1, 1))).round(3).tolist(), aimed(model, 1).predict(np.zeros((1, 1))).round(3).tolist()
([[0.375, 0.625]], [[0.625, 0.375]])
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.types import BLACK_BOX, Access, Array, Case, Dataset, InputError, LpBall, Model, Space, decide

METRIC = "targeted robust accuracy"


@dataclass(frozen=True, kw_only=True, eq=False)
class Aimed:
    """A model's answers as two: any class but ``target``, and the target."""

    inner: Model
    target: int
    threshold: float = 0.5

    @property
    def space(self) -> Space:
        """The model's."""
        return self.inner.space

    @property
    def classes(self) -> int:
        """Two."""
        return 2

    @property
    def access(self) -> Access:
        """Labels, and scores where the model gives them."""
        return self.inner.access & BLACK_BOX

    def predict(self, x: Array) -> Array:
        """The target's share ``(n, 2)`` of its probability and the largest other; at least a half just where the model says the target."""
        found = self.inner.predict(x)
        own, others = found[:, self.target], np.delete(found, self.target, 1).max(1)
        share = own / np.maximum(own + others, np.finfo(float).tiny)
        said = decide(found, self.inner.threshold) == self.target  # of equal probabilities the first counts
        share = np.where(said, np.maximum(share, 0.5), np.minimum(share, np.nextafter(0.5, 0)))
        return np.stack([1 - share, share], 1)

    def at(self, threshold: float) -> Aimed:
        """The same question deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """The model's, and the target."""
        return f"{self.inner.digest()} aimed at {self.target} {self.threshold}"


def aimed(model: Any, target: int) -> Any:
    """The model of two classes in front of a model; a net's has gradients.

    Raises:
        InputError: if the model has fewer than three classes or no such class.
    """
    if model.classes < 3:
        raise InputError(f"target is {target}, but the model has {model.classes} classes, so leaving one is reaching the other; leave target out")
    if not 0 <= target < model.classes:
        raise InputError(f"target is {target}; give a class from 0 to {model.classes - 1}")
    if hasattr(model, "module") and hasattr(model, "logits"):
        from carbide.evasion._goal_net import AimedNet
        from carbide.models.torch_net import TorchModel

        return TorchModel(module=AimedNet(model, target), space=model.space, classes=2, device=model.device)
    return Aimed(inner=model, target=target)


def others(data: Dataset, target: int) -> Dataset:
    """The rows of other classes.

    Raises:
        InputError: if there are none.
    """
    rows = data.take(np.flatnonzero(data.y != target))
    if len(rows) == 0:
        raise InputError(f"all {len(data)} test rows are of class {target}, the target; give rows of other classes")
    return rows


def aimed_case(case: Case, threat: LpBall) -> Case:
    """The question put to a case: its test rows, which must be ``others``, are all of the first of two classes."""
    assert threat.target is not None
    model, test = aimed(case.model, threat.target), case.data.test
    name = test.class_names[threat.target] if test.class_names else f"class {threat.target}"
    asked = replace(test, y=np.zeros(len(test), np.int64), classes=2, class_names=("another class", name))
    return replace(case, model=model, data=replace(case.data, test=asked))
