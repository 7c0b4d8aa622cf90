"""What each ONNX operator is in torch; one function an operator, ``(reader, step) -> value``.

Weights, shapes and axes must be constants. Operators without interval bounds are read too: gradients need none.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.models._onnx_net import Reader, Step, Value
from carbide.models._reading import NotRead

LARGEST = 1 << 24  # numbers in a constant that a graph may make up
CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
MEAN = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
TOP = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}
NORM = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
TYPES = {1: torch.float32, 2: torch.uint8, 3: torch.int8, 5: torch.int16, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16,
         11: torch.float64}  # fmt: skip


def _linear(reader: Reader, x: Value, weight: Tensor, bias: Tensor | None) -> Value:
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
    return _linear(reader, step.value(0), weight, bias)


def _matmul(reader: Reader, step: Step) -> Value:
    x, other = step.value(0), step.value(1)
    if x.node is not None and other.node is None and other.sample.ndim == 2:
        return _linear(reader, x, other.sample.T, None)
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


def _binary(function: Callable[..., Any]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.call(function, step.value(0), step.value(1))


def _divide(reader: Reader, step: Step) -> Value:
    a, b = step.value(0), step.value(1)
    if a.sample.is_floating_point():
        return reader.call(operator.truediv, a, b)
    return reader.call(functools.partial(torch.div, rounding_mode="trunc"), a, b)


def _unary(function: Callable[..., Any]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.call(function, step.value(0))


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


def _cast(reader: Reader, step: Step) -> Value:
    x, to = step.value(0), TYPES.get(step.get("to", 0))
    if to is None or (x.node is not None and to != x.sample.dtype):
        raise NotRead("its graph changes the precision of values on the way")
    return x if x.node is not None else Value(None, x.sample.to(to))


def _constant(reader: Reader, step: Step) -> Value:
    import onnx

    for name, value in step.attributes.items():
        if name == "value":
            return Value(None, torch.from_numpy(np.array(onnx.numpy_helper.to_array(value))))
        if name in ("value_float", "value_floats"):
            return Value(None, torch.tensor(value, dtype=torch.float32))
        if name in ("value_int", "value_ints"):
            return Value(None, torch.tensor(value, dtype=torch.int64))
    raise NotRead("its graph holds a constant that is no number")


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


class _Window:
    """Kernel, strides, dilations and padding of a convolution or pooling over ``dims`` axes."""

    def __init__(self, step: Step, x: Tensor, kernel: Sequence[int]) -> None:
        dims = len(kernel)
        if x.ndim != dims + 2 or dims not in CONV:
            raise NotRead(f"its {step.op} works on {x.ndim - 2} axes")
        self.kernel, self.strides, self.dilations = (tuple(v) for v in (kernel, step.get("strides", [1] * dims), step.get("dilations", [1] * dims)))
        auto = step.get("auto_pad", b"NOTSET").decode()
        pads = list(step.get("pads", [0] * 2 * dims))
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = [max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
                     for n, k, s, d in zip(x.shape[2:], self.kernel, self.strides, self.dilations, strict=True)]  # fmt: skip
            less, more = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = less + more if auto == "SAME_UPPER" else more + less
        elif auto == "VALID":
            pads = [0] * 2 * dims
        self.begin, self.end = tuple(pads[:dims]), tuple(pads[dims:])

    def even(self, reader: Reader, x: Value, *, half: bool, fill: float = 0.0) -> tuple[Value, tuple[int, ...]]:
        """The value and the padding that a torch layer adds on both sides; what it cannot add is added before it."""
        if self.begin == self.end and not (half and any(2 * p > k for p, k in zip(self.begin, self.kernel, strict=True))):
            return x, self.begin
        return reader.call(F.pad, x, _flat(self.begin, self.end), value=fill), (0,) * len(self.begin)


def _flat(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Padding as torch takes it: the last axis first."""
    return [n for pair in zip(reversed(begin), reversed(end), strict=True) for n in pair]


def _conv(reader: Reader, step: Step) -> Value:
    weight, bias = step.constant(1), step.maybe(2)
    window = _Window(step, step.value(0).sample, weight.shape[2:])
    groups = step.get("group", 1)
    x, padding = window.even(reader, step.value(0), half=False)
    layer = CONV[weight.ndim - 2](weight.shape[1] * groups, weight.shape[0], window.kernel, window.strides, padding, window.dilations, groups,  # type: ignore[arg-type]
                                  bias is not None, dtype=weight.dtype)  # fmt: skip
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            assert layer.bias is not None
            layer.bias.copy_(bias)
    return reader.apply(layer, x)


def _max_pool(reader: Reader, step: Step) -> Value:
    window = _Window(step, step.value(0).sample, step.get("kernel_shape"))
    x, padding = window.even(reader, step.value(0), half=True, fill=-torch.inf)
    layer = MAX_POOL[len(window.kernel)](window.kernel, window.strides, padding, window.dilations, ceil_mode=bool(step.get("ceil_mode", 0)))
    return reader.apply(layer, x)


def _average_pool(reader: Reader, step: Step) -> Value:
    window = _Window(step, step.value(0).sample, step.get("kernel_shape"))
    counted = bool(step.get("count_include_pad", 0))
    x, padding = window.even(reader, step.value(0), half=True)
    if set(window.dilations) != {1} or (x is not step.value(0) and not counted):
        raise NotRead("its AveragePool has gaps or uneven padding that does not count")
    layer = AVERAGE_POOL[len(window.kernel)](window.kernel, window.strides, padding, bool(step.get("ceil_mode", 0)), counted)  # type: ignore[arg-type]
    return reader.apply(layer, x)


def _global(layers: dict[int, Any]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.apply(layers[step.value(0).sample.ndim - 2](1), step.value(0))


def _axes(step: Step, place: int, dims: int) -> list[int] | None:
    """The axes of a step, from its attribute or its input; None where it names none."""
    given = step.maybe(place)
    found = given.reshape(-1).tolist() if given is not None else step.get("axes")
    return None if found is None else sorted(int(a) % dims for a in found)


def _reduce(function: Callable[..., Any], fold: bool = False) -> Callable[[Reader, Step], Value]:
    def read(reader: Reader, step: Step) -> Value:
        x = step.value(0)
        axes, keep = _axes(step, 1, x.sample.ndim), bool(step.get("keepdims", 1))
        if axes is None or 0 in axes:
            if x.node is None and x.sample.ndim == 1:
                return Value(None, function(x.sample, 0, keep))
            raise NotRead(f"its {step.op} runs over the rows of a batch")
        if function is torch.mean and axes == list(range(2, x.sample.ndim)) and len(axes) in MEAN:
            pooled = reader.apply(MEAN[len(axes)](1), x)
            return pooled if keep else reader.reshape(pooled, pooled.sample.shape[:2])
        return reader.call(function, x, axes, keep)

    return read


def _flatten(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    axis = step.get("axis", 1)
    axis = axis + x.sample.ndim if axis < 0 else axis
    return reader.reshape(x, (x.sample.shape[:axis].numel(), x.sample.shape[axis:].numel()))


def _reshape(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    target = step.get("shape") if step.maybe(1) is None else step.constant(1).tolist()
    shape = [x.sample.shape[i] if n == 0 and not step.get("allowzero", 0) else int(n) for i, n in enumerate(target)]
    return reader.reshape(x, x.sample.reshape(shape).shape)


def _squeeze(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    axes = _axes(step, 1, x.sample.ndim)
    if axes is None:
        axes = [i for i, n in enumerate(x.sample.shape) if n == 1]
    return reader.reshape(x, [n for i, n in enumerate(x.sample.shape) if i not in axes])


def _unsqueeze(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    given = step.maybe(1)
    count = len(given.reshape(-1) if given is not None else step.get("axes"))
    axes = _axes(step, 1, x.sample.ndim + count) or []
    shape = list(x.sample.shape)
    for axis in axes:
        shape.insert(axis, 1)
    return reader.reshape(x, shape)


def _transpose(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    order = list(step.get("perm") or range(x.sample.ndim)[::-1])
    if x.node is not None and order[0] != 0:
        raise NotRead("its graph turns the batch around")
    return reader.call(torch.permute, x, order)


def _concat(reader: Reader, step: Step) -> Value:
    parts = [part for part in step.inputs if part is not None]
    axis, dims = step.get("axis", 1), parts[0].sample.ndim
    live = [part.node is not None for part in parts]
    if any(live) and (not all(live) or axis % dims == 0):
        raise NotRead("its Concat joins rows, or rows with constants")
    return reader.call(torch.cat, list(parts), axis)


def _pad(reader: Reader, step: Step) -> Value:
    x, given, value = step.value(0), step.maybe(1), step.maybe(2)
    pads = given.tolist() if given is not None else list(step.get("pads") or step.get("paddings"))
    dims = x.sample.ndim
    chosen = step.maybe(3)
    axes = range(dims) if chosen is None else [int(a) % dims for a in chosen.tolist()]
    begin, end = [0] * dims, [0] * dims
    for place, axis in enumerate(axes):
        begin[axis], end[axis] = int(pads[place]), int(pads[place + len(axes)])
    mode = step.get("mode", b"constant").decode()
    if x.node is not None and (begin[0] or end[0]):
        raise NotRead("its Pad adds rows")
    first = next((i for i in range(dims) if begin[i] or end[i]), dims)
    if first == dims:
        return x
    flat = _flat(begin[first:], end[first:])
    if mode == "constant":
        return reader.call(F.pad, x, flat, value=float(value) if value is not None else float(step.get("value", 0.0)))
    if mode not in ("reflect", "edge"):
        raise NotRead(f"its Pad has the mode {mode}")
    return reader.call(F.pad, x, flat, mode="replicate" if mode == "edge" else mode)


def _gather(reader: Reader, step: Step) -> Value:
    x, index = step.value(0), step.constant(1)
    axis = step.get("axis", 0) % x.sample.ndim
    if x.node is None:
        return Value(None, torch.from_numpy(np.array(np.take(x.sample.numpy(), index.numpy(), axis))))
    if axis == 0 or index.ndim > 1:
        raise NotRead("its Gather chooses rows, or in several axes")
    return reader.call(operator.getitem, x, (*[slice(None)] * axis, int(index) if index.ndim == 0 else [int(i) for i in index]))


def _slice(reader: Reader, step: Step) -> Value:
    x = step.value(0)
    starts, ends = (step.get(name) if step.maybe(i) is None else step.constant(i).tolist() for i, name in ((1, "starts"), (2, "ends")))
    axes = step.get("axes") if step.maybe(3) is None else step.constant(3).tolist()
    steps = [1] * len(starts) if step.maybe(4) is None else step.constant(4).tolist()
    chosen: list[Any] = [slice(None)] * x.sample.ndim
    for start, end, axis, by in zip(starts, ends, range(len(starts)) if axes is None else axes, steps, strict=True):
        size = x.sample.shape[axis]
        if x.node is not None and axis % x.sample.ndim == 0:
            raise NotRead("its Slice chooses rows")
        part = range(size)[slice(start, None if by < 0 and end < -size else end, by)]
        chosen[axis % x.sample.ndim] = slice(part.start, part.stop, by) if by > 0 else list(part)
    return reader.call(operator.getitem, x, tuple(chosen))


def _split(reader: Reader, step: Step) -> list[Value]:
    x = step.value(0)
    axis = step.get("axis", 0) % x.sample.ndim
    size, given = x.sample.shape[axis], step.maybe(1)
    sizes = given.tolist() if given is not None else step.get("split")
    if sizes is None:
        each = -(-size // len(step.outputs))
        sizes = [min(each, size - start) for start in range(0, size, each)]
    if axis == 0 and x.node is not None:
        raise NotRead("its Split parts the rows")
    places = np.cumsum([0, *sizes]).tolist()
    return [reader.call(operator.getitem, x, (*[slice(None)] * axis, slice(a, b))) for a, b in itertools.pairwise(places)]


def _shape(reader: Reader, step: Step) -> Value:
    return Value(None, torch.tensor(list(step.value(0).sample.shape)[step.get("start", 0) : step.get("end")], dtype=torch.int64))


def _filled(reader: Reader, step: Step) -> Value:
    import onnx

    shape = _small(step.constant(0).tolist())
    value = step.get("value")
    fill = torch.zeros(1) if value is None else torch.from_numpy(np.array(onnx.numpy_helper.to_array(value))).reshape(1)
    return Value(None, fill.expand(shape).clone())


def _expand(reader: Reader, step: Step) -> Value:
    x, shape = step.value(0), step.constant(1).tolist()
    wide = _small(torch.broadcast_shapes(x.sample.shape, torch.Size(shape)))
    if x.node is not None and wide != list(x.sample.shape):
        raise NotRead("its Expand repeats what depends on the row")
    return x if x.node is not None else Value(None, x.sample.expand(wide))


def _small(shape: Sequence[int]) -> list[int]:
    if torch.Size(shape).numel() > LARGEST:
        raise NotRead("its graph makes up a constant that is too large")
    return list(shape)


def _where(reader: Reader, step: Step) -> Value:
    return reader.call(torch.where, *(Value(None, step.constant(i)) for i in range(3)))


def _softmax(function: Callable[..., Any]) -> Callable[[Reader, Step], Value]:
    def read(reader: Reader, step: Step) -> Value:
        x = step.value(0)
        axis = step.get("axis", -1 if reader.opset >= 13 else 1) % x.sample.ndim
        if axis == 0 or (reader.opset < 13 and axis != x.sample.ndim - 1):
            raise NotRead(f"its {step.op} runs over rows or several axes")
        return reader.call(function, x, axis)

    return read


def _power(reader: Reader, step: Step) -> Value:
    exponent = step.constant(1)
    return reader.call(torch.pow, step.value(0), float(exponent) if exponent.numel() == 1 else Value(None, exponent))


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
        logits = _linear(reader, x, torch.cat([zero, weight[1:]]), torch.cat([bias[:1] * 0, bias[1:]]))
    elif kind == "LOGISTIC" and len(bias) > 1:
        smooth = reader.apply(nn.Softplus(threshold=40.0), _linear(reader, x, -weight, -bias))
        logits = _linear(reader, smooth, -torch.eye(len(bias), dtype=weight.dtype), None)
    else:
        logits = _linear(reader, x, weight, bias)
    return [logits, logits]


def _columns(reader: Reader, step: Step) -> Value:
    return reader.call(operator.getitem, step.value(0), (slice(None), [int(i) for i in step.constant(1).reshape(-1)]))


OPERATORS: dict[str, Callable[[Reader, Step], Any]] = {
    "Gemm": _gemm, "MatMul": _matmul, "Conv": _conv, "BatchNormalization": _batch_norm, "LayerNormalization": _layer_norm,
    "Add": _add, "Sub": _binary(operator.sub), "Mul": _binary(operator.mul), "Div": _divide, "Pow": _power,
    "Neg": lambda reader, step: reader.call(operator.mul, step.value(0), -1), "Abs": _unary(torch.abs), "Sqrt": _unary(torch.sqrt),
    "Exp": _unary(torch.exp), "Log": _unary(torch.log), "Erf": _unary(torch.erf), "Reciprocal": _unary(torch.reciprocal),
    "Floor": _unary(torch.floor), "Ceil": _unary(torch.ceil), "Min": _extreme(torch.minimum, "max"), "Max": _extreme(torch.maximum, "min"),
    "Relu": _layer(lambda step: nn.ReLU()), "LeakyRelu": _layer(lambda step: nn.LeakyReLU(step.get("alpha", 0.01))),
    "Sigmoid": _layer(lambda step: nn.Sigmoid()), "Tanh": _layer(lambda step: nn.Tanh()), "Elu": _layer(lambda step: nn.ELU(step.get("alpha", 1.0))),
    "Selu": _layer(_selu), "Softplus": _layer(lambda step: nn.Softplus()),
    "Gelu": _layer(lambda step: nn.GELU(step.get("approximate", b"none").decode())), "PRelu": _prelu, "Clip": _clip,
    "HardSigmoid": lambda reader, step: _hard_sigmoid(reader, step.value(0), step.get("alpha", 0.2), step.get("beta", 0.5)),
    "HardSwish": lambda reader, step: reader.call(operator.mul, step.value(0), _hard_sigmoid(reader, step.value(0), 1 / 6, 0.5)),
    "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _global(MEAN), "GlobalMaxPool": _global(TOP),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum), "ReduceProd": _reduce(torch.prod), "Flatten": _flatten,
    "Reshape": _reshape, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze, "Transpose": _transpose, "Concat": _concat, "Pad": _pad, "Gather": _gather,
    "Slice": _slice, "Split": _split, "Shape": _shape, "ConstantOfShape": _filled, "Expand": _expand, "Equal": _binary(operator.eq), "Where": _where,
    "Constant": _constant, "Identity": _same, "Dropout": _same, "Cast": _cast, "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax), "Scaler": _scaler, "LinearClassifier": _classifier, "ArrayFeatureExtractor": _columns}  # fmt: skip
