"""Estimators with scikit-learn's interface (scikit-learn, XGBoost, LightGBM, CatBoost) as models, and the recipe that trains them.

>>> import numpy as np
>>> from sklearn.tree import DecisionTreeClassifier
>>> EstimatorRecipe(estimator=DecisionTreeClassifier(max_depth=2)).describe()["estimator"]
'DecisionTreeClassifier'
"""

from __future__ import annotations

import functools
import json
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from carbide.models._fingerprint import fingerprint
from carbide.models._reading import NotRead, Readable, Reading, answers_of, compare, read, shown, trial_rows
from carbide.models.boosters import BoosterClassifier, booster_bytes, booster_of
from carbide.models.catboosted import CatBoosted, catboosted, is_catboost, prepare_
from carbide.models.trees import ensemble_of, is_tree_ensemble
from carbide.models.trees.ensemble import Ensemble
from carbide.types import BLACK_BOX, TREE_BOX, Access, Array, Dataset, InputError, Rng, Space

TOLERANCE = 1e-9  # of probabilities, between an estimator and its reading as a net


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorModel(Readable):
    """A fitted classifier; its ``classes_`` say which classes it saw, in the order of its outputs.

    Rows are flattened to ``(n, d)`` before the estimator sees them; classes it never saw get probability 0. ``labels``
    are the estimator's own names of classes 0, 1, ... where its ``classes_`` are not these numbers. One without
    ``predict_proba`` answers labels only. Linear models and perceptrons are also read as torch nets.
    """

    estimator: Any
    space: Space
    classes: int
    threshold: float = 0.5
    labels: tuple[Any, ...] = ()

    @property
    def access(self) -> Access:
        """Trees also show their structure, and what was read as a net its gradients."""
        if self._has_trees:
            return TREE_BOX
        return (Access.LABELS if self.labels_only else BLACK_BOX) | shown(self.reading)

    @property
    def labels_only(self) -> bool:
        """Whether the estimator gives no probabilities."""
        return not hasattr(self.estimator, "predict_proba")

    @property
    def _has_trees(self) -> bool:
        return is_tree_ensemble(_bare(self.estimator)) and getattr(self.estimator, "linear", False) is not True

    @functools.cached_property
    def reading(self) -> Reading:
        """The estimator as a torch net in float64, compared with the estimator itself."""
        return Reading() if self._has_trees else read_net(self)

    @functools.cached_property
    def ensemble(self) -> Ensemble:
        """The trees in Carbide's intermediate form.

        Raises:
            InputError: if the estimator is no tree ensemble that Carbide can read.
        """
        return ensemble_of(_bare(self.estimator))

    @functools.cached_property
    def columns(self) -> Array:
        """The class ``(c,)`` int64 that each output column of the estimator stands for.

        Raises:
            InputError: if the estimator's classes are neither ``0 .. k - 1`` nor named by ``labels``.
        """
        return class_columns(self.estimator.classes_, self.classes, self.labels, type(self.estimator).__name__)

    def predict(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` float64."""
        if len(x) == 0:
            return np.zeros((0, self.classes))
        flat, columns = x.reshape(len(x), -1), self.columns
        try:
            with np.errstate(over="ignore"):  # what does not fit single precision is said below
                return self._answers(flat, columns)
        except ValueError as error:
            with np.errstate(over="ignore"):
                large = np.isinf(flat.astype(np.float32)) & np.isfinite(flat)
            if not large.any():
                raise
            f = int(large.any(0).argmax())
            name, value = self.space.name(f), flat[large[:, f], f][0]
            raise InputError(f"a row has {name} = {value:g}, too large for {type(self.estimator).__name__}, which counts in single precision; "
                             "correct that row or give the column in a larger unit") from error  # fmt: skip

    def _answers(self, flat: Array, columns: Array) -> Array:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="X does not have valid feature names")  # the door compared the names
            if self.labels_only:
                places = dict(zip(np.asarray(self.estimator.classes_).tolist(), columns.tolist(), strict=True))
                return np.eye(self.classes)[[places[label] for label in self.estimator.predict(flat).tolist()]]
            raw = np.asarray(self.estimator.predict_proba(flat), np.float64)
        if raw.shape[1] == self.classes and (columns == np.arange(self.classes)).all():
            return raw
        out = np.zeros((len(flat), self.classes))
        out[:, columns] = raw
        return out

    def at(self, threshold: float) -> EstimatorModel:
        """The same model deciding at another threshold.

        Raises:
            InputError: if it answers labels only, whose threshold nobody can move.
        """
        if self.labels_only and threshold != self.threshold:
            name = type(self.estimator).__name__
            raise InputError(f"{name} answers labels only, so its threshold cannot be set to {threshold:g}; leave out operating_point")
        moved = replace(self, threshold=threshold)
        moved.__dict__.update({key: self.__dict__[key] for key in ("ensemble", "reading") if key in self.__dict__})
        return moved

    @functools.cached_property
    def _identity(self) -> str:
        held = booster_of(self.estimator)
        state = self.estimator if held is None else booster_bytes(*held)
        return fingerprint((state, self.classes, self.labels))

    def digest(self) -> str:
        """A hash of the fitted estimator."""
        return f"{self._identity}{self.threshold}"

    def to_state(self) -> dict[str, Any]:
        """The estimator in its library's safe format (XGBoost UBJ, LightGBM text, CatBoost JSON, skops) and the rest as it is."""
        held = booster_of(self.estimator)
        state = {"space": self.space, "classes": self.classes, "threshold": self.threshold, "labels": list(self.labels)}
        if held is not None:
            return {"format": held[0], "blob": booster_bytes(*held), "wrapper": _wrapper(self.estimator), **state}
        from carbide.models.skops_file import dump_skops

        return {"format": "skops", "blob": dump_skops(self.estimator), "wrapper": None, **state}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> EstimatorModel:
        """The model of ``to_state``; the bytes are checked as a file would be."""
        from carbide.models.readers import read_estimator

        estimator = read_estimator(state["blob"], state["format"], name="a stored model")
        if state["wrapper"] is not None:
            estimator = _rewrap(state["blob"], json.loads(state["wrapper"]))
        return cls(
            estimator=as_rows_of(estimator, state["space"]),
            space=state["space"],
            classes=state["classes"],
            threshold=state["threshold"],
            labels=tuple(state["labels"]),
        )


def as_rows_of(estimator: Any, space: Space) -> Any:
    """The estimator as one that takes rows of numbers of this space: CatBoost wants to be told the names of categories.

    Raises:
        InputError: if it is CatBoost's and not fitted, no classifier, or splits on what Carbide does not read.
    """
    if is_catboost(estimator):
        return catboosted(estimator, space)
    return estimator.names_in(space) if isinstance(estimator, CatBoosted) else estimator


def read_net(model: EstimatorModel) -> Reading:
    """The reading of a model's estimator, which agreed to ``TOLERANCE`` in probability, or the reason why there is none."""
    from carbide.models._sklearn_layers import layers_of, ordered, spread_of

    try:
        layers = ordered(layers_of(model.estimator), model.columns, model.classes)
    except NotRead as reason:
        return Reading(note=str(reason))

    def make() -> Any:
        from carbide.models._layer_net import net_of

        return net_of(layers, flatten=len(model.space.shape) != 1)

    def check(module: Any) -> Reading:
        middle, spread = (part.reshape(model.space.shape) for part in spread_of(layers, int(np.prod(model.space.shape))))
        rows = trial_rows(model.space, model.predict, middle=middle, spread=spread)
        compare(answers_of(module, rows), model.predict(rows), tolerance=TOLERANCE, labels_only=model.labels_only)
        return Reading(module=module, rows=len(rows))

    return read(make, check)


def class_columns(found: Any, classes: int, labels: tuple[Any, ...], name: str) -> Array:
    """The class ``(c,)`` int64 of each output column, from an estimator's ``classes_``.

    Raises:
        InputError: if a class is neither a number in ``0 .. classes - 1`` nor one of ``labels``.
    """
    found = np.asarray(found)
    if labels:
        if len(labels) != classes or len({str(label) for label in labels}) != classes:
            raise InputError(f"labels names {len(labels)} classes, but there are {classes}; name each class once, in the order of the data's classes")
        places = {str(label): i for i, label in enumerate(labels)}
        unknown = [item for item in found.tolist() if str(item) not in places]
        if unknown:
            raise InputError(f"{name} was trained on class {unknown[0]!r}, which labels does not name; labels are {', '.join(places)}")
        return np.array([places[str(item)] for item in found.tolist()], np.int64)
    said = f"{name} has classes {found.tolist()[:6]!r}, not whole numbers 0 to {classes - 1}"
    if found.dtype.kind not in "iufb" or not (found == np.round(found.astype(float))).all():
        raise InputError(f"{said}; name them in the order of the data's classes under labels:")
    if found.astype(np.int64).min() < 0 or found.astype(np.int64).max() >= classes:
        raise InputError(f"{said}; use data with the same classes, or name them under labels:")
    return found.astype(np.int64)


def _bare(estimator: Any) -> Any:
    return estimator.booster if isinstance(estimator, BoosterClassifier) else estimator


def _wrapper(estimator: Any) -> str | None:
    """The parameters of an XGBoost wrapper as JSON text, None for what is read back as a booster."""
    if not hasattr(estimator, "get_booster"):
        return None
    params = {k: v for k, v in estimator.get_params().items() if v is None or isinstance(v, bool | int | float | str)}
    return json.dumps(params, sort_keys=True)


def _rewrap(blob: bytes, params: dict[str, Any]) -> Any:
    from xgboost import XGBClassifier

    estimator = XGBClassifier(**params)
    estimator.load_model(bytearray(blob))
    return estimator


@dataclass(frozen=True, kw_only=True, eq=False)
class EstimatorRecipe:
    """Training of a clone of an unfitted scikit-learn-style classifier; ``random_state`` is drawn from the rng."""

    estimator: Any

    def fit(self, dataset: Dataset, rng: Rng) -> EstimatorModel:
        """A model trained on the data set; ``weights`` are never used here.

        Raises:
            InputError: if the library refuses the parameters or the data.
        """
        seen = np.unique(dataset.y)
        estimator = self.fit_estimator(dataset, rng)
        found = np.asarray(estimator.classes_)
        # Boosters count classes from 0, so where some class has no row they were given other numbers; labels undo that.
        moved = len(found) == len(seen) and (found.astype(np.int64) != seen).any()
        names = tuple(str(np.flatnonzero(seen == c)[0]) if c in seen else f"unseen {c}" for c in range(dataset.classes)) if moved else ()
        return EstimatorModel(estimator=estimator, space=dataset.space, classes=dataset.classes, labels=names)

    def fit_estimator(self, dataset: Dataset, rng: Rng, *, weight: Array | None = None) -> Any:
        """The fitted estimator itself, on rows weighted by ``weight`` ``(n,)`` (None = all 1).

        Where all rows are of one class, that is all there is to learn: a constant estimator.
        """
        from sklearn.base import clone
        from sklearn.dummy import DummyClassifier
        from sklearn.exceptions import ConvergenceWarning

        seen = np.unique(dataset.y)
        estimator: Any = clone(self.estimator) if len(seen) > 1 else DummyClassifier()
        seed = int(rng.integers(2**31))
        seeds = {name: seed for name in estimator.get_params(deep=True) if name == "random_state" or name.endswith("__random_state")}
        estimator.set_params(**seeds)
        x = dataset.x.reshape(len(dataset), -1)
        if is_catboost(estimator):
            x = prepare_(estimator, dataset.space, x, seed)
        y = np.searchsorted(seen, dataset.y) if type(estimator).__module__.startswith("xgboost") else dataset.y
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # how far a fit goes is a parameter
                return as_rows_of(estimator.fit(x, y, **_weights(estimator, weight)), dataset.space)
        except Exception as error:
            if isinstance(error, ValueError | TypeError) or type(error).__name__ in ("XGBoostError", "LightGBMError", "CatBoostError"):
                said = (str(error).strip().splitlines() or [""])[0][:200]
                raise InputError(
                    f"{_name(self.estimator)} cannot be trained on {dataset.name} ({said}); check its parameters and the data"
                ) from error
            raise

    @functools.cached_property
    def _identity(self) -> str:
        from sklearn.base import clone

        unfitted: Any = clone(self.estimator)
        return fingerprint(unfitted.get_params(deep=True))

    def describe(self) -> dict[str, Any]:
        """The estimator's class and parameters; ``state`` hashes them where their text would be cut short."""
        params = {k: _said(v) for k, v in sorted(self.estimator.get_params(deep=True).items())}
        return {"recipe": "estimator", "estimator": _name(self.estimator), "params": params, "state": self._identity}


def _weights(estimator: Any, weight: Array | None) -> dict[str, Array]:
    """The keyword that carries row weights: a pipeline wants to know for which step."""
    if weight is None:
        return {}
    steps = getattr(estimator, "steps", None)
    return {f"{steps[-1][0]}__sample_weight" if steps else "sample_weight": weight}


def _name(estimator: Any) -> str:
    steps = getattr(estimator, "steps", None)
    return type(estimator).__name__ if not steps else type(steps[-1][1]).__name__


def _said(value: Any) -> Any:
    """A parameter as JSON holds it; texts have no addresses, since two processes must describe the same recipe alike."""
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and np.isfinite(value)):
        return value
    text = type(value).__name__ if " at 0x" in repr(value) else repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
