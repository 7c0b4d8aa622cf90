"""Torch files: tensors from safetensors and state dicts, whole modules from exported programs; no code runs from any of them.

A state dict is read with torch's ``weights_only=True`` alone, and nothing falls back to less.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from carbide.models._files import check_zip, one_line
from carbide.models.torch_net import TorchModel, load_weights, make_module, put_tensors
from carbide.types import InputError, Space

NESTED = ("state_dict", "model_state_dict", "model", "weights")  # where training scripts put the weights inside a checkpoint


def torch_from_file(
    blob: bytes, kind: str, name: str, *, factory: Any, options: Mapping[str, Any], space: Space, classes: int, **settings: Any
) -> TorchModel:
    """A module made by ``factory(**options)`` with the weights of a ``safetensors`` or ``torch`` file.

    Raises:
        InputError: if the file is broken, holds more than tensors, or its tensors are not the module's.
    """
    module = make_module(factory, options)
    if kind == "safetensors":
        load_weights(module, blob, name=name)
    else:
        put_tensors(module, read_state_dict(blob, name), name=name)
    address = factory if isinstance(factory, str) else ""
    return TorchModel(module=module, space=space, classes=classes, factory=address, options=dict(options), **settings)


def read_state_dict(blob: bytes, name: str) -> dict[str, Tensor]:
    """The named tensors of a ``.pt`` or ``.pth`` file.

    Raises:
        InputError: if it is broken or holds anything but tensors and plain values.
    """
    check_zip(blob, name)
    try:
        found = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds on bytes that it did not write
        raise InputError(
            f"{name} is no state dict that can be read without running code ({one_line(error)}); save module.state_dict() as safetensors"
        ) from error
    for key in NESTED:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not found or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise InputError(f"{name} holds a {type(found).__name__} and not named tensors; save module.state_dict()")
    return {key.removeprefix("module."): tensor for key, tensor in found.items()}
