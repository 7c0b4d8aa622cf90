"""The door for models: a file, an entry of a plan or a live object becomes a ``Model``, or one sentence says why not.

No code runs from a model file. A pickle is refused unless the caller trusts it, and then still scanned before it is read.

>>> from carbide.types import Space
>>> model = wrap(lambda x: (x[:, 0] > 0).astype(int), space=Space.table(["a"]), classes=2)
>>> model.answers
'labels'
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from carbide.models._answers import OUTPUTS_OF
from carbide.models._files import by_content, by_suffix, one_line, read_bytes
from carbide.models._sklearn_layers import is_known
from carbide.models.callables import CallableModel, resolve
from carbide.models.estimators import EstimatorModel, as_rows_of, class_columns
from carbide.models.packing import allow_factory
from carbide.types import InputError, Model, Space

KINDS = ("xgboost", "lightgbm", "catboost", "sklearn", "onnx", "torch", "http", "callable")
OPTIONS = ("answers", "labels", "threshold", "base", "factory", "options", "device", "batch", "output", "timeout", "retries", "pause",
           "token_variable", "token_header")  # fmt: skip
FILES = {
    "xgboost": ("xgboost",),
    "lightgbm": ("lightgbm",),
    "catboost": ("catboost",),
    "sklearn": ("skops", "pickle"),
    "onnx": ("onnx",),
    "torch": ("safetensors", "torch", "export"),
}


def load_model(source: Any, *, space: Space, classes: int, trust: bool = False, **options: Any) -> Model:
    """A model from a file's path, a plan's entry such as ``{"xgboost": "fraud.json"}``, an ``http(s)://`` address or a live object.

    Args:
        source: what to load; the entry's value is a path, an address or a mapping with ``file`` and options.
        space: the geometry of one input.
        classes: the number of classes of the data.
        trust: read pickles too; they are scanned first, and a hostile one is refused all the same.
        options: ``answers`` (probabilities, logits, labels or auto), ``labels`` (the model's own names of classes 0, 1, ...),
            ``threshold``, ``base`` (the folder of relative paths); for torch ``factory``, ``options``, ``device``; for ONNX
            ``output``; for HTTP ``timeout``, ``retries``, ``pause``, ``batch``, ``token_variable``, ``token_header``.

    Raises:
        InputError: if anything about it is wrong.
    """
    _check_options(options)
    if isinstance(source, str) and source.startswith(("http://", "https://")):
        source = {"http": {"url": source}}
    if isinstance(source, Mapping):
        kind, given = _entry(source)
        options = {**options, **given}
        _check_options(options, extra=("file", "url", "function", "weights"))
        return _finish(_LOADERS[kind](kind, options, space, classes, trust), options)
    if isinstance(source, str | Path):
        path = _path(source, options)
        promised = by_suffix(path)
        file_kind = by_content(read_bytes(path)) if len(promised) > 1 else next(iter(promised))
        kind = next((kind for kind, kinds in FILES.items() if file_kind in kinds and file_kind in promised), next(iter(promised)))
        return _finish(_LOADERS[kind](kind, {**options, "file": source}, space, classes, trust), options)
    return wrap(source, space=space, classes=classes, **options)


def wrap(obj: Any, *, space: Space, classes: int, **options: Any) -> Model:
    """A live object as a model: a torch module, a fitted scikit-learn, XGBoost, LightGBM or CatBoost classifier or booster, or any function.

    A function maps ``(n, *shape)`` to probabilities or logits ``(n, k)`` or labels ``(n,)``; ``answers`` says which
    (default: found out on a few rows). Other options as in ``load_model``.

    Raises:
        InputError: if it is not fitted, does not fit the space or the classes, or is nothing that answers.
    """
    _check_options(options)
    labels = _labels(options)
    torch = sys.modules.get("torch")
    if isinstance(obj, Model) and type(obj).__module__.startswith("carbide."):
        if obj.space.shape != space.shape or obj.classes != classes:
            raise InputError(
                f"the model takes inputs of shape {obj.space.shape} and has {obj.classes} classes, the data {space.shape} and {classes}; "
                f"use them together"
            )
        return _finish(obj, options)
    if torch is not None and isinstance(obj, torch.nn.Module):
        return _finish(_wrap_module(obj, space, classes, options), options)
    package = type(obj).__module__.split(".")[0]
    if package in ("xgboost", "lightgbm") and type(obj).__name__ == "Booster":
        return _finish(_wrap_booster(obj, package, space, classes, labels), options)
    if isinstance(obj, type):
        raise InputError(f"the model is the class {obj.__name__}, not a fitted instance of it; fit one and give that")
    if hasattr(obj, "predict_proba") or (hasattr(obj, "predict") and hasattr(obj, "get_params")):
        return _finish(_wrap_estimator(obj, space, classes, labels), options)
    if callable(obj):
        model = CallableModel(function=obj, space=space, classes=classes, answers=options.get("answers", "auto"), labels=labels,
                              address=options.get("address", ""), batch=int(options.get("batch", 4096)))  # fmt: skip
        return _finish(model, options)
    raise InputError(
        f"the model is a {type(obj).__name__}; give a torch module, a fitted classifier, a function, a path or a mapping such as "
        f"{{'xgboost': 'model.json'}}"
    )


def _check_options(options: Mapping[str, Any], *, extra: tuple[str, ...] = ("address",)) -> None:
    for name in options:
        if name not in (*OPTIONS, *extra):
            raise InputError(f"model option {name!r} is not known; choose {', '.join(OPTIONS)}")


def _entry(source: Mapping[Any, Any]) -> tuple[str, dict[str, Any]]:
    """The kind of a plan's entry and its options."""
    found = [str(key) for key in source if str(key) in KINDS]
    if len(found) != 1:
        raise InputError(f"model has the keys {', '.join(map(str, source)) or 'none'}; name exactly one of {', '.join(KINDS)}")
    kind, value = found[0], source[found[0]]
    rest = {str(key): item for key, item in source.items() if str(key) != kind}
    main = {"http": "url", "callable": "function"}.get(kind, "file")
    if isinstance(value, Mapping):
        return kind, {**rest, **{str(key): item for key, item in value.items()}}
    if not isinstance(value, str | Path):
        raise InputError(f"model {kind} is {value!r}; give a text or a mapping, e.g. {kind}: {{{main}: ...}}")
    return kind, {**rest, main: value}


def _labels(options: Mapping[str, Any]) -> tuple[Any, ...]:
    labels = options.get("labels") or ()
    if isinstance(labels, str) or not hasattr(labels, "__iter__"):
        raise InputError(f"labels is {labels!r}; give a list with the model's name of each class, in the order of the data's classes")
    return tuple(labels)


def _path(value: Any, options: Mapping[str, Any]) -> Path:
    base = options.get("base")
    return Path(value) if base is None else Path(base) / Path(value)


def _finish(model: Model, options: Mapping[str, Any]) -> Model:
    threshold = options.get("threshold")
    if threshold is None:
        return model
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not np.isfinite(threshold):
        raise InputError(f"threshold is {threshold!r}; give a probability in [0, 1]")
    return model.at(float(threshold))


def _file(kind: str, options: Mapping[str, Any], key: str = "file") -> tuple[bytes, str, Path]:
    """The bytes of the named file, their format and the path; the content decides, not the name."""
    if key not in options:
        raise InputError(f"model {kind} names no file; add {key}: PATH")
    if not isinstance(options[key], str | Path):
        raise InputError(f"model {kind} has {key} {options[key]!r}; give a path")
    path = _path(options[key], options)
    blob = read_bytes(path)
    found = by_content(blob)
    allowed = FILES[kind]
    promised = by_suffix(path)
    if found not in allowed or not set(promised) & set(allowed):
        wrong = f"holds {found}" if found not in allowed else f"ends in {path.suffix!r}"
        mend = (
            "name the right kind of model"
            if found in ("xgboost", "lightgbm", "catboost", "skops", "onnx", "safetensors", "torch", "export")
            else "save the model again"
        )
        if found == "pickle" and kind == "torch":
            mend = "it may be a whole pickled module: save module.state_dict() as safetensors"
        raise InputError(f"model {path} {wrong}, where {' or '.join(allowed)} is expected; {mend}")
    if found not in promised:
        raise InputError(f"model {path} ends in {path.suffix!r} but holds {found}; give the file the name of its format")
    return blob, found, path


def _load_estimator(kind: str, options: dict[str, Any], space: Space, classes: int, trust: bool) -> Model:
    blob, found, path = _file(kind, options)
    if found == "pickle":
        if not trust:
            raise InputError(
                f"model {path} is a pickle, which can run code; save it with skops (skops.io.dump), or pass --trust if you made it yourself"
            )
        from carbide.models.pickle_file import load_pickle

        return _wrap_estimator(load_pickle(blob, f"model {path}"), space, classes, _labels(options))
    from carbide.models.readers import read_estimator

    return _wrap_estimator(read_estimator(blob, found, name=f"model {path}"), space, classes, _labels(options))


def _load_onnx(kind: str, options: dict[str, Any], space: Space, classes: int, trust: bool) -> Model:
    from carbide.models.onnx_file import OnnxModel, check_onnx

    blob, _, path = _file(kind, options)
    graph = check_onnx(blob, f"model {path}", path.parent)
    return OnnxModel(blob=graph, space=space, classes=classes, labels=_labels(options), name=f"model {path}", output=str(options.get("output", "")),
                     answers=options.get("answers", "auto"))  # fmt: skip


def _load_torch(kind: str, options: dict[str, Any], space: Space, classes: int, trust: bool) -> Model:
    key = "weights" if "weights" in options else "file"
    blob, found, path = _file(kind, options, key)
    _need_torch()
    name = f"model {path}"
    if found == "export":
        from carbide.models.torch_export import load_export

        return _wrap_module(load_export(blob, name), space, classes, options)
    from carbide.models.torch_file import torch_from_file

    factory, made = options.get("factory"), options.get("options") or {}
    if factory is None:
        raise InputError(f"{name} holds weights alone; name what makes the module, e.g. factory: package.module:function")
    if not isinstance(made, Mapping):
        raise InputError(f"options of the factory are {made!r}; give a mapping")
    if isinstance(factory, str):
        allow_factory(factory)
    model = torch_from_file(blob, found, name, factory=factory, options=made, space=space, classes=classes, device=_device(options))
    return _check_module(model, options)


def _load_http(kind: str, options: dict[str, Any], space: Space, classes: int, trust: bool) -> Model:
    from carbide.models.remote import HttpModel

    names = ("answers", "timeout", "retries", "pause", "batch", "token_variable", "token_header")
    given = {name: options[name] for name in names if name in options}
    for name in ("timeout", "retries", "pause", "batch"):
        if name in given and (isinstance(given[name], bool) or not isinstance(given[name], int | float)):
            raise InputError(f"{name} is {given[name]!r}; give a number")
    if "url" not in options:
        raise InputError("model http names no address; add url: https://...")
    url = allow_factory(str(options["url"]))
    return HttpModel(url=url, space=space, classes=classes, labels=_labels(options), **given)


def _load_callable(kind: str, options: dict[str, Any], space: Space, classes: int, trust: bool) -> Model:
    address = str(options.get("function", ""))
    function = resolve(address)
    allow_factory(address)
    rest = {key: value for key, value in options.items() if key in OPTIONS and key != "threshold"}
    if hasattr(function, "predict_proba") or (not callable(function)):
        return wrap(function, space=space, classes=classes, **rest)
    return wrap(function, space=space, classes=classes, address=address, **rest)


def _need_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise InputError("a torch model needs the torch extra; install it with: pip install 'carbide[torch]'") from error


def _device(options: Mapping[str, Any]) -> str:
    import torch

    device = str(options.get("device", "cpu"))
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device is {device!r}, which torch cannot use here; choose cpu") from error
    return device


def _wrap_module(module: Any, space: Space, classes: int, options: Mapping[str, Any]) -> Model:
    from carbide.models.torch_net import TorchModel, keep_template

    keep_template(module)  # a later process that is given this module again can then read back what was stored of it
    mended = ("training mode",) if _matters(module) else ()
    return _check_module(TorchModel(module=module, space=space, classes=classes, device=_device(options), mended=mended), options)


def _matters(module: Any) -> bool:
    """Whether the module came in training mode and that makes a difference: some part drops out or keeps batch statistics."""
    return module.training and any("Dropout" in type(part).__name__ or "BatchNorm" in type(part).__name__ for part in module.modules())


def _check_module(model: Any, options: Mapping[str, Any]) -> Model:
    """The torch model with its outputs told apart, after a few rows went through it."""
    from carbide.models.torch_net import probe_outputs

    answers = options.get("answers", "auto")
    if answers not in OUTPUTS_OF:
        raise InputError(f"answers is {answers!r}, but a torch module answers logits or probabilities; choose one of them or auto")
    return probe_outputs(model, answers)


def _wrap_booster(booster: Any, library: str, space: Space, classes: int, labels: tuple[Any, ...]) -> Model:
    from carbide.models.boosters import lightgbm_classifier, xgboost_classifier

    read = xgboost_classifier if library == "xgboost" else lightgbm_classifier
    return _wrap_estimator(read(booster), space, classes, labels)


def _wrap_estimator(estimator: Any, space: Space, classes: int, labels: tuple[Any, ...]) -> Model:
    estimator, name = as_rows_of(estimator, space), type(estimator).__name__
    _check_fitted(estimator, name)
    found = getattr(estimator, "classes_", None)
    if found is None:
        raise InputError(f"{name} is no classifier (it has no classes_); give one that was fitted to classes")
    columns = class_columns(found, classes, labels, name)
    width, given = int(np.prod(space.shape)), getattr(estimator, "n_features_in_", None)
    if given is not None and int(given) != width:
        raise InputError(
            f"{name} was trained on {int(given)} features, but a row of the data has {width}; give the data and space it was trained with"
        )
    _check_names(estimator, space, name)
    if not hasattr(estimator, "predict_proba") and not is_known(estimator):
        names = labels or tuple(np.asarray(found)[np.argsort(columns)].tolist())
        return CallableModel(function=estimator.predict, space=space, classes=classes, answers="labels", labels=names)
    model = EstimatorModel(estimator=estimator, space=space, classes=classes, labels=labels)
    _try_estimator(model, name)
    return model


def _try_estimator(model: EstimatorModel, name: str) -> None:
    from carbide.models._answers import probe_rows
    from carbide.models.checks import check_probabilities
    from carbide.types import rng_for

    rows = probe_rows(model.space, rng_for(0, "probe"))
    try:
        answers = model.predict(rows)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{name} fails on rows of shape {rows.shape[1:]} ({type(error).__name__}: {one_line(error)}); give the data and space it was trained with"
        ) from error
    check_probabilities(answers, rows=len(rows), classes=model.classes)


def _check_fitted(estimator: Any, name: str) -> None:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        if hasattr(estimator, "get_params"):
            check_is_fitted(estimator)
    except NotFittedError as error:
        raise InputError(f"{name} is not fitted; call fit first, or give it as the recipe") from error
    except TypeError as error:
        raise InputError(f"{name} is no fitted classifier ({one_line(error)}); give one") from error


def _check_names(estimator: Any, space: Space, name: str) -> None:
    """Columns in another order than the model's would give confident nonsense, so equal names in another order are refused."""
    names = getattr(estimator, "feature_names_in_", None) if hasattr(estimator, "feature_names_in_") else None
    if names is None:
        held: Any = getattr(estimator, "booster", None)
        names = getattr(held, "feature_names", None) or (held.feature_name() if hasattr(held, "feature_name") else None)
    said = [str(item) for item in names] if names is not None else []
    if said and space.names and sorted(said) == sorted(space.names) and tuple(said) != space.names:
        first = next(i for i, (a, b) in enumerate(zip(said, space.names, strict=True)) if a != b)
        raise InputError(
            f"{name} was trained with {said[first]!r} as feature {first}, the data has {space.names[first]!r} there; put the columns in "
            f"the model's order"
        )


_LOADERS: dict[str, Callable[[str, dict[str, Any], Space, int, bool], Model]] = {
    "xgboost": _load_estimator, "lightgbm": _load_estimator, "catboost": _load_estimator, "sklearn": _load_estimator, "onnx": _load_onnx, "torch": _load_torch, "http": _load_http,
    "callable": _load_callable}  # fmt: skip
