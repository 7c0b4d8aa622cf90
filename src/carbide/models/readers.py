"""Estimators from the bytes of a safe format, checked before and after the library reads them."""

from __future__ import annotations

from typing import Any

from carbide.models._files import one_line
from carbide.models._lightgbm_file import check_lightgbm
from carbide.models._xgboost_file import check_xgboost
from carbide.models.boosters import lightgbm_classifier, xgboost_classifier
from carbide.types import InputError


def read_estimator(blob: bytes, kind: str, *, name: str) -> Any:
    """A fitted classifier from bytes of the format ``xgboost`` (JSON or UBJ), ``lightgbm`` (text), ``catboost`` (JSON or binary) or ``skops``.

    Raises:
        InputError: if the bytes are damaged, of another format, or hold no classifier.
    """
    if kind == "xgboost":
        return _read_xgboost(blob, name)
    if kind == "lightgbm":
        return _read_lightgbm(blob, name)
    if kind == "catboost":
        from carbide.models.catboosted import load_catboost

        return load_catboost(blob, name)
    if kind != "skops":
        raise InputError(f"{name} is said to be {kind!r}; choose xgboost, lightgbm, catboost or skops")
    from carbide.models.skops_file import load_skops

    return load_skops(blob, name)


def _read_xgboost(blob: bytes, name: str) -> Any:
    check_xgboost(blob, name)
    try:
        import xgboost
    except ImportError as error:
        raise InputError(f"{name} needs the xgboost extra; install it with: pip install 'carbide[xgboost]'") from error
    try:
        booster = xgboost.Booster({"nthread": 1}, model_file=bytearray(blob))
        return xgboost_classifier(booster)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is no model that XGBoost {xgboost.__version__} reads ({one_line(error)}); save the model again") from error


def _read_lightgbm(blob: bytes, name: str) -> Any:
    try:
        text = check_lightgbm(blob.decode(), name)
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is no LightGBM text file ({one_line(error)}); save the model again with booster.save_model") from error
    try:
        import lightgbm
    except ImportError as error:
        raise InputError(f"{name} needs the lightgbm extra; install it with: pip install 'carbide[lightgbm]'") from error
    try:
        return lightgbm_classifier(lightgbm.Booster(model_str=text))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name} is no model that LightGBM {lightgbm.__version__} reads ({one_line(error)}); save the model again") from error
