"""Linear layers, normalisations, activations, and what scikit-learn's exporter writes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.models._reading import NotRead
from carbide.models.onnx_net.reader import Operator, Reader, Step, Value

NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


def linear(reader: Reader, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
    """A linear layer over the last axis of a value."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, dtype=weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return reader.apply(layer, x)


def _gemm(reader: Reader, step: Step) -> Value:
    weight, added = step.constant(1), step.maybe(2)
    if step.get("transA", 0):
        raise NotRead("its Gemm turns the batch around")
    weight = step.get("alpha", 1.0) * (weight if step.get("transB", 0) else weight.T)
    bias = None if added is None else (step.get("beta", 1.0) * added).broadcast_to(1, len(weight)).reshape(-1)
    return linear(reader, step.value(0), weight, bias)


def _matmul(reader: Reader, step: Step) -> Value:
    x, other = step.value(0), step.value(1)
    if x.node is not None and other.node is None and other.sample.ndim == 2:
        return linear(reader, x, other.sample.T, None)
    return reader.call(torch.matmul, x, other)


def _add(reader: Reader, step: Step) -> Value:
    """An addition; a constant after a linear layer without bias becomes its bias."""
    for x, other, alone in ((step.value(0), step.value(1), step.alone[0]), (step.value(1), step.value(0), step.alone[1])):
        layer = reader.module(x)
        fits = isinstance(layer, nn.Linear) and other.node is None and other.sample.numel() in (1, layer.out_features)
        if fits and alone and layer.bias is None and other.sample.squeeze().ndim <= 1 and other.sample.ndim <= x.sample.ndim:
            if other.sample.numel() > 1 and other.sample.shape[-1] != layer.out_features:
                continue
            layer.bias = nn.Parameter(other.sample.reshape(-1).expand(layer.out_features).clone())
            return Value(x.node, x.sample + other.sample)
    return reader.call(operator.add, step.value(0), step.value(1))


def _layer(make: Callable[[Step], nn.Module]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.apply(make(step), step.value(0))


def _selu(step: Step) -> nn.Module:
    if abs(step.get("alpha", 1.6732632) - 1.6732632) > 1e-6 or abs(step.get("gamma", 1.0507010) - 1.0507010) > 1e-6:
        raise NotRead("its Selu has other constants than the usual ones")
    return nn.SELU()


def _same(reader: Reader, step: Step) -> Value:
    if step.op == "Dropout" and (flag := step.maybe(2)) is not None and bool(flag):
        raise NotRead("its Dropout is in training mode")
    return step.value(0)


def _prelu(reader: Reader, step: Step) -> Value:
    x, slope = step.value(0), step.constant(1)
    below = reader.call(operator.mul, reader.call(torch.clamp, x, max=0.0), Value(None, slope))
    return reader.call(operator.add, reader.apply(nn.ReLU(), x), below)


def _batch_norm(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    if step.get("training_mode", 0) or step.get("spatial", 1) != 1 or x.sample.ndim not in NORM:
        raise NotRead("its BatchNormalization is in training mode or of another shape")
    weight, bias, mean, variance = (step.constant(i) for i in (1, 2, 3, 4))
    layer = NORM[x.sample.ndim](len(weight), eps=step.get("epsilon", 1e-5), dtype=weight.dtype)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    with torch.no_grad():
        for held, value in ((layer.weight, weight), (layer.bias, bias), (layer.running_mean, mean), (layer.running_var, variance)):
            held.copy_(value)
    return reader.apply(layer, x)


def _layer_norm(reader: Reader, step: Step) -> Value:
    x, axis = step.value(0), step.get("axis", -1)
    shape = list(x.sample.shape[axis % x.sample.ndim :])
    if axis % x.sample.ndim == 0:
        raise NotRead("its LayerNormalization mixes rows")
    bias = step.maybe(2)
    return reader.call(F.layer_norm, x, shape, Value(None, step.constant(1)), None if bias is None else Value(None, bias), step.get("epsilon", 1e-5))


def _softmax(function: Callable[..., Any]) -> Callable[[Reader, Step], Value]:
    def read(reader: Reader, step: Step) -> Value:
        x = step.value(0)
        axis = step.get("axis", -1 if reader.opset >= 13 else 1) % x.sample.ndim
        if axis == 0 or (reader.opset < 13 and axis != x.sample.ndim - 1):
            raise NotRead(f"its {step.op} runs over rows or several axes")
        return reader.call(function, x, axis)

    return read


def _scaler(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    offset, scale = (torch.tensor(step.get(name, [default]), dtype=x.sample.dtype) for name, default in (("offset", 0.0), ("scale", 1.0)))
    return reader.call(operator.mul, reader.call(operator.sub, x, Value(None, offset)), Value(None, scale))


def _classifier(reader: Reader, step: Step) -> list[Value]:
    """Logits in the place of the scores of a LinearClassifier."""
    x, bias = step.value(0), torch.tensor(step.get("intercepts", []), dtype=torch.float32)
    weight = torch.tensor(step.get("coefficients", []), dtype=torch.float32)
    if not len(bias) or len(weight) % len(bias):
        raise NotRead("its LinearClassifier has no intercept for each class")
    weight, bias, kind = weight.reshape(len(bias), -1).to(x.sample.dtype), bias.to(x.sample.dtype), step.get("post_transform", b"NONE").decode()
    if kind not in ("NONE", "SOFTMAX", "LOGISTIC") or reader.end != step.outputs[1]:
        raise NotRead(f"its LinearClassifier ends in {kind} or is not the last step")
    if kind == "LOGISTIC" and len(bias) == 2 and torch.equal(weight[0], -weight[1]) and bool(bias[0] == -bias[1]):
        zero = torch.zeros_like(weight[:1])
        logits = linear(reader, x, torch.cat([zero, weight[1:]]), torch.cat([bias[:1] * 0, bias[1:]]))
    elif kind == "LOGISTIC" and len(bias) > 1:
        smooth = reader.apply(nn.Softplus(threshold=40.0), linear(reader, x, -weight, -bias))
        logits = linear(reader, smooth, -torch.eye(len(bias), dtype=weight.dtype), None)
    else:
        logits = linear(reader, x, weight, bias)
    return [logits, logits]


OPERATORS: dict[str, Operator] = {
    "Gemm": _gemm, "MatMul": _matmul, "Add": _add, "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm, "Identity": _same,
    "Dropout": _same, "Relu": _layer(lambda step: nn.ReLU()), "LeakyRelu": _layer(lambda step: nn.LeakyReLU(step.get("alpha", 0.01))),
    "Sigmoid": _layer(lambda step: nn.Sigmoid()), "Tanh": _layer(lambda step: nn.Tanh()), "Elu": _layer(lambda step: nn.ELU(step.get("alpha", 1.0))),
    "Selu": _layer(_selu), "Softplus": _layer(lambda step: nn.Softplus()),
    "Gelu": _layer(lambda step: nn.GELU(step.get("approximate", b"none").decode())), "PRelu": _prelu, "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax), "Scaler": _scaler, "LinearClassifier": _classifier}  # fmt: skip
