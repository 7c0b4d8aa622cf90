"""CatBoost's models as classifiers over rows of numbers, whose categories Carbide numbers and the library names.

CatBoost takes categories as texts. A column of them holds, as everywhere in Carbide, the number of the category among the names
that the space has for that column; without names a whole number is its own name, and missing is named ``nan``, as the library's
manual asks. What the library is given was read and written by Carbide (``_catboost_file``), so a file cannot lead it astray.

>>> named(np.array([2.0, 0.5, np.nan]), ()).tolist(), named(np.array([1.0, 7.0]), ("red", "blue")).tolist()
(['2', '0.5', 'nan'], ['blue', 'nan'])
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from carbide.models._catboost_file import features_of, leaf_values, params_of, read_catboost, written
from carbide.models._files import one_line
from carbide.models.trees.ensemble import Ensemble
from carbide.types import Array, CarbideError, InputError, Space

MISSING = "nan"
Words = tuple[tuple[int, tuple[str, ...]], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CatBoosted:
    """A CatBoost ``model`` of the checked ``document``; ``words`` are the names of the categories of columns that have some."""

    model: Any
    document: dict[str, Any]
    words: Words = ()

    @property
    def classes_(self) -> Array:
        """The library's classes, in the order of the columns."""
        said = self.document["model_info"]["class_params"]
        return np.asarray(said["class_names"] or said["class_to_label"])

    @property
    def n_features_in_(self) -> int:
        """How many columns a row has."""
        return features_of(self.document)

    @property
    def feature_names_in_(self) -> Array:
        """The names of the columns.

        Raises:
            AttributeError: if the library has none.
        """
        parts = self.document["features_info"]
        names = {part["flat_feature_index"]: part["feature_id"] for kind in parts.values() for part in kind}
        if not all(names.values()):
            raise AttributeError("the columns have no names")
        return np.array([names[i] for i in range(len(names))])

    @property
    def categorical(self) -> tuple[int, ...]:
        """The columns of categories."""
        return tuple(part["flat_feature_index"] for part in self.document["features_info"]["categorical_features"])

    @functools.cached_property
    def ensemble_(self) -> Ensemble:
        """The trees in the intermediate form.

        Raises:
            InputError: if a split asks for a category that is neither named by the space nor a small whole number.
        """
        from carbide.models.trees.from_catboost import ensemble_from

        return ensemble_from(self)

    def rows(self, x: Array) -> Array:
        """Rows of numbers ``(n, d)`` as the library takes them: categories by name."""
        return with_names(x, self.categorical, dict(self.words))

    def predict_proba(self, x: Array) -> Array:
        """Probabilities ``(n, k)`` of rows of numbers ``(n, d)``."""
        return np.asarray(self.model.predict(self.rows(np.asarray(x)), prediction_type="Probability", thread_count=1))

    def predict(self, x: Array) -> Array:
        """The likeliest class of each row ``(n,)``."""
        return self.classes_[self.predict_proba(x).argmax(1)]

    def names_in(self, space: Space) -> CatBoosted:
        """The same model with the names that a space has for its categories.

        Raises:
            InputError: as ``ensemble_``.
        """
        words = words_of(space, self.categorical)
        found = self if words == self.words else replace(self, words=words)
        _ = found.ensemble_  # what cannot be read is said now
        return found

    def blob(self) -> bytes:
        """The document: the same model gives the same bytes."""
        return written(self.document)


def named(values: Array, words: Sequence[str]) -> Array:
    """The texts ``(n,)`` object that stand for numbers ``(n,)`` of categories."""
    if words:
        known = (values == np.floor(values)) & (values >= 0) & (values < len(words))
        return np.array([*words, MISSING], object)[np.where(known, values, len(words)).astype(np.int64)]
    found, place = np.unique(values, return_inverse=True)
    return np.array([str(int(v)) if float(v).is_integer() else repr(float(v)) for v in found], object)[place.reshape(-1)]


def with_names(x: Array, categorical: Sequence[int], words: dict[int, tuple[str, ...]]) -> Array:
    """Rows ``(n, d)`` with these columns as texts; the rows themselves where there are none."""
    if not len(categorical):
        return x
    out = x.astype(object)
    for column in categorical:
        out[:, column] = named(x[:, column], words.get(column, ()))
    return out


def words_of(space: Space, columns: Sequence[int]) -> Words:
    """The names that a space has for the categories of these columns."""
    return tuple((c, space.categories[space.names[c]]) for c in columns if space.names and space.names[c] in space.categories)


def is_catboost(estimator: Any) -> bool:
    """Whether a live object is one of CatBoost's, or a subclass that answers as it does; imports nothing."""
    from carbide.models.trees import library_of

    return library_of(estimator) == "catboost"


def clonable(estimator: Any) -> Any:
    """An unfitted CatBoost that scikit-learn can clone: it copies lists, which ``clone`` takes for a change, and leaves tuples as they are."""
    given = estimator.get_params()
    return type(estimator)(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


def prepare_(estimator: Any, space: Space, x: Array, seed: int) -> Array:
    """Set what makes an unfitted CatBoost train quietly and repeatably, and return its training rows: ``cat_features`` by name.

    Raises:
        InputError: if a feature of ``cat_features`` is none of the space's.
    """
    given = estimator.get_params()
    quiet = {} if {"verbose", "silent", "logging_level", "verbose_eval"} & set(given) else {"verbose": False}
    named_seed = next((key for key in ("random_seed", "random_state") if key in given), "random_seed")
    columns = [_column(c, space, x.shape[1]) for c in given.get("cat_features") or ()]
    lists = {key: list(value) for key, value in given.items() if isinstance(value, tuple)}
    estimator.set_params(**{**lists, "allow_writing_files": False, **quiet, named_seed: seed, **({"cat_features": columns} if columns else {})})
    return with_names(x, columns, dict(words_of(space, columns)))


def _column(feature: Any, space: Space, width: int) -> int:
    if isinstance(feature, str):
        return space.index(feature)
    if isinstance(feature, bool) or int(feature) != feature or not 0 <= feature < width:
        raise InputError(f"cat_features names the column {feature!r}; give names of features, or numbers from 0 to {width - 1}")
    return int(feature)


def catboosted(estimator: Any, space: Space | None = None) -> CatBoosted:
    """A fitted ``CatBoostClassifier`` or ``CatBoost``.

    Raises:
        InputError: if it is not fitted, no classifier, or splits on what Carbide does not read.
    """
    name = type(estimator).__name__
    if not estimator.is_fitted():
        raise InputError(f"{name} is not fitted; call fit before you hand it to Carbide")
    found = CatBoosted(model=estimator, document=read_catboost(_saved(estimator), name))
    return found if space is None else found.names_in(space)


def _saved(estimator: Any) -> bytes:
    """The library's own JSON of a model; it writes that to files only."""
    with tempfile.TemporaryDirectory() as folder:
        estimator.save_model(str(Path(folder) / "model.json"), format="json")
        return (Path(folder) / "model.json").read_bytes()


def load_catboost(blob: bytes, name: str) -> CatBoosted:
    """The model of a file's bytes, JSON or binary.

    Raises:
        InputError: if they are damaged, hold no classifier or splits that Carbide does not read, or CatBoost is not installed.
    """
    document = read_catboost(blob, name)
    try:
        import catboost
    except ImportError as error:
        raise InputError(f"{name} needs the catboost extra; install it with: pip install 'carbide[catboost]'") from error
    try:
        return CatBoosted(model=model_of(document), document=document)
    except catboost.CatBoostError as error:
        raise InputError(f"{name} is no model that CatBoost {catboost.__version__} reads ({one_line(error)}); save the model again") from error


def model_of(document: dict[str, Any]) -> Any:
    """A ``CatBoost`` of a checked document.

    The library reads decimal numbers of JSON to within a few units of the last place, so leaves are given to it once more in binary.

    Raises:
        CarbideError: if it numbers the leaves otherwise than the document.
    """
    import catboost

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        path.write_bytes(written(document))
        model = catboost.CatBoost().load_model(str(path), format="json")
    values, scale, bias = leaf_values(document), *document["scale_and_bias"]
    if not np.allclose(model.get_leaf_values(), values, rtol=1e-12, atol=1e-300):
        raise CarbideError("CatBoost read a model's leaves in another order than they were written; use CatBoost 1.2")
    model.set_leaf_values(values)
    model.set_scale_and_bias(scale, bias if len(bias) > 1 else bias[0])
    return model


def binary_of(document: dict[str, Any]) -> bytes:
    """A checked document in CatBoost's binary format, which every tool of CatBoost serves."""
    with tempfile.TemporaryDirectory() as folder:
        model_of(document).save_model(str(Path(folder) / "model.cbm"))
        return (Path(folder) / "model.cbm").read_bytes()


def category_names(values: Sequence[int], names: Sequence[str]) -> list[list[int]]:
    """For each of the library's numbers of categories, ascending, the places in ``names`` of the texts that it stands for.

    The library keeps a hash of a category's text and has no way to say it, so a model of one split a number is asked about every name.
    """
    values = sorted(values)
    feature = {"feature_id": "", "feature_index": 0, "flat_feature_index": 0, "values": values}
    trees = [{"splits": [{"split_type": "OneHotFeature", "cat_feature_index": 0, "value": value, "split_index": i}], "leaf_values": [0.0, float(i + 1)],
              "leaf_weights": []} for i, value in enumerate(values)]  # fmt: skip
    classes = {"class_label_type": "Integer", "class_names": [0, 1], "class_to_label": [0, 1], "classes_count": 0}
    said = {"class_params": classes, "params": params_of("Logloss")}
    probe = model_of({"features_info": {"float_features": [], "categorical_features": [feature]}, "oblivious_trees": trees, "scale_and_bias": [1.0, [0.0]],
                      "model_info": said})  # fmt: skip
    found = np.asarray(probe.predict(np.array(list(names), object)[:, None], prediction_type="RawFormulaVal", thread_count=1))
    return [np.flatnonzero(found == i + 1).tolist() for i in range(len(values))]
