"""Copies of a model learned from its answers: several kinds of learner, the best chosen by a part of the answers themselves.

Linear learners solve for log-odds (a linear victim is recovered exactly from a few more answers than features), forests
and boosted trees follow victims that cut at thresholds, nets follow smooth ones, a small CNN follows images.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from carbide.extraction.oracle import Answers
from carbide.types import BLACK_BOX, Access, Array, Rng, Space, decide

HELD = 0.25  # share of the answers that choose among learners
FEW = 8  # answers below which nothing is chosen: the first learner sees them all
Predictor = Callable[[Array], Array]  # rows (n, *shape) -> probabilities (n, k)


@dataclass(frozen=True, kw_only=True, eq=False)
class Surrogate:
    """A copy that answers alone: ``predictor`` gives probabilities ``(n, k)``, ``learner`` says what kind it is."""

    predictor: Any
    learner: str
    space: Space
    classes: int
    threshold: float = 0.5
    access: ClassVar[Access] = BLACK_BOX

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        return self.predictor(x) if len(x) else np.zeros((0, self.classes))

    def at(self, threshold: float) -> Surrogate:
        """The same copy deciding at another threshold."""
        return replace(self, threshold=threshold)

    def digest(self) -> str:
        """A hash of the learned predictor."""
        import joblib

        return f"{joblib.hash(self.predictor)}{self.threshold}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """What a learner is given: rows, answers, the number of classes and a seed; ``clip`` bounds probabilities away from 0 and 1."""

    x: Array
    answers: Answers
    classes: int
    seed: int
    clip: float = 1e-3

    @functools.cached_property
    def rows(self) -> Rows:
        """How rows become standardised features."""
        return Rows.of(self.x)

    def log_odds(self, clip: float) -> Array:
        """Log-odds ``(n, 1)`` of class 1 for two classes, else centred log-probabilities ``(n, k)``."""
        assert self.answers.logs is not None
        logs = np.maximum(self.answers.logs, np.log(clip))
        return logs[:, 1:] - logs[:, :1] if self.classes == 2 else logs - logs.mean(1, keepdims=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Flattened rows with gaps filled by the median and each feature scaled to mean 0 and deviation 1."""

    median: Array
    mean: Array
    scale: Array

    @classmethod
    def of(cls, x: Array) -> Rows:
        """The scaling that rows ``(n, *shape)`` give."""
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        gone = np.isnan(flat)
        median = np.zeros(flat.shape[1])
        known = ~gone.all(0)
        median[known] = np.nanmedian(flat[:, known], axis=0)
        flat = np.where(gone, median, flat)
        scale = flat.std(0)
        return cls(median=median, mean=flat.mean(0), scale=np.where(scale > 0, scale, 1.0))

    def __call__(self, x: Array) -> Array:
        flat = np.asarray(x, np.float64).reshape(len(x), -1)
        return (np.where(np.isnan(flat), self.median, flat) - self.mean) / self.scale


@dataclass(frozen=True, kw_only=True, eq=False)
class FromLogOdds:
    """Probabilities from a regressor of log-odds."""

    rows: Rows
    regress: Any

    def __call__(self, x: Array) -> Array:
        z = np.asarray(self.regress(self.rows(x)), np.float64).reshape(len(x), -1)
        z = np.concatenate([np.zeros_like(z), z], 1) if z.shape[1] == 1 else z
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class FromShares:
    """Probabilities from a regressor of probabilities, clipped and made to sum to one."""

    rows: Rows
    regress: Any

    def __call__(self, x: Array) -> Array:
        p = np.clip(np.asarray(self.regress(self.rows(x)), np.float64).reshape(len(x), -1), 0.0, None) + 1e-12
        return p / p.sum(1, keepdims=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class FromClassifier:
    """Probabilities from a classifier that may not have seen every class."""

    rows: Rows
    classifier: Any
    classes: int

    def __call__(self, x: Array) -> Array:
        out = np.zeros((len(x), self.classes))
        out[:, self.classifier.classes_] = self.classifier.predict_proba(self.rows(x))
        return out


@dataclass(frozen=True, kw_only=True, eq=False)
class Affine:
    """``x @ weights + bias``."""

    weights: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        return x @ self.weights + self.bias


@dataclass(frozen=True, kw_only=True, eq=False)
class Constant:
    """One answer for every row."""

    shares: Array

    def __call__(self, x: Array) -> Array:
        return np.tile(self.shares, (len(x), 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Several:
    """The outputs of one-output regressors side by side."""

    parts: tuple[Any, ...]

    def __call__(self, x: Array) -> Array:
        return np.column_stack([part.predict(x) for part in self.parts])


def linear(lesson: Lesson) -> Predictor:
    """Least squares on log-odds (rows answered with 0 or 1 say only a sign and are left out); logistic regression on labels."""
    from sklearn.linear_model import LogisticRegression

    x = lesson.rows(lesson.x)
    if lesson.answers.logs is None:
        model = LogisticRegression(C=10.0, max_iter=1000).fit(x, lesson.answers.labels)
        return FromClassifier(rows=lesson.rows, classifier=model, classes=lesson.classes)
    inside = (lesson.answers.logs > np.log(1e-12)).all(1)
    keep = inside if inside.sum() > min(x.shape[1], len(x) // 2) else np.ones(len(x), bool)
    design = np.concatenate([x[keep], np.ones((keep.sum(), 1))], 1)
    solution = np.linalg.lstsq(design, lesson.log_odds(1e-12)[keep], rcond=None)[0]
    return FromLogOdds(rows=lesson.rows, regress=Affine(weights=solution[:-1], bias=solution[-1]))


def forest(lesson: Lesson) -> Predictor:
    """Extremely randomised trees that regress the probabilities (one-hot rows of labels)."""
    from sklearn.ensemble import ExtraTreesRegressor

    trees = ExtraTreesRegressor(
        n_estimators=60, min_samples_leaf=1 if lesson.answers.logs is not None else 2, max_features=0.5, random_state=lesson.seed
    )
    trees.fit(lesson.rows(lesson.x), lesson.answers.soft(lesson.classes))
    return FromShares(rows=lesson.rows, regress=trees.predict)


def boosting(lesson: Lesson) -> Predictor:
    """Boosted histogram trees on log-odds, or on labels."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    x = lesson.rows(lesson.x)
    options: dict[str, Any] = {"max_iter": 100, "min_samples_leaf": 5, "max_leaf_nodes": 15, "early_stopping": False, "random_state": lesson.seed}
    if lesson.answers.logs is None:
        model = HistGradientBoostingClassifier(**options).fit(x, lesson.answers.labels)
        return FromClassifier(rows=lesson.rows, classifier=model, classes=lesson.classes)
    targets = lesson.log_odds(lesson.clip)
    parts = tuple(HistGradientBoostingRegressor(**options).fit(x, t) for t in targets.T)
    return FromLogOdds(rows=lesson.rows, regress=Several(parts=parts))


def net(lesson: Lesson) -> Predictor:
    """A perceptron with one hidden layer on log-odds, or on labels."""
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    x = lesson.rows(lesson.x)
    small = len(x) <= 2000
    options: dict[str, Any] = {"hidden_layer_sizes": (64,), "alpha": 1e-3, "random_state": lesson.seed, "solver": "lbfgs" if small else "adam", "tol": 1e-4,
                               "max_iter": 150 if small else int(np.clip(200_000 // len(x), 5, 100))}  # fmt: skip
    with _unfinished_is_fine():
        if lesson.answers.logs is None:
            model = MLPClassifier(**options).fit(x, lesson.answers.labels)
            return FromClassifier(rows=lesson.rows, classifier=model, classes=lesson.classes)
        targets = lesson.log_odds(lesson.clip)
        model = MLPRegressor(**options).fit(x, targets[:, 0] if lesson.classes == 2 else targets)
    return FromLogOdds(rows=lesson.rows, regress=model.predict)


@contextlib.contextmanager
def _unfinished_is_fine() -> Iterator[None]:
    """The steps are limited on purpose, so scikit-learn need not say that they are used up."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def cnn(lesson: Lesson) -> Predictor:
    """Two convolutions and two linear layers, trained with cross-entropy against the answers."""
    from carbide.extraction.soft_cnn import train_cnn

    return train_cnn(lesson.x, lesson.answers.soft(lesson.classes), lesson.seed)


LEARNERS: dict[str, Callable[[Lesson], Predictor]] = {"linear": linear, "forest": forest, "boosting": boosting, "net": net, "cnn": cnn}


def learners_for(space: Space, classes: int) -> tuple[str, ...]:
    """The learners that suit an input: trees for tables, a CNN for images where torch is installed."""
    if space.is_image:
        return ("linear", "net", "cnn") if importlib.util.find_spec("torch") else ("linear", "net")
    return ("linear", "forest", "net", "boosting") if classes <= 3 else ("linear", "forest", "net")


def copy_of(x: Array, answers: Answers, space: Space, classes: int, rng: Rng, *, learners: tuple[str, ...] | None = None) -> Surrogate:
    """The best copy that answers ``(n,)`` to rows ``x`` ``(n, *shape)`` give.

    A quarter of the answers chooses the learner and where the copy decides; the chosen learner then sees all of them.
    """
    seed = int(rng.integers(2**31))
    order = rng.permutation(len(x))
    first = max(1, int(HELD * len(x)))
    held, rest = order[:first], order[first:]
    if len(np.unique(answers.labels)) == 1 and (answers.logs is None or len(rest) < FEW):
        shares = np.full(classes, 1e-6)
        shares[answers.labels[0]] = 1 - 1e-6 * (classes - 1)
        return Surrogate(predictor=Constant(shares=shares), learner="constant", space=space, classes=classes)
    cut = _boundary(answers)
    clip = min(1e-3, cut / 10, (1 - cut) / 10)
    names = tuple(learners or learners_for(space, classes))
    choice, best = (names[0], cut), -1.0
    if len(rest) >= FEW and (answers.logs is not None or len(np.unique(answers.labels[rest])) > 1):
        for name in names:
            shares = LEARNERS[name](Lesson(x=x[rest], answers=answers.take(rest), classes=classes, seed=seed, clip=clip))(x[held])
            threshold = _threshold(shares, answers.labels[held], cut) if classes == 2 else 0.5
            score = float((decide(shares, threshold) == answers.labels[held]).mean()) + 1e-3 * _closeness(shares, answers.take(held), classes)
            if score > best:
                choice, best = (name, threshold), score
    whole = LEARNERS[choice[0]](Lesson(x=x, answers=answers, classes=classes, seed=seed, clip=clip))
    return Surrogate(predictor=whole, learner=choice[0], space=space, classes=classes, threshold=choice[1])


def _boundary(answers: Answers) -> float:
    """Where a two-class victim seems to decide: between its highest answered 0 and its lowest answered 1."""
    if answers.logs is None or answers.logs.shape[1] != 2:
        return 0.5
    p = np.exp(answers.logs[:, 1])
    zeros, ones = p[answers.labels == 0], p[answers.labels == 1]
    if not len(ones):
        return float((zeros.max() + 1) / 2)
    if not len(zeros):
        return float(ones.min() / 2)
    return float(np.clip((zeros.max() + ones.min()) / 2, 1e-9, 1 - 1e-9))


def _threshold(shares: Array, labels: Array, cut: float) -> float:
    """The threshold that agrees best with the held labels; ``cut`` unless another is better by two rows or more."""
    p = np.unique(shares[:, 1])
    tries = np.concatenate([[cut], (p[1:] + p[:-1]) / 2])
    agree = ((shares[:, 1][None, :] >= tries[:, None]) == (labels == 1)[None, :]).sum(1)
    best = int(agree.argmax())
    return float(tries[best]) if agree[best] >= agree[0] + 2 else cut


def _closeness(shares: Array, answers: Answers, classes: int) -> float:
    """1 minus the mean distance to the answers: breaks ties between learners that agree on as many labels."""
    return float(1 - np.abs(shares - answers.soft(classes)).mean())
