"""Convolutions, poolings and padding: what slides over the axes behind the channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from carbide.models._reading import NotRead
from carbide.models.onnx_net.reader import Operator, Reader, Step, Value
from carbide.models.onnx_net.shapes import axes_of

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}
AVERAGE_POOL = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
MEAN = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
TOP = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d, 3: nn.AdaptiveMaxPool3d}


class Window:
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
        return reader.call(F.pad, x, flat(self.begin, self.end), value=fill), (0,) * len(self.begin)


def flat(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Padding as torch takes it: the last axis first."""
    return [n for pair in zip(reversed(begin), reversed(end), strict=True) for n in pair]


def _conv(reader: Reader, step: Step) -> Value:
    weight, bias = step.constant(1), step.maybe(2)
    window = Window(step, step.value(0).sample, weight.shape[2:])
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
    window = Window(step, step.value(0).sample, step.get("kernel_shape"))
    x, padding = window.even(reader, step.value(0), half=True, fill=-torch.inf)
    layer = MAX_POOL[len(window.kernel)](window.kernel, window.strides, padding, window.dilations, ceil_mode=bool(step.get("ceil_mode", 0)))
    return reader.apply(layer, x)


def _average_pool(reader: Reader, step: Step) -> Value:
    window = Window(step, step.value(0).sample, step.get("kernel_shape"))
    counted = bool(step.get("count_include_pad", 0))
    x, padding = window.even(reader, step.value(0), half=True)
    if set(window.dilations) != {1} or (x is not step.value(0) and not counted):
        raise NotRead("its AveragePool has gaps or uneven padding that does not count")
    layer = AVERAGE_POOL[len(window.kernel)](window.kernel, window.strides, padding, bool(step.get("ceil_mode", 0)), counted)  # type: ignore[arg-type]
    return reader.apply(layer, x)


def _global(layers: dict[int, Any]) -> Callable[[Reader, Step], Value]:
    return lambda reader, step: reader.apply(layers[step.value(0).sample.ndim - 2](1), step.value(0))


def _reduce(function: Callable[..., Any], fold: bool = False) -> Callable[[Reader, Step], Value]:
    def read(reader: Reader, step: Step) -> Value:
        x = step.value(0)
        axes, keep = axes_of(step, 1, x.sample.ndim), bool(step.get("keepdims", 1))
        if axes is None or 0 in axes:
            if x.node is None and x.sample.ndim == 1:
                return Value(None, function(x.sample, 0, keep))
            raise NotRead(f"its {step.op} runs over the rows of a batch")
        if function is torch.mean and axes == list(range(2, x.sample.ndim)) and len(axes) in MEAN:
            pooled = reader.apply(MEAN[len(axes)](1), x)
            return pooled if keep else reader.reshape(pooled, pooled.sample.shape[:2])
        return reader.call(function, x, axes, keep)

    return read


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
    pads = flat(begin[first:], end[first:])
    if mode == "constant":
        return reader.call(F.pad, x, pads, value=float(value) if value is not None else float(step.get("value", 0.0)))
    if mode not in ("reflect", "edge"):
        raise NotRead(f"its Pad has the mode {mode}")
    return reader.call(F.pad, x, pads, mode="replicate" if mode == "edge" else mode)


OPERATORS: dict[str, Operator] = {
    "Conv": _conv, "MaxPool": _max_pool, "AveragePool": _average_pool, "GlobalAveragePool": _global(MEAN), "GlobalMaxPool": _global(TOP),
    "ReduceMean": _reduce(torch.mean), "ReduceSum": _reduce(torch.sum), "ReduceProd": _reduce(torch.prod), "Pad": _pad}  # fmt: skip
