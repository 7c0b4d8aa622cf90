"""Perceptrons as ONNX files made on the spot, with the same weights as a torch net for independent solvers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn


def perceptron(seed: int, widths: Sequence[int], *, size: float = 1.4) -> nn.Sequential:
    """A ReLU net of random weights that keeps the size of what goes through it."""
    generator, layers = torch.Generator().manual_seed(seed), []
    for before, after in itertools.pairwise(widths):
        layer = nn.Linear(before, after)
        with torch.no_grad():
            layer.weight.copy_(size * torch.randn(after, before, generator=generator) / before**0.5)
            layer.bias.copy_(0.3 * torch.randn(after, generator=generator))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def graph_of(nodes: Sequence[Any], weights: dict[str, np.ndarray], *, row: Sequence[int], outputs: int, batch: Any = 1) -> bytes:
    """A graph from ``x`` ``(batch, *row)`` to ``out``."""
    made = helper.make_graph(list(nodes), "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *row])],
                             [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, outputs])],
                             [numpy_helper.from_array(value, name) for name, value in weights.items()])  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8).SerializeToString()


def file_of(net: nn.Sequential, *, batch: Any = 1, between: str = "Relu", last: str = "Identity") -> bytes:
    """The net as aircraft nets are written: a row of shape ``(1, 1, d)``, Flatten, MatMul and Add."""
    nodes, weights, name = [helper.make_node("Flatten", ["x"], ["h"], axis=1)], {}, "h"
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    for i, layer in enumerate(linear):
        weights |= {f"w{i}": layer.weight.detach().numpy().T.copy(), f"b{i}": layer.bias.detach().numpy()}
        nodes += [helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"]), helper.make_node("Add", [f"m{i}", f"b{i}"], [f"a{i}"])]
        name = f"r{i}" if i < len(linear) - 1 else "out"
        nodes.append(helper.make_node(between if i < len(linear) - 1 else last, [f"a{i}"], [name]))
    return graph_of(nodes, weights, row=(1, 1, linear[0].in_features), outputs=linear[-1].out_features, batch=batch)


def run(blob: bytes, x: np.ndarray) -> np.ndarray:
    """What another session of the runtime answers to rows ``(n, d)``, one by one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(blob, providers=["CPUExecutionProvider"])
    shape = [s if isinstance(s, int) else 1 for s in session.get_inputs()[0].shape]
    return np.concatenate([session.run(None, {"x": row.astype(np.float32).reshape(shape)})[0] for row in x]).astype(float)


def check(blob: bytes) -> bytes:
    """The graph, seen to be valid."""
    onnx.checker.check_model(onnx.load_model_from_string(blob))
    return blob
