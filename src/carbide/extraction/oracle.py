"""The victim as a thief sees it: rows in, answers out, every row counted, and no more rows than the threat allows.

>>> import numpy as np
>>> from carbide.data import builtin
>>> from carbide.models.estimators import EstimatorRecipe
>>> from carbide.types import Queries, rng_for
>>> from sklearn.linear_model import LogisticRegression
>>> train = builtin("patients").train
>>> model = EstimatorRecipe(estimator=LogisticRegression(max_iter=5000)).fit(train, rng_for(0))
>>> oracle = Oracle(model=model, threat=Queries(n=10, answers="labels"))
>>> oracle.ask(train.x[:3]).labels.shape, oracle.left
((3,), 7)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carbide.types import Access, Array, CarbideError, Model, Queries, decide

FLOOR = 1e-300  # probabilities below this are answered as its logarithm


class OverBudget(CarbideError):
    """A thief asked for more rows than its threat allows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """Labels ``(n,)`` int64 and, unless only labels are answered, log-probabilities ``(n, k)``."""

    labels: Array
    logs: Array | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> Answers:
        """The answers to these rows."""
        return Answers(labels=self.labels[rows], logs=None if self.logs is None else self.logs[rows])

    def then(self, more: Answers) -> Answers:
        """These answers followed by more of the same kind."""
        logs = None if self.logs is None or more.logs is None else np.concatenate([self.logs, more.logs])
        return Answers(labels=np.concatenate([self.labels, more.labels]), logs=logs)

    def soft(self, classes: int) -> Array:
        """Probabilities ``(n, k)``; one-hot rows where only labels are known."""
        return np.eye(classes)[self.labels] if self.logs is None else np.exp(self.logs)


class _Victim:
    """The model behind an oracle: once the theft is over it answers nobody who kept a hand on it."""

    def __init__(self, model: Model) -> None:
        self._model, self.open = model, True

    def predict(self, x: Array) -> Array:
        """The model's probabilities, while it is open."""
        if not self.open:
            raise OverBudget("a thief's copy asks the victim instead of answering alone")
        return self._model.predict(x)


class Oracle:
    """A model behind a counter. ``answers`` is what it really gives: the threat's, or ``labels`` if the model shows no scores.

    Scores come with the label that the model decides on, at its own threshold. Logits are the logarithms of the
    probabilities that the model answers, so they say as much as those do, and no more after rounding.
    """

    def __init__(self, *, model: Model, threat: Queries) -> None:
        self._victim = _Victim(model)
        self.space, self.classes, self._threshold = model.space, model.classes, model.threshold
        self.budget = threat.n
        self.answers = threat.answers if Access.SCORES in model.access else "labels"
        self.asked = 0

    @property
    def left(self) -> int:
        """Rows that may still be asked for."""
        return self.budget - self.asked

    def close(self) -> None:
        """End the theft: whoever asks the victim from now on fails."""
        self._victim.open = False

    def __call__(self, x: Array) -> Array:
        """The victim's answers to rows ``(n, *shape)`` as its interface gives them: logits or probabilities ``(n, k)``, or labels ``(n,)``.

        Raises:
            OverBudget: if fewer than n rows are left.
        """
        answers = self.ask(x)
        if answers.logs is None:
            return answers.labels
        return answers.logs if self.answers == "logits" else np.exp(answers.logs)

    def ask(self, x: Array) -> Answers:
        """The victim's answers to rows ``(n, *shape)``, each of which counts.

        Raises:
            OverBudget: if fewer than n rows are left; nothing is answered then.
        """
        if len(x) > self.left:
            raise OverBudget(f"a thief asked for {len(x)} rows with {self.left} of {self.budget} left; it must stop by itself")
        self.asked += len(x)
        probabilities = self._victim.predict(x)
        labels = decide(probabilities, self._threshold)
        if self.answers == "labels":
            return Answers(labels=labels)
        return Answers(labels=labels, logs=np.log(np.maximum(probabilities, FLOOR)))
