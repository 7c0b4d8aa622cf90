"""How a model is trained, from a plan's entry or a live unfitted estimator.

>>> from carbide.types import Space
>>> recipe = make_recipe({"estimator": "random_forest", "params": {"n_estimators": 10}}, space=Space.table(["a", "b"]), classes=2)
>>> recipe.describe()["params"]["n_estimators"]
10
"""

from __future__ import annotations

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carbide.models._files import one_line, read_json
from carbide.models.catboosted import clonable, is_catboost
from carbide.models.estimators import EstimatorRecipe
from carbide.types import InputError, Recipe, Space

# Name -> class, and the parameters that make one run like the next and keep libraries quiet; the plan may override them.
ESTIMATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "xgboost": ("xgboost:XGBClassifier", {"n_jobs": 1, "verbosity": 0}),
    "lightgbm": ("lightgbm:LGBMClassifier", {"n_jobs": 1, "verbose": -1, "deterministic": True, "force_row_wise": True}),
    "catboost": (
        "catboost:CatBoostClassifier",
        {"thread_count": 1, "verbose": False, "random_seed": 0, "allow_writing_files": False, "one_hot_max_size": 255},
    ),
    "random_forest": ("sklearn.ensemble:RandomForestClassifier", {"n_jobs": 1}),
    "extra_trees": ("sklearn.ensemble:ExtraTreesClassifier", {"n_jobs": 1}),
    "gradient_boosting": ("sklearn.ensemble:GradientBoostingClassifier", {}),
    "hist_gradient_boosting": ("sklearn.ensemble:HistGradientBoostingClassifier", {}),
    "decision_tree": ("sklearn.tree:DecisionTreeClassifier", {}),
    "logistic_regression": ("sklearn.linear_model:LogisticRegression", {"max_iter": 1000}),
    "mlp": ("sklearn.neural_network:MLPClassifier", {"max_iter": 300}),
    "naive_bayes": ("sklearn.naive_bayes:GaussianNB", {}),
    "nearest_neighbors": ("sklearn.neighbors:KNeighborsClassifier", {"n_jobs": 1, "algorithm": "brute"}),
}
SCALED = ("logistic_regression", "mlp", "nearest_neighbors")  # these see standardised features, like their users' pipelines
# Names that the libraries' own training functions use, beside those of their scikit-learn classes.
ALIASES: dict[str, dict[str, str]] = {
    "xgboost": {"eta": "learning_rate", "lambda": "reg_lambda", "alpha": "reg_alpha", "nthread": "n_jobs", "seed": "random_state",
                "min_split_loss": "gamma", "num_boost_round": "n_estimators", "num_round": "n_estimators"},
    "lightgbm": {"eta": "learning_rate", "lambda_l1": "reg_alpha", "lambda_l2": "reg_lambda",
                 "seed": "random_state", "num_threads": "n_jobs", "num_iterations": "n_estimators", "num_boost_round": "n_estimators",
                 "num_trees": "n_estimators", "feature_fraction": "colsample_bytree", "bagging_fraction": "subsample",
                 "bagging_freq": "subsample_freq", "boosting": "boosting_type",
                 "min_data_in_leaf": "min_child_samples", "min_sum_hessian_in_leaf": "min_child_weight", "min_gain_to_split": "min_split_gain"},
    "catboost": {"eta": "learning_rate", "objective": "loss_function", "n_estimators": "iterations", "num_boost_round": "iterations",
                 "num_trees": "iterations", "max_depth": "depth", "reg_lambda": "l2_leaf_reg", "random_state": "random_seed", "seed": "random_seed",
                 "n_jobs": "thread_count", "colsample_bylevel": "rsm", "max_bin": "border_count", "min_child_samples": "min_data_in_leaf",
                 "num_leaves": "max_leaves"},
}  # fmt: skip
FURTHER = {"lightgbm": ("deterministic", "force_row_wise", "force_col_wise", "verbose", "max_bin", "is_unbalance", "scale_pos_weight", "path_smooth",
                        "extra_trees", "max_delta_step", "min_data_in_bin", "monotone_constraints", "feature_fraction_bynode", "bagging_seed",
                        "feature_fraction_seed", "data_random_seed", "cat_smooth", "cat_l2", "max_cat_threshold", "boost_from_average",
                        "sigmoid"),
           "catboost": ("iterations", "learning_rate", "depth", "l2_leaf_reg", "loss_function", "rsm", "border_count", "feature_border_type", "nan_mode",
                        "fold_permutation_block", "leaf_estimation_iterations", "leaf_estimation_method", "leaf_estimation_backtracking", "thread_count",
                        "random_seed", "verbose", "class_weights", "auto_class_weights", "scale_pos_weight", "one_hot_max_size", "random_strength",
                        "bagging_temperature", "boosting_type", "bootstrap_type", "subsample", "sampling_frequency", "grow_policy", "min_data_in_leaf",
                        "max_leaves", "score_function", "cat_features", "ignored_features", "monotone_constraints", "feature_weights", "has_time",
                        "model_shrink_rate", "model_shrink_mode", "langevin", "diffusion_temperature", "posterior_sampling", "boost_from_average",
                        "allow_writing_files", "early_stopping_rounds", "eval_metric")}  # fmt: skip
OBJECTS = ("perturb", "objective", "watch", "start")  # of a torch recipe, which a file cannot hold
NEED_MORE = {
    "early_stopping_rounds": "a second data set to stop by",
    "callbacks": "code",
    "custom_metric": "code",
    "eval_metric": "a second data set",
}


def make_recipe(spec: Any, *, space: Space, classes: int, base: Path | None = None) -> Recipe:
    """The recipe that an entry of a plan describes, or that trains a live unfitted estimator.

    ``{estimator: NAME, params: {...} or "FILE.json"}`` or ``{torch: {factory, options, epochs, batch, rate, ...}}``;
    without a factory, torch trains a small network that fits the space. ``{callable: "module:function"}`` or a live function trains by
    ``function(x, y, rng)``. ``base`` is the folder of relative paths.

    Raises:
        InputError: if a name, a parameter or a file is not known; the known ones are listed.
    """
    if isinstance(spec, str):
        spec = {"estimator": spec}
    if isinstance(spec, Recipe):
        return spec
    if not isinstance(spec, Mapping):
        return _live(spec)
    keys = {str(key) for key in spec}
    ways = [way for way in ("estimator", "torch", "callable") if way in keys]
    if len(ways) > 1:
        raise InputError(f"recipe names both {' and '.join(ways)}, but a model is trained in one way; keep one of them")
    if "torch" in keys:
        _only(keys, ("torch",), "recipe")
        return _torch(spec["torch"], space, classes)
    if "callable" in keys:
        from carbide.models.training_functions import function_recipe

        _only(keys, ("callable",), "recipe")
        return function_recipe(spec["callable"])
    if "estimator" not in keys:
        raise InputError(
            f"recipe has the keys {', '.join(sorted(keys)) or 'none'}; give estimator: {' | '.join(ESTIMATORS)}, torch: {{...}} or callable: ..."
        )
    _only(keys, ("estimator", "params"), "recipe")
    if not isinstance(spec["estimator"], str):
        return _live(spec["estimator"])
    return EstimatorRecipe(estimator=make_estimator(spec["estimator"], read_params(spec.get("params"), base)))


def read_params(params: Any, base: Path | None = None) -> dict[str, Any]:
    """Parameters from a mapping or the path of a JSON file.

    Raises:
        InputError: if it is neither.
    """
    if params is None:
        return {}
    if isinstance(params, str | Path):
        return read_json(Path(params) if base is None else base / params, "params")
    if not isinstance(params, Mapping):
        raise InputError(f"params is {params!r}; give a mapping or the path of a JSON file")
    return {str(key): value for key, value in params.items()}


def make_estimator(name: str, params: Mapping[str, Any]) -> Any:
    """An unfitted estimator by its name in ``ESTIMATORS``; linear models and networks come behind a ``StandardScaler``.

    Raises:
        InputError: if the name or a parameter is not known.
    """
    if name not in ESTIMATORS:
        raise InputError(f"estimator {name!r} is not known; choose {', '.join(ESTIMATORS)}")
    address, defaults = ESTIMATORS[name]
    module, _, attribute = address.partition(":")
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise InputError(f"estimator {name} needs the {name} extra; install it with: pip install 'carbide[{name}]'") from error
    known = {*cls().get_params(), *FURTHER.get(name, ())}
    given = _renamed(name, params, known)
    estimator = cls(**{**defaults, **given})
    estimator = clonable(estimator) if is_catboost(estimator) else estimator
    _validate(estimator, name)
    if name not in SCALED:
        return estimator
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    return Pipeline([("scale", StandardScaler()), ("model", estimator)])


def _renamed(name: str, params: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for key, value in params.items():
        own = ALIASES.get(name, {}).get(key, key)
        if own in NEED_MORE and value is not None:
            raise InputError(f"estimator {name}: {key} needs {NEED_MORE[own]}, which training here does not have; leave it out")
        if own not in known:
            raise InputError(f"estimator {name} has no parameter {key!r}; its parameters are {', '.join(sorted(known - set(NEED_MORE)))}")
        if own in given:
            raise InputError(f"estimator {name} is given {own} twice, once as {key!r}; give it once")
        if isinstance(value, Mapping) and own == "class_weight":
            value = {int(label) if str(label).lstrip("-").isdigit() else label: weight for label, weight in value.items()}
        given[own] = value
    return given


def _validate(estimator: Any, name: str) -> None:
    """scikit-learn checks parameters when it fits; here they are checked when the plan is read."""
    if not hasattr(estimator, "_parameter_constraints"):
        return
    try:
        estimator._validate_params()
    except (ValueError, TypeError) as error:
        raise InputError(f"estimator {name}: {one_line(error)}") from error


def _live(estimator: Any) -> Recipe:
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(estimator, torch.nn.Module):
        raise InputError(
            f"the recipe is the torch module {type(estimator).__name__}, which does not say how it is trained; give {{'torch': {{'factory': ...}}}}"
        )
    if isinstance(estimator, type):
        raise InputError(f"the recipe is the class {estimator.__name__}; give an instance of it with its parameters")
    if callable(estimator) and not hasattr(estimator, "fit"):
        from carbide.models.training_functions import FunctionRecipe

        return FunctionRecipe(function=estimator)
    if not (hasattr(estimator, "fit") and hasattr(estimator, "get_params")):
        raise InputError(
            f"the recipe is a {type(estimator).__name__}; give an unfitted estimator, or a mapping such as {{'estimator': 'random_forest'}}"
        )
    if not (hasattr(estimator, "predict_proba") or getattr(estimator, "probability", False)):
        raise InputError(f"{type(estimator).__name__} gives no probabilities; wrap it in sklearn.calibration.CalibratedClassifierCV")
    return EstimatorRecipe(estimator=clonable(estimator) if is_catboost(estimator) else estimator)


def _torch(value: Any, space: Space, classes: int) -> Recipe:
    if value is not None and not isinstance(value, Mapping):
        raise InputError(f"recipe torch is {value!r}; give a mapping, e.g. torch: {{epochs: 20}}")
    try:
        from carbide.models.torch_net import TorchRecipe, make_module
    except ImportError as error:
        raise InputError("a torch recipe needs the torch extra; install it with: pip install 'carbide[torch]'") from error
    given = {str(key): item for key, item in (value or {}).items()}
    types = {f.name: f.type for f in dataclasses.fields(TorchRecipe) if f.init and f.name not in OBJECTS}
    _only(set(given), tuple(types), "recipe torch")
    for key, item in given.items():
        given[key] = _typed(key, item, str(types[key]))
    options = given.setdefault("options", {})
    if given.get("factory") is None:
        given["factory"], given["options"] = _default_net(space, classes, options)
    recipe = TorchRecipe(**given)
    module = make_module(recipe.factory, recipe.options)
    _try_module(module, space, classes, str(given["factory"]))
    return recipe


def _typed(key: str, value: Any, kind: str) -> Any:
    if kind == "int" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InputError(f"recipe torch: {key} is {value!r}; give a whole number of at least 1")
    if kind == "float":
        try:
            value = float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"recipe torch: {key} is {value!r}; give a number") from error
        if not np.isfinite(value) or value < 0:
            raise InputError(f"recipe torch: {key} is {value!r}; give a finite number of at least 0")
    if key == "options" and not isinstance(value, Mapping):
        raise InputError(f"recipe torch: options is {value!r}; give a mapping")
    return value


def _default_net(space: Space, classes: int, options: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if space.is_image:
        return "carbide.models.nets:small_cnn", {"shape": tuple(space.shape), "classes": classes, **options}
    return "carbide.models.nets:small_mlp", {"inputs": int(np.prod(space.shape)), "classes": classes, **options}


def _try_module(module: Any, space: Space, classes: int, factory: str) -> None:
    """See before any training that the module takes rows of the space and answers one logit a class."""
    from carbide.models.torch_net import TorchModel, probe_outputs

    probe_outputs(TorchModel(module=module, space=space, classes=classes), "logits")


def _only(keys: set[str], known: tuple[str, ...], where: str) -> None:
    for key in sorted(keys):
        if key not in known:
            raise InputError(f"{where} has no key {key!r}; its keys are {', '.join(known)}")
