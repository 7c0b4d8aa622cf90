"""The folder that a model is served from: native files that every serving stack reads, and what Carbide needs beside them.

XGBoost becomes ``model.json``, LightGBM ``model.txt``, CatBoost ``model.cbm``, scikit-learn ``model.skops``, torch ``model.safetensors`` with
``factory.json``, ONNX ``model.onnx``; models that Carbide wraps around others become ``model.npz``. ``carbide.npz`` keeps
the space, the classes and the threshold, so that ``load_saved`` gives back the model that answers the very same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carbide.models._files import one_line, read_bytes, read_json
from carbide.models.boosters import booster_of
from carbide.models.callables import CallableModel
from carbide.models.estimators import EstimatorModel
from carbide.models.packing import pack, unpack
from carbide.run.store import decode, encode, write_whole
from carbide.types import InputError, Model

SIDE = "carbide.npz"
FILES = {
    "xgboost": "model.json",
    "lightgbm": "model.txt",
    "catboost": "model.cbm",
    "skops": "model.skops",
    "torch": "model.safetensors",
    "onnx": "model.onnx",
    "carbide": "model.npz",
}
_HOW = {"xgboost": "xgboost.XGBClassifier().load_model('model.json')", "lightgbm": "lightgbm.Booster(model_file='model.txt')",
        "catboost": "catboost.CatBoostClassifier().load_model('model.cbm')", "skops": "skops.io.load('model.skops', trusted=skops.io.get_untrusted_types(file='model.skops'))",
        "torch": "module.load_state_dict(safetensors.torch.load_file('model.safetensors')), the module made as factory.json says",
        "onnx": "onnxruntime.InferenceSession('model.onnx')", "carbide": "carbide.models.load_saved('.'): it wraps a model in a defence "
                                                                         "of Carbide"}  # fmt: skip


def save_model(model: Model, folder: str | Path) -> list[Path]:
    """Write a model to a folder in the format its users serve, and return the files written.

    Raises:
        InputError: if the model cannot be stored or the folder cannot be written.
    """
    folder = Path(folder)
    kind = _kind(model)
    if kind == "callable":
        return _write(folder, {"README.md": _readme(model, None)})
    state: dict[str, Any] = {"kind": kind, "model": pack(model)}
    files: dict[str, bytes] = {}
    if kind == "carbide":
        files["model.npz"] = encode(model, pack=pack)
        return _write(folder, {**files, "README.md": _readme(model, kind)})
    if kind == "torch":
        files |= _torch_files(state["model"]["state"])
    elif kind == "onnx":
        files["model.onnx"] = state["model"]["state"].pop("blob")
    else:
        files[FILES[kind]] = _estimator_file(model, kind, state["model"]["state"].pop("blob"))
    return _write(folder, {**files, SIDE: encode(state), "README.md": _readme(model, kind)})


def forget_model(folder: str | Path) -> None:
    """Take away what ``save_model`` has written to a folder, and the folder if nothing else is in it."""
    folder = Path(folder)
    for name in (*FILES.values(), SIDE, "factory.json", "README.md"):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def load_saved(folder: str | Path) -> Model:
    """The model that ``save_model`` wrote; its predictions are the same to the last bit.

    Raises:
        InputError: if the folder holds no whole model.
    """
    folder = Path(folder)
    if (folder / "model.npz").exists():
        return _decoded(read_bytes(folder / "model.npz"), folder / "model.npz", unpack)
    if not (folder / SIDE).exists():
        raise InputError(f"{folder} holds no model of Carbide (neither model.npz nor {SIDE}); name the folder hardened/ of a run")
    state = _decoded(read_bytes(folder / SIDE), folder / SIDE, None)
    kind = state.get("kind") if isinstance(state, dict) else None
    if kind not in FILES or not isinstance(state.get("model"), dict) or not isinstance(state["model"].get("state"), dict):
        raise InputError(f"{folder / SIDE} describes no model that this version of Carbide reads; run the plan again into this folder")
    inner = state["model"]["state"]
    blob = read_bytes(folder / FILES[kind])
    if kind == "torch":
        inner |= _torch_state(folder, blob)
    else:
        inner["blob"] = blob
    return unpack(state["model"])


def _kind(model: Model) -> str:
    name = type(model).__name__
    if isinstance(model, CallableModel) and not model.address:
        return "callable"
    if isinstance(model, EstimatorModel):
        held = booster_of(model.estimator)
        return "skops" if held is None else held[0]
    return {"TorchModel": "torch", "OnnxModel": "onnx"}.get(name, "carbide") if type(model).__module__.startswith("carbide.models.") else "carbide"


def _estimator_file(model: Any, kind: str, blob: bytes) -> bytes:
    """The native file; XGBoost's as JSON, which people can read and every version of it understands."""
    held = booster_of(model.estimator)
    if kind == "catboost":
        from carbide.models.catboosted import binary_of

        return binary_of(held[1].document)  # type: ignore[index]
    if kind == "xgboost":
        return bytes(held[1].save_raw("json"))  # type: ignore[index]
    return held[1].model_to_string().encode() if kind == "lightgbm" else blob  # type: ignore[index]


def _torch_files(state: dict[str, Any]) -> dict[str, bytes]:
    said = {"factory": state.pop("factory"), "options": state.pop("options")}
    return {"model.safetensors": state.pop("weights"), "factory.json": (json.dumps(said, indent=1, sort_keys=True) + "\n").encode()}


def _torch_state(folder: Path, blob: bytes) -> dict[str, Any]:
    said = read_json(folder / "factory.json", "factory")
    if not isinstance(said.get("factory"), str) or not isinstance(said.get("options"), dict):
        raise InputError(
            f'{folder / "factory.json"} names no factory and options; write it as {{"factory": "package.module:function", "options": {{}}}}'
        )
    return {"weights": blob, "factory": said["factory"], "options": said["options"]}


def _decoded(blob: bytes, path: Path, reader: Any) -> Any:
    try:
        return decode(blob, unpack=reader)
    except InputError:
        raise
    except Exception as error:  # broken archives fail in many ways
        raise InputError(
            f"{path} is no whole file of Carbide ({type(error).__name__}: {one_line(error)}); run the plan again into this folder"
        ) from error


def _readme(model: Model, kind: str | None) -> bytes:
    how = f"Load it with {_HOW[kind]}." if kind else "It is a live function, which no file can hold: keep the code that makes it."
    decides = f" It says class 1 when its probability is at least {model.threshold!r}." if model.classes == 2 else ""
    return (f"# Model\n\n{how}{decides}\n\nIn Python, carbide.models.load_saved(folder) gives the model as it was audited.\n").encode()


def _write(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name in {*FILES.values(), SIDE, "factory.json"} - set(files):
        (folder / name).unlink(missing_ok=True)  # an earlier model of another kind would be taken for this one
    for name, blob in files.items():
        write_whole(folder / name, blob)
    return [folder / name for name in files]
