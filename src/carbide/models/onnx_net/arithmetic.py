"""One number at a time: sums, products, powers, limits."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from carbide.models._reading import NotRead
from carbide.models.onnx_net.reader import Operator, Reader, Step, Value


def _binary(function: Callable[..., Any]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.call(function, step.value(0), step.value(1))


def _divide(reader: Reader, step: Step) -> Value:
    a, b = step.value(0), step.value(1)
    if a.sample.is_floating_point():
        return reader.call(operator.truediv, a, b)
    return reader.call(functools.partial(torch.div, rounding_mode="trunc"), a, b)


def _unary(function: Callable[..., Any]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.call(function, step.value(0))


def _power(reader: Reader, step: Step) -> Value:
    exponent = step.constant(1)
    return reader.call(torch.pow, step.value(0), float(exponent) if exponent.numel() == 1 else Value(None, exponent))


def _clip(reader: Reader, step: Step) -> Value:
    low, high = step.get("min"), step.get("max")
    low = float(given) if (given := step.maybe(1)) is not None else low
    high = float(given) if (given := step.maybe(2)) is not None else high
    if low is not None and high is not None and low < high:
        return reader.apply(nn.Hardtanh(low, high), step.value(0))
    return reader.call(torch.clamp, step.value(0), min=low, max=high)


def _extreme(function: Callable[..., Any], side: str) -> Callable[[Reader, Step], Value]:
    def read(reader: Reader, step: Step) -> Value:
        x, other = step.value(0), step.value(1)
        x, other = (other, x) if x.node is None else (x, other)
        if len(step.inputs) != 2:
            raise NotRead(f"its {step.op} takes {len(step.inputs)} values")
        if other.node is None and other.sample.numel() == 1:
            return reader.call(torch.clamp, x, **{side: float(other.sample)})
        return reader.call(function, x, other)

    return read


def _hard_sigmoid(reader: Reader, x: Value, alpha: float, beta: float) -> Value:
    return reader.call(torch.clamp, reader.call(operator.add, reader.call(operator.mul, x, alpha), beta), min=0.0, max=1.0)


OPERATORS: dict[str, Operator] = {
    "Sub": _binary(operator.sub), "Mul": _binary(operator.mul), "Div": _divide, "Equal": _binary(operator.eq), "Pow": _power,
    "Neg": lambda reader, step: reader.call(operator.mul, step.value(0), -1), "Abs": _unary(torch.abs), "Sqrt": _unary(torch.sqrt),
    "Exp": _unary(torch.exp), "Log": _unary(torch.log), "Erf": _unary(torch.erf), "Reciprocal": _unary(torch.reciprocal),
    "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil), "Min": _extreme(torch.minimum, "max"), "Max": _extreme(torch.maximum, "min"), "Clip": _clip,
    "HardSigmoid": lambda reader, step: _hard_sigmoid(reader, step.value(0), step.get("alpha", 0.2), step.get("beta", 0.5)),
    "HardSwish": lambda reader, step: reader.call(operator.mul, step.value(0), _hard_sigmoid(reader, step.value(0), 1 / 6, 0.5))}  # fmt: skip
