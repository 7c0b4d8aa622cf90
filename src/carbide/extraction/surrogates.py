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
    """What a learner is given: rows, answers, the number of classes and a seed; ``cut`` is where a two-class victim decides."""

    x: Array
    answers: Answers
    classes: int
    seed: int
    cut: float = 0.5

    @property
    def clip(self) -> float:
        """How far probabilities are kept from 0 and 1 where learners are not exact anyhow."""
        return min(1e-3, self.cut / 10, (1 - self.cut) / 10)

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
        with _unfinished_is_fine():
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
    steps: dict[str, Any] = {"solver": "lbfgs", "max_iter": 150} if small else {"solver": "adam", "max_iter": int(np.clip(200_000 // len(x), 5, 100))}
    options: dict[str, Any] = {"hidden_layer_sizes": (64,), "alpha": 1e-3, "random_state": lesson.seed, "tol": 1e-4} | steps
    with _unfinished_is_fine():
        if lesson.answers.logs is None:
            model = MLPClassifier(**options).fit(x, lesson.answers.labels)
            return FromClassifier(rows=lesson.rows, classifier=model, classes=lesson.classes)
        targets = lesson.log_odds(lesson.clip)
        model = MLPRegressor(**options).fit(x, targets[:, 0] if lesson.classes == 2 else targets)
    return FromLogOdds(rows=lesson.rows, regress=model.predict)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread for BLAS and OpenMP inside the block: small fits lose more to threads that wait for one another than they gain."""
    import sklearn.ensemble  # noqa: F401 (only libraries that are already loaded can be limited)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        yield


@contextlib.contextmanager
def _unfinished_is_fine() -> Iterator[None]:
    """Steps are limited on purpose and few queries may cover many classes, so scikit-learn need not say so of every fit."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The number of unique classes is greater than 50%")
        yield


def cnn(lesson: Lesson) -> Predictor:
    """Two convolutions and two linear layers, trained with cross-entropy against the answers."""
    from carbide.extraction.soft_cnn import train_cnn

    return train_cnn(lesson.x, lesson.answers.soft(lesson.classes), lesson.seed)


@dataclass(frozen=True, kw_only=True, eq=False)
class Averaged:
    """The mean log-odds of several predictors: for two classes around each one's own cut, moved to the common ``cut``."""

    parts: tuple[tuple[Predictor, float], ...]
    cut: float

    def __call__(self, x: Array) -> Array:
        logs = [(np.log(np.maximum(part(x), 1e-6)), cut) for part, cut in self.parts]
        if logs[0][0].shape[1] == 2:
            odds = [np.clip(log[:, 1] - log[:, 0] - _logit(cut), -5, 5) for log, cut in logs]
            z = np.mean(odds, axis=0) + _logit(self.cut)
            return np.stack([1 / (1 + np.exp(z)), 1 / (1 + np.exp(-z))], 1)
        e = np.exp(np.mean([log for log, _ in logs], axis=0))
        return e / e.sum(1, keepdims=True)


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p))


def trees(lesson: Lesson) -> Predictor:
    """Forest and boosting together, on the probabilities and on the labels alone, since a thief may look past the scores."""
    views = [lesson]
    if lesson.answers.logs is not None and len(np.unique(lesson.answers.labels)) > 1:
        views.append(replace(lesson, answers=Answers(labels=lesson.answers.labels), cut=0.5))
    kinds = (forest, boosting) if lesson.classes <= 3 else (forest,)
    return Averaged(parts=tuple((kind(view), view.cut) for view in views for kind in kinds), cut=lesson.cut)


LEARNERS: dict[str, Callable[[Lesson], Predictor]] = {
    "trees": trees,
    "linear": linear,
    "net": net,
    "cnn": cnn,
    "forest": forest,
    "boosting": boosting,
}


def learners_for(space: Space) -> tuple[str, ...]:
    """The learners that suit an input: trees for tables, a CNN for images where torch is installed."""
    if space.is_image:
        return ("linear", "net", "cnn") if importlib.util.find_spec("torch") else ("linear", "net")
    return "trees", "linear", "net"


def copy_of(
    x: Array, answers: Answers, space: Space, classes: int, rng: Rng, *, learners: tuple[str, ...] | None = None, weight: Array | None = None
) -> Surrogate:
    """The best copy that answers ``(n,)`` to rows ``x`` ``(n, *shape)`` give.

    Of several learners a quarter of the answers chooses one, and where the copy decides; it then learns from all of them.
    ``weight`` ``(n,)`` says how many rows each row stands for in that choice, where rows were not asked for at random.
    """
    seed = int(rng.integers(2**31))
    order = rng.permutation(len(x))
    first = max(1, int(HELD * len(x)))
    held, rest = order[:first], order[first:]
    if len(np.unique(answers.labels)) == 1 and (answers.logs is None or len(rest) < FEW):
        shares = np.full(classes, 1e-6)
        shares[answers.labels[0]] = 1 - 1e-6 * (classes - 1)
        return Surrogate(predictor=Constant(shares=shares), learner="constant", space=space, classes=classes)
    weight = np.ones(len(x)) if weight is None else weight
    cut = _boundary(answers)
    names = tuple(learners or learners_for(space))
    name, threshold, best = names[0], cut, -1.0
    if len(names) > 1 and len(rest) >= FEW and (answers.logs is not None or len(np.unique(answers.labels[rest])) > 1):
        for trial in names:
            shares = LEARNERS[trial](Lesson(x=x[rest], answers=answers.take(rest), classes=classes, seed=seed, cut=cut))(x[held])
            tuned = _threshold(shares, answers.labels[held], weight[held], cut) if classes == 2 else 0.5
            agreement = float(np.average(decide(shares, tuned) == answers.labels[held], weights=weight[held]))
            score = agreement + 1e-3 * _closeness(shares, answers.take(held), classes)
            if score > best:
                name, threshold, best = trial, tuned, score
    whole = LEARNERS[name](Lesson(x=x, answers=answers, classes=classes, seed=seed, cut=cut))
    return Surrogate(predictor=whole, learner=name, space=space, classes=classes, threshold=threshold)


def _boundary(answers: Answers) -> float:
    """Where a two-class victim seems to decide: between its highest answered 0 and its lowest answered 1."""
    if answers.logs is None or answers.logs.shape[1] != 2:
        return 0.5
    p = np.exp(answers.logs[:, 1])
    zeros, ones = p[answers.labels == 0], p[answers.labels == 1]
    if not len(ones):
        return float(np.clip((zeros.max() + 1) / 2, 1e-9, 1 - 1e-9))
    if not len(zeros):
        return float(np.clip(ones.min() / 2, 1e-9, 1 - 1e-9))
    return float(np.clip((zeros.max() + ones.min()) / 2, 1e-9, 1 - 1e-9))


def _threshold(shares: Array, labels: Array, weight: Array, cut: float) -> float:
    """The threshold that agrees best with the held labels; ``cut`` unless another is better by two rows or more."""
    p = np.unique(shares[:, 1])
    tries = np.concatenate([[cut], (p[1:] + p[:-1]) / 2])
    agree = ((shares[:, 1][None, :] >= tries[:, None]) == (labels == 1)[None, :]) @ weight
    best = int(agree.argmax())
    return float(tries[best]) if agree[best] >= agree[0] + 2 else cut


def _closeness(shares: Array, answers: Answers, classes: int) -> float:
    """1 minus the mean distance to the answers: breaks ties between learners that agree on as many labels."""
    return float(1 - np.abs(shares - answers.soft(classes)).mean())
