"""Fitted scikit-learn classifiers as lists of layers: linear models and perceptrons, also behind scalers and column choices.

Plain arrays, no torch: what is not known is refused here before anything heavy is imported. The layers give logits in
the order of ``classes_``; their softmax is ``predict_proba``, and where there is none their argmax is ``predict``.

>>> from sklearn.linear_model import LogisticRegression
>>> layers_of(LogisticRegression().fit([[0.0], [1.0]], [0, 1]))[0].weight.shape
(2, 1)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from carbide.models._reading import NotRead
from carbide.types import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Each:
    """Each feature ``sub``, ``div``, ``mul`` or ``add`` a constant of its own ``(d,)``."""

    op: str
    value: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """``weight (o, d) @ x + bias (o,)``."""

    weight: Array
    bias: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Clip:
    """Values brought between ``low`` and ``high``."""

    low: float
    high: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Act:
    """``relu``, ``tanh``, ``logistic`` or ``softplus``."""

    name: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Pick:
    """These columns, in this order."""

    columns: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """Several lists of layers on the same rows; their results stand side by side."""

    parts: tuple[tuple[Any, ...], ...]


Layer = Each | Dense | Clip | Act | Pick | Side


def is_known(estimator: Any) -> bool:
    """Whether ``layers_of`` knows this kind of classifier (it may still refuse its parameters)."""
    try:
        return _name(_bare(estimator)[-1]) in FINALS
    except NotRead:
        return False


def layers_of(estimator: Any) -> tuple[Layer, ...]:
    """The layers of a fitted classifier.

    Raises:
        NotRead: if it, one of its steps or one of their parameters is not known.
    """
    *steps, final = _bare(estimator)
    if _name(final) not in FINALS:
        raise NotRead(f"{type(final).__name__} is not among the classifiers that Carbide reads as nets")
    return (*(layer for step in steps for layer in _transform(step)), *FINALS[_name(final)](final))


def ordered(layers: tuple[Layer, ...], columns: Array, classes: int) -> tuple[Layer, ...]:
    """The layers with their logits in the order of the classes; ``columns`` ``(c,)`` is the class of each logit.

    Raises:
        NotRead: if the classifier never saw some class.
    """
    if sorted(columns.tolist()) != list(range(classes)):
        raise NotRead(f"it was trained on {len(columns)} of the {classes} classes, and the others have no logit")
    last, order = layers[-1], np.argsort(columns)
    assert isinstance(last, Dense)
    return (*layers[:-1], Dense(weight=last.weight[order], bias=last.bias[order]))


def spread_of(layers: tuple[Layer, ...], d: int) -> tuple[Array, Array]:
    """Where the first scaler says that each feature lies, and how wide ``(d,)``."""
    slope, shift = np.ones(d), np.zeros(d)
    for layer in layers:
        if not isinstance(layer, Each) or layer.value.shape != (d,):
            break
        if layer.op in ("sub", "add"):
            shift = shift + (layer.value if layer.op == "add" else -layer.value)
        else:
            factor = layer.value if layer.op == "mul" else 1 / layer.value
            slope, shift = slope * factor, shift * factor
    safe = np.where(slope == 0, 1.0, slope)
    return -shift / safe, 1 / np.abs(safe)


def _name(estimator: Any) -> str:
    """The class's name where it is scikit-learn's own, so that a subclass that answers by itself is not taken for its parent."""
    return type(estimator).__name__ if type(estimator).__module__.startswith("sklearn.") else ""


def _bare(estimator: Any) -> list[Any]:
    """The steps of a pipeline or search, the classifier last."""
    if _name(estimator) in SEARCHES:
        if not hasattr(estimator, "best_estimator_"):
            raise NotRead(f"{_name(estimator)} was not refitted")
        return _bare(estimator.best_estimator_)
    if _name(estimator) == "Pipeline":
        return [*(step for _, step in estimator.steps[:-1]), *_bare(estimator.steps[-1][1])]
    return [estimator]


def _transform(step: Any) -> tuple[Layer, ...]:
    if step is None or step == "passthrough":
        return ()
    if _name(step) == "Pipeline":
        return tuple(layer for _, inner in step.steps for layer in _transform(inner))
    if _name(step) not in TRANSFORMS:
        raise NotRead(f"the step {type(step).__name__} before the classifier is not among those that Carbide reads")
    return TRANSFORMS[_name(step)](step)


def _standard(step: Any) -> tuple[Layer, ...]:
    centred = (Each(op="sub", value=_array(step.mean_)),) if step.with_mean else ()
    return (*centred, *((Each(op="div", value=_array(step.scale_)),) if step.with_std else ()))


def _robust(step: Any) -> tuple[Layer, ...]:
    centred = (Each(op="sub", value=_array(step.center_)),) if step.with_centering else ()
    return (*centred, *((Each(op="div", value=_array(step.scale_)),) if step.with_scaling else ()))


def _min_max(step: Any) -> tuple[Layer, ...]:
    clipped = (Clip(low=float(step.feature_range[0]), high=float(step.feature_range[1])),) if step.clip else ()
    return (Each(op="mul", value=_array(step.scale_)), Each(op="add", value=_array(step.min_)), *clipped)


def _max_abs(step: Any) -> tuple[Layer, ...]:
    clipped = (Clip(low=-1.0, high=1.0),) if getattr(step, "clip", False) else ()
    return (Each(op="div", value=_array(step.scale_)), *clipped)


def _pca(step: Any) -> tuple[Layer, ...]:
    turned = (Each(op="sub", value=_array(step.mean_)), Dense(weight=_array(step.components_), bias=np.zeros(len(step.components_))))
    return (*turned, Each(op="div", value=np.sqrt(_array(step.explained_variance_)))) if step.whiten else turned


def _svd(step: Any) -> tuple[Layer, ...]:
    return (Dense(weight=_array(step.components_), bias=np.zeros(len(step.components_))),)


def _selected(step: Any) -> tuple[Layer, ...]:
    return (Pick(columns=tuple(step.get_support(indices=True).tolist())),)


def _imputed(step: Any) -> tuple[Layer, ...]:
    """Rows without gaps pass an imputer as they are, and the data door lets no others in."""
    gap = step.missing_values
    if not (isinstance(gap, float) and np.isnan(gap)) or step.add_indicator or np.isnan(_array(step.statistics_)).any():
        raise NotRead("the imputer before the classifier fills or adds columns of rows without gaps")
    return ()


def _function(step: Any) -> tuple[Layer, ...]:
    if step.func is not None:
        raise NotRead("a FunctionTransformer before the classifier calls a function that Carbide cannot read")
    return ()


def _columns(step: Any) -> tuple[Layer, ...]:
    parts = []
    for _, inner, chosen in step.transformers_:
        picked = _picked(chosen, int(step.n_features_in_))
        if not (isinstance(inner, str) and inner == "drop") and picked:
            parts.append((Pick(columns=picked), *_transform(inner)))
    if not parts or step.transformer_weights:
        raise NotRead("the ColumnTransformer before the classifier weighs its parts or keeps none")
    return (Side(parts=tuple(parts)),)


def _picked(chosen: Any, d: int) -> tuple[int, ...]:
    if isinstance(chosen, slice) and not isinstance(chosen.start, str) and not isinstance(chosen.stop, str):
        return tuple(range(d)[chosen])
    found = np.asarray(chosen)
    if found.dtype == bool and found.shape == (d,):
        return tuple(np.flatnonzero(found).tolist())
    if found.size and found.dtype.kind not in "iu":
        raise NotRead("the ColumnTransformer before the classifier chooses columns by name or function")
    return tuple(range(d)[int(i)] for i in found.reshape(-1))


def _union(step: Any) -> tuple[Layer, ...]:
    if step.transformer_weights:
        raise NotRead("the FeatureUnion before the classifier weighs its parts")
    return (Side(parts=tuple(_transform(inner) for _, inner in step.transformer_list if not (isinstance(inner, str) and inner == "drop"))),)


def _decision(final: Any) -> Dense:
    weight = np.atleast_2d(_array(final.coef_))
    return Dense(weight=weight, bias=np.broadcast_to(_array(final.intercept_).reshape(-1), (len(weight),)).copy())


def _two(score: Dense, factor: float = 1.0) -> Dense:
    """Logits ``[0, score]``."""
    return Dense(weight=np.concatenate([0 * score.weight, factor * score.weight]), bias=np.concatenate([0 * score.bias, factor * score.bias]))


def _softmax(final: Any) -> tuple[Layer, ...]:
    """One score with a logistic curve for two classes, softmax of the scores for more; without ``predict_proba`` the greatest score decides."""
    score = _decision(final)
    return (_two(score) if len(score.weight) == 1 else score,)


def _one_against_rest(final: Any) -> tuple[Layer, ...]:
    """Each class's own logistic curve, brought to sum one: the logits are ``log sigmoid(score) = -softplus(-score)``.

    Where every curve rounds to 0 scikit-learn answers all classes alike; a space that reaches so far gets no reading.
    """
    score = _decision(final)
    if len(score.weight) == 1:
        return (_two(score),)
    back = Dense(weight=-np.eye(len(score.weight)), bias=np.zeros(len(score.weight)))
    return (Dense(weight=-score.weight, bias=-score.bias), Act(name="softplus"), back)


def _logistic(final: Any) -> tuple[Layer, ...]:
    kind = getattr(final, "multi_class", "auto")
    if len(final.classes_) == 2:
        return (_two(_decision(final), 2.0 if kind == "multinomial" else 1.0),)
    return _one_against_rest(final) if kind == "ovr" or getattr(final, "solver", "") == "liblinear" else _softmax(final)


def _gradient_descent(final: Any) -> tuple[Layer, ...]:
    if final.loss == "modified_huber":
        raise NotRead("the probabilities of the loss modified_huber are 0 or 1 beyond the margin, where they have no slope")
    return _one_against_rest(final) if final.loss in ("log_loss", "log") else _softmax(final)


def _perceptron(final: Any) -> tuple[Layer, ...]:
    if final.out_activation_ not in ("logistic", "softmax") or len(np.shape(final.classes_)) != 1 or final.activation not in ACTS:
        raise NotRead(f"a perceptron of activation {final.activation} and output {final.out_activation_} for these classes is not known")
    if final.out_activation_ == "logistic" and len(final.classes_) != 2:
        raise NotRead("a perceptron of several yes-or-no outputs has no classes")
    dense = [Dense(weight=_array(w).T, bias=_array(b)) for w, b in zip(final.coefs_, final.intercepts_, strict=True)]
    act = () if final.activation == "identity" else (Act(name=final.activation),)
    hidden = tuple(layer for one in dense[:-1] for layer in (one, *act))
    return (*hidden, _two(dense[-1]) if final.out_activation_ == "logistic" else dense[-1])


def _array(value: Any) -> Array:
    return np.array(value, np.float64)


ACTS = ("relu", "tanh", "logistic", "identity")
SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")
TRANSFORMS: dict[str, Callable[[Any], tuple[Layer, ...]]] = {
    "StandardScaler": _standard, "RobustScaler": _robust, "MinMaxScaler": _min_max, "MaxAbsScaler": _max_abs, "PCA": _pca, "TruncatedSVD": _svd,
    "VarianceThreshold": _selected, "SelectKBest": _selected, "SelectPercentile": _selected, "SelectFpr": _selected, "SelectFromModel": _selected,
    "RFE": _selected, "RFECV": _selected, "SimpleImputer": _imputed, "FunctionTransformer": _function, "ColumnTransformer": _columns,
    "FeatureUnion": _union}  # fmt: skip
FINALS: dict[str, Callable[[Any], tuple[Layer, ...]]] = {
    "LogisticRegression": _logistic, "LogisticRegressionCV": _logistic, "SGDClassifier": _gradient_descent, "MLPClassifier": _perceptron,
    "LinearDiscriminantAnalysis": _softmax, "LinearSVC": _softmax, "RidgeClassifier": _softmax, "RidgeClassifierCV": _softmax, "Perceptron": _softmax,
    "PassiveAggressiveClassifier": _softmax}  # fmt: skip
