"""Exported torch programs (``.pt2``) run by Carbide itself, so that no code of the file or for the file ever runs.

torch.export.load may unpickle and evaluate text from the file. A ``.pt2`` archive is, for an ordinary network, a list of
tensor operations in JSON and the weights as raw numbers; both are read here, and only operations of a fixed list are done.
"""

from __future__ import annotations

import hashlib
import io
import json
import operator
import re
import zipfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from carbide.models._files import check_zip, one_line
from carbide.types import InputError

# Operations that map tensors to tensors and touch nothing else, by name; each of their overloads is allowed.
_LISTED = """
    _adaptive_avg_pool2d _assert_scalar _assert_tensor_metadata _log_softmax _native_batch_norm_legit_no_training _softmax
    _to_copy _unsafe_view abs adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool2d add addmm alias amax amin arange
    argmax avg_pool1d avg_pool2d baddbmm batch_norm bmm cat celu clamp clamp_max clamp_min clone constant_pad_nd contiguous
    conv1d conv2d conv3d conv_transpose2d convolution cos cumsum detach detach_ div dropout dropout_ elu embedding eq erf exp
    expand expand_as feature_dropout flatten full full_like gather ge gelu glu group_norm gt hardsigmoid hardswish hardswish_
    hardtanh hardtanh_ index_select instance_norm layer_norm le leaky_relu leaky_relu_ lift_fresh_copy linear log log1p
    log_softmax logsumexp lt masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices maximum mean min minimum
    mish mish_ mm mul native_batch_norm native_group_norm native_layer_norm ne neg new_ones new_zeros ones ones_like pad
    permute pow prelu reciprocal relu relu_ relu6 repeat reshape rsqrt rsub scaled_dot_product_attention select selu sigmoid
    sigmoid_ sign silu silu_ sin slice softmax softplus split split_with_sizes sqrt squeeze stack std sub sum sym_size tanh
    tanh_ to transpose type_as unbind unflatten unsqueeze upsample_bilinear2d upsample_nearest2d var view view_as where zeros
    zeros_like"""
OPERATIONS = frozenset(_LISTED.split())
ARITHMETIC = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge")
}
DTYPES = {1: torch.uint8, 2: torch.int8, 3: torch.int16, 4: torch.int32, 5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64,
          12: torch.bool, 13: torch.bfloat16}  # fmt: skip
FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d, 4: torch.preserve_format}


class ExportedGraph(nn.Module):
    """The network of an exported program: named tensors, and steps that each apply one operation to earlier values."""

    def __init__(self, tensors: Mapping[str, Tensor], parameters: frozenset[str], bindings: Mapping[str, str], steps: list[dict[str, Any]],
                 entry: str, exit_: str) -> None:  # fmt: skip
        super().__init__()
        self.bindings = {argument: _own_name(key) for argument, key in bindings.items()}
        for key, tensor in tensors.items():
            if key in parameters and tensor.is_floating_point():
                self.register_parameter(_own_name(key), nn.Parameter(tensor, requires_grad=True))
            else:
                self.register_buffer(_own_name(key), tensor)
        self.steps, self.entry, self.exit = steps, entry, exit_
        self.operations = [_operation(step["target"]) for step in steps]
        self.last = _last_uses(steps, exit_)

    def forward(self, x: Tensor) -> Tensor:
        """The program's one output for a batch ``(n, *shape)``."""
        values: dict[str, Any] = {argument: getattr(self, name) for argument, name in self.bindings.items()}
        values[self.entry] = x
        for step, apply, done in zip(self.steps, self.operations, self.last, strict=True):
            args = [_value(item["arg"], values) for item in step["inputs"] if item.get("kind", 1) == 1]
            kwargs = {item["name"]: _value(item["arg"], values) for item in step["inputs"] if item.get("kind", 1) == 2}
            _store(step["outputs"], apply(*args, **kwargs), values)
            for name in done:
                values.pop(name, None)
        return values[self.exit]

    def extra_repr(self) -> str:
        """The steps as a hash: two graphs with the same weights are the same network only if their steps agree."""
        said = [{key: step[key] for key in ("target", "inputs", "outputs")} for step in self.steps]
        return hashlib.sha256(json.dumps([said, self.bindings, self.entry, self.exit], sort_keys=True).encode()).hexdigest()[:32]


def load_export(blob: bytes, name: str) -> ExportedGraph:
    """The network in the bytes of a ``.pt2`` archive.

    Raises:
        InputError: if the archive is broken, or holds pickles, operations outside the list or another program than rows in, one tensor out.
    """
    check_zip(blob, name)
    try:
        with zipfile.ZipFile(io.BytesIO(blob)) as archive:
            members = {_inner(entry.filename): archive.read(entry) for entry in archive.infolist()}
        return _graph(members, name)
    except InputError:
        raise
    except Exception as error:  # whatever is missing or of another kind in foreign JSON
        raise InputError(
            f"{name} is no whole exported program ({type(error).__name__}: {one_line(error)}); export it again with torch.export.save"
        ) from error


def _inner(path: str) -> str:
    """A member's path below the archive's own top folder."""
    return path.partition("/")[2] if "/" in path else path


def _graph(members: Mapping[str, bytes], name: str) -> ExportedGraph:
    models = [path for path in members if re.fullmatch(r"models/[\w.-]+\.json", path)]
    if len(models) != 1:
        raise InputError(f"{name} holds {len(models)} programs in the format of torch 2.8 or later; export one program with a current torch")
    model = models[0].removeprefix("models/").removesuffix(".json")
    program = json.loads(members[models[0]])["graph_module"]
    tensors = {**_tensors(members, f"data/weights/{model}_weights_config.json", "data/weights/", name),
               **_tensors(members, f"data/constants/{model}_constants_config.json", "data/constants/", name)}  # fmt: skip
    bindings, entries, parameters = {}, [], set()
    for spec in program["signature"]["input_specs"]:
        ((kind, said),) = spec.items()
        if kind == "user_input":
            entries.append(said["arg"]["as_tensor"]["name"])
            continue
        key = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}.get(kind)
        if key is None:
            raise InputError(f"{name} takes an input of the kind {kind}, which Carbide does not read; export a module that takes one tensor")
        bindings[said["arg"]["name"]] = said[key]
        parameters |= {said[key]} if kind == "parameter" else set()
    outputs = program["signature"]["output_specs"]
    if len(entries) != 1 or len(outputs) != 1 or "user_output" not in outputs[0]:
        raise InputError(
            f"{name} has {len(entries)} inputs and {len(outputs)} outputs or changes its buffers; call eval() and export a "
            f"module of one tensor in, one out"
        )
    steps = [{key: step[key] for key in ("target", "inputs", "outputs")} for step in program["graph"]["nodes"]]
    for step in steps:
        _check_step(step, name)
    used = {key: tensors[key] for key in bindings.values()}
    return ExportedGraph(used, frozenset(parameters), bindings, steps, entries[0], outputs[0]["user_output"]["arg"]["as_tensor"]["name"])


def _tensors(members: Mapping[str, bytes], config: str, folder: str, name: str) -> dict[str, Tensor]:
    if config not in members:
        return {}
    found = {}
    for key, said in json.loads(members[config])["config"].items():
        if said["use_pickle"] is not False:
            raise InputError(f"{name} keeps {key} as a pickle, which can run code; export a module with plain tensors only")
        found[key] = _tensor(members[folder + said["path_name"]], said["tensor_meta"], f"{name}, {key},")
    return found


def _tensor(raw: bytes, meta: Mapping[str, Any], name: str) -> Tensor:
    kind = DTYPES[meta["dtype"]]
    sizes, strides = ([_number(n) for n in meta[key]] for key in ("sizes", "strides"))
    offset = _number(meta["storage_offset"])
    flat = torch.frombuffer(bytearray(raw), dtype=kind) if raw else torch.empty(0, dtype=kind)
    tensor = torch.as_strided(flat, sizes, strides, offset).clone()  # torch refuses what lies outside the bytes
    if tensor.is_floating_point() and bool(torch.isnan(tensor).any()):
        raise InputError(f"{name} holds NaN; train the model again or give an earlier file")
    return tensor


def _number(said: Mapping[str, Any]) -> int:
    value = said["as_int"]
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no size")
    return value


def _own_name(key: str) -> str:
    return "t_" + re.sub(r"\W", "_", key) + "_" + hashlib.sha256(key.encode()).hexdigest()[:6]


def _check_step(step: Mapping[str, Any], name: str) -> None:
    if _operation(step["target"]) is None:
        raise InputError(
            f"{name} uses the operation {str(step['target'])[:80]!r}, which is not on Carbide's list; give weights and a factory instead"
        )
    for item in step["inputs"]:
        if item["name"] in ("train", "training") and item["arg"].get("as_bool") is True:
            raise InputError(f"{name} was exported in training mode ({step['target']}); call eval() before torch.export.export")


def _operation(target: Any) -> Any:
    """The function that a target names, None if it is not on the list."""
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", str(target))
    if match and match[1] in OPERATIONS:
        if match[1] == "sym_size":
            return Tensor.size
        packet = getattr(torch.ops.aten, match[1], None)
        return getattr(packet, match[2]) if packet is not None and match[2] in packet.overloads() else None
    match = re.fullmatch(r"_operator\.(\w+)", str(target))
    return ARITHMETIC.get(match[1]) if match else None


def _value(said: Mapping[str, Any], values: Mapping[str, Any]) -> Any:
    ((kind, value),) = said.items()
    if kind == "as_none":
        return None
    if kind in ("as_int", "as_float", "as_bool", "as_string", "as_ints", "as_floats", "as_bools"):
        return value
    if kind in ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor"):
        return _named(value, values)
    if kind in ("as_tensors", "as_sym_ints", "as_optional_tensors", "as_sym_floats"):
        return [_named(item, values) for item in value]
    if kind == "as_scalar_type":
        return DTYPES[value]
    if kind == "as_memory_format":
        return FORMATS[value]
    if kind == "as_layout" and value == 7:
        return torch.strided
    if kind == "as_device" and value["type"] == "cpu":
        return torch.device("cpu")
    raise ValueError(f"an argument of the kind {kind}")


def _named(said: Any, values: Mapping[str, Any]) -> Any:
    """A value that an earlier step made, or a number in its place."""
    if said is None or "as_none" in said:
        return None
    if "as_tensor" in said:
        said = said["as_tensor"]
    for key in ("as_int", "as_float", "as_bool"):
        if key in said:
            return said[key]
    return values[said["name"] if "name" in said else said["as_name"]]


def _store(outputs: list[Mapping[str, Any]], made: Any, values: dict[str, Any]) -> None:
    names = [_names(item) for item in outputs]
    parts = [made] if len(names) == 1 else list(made)
    for name, part in zip(names, parts, strict=True):
        if isinstance(name, list):
            values.update(zip(name, part, strict=True))
        elif name:
            values[name] = part


def _names(output: Mapping[str, Any]) -> Any:
    ((kind, said),) = output.items()
    if kind == "as_tensors":
        return [item["name"] for item in said]
    return "" if kind == "as_none" else said["name"] if "name" in said else said["as_name"]


def _last_uses(steps: list[dict[str, Any]], exit_: str) -> list[list[str]]:
    """The values that no later step needs, a step: they can go, so that a long network keeps only what it uses."""
    seen: set[str] = {exit_}
    found: list[list[str]] = []
    for step in reversed(steps):
        used = set(re.findall(r"\"(?:as_)?name\": \"([^\"]+)\"", json.dumps([item["arg"] for item in step["inputs"]])))
        found.append(sorted(used - seen))
        seen |= used
    return found[::-1]
